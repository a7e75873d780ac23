package readmetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
)

const (
	// patience is how long the commands of a stage may take.
	patience = 3 * time.Minute
	// serverPatience is how long a server may take to be ready, its programs built.
	serverPatience = time.Minute
)

// play starts the servers of a stage and runs its other blocks in one shell, in a folder of the copy.
func (w *world) play(blocks []*block, dir string) {
	w.t.Helper()
	var commands []*block
	for _, b := range blocks {
		if slices.Contains(b.words, "server") {
			w.serve(b)
		} else {
			commands = append(commands, b)
		}
	}
	out := w.t.TempDir()
	script := filepath.Join(out, "script")
	w.write(script, scriptOf(commands, out))
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	shell := w.command(ctx, script)
	shell.Dir = filepath.Join(w.dir, dir)
	err := shell.Run()
	for i, b := range commands {
		printed, _ := os.ReadFile(filepath.Join(out, fmt.Sprint(i, ".out")))
		w.printed[b] = string(printed)
		if _, undone := os.Stat(filepath.Join(out, fmt.Sprint(i, ".done"))); undone != nil {
			complaint, _ := os.ReadFile(filepath.Join(out, fmt.Sprint(i, ".err")))
			w.t.Fatalf("%s: these commands failed (%v):\n%s\nthey printed:\n%s%s", b.where(), err, b.text, scrub(string(printed)), scrub(string(complaint)))
		}
	}
	if err != nil {
		w.t.Fatalf("the shell: %v", err)
	}
}

// scriptOf is the blocks as one script for sh, which ends with the first command that fails and leaves
// what each block prints in files of out.
func scriptOf(blocks []*block, out string) string {
	text := "set -eu\n"
	for i, b := range blocks {
		text += fmt.Sprintf("exec >'%s/%d.out' 2>'%s/%d.err'\n%s\n", out, i, out, i, b.runnable())
		for _, exported := range exportShape.FindAllStringSubmatch(b.text, -1) {
			text += fmt.Sprintf("[ -n \"$%s\" ] || { echo '%s is empty' >&2; exit 1; }\n", exported[1], exported[1])
		}
		text += fmt.Sprintf(": >'%s/%d.done'\n", out, i)
	}
	return text
}

// exportShape is an export of what a command prints. It succeeds whether the command does or not.
var exportShape = regexp.MustCompile(`(?m)^export (\w+)="\$\(`)

// command is a shell with the world's environment. Cancelled, it ends with all that it has started.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	shell := exec.CommandContext(ctx, "sh", args...)
	shell.Dir, shell.Env = w.dir, programs.Environ(w.env)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) }
	shell.WaitDelay = 10 * time.Second
	return shell
}

// serve runs a block in a terminal of its own until the test ends, and returns when it is ready.
func (w *world) serve(b *block) {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	server := w.command(ctx, "-euc", b.runnable())
	var printed strings.Builder
	server.Stdout, server.Stderr = &printed, &printed
	if err := server.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		stop()
		_ = server.Wait()
	})
	if _, err := envfile.Await(w.t.Context(), filepath.Join(w.dir, ready[strings.TrimSpace(b.text)]), serverPatience); err != nil {
		stop()
		_ = server.Wait()
		w.t.Fatalf("%s: %v; it printed:\n%s", b.where(), err, scrub(printed.String()))
	}
}

// secretShape is a token, or a run of characters as long as an API key.
var secretShape = regexp.MustCompile(`eyJ[\w-]{10,}[\w.-]*|\b[A-Za-z0-9_-]{44}\b`)

// scrub takes out of a text what may be secret, for the test's own log.
func scrub(text string) string { return secretShape.ReplaceAllString(text, "[secret]") }

