package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

// A fixture is one cloud, AWS's secrets, what Terraform would print, and what a person has around setup.
type fixture struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	origin  string
	admin   string // the person's token
	aws     *fakeAWS
	folder  string
	outputs map[string]string
	env     map[string]string
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	fx := &fixture{t: t, cloud: cloud, origin: server.URL, aws: newFakeAWS(t), folder: t.TempDir()}
	_, fx.admin = fx.exchange(cloud.AdminAPIKey())
	fx.env = map[string]string{"IAM_URL": fx.origin, "IAM_TOKEN": "Bearer " + fx.admin}
	fx.outputs = map[string]string{
		"secrets_manager_url": server.URL, "account_id": cloud.AccountID(), "key_group_id": cloud.KeyGroupID(),
		"token_group_id": cloud.TokenGroupID(), "bootstrap_iam_id": cloud.BootstrapIAMID(),
		"workload_iam_id": cloud.Rotations()[0].IAMID, "reader_iam_id": cloud.ReaderIAMID(), "iam_profile_id": "",
	}
	return fx
}

func (fx *fixture) path(name string) string { return filepath.Join(fx.folder, name) }

func (fx *fixture) read(name string) string {
	fx.t.Helper()
	info, err := os.Stat(fx.path(name))
	if err != nil {
		fx.t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		fx.t.Errorf("%s: got mode %o, want 600", name, info.Mode().Perm())
	}
	raw, err := os.ReadFile(fx.path(name))
	if err != nil {
		fx.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// terraform is what `terraform output -json` prints.
func (fx *fixture) terraform() string {
	outputs := map[string]any{}
	for name, value := range fx.outputs {
		outputs[name] = map[string]any{"sensitive": false, "type": "string", "value": value}
	}
	raw, _ := json.Marshal(outputs)
	return string(raw)
}

// A run is one run of setup.
type run struct {
	outcome
	values map[string]string // the NAME='value' lines
}

var (
	line        = regexp.MustCompile(`^([A-Z_]+)='([A-Za-z0-9:/._+=@-]*)'$`)
	secretShape = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}|[A-Za-z0-9_-]{44,}`) // a token, or as long as an API key
	publicID    = regexp.MustCompile(`^(iam-)?(ServiceId|Profile)-[0-9a-f-]{36}$`)
)

// run runs setup with Terraform's outputs on its standard input, and checks that nothing secret or foreign
// came out.
func (fx *fixture) run(args ...string) run {
	fx.t.Helper()
	return fx.runWith(fx.terraform(), append([]string{"--terraform", "-"}, args...)...)
}

func (fx *fixture) runWith(stdin string, args ...string) run {
	fx.t.Helper()
	r := run{runWith(fx.t, fx.env, configFor(fx.aws.url), stdin, append([]string{"setup"}, args...)...), map[string]string{}}
	fx.aws.serving.Lock() // an aborted request may be served still
	defer fx.aws.serving.Unlock()
	for _, found := range secretShape.FindAllString(strings.ReplaceAll(r.stdout+r.stderr, fx.folder, ""), -1) {
		if !publicID.MatchString(found) {
			fx.t.Fatalf("a secret of %d characters is printed", len(found)) // before a failure prints the output
		}
	}
	if strings.ContainsFunc(r.stderr, func(c rune) bool { return c != '\n' && c < ' ' || c == '\u202e' }) || strings.Contains(r.stdout+r.stderr, "pwned") {
		fx.t.Errorf("foreign text is printed: %q", r.stdout+r.stderr)
	}
	for text := range strings.Lines(r.stdout) {
		if found := line.FindStringSubmatch(strings.TrimSuffix(text, "\n")); found != nil {
			r.values[found[1]] = found[2]
		} else if r.exit == 0 && !slices.Contains(args, "json") && !slices.Contains(args, "--help") {
			fx.t.Errorf("got the line %q, want NAME='value'", text)
		}
	}
	return r
}

func (fx *fixture) succeed(args ...string) run {
	fx.t.Helper()
	r := fx.run(args...)
	if r.exit != 0 {
		fx.t.Fatalf("setup %s: got exit %d, want 0\n%s", strings.Join(args, " "), r.exit, r.stderr)
	}
	return r
}

func (fx *fixture) fail(exit int, words string, args ...string) {
	fx.t.Helper()
	if r := fx.run(args...); r.exit != exit || r.stdout != "" || !strings.Contains(r.stderr, words) {
		fx.t.Fatalf("setup %s: got exit %d, %q, %q; want exit %d and the words %q", strings.Join(args, " "), r.exit, r.stdout, r.stderr, exit, words)
	}
}

// exchange returns a token's iam id with its status.
func (fx *fixture) exchange(key string) (status int, token string) {
	fx.t.Helper()
	response, err := http.PostForm(fx.origin+"/identity/token", url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key}})
	if err != nil {
		fx.t.Fatal(err)
	}
	defer response.Body.Close()
	var body struct {
		Token string `json:"access_token"`
	}
	_ = json.NewDecoder(response.Body).Decode(&body)
	return response.StatusCode, body.Token
}

// owner checks that a key works, and for whom.
func (fx *fixture) owner(key, iamID string) {
	fx.t.Helper()
	status, token := fx.exchange(key)
	if claims, err := iamtoken.ReadClaims(token); status != 200 || claims.IAMID != iamID || err != nil {
		fx.t.Errorf("a stored key: got %d, identity %s, %v; want 200 and %s", status, claims.IAMID, err, iamID)
	}
}

func (fx *fixture) rejected(what, key string) {
	fx.t.Helper()
	if status, _ := fx.exchange(key); status != 400 {
		fx.t.Errorf("%s: got %d, want 400, deleted", what, status)
	}
}

// asAdmin sends a request with the admin's token and decodes the answer.
func (fx *fixture) asAdmin(method, path, body string) map[string]any {
	fx.t.Helper()
	request, _ := http.NewRequestWithContext(fx.t.Context(), method, fx.origin+path, strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+fx.admin)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("If-Match", "*")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fx.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer map[string]any
	_ = json.NewDecoder(response.Body).Decode(&answer)
	if response.StatusCode >= 300 {
		fx.t.Fatalf("%s %s: got %d %v", method, path, response.StatusCode, answer)
	}
	return answer
}

// keyIDs are the ids of setup's keys of one role.
func (fx *fixture) keyIDs(role string) (ids []string) {
	fx.t.Helper()
	for _, key := range fx.asAdmin("GET", "/v1/apikeys?pagesize=100&iam_id="+fx.outputs[role+"_iam_id"], "")["apikeys"].([]any) {
		if key := key.(map[string]any); key["name"] == "iam-token-rotator-"+role {
			ids = append(ids, key["id"].(string))
		}
	}
	return ids
}

func (fx *fixture) fault(f ibmcloudtest.Fault) { fx.cloud.MustAddFault(f) }

// writes are the operations that changed something.
func (fx *fixture) writes() (ops []string) {
	for _, request := range fx.cloud.Requests() {
		if request.Method != http.MethodGet && request.Op != ibmcloudtest.OpIAMToken {
			ops = append(ops, request.Op)
		}
	}
	return append(ops, fx.aws.writes...)
}

func (fx *fixture) forget() {
	fx.cloud.ClearRequests()
	fx.aws.writes = nil
}

// complete checks what a run printed: the stored keys work, and each identity has no other key, or as many old ones at most.
func (fx *fixture) complete(r run, old int) {
	fx.t.Helper()
	fx.owner(fx.aws.secrets[defaultAWSSecret], fx.outputs["bootstrap_iam_id"])
	fx.owner(fx.cloud.MustCurrent(r.values["API_KEY_SECRET"]).Payload, fx.outputs["workload_iam_id"])
	fx.cloud.MustCurrent(r.values["TOKEN_SECRET"])
	for _, role := range []string{"workload", "bootstrap"} {
		if got := fx.keyIDs(role); len(got) > 1+old || !slices.Contains(got, r.values[strings.ToUpper(role)+"_APIKEY_ID"]) {
			fx.t.Errorf("keys of the %s: got %q, want the one printed, %q, and %d old ones at most", role, got, r.values, old)
		}
	}
}

// fakeAWS is AWS Secrets Manager, as far as setup needs it.
type fakeAWS struct {
	url     string
	serving sync.Mutex        // held while a request is served
	secrets map[string]string // the current values
	version [2]string         // of the secret written last, the current and the previous
	kms     string
	writes  []string
	fail    string // an error code to answer with
	lose    bool   // what is done is not answered
	arn     string // in place of the ARN
}

func newFakeAWS(t *testing.T) *fakeAWS {
	f := &fakeAWS{secrets: map[string]string{}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func (f *fakeAWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.serving.Lock()
	defer f.serving.Unlock()
	var in struct{ SecretId, Name, SecretString, KmsKeyId, ClientRequestToken string }
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &in)
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	name := in.SecretId + in.Name
	_, there := f.secrets[name]
	reject := func(code string) {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "repeats " + string(body) + "\x1b]0;pwned"})
	}
	switch {
	case f.fail != "" && op != "DescribeSecret":
		reject(f.fail)
		return
	case op != "CreateSecret" && !there:
		reject("ResourceNotFoundException")
		return
	case op != "DescribeSecret":
		f.writes, f.secrets[name], f.kms = append(f.writes, op), in.SecretString, in.KmsKeyId
		f.version = [2]string{in.ClientRequestToken, f.version[0]}
	}
	if f.lose && op != "DescribeSecret" {
		panic(http.ErrAbortHandler)
	}
	arn := "arn:aws:secretsmanager:eu-central-1:123456789012:secret:" + name + "-a1b2c3"
	if f.arn != "" {
		arn = f.arn
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"ARN": arn, "Name": name, "VersionId": f.version[0],
		"VersionIdsToStages": map[string][]string{f.version[0]: {"AWSCURRENT"}, f.version[1]: {"AWSPREVIOUS"}}})
}

func TestFirstRunMakesWhatRotates(t *testing.T) {
	fx := newFixture(t)
	r := fx.succeed("--reader-key-file", fx.path("reader.key"), "--aws-kms-key-id", "alias/own")
	want := []string{"SECRETS_MANAGER_URL", "API_KEY_SECRET", "TOKEN_SECRET", "EXPECT_ACCOUNT", "EXPECT_IAM_ID", "WORKLOAD_APIKEY_ID",
		"BOOTSTRAP_APIKEY_ID", "BOOTSTRAP_EXPIRES_AT", "BOOTSTRAP_SECRET_ARN", "READER_APIKEY_ID"}
	if got := slices.Sorted(maps.Keys(r.values)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("names: got %q, want %q", got, want)
	}
	day := time.Now().UTC().AddDate(0, 0, 90).Format(time.DateOnly)
	for name, want := range map[string]string{"EXPECT_ACCOUNT": fx.cloud.AccountID(), "EXPECT_IAM_ID": fx.outputs["workload_iam_id"], "BOOTSTRAP_EXPIRES_AT": day,
		"BOOTSTRAP_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:iam-token-rotator/bootstrap-a1b2c3"} {
		if r.values[name] != want {
			t.Errorf("%s: got %s, want %s", name, r.values[name], want)
		}
	}
	token := fx.cloud.MustCurrent(r.values["TOKEN_SECRET"])
	if token.Payload != "no token yet" || token.Metadata != nil || fx.asAdmin("GET", "/api/v2/secrets/"+r.values["TOKEN_SECRET"], "")["expiration_date"] != nil {
		t.Errorf("token secret: got %d characters and %v, want the placeholder without metadata or an expiration date", len(token.Payload), token.Metadata)
	}
	if got := fx.cloud.MustCurrent(r.values["API_KEY_SECRET"]).Metadata["apikey_id"]; got != r.values["WORKLOAD_APIKEY_ID"] {
		t.Errorf("key secret: got apikey_id %v, want %s", got, r.values["WORKLOAD_APIKEY_ID"])
	}
	if fx.aws.kms != "alias/own" {
		t.Errorf("AWS: got the KMS key %q, want alias/own", fx.aws.kms)
	}
	fx.complete(r, 0)
	fx.owner(fx.read("reader.key"), fx.cloud.ReaderIAMID())
	earlier := regexp.MustCompile(`^stored in \S+ by set-up-secrets$`)
	for _, role := range []string{"bootstrap", "workload"} {
		key := fx.asAdmin("GET", "/v1/apikeys/"+fx.keyIDs(role)[0], "")
		if key["action_when_leaked"] != "disable" || !strings.HasPrefix(fmt.Sprint(key["expires_at"]), day) || key["apikey"] != "" || !earlier.MatchString(fmt.Sprint(key["description"])) {
			t.Errorf("%s: got %v, want disable, %s, no stored value, and a description that the earlier program reads", role, key, day)
		}
	}

	// A second run changes nothing, and writes no file again.
	if err := os.Remove(fx.path("reader.key")); err != nil {
		t.Fatal(err)
	}
	fx.forget()
	again := fx.succeed("--reader-key-file", fx.path("reader.key"))
	if got := fx.writes(); len(got) > 0 || again.stdout != r.stdout || !strings.Contains(again.stderr, "reader.key is not there") {
		t.Errorf("again: got %q and\n%s%s, want no change", got, again.stdout, again.stderr)
	}
	if _, err := os.Stat(fx.path("reader.key")); err == nil {
		t.Error("reader.key was written again")
	}
}

func TestOutputForms(t *testing.T) {
	fx := newFixture(t)
	first := fx.succeed()
	if r := fx.succeed("--env", fx.path("ibm.env")); r.stdout != "" || !strings.Contains(fx.read("ibm.env"), "EXPECT_IAM_ID='"+fx.outputs["workload_iam_id"]+"'") {
		t.Errorf("--env: got %q on stdout, want the file alone", r.stdout)
	}
	r := fx.succeed("-o", "json", "--env", fx.path("again.env"))
	if fx.read("again.env") != fx.read("ibm.env") {
		t.Error("--env with -o json: got other lines, want those of before")
	}
	var got, want any
	_ = json.Unmarshal([]byte(strings.ReplaceAll(r.stdout, "\n", "")), &got)
	expect := fmt.Sprintf(`{"name":"iam-token-rotator","api_key_secret":%q,"token_secret":%q,"expect":{"account":%q,"iam_id":%q}}`,
		first.values["API_KEY_SECRET"], first.values["TOKEN_SECRET"], fx.cloud.AccountID(), fx.outputs["workload_iam_id"])
	_ = json.Unmarshal([]byte(expect), &want)
	if document, ok := got.(map[string]any); !ok || !reflect.DeepEqual(document["rotation"], want) || document["EXPECT_ACCOUNT"] != fx.cloud.AccountID() {
		t.Errorf("json: got %v, want the rotation %s", got, expect)
	}
}

// TestCutOffAtEachRequest: from any request on nothing is answered, as if the machine went off there. The next
// run finishes the work, and leaves no key that was lost.
func TestCutOffAtEachRequest(t *testing.T) {
	for _, rotate := range []bool{false, true} {
		for _, drop := range []string{ibmcloudtest.DropBefore, ibmcloudtest.DropAfter} {
			for n, done := 0, false; !done; n++ {
				t.Run(fmt.Sprintf("rotate %v/%s/%d", rotate, drop, n), func(t *testing.T) {
					fx := newFixture(t)
					file := []string{"--reader-key-file", fx.path("reader.key")}
					args := file
					if rotate {
						fx.succeed(file...)
						args = append(args, "--rotate-keys")
					}
					fx.fault(ibmcloudtest.Fault{Op: "*", Skip: n, Drop: drop})
					r := fx.run(args...)
					fx.cloud.ClearFaults()
					if done = r.exit == 0; done {
						if n < 16 {
							t.Errorf("got %d requests, want at least 16", n)
						}
						return
					}
					if r.exit != 1 || r.stdout != "" || !strings.Contains(r.stderr, "no answer") {
						t.Errorf("got exit %d, %q, %q; want 1 and no answer", r.exit, r.stdout, r.stderr)
					}
					old := map[bool]int{true: 1}[rotate]
					fx.complete(fx.succeed(file...), old)
					fx.owner(fx.read("reader.key"), fx.cloud.ReaderIAMID())
					if got := fx.keyIDs("reader"); len(got) > 1+old {
						t.Errorf("keys of the reader: got %d, want %d at most", len(got), 1+old)
					}
				})
			}
		}
	}
}

func TestFailuresAreNamed(t *testing.T) {
	const html = "<html>502</html>"
	for name, test := range map[string]struct {
		fault ibmcloudtest.Fault
		words string
	}{
		"401":      {ibmcloudtest.Fault{Status: 401}, "fetch a new one"},
		"403":      {ibmcloudtest.Fault{Status: 403, Body: `{"errors":[{"code":"\u001b[31m","message":"pwned"}]}`}, "Needed: Manager on the Secrets Manager instance. A new policy takes minutes to reach everywhere; or a context-based restriction"},
		"404":      {ibmcloudtest.Fault{Status: 404}, "Check the ids"},
		"400":      {ibmcloudtest.Fault{Status: 400, Body: `{"errors":[{"code":"secrets-manager.Error07012","message":"pwned"}]}`}, "HTTP 400 secrets-manager.Error07012. Check the ids"},
		"409":      {ibmcloudtest.Fault{Status: 409}, "use another --name"},
		"429":      {ibmcloudtest.Fault{Status: 429, Headers: map[string]string{"Retry-After": "99999"}}, "Try again later"},
		"500":      {ibmcloudtest.Fault{Status: 500, Body: html, ContentType: "text/html"}, "Try again later"},
		"redirect": {ibmcloudtest.Fault{Status: 302, Headers: map[string]string{"Location": "http://127.0.0.1:1/"}}, "check the URL"},
		"not JSON": {ibmcloudtest.Fault{Status: 200, Body: html, ContentType: "text/html"}, "check the URL"},
		"no list":  {ibmcloudtest.Fault{Status: 200, Body: "{}"}, "check SECRETS_MANAGER_URL"},
		"null":     {ibmcloudtest.Fault{Status: 200, Body: "null"}, "check SECRETS_MANAGER_URL"},
		"too long": {ibmcloudtest.Fault{Status: 200, Body: `{"secrets":[` + strings.Repeat(" ", answerLimit)}, "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			fx := newFixture(t)
			test.fault.Op = ibmcloudtest.OpSecretsList
			fx.fault(test.fault)
			fx.fail(1, test.words)
			if got := fx.writes(); len(got) > 0 {
				t.Errorf("got %q, want nothing made", got)
			}
		})
	}
}

// TestTrialOfNewKey: whatever answers the exchange of a new key, the error is about that key. The next run replaces it.
func TestTrialOfNewKey(t *testing.T) {
	code := func(code string) string { return `{"errorCode":"` + code + `","errorMessage":"pwned"}` }
	for name, test := range map[string]struct {
		fault ibmcloudtest.Fault
		words string
	}{
		"no answer":   {ibmcloudtest.Fault{Drop: ibmcloudtest.DropBefore}, "no answer. Check IAM_URL"},
		"redirect":    {ibmcloudtest.Fault{Status: 302, Headers: map[string]string{"Location": "http://127.0.0.1:1/"}}, "HTTP 302. The answer is not IAM's"},
		"a page":      {ibmcloudtest.Fault{Status: 200, Body: "<html>", ContentType: "text/html"}, "HTTP 200. The answer is not IAM's"},
		"no token":    {ibmcloudtest.Fault{Status: 200, Body: "{}"}, "HTTP 200. The answer is not IAM's"},
		"400":         {ibmcloudtest.Fault{Status: 400, Body: code("BXNIM0109E")}, "HTTP 400 BXNIM0109E. IAM misses a property of the request. Run"},
		"401":         {ibmcloudtest.Fault{Status: 401}, "HTTP 401. IAM rejects the key"},
		"unknown":     {ibmcloudtest.Fault{Status: 400, Body: code("BXNIM0415E")}, "The key is not known to IAM"},
		"disabled":    {ibmcloudtest.Fault{Status: 400, Body: code("BXNIM0462E")}, "BXNIM0462E. The key is disabled"},
		"user left":   {ibmcloudtest.Fault{Status: 400, Body: code("BXNIM0410E")}, "The key is of a user who has left the account"},
		"address":     {ibmcloudtest.Fault{Status: 401, Body: code("BXNIM0430E")}, "Requests from this IP address are not permitted"},
		"restriction": {ibmcloudtest.Fault{Status: 403, Body: "<html>pwned", ContentType: "text/html"}, "HTTP 403. The key may not be used from this address"},
		"404":         {ibmcloudtest.Fault{Status: 404}, "HTTP 404. The answer is not IAM's"},
		"429":         {ibmcloudtest.Fault{Status: 429}, "HTTP 429. Try again later"},
		"500":         {ibmcloudtest.Fault{Status: 500}, "HTTP 500. Try again later"},
	} {
		t.Run(name, func(t *testing.T) {
			fx := newFixture(t)
			test.fault.Op = ibmcloudtest.OpIAMToken
			fx.fault(test.fault)
			r := fx.run()
			for _, words := range []string{"trying the new key ApiKey-", " of the workload service id: ", test.words, "Run setup again: it makes another key"} {
				if r.exit != 1 || !strings.Contains(r.stderr, words) {
					t.Errorf("got exit %d, %q; want 1 and the words %q", r.exit, r.stderr, words)
				}
			}
			for _, words := range []string{"IAM_TOKEN", "fetch a new one", "Needed: ", "private-only", "Check the ids"} {
				if strings.Contains(r.stderr, words) {
					t.Errorf("got %q, which is not about the key: %q", r.stderr, words)
				}
			}
			fx.cloud.ClearFaults()
			fx.complete(fx.succeed(), 0)
		})
	}
}

// TestKVTokenSecret: the secret has the mark without which the function writes none, and a later run finds it.
func TestKVTokenSecret(t *testing.T) {
	fx := newFixture(t)
	id := fx.succeed("--kv").values["TOKEN_SECRET"]
	current := fx.cloud.MustCurrent(id)
	if current.Data["iam_token"] != "no token yet" || current.Metadata["rotator_version"] != "rotatorctl" {
		t.Errorf("got %v with the metadata %v, want the entry iam_token and rotator_version", current.Data, current.Metadata)
	}
	for _, args := range [][]string{{}, {"--kv"}} {
		if again := fx.succeed(args...).values["TOKEN_SECRET"]; again != id {
			t.Errorf("setup %v: got the token secret %s, want %s", args, again, id)
		}
	}
}

func TestPassingFaultsAreWaitedOut(t *testing.T) {
	fx := newFixture(t)
	fx.fault(ibmcloudtest.Fault{Op: "secrets.list", Times: 1, Drop: ibmcloudtest.DropBefore})
	fx.fault(ibmcloudtest.Fault{Op: "secrets.list", Times: 3, Status: 500})
	fx.fault(ibmcloudtest.Fault{Op: "apikeys.create", Times: 2, Status: 429, Headers: map[string]string{"Retry-After": "1"}})
	fx.fault(ibmcloudtest.Fault{Op: "iam.token", Times: 3, Status: 400, Body: `{"errorCode":"BXNIM0415E"}`}) // IAM does not know the key yet
	fx.complete(fx.succeed(), 0)
}

func TestRotateKeys(t *testing.T) {
	fx := newFixture(t)
	files := []string{"--reader-key-file", fx.path("reader.key")}
	first := fx.succeed(files...)
	elsewhere := fx.succeed("--aws-secret", "team/other")
	fx.asAdmin("POST", "/v1/apikeys", `{"name":"somebody's","iam_id":"`+fx.outputs["workload_iam_id"]+`"}`)
	foreign := fx.asAdmin("POST", "/v1/apikeys", `{"name":"iam-token-rotator-workload","description":"$(touch /tmp/pwned)\u001b[2J","iam_id":"`+fx.outputs["workload_iam_id"]+`"}`)["id"].(string)
	old := map[string]string{"bootstrap": fx.aws.secrets[defaultAWSSecret], "reader": fx.read("reader.key"), "workload": fx.cloud.MustCurrent(first.values["API_KEY_SECRET"]).Payload}
	fx.forget()
	second := fx.succeed(append(files, "--rotate-keys")...)
	for name, changed := range map[string]bool{"API_KEY_SECRET": false, "TOKEN_SECRET": false, "BOOTSTRAP_SECRET_ARN": false, "WORKLOAD_APIKEY_ID": true, "BOOTSTRAP_APIKEY_ID": true, "READER_APIKEY_ID": true} {
		if got := second.values[name] != first.values[name]; got != changed {
			t.Errorf("%s: got a change: %v, want %v", name, got, changed)
		}
	}
	want := []string{"apikeys.create", "versions.create", "apikeys.update", "apikeys.create", "apikeys.update", "apikeys.create", "apikeys.update", "UpdateSecret"}
	if got := fx.writes(); !slices.Equal(got, want) {
		t.Errorf("got the requests %q, want each key made, stored and noted, and none deleted: %q", got, want)
	}
	for role, key := range old {
		fx.owner(key, fx.outputs[role+"_iam_id"]) // goes on working
	}
	if !strings.Contains(second.stderr, foreign+" is also named iam-token-rotator-workload and not of setup's making") {
		t.Errorf("want a note of the foreign key:\n%s", second.stderr)
	}
	other := elsewhere.values["BOOTSTRAP_APIKEY_ID"]
	noted := regexp.MustCompile(`ibmcloud iam service-api-key-delete (\S+) (\S+)`).FindAllStringSubmatch(second.stderr, -1)
	for _, found := range noted {
		if key := fx.asAdmin("GET", "/v1/apikeys/"+found[1], ""); key["iam_id"] != "iam-"+found[2] {
			t.Errorf("got the command %q, want the key's own service id", found[0])
		}
		if found[1] != other { // which is in use elsewhere
			fx.asAdmin("DELETE", "/v1/apikeys/"+found[1], "")
		}
	}
	for role, key := range old {
		fx.rejected("the old key of the "+role, key)
	}
	if third := fx.succeed(files...); len(noted) != 4 || third.stdout != second.stdout || strings.Count(third.stderr, "service-api-key-delete") != 1 {
		t.Errorf("got %d commands and\n%s%s, want 4, then the same lines, and the key elsewhere alone noted", len(noted), third.stdout, third.stderr)
	}
	fx.owner(fx.aws.secrets[defaultAWSSecret], fx.outputs["bootstrap_iam_id"])
	fx.owner(fx.aws.secrets["team/other"], fx.outputs["bootstrap_iam_id"])
	fx.owner(fx.read("reader.key"), fx.outputs["reader_iam_id"])
	if got, want := fx.keyIDs("bootstrap"), []string{other, second.values["BOOTSTRAP_APIKEY_ID"]}; !slices.Equal(got, want) {
		t.Errorf("keys of the bootstrap: got %q, want the other place's and the one in use, %q", got, want)
	}
	if got, want := fx.keyIDs("workload"), []string{foreign, second.values["WORKLOAD_APIKEY_ID"]}; !slices.Equal(got, want) {
		t.Errorf("keys of the workload: got %q, want the foreign one and the one in use, %q", got, want)
	}
}

// TestFurtherWorkload: it has another name, and no bootstrap key.
func TestFurtherWorkload(t *testing.T) {
	fx := newFixture(t)
	first := fx.succeed()
	other := fx.succeed("--name", "billing", "--no-bootstrap-key")
	if other.values["BOOTSTRAP_APIKEY_ID"] != "" || other.values["API_KEY_SECRET"] == first.values["API_KEY_SECRET"] {
		t.Errorf("got %q, want its own secrets and no bootstrap key", other.values)
	}
	fx.succeed("--name", "billing", "--no-bootstrap-key", "--rotate-keys")
	fx.complete(fx.succeed(), 0)
}

func TestKeyFiles(t *testing.T) {
	fx := newFixture(t)
	both := []string{"--bootstrap-key-file", fx.path("bootstrap.key"), "--reader-key-file", fx.path("one.key")}
	first := fx.succeed(both...)
	fx.owner(fx.read("bootstrap.key"), fx.cloud.BootstrapIAMID())
	fx.owner(fx.read("one.key"), fx.cloud.ReaderIAMID())
	if first.values["BOOTSTRAP_SECRET_ARN"] != "" || len(fx.aws.writes) > 0 {
		t.Errorf("got %q, want nothing stored in AWS", first.values)
	}
	// The same file by any path is the same place; another file gets its own key.
	if err := os.Symlink(fx.folder, fx.path("link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(fx.folder)
	for _, path := range []string{"one.key", fx.folder + "/./one.key", fx.path("link/one.key")} {
		fx.forget()
		if again := fx.succeed("--bootstrap-key-file", "bootstrap.key", "--reader-key-file", path); again.stdout != first.stdout || len(fx.writes()) > 0 {
			t.Errorf("%s: got %q, want no change", path, fx.writes())
		}
	}
	one := fx.read("one.key")
	fx.succeed("--bootstrap-key-file", "bootstrap.key", "--reader-key-file", "two.key", "--rotate-keys")
	if two := fx.read("two.key"); two == one || fx.read("one.key") != one {
		t.Error("got the same key in two files, or the other file written")
	}
	fx.owner(one, fx.cloud.ReaderIAMID())
	// What lies there is replaced, whatever its mode, and a link is not followed.
	if err := os.Symlink(fx.path("two.key"), fx.path("three.key")); err != nil {
		t.Fatal(err)
	}
	two := fx.read("two.key")
	fx.succeed("--bootstrap-key-file", "bootstrap.key", "--reader-key-file", "three.key")
	if fx.read("two.key") != two || fx.read("three.key") == two {
		t.Error("a link was followed")
	}
	if left, _ := filepath.Glob(fx.path(".*")); len(left) > 0 {
		t.Errorf("temporary files: got %q, want none", left)
	}
	fx.fail(2, "a file each", "--reader-key-file", "both.key", "--bootstrap-key-file", "./both.key")
	if moved := fx.succeed(); moved.values["BOOTSTRAP_APIKEY_ID"] == first.values["BOOTSTRAP_APIKEY_ID"] {
		t.Error("to AWS: got the key of the file, want another")
	}
	fx.owner(fx.read("bootstrap.key"), fx.cloud.BootstrapIAMID())
}

// TestFileThatCannotBeReplaced: it shows after the key was made, and the next run deletes that key.
func TestFileThatCannotBeReplaced(t *testing.T) {
	fx := newFixture(t)
	fx.succeed()
	file := fx.path("reader.key")
	fx.env["IAM_URL"] = fx.lying(func(request *http.Request, body []byte) []byte {
		if request.URL.Path == "/identity/token" {
			_ = os.MkdirAll(filepath.Join(file, "occupied"), 0o700)
		}
		return body
	})
	fx.fail(1, "reader.key failed", "--reader-key-file", file)
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	fx.env["IAM_URL"] = fx.origin
	fx.succeed("--reader-key-file", file)
	fx.owner(fx.read("reader.key"), fx.cloud.ReaderIAMID())
	if got := fx.keyIDs("reader"); len(got) != 1 {
		t.Errorf("got %d keys of the reader, want 1", len(got))
	}
}

// lying is the origin of an IBM Cloud whose answers are changed.
func (fx *fixture) lying(change func(request *http.Request, body []byte) []byte) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		fx.cloud.ServeHTTP(answer, r)
		body := change(r, answer.Body.Bytes())
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(answer.Code)
		_, _ = w.Write(body)
	}))
	fx.t.Cleanup(server.Close)
	return server.URL
}

// asked is what the cloud answers to the same request with another query.
func (fx *fixture) asked(r *http.Request, change func(query url.Values)) []byte {
	other, query, answer := r.Clone(r.Context()), r.URL.Query(), httptest.NewRecorder()
	change(query)
	other.URL.RawQuery = query.Encode()
	fx.cloud.ServeHTTP(answer, other)
	return answer.Body.Bytes()
}

// TestForeignValues: services answer with values that a shell, a terminal or a URL would take for more. They are
// neither printed nor used; run's own checks see to the former.
func TestForeignValues(t *testing.T) {
	hostile := []string{`'; touch /tmp/pwned; '`, `"; touch /tmp/pwned; "`, "$(touch /tmp/pwned)", "x\ny='pwned'", "\x1b]0;pwned\x07", "\u202epwned", "../pwned", "pwned?x=y#", ""}
	places := map[string]struct {
		path, field string
		harmless    bool // the run goes on without the value
	}{
		"key id, listed":      {path: "/v1/apikeys", field: "id"},
		"iam id, listed":      {path: "/v1/apikeys", field: "iam_id"},
		"account, listed":     {path: "/v1/apikeys", field: "account_id"},
		"description, listed": {path: "/v1/apikeys", field: "description", harmless: true},
		"date, listed":        {path: "/v1/apikeys", field: "expires_at", harmless: true},
		"secret id, listed":   {path: "/api/v2/secrets", field: "id"},
		"secret id, created":  {path: "/api/v2/secrets", field: "id"},
		"token":               {path: "/identity/token", field: "access_token"},
		"key":                 {path: "/v1/apikeys", field: "apikey"},
	}
	for name, place := range places {
		t.Run(name, func(t *testing.T) {
			for _, value := range hostile {
				if name == "description, listed" {
					value = "stored in " + strings.ReplaceAll(value, " ", "") + ";at=2026-01-01T00:00:00.000Z by set-up-secrets"
				}
				fx := newFixture(t)
				if strings.HasSuffix(name, "listed") {
					fx.succeed()
				}
				liar := fx.replacing(place.path, place.field, value)
				fx.env["IAM_URL"], fx.outputs["secrets_manager_url"] = liar, liar
				if r := fx.run(); r.exit == 0 && !place.harmless || r.exit == 2 {
					t.Errorf("%q: got exit %d, want 1\n%s", value, r.exit, r.stderr)
				}
			}
		})
	}
	for _, arn := range append(hostile[:8:8], "arn:aws:secretsmanager:eu-central-1:123456789012:secret:another-a1b2c3", "arn:aws:secretsmanager:x:1:secret:iam-token-rotator/bootstrap-a1b2c3") {
		fx := newFixture(t)
		fx.aws.arn = arn
		fx.fail(1, "AWS's answer lacks the ARN of the secret")
	}
}

// replacing is the origin of an IBM Cloud whose answers at a path have another value in a field.
func (fx *fixture) replacing(path, field, value string) string {
	return fx.lying(func(r *http.Request, body []byte) []byte {
		var answer any
		if r.URL.Path == path && json.Unmarshal(body, &answer) == nil {
			replace(answer, field, value)
			body, _ = json.Marshal(answer)
		}
		return body
	})
}

// replace sets a field wherever it is a string.
func replace(in any, field, value string) {
	switch in := in.(type) {
	case []any:
		for _, element := range in {
			replace(element, field, value)
		}
	case map[string]any:
		for name, element := range in {
			if _, isText := element.(string); isText && name == field {
				in[name] = value
			} else {
				replace(element, field, value)
			}
		}
	}
}

// TestKeyOfAnotherIdentity: IAM makes a key that is not the service id's. It is tried, and not stored.
func TestKeyOfAnotherIdentity(t *testing.T) {
	for _, key := range []string{"reader", "unknown"} {
		fx := newFixture(t)
		value, words := fx.cloud.ReaderAPIKey(), "its token is another identity's or account's"
		if key == "unknown" {
			value, words = strings.Repeat("k", 44), "HTTP 400 BXNIM0415E. The key is not known to IAM"
		}
		fx.env["IAM_URL"] = fx.replacing("/v1/apikeys", "apikey", value)
		fx.fail(1, words)
		if got := fx.writes(); !slices.Equal(got, []string{"secrets.create", "apikeys.create"}) { // the first is the token secret
			t.Errorf("%s: got %q, want the key not stored", key, got)
		}
	}
}

func TestLists(t *testing.T) {
	t.Run("our keys and secrets lie on a later page", func(t *testing.T) {
		fx := newFixture(t)
		for i := range 202 { // at 200 a page
			fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Name: fmt.Sprintf("iam-token-rotator-token-%d", i), Group: fx.cloud.TokenGroupName(), Payload: "x"})
		}
		for range 15 { // an identity has 20 at most
			fx.asAdmin("POST", "/v1/apikeys", `{"name":"another","iam_id":"`+fx.outputs["workload_iam_id"]+`"}`)
		}
		fx.env["IAM_URL"] = fx.lying(func(r *http.Request, body []byte) []byte {
			if r.Method == http.MethodGet && r.URL.Path == "/v1/apikeys" {
				body = fx.asked(r, func(query url.Values) { query.Set("pagesize", "5") })
				body = []byte(strings.ReplaceAll(string(body), fx.origin, fx.env["IAM_URL"])) // of the next page
			}
			return body
		})
		first := fx.succeed()
		if second := fx.succeed(); second.stdout != first.stdout {
			t.Errorf("got\n%s, want\n%s", second.stdout, first.stdout)
		}
	})
	t.Run("the newest key of a minute, in no order", func(t *testing.T) {
		fx := newFixture(t)
		fx.env["IAM_URL"] = fx.lying(func(r *http.Request, body []byte) []byte {
			var listing map[string]any
			_ = json.Unmarshal(body, &listing)
			if keys, ok := listing["apikeys"].([]any); ok {
				slices.Reverse(keys)
				body, _ = json.Marshal(listing)
			}
			return body
		})
		fx.succeed()
		second := fx.succeed("--rotate-keys")
		if again := fx.succeed(); again.stdout != second.stdout {
			t.Errorf("got\n%s, want what the last run printed,\n%s", again.stdout, second.stdout)
		}
	})
	for path, field := range map[string]string{"/v1/apikeys": "next", "/api/v2/secrets": "total_count"} {
		t.Run("an endless list at "+path, func(t *testing.T) {
			fx := newFixture(t)
			fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Name: "iam-token-rotator-token-x", Group: fx.cloud.TokenGroupName(), Payload: "x"})
			fx.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Name: "iam-token-rotator-api-key-x", Payload: "x"})
			liar := fx.lying(func(r *http.Request, body []byte) []byte {
				if r.URL.Path == path {
					first := fx.asked(r, func(query url.Values) { query.Del("pagetoken"); query.Del("offset") })
					var listing map[string]any
					_ = json.Unmarshal(first, &listing)
					listing[field] = map[string]any{"next": fx.origin + path + "?pagetoken=0", "total_count": 1 << 40}[field]
					body, _ = json.Marshal(listing)
				}
				return body
			})
			fx.env["IAM_URL"], fx.outputs["secrets_manager_url"] = liar, liar
			fx.fail(1, "list does not end")
		})
	}
}

func TestLogin(t *testing.T) {
	fx := newFixture(t)
	bare := fx.admin
	for _, form := range []string{bare, "Bearer " + bare, "bearer " + bare, "IAM token:  Bearer " + bare + "\n", "iam TOKEN:\tBEARER  " + bare + "\r\n", " \n" + bare + "\n\n",
		"IAM token:  Bearer " + bare + "\nUAA token:  Bearer x\n", `"Bearer ` + bare + `"`, `{"iam_token":"Bearer ` + bare + `","uaa_token":""}`} {
		fx.env["IAM_TOKEN"] = form
		fx.succeed()
	}
	for _, form := range []string{"a\nurl = evil", "null", "Bearer", "Bearer ", `a"b`, `{"iam_token":null}`, "{}", bare + " " + bare, bare + "\n" + bare} {
		fx.env["IAM_TOKEN"] = form
		fx.fail(2, "IAM_TOKEN is not a token")
	}
	fx.env["IAM_TOKEN"] = "nonsense"
	fx.fail(1, "fetch a new one")
	_, fx.env["IAM_TOKEN"] = fx.exchange(fx.cloud.ReaderAPIKey())
	fx.fail(1, "Needed: Operator on the service id")
	fx.env["IAM_TOKEN"] = ""
	fx.fail(2, "set IAM_TOKEN or IBMCLOUD_API_KEY")
	fx.env["IBMCLOUD_API_KEY"] = fx.cloud.AdminAPIKey()
	fx.succeed()
	fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsList, Times: 1, Status: 401})
	fx.fail(1, "HTTP 401. The token that IAM gave for IBMCLOUD_API_KEY is rejected")
	fx.env["IBMCLOUD_API_KEY"] = strings.Repeat("k", 44)
	fx.fail(1, "logging in with IBMCLOUD_API_KEY: HTTP 400 BXNIM0415E. The key is not known to IAM: it was deleted, has expired or was made seconds ago: replace it by a valid key.")
	fx.env["IBMCLOUD_API_KEY"] = "{}"
	fx.fail(2, "IBMCLOUD_API_KEY holds JSON")
}

