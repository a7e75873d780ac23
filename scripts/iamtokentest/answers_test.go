package iamtokentest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
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
		"raw":                         {good, ""},
		"raw, with blanks":            {"\n " + good + " \r\n\t", ""},
		"bearer":                      {"Bearer " + good, ""},
		"bearer in small letters":     {"bearer \t" + good, ""},
		"token.json":                  {tokenJSON, ""},
		"the CLI's json":              {fmt.Sprintf(`{"iam_token":"Bearer %s"}`, good), ""},
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
		"a comma":                     {opaque + "," + opaque, "no token"},
		"quotes":                      {`"` + opaque + `"`, "no token"},
		"a padded middle":             {opaque + "=" + opaque, "no token"},
		"padding":                     {strings.Repeat("=", 40), "no token"},
		"an apostrophe":               {opaque + "'; id #", "no token"},
		"a no-break space":            {opaque + "\u00a0", "no token"},
		"a zero":                      {opaque + "\x00", "no token"},
		"two lines":                   {opaque + "\n" + opaque, "no token"},
		"two tokens":                  {fmt.Sprintf(`{"a":%q,"b":%q}`, opaque, opaque), "no token"},
		"Bearer":                      {"Bearer ", "no token"},
		"Bearer twice":                {"Bearer Bearer " + opaque, "no token"},
		"null":                        {"null", "no token"},
		"a page":                      {"<html><body>502 Bad Gateway</body></html>", "no token"},
		"HTTP heads":                  {"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n{}", "no token"},
		"JSON without a token":        {`{"refresh_token":1,"expires_in":3600}`, "no token"},
		"JSON with an empty token":    {`{"access_token":""}`, "no token"},
		"JSON in access_token":        {fmt.Sprintf(`{"access_token":%q}`, tokenJSON), "no token"},
		"a number":                    {`{"iam_token":1}`, "no token"},
		"broken JSON":                 {`{"access_token":"eyJ`, "no token"},
		"a list":                      {`["` + good + `"]`, "no token"},
		"a deep list":                 {`{"a":` + strings.Repeat("[", 100_000), "no token"},
		"the reader's key":            {"KEY", "the API key of the reader"},
		"a JWT without exp":           {jwt(`{"iat":1}`), "exp cannot be read"},
		"a JWT with a text for exp":   {jwt(`{"exp":"soon"}`), "exp cannot be read"},
		"a JWT beyond all time":       {jwt(`{"exp":1e300}`), "exp cannot be read"},
		"a JWT that is no JSON":       {jwt(`exp`), "exp cannot be read"},
		"a JWT of dashes":             {"a" + "." + strings.Repeat("-", 8000) + "." + "b", "exp cannot be read"},
		"expired by its own claims":   {jwt(`{"exp":1767225600}`), "2026-01-01T00:00:00Z"},
		"expired by what stands near": {fmt.Sprintf(`{"access_token":%q,"expiration":1767225600}`, opaque), "2026-01-01T00:00:00Z"},
	} {
		withFixture(t, name, ibmcloudtest.Options{}, func(fx *fixture) {
			payload := strings.ReplaceAll(test.payload, "KEY", fx.cloud.ReaderAPIKey())
			fx.cloud.MustPutVersion(fx.secret(), payload, map[string]any{"expiration": hour})
			want, err := (&iamtoken.Reader{Store: &iamtoken.SecretsManager{URL: fx.env["IAM_URL"], IAMURL: fx.env["IAM_URL"],
				SecretID: fx.secret(), APIKey: iamtoken.NewSecret(fx.cloud.ReaderAPIKey())}}).Token(t.Context())
			if (err == nil) != (test.advice == "") {
				t.Fatalf("the Go reader: got %v, want the problem %q", err, test.advice)
			}
			switch {
			case err == nil:
				fx.wantRaw(name, want.Value.Reveal())
			case errors.Is(err, iamtoken.ErrExpired):
				fx.wantFailure(3, nil, test.advice)
			default:
				fx.wantFailure(1, nil, test.advice)
			}
			if fx.worked > 5*time.Second {
				t.Errorf("worked for %s: a pattern is not linear", fx.worked)
			}
		})
	}
}