// masks replace what differs from run to run, in the sample as in what is printed.
var masks = []struct {
	shape *regexp.Regexp
	mask  string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`), "<time>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d`), "<day>"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "<account>"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "<fingerprint>"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(`port \d+`), "<port>"},
	{regexp.MustCompile(`\d+ bytes`), "<bytes>"},
	{regexp.MustCompile(`https?://(…\S*|<address>)`), "<origin>"},
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+s\b`), "<while>"},
	{regexp.MustCompile(`(:secret:[\w/-]+)-\w{6}\b`), "$1-<random>"},
}

func masked(text string) string {
	for _, m := range masks {
		text = m.shape.ReplaceAllString(text, m.mask)
	}
	return text
}

// differs tells how a sample differs from what was printed, empty if it does not. In the sample, …
// stands for anything within a line; alone, for any lines.
func differs(sample, printed string) string {
	got := strings.Split(strings.TrimRight(masked(printed), "\n"), "\n")
	gap := false
	for _, line := range strings.Split(strings.TrimRight(masked(sample), "\n"), "\n") {
		if line == "…" {
			gap = true
			continue
		}
		shape := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "$")
		at := 0
		for gap && at < len(got) && !shape.MatchString(got[at]) {
			at++
		}
		if at >= len(got) || !shape.MatchString(got[at]) {
			return "it has the line\n  " + line + "\nwhere the command prints\n  " + strings.Join(got, "\n  ")
		}
		got, gap = got[at+1:], false
	}
	if len(got) > 0 && !gap {
		return "the command goes on to print\n  " + strings.Join(got, "\n  ")
	}
	return ""
}

// sampled is the block whose output a sample shows: the last commands before it on its page.
func sampled(sample *block) *block {
	var last *block
	for _, b := range sample.page.blocks {
		if b == sample {
			return last
		}
		if b.language == "sh" {
			last = b
		}
	}
	return nil
}

// checkSamples compares the samples of all blocks that this world has run.
func (w *world) checkSamples() {
	w.t.Helper()
	for _, b := range allBlocks(w.t) {
		if b.language != "text" || !b.is("output") {
			continue
		}
		printed, ran := w.printed[sampled(b)]
		if difference := differs(b.text, printed); ran && difference != "" {
			w.t.Errorf("%s: this sample is not what %s prints: %s", b.where(), sampled(b).where(), scrub(difference))
		}
	}
}

func TestEverySampleFollowsItsCommand(t *testing.T) {
	for _, b := range allBlocks(t) {
		if b.language == "text" && b.is("output") && (sampled(b) == nil || sampled(b).section != b.section) {
			t.Errorf("%s: no command stands above this output in its section", b.where())
		}
	}
}

func TestDiffers(t *testing.T) {
	for _, test := range []struct {
		sample, printed string
		same            bool
	}{
		{"a\nb", "a\nb\n", true},
		{"a\n…\nd", "a\nb\nc\nd\n", true},
		{"a\n…", "a\n", true},
		{"…\nb", "a\nb\nc\n", false},
		{"a…c", "abbc\n", true},
		{"a", "a\nb\n", false},
		{"a\nb", "a\n", false},
		{"a.c", "abc\n", false},
		{"in 59m59s at 2026-11-23T20:02:46Z", "in 1h0m0s at 2027-01-01T00:00:00.123Z\n", true},
		{"in 59m59s", "in time\n", false},
	} {
		if got := differs(test.sample, test.printed); (got == "") != test.same {
			t.Errorf("%q and %q: got %q, want them the same: %t", test.sample, test.printed, got, test.same)
		}
	}
}

// TestChangeOfKeysGoesOnInAnotherShell: the first step is cut off with one key stored and one not, each
// step has a shell of its own, and in the end there is one key of each identity.
func TestChangeOfKeysGoesOnInAnotherShell(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	w.env["CURL_RETRIES"] = "0"
	makeKeys, doctor, remove, makeByHand, removeByHand := keyChange(t)
	before := w.read("build/ibm.env")
	if err := w.cloud.AddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAPIKeysUpdate, Skip: 1, Status: 503}); err != nil {
		t.Fatal(err)
	}
	if got := w.do(makeKeys); got.Exit == 0 || w.read("build/ibm.env") != before {
		t.Errorf("the first step, cut off: got exit %d; want it to fail, and build/ibm.env as it was", got.Exit)
	}
	w.cloud.ClearFaults()
	if got := w.do(remove); got.Exit == 0 || !strings.Contains(got.Stderr, "nothing is deleted") {
		t.Errorf("the last step, too early: got exit %d, %s; want nothing deleted", got.Exit, scrub(got.Stderr))
	}
	for _, step := range []*block{makeKeys, doctor, remove, doctor} {
		w.mustDo(step)
	}
	bootstrap, workload := w.cloud.BootstrapIAMID(), w.cloud.Rotations()[0].IAMID
	for variable, iamID := range map[string]string{"BOOTSTRAP_APIKEY_ID": bootstrap, "WORKLOAD_APIKEY_ID": workload} {
		if got := w.keyIDs(iamID); len(got) != 1 || got[0] != w.named(variable) || strings.Contains(before, got[0]) {
			t.Errorf("keys of %s: got %q, want the new one alone, %s", iamID, got, w.named(variable))
		}
	}

	old := w.keyIDs(bootstrap)
	for _, step := range []*block{makeByHand, doctor, removeByHand, doctor} {
		w.mustDo(step)
	}
	if got := w.keyIDs(bootstrap); len(got) != 1 || got[0] == old[0] {
		t.Errorf("keys of the bootstrap, changed by hand: got %q, want one that is not %q", got, old)
	}
}

// TestDoctorTriesTheBootstrapKey and never the person, whose token may be in the shell.
func TestDoctorTriesTheBootstrapKey(t *testing.T) {
	t.Parallel()
	w := newKeyWorld(t)
	_, doctor, _, _, _ := keyChange(t)
	w.env["IAM_TOKEN"] = w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour)
	w.cloud.ClearRequests()
	if got := w.mustDo(doctor); !strings.Contains(got.Stdout, "the bootstrap identity by SECRETS_MANAGER_APIKEY_ARN") {
		t.Errorf("got %s, want the bootstrap identity tried", scrub(got.Stdout))
	}
	without := regexp.MustCompile(`(?m)^BOOTSTRAP_SECRET_ARN=.*\n`).ReplaceAllString(w.read("build/ibm.env"), "")
	w.write(filepath.Join(w.dir, "build", "ibm.env"), without)
	if got := w.do(doctor); got.Exit == 0 || !strings.Contains(got.Stderr, "BOOTSTRAP_SECRET_ARN") {
		t.Errorf("without an ARN: got exit %d, %s; want it to fail for want of one", got.Exit, scrub(got.All()))
	}
	for _, request := range w.cloud.Requests() {
		if request.Identity == ibmcloudtest.IdentityAdmin {
			t.Errorf("%s was asked as the person", request.Op)
		}
	}
}

// TestJSONIsWhatTheFunctionTakesAndGives gives every JSON block to the function, or compares it with
// what the function answers.
func TestJSONIsWhatTheFunctionTakesAndGives(t *testing.T) {
	check := map[string]func(f *function, b *block){
		"event": checkEvent, "rotations": checkRotations, "report": checkReport, "doctor": checkDoctor,
	}
	for _, b := range allBlocks(t) {
		if b.language != "json" || len(b.words) == 0 {
			continue
		}
		t.Run(b.where(), func(t *testing.T) {
			t.Parallel()
			if !json.Valid([]byte(b.text)) {
				t.Fatal("this is no JSON")
			}
			check[b.words[0]](newFunction(t), b)
		})
	}
}

func checkEvent(f *function, b *block) {
	if got := f.invoke(b.text); got.Exit != 0 || !strings.Contains(got.Stdout, `"outcome":"rotated"`) {
		f.t.Errorf("the function, given this event: got exit %d, %s", got.Exit, got.Stdout)
	}
}

func checkRotations(f *function, b *block) {
	got := f.with(map[string]string{"ROTATIONS": b.text, "API_KEY_SECRET": "", "TOKEN_SECRET": ""}, "doctor")
	if first, _, _ := strings.Cut(got.Stdout, "\n"); !strings.HasPrefix(first, "✓ configuration") {
		f.t.Errorf("bootstrap doctor, given these rotations: got %s", got.Stdout)
	}
}

// A report tells the margin when there was a token before.
func checkReport(f *function, b *block) {
	f.invoke("{}")
	compareShapes(f.t, b, f.invoke("{}").Stdout)
}

func checkDoctor(f *function, b *block) {
	f.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 403})
	var diagnosis struct {
		Checks []map[string]any `json:"checks"`
		OK     bool             `json:"ok"`
	}
	got := f.run("doctor", "-json")
	if err := json.Unmarshal([]byte(got.Stdout), &diagnosis); err != nil {
		f.t.Fatalf("bootstrap doctor -json: %v: %s", err, got.All())
	}
	diagnosis.Checks = slices.DeleteFunc(diagnosis.Checks, func(check map[string]any) bool { return check["check"] != "key-secret" })
	one, err := json.Marshal(diagnosis)
	if err != nil {
		f.t.Fatal(err)
	}
	compareShapes(f.t, b, string(one))
	if difference := differs(compact(f.t, b.text), compact(f.t, string(one))); difference != "" {
		f.t.Error(difference)
	}
}

// compareShapes holds the names in a sample against those in an answer.
func compareShapes(t *testing.T, sample *block, answer string) {
	t.Helper()
	want, got := shape(t, sample.text), shape(t, answer)
	if !slices.Equal(want, got) {
		t.Errorf("the sample has the fields\n%s\nthe answer\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func compact(t *testing.T, text string) string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	sorted, _ := json.Marshal(value)
	return string(sorted)
}

// shape lists the paths of all values with their types.
func shape(t *testing.T, text string) []string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	paths := map[string]bool{}
	walk("", value, paths)
	return slices.Sorted(maps.Keys(paths))
}

func walk(path string, value any, paths map[string]bool) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			walk(path+"."+name, inner, paths)
		}
	case []any:
		paths[path+" []"] = true
		for _, inner := range value {
			walk(path+"[]", inner, paths)
		}
	default:
		paths[fmt.Sprintf("%s %T", path, value)] = true
	}
}

// A workflow is what is looked at in a block for GitHub Actions.
type workflow struct {
	Permissions map[string]string
	Steps       []struct {
		Uses, Run string
		With, Env map[string]string
	}
}

// A pod is what is looked at in a block for Kubernetes.
type pod struct {
	Containers []struct {
		Name         string
		Env          []struct{ Name, Value string }
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	Volumes []struct {
		Name      string
		Projected struct {
			Sources []map[string]struct {
				Path, Audience    string
				ExpirationSeconds int `yaml:"expirationSeconds"`
			}
		}
	}
}

func decodeYAML(t *testing.T, b *block, into any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(b.text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", b.where(), err)
	}
}

func yamlBlocks(t *testing.T, purpose string) []*block {
	t.Helper()
	var found []*block
	for _, b := range allBlocks(t) {
		if b.language == "yaml" && b.is(purpose) {
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no page has a block `yaml %s`", purpose)
	}
	return found
}

// The token that a pod mounts is where CR_TOKEN_FILENAME says.
func TestPodsMountTheTokenThatTheyName(t *testing.T) {
	for _, b := range yamlBlocks(t, "pod") {
		var p pod
		decodeYAML(t, b, &p)
		files := map[string]bool{}
		for _, container := range p.Containers {
			for _, mount := range container.VolumeMounts {
				for _, volume := range p.Volumes {
					if volume.Name == mount.Name {
						files[mount.MountPath+"/"+volume.Projected.Sources[0]["serviceAccountToken"].Path] = true
					}
				}
			}
			for _, variable := range container.Env {
				if variable.Name == "CR_TOKEN_FILENAME" && !files[variable.Value] {
					t.Errorf("%s: CR_TOKEN_FILENAME is %s, but what is mounted is %v", b.where(), variable.Value, files)
				}
			}
		}
		if len(files) == 0 {
			t.Errorf("%s: no token is mounted", b.where())
		}
	}
}

// workflowRuns are the commands of GitHub Actions on the pages, as blocks of their own.
func workflowRuns(t *testing.T) []*block {
	t.Helper()
	var found []*block
	for _, b := range yamlBlocks(t, "actions") {
		var w workflow
		decodeYAML(t, b, &w)
		if w.Permissions["id-token"] != "write" {
			t.Errorf("%s: without id-token: write there is no role", b.where())
		}
		for _, step := range w.Steps {
			if step.Run != "" && step.Env["TOKEN_SECRET_ARN"] != "" {
				found = append(found, &block{page: b.page, line: b.line, language: "sh", text: step.Run, section: b.section})
			}
		}
	}
	if len(found) == 0 {
		t.Error("no workflow reads a token")
	}
	return found
}

// surroundings make a file of a block of Go, with what it takes for granted.
const surroundings = `package example

