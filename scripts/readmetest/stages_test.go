package readmetest

import (
	"bytes"
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
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
)

// A stage is a world in which the blocks that name it are run, in one shell, in a copy of the repository.
type stage struct {
	needs   []string // programs other than sh, go and make
	prepare func(w *world)
	dir     string // in the copy; its top if empty
}

// forAWS is what AWS's side of a stage needs.
var forAWS = []string{"moto_server", "aws", "jq", "curl"}

var stages = map[string]stage{
	"first":      {},
	"contribute": {},
	"simulate":   {},
	// The sandboxes of make, each a separate process.
	"sandbox":   {needs: []string{"curl"}},
	"sandboxes": {needs: forAWS},
	// IBM Cloud and AWS in memory, and programs that emulate ibmcloud and terraform.
	"deploy":      {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.answers = strings.Repeat("y\n", 4) }},
	"ibm":         {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS() }},
	"further":     {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.exportOutputs() }},
	"code-engine": {needs: []string{"curl", "jq"}, prepare: (*world).serveIBM},
	"kubernetes":  {needs: []string{"jq"}, prepare: func(w *world) { writeFile(w.t, filepath.Join(w.dir, "build", "bootstrap.key"), "key") }},
	// AWS, where infra/ibm has been set up before.
	"aws":   {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.writeEnv() }},
	"fleet": {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.writeEnv(); w.writeFleet() }},
	// Jobs, with a token to read.
	"job":             {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.saveToken(); w.env["READER_APIKEY_FILE"] = w.writeReaderKey() }},
	"laptop":          {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.saveToken(); w.writeReaderKey() }},
	"code-engine-job": {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.saveToken(); w.writeComputeToken() }, dir: "scripts"},
	"aws-job":         {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.saveToken(); w.mirrorToAWS() }, dir: "scripts"},
}

func stageNames() []string { return slices.Sorted(maps.Keys(stages)) }

