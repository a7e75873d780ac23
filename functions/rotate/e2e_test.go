package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/report"
	"iam-token-rotator/scripts/awstest"
	"iam-token-rotator/scripts/programs"
)

// The tests in this file drive the built binary as AWS does, through scripts/invoke, against the sandbox over HTTPS.

// built and usesMoto are set once builtPrograms and oneMoto have been called: few tests need them.
var built, usesMoto atomic.Bool

// builtPrograms builds iam-token-rotator and invoke once and returns their folder.
var builtPrograms = sync.OnceValues(func() (string, error) {
	built.Store(true)
	folder, err := os.MkdirTemp("", "rotate-e2e-")
	if err != nil {
		return "", err
	}
	return folder, programs.Build(folder, map[string]string{"iam-token-rotator": "functions/rotate", "invoke": "scripts/invoke"})
})

// oneMoto serves all tests: each has resources of its own.
var oneMoto = sync.OnceValues(awstest.StartMoto)

func startedMoto(t *testing.T) *awstest.Moto {
	t.Helper()
	programs.Need(t, "moto_server")
	usesMoto.Store(true)
	moto, err := oneMoto()
	if err != nil {
		t.Fatal(err)
	}
	return moto
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.Load() {
		folder, _ := builtPrograms()
		_ = os.RemoveAll(folder)
	}
	if usesMoto.Load() {
		if moto, err := oneMoto(); err == nil {
			moto.Stop()
		}
	}
	os.Exit(code)
}

// fixture is a sandbox that is served over HTTPS, and the environment of programs that use it.
type fixture struct {
	t      *testing.T
	bin    string
	dir    string
	cloud  *ibmcloudtest.Cloud
	server *httptest.Server
	env    map[string]string
}

// newFixture serves a sandbox until the test ends. Its certificate is for 127.0.0.1 and for example.com and its hosts.
func newFixture(t *testing.T, options ibmcloudtest.Options) *fixture {
	t.Helper()
	bin, err := builtPrograms()
	if err != nil {
		t.Fatal(err)
	}
	fx := &fixture{t: t, bin: bin, dir: t.TempDir(), cloud: ibmcloudtest.New(options)}
	fx.server = httptest.NewUnstartedServer(fx.cloud)
	fx.server.EnableHTTP2 = true
	fx.server.StartTLS()
	t.Cleanup(fx.server.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: fx.server.Certificate().Raw})
	authority := fx.file("ca.pem", string(certificate))
	one := fx.cloud.Rotations()[0]
	fx.env = map[string]string{
		"SECRETS_MANAGER_URL": fx.server.URL, "IAM_URL": fx.server.URL, "SECRETS_MANAGER_APIKEY": fx.cloud.BootstrapAPIKey(),
		"API_KEY_SECRET": one.APIKeySecret, "TOKEN_SECRET": one.TokenSecret, "SSL_CERT_FILE": authority,
	}
	return fx
}

// file writes a file of the fixture.
func (fx *fixture) file(name, content string) string {
	fx.t.Helper()
	name = filepath.Join(fx.dir, name)
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		fx.t.Fatal(err)
	}
	return name
}

// run runs a program with the fixture's environment and more, and returns its exit
// code. Whatever it prints is searched for pieces of keys and tokens.
func (fx *fixture) run(more map[string]string, program string, args ...string) (stdout, stderr string, exit int) {
	fx.t.Helper()
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, set := range []map[string]string{fx.env, more} {
		for name, value := range set {
			env = append(env, name+"="+value)
		}
	}
	got := programs.Run(fx.t, programs.Command{Env: env, Name: filepath.Join(fx.bin, program), Args: args})
	for _, secret := range []string{fx.cloud.BootstrapAPIKey(), fx.cloud.Rotations()[0].APIKey, "eyJ"} {
		for piece := range slices.Chunk([]byte(secret), 12) {
			if len(piece) > 2 && strings.Contains(got.All(), string(piece)) {
				fx.t.Errorf("%s printed a key or token", program)
			}
		}
	}
	return got.Stdout, got.Stderr, got.Exit
}

