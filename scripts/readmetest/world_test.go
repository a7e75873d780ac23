package readmetest

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
)

// A world is a copy of the repository and what surrounds it: an environment without anything of this
// machine's owner, and clouds.
type world struct {
	t       *testing.T
	dir     string // the copy
	home    string
	state   string // what the stand-ins of testdata/bin know
	env     map[string]string
	printed map[*block]string // what blocks have printed to stdout

	cloud  *ibmcloudtest.Cloud // nil before serveIBM
	origin string              // of it
	moto   *awstest.Moto       // nil before serveAWS
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: makeCopy(t), home: t.TempDir(), state: t.TempDir(), printed: map[*block]string{}}
	standIns := filepath.Join(w.dir, "scripts", "readmetest", "testdata", "bin")
	w.env = map[string]string{
		"PATH": standIns + ":" + pastShims() + os.Getenv("PATH"), "HOME": w.home, "TMPDIR": t.TempDir(), "STAND_IN_STATE": w.state,
		"ARCH": runtime.GOARCH, // Lambda is this machine here
	}
	maps.Copy(w.env, goEnvironment(t))
	return w
}

var goVariables = sync.OnceValues(func() (map[string]string, error) {
	printed, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOSUMDB", "GOFLAGS", "GOTOOLCHAIN").Output()
	if err != nil {
		return nil, err
	}
	variables := map[string]string{}
	return variables, json.Unmarshal(printed, &variables)
})

// goEnvironment has go find its caches although HOME is another.
func goEnvironment(t *testing.T) map[string]string {
	t.Helper()
	variables, err := goVariables()
	if err != nil {
		t.Fatal(err)
	}
	return variables
}

// pastShims is the beginning of a PATH where the aws program itself is found: pyenv's shim for it takes
// as long as the program does.
var pastShims = sync.OnceValue(func() string {
	path, err := exec.Command("pyenv", "which", "aws").Output()
	if err != nil {
		return ""
	}
	return filepath.Dir(strings.TrimSpace(string(path))) + ":"
})

// write writes a file for its owner alone.
func (w *world) write(path, content string) {
	w.t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, []byte(content), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}
