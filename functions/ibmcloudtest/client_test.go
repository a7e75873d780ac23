package ibmcloudtest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

const (
	apiKeyGrant = "urn:ibm:params:oauth:grant-type:apikey"
	formType    = "application/x-www-form-urlencoded"
)

// An answer is a response with its body decoded, if it was JSON.
type answer struct {
	status int
	header http.Header
	raw    string
	body   any
}

// secretForm matches API keys and tokens.
var secretForm = regexp.MustCompile(`eyJ[\w.-]+|[\w-]{44}`)

// String returns the body without keys and tokens, for the messages of tests.
func (a answer) String() string { return secretForm.ReplaceAllString(a.raw, "[secret]") }

// at follows keys and indexes into the body; it returns nil if one does not exist.
func (a answer) at(path ...any) any {
	here := a.body
	for _, step := range path {
		object, _ := here.(map[string]any)
		list, _ := here.([]any)
		switch key := step.(type) {
		case string:
			here = object[key]
		case int:
			if here = nil; key < len(list) {
				here = list[key]
			}
		}
	}
	return here
}

// A client sends requests to one cloud.
type client struct {
	t      *testing.T
	cloud  *ibmcloudtest.Cloud
	http   *http.Client
	origin string
}

// inProcess returns a client that uses the cloud's Transport.
func inProcess(t *testing.T, cloud *ibmcloudtest.Cloud) client {
	return client{t, cloud, &http.Client{Transport: cloud.Transport()}, "https://cloud.test"}
}

// newClient returns a client, in process, of a new cloud whose clock stands still.
func newClient(t *testing.T, o ibmcloudtest.Options) client {
	if o.Now == nil {
		o.Now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	}
	return inProcess(t, ibmcloudtest.New(o))
}

// send sends a request and decodes its answer. The status is 0 if there is no answer.
func (c client) send(r *http.Request) answer {
	response, err := c.http.Do(r)
	if err != nil {
		return answer{}
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatalf("reading the answer: %v", err)
	}
	a := answer{status: response.StatusCode, header: response.Header, raw: string(raw)}
	_ = json.Unmarshal(raw, &a.body)
	return a
}

