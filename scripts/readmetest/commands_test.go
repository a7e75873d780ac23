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
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/programs"
)

// A stage is a world in which the blocks that name it are run, in one shell, in a copy of the repository.
type stage struct {
	needs []string       // programs other than sh, go and make
	make  []func(*world) // what is there before
	dir   string         // in the copy; its top if empty
}

var (
	readers = []string{"curl", "jq"}
	forAWS  = []string{"moto_server", "aws", "jq", "curl"}
)

var stages = map[string]stage{
	"first":      {},
	"contribute": {},
	"simulate":   {},
	// The sandboxes of make, each a separate process.
	"sandbox":   {needs: []string{"curl"}},
	"sandboxes": {needs: forAWS},
	// IBM Cloud and AWS in memory, and programs that emulate ibmcloud and terraform.
	"deploy":      {needs: forAWS, make: []func(*world){serveIBM, serveAWS}},
	"ibm":         {needs: forAWS, make: []func(*world){serveIBM, shareAWS}},
	"further":     {needs: readers, make: []func(*world){serveIBM, exportOutputs}},
	"code-engine": {needs: readers, make: []func(*world){serveIBM}},
	"kubernetes":  {needs: []string{"jq"}, make: []func(*world){func(w *world) { writeFile(w.t, filepath.Join(w.dir, "build", "bootstrap.key"), "key") }}},
	// AWS, where infra/ibm has been set up before.
	"aws":   {needs: forAWS, make: []func(*world){serveIBM, serveAWS, writeEnv}},
	"fleet": {needs: forAWS, make: []func(*world){serveIBM, shareAWS, writeEnv, writeFleet}},
	// Jobs, with a token to read.
	"job":             {needs: readers, make: []func(*world){serveIBM, saveToken}},
	"laptop":          {needs: readers, make: []func(*world){serveIBM, saveToken}},
	"code-engine-job": {needs: readers, make: []func(*world){serveIBM, saveToken}, dir: "scripts"},
	"aws-job":         {needs: forAWS, make: []func(*world){serveIBM, shareAWS, mirrorToAWS}, dir: "scripts"},
}

// answers are those to what the commands ask a person.
var answers = strings.Repeat("y\n", 4)

// A world is a copy of the repository, an environment without anything of this machine's owner, and clouds.
type world struct {
	t         *testing.T
	dir, home string // the copy, and a home
	env       map[string]string
	printed   map[*block]string

	cloud  *ibmcloudtest.Cloud // nil before serveIBM
	origin string
	moto   *awstest.Moto // nil before serveAWS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: makeCopy(t), home: t.TempDir(), printed: map[*block]string{}}
	w.env = map[string]string{
		"PATH": emulated(t, "docker", "kubectl", "ibmcloud", "terraform", "go") + ":" + realAWS() + os.Getenv("PATH"), "HOME": w.home, "TMPDIR": t.TempDir(),
		"ARCH": runtime.GOARCH, // Lambda is this machine here
	}
	printed, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOSUMDB", "GOFLAGS", "GOTOOLCHAIN").Output()
	if err == nil {
		err = json.Unmarshal(printed, &w.env) // adds to it
	}
	if err != nil {
		t.Fatal(err)
	}
	w.env["GOFLAGS"] += samePaths
	w.know(state{})
	return w
}

