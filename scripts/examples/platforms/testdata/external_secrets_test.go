package ibm // of External Secrets: scripts/conformance runs this there, beside the provider's own code

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	esv1 "github.com/external-secrets/external-secrets/apis/externalsecrets/v1"
	"sigs.k8s.io/yaml"
)

// TestReadsTheRotatedToken reads with the store and the reference of EXAMPLE what ROTATOR has just saved, twice.
func TestReadsTheRotatedToken(t *testing.T) {
	text, err := os.ReadFile(os.Getenv("EXAMPLE"))
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), "\n---\n")
	var store esv1.SecretStore
	var secret esv1.ExternalSecret
	if err := errors.Join(yaml.UnmarshalStrict([]byte(documents[0]), &store), yaml.UnmarshalStrict([]byte(documents[1]), &secret)); err != nil {
		t.Fatal(err)
	}
	if secret.Spec.RefreshInterval == nil || secret.Spec.RefreshInterval.Duration != 5*time.Minute || secret.Spec.SecretStoreRef.Name != store.Name {
		t.Errorf("got %+v, want the store of the example, every 5 minutes", secret.Spec)
	}
	kind, _, _ := strings.Cut(secret.Spec.Data[0].RemoteRef.Key, "/")
	secret.Spec.Data[0].RemoteRef.Key = kind + "/" + os.Getenv("TOKEN_SECRET")

	settings := store.Spec.Provider.IBM
	if settings.Auth.ContainerAuth.Profile != "token-reader" {
		t.Errorf("got the profile %q", settings.Auth.ContainerAuth.Profile)
	}
	origin := os.Getenv("SECRETS_MANAGER_URL")
	settings.ServiceURL = &origin
	settings.Auth.ContainerAuth.IAMEndpoint = withReaderProfile(t)
	settings.Auth.ContainerAuth.TokenLocation = filepath.Join(t.TempDir(), "sa-token")
	if err := os.WriteFile(settings.Auth.ContainerAuth.TokenLocation, []byte("service-account-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	provider := &providerIBM{}
	if _, err := provider.ValidateStore(&store); err != nil {
		t.Fatal(err)
	}
	client, err := provider.NewClient(context.Background(), &store, nil, "default")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		want := rotate(t)
		token, err := client.GetSecret(context.Background(), secret.Spec.Data[0].RemoteRef)
		if err != nil {
			t.Fatal("the provider reads no token")
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(token))[:16]; got != want {
			t.Errorf("got a token with the fingerprint %s, want %s", got, want)
		}
	}
}

// rotate saves a new token and returns its fingerprint.
func rotate(t *testing.T) string {
	t.Helper()
	printed, err := exec.Command(os.Getenv("ROTATOR"), "-json").Output()
	if err != nil {
		t.Fatal("the rotation failed")
	}
	var report struct {
		Results []struct{ Fingerprint string }
	}
	if err := json.Unmarshal(printed, &report); err != nil || len(report.Results) != 1 || report.Results[0].Fingerprint == "" {
		t.Fatal("the report has no fingerprint")
	}
	return report.Results[0].Fingerprint
}

// withReaderProfile serves IAM with a trusted profile, token-reader, that may do what the sandbox's reader may.
func withReaderProfile(t *testing.T) string {
	iam, err := url.Parse(os.Getenv("IAM_URL"))
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(iam)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.PostForm.Get("profile_name") != "token-reader" || r.PostForm.Get("cr_token") != "service-account-token" {
			http.Error(w, "the request names another profile or token", http.StatusBadRequest)
			return
		}
		form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {os.Getenv("READER_APIKEY")}}.Encode()
		asReader, err := http.NewRequestWithContext(r.Context(), http.MethodPost, r.URL.String(), strings.NewReader(form))
		if err != nil {
			http.Error(w, "no request", http.StatusInternalServerError)
			return
		}
		asReader.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		forward.ServeHTTP(w, asReader)
	}))
	t.Cleanup(server.Close)
	return server.URL
}
