package main

import (
	"io"
	"io/fs"
	"net"
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

// connectProxy is an HTTP proxy that speaks CONNECT alone, and leads every host to
// one server.
type connectProxy struct {
	target string

	mu       sync.Mutex
	hosts    []string // that were asked for
	password string   // of the last request, in its header's form
}

func (p *connectProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.hosts, p.password = append(p.hosts, r.Host), r.Header.Get("Proxy-Authorization")
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { _, _ = io.Copy(server, buffered); _ = server.Close() }()
	_, _ = io.Copy(client, server)
	_ = client.Close()
}

// behindProxy returns a proxy in front of a sandbox, which the built function finds
// by a name that nothing but the proxy knows.
func behindProxy(t *testing.T) (*connectProxy, *stage) {
	t.Helper()
	s := newStage(t, ibmcloudtest.Options{})
	proxy := &connectProxy{target: s.server.Listener.Addr().String()}
	listening := httptest.NewServer(proxy)
	t.Cleanup(listening.Close)
	s.env["SECRETS_MANAGER_URL"], s.env["IAM_URL"] = "https://instance.example.com", "https://iam.example.com"
	s.env["HTTPS_PROXY"] = strings.Replace(listening.URL, "http://", "http://user:password@", 1)
	return proxy, s
}

func TestTheProxyOfTheEnvironmentIsUsed(t *testing.T) {
	proxy, s := behindProxy(t)
	if stdout, stderr, exit := s.run(nil, "iam-token-rotator"); exit != exitDone {
		t.Fatalf("got exit %d, %s%s, want success through the proxy", exit, stdout, stderr)
	}
	for _, host := range []string{"instance.example.com:443", "iam.example.com:443"} {
		if !slices.Contains(proxy.hosts, host) {
			t.Errorf("got CONNECT to %v, want %s among them", proxy.hosts, host)
		}
	}
	if want := "Basic dXNlcjpwYXNzd29yZA=="; proxy.password != want {
		t.Errorf("got Proxy-Authorization %q, want %q", proxy.password, want)
	}
}

func TestNoProxyIsHonoured(t *testing.T) {
	proxy, s := behindProxy(t)
	_, _, exit := s.run(map[string]string{"NO_PROXY": "iam.example.com"}, "iam-token-rotator", "-timeout", "500ms")
	if exit != exitFailed {
		t.Errorf("got exit %d, want %d: nothing but the proxy knows iam.example.com", exit, exitFailed)
	}
	for _, host := range proxy.hosts {
		if strings.HasPrefix(host, "iam.") {
			t.Errorf("got CONNECT to %s, want it asked for directly", host)
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
