package ibmcloudtest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

const (
	apiKeyGrant  = "urn:ibm:params:oauth:grant-type:apikey"
	crTokenGrant = "urn:ibm:params:oauth:grant-type:cr-token"
)

// An answer is a response with its body decoded, if it was a JSON object.
type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

// secretForm is that of API keys and tokens.
var secretForm = regexp.MustCompile(`eyJ[\w.-]+|[\w-]{44}`)

// String is for a test's messages: the body without keys and tokens.
func (a answer) String() string { return secretForm.ReplaceAllString(a.raw, "[secret]") }

// at follows keys and indexes into the body; it returns nil where the path ends early.
func (a answer) at(path ...any) any {
	var here any = a.body
	for _, step := range path {
		switch key := step.(type) {
		case string:
			object, _ := here.(map[string]any)
			here = object[key]
		case int:
			list, _ := here.([]any)
			if key >= len(list) {
				return nil
			}
			here = list[key]
		}
	}
	return here
}

// A client speaks to one cloud.
type client struct {
	t      *testing.T
	http   *http.Client
	origin string
}

// inProcess speaks to the cloud through its Transport.
func inProcess(t *testing.T, cloud *ibmcloudtest.Cloud) client {
	return client{t, &http.Client{Transport: cloud.Transport()}, "https://cloud.test"}
}

// newCloud makes a cloud and speaks to it in process.
func newCloud(t *testing.T, o ibmcloudtest.Options) (*ibmcloudtest.Cloud, client) {
	cloud := ibmcloudtest.New(o)
	return cloud, inProcess(t, cloud)
}

// newAdmin is newCloud with an admin's token.
func newAdmin(t *testing.T, o ibmcloudtest.Options) (*ibmcloudtest.Cloud, client, string) {
	t.Helper()
	cloud, c := newCloud(t, o)
	return cloud, c, c.token(cloud.AdminAPIKey())
}

// send sends a request and decodes its answer.
func (c client) send(r *http.Request) answer {
	c.t.Helper()
	response, err := c.http.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", r.Method, r.URL.Path, err)
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

// do sends a request that bears a token.
func (c client) do(token, method, path, body string) answer {
	c.t.Helper()
	return c.send(c.request(method, path, body, "Authorization", "Bearer "+token))
}

// check holds an answer against the status that it should have.
func (c client) check(got answer, status int, what string) {
	c.t.Helper()
	if got.status != status {
		c.t.Errorf("%s: got %d %s, want %d", what, got.status, got, status)
	}
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

// grant sends a form to IAM's token endpoint.
func (c client) grant(form url.Values, header ...string) answer {
	c.t.Helper()
	header = append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)
	return c.send(c.request(http.MethodPost, "/identity/token", form.Encode(), header...))
}

// token exchanges an API key.
func (c client) token(key string) string {
	c.t.Helper()
	got := c.grant(url.Values{"grant_type": {apiKeyGrant}, "apikey": {key}})
	token, _ := got.at("access_token").(string)
	if got.status != http.StatusOK || token == "" {
		c.t.Fatalf("exchanging a key: got %d %s, want a token", got.status, got)
	}
	return token
}

// A clock stands still until it is moved.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time          { return c.now }
func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }
