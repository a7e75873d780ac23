package iamtokentest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

const opaque = "an-opaque-token-of-40-characters-0123456"

func jwt(claims string) string {
	return "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

// The script reads a payload as iamtoken.Version.Token does: the same token, or
// none.
func TestPayloadsAreReadAsInGo(t *testing.T) {
	hour := time.Now().Add(time.Hour).Unix()
	good := jwt(fmt.Sprintf(`{"exp":%d,"aud":7,"nbf":"x"}`, hour))
	tokenJSON := fmt.Sprintf(`{"access_token":%q,"expiration":%d}`, opaque, hour)
	for name, test := range map[string]struct{ payload, advice string }{
		"raw, with blanks":            {"\n " + good + " \r\n\t", ""},
		"bearer in small letters":     {"bearer \t" + good, ""},
		"token.json":                  {tokenJSON, ""},
		"json in json":                {fmt.Sprintf(`{"iam_token":%q,"owner":"someone"}`, tokenJSON), ""},
		"its own field":               {fmt.Sprintf(`{"logs":%q}`, good), ""},
		"32 characters":               {strings.Repeat("a", 31) + "=", ""},
		"8192 characters":             {strings.Repeat("-", 8192), ""},
		"dashes in claims":            {jwt(fmt.Sprintf(`{"exp":%d,"x":"%s"}`, hour, strings.Repeat("???>>>", 300))), ""},
		"not yet":                     {"no token yet", "no token yet"},
		"empty":                       {"", "is empty"},
		"blanks":                      {strings.Repeat(" \n", 10_000), "is empty"},
		"many blanks":                 {strings.Repeat(" ", 400_000) + "x", "empty"},
		"31 characters":               {strings.Repeat("a", 31), "no token"},
		"8193 characters":             {strings.Repeat("a", 8193), "no token"},
		"half a million characters":   {strings.Repeat("a", 500_000), "no token"},
		"quotes":                      {`"` + opaque + `"`, "no token"},
		"padding":                     {strings.Repeat("=", 40), "no token"},
		"an apostrophe":               {opaque + "'; id #", "no token"},
		"a no-break space":            {opaque + "\u00a0", "no token"},
		"a zero":                      {opaque + "\x00", "no token"},
		"two lines":                   {opaque + "\n" + opaque, "no token"},
		"two tokens":                  {fmt.Sprintf(`{"a":%q,"b":%q}`, opaque, opaque), "no token"},
		"HTTP heads":                  {"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n{}", "no token"},
		"JSON in access_token":        {fmt.Sprintf(`{"access_token":%q}`, tokenJSON), "no token"},
		"a number":                    {`{"iam_token":1}`, "no token"},
		"broken JSON":                 {`{"access_token":"eyJ`, "no token"},
		"a list":                      {`["` + good + `"]`, "no token"},
		"a deep list":                 {`{"a":` + strings.Repeat("[", 100_000), "no token"},
		"the reader's key":            {"KEY", "the API key of the reader"},
		"a JWT without exp":           {jwt(`{"iat":1}`), "exp cannot be read"},
		"a JWT with a text for exp":   {jwt(`{"exp":"soon"}`), "exp cannot be read"},
		"a JWT beyond all time":       {jwt(`{"exp":1e300}`), "exp cannot be read"},
		"a JWT of dashes":             {"a" + "." + strings.Repeat("-", 8000) + "." + "b", "exp cannot be read"},
		"expired by its own claims":   {jwt(`{"exp":1767225600}`), "2026-01-01T00:00:00Z"},
		"expired by what stands near": {fmt.Sprintf(`{"access_token":%q,"expiration":1767225600}`, opaque), "2026-01-01T00:00:00Z"},
	} {
		withJob(t, name, func(j *job) {
			payload := strings.ReplaceAll(test.payload, "KEY", j.cloud.ReaderAPIKey())
			j.cloud.MustPutVersion(j.secret(), payload, map[string]any{"expiration": hour})
			want, err := (&iamtoken.Reader{Store: &iamtoken.SecretsManager{URL: j.env["IAM_URL"], IAMURL: j.env["IAM_URL"],
				SecretID: j.secret(), APIKey: iamtoken.NewSecret(j.cloud.ReaderAPIKey())}}).Token(t.Context())
			if name != "the reader's key" {
				j.byToken()
			}
			switch {
			case (err == nil) != (test.advice == ""):
				t.Fatalf("the Go reader: got %v, want the problem %q", err, test.advice)
			case err == nil:
				j.wantToken(want.Value.Reveal())
			case errors.Is(err, iamtoken.ErrExpired):
				j.wantFailure(3, test.advice)
			default:
				j.wantFailure(1, test.advice)
			}
			if j.worked > 5*time.Second {
				t.Errorf("worked for %s: a pattern is not linear", j.worked)
			}
		})
	}
}

// What a version states of its expiry, and what it does not.
func TestVersions(t *testing.T) {
	at := func(ahead time.Duration) map[string]any {
		return map[string]any{"expiration": time.Now().Add(ahead).Unix()}
	}
	written := jwt(fmt.Sprintf(`{"exp":%d}`, time.Now().Add(20*time.Minute).Unix()))
	for name, test := range map[string]struct {
		payload  string
		metadata map[string]any
		args     string
		exit     int
		advice   string
	}{
		"no expiry":           {opaque, nil, "", 1, "nothing states when"},
		"unreadable metadata": {opaque, map[string]any{"expiration": "soon"}, "", 1, "nothing states when"},
		"expired by metadata": {opaque, at(-90 * time.Minute), "", 3, "expired 1h30m ago"},
		"by hand, a JWT":      {written, nil, "--min-ttl=19m", 0, ""},
		"too short":           {opaque, at(20 * time.Minute), "--min-ttl=21m", 1, "--min-ttl"},
		"by hand, --check":    {written, nil, "--check", 1, "no metadata"},
		"a year, forged":      {opaque, at(365 * 24 * time.Hour), "--min-ttl=59m", 0, ""},
	} {
		withJob(t, name, func(j *job) {
			j.byToken()
			j.cloud.MustPutVersion(j.secret(), test.payload, test.metadata)
			if test.exit == 0 {
				j.wantToken(test.payload, test.args)
			} else {
				j.wantFailure(test.exit, test.advice, strings.Fields(test.args)...)
			}
		})
	}
	withJob(t, "secrets", func(j *job) {
		j.byToken()
		token := j.save(time.Hour)
		kv := func(data map[string]any) string {
			return j.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: j.cloud.TokenGroupName(), Data: data, Metadata: at(time.Hour)})
		}
		j.wantToken(token, kv(map[string]any{"iam_token": "Bearer " + token, "owner": "someone"}))
		for advice, secret := range map[string]string{
			"no such secret":       "00000000-0000-4000-8000-000000000000",
			"SecretsReader":        j.cloud.Rotations()[0].APIKeySecret,
			"is it the right":      kv(map[string]any{"a": token, "b": token}),
			"holds something that": kv(map[string]any{"iam_token": 1}),
			"a type that holds no token": j.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
				Type: "iam_credentials", Group: j.cloud.TokenGroupName(), ReuseAPIKey: true}),
		} {
			j.wantFailure(1, advice, secret)
		}
	})
}

