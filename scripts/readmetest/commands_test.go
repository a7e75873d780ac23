package readmetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/awstest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
)

// A stage runs the blocks that name it, in one shell, in a copy of the repository.
type stage struct {
	needs   []string          // programs other than sh, go and make
	prepare []func(*stageRun) // in this order
	dir     string            // the folder in the copy; if empty, its top
}

var (
	readers = []string{"curl", "jq"}
	forAWS  = []string{"moto_server", "aws", "jq", "curl"}
)

var stages = map[string]stage{
	"first":      {},
	"contribute": {},
	"simulate":   {},
	// These start the sandboxes with make, each as a process of its own.
	"sandbox":   {needs: []string{"curl", "jq", "python3"}},
	"sandboxes": {needs: forAWS},
	// These have IBM Cloud and AWS in this process, and programs that emulate ibmcloud and terraform.
	"deploy":      {needs: forAWS, prepare: []func(*stageRun){serveIBM, serveAWS}},
	"ibm":         {needs: forAWS, prepare: []func(*stageRun){serveIBM, serveAWS}},
	"further":     {needs: readers, prepare: []func(*stageRun){serveIBM, exportOutputs}},
	"code-engine": {needs: readers, prepare: []func(*stageRun){serveIBM}},
	"kubernetes":  {needs: []string{"jq"}, prepare: []func(*stageRun){func(w *stageRun) { writeFile(w.t, filepath.Join(w.dir, "build", "bootstrap.key"), "key") }}},
	// In these, infra/ibm has been set up before.
	"aws":         {needs: forAWS, prepare: []func(*stageRun){serveIBM, serveAWS, writeEnv}},
	"aws-guarded": {needs: forAWS, prepare: []func(*stageRun){serveIBM, serveAWS, writeEnv, makeBucket, loadEnv}},
	"fleet":       {needs: forAWS, prepare: []func(*stageRun){serveIBM, serveAWS, writeEnv, makeBucket, writeFleet}},
	// These are jobs that read a token.
	"job":             {needs: readers, prepare: []func(*stageRun){serveIBM, saveToken}},
	"laptop":          {needs: readers, prepare: []func(*stageRun){serveIBM, saveToken}},
	"code-engine-job": {needs: readers, prepare: []func(*stageRun){serveIBM, saveToken}, dir: "scripts"},
	"aws-job":         {needs: forAWS, prepare: []func(*stageRun){serveIBM, serveAWS, mirrorToAWS}, dir: "scripts"},
}

// answers is the standard input of the commands, some of which ask for confirmation.
var answers = strings.Repeat("y\n", 4)

// A stageRun is a run of a stage. Its environment has nothing of the user who runs the tests.
type stageRun struct {
	t         *testing.T
	dir, home string // the copy of the repository, and a home folder
	env       map[string]string
	printed   map[*block]map[string]string // by the purpose of samples: "output" and "errors"

	cloud  *ibmcloudtest.Cloud // nil before serveIBM
	origin string
	moto   *awstest.Moto // nil before serveAWS
	setUp  [][2]string   // the variables of build/ibm.env, after writeEnv
}

func newStageRun(t *testing.T) *stageRun {
	t.Helper()
	w := &stageRun{t: t, dir: makeCopy(t), home: t.TempDir(), printed: map[*block]map[string]string{}}
	w.env = map[string]string{
		"PATH": emulated(t, "docker", "kubectl", "ibmcloud", "terraform", "go") + ":" + os.Getenv("PATH"), "HOME": w.home, "TMPDIR": t.TempDir(),
		"ARCH": runtime.GOARCH, // the deployed function runs on this machine
		"ADDR": "127.0.0.1:0",  // the sandboxes listen on free ports
	}
	printed, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOSUMDB", "GOFLAGS", "GOTOOLCHAIN").Output()
	if err == nil {
		err = json.Unmarshal(printed, &w.env) // adds these variables
	}
	if err != nil {
		t.Fatal(err)
	}
	w.env["GOFLAGS"] += samePaths
	w.know(state{})
	return w
}