func TestNotes(t *testing.T) {
	fx := newFixture(t)
	if r := fx.succeed("--expires-in", "13"); strings.Contains(r.stderr, "note:") {
		t.Errorf("a new key: got %s, want no note", r.stderr)
	}
	if r := fx.succeed(); strings.Count(r.stderr, "--rotate-keys") != 2 {
		t.Errorf("got %s, want a note for each of the two keys", r.stderr)
	}
	r := fx.succeed("--rotate-keys", "--expires-in", "0")
	if _, there := r.values["BOOTSTRAP_EXPIRES_AT"]; there {
		t.Error("--expires-in 0: got BOOTSTRAP_EXPIRES_AT, want none")
	}
	fx.asAdmin("POST", "/api/v2/secrets", `{"secret_type":"arbitrary","name":"other-token","payload":"x"}`)
	fx.fail(1, "use another --name", "--name", "other", "--no-bootstrap-key")
	fx.fault(ibmcloudtest.Fault{Op: "apikeys.update", Times: 1, Status: 409})
	fx.fail(1, "Is the key locked", "--rotate-keys")
	account := fx.outputs["account_id"]
	fx.outputs["account_id"] = strings.Repeat("0", 32)
	fx.fail(1, "listing the API keys of the workload service id: HTTP 400. Check the ids")
	fx.outputs["account_id"], fx.outputs["secrets_manager_url"] = account, "http://127.0.0.1:1"
	fx.fail(1, "allow public-and-private")
}

