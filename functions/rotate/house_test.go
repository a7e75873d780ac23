package main

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// TestWhatTheBinaryDependsOn: what is added to the shipped binary is added on purpose.
func TestWhatTheBinaryDependsOn(t *testing.T) {
	want := []string{
		"github.com/IBM/go-sdk-core/v5", "github.com/IBM/secrets-manager-go-sdk/v2", "github.com/aws/aws-lambda-go",
		"github.com/aws/aws-sdk-go-v2", "github.com/aws/aws-sdk-go-v2/credentials",
		"github.com/aws/aws-sdk-go-v2/service/secretsmanager", "github.com/aws/smithy-go",
		"github.com/caarlos0/env/v11", "github.com/cenkalti/backoff/v5", "github.com/golang-jwt/jwt/v5", "golang.org/x/sync", "golang.org/x/time",
	}
	required := list(t, "-m", "-f", "{{if not (or .Main .Indirect)}}{{.Path}}{{end}}", "all")
	binary := list(t, "-deps", "-tags", "lambda.norpc", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", ".")
	var got []string
	for _, module := range required {
		if slices.Contains(binary, module) {
			got = append(got, module)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the binary depends on\n%v, want\n%v", got, want)
	}
}

// list returns what go list prints for the shipped platform, each line once, sorted.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	command := exec.Command("go", append([]string{"list"}, args...)...)
	command.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	slices.Sort(lines)
	return slices.Compact(lines)
}

func TestTheProxyOfTheEnvironmentIsUsedButNotForNoProxy(t *testing.T) {
	s := newStage(t, ibmcloudtest.Options{})
	var mu sync.Mutex
	var asked []string // "CONNECT host password"
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(proxy.Close)
	s.env["SECRETS_MANAGER_URL"], s.env["IAM_URL"] = "https://instance.example.com", "https://iam.example.com"
	s.env["HTTPS_PROXY"] = strings.Replace(proxy.URL, "http://", "http://user:password@", 1)
	const iam, instance = "CONNECT iam.example.com:443 Basic dXNlcjpwYXNzd29yZA==", "CONNECT instance.example.com:443 Basic dXNlcjpwYXNzd29yZA=="
	for noProxy, want := range map[string][]string{"": {iam, instance}, "iam.example.com": {instance}, ".example.com": nil} {
		asked = nil
		s.run(map[string]string{"NO_PROXY": noProxy}, "iam-token-rotator", "doctor", "-timeout", "4s")
		slices.Sort(asked)
		if got := slices.Compact(asked); !slices.Equal(got, want) {
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