// emulated makes a folder for the PATH in which these programs are links to this test.
func emulated(t *testing.T, names ...string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	self, err := os.Executable()
	for _, name := range names {
		err = errors.Join(err, os.Symlink(self, filepath.Join(folder, name)))
	}
	if aws := realAWS(); aws != "" && !slices.Contains(names, "aws") {
		err = errors.Join(err, os.Symlink(aws, filepath.Join(folder, "aws")))
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// realAWS is the path of the aws program in place of pyenv's shim, which takes a third of its time; empty without pyenv.
var realAWS = sync.OnceValue(func() string {
	path, _ := exec.Command("pyenv", "which", "aws").Output()
	return strings.TrimSpace(string(path))
})

// know writes the state of the emulated programs.
func (w *stageRun) know(s state) {
	content, err := json.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	writeFile(w.t, filepath.Join(w.home, stateName), string(content))
}

// samePaths is a flag with which the go command's cache also serves copies of the repository.
const samePaths = " -trimpath"

// logsRouting is the host that jobs in the pages call. curl connects to the sandbox instead.
const logsRouting = "api.us-south.logs-router.cloud.ibm.com"

// serveIBM starts a sandbox of IBM Cloud for terraform, ibmcloud and curl.
func serveIBM(w *stageRun) {
	w.cloud = ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	cloud := withReaderProfile(w.cloud)
	server, secure := httptest.NewServer(cloud), httptest.NewTLSServer(cloud)
	w.t.Cleanup(server.Close)
	w.t.Cleanup(secure.Close)
	w.origin, w.env["IAM_URL"] = server.URL, server.URL
	writeFile(w.t, filepath.Join(w.home, ".curlrc"), fmt.Sprintf("insecure\nconnect-to = \"%s:443:%s\"\n", logsRouting, secure.Listener.Addr()))
	w.know(state{Token: w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour), Outputs: w.outputs(), Profile: w.cloud.ProfileID(), Next: map[string]string{
		"bootstrap": w.cloud.MustCopyServiceID(w.cloud.BootstrapIAMID()), "workload": w.cloud.MustCopyServiceID(w.cloud.Rotations()[0].IAMID)}})
}

// withReaderProfile adds the trusted profile of a job, token-reader, by exchanging the reader's key in its place.
func withReaderProfile(cloud *ibmcloudtest.Cloud) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/identity/token" {
			body, _ := io.ReadAll(r.Body)
			if form, _ := url.ParseQuery(string(body)); form.Get("profile_name") == "token-reader" && form.Get("cr_token") != "" {
				body = []byte(url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {cloud.ReaderAPIKey()}}.Encode())
			}
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		}
		cloud.ServeHTTP(rw, r)
	}
}

// outputs are the outputs of infra/ibm for the sandbox.
func (w *stageRun) outputs() map[string]string {
	return map[string]string{
		"secrets_manager_url": w.origin, "account_id": w.cloud.AccountID(), "key_group_id": w.cloud.KeyGroupID(), "token_group_id": w.cloud.TokenGroupID(),
		"bootstrap_iam_id": w.cloud.BootstrapIAMID(), "workload_iam_id": w.cloud.Rotations()[0].IAMID, "reader_iam_id": w.cloud.ReaderIAMID(),
		"iam_profile_id": "", "managed_keys": "true",
	}
}

// exportOutputs sets Terraform's outputs as variables, and a person's IAM_TOKEN.
func exportOutputs(w *stageRun) {
	for name, value := range w.outputs() {
		w.env[strings.ToUpper(name)] = value
	}
	w.env["IAM_TOKEN"] = w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour)
}

// serveAWS starts a sandbox of AWS with a Lambda that runs what is deployed.
func serveAWS(w *stageRun) {
	w.moto = awstest.Start(w.t)
	server := httptest.NewServer(&awstest.Lambda{Moto: w.moto, Program: filepath.Join(programsFolder(w.t), "invoke")})
	w.t.Cleanup(server.Close)
	maps.Copy(w.env, awstest.Environment(server.URL))
	w.env["AWS_DEFAULT_REGION"] = awstest.Region
}

// makeSecret stores a secret in AWS and returns its ARN.
func (w *stageRun) makeSecret(name, value string) string {
	made := w.moto.MustCall(w.t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{
		"Name": name, "SecretString": value, "ClientRequestToken": strings.Repeat("c", 32)})
	return fmt.Sprint(made["ARN"])
}