// What a version states of its expiry, and what it does not.
func TestVersions(t *testing.T) {
	soon := map[string]any{"expiration": time.Now().Add(20 * time.Minute).Unix()}
	for name, test := range map[string]struct {
		payload  string
		metadata map[string]any
		args     []string
		exit     int
		advice   string
	}{
		"no expiry":           {opaque, nil, nil, 1, "nothing states when"},
		"unreadable metadata": {opaque, map[string]any{"expiration": "soon"}, nil, 1, "nothing states when"},
		"expired by metadata": {opaque, map[string]any{"expiration": time.Now().Add(-90 * time.Minute).Unix()}, nil, 3, "expired 1h30m ago"},
		"by hand, a JWT":      {jwt(fmt.Sprintf(`{"exp":%d}`, soon["expiration"])), nil, []string{"--min-ttl", "19m"}, 0, ""},
		"too short":           {opaque, soon, []string{"--min-ttl", "21m"}, 1, "--min-ttl"},
		"by hand, --check":    {jwt(fmt.Sprintf(`{"exp":%d}`, soon["expiration"])), nil, []string{"--check"}, 1, "no metadata"},
	} {
		withFixture(t, name, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.cloud.MustPutVersion(fx.secret(), test.payload, test.metadata)
			if test.exit == 0 {
				fx.wantRaw(name, test.payload, test.args...)
			} else {
				fx.wantFailure(test.exit, test.args, test.advice)
			}
		})
	}
	// Metadata can be edited: a year ahead is trusted up to 61 minutes after the version was made.
	withFixture(t, "forged", ibmcloudtest.Options{}, func(fx *fixture) {
		fx.cloud.MustPutVersion(fx.secret(), opaque, map[string]any{"expiration": time.Now().AddDate(1, 0, 0).Unix()})
		fx.wantRaw("while it can be true", opaque, "--min-ttl", "59m")
		stdout, _, _ := fx.iamToken("--check")
		if printed, err := time.Parse(time.RFC3339, strings.TrimSpace(stdout)); err != nil || time.Until(printed) > 61*time.Minute {
			fx.t.Errorf("got %q (%v), want 61m from the version's creation at most", stdout, err)
		}
	})
	withFixture(t, "secrets", ibmcloudtest.Options{}, func(fx *fixture) {
		token := fx.save(time.Hour)
		kv := func(data map[string]any) string {
			return fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: fx.cloud.TokenGroupName(), Data: data, Metadata: soon})
		}
		fx.wantRaw("kv", token, kv(map[string]any{"iam_token": "Bearer " + token, "owner": "someone"}))
		for advice, secret := range map[string]string{
			"no such secret":       "00000000-0000-4000-8000-000000000000",
			"SecretsReader":        fx.cloud.Rotations()[0].APIKeySecret,
			"is it the right":      kv(map[string]any{"a": token, "b": token}),
			"holds something that": kv(map[string]any{"iam_token": 1}),
			"a type that holds no token": fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
				Type: "iam_credentials", Group: fx.cloud.TokenGroupName(), ReuseAPIKey: true}),
		} {
			fx.wantFailure(1, []string{secret}, advice)
		}
		fx.wantFailure(2, []string{"token"}, "the SECRET given is no secret id")
		fx.wantFailure(2, []string{"--", fx.cloud.ReaderAPIKey()}, "no secret id")
	})
}

