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

func TestATrustedProfileAndAPersonsTokenNeedNoStoredKey(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("compute-resource-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	iam := ibmcloud.NewIAM("https://iam.test", cloud.Transport(), nil)
	token := func(value string) *ibmcloud.Bootstrap {
		return ibmcloud.BootstrapByToken(iam, iamtoken.NewSecret(value))
	}
	profile := func(name, id, file string) *ibmcloud.Bootstrap {
		return ibmcloud.BootstrapByProfile(iam, ibmcloud.Profile{Name: name, ID: id, CRTokenFilename: file})
	}
	for name, test := range map[string]struct {
		bootstrap *ibmcloud.Bootstrap
		want      rotation.Kind // empty: success
		says      string
	}{
		"profile by name":  {profile("rotator-bootstrap", "", file), "", ""},
		"profile by id":    {profile("", cloud.ProfileID(), file), "", ""},
		"unknown profile":  {profile("somebody", "", file), rotation.Denied, "profile"},
		"no token file":    {profile("rotator-bootstrap", "", file+"-missing"), rotation.Misconfigured, "run_compute_resource_token_enabled"},
		"a person's token": {token(cloud.MustMintToken(cloud.BootstrapAPIKey(), time.Hour)), "", ""},
		"expired":          {token(cloud.MustMintToken(cloud.BootstrapAPIKey(), -time.Second)), rotation.Misconfigured, "has expired"},
		"not a token":      {token("abc"), rotation.Misconfigured, "ibmcloud iam oauth-tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := test.bootstrap.Token(t.Context())
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
	if got := cloud.CountRequests(ibmcloudtest.OpIAMToken, ibmcloudtest.IdentityBootstrap); got != 2 {
		t.Errorf("got %d exchanges, want the two of the profile", got)
	}
}

// If IAM refuses a renewed key twice, and it is still the stored one, the key before it is
// used for one token. Each new token tries the current key first.
func TestThePreviousKeyServesWhileTheCurrentOneIsRefused(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	current, read := iamtoken.NewSecret("a-key-that-iam-does-not-know"), 0
	source := func(context.Context) (iamtoken.Secret, error) { read++; return current, nil }
	previous := func(context.Context) (iamtoken.Secret, error) {
		return iamtoken.NewSecret(cloud.BootstrapAPIKey()), nil
	}
	iam := ibmcloud.NewIAM("https://iam.test", cloud.Transport(), nil)
	bootstrap := ibmcloud.BootstrapByRenewedKey(iam, source, previous)
	if _, _, err := bootstrap.InUse(t.Context()); asFailure(t, err) == nil || asFailure(t, err).Retry != rotation.Once {
		t.Errorf("at first got %v, want an error that one more attempt may change", err)
	}
	used, token, err := bootstrap.InUse(t.Context())
	if err != nil || !used.Previous || used.Key.Reveal() != cloud.BootstrapAPIKey() || token.IAMID != cloud.BootstrapIAMID() || read != 2 {
		t.Errorf("then got previous %t, %v after %d reads; want the key before", used.Previous, err, read)
	}
	current = iamtoken.NewSecret(cloud.MustCreateAPIKey(cloud.BootstrapIAMID()))
	bootstrap.Forget()
	if used, _, err := bootstrap.InUse(t.Context()); err != nil || used.Previous || used.Key.Reveal() != current.Reveal() {
		t.Errorf("got previous %t, %v; want the current key", used.Previous, err)
	}

	// Another process stores the next key between the two reads: then the refused key is the previous one.
	refused := iamtoken.NewSecret("another-key-that-iam-does-not-know")
	current = refused
	bootstrap = ibmcloud.BootstrapByRenewedKey(iam, source, func(context.Context) (iamtoken.Secret, error) {
		current = iamtoken.NewSecret(cloud.BootstrapAPIKey())
		return refused, nil
	})
	_, _ = bootstrap.Token(t.Context())
	if used, _, err := bootstrap.InUse(t.Context()); err != nil || used.Previous || used.Key.Reveal() != cloud.BootstrapAPIKey() {
		t.Errorf("got previous %t, %v; want the key that was stored meanwhile", used.Previous, err)
	}

	// Without a renewal no previous key is tried, and two bad keys give no token.
	one, another := ibmcloud.FixedKey(iamtoken.NewSecret("unknown-key")), ibmcloud.FixedKey(iamtoken.NewSecret("another-unknown-key"))
	for name, bootstrap := range map[string]*ibmcloud.Bootstrap{
		"not renewed":  ibmcloud.BootstrapByKey(iam, one),
		"both are bad": ibmcloud.BootstrapByRenewedKey(iam, one, another),
		"both are one": ibmcloud.BootstrapByRenewedKey(iam, one, one),
	} {
		for range 3 {
			if _, err := bootstrap.Token(t.Context()); asFailure(t, err) == nil || asFailure(t, err).Kind != rotation.Denied {
				t.Errorf("%s: got %v, want denied", name, err)
			}
		}
	}
}
