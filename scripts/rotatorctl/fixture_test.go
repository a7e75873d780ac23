package main

import (
	"cmp"
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
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/awstest"
)

const day = 24 * time.Hour

// A fixture is one IBM Cloud, AWS's secrets, Terraform's state, and the files and environment of a person who runs setup.
type fixture struct {
	t       *testing.T
	cloud   *ibmcloudtest.Cloud
	origin  string
	admin   string // the person's token
	aws     *fakeAWS
	folder  string
	outputs map[string]string // Terraform's
	env     map[string]string
	terra   fakeTerraform

	awsSecret string // the name of the AWS secret, if it is not setup's own
}

func newFixture(t *testing.T, managed bool) *fixture {
	t.Helper()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	fx := &fixture{t: t, cloud: cloud, origin: server.URL, aws: newFakeAWS(t), folder: t.TempDir(), outputs: map[string]string{
		"account_id": cloud.AccountID(), "key_group_id": cloud.KeyGroupID(), "token_group_id": cloud.TokenGroupID(), "bootstrap_iam_id": cloud.BootstrapIAMID(),
		"workload_iam_id": cloud.Rotations()[0].IAMID, "reader_iam_id": cloud.ReaderIAMID(), "iam_profile_id": "", "managed_keys": fmt.Sprint(managed),
	}}
	fx.terra = fakeTerraform{next: map[string]string{}, state: map[string]string{"ibm_iam_service_id.reader": "", "ibm_iam_service_policy.workload[0]": "",
		`ibm_iam_service_policy.secret_group["bootstrap-keys"]`: "", `ibm_iam_service_policy.secret_group["bootstrap-tokens"]`: "", `ibm_iam_service_policy.secret_group["reader"]`: ""}}
	for role, address := range serviceIDAddresses {
		fx.terra.state[address] = fx.outputs[role+"_iam_id"]
		fx.terra.next[role] = cloud.MustCopyServiceID(fx.outputs[role+"_iam_id"])
	}
	fx.repair()
	return fx
}

// repair ends all faults.
func (fx *fixture) repair() {
	fx.cloud.ClearFaults()
	_, fx.admin = fx.exchange(fx.cloud.AdminAPIKey())
	fx.env = map[string]string{"IAM_URL": fx.origin, "IAM_TOKEN": "Bearer " + fx.admin}
	fx.outputs["secrets_manager_url"] = fx.origin
	fx.aws.fail, fx.aws.lose, fx.aws.arn, fx.aws.deleted, fx.aws.url = "", false, "", false, fx.aws.server
}

func (fx *fixture) path(name string) string { return filepath.Join(fx.folder, name) }

func (fx *fixture) read(name string) string {
	fx.t.Helper()
	raw, err := os.ReadFile(fx.path(name))
	noError(fx.t, err)
	if info, err := os.Stat(fx.path(name)); err != nil || info.Mode().Perm() != 0o600 {
		fx.t.Errorf("%s: got %v, %v; want mode 600", name, info, err)
	}
	return strings.TrimSpace(string(raw))
}

func (fx *fixture) write(name, text string) {
	fx.t.Helper()
	noError(fx.t, os.WriteFile(fx.path(name), []byte(text), 0o600))
}

// fakeTerraform emulates Terraform with the state of infra/ibm, as far as replace-identity needs it. An apply makes each service
// id that is not in the state: the next one, which the cloud already has.
type fakeTerraform struct {
	next  map[string]string // by role
	state map[string]string // the addresses, with a service id's IAM id
	fails string            // the beginning of a command
	plan  string            // of other changes
}

// serviceIDAddresses are the addresses of service ids in the state, by role.
var serviceIDAddresses = map[string]string{"workload": "ibm_iam_service_id.workload", "bootstrap": "ibm_iam_service_id.bootstrap[0]"}

type exitStatus int

func (exitStatus) Error() string   { return "exit status" }
func (s exitStatus) ExitCode() int { return int(s) }

// outputsJSON is what `terraform output -json` prints.
func (fx *fixture) outputsJSON() string {
	outputs := map[string]any{}
	for name, value := range fx.outputs {
		outputs[name] = map[string]any{"sensitive": false, "type": "string", "value": value}
	}
	raw, _ := json.Marshal(outputs)
	return string(raw)
}