func TestOutages(t *testing.T) {
	const iam, read = ibmcloudtest.OpIAMToken, ibmcloudtest.OpVersionsGet
	after := func(seconds string) map[string]string { return map[string]string{"Retry-After": seconds} }
	for name, test := range map[string]struct {
		fault  ibmcloudtest.Fault
		advice string // empty: the token is printed in the end
		tries  int    // of the faulty request
	}{
		"IAM 503":                  {ibmcloudtest.Fault{Op: iam, Status: 503, Headers: after("1"), Times: 2}, "", 3},
		"IAM, a page":              {ibmcloudtest.Fault{Op: iam, Status: 200, ContentType: "text/html", Body: "<html>", Times: 1}, "", 2},
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
		"a hostile code":           {ibmcloudtest.Fault{Op: iam, Status: 400, Body: `{"errorCode":"BXNIM0415E\neyJ"}`}, "IAM answered 400: READER_APIKEY", 2},
		"a false 400 of IAM":       {ibmcloudtest.Fault{Op: iam, Case: "key_unknown", Times: 1}, "", 2},
		"a false 401 of IAM":       {ibmcloudtest.Fault{Op: iam, Case: "key_unknown_401", Times: 1}, "", 2},
		"a false 403 of IAM":       {ibmcloudtest.Fault{Op: iam, Case: "network_rule", Times: 1}, "", 2},
		"a false 401":              {ibmcloudtest.Fault{Op: read, Case: "invalid_token", Times: 1}, "", 2},
		"a false 403":              {ibmcloudtest.Fault{Op: read, Case: "denied", Times: 1}, "", 2},
		"a lasting 403":            {ibmcloudtest.Fault{Op: read, Case: "network_rule"}, "Secrets Manager answered 403: the identity of READER_APIKEY may not", 2},
		"an early Date":            {ibmcloudtest.Fault{Op: read, Status: 200, Headers: map[string]string{"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}, Body: `{"secret_type":"arbitrary","created_at":"2026-01-01T00:00:00Z","payload":"` + opaque + `"}`}, "earlier than the version", 3},
	} {
		withFixture(t, name, ibmcloudtest.Options{}, func(fx *fixture) {
			fx.program("sleep", "") // curl waits by itself
			token := fx.save(time.Hour)
			fx.fault(test.fault)
			if test.advice == "" {
				fx.wantRaw(name, token)
			} else {
				fx.wantFailure(1, nil, test.advice)
			}
			if tries := fx.cloud.CountRequests(test.fault.Op, ""); tries != test.tries {
				fx.t.Errorf("got %d tries, want %d", tries, test.tries)
			}
			if denied := test.fault.Case != "" && test.fault.Op == read; denied && fx.cloud.CountRequests(iam, "") != 2 {
				fx.t.Error("the second try had no fresh IAM token")
			}
		})
	}
}

// IAM's code names the cause, in the words of the function and the Go reader.
func TestRefusalsNameTheirCause(t *testing.T) {
	withFixture(t, "refusals", ibmcloudtest.Options{}, func(fx *fixture) {
		fx.program("sleep", "")
		for _, code := range []string{"BXNIM0106E", "BXNIM0109E", "BXNIM0398E", "BXNIM0407E", "BXNIM0408E", "BXNIM0410E", "BXNIM0415E", "BXNIM0430E", "BXNIM0436E", "BXNIM0439E", "BXNIM0462E"} {
			cause, help := iamtoken.Refusal(code, "READER_APIKEY", "")
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Status: 401, Body: `{"errorCode":"` + code + `","errorMessage":"eyJ"}`})
			fx.wantFailure(1, nil, "iam-token: IAM answered 401 "+code+": "+cause+": "+help+"\n")
			fx.cloud.ClearFaults()
		}
		for name, advice := range map[string]string{
			"key_repeated":        "IAM answered 400 BXNIM0415E: READER_APIKEY is not known to IAM: it was deleted",
			"context_restriction": "IAM answered 403: a network rule refuses this address",
			"network_rule":        "IAM answered 403: a network rule refuses this address: is there a context-based restriction",
		} {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Case: name})
			fx.wantFailure(1, nil, advice)
			fx.cloud.ClearFaults()
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
		withFixture(t, fmt.Sprint(status), ibmcloudtest.Options{}, func(fx *fixture) {
			proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "eyJ", status) }))
			defer proxy.Close()
			fx.program("sleep", "")
			fx.at("https://a.us-south.test")
			fx.env["HTTPS_PROXY"] = proxy.URL
			fx.wantFailure(1, nil, advice)
		})
	}
	withFixture(t, "no name", ibmcloudtest.Options{}, func(fx *fixture) {
		fx.save(time.Hour)
		fx.env["SECRETS_MANAGER_URL"] = "https://instance.invalid"
		fx.wantFailure(1, nil, "the host name of Secrets Manager does not resolve: check SECRETS_MANAGER_URL", "private-only")
	})
}