// invoke delivers the events of invoke's arguments to the function.
func (fx *fixture) invoke(more map[string]string, args ...string) (stdout, stderr string, exit int) {
	fx.t.Helper()
	return fx.run(more, "invoke", append(args, "--", filepath.Join(fx.bin, "iam-token-rotator"))...)
}

// stored is the token that readers get.
func (fx *fixture) stored() string { return fx.cloud.MustCurrent(fx.env["TOKEN_SECRET"]).Payload }

func (fx *fixture) fault(f ibmcloudtest.Fault) { fx.cloud.MustAddFault(f) }

// firstResults are the first result of each report in stdout, a line each.
func firstResults(t *testing.T, stdout string) []report.Result {
	t.Helper()
	var all []report.Result
	for line := range strings.Lines(stdout) {
		ran, err := report.Parse([]byte(line))
		if err != nil || len(ran.Results) == 0 {
			t.Fatalf("not a report: %s", line)
		}
		all = append(all, ran.Results[0])
	}
	return all
}

func TestTheBuiltFunctionFailsLoudlyAndKeepsTheGoodToken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault     ibmcloudtest.Fault
		more      map[string]string
		errorType string
		says      string
	}{
		"empty 200":   {ibmcloudtest.Fault{Op: "iam.token", Identity: "workload", Status: 200}, nil, "RotationError", "default: check: invalid_token"},
		"unreachable": {ibmcloudtest.Fault{Op: "versions.metadata", Drop: "before"}, nil, "RotationError", "default: look: unavailable"},
		"slow":        {ibmcloudtest.Fault{Op: "versions.create", Delay: time.Minute}, nil, "RotationError", "default: save: timeout"},
		"forbidden":   {ibmcloudtest.Fault{Op: "secrets.get", Status: 403}, nil, "RotationRefused", "default: read_key: denied"},
		"echo": {ibmcloudtest.Fault{Op: "iam.token", Identity: "workload", Status: 400,
			Body: `{"errorCode":"BXNIM0415E","errorMessage":"KEY"}`}, nil, "RotationRefused", "default: exchange: denied"},
		"unknown CA":   {ibmcloudtest.Fault{}, map[string]string{"SSL_CERT_FILE": "/dev/null"}, "RotationRefused", "not trusted"},
		"private host": {ibmcloudtest.Fault{}, map[string]string{"SECRETS_MANAGER_URL": "https://instance.private.invalid"}, "RotationError", "is a private endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fx := newFixture(t, ibmcloudtest.Options{})
			good := fx.cloud.MustMintToken(fx.cloud.Rotations()[0].APIKey, time.Hour)
			fx.cloud.MustPutVersion(fx.env["TOKEN_SECRET"], good, nil)
			if test.fault.Op != "" {
				test.fault.Body = strings.Replace(test.fault.Body, "KEY", fx.cloud.BootstrapAPIKey(), 1)
				fx.fault(test.fault)
			}
			stdout, stderr, exit := fx.invoke(test.more, "-timeout", "3s")
			var answer struct{ ErrorType, ErrorMessage string }
			if err := json.Unmarshal([]byte(stdout), &answer); err != nil || exit != 1 {
				t.Fatalf("got exit %d, %s%s", exit, stdout, stderr)
			}
			if answer.ErrorType != test.errorType || !strings.Contains(answer.ErrorMessage, test.says) {
				t.Errorf("got %v, want a %s that says %s", answer, test.errorType, test.says)
			}
			if !strings.Contains(stderr, `"Failure":1`) || !strings.Contains(stderr, `"msg":"report"`) {
				t.Errorf("got log %s, want the report and a metric", stderr)
			}
			if fx.stored() != good {
				t.Error("a failed run has changed the stored token")
			}
		})
	}
}

