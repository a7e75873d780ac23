package ibmcloud_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
)

func TestATrustedProfileNeedsNoStoredKey(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("compute-resource-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	iam := ibmcloud.NewIAM("https://iam.test", cloud.Transport(), nil)
	for name, test := range map[string]struct {
		profile ibmcloud.Profile
		want    rotation.Kind // empty: success
		says    string
	}{
		"by name":         {ibmcloud.Profile{Name: "rotator-bootstrap", CRTokenFilename: file}, "", ""},
		"by id":           {ibmcloud.Profile{ID: cloud.ProfileID(), CRTokenFilename: file}, "", ""},
		"unknown profile": {ibmcloud.Profile{Name: "somebody", CRTokenFilename: file}, rotation.Denied, "profile"},
		"no token file":   {ibmcloud.Profile{Name: "rotator-bootstrap", CRTokenFilename: file + "-missing"}, rotation.Misconfigured, "run_compute_resource_token_enabled"},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := ibmcloud.BootstrapByProfile(iam, test.profile).Token(context.Background())
			failure := asFailure(t, err)
			if test.want == "" {
				if _, _, err := cloud.Validate(token.Reveal()); failure != nil || err != nil {
					t.Errorf("got %v, %v; want a valid token", failure, err)
				}
				return
			}
			if failure == nil || failure.Kind != test.want || failure.Step != rotation.StepBootstrap || !strings.Contains(failure.Message, test.says) {
				t.Errorf("got %v, want bootstrap: %s that says %s", failure, test.want, test.says)
			}
		})
	}
}

func TestATokenOfAPersonServesUntilItExpires(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	valid := cloud.MustMintToken(cloud.BootstrapAPIKey(), time.Hour)
	for name, test := range map[string]struct{ token, says string }{
		"valid":       {valid, ""},
		"expired":     {cloud.MustMintToken(cloud.BootstrapAPIKey(), -time.Second), "has expired"},
		"not a token": {"abc", "ibmcloud iam oauth-tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := ibmcloud.BootstrapByToken(ibmcloud.NewIAM("https://iam.test", nil, nil), iamtoken.NewSecret(test.token)).Token(context.Background())
			failure := asFailure(t, err)
			if test.says == "" {
				if failure != nil || token.Reveal() != valid {
					t.Errorf("got %v, want the token itself", failure)
				}
				return
			}
			if failure == nil || failure.Kind != rotation.Misconfigured || !strings.Contains(failure.Message, test.says) {
				t.Errorf("got %v, want misconfigured that says %s", failure, test.says)
			}
		})
	}
}