// Whatever a server sends, and for however long: the script ends, and prints nothing
// of it.
func TestHostileAnswersEnd(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	endless := func(block string) func(w io.Writer) {
		return func(w io.Writer) {
			for {
				if _, err := io.WriteString(w, block); err != nil {
					return
				}
			}
		}
	}
	text := func(text string) func(w io.Writer) {
		return func(w io.Writer) { _, _ = io.WriteString(w, text) }
	}
	body := func(body string) func(w io.Writer) {
		return text(fmt.Sprintf("%sContent-Length: %d\r\n\r\n%s", ok, len(body), body))
	}
	for name, test := range map[string]struct {
		send   func(w io.Writer)
		advice string
	}{
		"endless chunks": {func(w io.Writer) {
			text(ok + "Transfer-Encoding: chunked\r\n\r\n")(w)
			endless("1000\r\n" + strings.Repeat("eyJ ", 1024) + "\r\n")(w)
		}, "more than a token secret can hold"},
		"endless body":      {func(w io.Writer) { text(ok + "\r\n")(w); endless(strings.Repeat(" ", 4096))(w) }, "more than a token secret can hold"},
		"endless headers":   {func(w io.Writer) { text(ok)(w); endless("X-Header: eyJ\r\n")(w) }, ""},
		"an endless header": {func(w io.Writer) { text(ok + "Date: ")(w); endless("eyJ")(w) }, ""},
		"endless 1xx":       {endless("HTTP/1.1 103 eyJ\r\n\r\n"), ""},
		"newlines":          {body(strings.Repeat("\n", 900_000)), "answered 200 without"},
		"zeros":             {body(strings.Repeat("\x00", 900_000)), "answered 200 without"},
		"blanks":            {body(`{"secret_type":"arbitrary","access_token":"` + strings.Repeat(" ", 900_000) + `x"}`), "answered 200 without"},
		"nested":            {body(strings.Repeat("[", 900_000)), "answered 200 without"},
		"nested objects":    {body(strings.Repeat(`{"a":`, 190_000)), "answered 200 without"},
		"heads":             {body(strings.Repeat("HTTP/1.1 200 OK\r\n\r\n", 40_000)), "check IAM_URL"},
		"no UTF-8":          {body(strings.Repeat("\xff", 900_000)), "answered 200 without"},
		"a length too long": {text(ok + "Content-Length: 99999999999\r\n\r\n"), "more than a token secret can hold"},
		"no HTTP":           {text(strings.Repeat("eyJ", 1000)), "not HTTP"},
		"a broken status":   {text("HTTP/1.1 eyJ\r\n\r\n"), ""},
	} {
		withFixture(t, name, ibmcloudtest.Options{}, func(fx *fixture) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
					test.send(conn)
					_ = conn.Close()
				}
			}))
			defer server.Close()
			fx.env["IAM_URL"] = server.URL
			fx.program("sleep", "")
			fx.wantFailure(1, nil, test.advice) // programs.Run ends what hangs
			if fx.worked > 10*time.Second {
				t.Errorf("worked for %s", fx.worked)
			}
		})
	}
}

// passTime replaces sleep and the clock, so that waiting takes no time; the
// returned function returns the sleeps so far, in seconds. meanwhile is called at
// each sleep with its number, from 1.
func (fx *fixture) passTime(meanwhile func(sleep int)) (sleeps func() string) {
	fx.t.Helper()
	if fx.shell[0] == "busybox" { // its sleep and date are its own
		fx.shell = []string{"dash"}
	}
	file := fx.file("sleeps", "", 0o600)
	count := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		count++
		meanwhile(count)
	}))
	fx.t.Cleanup(server.Close)
	fx.program("sleep", fmt.Sprintf("echo \"$1\" >>'%s'\nexec curl -s '%s'\n", file, server.URL))
	fx.program("date", fmt.Sprintf("now=1000000\nwhile read -r n; do now=$((now + n)); done <'%s'\necho $now\n", file))
	return func() string {
		content, err := os.ReadFile(file)
		if err != nil {
			fx.t.Fatal(err)
		}
		return fmt.Sprint(strings.Fields(string(content)))
	}
}