func TestTheBuiltCommandServesManyRotations(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{Rotations: 30})
	var list []map[string]string
	for _, one := range fx.cloud.Rotations() {
		list = append(list, map[string]string{"name": one.Name, "api_key_secret": one.APIKeySecret, "token_secret": one.TokenSecret})
	}
	encoded, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	many := map[string]string{"SECRETS_MANAGER_MAX_RPS": "0", "API_KEY_SECRET": "", "TOKEN_SECRET": "", "ROTATIONS_FILE": fx.file("rotations.json", string(encoded))}
	stdout, stderr, exit := fx.run(many, "iam-token-rotator", "-mode", "ensure")
	if exit != 0 || !strings.HasSuffix(stdout, "\n30 rotations: 30 rotated\n") {
		t.Fatalf("got exit %d, %s%s", exit, stdout, stderr)
	}
	stdout, _, _ = fx.run(many, "iam-token-rotator", "-mode", "ensure", "-rotation", list[7]["name"])
	if !strings.HasPrefix(stdout, list[7]["name"]+": fresh") {
		t.Errorf("got %s, want that one alone: fresh", stdout)
	}
}

func TestTheBuiltDoctorBeforeAndAfterTheFirstToken(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{})
	stdout, stderr, exit := fx.run(nil, "iam-token-rotator", "doctor")
	if exit != 0 || stderr != "" || !strings.Contains(stdout, "✓ iam-tls               TLS 1.3") || !strings.Contains(stdout, "! stored-token") {
		t.Fatalf("got exit %d, %s%s", exit, stdout, stderr)
	}
	wantNothingWritten(t, fx.cloud)
	if _, stderr, exit := fx.run(nil, "iam-token-rotator"); exit != 0 {
		t.Fatal(stderr)
	}
	stdout, _, exit = fx.run(nil, "iam-token-rotator", "doctor")
	if exit != 0 || !strings.HasSuffix(stdout, "nothing is wrong that can be seen without writing\n") || strings.ContainsAny(stdout, "✗!") {
		t.Errorf("got exit %d, %s", exit, stdout)
	}
	fx.fault(ibmcloudtest.Fault{Op: "versions.metadata", Delay: time.Minute})
	stdout, _, exit = fx.run(nil, "iam-token-rotator", "doctor", "-timeout", "4s")
	if exit != 1 || !strings.HasPrefix(stdout, "rotation default\n✗ stored-token          timeout") {
		t.Errorf("got exit %d, %s", exit, stdout)
	}
	stdout, _, exit = fx.run(map[string]string{"SSL_CERT_FILE": "/dev/null"}, "iam-token-rotator", "doctor")
	if exit != 1 || !strings.HasPrefix(stdout, "✗ iam-tls ") {
		t.Errorf("got exit %d, %s", exit, stdout)
	}
}