// --check reads the metadata alone, which can be edited: a year ahead is trusted up to 61 minutes after the version was made.
func TestCheckPrintsTheExpiryFromMetadata(t *testing.T) {
	for name, test := range map[string]struct {
		stated, printed time.Duration // from now
		args            string
		exit            int
	}{
		"valid":     {20 * time.Minute, 20 * time.Minute, "--check", 0},
		"too short": {20 * time.Minute, 20 * time.Minute, "--check --min-ttl=21m", 1},
		"forged":    {365 * 24 * time.Hour, 61 * time.Minute, "--check --min-ttl=59m", 0},
		"expired":   {-time.Minute, -time.Minute, "--check", 3},
	} {
		withJob(t, name, func(j *job) {
			j.byToken()
			want := time.Now().Add(test.printed)
			j.store(opaque, time.Now().Add(test.stated))
			stdout, stderr, exit := j.iamToken(strings.Fields(test.args)...)
			printed, err := time.Parse("2006-01-02T15:04:05Z\n", stdout)
			if late := printed.Sub(want); err != nil || exit != test.exit || late < -time.Second || late > 5*time.Second {
				t.Errorf("got %q, exit %d (stderr %q), want the expiry and exit %d", stdout, exit, stderr, test.exit)
			}
			if j.cloud.CountRequests(read, "")+j.cloud.CountRequests(ibmcloudtest.OpSecretsGet, "") > 0 {
				t.Error("--check read the value")
			}
		})
	}
}