// request builds a request; header is a list of names and values. The default content type of a body is
// JSON, and merge-patch for PATCH.
func (c client) request(method, path, body string, header ...string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.origin+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	switch {
	case body == "":
		r.Body, r.ContentLength = http.NoBody, 0
	case method == http.MethodPatch:
		r.Header.Set("Content-Type", "application/merge-patch+json")
	default:
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// do sends a request, with a token unless that is empty.
func (c client) do(token, method, path, body string, header ...string) answer {
	c.t.Helper()
	if token != "" {
		header = append(header, "Authorization", "Bearer "+token)
	}
	return c.send(c.request(method, path, body, header...))
}

// want is do, but fails the test if the status is another.
func (c client) want(status int, token, method, path, body string) answer {
	c.t.Helper()
	got := c.do(token, method, path, body)
	if got.status != status {
		c.t.Fatalf("%s %s: got %d %s, want %d", method, path, got.status, got, status)
	}
	return got
}

// exchange sends an API key to IAM.
func (c client) exchange(key string, header ...string) answer {
	c.t.Helper()
	form := url.Values{"grant_type": {apiKeyGrant}, "apikey": {key}, "response_type": {"cloud_iam"}}
	return c.send(c.request("POST", "/identity/token", form.Encode(), append([]string{"Content-Type", formType}, header...)...))
}

// token exchanges an API key for its token.
func (c client) token(key string) string {
	c.t.Helper()
	got := c.exchange(key)
	token, _ := got.at("access_token").(string)
	if token == "" {
		c.t.Fatalf("exchanging a key: got %d %s, want a token", got.status, got)
	}
	return token
}

// lastOp is the operation of the last request.
func (c client) lastOp() string {
	requests := c.cloud.Requests()
	return requests[len(requests)-1].Op
}

// A story is a list of requests to one cloud with their expected answers. Each is a line of one of these forms;
// a "\" at its end continues it in the next line:
//
//	WHO METHOD PATH [Name:value …] [BODY] => STATUS [JSON]   WHO is an identity, nobody, or a token
//	exchange KEY => STATUS [JSON]
//	advance DURATION
//
// The answer must have the values of the JSON, and may have more. In the JSON null means absent and "*" any
// value. The first "$name" in an answer stores the value; a later one must be the same, "!$name" another one.
// In a request "$name" is replaced by the value, and <x*9> by nine times x.
type story struct {
	client
	values map[string]string
}

// newStory returns a story with the values TOKEN and KEY, the ids of the two secrets; ID and IAM_ID of the
// workload; ACCOUNT; PROFILE; READER_KEY and the keys of the others; and FORM, the Content-Type of a request
// to IAM's token endpoint.
func newStory(c client) story {
	cloud, rotation := c.cloud, c.cloud.Rotations()[0]
	return story{c, map[string]string{
		"TOKEN": rotation.TokenSecret, "KEY": rotation.APIKeySecret, "IAM_ID": rotation.IAMID, "ID": strings.TrimPrefix(rotation.IAMID, "iam-"),
		"ACCOUNT": cloud.AccountID(), "READER_KEY": cloud.ReaderAPIKey(), "BOOTSTRAP_KEY": cloud.BootstrapAPIKey(), "WORKLOAD_KEY": rotation.APIKey,
		"ADMIN_KEY": cloud.AdminAPIKey(), "PROFILE": cloud.ProfileID(), "FORM": "Content-Type:" + formType,
	}}
}

var (
	continued = regexp.MustCompile(`\\\n\t*`)
	variable  = regexp.MustCompile(`\$\w+`)
	repeated  = regexp.MustCompile(`<([^*<>]+)\*(\d+)>`)
	header    = regexp.MustCompile(`^[A-Z][A-Za-z-]*:`)
)

func (s story) expand(text string) string {
	text = variable.ReplaceAllStringFunc(text, func(name string) string {
		value, known := s.values[name[1:]]
		if !known {
			s.t.Fatalf("the story has no %s yet", name)
		}
		return value
	})
	return repeated.ReplaceAllStringFunc(text, func(match string) string {
		parts := repeated.FindStringSubmatch(match)
		n, _ := strconv.Atoi(parts[2])
		return strings.Repeat(parts[1], n)
	})
}

// play sends the requests and checks the answers.
func (s story) play(text string) {
	s.t.Helper()
	for line := range strings.SplitSeq(continued.ReplaceAllString(text, ""), "\n") {
		line = strings.TrimSpace(line)
		asked, wanted, _ := strings.Cut(line, " => ")
		who, rest, _ := strings.Cut(asked, " ")
		var got answer
		switch {
		case line == "" || who == "#":
			continue
		case who == "advance":
			s.want(200, "", "POST", "/_sandbox/clock", `{"advance":"`+rest+`"}`)
			continue
		case who == "exchange":
			got = s.exchange(s.expand(rest))
		default:
			got = s.ask(who, rest)
		}
		status, body, _ := strings.Cut(wanted, " ")
		var want any
		if err := json.Unmarshal([]byte(body), &want); err != nil && body != "" {
			s.t.Fatalf("%s: %v", line, err)
		}
		if strconv.Itoa(got.status) != status || want != nil && !s.fits(want, got.body) {
			s.t.Fatalf("%.300s\ngot %d %.1000s", line, got.status, got)
		}
	}
}

// ask sends "METHOD PATH [Name:value …] [BODY]".
func (s story) ask(who, rest string) answer {
	s.t.Helper()
	method, rest, _ := strings.Cut(s.expand(rest), " ")
	path, body, _ := strings.Cut(rest, " ")
	var headers []string
	for header.MatchString(body) {
		var pair string
		pair, body, _ = strings.Cut(body, " ")
		name, value, _ := strings.Cut(pair, ":")
		headers = append(headers, name, value)
	}
	token, isToken := strings.CutPrefix(who, "$")
	switch {
	case isToken:
		token = s.values[token]
	case who == "nobody":
		token = ""
	default:
		token = s.token(s.values[strings.ToUpper(who)+"_KEY"])
	}
	return s.do(token, method, path, body, headers...)
}

// fits reports whether an answer has the wanted values. It stores the values of names that are new.
func (s story) fits(want, got any) bool {
	switch want := want.(type) {
	case map[string]any:
		object, ok := got.(map[string]any)
		for name, value := range want {
			ok = ok && s.fits(value, object[name])
		}
		return ok
	case []any:
		list, _ := got.([]any)
		ok := len(list) == len(want)
		for i := 0; ok && i < len(list); i++ {
			ok = s.fits(want[i], list[i])
		}
		return ok
	case string:
		name, isOther := strings.CutPrefix(want, "!")
		name, isName := strings.CutPrefix(name, "$")
		text, _ := got.(string)
		known := s.values[name]
		switch {
		case want == "*":
			return got != nil
		case isName && known == "":
			s.values[name] = text
			return text != ""
		case isName:
			return text != "" && (text == known) != isOther
		}
	}
	return want == got
}