func TestSetupUsage(t *testing.T) {
	key := strings.Repeat("k", 44)
	output := func(name, value string) func(*fixture) { return func(fx *fixture) { fx.outputs[name] = value } }
	for name, test := range map[string]struct {
		args   []string
		change func(*fixture)
		words  string
	}{
		"an argument":            {[]string{key}, nil, "takes no arguments"},
		"unknown option":         {[]string{"--api-key=" + key}, nil, "unknown option"},
		"name with a blank":      {[]string{"--name", "a b"}, nil, "--name takes"},
		"name of a path":         {[]string{"--name", "../x"}, nil, "--name takes"},
		"days in words":          {[]string{"--expires-in", key}, nil, "--expires-in"},
		"days past all dates":    {[]string{"--expires-in", "10000"}, nil, "9999 at most"},
		"days ago":               {[]string{"--expires-in=-1"}, nil, "9999 at most"},
		"a file and no key":      {[]string{"--bootstrap-key-file", "b.key", "--no-bootstrap-key"}, nil, "leaves nothing to write"},
		"no outputs":             {[]string{"--terraform", "/nowhere"}, nil, "the outputs cannot be read: there is no such file or folder"},
		"no folder for the file": {[]string{"--reader-key-file", "/nowhere/\x1breader.key"}, nil, `/nowhere/\x1breader.key cannot be written`},
		"a folder for the file":  {[]string{"--bootstrap-key-file", os.TempDir()}, nil, "cannot be written"},
		"plain http":             {nil, func(fx *fixture) { fx.env["IAM_URL"] = "http://iam.cloud.ibm.com" }, "IAM_URL must be an https URL"},
		"URL with a path":        {nil, output("secrets_manager_url", "https://example.com/api/v2"), "without a path"},
		"URL without an id":      {nil, output("secrets_manager_url", "https://null.us-south.secrets-manager.appdomain.cloud"), "its host complete"},
		"URL with a placeholder": {nil, output("secrets_manager_url", "https://<id>.us-south.secrets-manager.appdomain.cloud"), "its host complete"},
		"URL with an empty id":   {nil, output("secrets_manager_url", "https://.us-south.secrets-manager.appdomain.cloud"), "its host complete"},
		"URL with a user":        {nil, output("secrets_manager_url", "https://u:p@example.com"), "without a path"},
		"Terraform not applied":  {nil, func(fx *fixture) { fx.outputs = nil }, "after terraform apply"},
		"an output is missing":   {nil, output("key_group_id", ""), "KEY_GROUP_ID is not set"},
		"an id with a slash":     {nil, output("account_id", "../x"), "ACCOUNT_ID does not have the form"},
		"an account in quotes":   {nil, output("account_id", "'"+strings.Repeat("0", 32)+"'"), "ACCOUNT_ID does not have the form"},
		"a newline after the id": {nil, func(fx *fixture) { fx.outputs["workload_iam_id"] += "\n" }, "WORKLOAD_IAM_ID does not have the form"},
		"another profile":        {nil, output("iam_profile_id", "$(id)"), "IAM_PROFILE_ID does not have the form"},
		"no reader":              {[]string{"--reader-key-file", "reader.key"}, output("reader_iam_id", ""), "READER_IAM_ID is empty"},
		"a file for no key":      {[]string{"--bootstrap-key-file", "b.key"}, output("bootstrap_iam_id", ""), "BOOTSTRAP_IAM_ID is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			fx := newFixture(t)
			if test.change != nil {
				test.change(fx)
			}
			fx.forget()
			fx.fail(2, test.words, test.args...)
			if got := fx.cloud.Requests(); len(got) > 0 {
				t.Errorf("got %d requests, want none", len(got))
			}
		})
	}
	for _, printed := range []string{"", "\n", "{}", "[]", "null", `{"workload_iam_id":{"value":null}}`} {
		if r := newFixture(t).runWith(printed, "--terraform", "-"); r.exit != 2 || !strings.Contains(r.stderr, "after terraform apply") {
			t.Errorf("%q: got exit %d and %q, want 2 and what to do", printed, r.exit, r.stderr)
		}
	}
}