func TestOutages(t *testing.T) {
	after := func(seconds string) map[string]string { return map[string]string{"Retry-After": seconds} }
	early := `{"secret_type":"arbitrary","created_at":"2026-01-01T00:00:00Z","payload":"` + opaque + `"}`
	for name, test := range map[string]struct {
		fault  ibmcloudtest.Fault
		advice string // empty: the token is printed in the end
		tries  int    // of the faulty request
	}{
		"IAM 503":                  {ibmcloudtest.Fault{Op: iam, Status: 503, Headers: after("1"), Times: 2}, "", 3},
		"IAM, an empty token":      {ibmcloudtest.Fault{Op: iam, Status: 200, Body: `{"access_token":""}`, Times: 1}, "", 2},
		"429":                      {ibmcloudtest.Fault{Op: read, Status: 429, Headers: after("2"), Times: 1}, "", 2},
		"a Retry-After of letters": {ibmcloudtest.Fault{Op: read, Status: 503, Headers: after("soon"), Times: 1}, "", 2},
		"a reset connection":       {ibmcloudtest.Fault{Op: read, Drop: ibmcloudtest.DropBefore, Times: 1}, "", 2},
		"a page":                   {ibmcloudtest.Fault{Op: read, Status: 200, ContentType: "text/html", Body: "<html>", Times: 1}, "", 2},
		"a page full of HTTP":      {ibmcloudtest.Fault{Op: read, Status: 503, Headers: after("1"), Body: "\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{", Times: 1}, "", 2},
		"a lasting 503":            {ibmcloudtest.Fault{Op: read, Status: 503, Headers: after("1")}, "Secrets Manager answered 503: the service", 4},
		"a patient Retry-After":    {ibmcloudtest.Fault{Op: read, Status: 429, Headers: after("999999")}, "answered 429: it is asked too often", 1},
		"no answer":                {ibmcloudtest.Fault{Op: iam, Drop: ibmcloudtest.DropAfter}, "the connection to IAM failed", 3},
		"a redirect":               {ibmcloudtest.Fault{Op: iam, Status: 302, Headers: map[string]string{"Location": "https://example.com"}}, "redirect", 1},
		"400":                      {ibmcloudtest.Fault{Op: read, Status: 400, Body: `{"errors":[{"message":"eyJ"}]}`}, "Secrets Manager answered 400: check", 1},
		"404":                      {ibmcloudtest.Fault{Op: read, Status: 404}, "answered 404: there is no such secret", 1},
		"410":                      {ibmcloudtest.Fault{Op: read, Status: 410}, "answered 410: there is no such secret", 1},
		"a false 400 of IAM":       {ibmcloudtest.Fault{Op: iam, Case: "key_unknown", Times: 1}, "", 2},
		"a false 401 of IAM":       {ibmcloudtest.Fault{Op: iam, Case: "key_unknown_401", Times: 1}, "", 2},
		"a false 403 of IAM":       {ibmcloudtest.Fault{Op: iam, Case: "network_rule", Times: 1}, "", 2},
		"a false 401":              {ibmcloudtest.Fault{Op: read, Case: "invalid_token", Times: 1}, "", 2},
		"a lasting 403":            {ibmcloudtest.Fault{Op: read, Case: "network_rule"}, "Secrets Manager answered 403: the identity of READER_APIKEY may not", 2},
		"a key repeated":           {ibmcloudtest.Fault{Op: iam, Case: "key_repeated"}, "IAM answered 400 BXNIM0415E: READER_APIKEY is not known to IAM. It was deleted", 2},
		"a context restriction":    {ibmcloudtest.Fault{Op: iam, Case: "context_restriction"}, "IAM answered 403: a network rule refuses this address: is there a context-based restriction", 2},
		"a hostile code":           {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM0415E\neyJ"}`}, "IAM answered 400: READER_APIKEY is not known to IAM, disabled", 2},
		"an early Date":            {ibmcloudtest.Fault{Op: read, Status: 200, Headers: map[string]string{"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}, Body: early}, "earlier than the version", 3},
	} {
		withJob(t, name, func(j *job) {
			j.program("sleep", "") // curl waits by itself
			token := j.save(time.Hour)
			j.cloud.MustAddFault(test.fault)
			if test.advice == "" {
				j.wantToken(token)
			} else {
				j.wantFailure(1, test.advice)
			}
			if tries := j.cloud.CountRequests(test.fault.Op, ""); tries != test.tries {
				t.Errorf("got %d tries, want %d", tries, test.tries)
			}
			if denied := test.fault.Case != "" && test.fault.Op == read; denied && j.cloud.CountRequests(iam, "") != 2 {
				t.Error("the second try had no fresh IAM token")
			}
		})
	}
}

// IAM's code names the cause, in the words of the function and the Go reader.
func TestRefusalsNameTheirCause(t *testing.T) {
	withJob(t, "codes", func(j *job) {
		j.program("sleep", "")
		for _, code := range []string{"BXNIM0106E", "BXNIM0109E", "BXNIM0398E", "BXNIM0407E", "BXNIM0408E", "BXNIM0410E", "BXNIM0415E", "BXNIM0430E", "BXNIM0436E", "BXNIM0439E", "BXNIM0462E"} {
			cause, help := iamtoken.Refusal(code, "READER_APIKEY", "")
			j.cloud.MustAddFault(ibmcloudtest.Fault{Op: iam, Status: 404, Body: `{"errorCode":"` + code + `","errorMessage":"eyJ"}`}) // of a status that is not tried again
			j.wantFailure(1, "iam-token: IAM answered 404 "+code+": "+cause+": "+help+"\n")
			j.cloud.ClearFaults()
		}
	})
}

// A proxy that refuses CONNECT is named with its status.
func TestAProxyIsNamed(t *testing.T) {
	for status, advice := range map[int]string{
		407: "the proxy on the way to IAM answered 407: check the user and password in HTTPS_PROXY",
		403: "the proxy on the way to IAM answered 403: allow the host at the proxy, or name it in NO_PROXY",
		503: "the proxy on the way to IAM answered 503: it may be unable to reach the host: check IAM_URL",
	} {
		withJob(t, fmt.Sprint(status), func(j *job) {
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "eyJ", status) }))
			defer proxy.Close()
			j.program("sleep", "")
			j.at("https://a.us-south.test")
			j.env["HTTPS_PROXY"] = proxy.URL
			j.wantFailure(1, advice)
		})
	}
	withJob(t, "no name", func(j *job) {
		j.env["SECRETS_MANAGER_URL"] = "https://instance.invalid"
		if stderr := j.wantFailure(1, "the host name of Secrets Manager does not resolve: check SECRETS_MANAGER_URL"); !strings.Contains(stderr, "private-only") {
			t.Errorf("got %q, want it to name private instances", stderr)
		}
	})
}

