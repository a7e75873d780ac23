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

// secretForm is that of API keys and tokens.
var secretForm = regexp.MustCompile(`eyJ[\w.-]+|[\w-]{44}`)

// String is for a test's messages: the body without keys and tokens.
func (a answer) String() string { return secretForm.ReplaceAllString(a.raw, "[secret]") }

// at follows keys and indexes into the body; it returns nil where the path ends early.
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

// A client speaks to one cloud.
type client struct {
	t      *testing.T
	cloud  *ibmcloudtest.Cloud
	http   *http.Client
	origin string
}

// inProcess speaks to the cloud through its Transport.
func inProcess(t *testing.T, cloud *ibmcloudtest.Cloud) client {
	return client{t, cloud, &http.Client{Transport: cloud.Transport()}, "https://cloud.test"}
}

// newClient makes a cloud, whose clock stands still, and speaks to it in process.
func newClient(t *testing.T, o ibmcloudtest.Options) client {
	if o.Now == nil {
		o.Now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	}
	return inProcess(t, ibmcloudtest.New(o))
}

// send sends a request and decodes its answer. A status of 0 is none.
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

// request builds a request; header is a list of names and values. A body's default type is JSON,
// and merge-patch for PATCH.
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

// do sends a request that bears a token, if there is one.
func (c client) do(token, method, path, body string, header ...string) answer {
	c.t.Helper()
	if token != "" {
		header = append(header, "Authorization", "Bearer "+token)
	}
	return c.send(c.request(method, path, body, header...))
}

// want is do, with the status checked.
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

// A story is what one cloud is asked, a line each, "\" at its end goes on in the next:
//
//	WHO METHOD PATH [Name:value …] [BODY] => STATUS [JSON]   WHO is an identity, nobody, or a token
//	exchange KEY => STATUS [JSON]
//	advance DURATION
//
// The answer has what the JSON has, and may have more; null is absent, "*" present. "$name" stands for the value that it had
// where it came up first, in an answer, "!$name" for another one; <x*9> is nine times x.
type story struct {
	client
	values map[string]string
}

// newStory knows TOKEN and KEY, the ids of the two secrets; ID and IAM_ID, of the workload; ACCOUNT; PROFILE; READER_KEY and so
// on; and the header FORM of a request to IAM's token endpoint.
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

// play plays the lines.
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

// fits reports whether an answer has what is wanted, and keeps the values that come up in it first.
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
