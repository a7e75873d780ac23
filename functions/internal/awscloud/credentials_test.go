package awscloud

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// On ECS and EKS the role's credentials are behind an endpoint that a token opens.
func TestCredentialsOfAContainersRole(t *testing.T) {
	secrets, requests := answering(t, 200, awsJSON, secretValue("SecretString", canary))
	awsEnvironment(t, secrets)
	container := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "the-token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"AccessKeyId":"FROMTHECONTAINER","SecretAccessKey":"x","Token":"y","Expiration":"2100-01-01T00:00:00Z"}`))
	}))
	defer container.Close()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("the-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": container.URL, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": file,
	} {
		t.Setenv(name, value)
	}
	key, err := BootstrapKey(testARN, http.DefaultTransport)(t.Context())
	if err != nil || key.Reveal() != canary {
		t.Fatalf("got %v, want the key", err)
	}
	if got := (*requests)[0].Header.Get("Authorization"); !strings.Contains(got, "FROMTHECONTAINER") {
		t.Error("the request is not signed with the container's credentials")
	}
}

func TestTheAuthorizationTokenGoesToNoStrangerInTheClear(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"http://169.254.170.23/v1/credentials": true, "http://[fd00:ec2::23]/v1": true, "http://127.0.0.1:8080/x": true, "http://localhost/x": true,
		"https://anywhere.test/x": true, "http://anywhere.test/x": false, "http://169.254.169.254/": false, "ftp://127.0.0.1/": false, "://": false,
	} {
		if got := mayServeCredentials(endpoint); got != want {
			t.Errorf("%s: got %t, want %t", endpoint, got, want)
		}
	}
}

// asked notes the hosts that requests go to, and answers none.
type asked struct{ hosts []string }

func (a *asked) RoundTrip(req *http.Request) (*http.Response, error) {
	a.hosts = append(a.hosts, req.URL.Host)
	return nil, errors.New("nobody is there")
}

func TestAStrangerIsNotAskedForCredentials(t *testing.T) {
	for endpoint, want := range map[string]int{"http://stranger.test/x": 0, "https://stranger.test/x": 1} {
		awsEnvironment(t, "http://127.0.0.1:1")
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint)
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the-token")
		transport := &asked{}
		if _, err := BootstrapKey(testARN, transport)(t.Context()); err == nil {
			t.Error("got a key without credentials")
		}
		if got := strings.Count(strings.Join(transport.hosts, " "), "stranger.test"); got != want {
			t.Errorf("%s: asked %d times, want %d", endpoint, got, want)
		}
	}
}