// writeEnv writes build/ibm.env, as rotatorctl setup would.
func writeEnv(w *stageRun) {
	rotation := w.cloud.Rotations()[0]
	w.setUp = [][2]string{
		{"SECRETS_MANAGER_URL", w.origin}, {"API_KEY_SECRET", rotation.APIKeySecret}, {"TOKEN_SECRET", rotation.TokenSecret},
		{"BOOTSTRAP_EXPIRES_AT", "2099-12-31"}, {"BOOTSTRAP_SECRET_ARN", w.makeSecret("bootstrap", w.cloud.BootstrapAPIKey())}}
	writeFile(w.t, filepath.Join(w.dir, "build", "ibm.env"), envfile.Lines(w.setUp))
}

// loadEnv sets the variables of build/ibm.env.
func loadEnv(w *stageRun) {
	for _, variable := range w.setUp {
		w.env[variable[0]] = variable[1]
	}
}

// writeFleet writes a list of rotations.
func writeFleet(w *stageRun) {
	rotation := w.cloud.Rotations()[0]
	writeFile(w.t, filepath.Join(w.dir, "rotations.json"), fmt.Sprintf(`[{"name":"only","api_key_secret":%q,"token_secret":%q}]`, rotation.APIKeySecret, rotation.TokenSecret))
}

// makeBucket creates the bucket of the pages.
func makeBucket(w *stageRun) {
	if err := w.moto.MakeBucket(w.t.Context(), "my-code-bucket"); err != nil {
		w.t.Fatal(err)
	}
}

// saveToken saves a token, as the function would, and gives jobs their identity: a reader key, or the compute resource
// token that Code Engine mounts.
func saveToken(w *stageRun) {
	rotation, key, compute := w.cloud.Rotations()[0], filepath.Join(w.home, ".config", "token-reader.key"), filepath.Join(w.home, "compute-resource-token")
	w.cloud.MustPutVersion(rotation.TokenSecret, w.cloud.MustMintToken(rotation.APIKey, time.Hour), map[string]any{"expiration": time.Now().Add(time.Hour).Unix()})
	writeFile(w.t, key, w.cloud.ReaderAPIKey()+"\n")
	writeFile(w.t, compute, "compute-resource-token\n")
	maps.Copy(w.env, map[string]string{"SECRETS_MANAGER_URL": w.origin, "TOKEN_SECRET": rotation.TokenSecret, "CR_TOKEN_FILENAME": compute})
	if filepath.Base(w.t.Name()) == "job" { // the other stages choose their identity themselves
		w.env["READER_APIKEY_FILE"] = key
	}
}

// mirrorToAWS creates the mirror that a job on AWS reads.
func mirrorToAWS(w *stageRun) {
	w.env["TOKEN_SECRET_ARN"] = w.makeSecret("iam-token", w.cloud.MustMintToken(w.cloud.Rotations()[0].APIKey, time.Hour))
}

// scratch is a folder for all tests.
var scratch string

func TestMain(m *testing.M) {
	program := filepath.Base(os.Args[0])
	if _, isEmulated := emulations[program]; isEmulated {
		if err := emulate(program, os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s (emulated): %v\n", program, err)
			os.Exit(2)
		}
		return
	}
	flag.Parse()
	var err error
	if scratch, err = os.MkdirTemp("", "rotator-readme-test-"); err == nil {
		err = flag.Set("test.parallel", "4") // more than processors, because tests mostly wait for programs
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// original is the copy of the repository from which makeCopy copies. Its programs are built.
var original = sync.OnceValues(func() (folder string, err error) {
	folder = filepath.Join(scratch, "original")
	for _, path := range repositoryFiles() {
		to := filepath.Join(folder, path)
		if info, gone := os.Stat(filepath.Join(root, path)); gone == nil {
			err = errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, []byte(fileText(path)), info.Mode().Perm()))
		}
	}
	command := exec.Command("sh", "-c", "make build-local build && go build -o build/local/ ./scripts/package")
	command.Dir, command.Env = folder, append(os.Environ(), "MAKEFLAGS=", "MFLAGS=", "ARCH="+runtime.GOARCH, "GOFLAGS="+os.Getenv("GOFLAGS")+samePaths)
	if printed, failure := command.CombinedOutput(); failure != nil {
		err = errors.Join(err, fmt.Errorf("building the programs: %w: %s", failure, printed))
	}
	// rotatorctl deploy builds the same binary, because ARCH is this machine's.
	return folder, errors.Join(err, os.CopyFS(filepath.Join(folder, "build", "deploy"), os.DirFS(filepath.Join(folder, "build", "rotate"))))
})

