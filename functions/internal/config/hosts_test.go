package config_test

import (
	"strings"
	"testing"
)

// TestEndpoints: IBM's host names, public and private, and what is none.
func TestEndpoints(t *testing.T) {
	const id = "abcdef01-2345-6789-abcd-ef0123456789"
	for _, test := range []struct{ variable, value, fault string }{
		{"IAM_URL", "https://iam.cloud.ibm.com", ""},
		{"IAM_URL", "https://private.iam.cloud.ibm.com", ""},
		{"IAM_URL", "https://private.us-south.iam.cloud.ibm.com", ""},
		{"IAM_URL", "https://iam.test.cloud.ibm.com:443/", ""},
		{"SECRETS_MANAGER_URL", "https://" + id + ".us-south.secrets-manager.appdomain.cloud", ""},
		{"SECRETS_MANAGER_URL", "https://" + id + ".private.us-south.secrets-manager.appdomain.cloud", ""},
		{"SECRETS_MANAGER_URL", "https://" + id + ".private.eu-de.secrets-manager.appdomain.cloud/", ""},
		{"SECRETS_MANAGER_URL", "https://[2001:db8::1]:8443", ""},
		{"SECRETS_MANAGER_URL", "http://localhost:8480", ""},
		{"SECRETS_MANAGER_URL", "http://[::1]:8480", ""},
		{"SECRETS_MANAGER_URL", "http://" + id + ".private.us-south.secrets-manager.appdomain.cloud", "must begin with https://"},
		{"SECRETS_MANAGER_URL", "http://10.0.0.1", "must begin with https://"},
		{"SECRETS_MANAGER_URL", "http://localhost.example.com", "must begin with https://"},
		{"SECRETS_MANAGER_URL", "http://127.0.0.1.example.com", "must begin with https://"},
		{"IAM_URL", "http://private.iam.cloud.ibm.com", "must begin with https://"},
		{"IAM_URL", "https://private.iam.cloud.ibm.com/identity/token", "more than an origin"},
		{"IAM_URL", "https://iam.cloud.ibm.com@example.com", "more than an origin"},
		{"IAM_URL", "private.iam.cloud.ibm.com", "not a URL"},
	} {
		cfg, err := load(with(map[string]string{test.variable: test.value}))
		got := map[string]string{"IAM_URL": cfg.IAMURL, "SECRETS_MANAGER_URL": cfg.SecretsManagerURL}[test.variable]
		switch {
		case test.fault == "" && (err != nil || got != strings.TrimSuffix(test.value, "/")):
			t.Errorf("%s=%s: got %q, %v, want it accepted", test.variable, test.value, got, err)
		case test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault)):
			t.Errorf("%s=%s: got %v, want %q", test.variable, test.value, err, test.fault)
		}
	}
}