// TestSourcesOfOutputs: a file, a folder in which terraform runs, or the environment.
func TestSourcesOfOutputs(t *testing.T) {
	fx := newFixture(t)
	if err := os.WriteFile(fx.path("outputs.json"), []byte(fx.terraform()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fx.path("terraform"), []byte("#!/bin/sh\nprintf '\\033[31m token: %s\\n' \"$IAM_TOKEN\" >&2\n[ \"$*\" = '-chdir="+fx.folder+" output -json -no-color' ] && cat '"+fx.path("outputs.json")+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", fx.folder+":"+os.Getenv("PATH"))
	t.Setenv("IAM_TOKEN", "Bearer of-a-person")
	first := fx.succeed()
	for _, source := range []string{fx.path("outputs.json"), fx.folder, ""} {
		args := []string{"--terraform", source}
		if source == "" {
			args = nil
			for name, value := range fx.outputs {
				fx.env[strings.ToUpper(name)] = value
			}
		}
		if r := fx.runWith("", args...); r.stdout != first.stdout {
			t.Errorf("%s: got exit %d: %s%s, want what was printed before", source, r.exit, r.stdout, r.stderr)
		} else if source == fx.folder && !strings.Contains(r.stderr, `\x1b[31m token: `+"\n") {
			t.Errorf("got %q, want what terraform said, escaped, without the person's token, which it does not need", r.stderr)
		}
	}
}

func TestPutKey(t *testing.T) {
	fx := newFixture(t)
	put := func(key string, args ...string) outcome {
		return runWith(t, fx.env, configFor(fx.aws.url), key, append([]string{"put-key", "--name", "team/key"}, args...)...)
	}
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:team/key-a1b2c3\n"
	for _, key := range []string{strings.Repeat("aZ0_-", 8) + "abcd", strings.Repeat("k", 8), strings.Repeat("k", 512)} {
		if got := put("\n\n "+key+"\t\r\n", "--kms-key-id", "alias/own"); got.exit != 0 || got.stdout != arn || fx.aws.secrets["team/key"] != key || fx.aws.kms != "alias/own" {
			t.Errorf("%d characters: got exit %d, %q, %q; want them stored", len(key), got.exit, got.stdout, got.stderr)
		}
	}
	if want := []string{"CreateSecret", "UpdateSecret", "UpdateSecret"}; !slices.Equal(fx.aws.writes, want) {
		t.Errorf("got %q, want %q", fx.aws.writes, want)
	}
	fx.forget()
	for input, words := range map[string]string{
		"": "is empty", " \n": "is empty", "secret-key\nsecret-key\n": "more than one word", "secret-key secret-key": "more than one word",
		"null\n": "a field that is not there", "short\n": "too short", strings.Repeat("secret-k", 65): "too long",
		"secret-kéy": "a character that no API key has", "\ufeffsecret-key": "begins with a byte-order mark", `"secret-key"`: "is in quotes", `{"apikey":"secret-key"}`: "jq -er .apikey", "secret-k\x00": "an invisible character",
	} {
		if got := put(input); got.exit != 2 || got.stdout != "" || strings.Contains(got.stderr, "secret-k") || !strings.Contains(got.stderr, "standard input ") || !strings.Contains(got.stderr, words) {
			t.Errorf("%q: got exit %d, %q, %q, want 2 and %q", input, got.exit, got.stdout, got.stderr, words)
		}
	}
	if got := put("a good key", strings.Repeat("k", 44)); got.exit != 2 || strings.Contains(got.stderr, "kkkk") {
		t.Errorf("the key as an argument: got exit %d, %q, want 2 and not the key", got.exit, got.stderr)
	}
	codes := maps.Clone(advice)
	codes["ExpiredTokenException"], codes["InvalidSignatureException"], codes["ThrottlingException"] = "sign in again", "clock", "in a minute"
	for code, words := range codes {
		fx.aws.fail = code
		if got := put("secret-key"); got.exit != 1 || !strings.Contains(got.stderr, words) || strings.Contains(got.stderr, "secret-k") {
			t.Errorf("%s: got exit %d, %q, want 1 and %q", code, got.exit, got.stderr, words)
		}
	}
	fx.aws.fail = "secret-key\x1b[31m"
	if got := put("secret-key"); got.exit != 1 || !strings.Contains(got.stderr, "an unknown code") || strings.ContainsRune(got.stderr, '\x1b') {
		t.Errorf("a foreign code: got exit %d, %q", got.exit, got.stderr)
	}
	if len(fx.aws.writes) > 0 {
		t.Errorf("got %q, want nothing stored", fx.aws.writes)
	}
	broken := configFor(fx.aws.url)
	broken.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, errors.New("secret-key") })
	if got := runWith(t, fx.env, broken, "secret-key", "put-key"); got.exit != 1 || got.stderr != "rotatorctl: no usable AWS credentials: check AWS_PROFILE, or log in (aws sso login)\n" {
		t.Errorf("no credentials: got exit %d, %q", got.exit, got.stderr)
	}
	fx.aws.url = strings.Replace(fx.aws.url, "127.0.0.1", "aws.example", 1)
	if got := put("secret-key"); got.exit != 1 || !strings.Contains(got.stderr, "must be https") {
		t.Errorf("plain http to another host: got exit %d, %q", got.exit, got.stderr)
	}
}

// TestAWSFails: the next run goes on.
func TestAWSFails(t *testing.T) {
	fx := newFixture(t)
	fx.aws.fail = "AccessDeniedException"
	fx.fail(1, "you need secretsmanager:DescribeSecret")
	fx.aws.fail, fx.aws.lose = "", true
	fx.fail(1, "no answer: check AWS_REGION")
	fx.aws.lose = false
	fx.complete(fx.succeed(), 0)
	// AWS is asked only where a key is to be stored there, and then before one is made.
	fx.aws.url = "http://127.0.0.1:1"
	fx.succeed()
	fx.forget()
	fx.fail(1, "no answer: check AWS_REGION", "--rotate-keys")
	fx.fail(1, "no answer: check AWS_REGION", "--aws-secret", "another")
	if got := fx.writes(); len(got) > 0 {
		t.Errorf("requests that change something: got %q, want none", got)
	}
}

func TestPausesAreBounded(t *testing.T) {
	var slept []time.Duration
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "99999")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(server.Close)
	c := newIBMCloud(server.URL, server.URL, func(_ context.Context, d time.Duration) error { slept = append(slept, d); return nil })
	err := c.send(t.Context(), &failure{}, http.MethodPost, "secrets", nil, nil)
	if statusOf(err) != http.StatusTooManyRequests || len(slept) != tries-1 || slices.Max(slept) != 30*time.Second {
		t.Errorf("got %v, %v; want %d pauses of 30 s at most", slept, err, tries-1)
	}
}
