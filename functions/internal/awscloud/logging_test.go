package awscloud

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAnOddDateIsNotLogged: the AWS SDK writes a Date header that it cannot read to
// stderr, whatever stands there.
func TestAnOddDateIsNotLogged(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", canary)
		w.Header().Set("Content-Type", awsJSON)
		_, _ = io.WriteString(w, secretValue("SecretString", canary))
	}))
	t.Cleanup(server.Close)
	awsEnvironment(t, server.URL)

	stderr := os.Stderr
	t.Cleanup(func() { os.Stderr = stderr })
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	os.Stderr = file
	if _, err := BootstrapKey(testARN, http.DefaultTransport)(t.Context()); err != nil {
		t.Fatal(err)
	}
	logged, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(logged), canary) {
		t.Error("the SDK logged what stood in the Date header")
	}
}