func TestWaiting(t *testing.T) {
	for name, first := range map[string]func(fx *fixture){
		"no token yet": func(*fixture) {},
		"expired":      func(fx *fixture) { fx.save(-time.Minute) },
		"too short":    func(fx *fixture) { fx.save(4 * time.Minute) },
	} {
		withFixture(t, name, ibmcloudtest.Options{}, func(fx *fixture) {
			first(fx)
			token := fx.token(time.Hour)
			sleeps := fx.passTime(func(sleep int) {
				if sleep == 3 {
					fx.store(token, time.Now().Add(time.Hour))
				}
			})
			fx.wantRaw(name, token, "--min-ttl", "5m", "--wait=2m")
			if got := sleeps(); got != "[1 2 4]" {
				fx.t.Errorf("got sleeps %s, want [1 2 4]", got)
			}
		})
	}
	withFixture(t, "in vain", ibmcloudtest.Options{}, func(fx *fixture) {
		fx.save(-time.Minute)
		sleeps := fx.passTime(func(int) {})
		fx.wantFailure(3, []string{"--wait", "20s"}, "expired 1m")
		if got := sleeps(); got != "[1 2 4 8 5]" {
			fx.t.Errorf("got sleeps %s, want 20 s in all: [1 2 4 8 5]", got)
		}
	})
	// In a long wait the reader's own token expires; a new one is fetched.
	withFixture(t, "for longer than the reader's own token lasts", ibmcloudtest.Options{}, func(fx *fixture) {
		token := fx.token(time.Hour)
		fx.passTime(func(sleep int) {
			switch sleep {
			case 1:
				fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsGet, Status: 401, Times: 1})
			case 2:
				fx.store(token, time.Now().Add(time.Hour))
			}
		})
		fx.wantRaw("after a 401", token, "--wait", "2m")
	})
	for name, fault := range map[string]ibmcloudtest.Fault{
		"false 400s of IAM": {Op: ibmcloudtest.OpIAMToken, Case: "key_unknown"},
		"false 403s":        {Op: ibmcloudtest.OpVersionsGet, Case: "denied"},
	} {
		withFixture(t, name, ibmcloudtest.Options{}, func(fx *fixture) {
			token := fx.save(time.Hour)
			fx.fault(fault)
			sleeps := fx.passTime(func(sleep int) {
				if sleep == 5 {
					fx.cloud.ClearFaults()
				}
			})
			fx.wantRaw(name, token, "--wait", "20s")
			if got := sleeps(); got != "[2 2 4 8 4]" {
				fx.t.Errorf("got sleeps %s, want as long as --wait says: [2 2 4 8 4]", got)
			}
		})
	}
}

// onAWS gives the fixture a job's role on AWS in place of its IBM identity.
func (fx *fixture) onAWS(endpoint string) {
	for _, name := range []string{"READER_APIKEY", "SECRETS_MANAGER_URL", "IAM_URL", "TOKEN_SECRET"} {
		delete(fx.env, name)
	}
	maps.Copy(fx.env, awstest.Environment(endpoint))
	delete(fx.env, "AWS_REGION") // the script takes the ARN's
}