// A secret and a parameter in AWS get the token under the id of IBM's version. A mirror that fails, fails the invocation, but not the
// token at IBM. In the clear it is not written.
func TestTheFunctionMirrorsTheTokenToAWS(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{})
	moto := startedMoto(t)
	more := awstest.Environment(moto.URL())
	delete(more, "AWS_REGION") // the ARNs' counts
	more["API_KEY_SECRET"], more["TOKEN_SECRET"], more["TOKEN_SECRET_ARN"] = "", "", ""
	mirrorTo := func(arns ...string) {
		more["ROTATIONS"] = fmt.Sprintf(`[{"name":"logs","api_key_secret":%q,"token_secret":%q,"format":"json","mirror":["%s"]}]`,
			fx.env["API_KEY_SECRET"], fx.env["TOKEN_SECRET"], strings.Join(arns, `","`))
	}
	parameter := func(name, kind string) (arn string) {
		moto.MustCall(t, "ssm", "AmazonSSM.PutParameter", map[string]any{"Name": name, "Type": kind, "Value": "no token yet"})
		return "arn:aws:ssm:" + awstest.Region + ":123456789012:parameter" + name
	}
	valueOf := func(parameter string) (value string) {
		answer := moto.MustCall(t, "ssm", "AmazonSSM.GetParameter", map[string]any{"Name": parameter, "WithDecryption": true})
		value, _ = answer["Parameter"].(map[string]any)["Value"].(string)
		return value
	}
	created := moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret",
		map[string]any{"Name": "iam-token", "ClientRequestToken": "11111111-2919-432f-9883-d5040bfcd326"})
	secret, secure := created["ARN"].(string), parameter("/tokens/logs", "SecureString")
	mirrorTo(secret, secure)
	stdout, stderr, exit := fx.invoke(more)
	if exit != 0 {
		t.Fatalf("got exit %d: %s%s", exit, stdout, stderr)
	}
	version := firstResults(t, stdout)[0].VersionID
	inSecret := moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": secret})
	if token := fx.stored(); inSecret["VersionId"] != version || !strings.HasPrefix(token, `{"access_token":"eyJ`) ||
		inSecret["SecretString"] != token || valueOf(secure) != token {
		t.Errorf("the secret has version %v, want %v; or a mirror has not what is stored at IBM", inSecret["VersionId"], version)
	}
	described := moto.MustCall(t, "ssm", "AmazonSSM.DescribeParameters", map[string]any{})["Parameters"].([]any)[0].(map[string]any)
	if !strings.Contains(described["Description"].(string), version) {
		t.Errorf("got the description %q, want version %s in it", described["Description"], version)
	}
	if stdout, _, exit := fx.invoke(more, "-event", fx.file("event.json", `{"mode":"ensure"}`)); exit != 0 || !strings.Contains(stdout, `"fresh"`) {
		t.Errorf("ensure: got exit %d and %s, want fresh", exit, stdout)
	}
	if stdout, _, exit := fx.run(more, "iam-token-rotator", "doctor"); exit != 0 || strings.Count(stdout, "✓ mirror ") != 2 {
		t.Errorf("doctor: got exit %d and %s, want both mirrors in order", exit, stdout)
	}
	clear := parameter("/tokens/clear", "String")
	for arn, kind := range map[string]string{strings.Replace(secret, "iam-token", "no-such-token", 1): "not_found", clear: "misconfigured"} {
		mirrorTo(arn)
		stdout, stderr, exit := fx.invoke(more)
		if exit != 1 || !strings.Contains(stdout, "mirror: "+kind) || !strings.Contains(stderr, `"Failure":1`) {
			t.Errorf("%s: got exit %d and %s, want a failure of the step mirror and a metric that counts it", arn, exit, stdout)
		}
	}
	if valueOf(clear) != "no token yet" {
		t.Error("the parameter that is no SecureString was written")
	}
}