import (
	"net/http"

	"github.com/IBM/platform-services-go-sdk/logsrouterv3"

	"iam-token-rotator/functions/iamtoken"
)

func example(url, id, key string) (any, any, error) {
`

// Go blocks compile.
func TestGoCompiles(t *testing.T) {
	t.Parallel()
	for _, b := range allBlocks(t) {
		if b.language != "go" {
			continue
		}
		folder := t.TempDir()
		w := &world{t: t}
		source := filepath.Join(folder, "example.go")
		w.write(source, surroundings+b.text+"return client, service, err\n}\n")
		// The file is compiled as if it stood in the module, where nothing is written.
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "scripts", "readmetest", "example", "example.go"): source}})
		if err != nil {
			t.Fatal(err)
		}
		w.write(filepath.Join(folder, "overlay.json"), string(overlay))
		build := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(folder, "overlay.json"), "iam-token-rotator/scripts/readmetest/example")
		build.Dir = root
		if printed, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", b.where(), err, printed)
		}
	}
}

// A function is the built one, with an IBM Cloud of its own.
type function struct {
	t     *testing.T
	cloud *ibmcloudtest.Cloud
	env   map[string]string
}

func newFunction(t *testing.T) *function {
	t.Helper()
	f := &function{t: t, cloud: ibmcloudtest.New(ibmcloudtest.Options{})}
	server := httptest.NewServer(f.cloud)
	t.Cleanup(server.Close)
	rotation := f.cloud.Rotations()[0]
	_ = f.cloud.MustMintToken(rotation.APIKey, time.Hour) // the cloud makes its signing key now, not within a run's time
	f.env = map[string]string{
		"PATH": os.Getenv("PATH"), "IAM_URL": server.URL, "SECRETS_MANAGER_URL": server.URL, "SECRETS_MANAGER_APIKEY": f.cloud.BootstrapAPIKey(),
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret,
	}
	return f
}

// run runs it as a command.
func (f *function) run(args ...string) programs.Result {
	f.t.Helper()
	return programs.Run(f.t, programs.Command{Env: programs.Environ(f.env), Name: filepath.Join(programsFolder(f.t), "bootstrap"), Args: args})
}

// with is run with more variables; an empty one is as good as unset.
func (f *function) with(more map[string]string, args ...string) programs.Result {
	f.t.Helper()
	changed := *f
	changed.env = maps.Clone(f.env)
	maps.Copy(changed.env, more)
	return changed.run(args...)
}

// invoke delivers an event to it, as AWS Lambda would.
func (f *function) invoke(event string) programs.Result {
	f.t.Helper()
	bin := programsFolder(f.t)
	return programs.Run(f.t, programs.Command{Env: programs.Environ(f.env), Stdin: event,
		Name: filepath.Join(bin, "invoke"), Args: []string{"-event", "-", "--", filepath.Join(bin, "bootstrap")}})
}

// fault makes the cloud misbehave until the test ends.
func (f *function) fault(fault ibmcloudtest.Fault) {
	f.t.Helper()
	if err := f.cloud.AddFault(fault); err != nil {
		f.t.Fatal(err)
	}
}

// serveAWS starts an AWS whose Lambda runs what is deployed.
func (w *world) serveAWS() {
	w.t.Helper()
	w.moto = awstest.Start(w.t)
	server := httptest.NewServer(&awstest.Lambda{Moto: w.moto, Program: filepath.Join(programsFolder(w.t), "invoke")})
	w.t.Cleanup(server.Close)
	maps.Copy(w.env, awstest.Environment(server.URL))
	w.env["AWS_DEFAULT_REGION"] = awstest.Region // the pages say that the aws CLI is set up
	w.env["DENIED_FOR"] = "0"                    // no permission is on its way here
}

// secret stores a secret in AWS and returns its ARN.
func (w *world) secret(name, value string) string {
	w.t.Helper()
	made := w.moto.MustCall(w.t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{
		"Name": name, "SecretString": value, "ClientRequestToken": strings.Repeat("c", 32)})
	return fmt.Sprint(made["ARN"])
}

// writeEnv writes build/ibm.env as scripts/set-up-secrets does.
func (w *world) writeEnv() {
	w.t.Helper()
	rotation := w.cloud.Rotations()[0]
	arn := w.secret("iam-token-rotator/bootstrap", w.cloud.BootstrapAPIKey())
	w.write(filepath.Join(w.dir, "build", "ibm.env"), fmt.Sprintf("SECRETS_MANAGER_URL=%s\nAPI_KEY_SECRET=%s\nTOKEN_SECRET=%s\nBOOTSTRAP_EXPIRES_AT=2099-12-31\nBOOTSTRAP_SECRET_ARN=%s\n",
		w.origin, rotation.APIKeySecret, rotation.TokenSecret, arn))
}

// writeFleet writes the list of rotations and makes the bucket.
func (w *world) writeFleet() {
	w.t.Helper()
	rotation := w.cloud.Rotations()[0]
	list, err := json.Marshal([]map[string]string{{"name": "only", "api_key_secret": rotation.APIKeySecret, "token_secret": rotation.TokenSecret}})
	if err == nil {
		err = w.moto.MakeBucket(w.t.Context(), "my-code-bucket")
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(filepath.Join(w.dir, "rotations.json"), string(list))
}

// copyToAWS makes the copy that a job on AWS reads.
func (w *world) copyToAWS() {
	w.t.Helper()
	w.env["TOKEN_SECRET_ARN"] = w.secret("iam-token", w.newToken())
	delete(w.env, "TOKEN_SECRET")
	delete(w.env, "SECRETS_MANAGER_URL")
}

// logsRouting is where a job of the page calls IBM Cloud's API.
const logsRouting = "api.us-south.logs-router.cloud.ibm.com"

// serveIBM starts an IBM Cloud, of which terraform, ibmcloud and curl know.
func (w *world) serveIBM() {
	w.t.Helper()
	w.cloud = ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	door := withReaderProfile{w.cloud}
	server, secure := httptest.NewServer(door), httptest.NewTLSServer(door)
	w.t.Cleanup(server.Close)
	w.t.Cleanup(secure.Close)
	w.origin = server.URL
	w.env["IAM_URL"] = server.URL
	w.write(filepath.Join(w.home, ".curlrc"), fmt.Sprintf("insecure\nconnect-to = \"%s:443:%s\"\n", logsRouting, secure.Listener.Addr()))
	w.write(filepath.Join(w.state, "admin.key"), w.cloud.AdminAPIKey())
	w.write(filepath.Join(w.state, "outputs.json"), w.outputs(w.cloud.BootstrapIAMID(), ""))
	w.write(filepath.Join(w.state, "outputs-code_engine.json"), w.outputs("", w.cloud.ProfileID()))
}

// withReaderProfile adds to the sandbox a trusted profile of a job, token-reader, which may do what
// the reader may.
type withReaderProfile struct{ cloud *ibmcloudtest.Cloud }

func (d withReaderProfile) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/identity/token" {
		body, _ := io.ReadAll(r.Body)
		if form, err := url.ParseQuery(string(body)); err == nil && form.Get("profile_name") == "token-reader" && form.Get("cr_token") != "" {
			body = []byte(url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {d.cloud.ReaderAPIKey()}}.Encode())
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
	}
	d.cloud.ServeHTTP(rw, r)
}

// outputs is what `terraform output -json` prints.
func (w *world) outputs(bootstrap, profile string) string {
	w.t.Helper()
	outputs := map[string]any{}
	for name, value := range w.ids(bootstrap, profile) {
		outputs[name] = map[string]any{"sensitive": false, "type": "string", "value": value}
	}
	text, err := json.Marshal(outputs)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *world) ids(bootstrap, profile string) map[string]string {
	return map[string]string{
		"secrets_manager_url": w.origin, "account_id": w.cloud.AccountID(), "key_group_id": w.cloud.KeyGroupID(), "token_group_id": w.cloud.TokenGroupID(),
		"bootstrap_iam_id": bootstrap, "workload_iam_id": w.cloud.Rotations()[0].IAMID, "reader_iam_id": w.cloud.ReaderIAMID(), "iam_profile_id": profile,
	}
}

// exportOutputs puts Terraform's outputs into the environment, and a person's token beside them.
func (w *world) exportOutputs() {
	for name, value := range w.ids(w.cloud.BootstrapIAMID(), "") {
		w.env[strings.ToUpper(name)] = value
	}
	w.env["IAM_TOKEN"] = w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour)
}

// publish stores a token as the rotator does, and tells jobs where.
func (w *world) publish() {
	w.cloud.MustPutVersion(w.tokenSecret(), w.newToken(), map[string]any{"expiration": time.Now().Add(time.Hour).Unix()})
	w.env["SECRETS_MANAGER_URL"], w.env["TOKEN_SECRET"] = w.origin, w.tokenSecret()
}

func (w *world) tokenSecret() string { return w.cloud.Rotations()[0].TokenSecret }

func (w *world) newToken() string {
	return w.cloud.MustMintToken(w.cloud.Rotations()[0].APIKey, time.Hour)
}

// leaveReaderKey puts the reader's key where a person has it.
func (w *world) leaveReaderKey() (file string) {
	file = filepath.Join(w.home, ".config", "token-reader.key")
	w.write(file, w.cloud.ReaderAPIKey()+"\n")
	return file
}

func (w *world) giveReaderKey() { w.env["READER_APIKEY_FILE"] = w.leaveReaderKey() }

// giveComputeToken does what Code Engine does for a job.
func (w *world) giveComputeToken() {
	w.env["CR_TOKEN_FILENAME"] = filepath.Join(w.home, "compute-resource-token")
	w.write(w.env["CR_TOKEN_FILENAME"], "compute-resource-token\n")
}

var pathVariable = os.Getenv("PATH")

// A piece of code is a span in the text, or the lines of a block of commands.
type piece struct{ where, text string }

// allCode is what may hold commands.
func allCode(t *testing.T) []piece {
	t.Helper()
	var all []piece
	for _, p := range allPages(t) {
		for i, line := range p.prose {
			for _, span := range spans(line) {
				all = append(all, piece{place(p.path, i+1), span})
			}
		}
		for _, b := range p.blocks {
			if b.language == "sh" {
				all = append(all, piece{b.where(), b.text})
			}
		}
	}
	return all
}

var (
	commentShape  = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	continued     = regexp.MustCompile(`\\\n`)
	operatorShape = regexp.MustCompile("\\|\\||&&|[|;&()`\n]|\\$\\(|\"\\$\\(")
	assignment    = regexp.MustCompile(`^[A-Z_a-z]+=`)
)