// emulated is a folder of programs that are this test.
func emulated(t *testing.T, names ...string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	self, err := os.Executable()
	for _, name := range names {
		err = errors.Join(err, os.Symlink(self, filepath.Join(folder, name)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// know tells the emulated programs.
func (w *world) know(s state) {
	s.Packed = scratch
	content, err := json.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	writeFile(w.t, filepath.Join(w.home, stateName), string(content))
}

// samePaths are flags with which the go command needs to build nothing again in another folder.
const samePaths = " -trimpath"

// realAWS is the beginning of a PATH where the aws program itself is found: pyenv's shim for it takes as
// long as the program does.
var realAWS = sync.OnceValue(func() string {
	path, err := exec.Command("pyenv", "which", "aws").Output()
	if err != nil {
		return ""
	}
	return filepath.Dir(strings.TrimSpace(string(path))) + ":"
})

// logsRouting is where a job of the pages calls IBM Cloud's API.
const logsRouting = "api.us-south.logs-router.cloud.ibm.com"

// serveIBM starts an IBM Cloud that terraform, ibmcloud and curl know.
func serveIBM(w *world) {
	w.cloud = ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	cloud := withReaderProfile(w.cloud)
	server, secure := httptest.NewServer(cloud), httptest.NewTLSServer(cloud)
	w.t.Cleanup(server.Close)
	w.t.Cleanup(secure.Close)
	w.origin, w.env["IAM_URL"] = server.URL, server.URL
	writeFile(w.t, filepath.Join(w.home, ".curlrc"), fmt.Sprintf("insecure\nconnect-to = \"%s:443:%s\"\n", logsRouting, secure.Listener.Addr()))
	w.know(state{Administrator: w.cloud.AdminAPIKey(), Outputs: w.outputs(), Profile: w.cloud.ProfileID(), Next: map[string]string{
		"bootstrap": w.cloud.MustCopyServiceID(w.cloud.BootstrapIAMID()), "workload": w.cloud.MustCopyServiceID(w.cloud.Rotations()[0].IAMID)}})
}

// withReaderProfile adds a job's trusted profile, token-reader, which may do what the reader may.
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

// outputs are Terraform's.
func (w *world) outputs() map[string]string {
	return map[string]string{
		"secrets_manager_url": w.origin, "account_id": w.cloud.AccountID(), "key_group_id": w.cloud.KeyGroupID(), "token_group_id": w.cloud.TokenGroupID(), "bootstrap_iam_id": w.cloud.BootstrapIAMID(),
		"workload_iam_id": w.cloud.Rotations()[0].IAMID, "reader_iam_id": w.cloud.ReaderIAMID(), "iam_profile_id": "", "managed_keys": "true",
	}
}

// exportOutputs puts Terraform's outputs into the environment, together with a person's token.
func exportOutputs(w *world) {
	for name, value := range w.outputs() {
		w.env[strings.ToUpper(name)] = value
	}
	w.env["IAM_TOKEN"] = w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour)
}

// serveAWS starts an AWS whose Lambda runs what is deployed.
func serveAWS(w *world) {
	if w.moto == nil {
		w.moto = awstest.Start(w.t)
	}
	server := httptest.NewServer(&awstest.Lambda{Moto: w.moto, Program: filepath.Join(programsFolder(w.t), "invoke")})
	w.t.Cleanup(server.Close)
	maps.Copy(w.env, awstest.Environment(server.URL))
	w.env["AWS_DEFAULT_REGION"] = awstest.Region
}

// oneMoto serves the stages that have resources of different names.
var oneMoto = sync.OnceValues(func() (*awstest.Moto, error) {
	moto, err := awstest.StartMoto()
	if err == nil {
		stopMoto = moto.Stop
	}
	return moto, err
})

var stopMoto = func() {}

func shareAWS(w *world) {
	moto, err := oneMoto()
	if err != nil {
		w.t.Fatal(err)
	}
	w.moto = moto
	serveAWS(w)
}

// makeSecret stores a secret in AWS and returns its ARN.
func (w *world) makeSecret(name, value string) string {
	made := w.moto.MustCall(w.t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{
		"Name": name, "SecretString": value, "ClientRequestToken": strings.Repeat("c", 32)})
	return fmt.Sprint(made["ARN"])
}

// writeEnv writes build/ibm.env as the set-up does.
func writeEnv(w *world) {
	rotation := w.cloud.Rotations()[0]
	arn := w.makeSecret(filepath.Base(w.t.Name())+"/bootstrap", w.cloud.BootstrapAPIKey())
	writeFile(w.t, filepath.Join(w.dir, "build", "ibm.env"), fmt.Sprintf("SECRETS_MANAGER_URL=%s\nAPI_KEY_SECRET=%s\nTOKEN_SECRET=%s\nBOOTSTRAP_EXPIRES_AT=2099-12-31\nBOOTSTRAP_SECRET_ARN=%s\n",
		w.origin, rotation.APIKeySecret, rotation.TokenSecret, arn))
}

// writeFleet writes a list of rotations and makes the bucket.
func writeFleet(w *world) {
	rotation := w.cloud.Rotations()[0]
	writeFile(w.t, filepath.Join(w.dir, "rotations.json"), fmt.Sprintf(`[{"name":"only","api_key_secret":%q,"token_secret":%q}]`, rotation.APIKeySecret, rotation.TokenSecret))
	if err := w.moto.MakeBucket(w.t.Context(), "my-code-bucket"); err != nil {
		w.t.Fatal(err)
	}
}

// saveToken saves a token as the rotator does, and gives jobs what they read it with: a key, or what Code Engine gives them.
func saveToken(w *world) {
	rotation, key, compute := w.cloud.Rotations()[0], filepath.Join(w.home, ".config", "token-reader.key"), filepath.Join(w.home, "compute-resource-token")
	w.cloud.MustPutVersion(rotation.TokenSecret, w.cloud.MustMintToken(rotation.APIKey, time.Hour), map[string]any{"expiration": time.Now().Add(time.Hour).Unix()})
	writeFile(w.t, key, w.cloud.ReaderAPIKey()+"\n")
	writeFile(w.t, compute, "compute-resource-token\n")
	maps.Copy(w.env, map[string]string{"SECRETS_MANAGER_URL": w.origin, "TOKEN_SECRET": rotation.TokenSecret})
	switch name := filepath.Base(w.t.Name()); name {
	case "job":
		w.env["READER_APIKEY_FILE"] = key
	case "code-engine-job":
		w.env["CR_TOKEN_FILENAME"] = compute
	}
}

// mirrorToAWS makes the mirror that a job on AWS reads.
func mirrorToAWS(w *world) {
	w.env["TOKEN_SECRET_ARN"] = w.makeSecret("iam-token", w.cloud.MustMintToken(w.cloud.Rotations()[0].APIKey, time.Hour))
}

// scratch is a folder that lasts as long as the tests.
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
		err = flag.Set("test.parallel", "4") // they mostly wait for programs
	}
	if err != nil {
		panic(err)
	}
	code := m.Run()
	stopMoto()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// original is the copy that the others are made of, its programs built. Its sandboxes listen on free ports.
var original = sync.OnceValues(func() (folder string, err error) {
	folder = filepath.Join(scratch, "original")
	for _, path := range repositoryFiles() {
		content, to := fileText(path), filepath.Join(folder, path)
		if path == "Makefile" {
			content = strings.NewReplacer("127.0.0.1:8480", "127.0.0.1:0", "127.0.0.1:8481", "127.0.0.1:0").Replace(content)
		}
		if info, gone := os.Stat(filepath.Join(root, path)); gone == nil {
			err = errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, []byte(content), info.Mode().Perm()))
		}
	}
	command := exec.Command("make", "build-local", "build", "ARCH="+runtime.GOARCH)
	command.Dir, command.Env = folder, append(os.Environ(), "MAKEFLAGS=", "MFLAGS=", "GOFLAGS="+os.Getenv("GOFLAGS")+samePaths)
	if printed, failure := command.CombinedOutput(); failure != nil {
		err = errors.Join(err, fmt.Errorf("make build-local build: %w: %s", failure, printed))
	}
	// What deploy builds is the same binary, where ARCH is that of this machine.
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

// makeCopy is a copy of the repository with its programs built, so that make finds them up to date. Its files are links: commands make
// files, and change none.
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

const (
	stageLimit  = 3 * time.Minute // for the commands of a stage
	serverLimit = time.Minute     // for a server to be ready, its programs built
)

// notRun are command lines that are left out, with the reason.
var notRun = map[string]string{
	"make test":                             "it runs these tests",
	"make check":                            "make test runs it",
	"make run && make examples":             ".ci/run runs both; the page README.md has the first, and the jobs of the other wait for minutes",
	"go test ./functions/internal/rotation": "make test runs it",
	`aws sqs receive-message --queue-url "$queue" --max-number-of-messages 10 --message-attribute-names All`: "moto gives a queue the address that it has at AWS",
}

// runnable is the text without the lines that are not run; they leave an empty line.
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

// TestEveryCommandRuns runs the pages, stage by stage.
func TestEveryCommandRuns(t *testing.T) {
	t.Parallel()
	_ = programsFolder(t)                                   // built before the clock of any stage runs
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
	w := newWorld(t)
	for _, prepare := range stage.make {
		prepare(w)
	}
	var commands []*block
	for _, b := range blocks("sh") {
		switch {
		case b.purpose != name:
		case b.server:
			w.serve(b)
		default:
			commands = append(commands, b)
		}
	}
	w.play(commands, stage.dir)
	w.checkSamples(commands)
}

// play runs blocks in one shell, in a folder of the copy. The shell ends with the first command that fails.
func (w *world) play(commands []*block, dir string) {
	w.t.Helper()
	out := w.t.TempDir()
	file := func(i int, kind string) string { return filepath.Join(out, fmt.Sprint(i, ".", kind)) }
	script := "set -eu\n"
	for i, b := range commands {
		// set -e ignores what fails before the last && of a list.
		script += fmt.Sprintf("exec >'%s' 2>'%s'\n%s\n[ $? = 0 ]\n", file(i, "out"), file(i, "err"), b.runnable())
		for _, exported := range exportShape.FindAllStringSubmatch(b.text, -1) {
			script += fmt.Sprintf("[ -n \"$%s\" ] || { echo '%s is empty' >&2; exit 1; }\n", exported[1], exported[1])
		}
		script += fmt.Sprintf(": >'%s'\n", file(i, "done"))
	}
	writeFile(w.t, filepath.Join(out, "script"), script)
	ctx, cancel := context.WithTimeout(w.t.Context(), stageLimit)
	defer cancel()
	shell := w.shell(ctx, filepath.Join(out, "script"))
	shell.Dir, shell.Stdin = filepath.Join(w.dir, dir), strings.NewReader(answers)
	err := shell.Run()
	for i, b := range commands {
		printed, _ := os.ReadFile(file(i, "out"))
		w.printed[b] = string(printed)
		if _, unfinished := os.Stat(file(i, "done")); unfinished != nil {
			complaint, _ := os.ReadFile(file(i, "err"))
			w.t.Fatalf("%s: these commands failed (%v):\n%s\nthey printed:\n%s%s", b.where, err, b.text, scrub(string(printed)), scrub(string(complaint)))
		}
	}
	if err != nil {
		w.t.Fatalf("the shell: %v", err)
	}
}

// exportShape is an export of what a command prints, which succeeds whether the command does or not.
var exportShape = regexp.MustCompile(`(?m)^export (\w+)="\$\(`)

// shell has the world's environment. Cancelled, it ends with all that it has started.
func (w *world) shell(ctx context.Context, args ...string) *exec.Cmd {
	shell := exec.CommandContext(ctx, "sh", args...)
	shell.Dir, shell.Env = w.dir, programs.Environ(w.env)
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	shell.Cancel = func() error { return syscall.Kill(-shell.Process.Pid, syscall.SIGTERM) }
	shell.WaitDelay = 10 * time.Second
	return shell
}

// readyFile is the file that shows that a server is ready.
var readyFile = map[string]string{"make sandbox": "build/sandbox.env", "make aws-sandbox": "build/aws.env"}

// serve runs a block until the test ends, and returns when it is ready.
func (w *world) serve(b *block) {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	server := w.shell(ctx, "-euc", b.runnable())
	var printed strings.Builder
	server.Stdout, server.Stderr = &printed, &printed
	if err := server.Start(); err != nil {
		w.t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		stop()
		_ = server.Wait()
	})
	w.t.Cleanup(end)
	if _, err := envfile.Await(w.t.Context(), filepath.Join(w.dir, readyFile[strings.TrimSpace(b.text)]), serverLimit); err != nil {
		end()
		w.t.Fatalf("%s: %v; it printed:\n%s", b.where, err, scrub(printed.String()))
	}
}

// secretShape is a token, or a run of characters as long as an API key.
var secretShape = regexp.MustCompile(`eyJ[\w-]{10,}[\w.-]*|\b[A-Za-z0-9_-]{44}\b`)

// scrub removes from a text what may be secret, for the test's own log.
func scrub(text string) string { return secretShape.ReplaceAllString(text, "[secret]") }

// masks replace what differs from run to run, in the sample and in what is printed.
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

// difference between a sample and what was printed, empty if there is none. In the sample … matches
// anything within a line, and alone any lines.
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

// checkSamples compares what the blocks printed with the samples below them.
func (w *world) checkSamples(commands []*block) {
	w.t.Helper()
	for _, b := range commands {
		for _, sample := range b.page.blocks {
			if sample.language == "text" && sample.purpose == "output" && sample.above == b {
				if d := difference(sample.text, w.printed[b]); d != "" {
					w.t.Errorf("%s: this sample is not what %s prints: %s", sample.where, b.where, scrub(d))
				}
			}
		}
	}
}

// Where a file that a block reads is missing, an interactive shell goes on with the next line, and would do
// there what it does in an account that is not meant: nothing may be called.
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
		w := &world{t: t, home: dir, env: map[string]string{"PATH": emulated(t, "make", "aws", "ibmcloud", "terraform", "rotatorctl") + ":" + os.Getenv("PATH"), "HOME": dir}}
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