func programsFolder(t *testing.T) string {
	t.Helper()
	folder, err := original()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, "build", "local")
}

// makeCopy makes a copy of the repository whose programs are built. Its files are hard links, because commands
// create files but change none.
func makeCopy(t *testing.T) string {
	t.Helper()
	from, to := filepath.Join(programsFolder(t), "..", ".."), filepath.Join(t.TempDir(), "iam-token-rotator")
	err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		relative, failure := filepath.Rel(from, name)
		if err = errors.Join(err, failure); err == nil && entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, relative), 0o700)
		}
		return errors.Join(err, os.Link(name, filepath.Join(to, relative)))
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// notRun are the command lines that are not run, with the reason.
var notRun = map[string]string{
	"make test":                             "it runs these tests",
	"make check":                            "make test runs it",
	"make run && make examples":             ".ci/run runs both; the page README.md has the first, and the jobs of the other wait for minutes",
	"go test ./functions/internal/rotation": "make test runs it",
	`aws sqs receive-message --queue-url "$queue" --max-number-of-messages 10 --message-attribute-names All`: "version 1 of the aws program calls AWS's own address, whatever AWS_ENDPOINT_URL is",
}

// runnable is the text with an empty line in place of each line of notRun.
func (b *block) runnable() string {
	var text strings.Builder
	for line := range strings.Lines(b.text) {
		command, _, _ := strings.Cut(line, " #")
		if notRun[strings.TrimSpace(command)] != "" {
			line = "\n"
		}
		text.WriteString(line)
	}
	return text.String()
}

// TestEveryCommandRuns runs the commands of the pages, stage by stage.
func TestEveryCommandRuns(t *testing.T) {
	t.Parallel()
	_ = programsFolder(t)                                   // built before a stage's time limit begins
	for _, name := range slices.Sorted(maps.Keys(stages)) { // aws, which takes longest, first
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runStage(t, name)
		})
	}
}

func runStage(t *testing.T, name string) {
	stage := stages[name]
	programs.Need(t, append([]string{"sh", "go", "make"}, stage.needs...)...)
	w := newStageRun(t)
	for _, prepare := range stage.prepare {
		prepare(w)
	}
	w.play(slices.DeleteFunc(blocks("sh"), func(b *block) bool { return b.purpose != name }), stage.dir)
	for _, sample := range blocks("text") {
		if printed, isCompared := w.printed[sample.above][sample.purpose]; isCompared {
			if d := difference(sample.text, printed); d != "" {
				t.Errorf("%s: this sample is not what %s prints: %s", sample.where, sample.above.where, scrub(d))
			}
		}
	}
}

// readyFile is the file that a server writes when it is ready, by its command.
var readyFile = map[string]string{"make sandbox": "build/sandbox.env", "make aws-sandbox": "build/aws.env"}

// exportShape matches an export of a command's output, which succeeds even if the command fails.
var exportShape = regexp.MustCompile(`(?m)^export (\w+)="\$\(`)