// The aws program keeps what it receives where cli_history is on, but not for this.
func TestTheMirrorInAWS(t *testing.T) {
	programs.Need(t, "aws")
	moto := awstest.Start(t)
	fx := newFixture(t, "dash", ibmcloudtest.Options{})
	fx.onAWS(moto.URL())
	if err := os.Mkdir(filepath.Join(fx.env["HOME"], ".aws"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fx.env["HOME"], ".aws", "config"), []byte("[default]\ncli_history = enabled\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	token := fx.token(time.Hour)
	created := moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret",
		map[string]any{"Name": "iam-token", "SecretString": "Bearer " + token, "ClientRequestToken": "7cf9d6e1-2919-432f-9883-d5040bfcd326"})
	fx.env["TOKEN_SECRET_ARN"] = created["ARN"].(string)
	fx.wantRaw("the mirror", token, "--min-ttl", "5m")
	if _, err := os.Stat(filepath.Join(fx.env["HOME"], ".aws", "cli", "history")); !os.IsNotExist(err) {
		t.Errorf("got %v, want no history", err)
	}
	fx.env["TOKEN_SECRET_ARN"] += "x"
	fx.wantFailure(1, nil, "ResourceNotFoundException", "secretsmanager:GetSecretValue")

	token = fx.token(30 * time.Minute)
	moto.MustCall(t, "ssm", "AmazonSSM.PutParameter", map[string]any{"Name": "/tokens/logs", "Type": "SecureString", "Value": `{"iam_token":"` + token + `"}`})
	fx.env["TOKEN_SECRET_ARN"] = parameterARN
	fx.wantRaw("a parameter", token, "--min-ttl", "5m")
	fx.env["TOKEN_SECRET_ARN"] += "x"
	fx.wantFailure(1, nil, "ParameterNotFound", "ssm:GetParameter")
}

const (
	mirrorARN    = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-Ab12Cd"
	parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/tokens/logs"
)

// answerAs puts a program in the place of aws that answers with a secret's value,
// made created ago.
func (fx *fixture) answerAs(payload any, created any) {
	fx.t.Helper()
	answer, err := json.Marshal(map[string]any{"ARN": mirrorARN, "SecretString": payload, "CreatedDate": created})
	if err != nil {
		fx.t.Fatal(err)
	}
	fx.program("aws", "case \"$*\" in *'--secret-id "+mirrorARN+" --region eu-central-1 '*) ;; *) echo \"unexpected: $*\" >&2; exit 1 ;; esac\ncat <<'E'\n"+string(answer)+"\nE\n")
}

func TestWhatAMirrorCanHold(t *testing.T) {
	withFixture(t, "mirror", ibmcloudtest.Options{}, func(fx *fixture) {
		ahead := time.Duration(0) // of AWS's clock, which the aws program does not print
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		}))
		defer server.Close()
		fx.onAWS(server.URL)
		fx.env["TOKEN_SECRET_ARN"] = mirrorARN
		token := fx.token(time.Hour)
		byV1, byV2 := float64(time.Now().UnixMilli())/1000, time.Now().UTC().Format("2006-01-02T15:04:05.000000+00:00")
		fx.answerAs("Bearer "+token, byV1)
		fx.wantRaw("version 1 of aws", token, "--min-ttl", "5m")
		fx.answerAs(fmt.Sprintf(`{"logs":%q}`, token), byV2)
		fx.wantRaw("version 2 of aws", token)
		if stdout, stderr, exit := fx.iamToken("--check"); exit != 0 || !strings.HasSuffix(stdout, "Z\n") || len(stdout) != 21 {
			fx.t.Errorf("--check: got exit %d and %d bytes (stderr %q), want the expiry", exit, len(stdout), stderr)
		}
		for advice, test := range map[string]struct {
			payload any
			exit    int
		}{
			"expired 1m":     {fx.token(-time.Minute), 3},
			"nothing states": {opaque, 1},
			"no token yet":   {"no token yet", 1},
			"is it the":      {`{"user":"a","password":"b"}`, 1},
			"empty":          {nil, 1}, // a binary secret
		} {
			fx.answerAs(test.payload, byV1)
			fx.wantFailure(test.exit, nil, advice)
		}
		for name, answer := range map[string]any{"no object": map[string]any{"Parameter": "x"}, "no value": map[string]any{"Parameter": map[string]any{"Version": 1}}} {
			text, _ := json.Marshal(answer)
			fx.program("aws", "cat <<'E'\n"+string(text)+"\nE\n")
			fx.env["TOKEN_SECRET_ARN"] = parameterARN
			if stdout, stderr, exit := fx.iamToken(); exit != 1 || stdout != "" || !strings.Contains(stderr, "empty") {
				fx.t.Errorf("a parameter, %s: got exit %d, %q", name, exit, stderr)
			}
		}
		fx.env["TOKEN_SECRET_ARN"] = mirrorARN
		for code, want := range map[string]string{ // what AWS says beside its code may be anything
			"(AccessDeniedException)": "(AccessDeniedException) when calling the GetSecretValue operation\n", "(403)": "(403) when calling the GetSecretValue operation\n",
			"(a_key-1)": "An error occurred\n", "": "Unable to locate\n",
		} {
			said := "An error occurred " + code + " when calling the GetSecretValue operation: its text"
			if code == "" {
				said = "Unable to locate\x1b"
			}
			fx.program("aws", "printf '\\n%s\\nits text\\n' '"+said+"' >&2; exit 255\n")
			if stdout, stderr, exit := fx.iamToken(); exit != 1 || stdout != "" || !strings.Contains(stderr, want) || strings.Contains(stderr, "its text") || strings.Contains(stderr, "key") {
				fx.t.Errorf("%s: got exit %d, %q", code, exit, stderr)
			}
		}
		ahead = 20 * time.Minute
		fx.answerAs(fx.token(10*time.Minute), byV1)
		fx.wantFailure(3, nil, "slow", "expired")
		ahead = 0
		delete(fx.env, "TOKEN_SECRET_ARN")
		fx.answerAs(token, byV1)
		fx.wantRaw("an ARN as the argument", token, mirrorARN)
	})
}