// commandsIn splits code into simple commands, as words, without the variables set before them. It
// need not know all of the shell: what it does not see is still run.
func commandsIn(code string) [][]string {
	code = commentShape.ReplaceAllString(continued.ReplaceAllString(code, " "), "")
	var commands [][]string
	for _, part := range operatorShape.Split(code, -1) {
		words := strings.Fields(part)
		for len(words) > 0 && (assignment.MatchString(words[0]) || words[0] == "export") {
			words = words[1:]
		}
		if len(words) > 0 {
			commands = append(commands, words)
		}
	}
	return commands
}

// Every target that is named is one of the Makefile, and every variable one that it or scripts/stack
// takes.
func TestTargetsExist(t *testing.T) {
	targets := map[string]bool{}
	for _, target := range matches(t, "Makefile", `(?m)^([a-z][a-z-]*):`) {
		targets[target] = true
	}
	taken := strings.Join(append(matches(t, "Makefile", `\b([A-Z][A-Z_]+)\b`), matches(t, "scripts/stack", `\b([A-Z][A-Z_]+)\b`)...), " ")
	targetShape, seen := regexp.MustCompile(`^[a-z][a-z-]*$`), 0
	for _, code := range allCode(t) {
		for _, words := range commandsIn(code.text) {
			if words[0] != "make" {
				continue
			}
			for _, word := range words[1:] {
				name, _, set := strings.Cut(word, "=")
				switch {
				case set && !strings.Contains(" "+taken+" ", " "+name+" "):
					t.Errorf("%s: make %s: nothing takes this variable", code.where, word)
				case targetShape.MatchString(word) && !targets[word]:
					t.Errorf("%s: make %s: there is no such target", code.where, word)
				}
				seen++
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d targets and variables were found on the pages: does commandsIn still work?", seen)
	}
}

// What a stack takes in PARAMS is a parameter of the template.
func TestParametersExist(t *testing.T) {
	parameters := strings.Join(matches(t, "infra/aws/template.yaml", `(?m)^  ([A-Z]\w+):$`), " ") + " "
	shape := regexp.MustCompile(`PARAMS="?(\w+)=`)
	for _, code := range allCode(t) {
		for _, found := range shape.FindAllStringSubmatch(code.text, -1) {
			if !strings.Contains(parameters, found[1]+" ") {
				t.Errorf("%s: the template has no parameter %s", code.where, found[1])
			}
		}
	}
}

// The defaults in the table of the configuration are those that apply.
func TestDefaultsAreTrue(t *testing.T) {
	defaults := map[string]string{}
	source, err := os.ReadFile(root + "/functions/internal/config/config.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range regexp.MustCompile(`env:"(\w+)" envDefault:"([^"]*)"`).FindAllStringSubmatch(string(source), -1) {
		defaults[tag[1]] = tag[2]
	}
	for _, row := range readme(t).rows(t, "Configuration", "variable") {
		name, stated := spans(row[0])[0], strings.Join(spans(row[len(row)-1]), "")
		if stated != defaults[name] {
			t.Errorf("README.md says that %s is %q unless set, it is %q", name, stated, defaults[name])
		}
	}
}