func (fx *fixture) terraform(_ string, args ...string) (printed, complaint []byte, err error) {
	said, tf := strings.Join(args, " "), &fx.terra
	if tf.fails != "" && strings.HasPrefix(said, tf.fails) {
		return nil, []byte("Error: no luck\n"), exitStatus(1)
	}
	id, byID := strings.CutPrefix(said, "state list -id=")
	switch {
	case said == "output -json -no-color":
		printed = []byte(fx.outputsJSON())
	case said == "plan -detailed-exitcode -input=false -no-color" && tf.plan != "":
		printed, err = []byte(tf.plan), exitStatus(2)
	case said == "plan -detailed-exitcode -input=false -no-color":
	case byID && slices.Contains(slices.Collect(maps.Values(tf.state)), "iam-"+id):
		printed = []byte("found\n")
	case byID:
	case said == "state list":
		printed = []byte(strings.Join(slices.Sorted(maps.Keys(tf.state)), "\n"))
	case strings.HasPrefix(said, "state rm ibm_"):
		maps.DeleteFunc(tf.state, func(address, _ string) bool {
			return slices.Contains(args, address) || slices.Contains(args, strings.TrimSuffix(address, "[0]"))
		})
	case said == "apply -auto-approve -input=false -no-color":
		for role, address := range serviceIDAddresses {
			if _, there := tf.state[address]; !there {
				tf.state[address], fx.outputs[role+"_iam_id"] = tf.next[role], tf.next[role]
			}
		}
	default:
		err = errors.New("unknown")
	}
	return printed, nil, err
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

// command runs rotatorctl, and checks that it prints no secret and no foreign text.
func (fx *fixture) command(typed string, args ...string) outcome {
	fx.t.Helper()
	got := runAs(fx.t, func(p *program) { p.terraform = fx.terraform }, fx.env, configFor(fx.aws.url), typed, args...)
	fx.aws.serving.Lock() // an aborted request may be served still
	defer fx.aws.serving.Unlock()
	for _, found := range secretShape.FindAllString(strings.ReplaceAll(got.all(), fx.folder, ""), -1) {
		if !publicID.MatchString(found) {
			fx.t.Fatalf("a secret of %d characters is printed", len(found)) // before a failure prints the output
		}
	}
	if strings.ContainsFunc(got.stderr, func(c rune) bool { return c != '\n' && c < ' ' || c == '\u202e' }) || strings.Contains(got.all(), "pwned") {
		fx.t.Errorf("foreign text is printed: %q", got.all())
	}
	return got
}

// run runs setup with Terraform's outputs on its standard input.
func (fx *fixture) run(args ...string) run {
	fx.t.Helper()
	if fx.awsSecret != "" {
		args = append(args, "--aws-secret", fx.awsSecret)
	}
	r := run{fx.command(fx.outputsJSON(), append([]string{"setup", "--terraform", "-"}, args...)...), map[string]string{}}
	for text := range strings.Lines(r.stdout) {
		if found := line.FindStringSubmatch(strings.TrimSuffix(text, "\n")); found != nil {
			r.values[found[1]] = found[2]
		} else if r.exit == 0 && !slices.Contains(args, "json") {
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

// unchanged runs setup again, which must print the same and change nothing.
func (fx *fixture) unchanged(r run, args ...string) run {
	fx.t.Helper()
	fx.forget()
	again := fx.succeed(args...)
	if got := fx.writes(); len(got) > 0 || again.stdout != r.stdout {
		fx.t.Errorf("again: got %q and\n%s%s, want no change of\n%s", got, again.stdout, again.stderr, r.stdout)
	}
	return again
}

func (fx *fixture) fail(words string, args ...string) {
	fx.t.Helper()
	if r := fx.run(args...); r.exit != 1 || r.stdout != "" || !strings.Contains(r.stderr, words) {
		fx.t.Fatalf("setup %s: got exit %d, %q, %q; want exit 1 and the words %q", strings.Join(args, " "), r.exit, r.stdout, r.stderr, words)
	}
}

// exchange exchanges a key for a token, and returns IAM's status too.
func (fx *fixture) exchange(key string) (status int, token string) {
	fx.t.Helper()
	response, err := http.PostForm(fx.origin+"/identity/token", url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key}})
	noError(fx.t, err)
	defer response.Body.Close()
	var body struct {
		Token string `json:"access_token"`
	}
	_ = json.NewDecoder(response.Body).Decode(&body)
	return response.StatusCode, body.Token
}

// owner checks that a key works, and belongs to the identity.
func (fx *fixture) owner(key, iamID string) {
	fx.t.Helper()
	status, token := fx.exchange(key)
	if claims, err := iamtoken.ReadClaims(token); status != 200 || claims.IAMID != iamID || err != nil {
		fx.t.Errorf("a stored key: got %d, identity %s, %v; want 200 and %s", status, claims.IAMID, err, iamID)
	}
}

// statusOf is the cloud's status for a request with a token.
func (fx *fixture) statusOf(token, path string) int {
	fx.t.Helper()
	request, _ := http.NewRequest("GET", fx.origin+path, nil)
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fx.t.Errorf("GET %s: %v", path, err)
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// useToken calls Logs Routing with the published token.
func (fx *fixture) useToken(tokenSecret string) {
	if status := fx.statusOf(fx.cloud.MustCurrent(tokenSecret).Payload, "/v3/targets"); status != 200 {
		fx.t.Errorf("Logs Routing, asked with the published token: got %d, want 200", status)
	}
}

// asAdmin sends a request with the admin's token and decodes the answer.
func (fx *fixture) asAdmin(method, path, body string) map[string]any {
	fx.t.Helper()
	request, _ := http.NewRequestWithContext(fx.t.Context(), method, fx.origin+path, strings.NewReader(body))
	request.Header = http.Header{"Authorization": {"Bearer " + fx.admin}, "Content-Type": {"application/json"}, "If-Match": {"*"}}
	response, err := http.DefaultClient.Do(request)
	noError(fx.t, err)
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

// later advances IBM's clock, and logs in again.
func (fx *fixture) later(d time.Duration) {
	fx.t.Helper()
	fx.cloud.Advance(d)
	_, fx.admin = fx.exchange(fx.cloud.AdminAPIKey())
	fx.env["IAM_TOKEN"] = fx.admin
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

// complete checks what a run printed and made. The stored keys must work. With fixed keys an identity may have this many old keys
// besides. With managed keys AWS must have the bootstrap's current key, and a fixed one before it.
func (fx *fixture) complete(r run, old int) {
	fx.t.Helper()
	fx.cloud.MustCurrent(r.values["TOKEN_SECRET"])
	fx.owner(fx.cloud.MustCurrent(r.values["API_KEY_SECRET"]).Payload, fx.outputs["workload_iam_id"])
	fx.owner(fx.aws.secrets[defaultAWSSecret], fx.outputs["bootstrap_iam_id"])
	if fx.outputs["managed_keys"] != "true" {
		for _, role := range []string{"workload", "bootstrap"} {
			if got := fx.keyIDs(role); len(got) > 1+old || !slices.Contains(got, r.values[strings.ToUpper(role)+"_APIKEY_ID"]) {
				fx.t.Errorf("keys of the %s: got %q, want the one printed, %q, and %d old ones at most", role, got, r.values, old)
			}
		}
		return
	}
	for role, variable := range map[string]string{"workload": "API_KEY_SECRET", "bootstrap": "BOOTSTRAP_KEY_SECRET"} {
		metadata := fx.asAdmin("GET", "/api/v2/secrets/"+r.values[variable]+"/metadata", "")
		for field, value := range map[string]any{
			"secret_type": "iam_credentials", "secret_group_id": fx.outputs["key_group_id"], "ttl": "1080h", "reuse_api_key": true,
			"service_id": subject(fx.outputs[role+"_iam_id"]), "versions_total": 2, "rotation": "map[auto_rotate:true interval:15 unit:day]",
		} {
			want(fx.t, role+": "+field, metadata[field], value)
		}
	}
	fx.followed(r)
	if got := fx.aws.version; len(got[0]) != 64 || !strings.HasPrefix(got[0], "ApiKey-") || got[1] == "" || strings.HasPrefix(got[1], "ApiKey-") {
		fx.t.Errorf("versions at AWS: got %q, want a managed key after a fixed one", got)
	}
}

// followed checks that AWS has the bootstrap's current managed key.
func (fx *fixture) followed(r run) {
	fx.t.Helper()
	if fx.aws.secrets[defaultAWSSecret] != fx.cloud.MustCurrent(r.values["BOOTSTRAP_KEY_SECRET"]).Payload {
		fx.t.Error("AWS does not have the current managed key")
	}
}

func subject(iamID string) string { return strings.TrimPrefix(iamID, "iam-") }

// lying is the origin of an IBM Cloud whose answers change changes.
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

// asked is the cloud's answer to the same request with another query.
func (fx *fixture) asked(r *http.Request, change func(query url.Values)) []byte {
	other, query, answer := r.Clone(r.Context()), r.URL.Query(), httptest.NewRecorder()
	change(query)
	other.URL.RawQuery = query.Encode()
	fx.cloud.ServeHTTP(answer, other)
	return answer.Body.Bytes()
}

// lie has IBM Cloud answer with another value in a string field, at a path, and if that ends with / also below it.
func (fx *fixture) lie(path, field, value string) {
	text := regexp.MustCompile(`"` + field + `":"[^"]*"`)
	encoded, _ := json.Marshal(map[string]string{field: value})
	liar := fx.lying(func(r *http.Request, body []byte) []byte {
		if r.URL.Path == path || strings.HasSuffix(path, "/") && strings.HasPrefix(r.URL.Path, path) {
			return text.ReplaceAllLiteral(body, encoded[1:len(encoded)-1])
		}
		return body
	})
	fx.env["IAM_URL"], fx.outputs["secrets_manager_url"] = liar, liar
}

// fakeAWS emulates AWS Secrets Manager, as far as setup needs it.
type fakeAWS struct {
	server, url string            // the url is the server's unless a test changes it
	serving     sync.Mutex        // held while a request is served
	secrets     map[string]string // the current values
	version     [2]string         // of the secret written last, the current and the previous
	kms         string
	writes      []string
	fail        string // an error code to answer with
	lose        bool   // do the request, but do not answer
	arn         string // in place of the ARN
	deleted     bool   // scheduled for deletion
}

func newFakeAWS(t *testing.T) *fakeAWS {
	f := &fakeAWS{secrets: map[string]string{}}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.server, f.url = server.URL, server.URL
	return f
}

func (f *fakeAWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.serving.Lock()
	defer f.serving.Unlock()
	var in struct{ SecretId, Name, SecretString, KmsKeyId, ClientRequestToken string }
	body, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(body, &in)
	if form, _ := url.ParseQuery(string(body)); form.Has("Action") { // of any stack, by anybody
		_, _ = io.WriteString(w, map[bool]string{true: stackIn("any", "CREATE_COMPLETE"),
			false: "<GetCallerIdentityResponse><GetCallerIdentityResult/></GetCallerIdentityResponse>"}[form.Get("Action") == "DescribeStacks"])
		return
	}
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "secretsmanager.")
	name := cmp.Or(arnName(in.SecretId), in.SecretId, in.Name)
	_, there := f.secrets[name]
	code := ""
	switch {
	case f.fail != "" && op != "DescribeSecret":
		code = f.fail
	case op != "CreateSecret" && !there:
		code = "ResourceNotFoundException"
	case op != "DescribeSecret":
		f.writes, f.secrets[name], f.kms = append(f.writes, op), in.SecretString, in.KmsKeyId
		f.version = [2]string{in.ClientRequestToken, f.version[0]}
	}
	if code != "" {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": "repeats " + string(body) + "\x1b]0;pwned"})
		return
	}
	if f.lose && op != "DescribeSecret" {
		panic(http.ErrAbortHandler)
	}
	arn := "arn:aws:secretsmanager:" + awstest.Region + ":123456789012:secret:" + name + "-a1b2c3"
	if f.arn != "" {
		arn = f.arn
	}
	answer := map[string]any{"ARN": arn, "Name": name, "VersionId": f.version[0],
		"VersionIdsToStages": map[string][]string{f.version[0]: {"AWSCURRENT"}, f.version[1]: {"AWSPREVIOUS"}}}
	if f.deleted {
		answer["DeletedDate"] = 1.7e9
	}
	_ = json.NewEncoder(w).Encode(answer)
}
