package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestACrashDumpsNoCore: a core file holds all of the memory, keys and tokens
// included. GOTRACEBACK=crash asks for one.
func TestACrashDumpsNoCore(t *testing.T) {
	bin, err := builtPrograms()
	if err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}, 8), make(chan struct{})
	iam := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-release
	}))
	t.Cleanup(iam.Close)
	t.Cleanup(func() { close(release) })
	crashing := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh", filepath.Join(bin, "bootstrap"))
	crashing.Dir = t.TempDir()
	crashing.Env = []string{"GOTRACEBACK=crash", "IAM_URL=" + iam.URL, "SECRETS_MANAGER_URL=" + iam.URL, "SECRETS_MANAGER_APIKEY=canary",
		"API_KEY_SECRET=cb1e238c-d449-4fe7-bd68-04f0c5b59eb1", "TOKEN_SECRET=e2dd1896-8c39-4160-b230-92430f439ba9"}
	if err := crashing.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := crashing.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	_ = crashing.Wait()
	status, _ := crashing.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() {
		t.Errorf("got %s, want the end by a signal that GOTRACEBACK=crash asks for", crashing.ProcessState)
	}
	if status.CoreDump() {
		t.Error("a core was dumped")
	}
}

// TestArgumentsAreNotRepeated: somebody will give the key as an argument, and what
// the command says of it goes into a log.
func TestArgumentsAreNotRepeated(t *testing.T) {
	const key = "canary-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eRdU4oI"
	for _, args := range [][]string{
		{key}, {"-" + key}, {"--" + key + "=1"}, {"-apikey", key}, {"--apikey=" + key}, {"-mode", key}, {"-mode=" + key}, {"-timeout", key},
		{"-timeout=" + key}, {"-json=" + key}, {"-force=" + key}, {"-run-id", key + "!"}, {"---" + key}, {"-=" + key}, {"doctor", "-" + key}, {"doctor", "-timeout", key},
	} {
		var stdout, stderr bytes.Buffer
		if exit := command(args, nil, &stdout, &stderr); exit != exitUsage {
			t.Errorf("%.20q: got exit %d, want %d", args, exit, exitUsage)
		}
		if said := stdout.String() + stderr.String(); strings.Contains(said, key[:12]) {
			t.Errorf("%.20q: the argument is repeated", args)
		}
		if stderr.Len() == 0 {
			t.Errorf("%.20q: got nothing on stderr, want what is wrong", args)
		}
	}
}