// A rule of the bus sees the token once, however often its event is delivered. A bus that is not there fails nothing.
func TestTheFunctionAnnouncesEachTokenOnce(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{})
	moto := startedMoto(t)
	more := awstest.Environment(moto.URL())
	moto.MustCall(t, "events", "AWSEvents.CreateEventBus", map[string]any{"Name": "tokens"})
	moto.MustCall(t, "events", "AWSEvents.PutRule", map[string]any{"Name": "all", "EventBusName": "tokens", "EventPattern": `{"source":["iam-token-rotator"]}`})
	queue := moto.MustCall(t, "sqs", "AmazonSQS.CreateQueue", map[string]any{"QueueName": "all"})["QueueUrl"]
	moto.MustCall(t, "events", "AWSEvents.PutTargets", map[string]any{"Rule": "all", "EventBusName": "tokens",
		"Targets": []any{map[string]any{"Id": "queue", "Arn": "arn:aws:sqs:" + awstest.Region + ":123456789012:all"}}})
	received := func() (events []string) {
		messages, _ := moto.MustCall(t, "sqs", "AmazonSQS.ReceiveMessage", map[string]any{"QueueUrl": queue, "MaxNumberOfMessages": 10})["Messages"].([]any)
		for _, message := range messages {
			event, _ := message.(map[string]any)["Body"].(string)
			events = append(events, event)
		}
		return events
	}
	more["EVENT_BUS_NAME"] = "tokens"
	delivered := fx.file("event.json", `{"run_id":"rotate-2026-01-01T10:00:00Z"}`)
	stdout, stderr, exit := fx.invoke(more, "-n", "3", "-event", delivered)
	events := received()
	if exit != 0 || len(events) != 1 {
		t.Fatalf("got exit %d and %d events, want one: %s%s", exit, len(events), stdout, stderr)
	}
	var event struct {
		Type   string `json:"detail-type"`
		Detail report.Result
	}
	result := firstResults(t, stdout)[0]
	if err := json.Unmarshal([]byte(events[0]), &event); err != nil || event.Type != "Token Rotated" || event.Detail.VersionID != result.VersionID || event.Detail.Fingerprint != result.Fingerprint ||
		!event.Detail.ExpiresAt.Equal(*result.ExpiresAt) || event.Detail.Rotation != "default" {
		t.Errorf("got %s (%v), want what the report shows: %s", events[0], err, stdout)
	}
	if strings.Contains(events[0], "eyJ") {
		t.Error("the event has a token in it")
	}
	for _, mode := range []string{"check", "doctor", "ensure"} {
		if _, _, exit := fx.invoke(more, "-event", fx.file("event.json", `{"mode":"`+mode+`"}`)); exit != 0 || len(received()) != 0 {
			t.Errorf("%s: exit %d, or it was announced", mode, exit)
		}
	}
	if stdout, _, exit := fx.run(more, "iam-token-rotator", "-json"); exit != 0 || len(received()) != 1 {
		t.Errorf("the command: got exit %d and %s, want one event", exit, stdout)
	}
	fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: "workload", Case: "key_disabled"})
	fx.invoke(more, "-n", "3")
	if events := received(); len(events) != 1 || !strings.Contains(events[0], `"Rotation Failed"`) || !strings.Contains(events[0], `"step": "exchange"`) {
		t.Errorf("three failed runs of a process: got %q, want one failure, its step in it", events)
	}
	fx.cloud.ClearFaults()
	more["EVENT_BUS_NAME"] = "no-such-bus"
	stdout, _, exit = fx.run(more, "iam-token-rotator")
	if exit != 0 || !strings.Contains(stdout, "default: rotated") || !strings.Contains(stdout, `warning: the event "Token Rotated" is not announced: not_found: putting the event on the bus of EVENT_BUS_NAME: `) {
		t.Errorf("no such bus: got exit %d and %s, want a warning", exit, stdout)
	}
}

// Each pass stores another token, which a job can use. What it costs is round trips; their number follows from the
// connections and the requests.
func TestTheBuiltFunctionRotatesWithNoMoreRequestsAndConnectionsThanItMust(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{})
	sandbox, err := url.Parse(fx.env["IAM_URL"])
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]*ibmcloudtest.SlowProxy{"IAM_URL": nil, "SECRETS_MANAGER_URL": nil}
	behind := map[string]string{}
	for name := range hosts {
		proxy, err := ibmcloudtest.NewSlowProxy(sandbox.Host, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = proxy.Close() }()
		hosts[name], behind[name] = proxy, "https://"+proxy.Addr()
	}
	stdout, stderr, exit := fx.invoke(behind, "-event", "event.json", "-n", "3")
	if exit != 0 {
		t.Fatalf("got exit %d\n%s%s", exit, stdout, stderr)
	}
	fingerprints := map[string]bool{}
	for _, result := range firstResults(t, stdout) {
		if fingerprints[result.Fingerprint] = true; result.Outcome != report.Rotated {
			t.Errorf("got %+v, want rotated", result)
		}
	}
	if len(fingerprints) != 3 || strings.Count(stderr, `"msg":"report"`) != 3 || strings.Count(stderr, `"_aws":`) != 3 {
		t.Errorf("got %d tokens and log %s, want 3, with a report and metrics for each", len(fingerprints), stderr)
	}
	if got := hosts["IAM_URL"].Connections(); got != 1 {
		t.Errorf("got %d connections to IAM for three passes, want 1", got)
	}
	// The reads of metadata and key begin together; net/http may dial for each before it
	// learns that the first connection serves both.
	if got := hosts["SECRETS_MANAGER_URL"].Connections(); got > 2 {
		t.Errorf("got %d connections to Secrets Manager for three passes, want at most 2", got)
	}
	pass := []string{"iam.token", "secrets.get", "versions.create", "versions.metadata"}
	want := slices.Concat([]string{"iam.token", "iam.keys"}, pass, pass, pass) // for the bootstrap identity, and to verify tokens
	slices.Sort(want)
	var got []string
	for _, request := range fx.cloud.Requests() {
		got = append(got, request.Op)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got requests %v, want %v", got, want)
	}
	request, err := http.NewRequest(http.MethodGet, fx.server.URL+"/v3/targets", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+fx.stored())
	response, err := fx.server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("Logs Routing answered %s, want 200", response.Status)
	}
}