// A world is a copy of the repository, an environment without anything of this machine's owner, and clouds.
type world struct {
	t       *testing.T
	dir     string // the copy
	home    string
	state   string // what the programs of testdata/bin know
	env     map[string]string
	printed map[*block]string
	answers string // to the questions of the commands

	cloud  *ibmcloudtest.Cloud // nil before serveIBM
	origin string
	moto   *awstest.Moto // nil before serveAWS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: makeCopy(t), home: t.TempDir(), state: t.TempDir(), printed: map[*block]string{}}
	w.env = map[string]string{
		"PATH": filepath.Join(w.dir, "scripts", "readmetest", "testdata", "bin") + ":" + realAWS() + os.Getenv("PATH"),
		"HOME": w.home, "TMPDIR": t.TempDir(), "EMULATION_STATE": w.state,
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
	return w
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
func (w *world) serveIBM() {
	w.t.Helper()
	w.cloud = ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	cloud := withReaderProfile(w.cloud)
	server, secure := httptest.NewServer(cloud), httptest.NewTLSServer(cloud)
	w.t.Cleanup(server.Close)
	w.t.Cleanup(secure.Close)
	w.origin = server.URL
	w.env["IAM_URL"] = server.URL
	writeFile(w.t, filepath.Join(w.home, ".curlrc"), fmt.Sprintf("insecure\nconnect-to = \"%s:443:%s\"\n", logsRouting, secure.Listener.Addr()))
	writeFile(w.t, filepath.Join(w.state, "admin.key"), w.cloud.AdminAPIKey())
	w.writeOutputs("outputs.json", w.cloud.BootstrapIAMID(), "")
	w.writeOutputs("outputs-code_engine.json", "", w.cloud.ProfileID())
	writeFile(w.t, filepath.Join(w.state, "next.json"), fmt.Sprintf(`{"bootstrap":%q,"workload":%q}`,
		w.cloud.MustCopyServiceID(w.cloud.BootstrapIAMID()), w.cloud.MustCopyServiceID(w.cloud.Rotations()[0].IAMID)))
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

func (w *world) outputs(bootstrap, profile string) map[string]string {
	return map[string]string{
		"secrets_manager_url": w.origin, "account_id": w.cloud.AccountID(), "key_group_id": w.cloud.KeyGroupID(), "token_group_id": w.cloud.TokenGroupID(),
		"bootstrap_iam_id": bootstrap, "workload_iam_id": w.cloud.Rotations()[0].IAMID, "reader_iam_id": w.cloud.ReaderIAMID(), "iam_profile_id": profile, "managed_keys": "true",
	}
}

// writeOutputs writes what `terraform output -json` prints.
func (w *world) writeOutputs(file, bootstrap, profile string) {
	w.t.Helper()
	outputs := map[string]any{}
	for name, value := range w.outputs(bootstrap, profile) {
		outputs[name] = map[string]any{"sensitive": false, "type": "string", "value": value}
	}
	text, err := json.Marshal(outputs)
	if err != nil {
		w.t.Fatal(err)
	}
	writeFile(w.t, filepath.Join(w.state, file), string(text))
}

// exportOutputs puts Terraform's outputs into the environment, together with a person's token.
func (w *world) exportOutputs() {
	for name, value := range w.outputs(w.cloud.BootstrapIAMID(), "") {
		w.env[strings.ToUpper(name)] = value
	}
	w.env["IAM_TOKEN"] = w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour)
}

// serveAWS starts an AWS whose Lambda runs what is deployed.
func (w *world) serveAWS() {
	w.t.Helper()
	w.moto = awstest.Start(w.t)
	server := httptest.NewServer(&awstest.Lambda{Moto: w.moto, Program: filepath.Join(programsFolder(w.t), "invoke")})
	w.t.Cleanup(server.Close)
	maps.Copy(w.env, awstest.Environment(server.URL))
	w.env["AWS_DEFAULT_REGION"] = awstest.Region
}

// makeSecret stores a secret in AWS and returns its ARN.
func (w *world) makeSecret(name, value string) string {
	w.t.Helper()
	made := w.moto.MustCall(w.t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{
		"Name": name, "SecretString": value, "ClientRequestToken": strings.Repeat("c", 32)})
	return fmt.Sprint(made["ARN"])
}

// writeEnv writes build/ibm.env as the set-up does.
func (w *world) writeEnv() {
	w.t.Helper()
	rotation := w.cloud.Rotations()[0]
	arn := w.makeSecret("iam-token-rotator/bootstrap", w.cloud.BootstrapAPIKey())
	writeFile(w.t, filepath.Join(w.dir, "build", "ibm.env"), fmt.Sprintf("SECRETS_MANAGER_URL=%s\nAPI_KEY_SECRET=%s\nTOKEN_SECRET=%s\nBOOTSTRAP_EXPIRES_AT=2099-12-31\nBOOTSTRAP_SECRET_ARN=%s\n",
		w.origin, rotation.APIKeySecret, rotation.TokenSecret, arn))
}

// writeFleet writes a list of rotations and makes the bucket.
func (w *world) writeFleet() {
	w.t.Helper()
	rotation := w.cloud.Rotations()[0]
	writeFile(w.t, filepath.Join(w.dir, "rotations.json"), fmt.Sprintf(`[{"name":"only","api_key_secret":%q,"token_secret":%q}]`, rotation.APIKeySecret, rotation.TokenSecret))
	if err := w.moto.MakeBucket(w.t.Context(), "my-code-bucket"); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) newToken() string {
	return w.cloud.MustMintToken(w.cloud.Rotations()[0].APIKey, time.Hour)
}

// saveToken saves a token as the rotator does, and names it to jobs.
func (w *world) saveToken() {
	id := w.cloud.Rotations()[0].TokenSecret
	w.cloud.MustPutVersion(id, w.newToken(), map[string]any{"expiration": time.Now().Add(time.Hour).Unix()})
	w.env["SECRETS_MANAGER_URL"], w.env["TOKEN_SECRET"] = w.origin, id
}

// mirrorToAWS makes the mirror that a job on AWS reads.
func (w *world) mirrorToAWS() {
	w.env["TOKEN_SECRET_ARN"] = w.makeSecret("iam-token", w.newToken())
	delete(w.env, "TOKEN_SECRET")
	delete(w.env, "SECRETS_MANAGER_URL")
}

// writeReaderKey puts the reader's key where a person has it.
func (w *world) writeReaderKey() (file string) {
	file = filepath.Join(w.home, ".config", "token-reader.key")
	writeFile(w.t, file, w.cloud.ReaderAPIKey()+"\n")
	return file
}

// writeComputeToken does what Code Engine does for a job.
func (w *world) writeComputeToken() {
	w.env["CR_TOKEN_FILENAME"] = filepath.Join(w.home, "compute-resource-token")
	writeFile(w.t, w.env["CR_TOKEN_FILENAME"], "compute-resource-token\n")
}

// scratch is a folder that lasts as long as the tests.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "rotator-readme-test-"); err != nil {
		panic(err)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", atATime); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// original is the copy that the others are made of, its programs built.
var original = sync.OnceValues(func() (string, error) {
	folder := filepath.Join(scratch, "original")
	if err := copySources(folder); err != nil {
		return folder, err
	}
	command := exec.Command("make", "build-local", "build", "ARCH="+runtime.GOARCH)
	command.Dir, command.Env = folder, append(os.Environ(), "MAKEFLAGS=", "MFLAGS=", "GOFLAGS="+os.Getenv("GOFLAGS")+samePaths)
	if printed, err := command.CombinedOutput(); err != nil {
		return folder, fmt.Errorf("make build-local build: %w: %s", err, printed)
	}
	return folder, nil
})

func programsFolder(t *testing.T) string {
	t.Helper()
	folder, err := original()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, "build", "local")
}

// copySources copies the repository's files. The sandboxes of the copy listen on free ports.
func copySources(folder string) error {
	for _, path := range repositoryFiles() {
		from, to := filepath.Join(root, path), filepath.Join(folder, path)
		info, err := os.Stat(from)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another test's, which is gone meanwhile
		}
		content, readErr := os.ReadFile(from)
		if path == "Makefile" {
			content = []byte(strings.NewReplacer("127.0.0.1:8480", "127.0.0.1:0", "127.0.0.1:8481", "127.0.0.1:0").Replace(string(content)))
		}
		if err = errors.Join(err, readErr, os.MkdirAll(filepath.Dir(to), 0o700)); err == nil {
			err = os.WriteFile(to, content, info.Mode().Perm())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeCopy is a copy of the repository with its programs built, so that make finds them up to date.
func makeCopy(t *testing.T) string {
	t.Helper()
	bin := programsFolder(t)
	folder := filepath.Join(t.TempDir(), "iam-token-rotator")
	err := copySources(folder)
	built, _ := filepath.Glob(filepath.Join(bin, "*"))
	for _, program := range built {
		err = errors.Join(err, link(program, filepath.Join(folder, "build", "local", filepath.Base(program))))
	}
	for _, other := range []string{"deploy", "rotate"} { // the same binary, where ARCH is that of this machine
		err = errors.Join(err, link(filepath.Join(bin, "../rotate/bootstrap"), filepath.Join(folder, "build", other, "bootstrap")))
	}
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func link(file, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.Link(file, to)
}
