package main

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestTheProxyOfTheEnvironmentIsUsedButNotForNoProxy(t *testing.T) {
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
		said, log, _ := fx.run(map[string]string{"NO_PROXY": noProxy}, "iam-token-rotator", "doctor", "-timeout", "4s")
		if len(want) > 0 && !strings.Contains(said, "the proxy on the way to ") || len(want) > 0 && !strings.Contains(said, ".example.com answered 502") || strings.Contains(said+log, "password@") {
			t.Errorf("NO_PROXY=%s: got %q, want the proxy and its status named", noProxy, said)
		}
		proxy.Close() // waits for the requests that are still served
		close(asked)
		got := slices.Compact(slices.Sorted(func(yield func(string) bool) {
			for request := range asked {
				if !yield(request) {
					return
				}
			}
		}))
		if !slices.Equal(got, want) {
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