// play runs blocks in one shell, in a folder of the copy. The first command that fails ends the shell and the test.
// Servers run in the background.
func (w *stageRun) play(commands []*block, dir string) {
	w.t.Helper()
	out := w.t.TempDir()
	file := func(i int, kind string) string { return filepath.Join(out, fmt.Sprint(i, ".", kind)) }
	script := "set -eu\nservers=\ntrap '[ -z \"$servers\" ] || kill $servers; wait' EXIT\n"
	for i, b := range commands {
		script += fmt.Sprintf("exec >'%s' 2>'%s'\n", file(i, "output"), file(i, "errors"))
		if command := strings.TrimSpace(b.text); b.server {
			script += fmt.Sprintf("%s &\nservers=\"$servers $!\"\nuntil [ -s %s ]; do kill -0 $!; sleep 0.1; done\n", command, readyFile[command])
		} else {
			// With set -e a shell ignores a failure before the last && of a list, so the status is checked again.
			script += b.runnable() + "[ $? = 0 ]\n"
		}
		for _, exported := range exportShape.FindAllStringSubmatch(b.text, -1) {
			script += fmt.Sprintf("[ -n \"$%s\" ] || { echo '%s is empty' >&2; exit 1; }\n", exported[1], exported[1])
		}
		script += fmt.Sprintf(": >'%s'\n", file(i, "done"))
	}
	writeFile(w.t, filepath.Join(out, "script"), script)
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "sh", filepath.Join(out, "script"))
	shell.Dir, shell.Env, shell.Stdin = filepath.Join(w.dir, dir), programs.Environ(w.env), strings.NewReader(answers)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) } // everything that it has started, too
	shell.WaitDelay = 10 * time.Second
	err := shell.Run()
	for i, b := range commands {
		printed, _ := os.ReadFile(file(i, "output"))
		complaints, _ := os.ReadFile(file(i, "errors"))
		w.printed[b] = map[string]string{"output": string(printed), "errors": string(complaints)}
		if _, unfinished := os.Stat(file(i, "done")); unfinished != nil {
			w.t.Fatalf("%s: these commands failed (%v):\n%s\nthey printed:\n%s%s", b.where, err, b.text, scrub(string(printed)), scrub(string(complaints)))
		}
	}
	if err != nil {
		w.t.Fatalf("the shell: %v", err)
	}
}

// secretShape matches tokens, and words as long as an API key.
var secretShape = regexp.MustCompile(`eyJ[\w-]{10,}[\w.-]*|\b[A-Za-z0-9_-]{44}\b`)

// scrub removes what may be secret from a text for the test's log.
func scrub(text string) string { return secretShape.ReplaceAllString(text, "[secret]") }

// masks replace what differs from run to run, in a sample and in the output.
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
	{regexp.MustCompile(`https?://(…[^\s']*|<address>)`), "<origin>"},
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+s\b`), "<while>"},
	{regexp.MustCompile(`(:secret:[\w/-]+)-\w{6}\b`), "$1-<random>"},
}

func masked(text string) []string {
	for _, m := range masks {
		text = m.shape.ReplaceAllString(text, m.mask)
	}
	return strings.Split(strings.TrimRight(text, "\n"), "\n")
}

// difference describes how a sample differs from the output; it is empty if they agree. In the sample … matches
// any text within a line, and a line of … alone matches any lines.
func difference(sample, printed string) string {
	got, gap := masked(printed), false
	for _, line := range masked(sample) {
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
		return "the command also prints\n  " + strings.Join(got, "\n  ")
	}
	return ""
}

// If the file of variables that a block reads is missing, an interactive shell goes on with the next line, which
// might change another account. So without the file no command of the block may run.
func TestNothingRunsWithoutTheFileOfVariables(t *testing.T) {
	t.Parallel()
	bash, tried := programs.Path(t, "bash"), 0
	for _, b := range blocks("sh") {
		reads, makesIt := strings.Contains(b.text, ". build/"), strings.Contains(b.text, "--env build/")
		if !reads || makesIt || b.purpose == "sandbox" {
			continue
		}
		tried++
		dir := t.TempDir()
		w := &stageRun{t: t, home: dir, env: map[string]string{"PATH": emulated(t, "make", "aws", "ibmcloud", "terraform", "rotatorctl") + ":" + os.Getenv("PATH"), "HOME": dir}}
		w.know(state{Recording: true})
		text := strings.ReplaceAll(b.text, "build/local/rotatorctl", "rotatorctl")
		programs.Run(t, programs.Command{Dir: dir, Env: programs.Environ(w.env), Stdin: text, Name: bash, Args: []string{"--norc", "--noprofile", "-i"}})
		if known, _ := os.ReadFile(filepath.Join(dir, stateName)); !strings.Contains(string(known), `"Called":null`) {
			t.Errorf("%s: without its file it calls %s", b.where, known)
		}
	}
	if tried < 2 {
		t.Errorf("only %d blocks read a file of variables: does the test still find them?", tried)
	}
}