// net/http logs what a server sends unasked, and HTTP/2's debug switch logs every
// header and body. Both repeat keys and tokens, whatever our log level.
func TestTheBuiltFunctionWithholdsWhatLibrariesLog(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{}) // fx.run searches all output for keys and tokens
	for host, args := range map[string][]string{"iam-token-rotator": nil, "invoke": {"--", fx.bin + "/iam-token-rotator"}} {
		if _, stderr, exit := fx.run(map[string]string{"GODEBUG": "http2debug=2"}, host, args...); exit != 0 || strings.Contains(stderr, "http2") {
			t.Errorf("%s: got exit %d: %s", host, exit, stderr)
		}
	}
}

func TestTheProxyOfTheEnvironmentIsUsedButNotForNoProxy(t *testing.T) {
	t.Parallel()
	fx := newFixture(t, ibmcloudtest.Options{})
	fx.env["SECRETS_MANAGER_URL"], fx.env["IAM_URL"] = "https://instance.example.com", "https://iam.example.com"
	const iam, instance = "CONNECT iam.example.com:443 Basic dXNlcjpwYXNzd29yZA==", "CONNECT instance.example.com:443 Basic dXNlcjpwYXNzd29yZA=="
	for noProxy, want := range map[string][]string{"": {iam, instance}, "iam.example.com": {instance}, ".example.com": nil} {
		asked := make(chan string, 1000) // "CONNECT host password"
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked <- r.Method + " " + r.Host + " " + r.Header.Get("Proxy-Authorization")
			w.WriteHeader(http.StatusBadGateway)
		}))
		fx.env["HTTPS_PROXY"] = strings.Replace(proxy.URL, "http://", "http://user:password@", 1)
		said, log, _ := fx.run(map[string]string{"NO_PROXY": noProxy}, "iam-token-rotator", "doctor", "-timeout", "2s")
		if len(want) > 0 && !strings.Contains(said, "the proxy on the way to ") || len(want) > 0 && !strings.Contains(said, ".example.com answered 502") || strings.Contains(said+log, "password@") {
			t.Errorf("NO_PROXY=%s: got %q, want the proxy and its status named", noProxy, said)
		}
		proxy.Close() // waits for the requests that are still served
		close(asked)
		var got []string
		for request := range asked {
			got = append(got, request)
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("NO_PROXY=%s: got %v, want %v", noProxy, got, want)
		}
	}
}

// TestNoSwitchTurnsVerificationOff holds every program and script to it.
func TestNoSwitchTurnsVerificationOff(t *testing.T) {
	forbidden := []string{"InsecureSkipVerify", "--insecure", "curl -k", "--no-verify-ssl", "VERIFY_NONE"}
	searched := 0
	for _, folder := range []string{"..", "../../scripts", "../../infra"} {
		err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(file, "_test.go") {
				return err
			}
			content, err := os.ReadFile(file)
			searched++
			for _, word := range forbidden {
				if strings.Contains(string(content), word) {
					t.Errorf("%s has %s", file, word)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if searched < 100 {
		t.Errorf("searched %d files, want all", searched)
	}
}