// A refused connection is final on this machine unless --wait is given, and patience is for others.
func TestRefusedConnections(t *testing.T) {
	for url, local := range map[string]bool{"http://127.0.0.1:1": true, "http://localhost:1": true, "http://[::1]:1": true, "https://127.0.0.1:1": true, "https://localhost": true,
		"https://a.us-south.test": false, "https://localhost.test": false} {
		withJob(t, url, func(j *job) {
			j.at(url)
			j.program("curl", "echo \"$*\" >>\"$HOME/calls\"; printf '\\n000 000 '; exit 7\n")
			j.byToken()
			stderr := j.wantFailure(1, "iam-token: Secrets Manager ")
			calls, err := os.ReadFile(filepath.Join(j.env["HOME"], "calls"))
			patient := strings.Contains(string(calls), " --retry-connrefused ")
			advice := "refuses connections on this port: check the port in SECRETS_MANAGER_URL. The services answer on 443, a sandbox only while it runs (make sandbox)\n"
			if err != nil || strings.Count(string(calls), "--silent") != 1 || patient == local || strings.HasSuffix(stderr, advice) != local || strings.Contains(stderr, "private-only") == local {
				t.Errorf("got %q and %q (%v)", calls, stderr, err)
			}
		})
	}
	withJob(t, "--wait", func(j *job) {
		j.at("http://127.0.0.1:1")
		began := time.Now()
		j.wantFailure(1, "IAM refuses connections on this port: check the port in IAM_URL. ", "--wait=2s")
		if took := time.Since(began); took < time.Second {
			t.Errorf("took %s, want 2 s, in whole seconds of the clock", took)
		}
	})
}

// Whatever a server sends, and for however long: the script ends, and prints nothing
// of it.
func TestHostileAnswersEnd(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	body := func(body string) string { return fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", ok, len(body), body) }
	for name, test := range map[string]struct{ first, endless, advice string }{
		"endless chunks":    {ok + "Transfer-Encoding: chunked\r\n\r\n", "1000\r\n" + strings.Repeat("eyJ ", 1024) + "\r\n", "more than a token secret can hold"},
		"endless body":      {ok + "\r\n", strings.Repeat(" ", 4096), "more than a token secret can hold"},
		"endless headers":   {ok, "X-Header: eyJ\r\n", ""},
		"an endless header": {ok + "Date: ", "eyJ", ""},
		"endless 1xx":       {"", "HTTP/1.1 103 eyJ\r\n\r\n", ""},
		"newlines":          {body(strings.Repeat("\n", 900_000)), "", "answered 200 without"},
		"zeros":             {body(strings.Repeat("\x00", 900_000)), "", "answered 200 without"},
		"blanks":            {body(`{"secret_type":"arbitrary","access_token":"` + strings.Repeat(" ", 900_000) + `x"}`), "", "answered 200 without"},
		"nested":            {body(strings.Repeat("[", 900_000)), "", "answered 200 without"},
		"nested objects":    {body(strings.Repeat(`{"a":`, 190_000)), "", "answered 200 without"},
		"heads":             {body(strings.Repeat("HTTP/1.1 200 OK\r\n\r\n", 40_000)), "", "check IAM_URL"},
		"no UTF-8":          {body(strings.Repeat("\xff", 900_000)), "", "answered 200 without"},
		"a length too long": {ok + "Content-Length: 99999999999\r\n\r\n", "", "more than a token secret can hold"},
		"no HTTP":           {strings.Repeat("eyJ", 1000), "", "not HTTP"},
		"a broken status":   {"HTTP/1.1 eyJ\r\n\r\n", "", ""},
	} {
		withJob(t, name, func(j *job) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
					_, err = io.WriteString(conn, test.first)
					for err == nil && test.endless != "" {
						_, err = io.WriteString(conn, test.endless)
					}
					_ = conn.Close()
				}
			}))
			defer server.Close()
			j.env["IAM_URL"] = server.URL
			j.program("sleep", "")
			j.wantFailure(1, test.advice) // programs.Run ends what hangs
			if j.worked > 10*time.Second {
				t.Errorf("worked for %s", j.worked)
			}
		})
	}
}

// passTime replaces sleep and the clock, so that waiting takes no time; the
// returned function returns the sleeps so far, in seconds. meanwhile is called at
// each sleep with its number, from 1.
func (j *job) passTime(meanwhile func(sleep int)) (sleeps func() string) {
	j.t.Helper()
	if j.shell[0] == "busybox" { // its sleep and date are its own
		j.shell = []string{"dash"}
	}
	file := j.file("sleeps", "", 0o600)
	count := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		count++
		meanwhile(count)
	}))
	j.t.Cleanup(server.Close)
	j.program("sleep", fmt.Sprintf("echo \"$1\" >>'%s'\nexec curl -s '%s'\n", file, server.URL))
	j.program("date", fmt.Sprintf("now=1000000\nwhile read -r n; do now=$((now + n)); done <'%s'\necho $now\n", file))
	return func() string {
		content, err := os.ReadFile(file)
		if err != nil {
			j.t.Fatal(err)
		}
		return fmt.Sprint(strings.Fields(string(content)))
	}
}

func TestWaiting(t *testing.T) {
	const never = 99
	for name, test := range map[string]struct {
		saved  time.Duration      // the lifetime of the stored token; 0: none is stored
		fault  ibmcloudtest.Fault // until a token of an hour is stored
		until  int                // the sleep in which that happens
		args   string
		sleeps string
		advice string // of the failure, exit 3; empty: the token of an hour is printed
	}{
		"no token yet":      {0, ibmcloudtest.Fault{}, 3, "--min-ttl 5m --wait=2m", "[1 2 4]", ""},
		"expired":           {-time.Minute, ibmcloudtest.Fault{}, 3, "--min-ttl 5m --wait 2m", "[1 2 4]", ""},
		"too short":         {4 * time.Minute, ibmcloudtest.Fault{}, 3, "--min-ttl 5m --wait 2m", "[1 2 4]", ""},
		"in vain":           {-time.Minute, ibmcloudtest.Fault{}, never, "--wait 20s", "[1 2 4 8 5]", "expired 1m"},
		"false 400s of IAM": {time.Hour, ibmcloudtest.Fault{Op: iam, Case: "key_unknown"}, 5, "--wait 20s", "[2 2 4 8 4]", ""},
		"false 403s":        {time.Hour, ibmcloudtest.Fault{Op: read, Case: "denied"}, 5, "--wait 20s", "[2 2 4 8 4]", ""},
	} {
		withJob(t, name, func(j *job) {
			if test.saved != 0 {
				j.save(test.saved)
			}
			if test.fault.Op != "" {
				j.cloud.MustAddFault(test.fault)
			}
			token := j.token(time.Hour)
			sleeps := j.passTime(func(sleep int) {
				if sleep == test.until {
					j.cloud.ClearFaults()
					j.store(token, time.Now().Add(time.Hour))
				}
			})
			if test.advice == "" {
				j.wantToken(token, strings.Fields(test.args)...)
			} else {
				j.wantFailure(3, test.advice, strings.Fields(test.args)...)
			}
			if got := sleeps(); got != test.sleeps {
				t.Errorf("got sleeps %s, want %s", got, test.sleeps)
			}
		})
	}
}
