//go:build !awslambda

package awscloud

import (
	"context"
	"crypto/sha1" // #nosec G505 -- the name of the SDK's file
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/scripts/awstest"
)

const far = "2100-01-01T00:00:00Z"

// withoutKeys sets the environment of a machine on which nobody is logged in. config is the
// content of ~/.aws/config. settings are more variables, divided by spaces, with ~ for home.
func withoutKeys(t *testing.T, endpoint, config, settings string) (home string) {
	t.Helper()
	awsEnvironment(t, endpoint)
	_ = os.Unsetenv("AWS_ENDPOINT_URL") // even empty it would replace a profile's; t.Setenv restores it
	home = t.TempDir()
	for name, content := range map[string]string{"config": config, "credentials": "[keys]\naws_access_key_id=FROMPROFILE\naws_secret_access_key=x\n", "token": "web-identity"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	settings = "HOME=~ AWS_ACCESS_KEY_ID= AWS_SECRET_ACCESS_KEY= AWS_CONFIG_FILE=~/config AWS_SHARED_CREDENTIALS_FILE=~/credentials " + settings
	for setting := range strings.FieldsSeq(settings) {
		name, value, _ := strings.Cut(setting, "=")
		t.Setenv(name, strings.Replace(value, "~", home, 1))
	}
	return home
}

// credentialServices emulates four services: AWS STS for roleARN, single sign-on for somebody who is
// logged in, the endpoint for a container's role, and the metadata of an EC2 instance.
func credentialServices(t *testing.T) (origin string) {
	const metadata = "/latest/meta-data/iam/security-credentials/"
	keys := func(from string) string {
		return `{"Code":"Success","AccessKeyId":"` + from + `","SecretAccessKey":"x","Token":"y","Expiration":"` + far + `"}`
	}
	return serving(t, func(r *http.Request) (int, string) {
		_ = r.ParseForm()
		operation, imds := r.Form.Get("Action"), r.Header.Get("X-Aws-Ec2-Metadata-Token") == "imds-token"
		assumed := operation == "AssumeRole" && strings.Contains(r.Header.Get("Authorization"), "FROMPROFILE") ||
			operation == "AssumeRoleWithWebIdentity" && r.Form.Get("WebIdentityToken") == "web-identity"
		switch {
		case assumed && r.Form.Get("RoleArn") == roleARN:
			return 200, `<` + operation + `Response><` + operation + `Result><Credentials><AccessKeyId>FROMSTS</AccessKeyId><SecretAccessKey>x</SecretAccessKey>` +
				`<SessionToken>y</SessionToken><Expiration>` + far + `</Expiration></Credentials></` + operation + `Result></` + operation + `Response>`
		case operation != "":
			return 403, stsError("AccessDenied")
		case r.Header.Get("X-Amz-Sso_bearer_token") == "sso-token":
			return 200, `{"roleCredentials":{"accessKeyId":"FROMSSO","secretAccessKey":"x","sessionToken":"y","expiration":4102444800000}}`
		case r.URL.Path == "/container" && r.Header.Get("Authorization") == "web-identity":
			return 200, keys("FROMCONTAINER")
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token": // version 2 of the metadata service
			return 200, "imds-token"
		case imds && r.URL.Path == metadata:
			return 200, "rotator"
		case imds && r.URL.Path == metadata+"rotator":
			return 200, keys("FROMINSTANCE")
		}
		return 401, canary
	})
}

func stsError(code string) string {
	return `<ErrorResponse><Error><Code>` + code + `</Code><Message>` + canary + `</Message></Error></ErrorResponse>`
}

const (
	roleARN     = "arn:aws:iam::123456789012:role/rotator"
	webIdentity = "AWS_WEB_IDENTITY_TOKEN_FILE=~/token AWS_ROLE_ARN=" + roleARN + " "
	profileRole = "[profile role]\nrole_arn=" + roleARN + "\nsource_profile=keys\n"
	profileSSO  = "[profile sso]\nsso_session=s\nsso_account_id=123456789012\nsso_role_name=rotator\n[sso-session s]\nsso_region=us-east-1\nsso_start_url=https://x.test/start\n"
)

// logIn writes the file that `aws sso login` writes, and a program that prints credentials.
func logIn(t *testing.T, home string) {
	t.Helper()
	sum := sha1.Sum([]byte("s")) // #nosec G401
	cache := filepath.Join(home, ".aws", "sso", "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		filepath.Join(cache, hex.EncodeToString(sum[:])+".json"): `{"accessToken":"sso-token","expiresAt":"` + far + `"}`,
		filepath.Join(home, "program"):                           "#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":\"FROMPROGRAM\",\"SecretAccessKey\":\"x\"}'\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o700); err != nil { // #nosec G306
			t.Fatal(err)
		}
	}
}

func TestSourcesOfCredentials(t *testing.T) {
	requests := answering(t, 200, secretValue("SecretString", canary))
	secrets, origin := os.Getenv("AWS_ENDPOINT_URL_SECRETS_MANAGER"), credentialServices(t)
	for _, tt := range []struct{ name, config, settings, signedBy string }{
		{"the environment", "", "AWS_ACCESS_KEY_ID=FROMENV AWS_SECRET_ACCESS_KEY=x AWS_PROFILE=none", "FROMENV"},
		{"the default profile", "[default]\naws_access_key_id=FROMDEFAULT\naws_secret_access_key=x\n", "", "FROMDEFAULT"},
		{"AWS_PROFILE", "", "AWS_PROFILE=keys", "FROMPROFILE"},
		{"a profile's role", profileRole, "AWS_PROFILE=role AWS_ENDPOINT_URL_STS=" + origin, "FROMSTS"},
		{"a profile's program", "[default]\ncredential_process=sh -c $HOME/program", "", "FROMPROGRAM"},
		{"single sign-on", profileSSO, "AWS_PROFILE=sso AWS_ENDPOINT_URL_SSO=" + origin, "FROMSSO"},
		{"EKS, web identity", "", webIdentity + "AWS_ENDPOINT_URL_STS=" + origin, "FROMSTS"},
		{"ECS and EKS, a container's role", "", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=~/token AWS_CONTAINER_CREDENTIALS_FULL_URI=" + origin + "/container", "FROMCONTAINER"},
		{"EC2", "", "AWS_EC2_METADATA_DISABLED= AWS_EC2_METADATA_SERVICE_ENDPOINT=" + origin, "FROMINSTANCE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			logIn(t, withoutKeys(t, secrets, tt.config, tt.settings))
			*requests = nil
			if key, err := readKey(t); err != nil || key.Reveal() != canary {
				t.Fatalf("got %v, want the key", err)
			}
			if got := (*requests)[0].signed; !strings.Contains(got, "Credential="+tt.signedBy+"/") {
				t.Errorf("the request is not signed with %s", tt.signedBy)
			}
		})
	}
}

// If a source gives no credentials, the message names the source, the answer's status and code,
// and what to do.
func TestSourcesThatGiveNoCredentials(t *testing.T) {
	answers := func(status int, body string) string {
		return serving(t, func(*http.Request) (int, string) { return status, body })
	}
	const config, denied, unavailable = rotation.Misconfigured, rotation.Denied, rotation.Unavailable
	const never, once, later = rotation.Never, rotation.Once, rotation.Later
	for _, tt := range []struct {
		name, config, settings string
		kind                   rotation.Kind
		retry                  rotation.Retry
		says                   []string
	}{
		{"nobody is logged in", "", "", config, once, []string{"AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_PROFILE", "(switched off by AWS_EC2_METADATA_DISABLED) gives none: ", "aws sso login"}},
		{"one variable", "", "AWS_ACCESS_KEY_ID=" + canary, config, once, []string{"none in AWS_ACCESS_KEY_ID"}},
		{"no such profile", "", "AWS_PROFILE=" + canary, config, never, []string{"AWS_PROFILE names a profile that is not in"}},
		{"an odd file", "[profile " + canary, "AWS_PROFILE=" + canary, config, never, []string{"AWS_PROFILE names a profile"}},
		{"MFA", profileRole + "mfa_serial=" + canary, "AWS_PROFILE=role", config, never, []string{"MFA code"}},
		{"no role", "", "AWS_WEB_IDENTITY_TOKEN_FILE=~/token", config, never, []string{"AWS_ROLE_ARN"}},
		{"AWS_CA_BUNDLE", "", "AWS_CA_BUNDLE=/dev/null", config, never, []string{": AWS_CA_BUNDLE is not used", "SSL_CERT_FILE"}},
		{"ca_bundle", "[default]\nca_bundle=/dev/null", "", config, never, []string{"A profile's ca_bundle", "SSL_CERT_FILE"}},
		{"no login", profileSSO, "AWS_PROFILE=sso", config, once, []string{"single sign-on", "aws sso login"}},
		{"a program that fails", "[default]\ncredential_process=false " + canary, "", config, once, []string{"credential_process"}},
		{"no token file", "", webIdentity + "AWS_WEB_IDENTITY_TOKEN_FILE=" + canary, config, once, []string{"web identity", "must be readable"}},
		{"a role of someone else", "", webIdentity + "AWS_ROLE_ARN=" + roleARN + "-2 AWS_ENDPOINT_URL_STS=" + credentialServices(t), denied, once, []string{"answered 403 AccessDenied: the role's trust policy"}},
		{"STS has trouble", "", webIdentity + "AWS_ENDPOINT_URL_STS=" + answers(503, stsError("ServiceUnavailable")), unavailable, later, []string{"answered 503 ServiceUnavailable"}},
		{"STS is not there", "", webIdentity + "AWS_ENDPOINT_URL_STS=http://127.0.0.1:1", unavailable, later, []string{"web identity", "refuses connections"}},
		{"a profile's role that is denied", profileRole, "AWS_PROFILE=role AWS_ENDPOINT_URL_STS=" + answers(403, stsError(canary)), denied, once, []string{"the profile answered 403: ", "role_arn"}},
		{"a profile in the clear", profileRole + "services=local\n[services local]\nsts =\n  endpoint_url = http://stranger.test\n", "AWS_PROFILE=role", config, once,
			[]string{"the profile names an endpoint without TLS"}},
		{"a container without a role", "", "AWS_CONTAINER_CREDENTIALS_FULL_URI=" + answers(400, canary), config, once, []string{"the container's endpoint", "answered 400: ", "EKS Pod Identity"}},
		{"a container's endpoint is not there", "", "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1", unavailable, later,
			[]string{"the container's endpoint", "refuses connections", "check the port in AWS_CONTAINER_CREDENTIALS_FULL_URI"}},
		{"an instance without a role", "", "AWS_EC2_METADATA_DISABLED= AWS_EC2_METADATA_SERVICE_ENDPOINT=" + answers(404, canary), config, once,
			[]string{"the metadata of an EC2 instance answered 404: ", "give the instance"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withoutKeys(t, "http://127.0.0.1:1", tt.config, tt.settings)
			_, err := readKey(t)
			checkFailure(t, err, tt.kind, tt.retry, tt.says...)
		})
	}
}

func init() { inMoto["web identity"] = webIdentityInMoto }

// A service account assumes its role at moto's STS.
func webIdentityInMoto(t *testing.T, moto *awstest.Moto) {
	moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": "bootstrap", "SecretString": canary, "ClientRequestToken": versionID})
	described := moto.MustCall(t, "secretsmanager", "secretsmanager.DescribeSecret", map[string]any{"SecretId": "bootstrap"})
	home := withoutKeys(t, moto.URL(), "", webIdentity+"AWS_ENDPOINT_URL_STS="+moto.URL())
	read := NewKeyStore(described["ARN"].(string), http.DefaultTransport).Key
	_, err := read(t.Context())
	checkFailure(t, err, rotation.Denied, rotation.Once, "answered 403 InvalidIdentityToken: ")
	if err := os.WriteFile(filepath.Join(home, "token"), []byte(awstest.WebIdentityToken()), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := read(t.Context()); err != nil || key.Reveal() != canary {
		t.Errorf("got %v, want the key", err)
	}
}

// hanging never answers.
type hanging struct{ requests atomic.Int32 }

func (h *hanging) RoundTrip(req *http.Request) (*http.Response, error) {
	h.requests.Add(1)
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// On a laptop nobody answers at the address of an instance's metadata.
func TestALaptopDoesNotWaitForEC2(t *testing.T) {
	withoutKeys(t, "http://127.0.0.1:1", "", "AWS_EC2_METADATA_DISABLED=")
	synctest.Test(t, func(t *testing.T) {
		nobody, began := &hanging{}, time.Now()
		_, err := NewKeyStore(testARN, nobody).Key(t.Context())
		checkFailure(t, err, rotation.Misconfigured, rotation.Once, "aws sso login")
		if took := time.Since(began); took > 2*metadataLimit || nobody.requests.Load() == 0 {
			t.Errorf("took %v for %d requests, want %v at most for some", took, nobody.requests.Load(), 2*metadataLimit)
		}
	})
}

// An attempt that has given up leaves no request behind for which the next one would wait.
func TestAServiceThatDoesNotAnswerIsAskedAgain(t *testing.T) {
	withoutKeys(t, "http://127.0.0.1:1", "", webIdentity)
	synctest.Test(t, func(t *testing.T) {
		nobody := &hanging{}
		read := NewKeyStore(testARN, nobody).Key
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
			_, err := read(ctx)
			checkFailure(t, err, rotation.Timeout, rotation.Later, "longer than an attempt")
			cancel()
			time.Sleep(requestLimit)
		}
		if nobody.requests.Load() != 2 {
			t.Errorf("got %d requests, want 2", nobody.requests.Load())
		}
	})
}

// Credentials that AWS rejects as expired are obtained again for the next attempt, once for all mirrors.
func TestExpiredCredentialsAreObtainedAgain(t *testing.T) {
	given := 0
	container := serving(t, func(*http.Request) (int, string) {
		given++
		return 200, fmt.Sprintf(`{"AccessKeyId":"KEY%d","SecretAccessKey":"x","Token":"y","Expiration":"`+far+`"}`, given)
	})
	secrets := serving(t, func(r *http.Request) (int, string) {
		if strings.Contains(r.Header.Get("Authorization"), "KEY1/") {
			return 400, `{"__type":"ExpiredTokenException"}`
		}
		return 200, `{"ARN":"` + testARN + `"}`
	})
	withoutKeys(t, secrets, "", "AWS_CONTAINER_CREDENTIALS_FULL_URI="+container)
	mirrors := NewMirrors(http.DefaultTransport)
	_, err := mirrors.Describe(t.Context(), testARN)
	checkFailure(t, err, rotation.Denied, rotation.Once, "have expired")
	for range 2 {
		if _, err := mirrors.Describe(t.Context(), testARN); err != nil {
			t.Error(err)
		}
	}
	_, err = mirrors.Describe(t.Context(), strings.Replace(testARN, "bootstrap", "other", 1))
	if failure, _ := errors.AsType[*rotation.Error](err); failure == nil || given != 2 {
		t.Errorf("got %v, and credentials were obtained %d times, want 2", err, given)
	}
}

func TestAStrangerIsNotAskedForCredentials(t *testing.T) {
	for endpoint, want := range map[string]int{"http://stranger.test/x": 0, "https://stranger.test/x": 1} {
		withoutKeys(t, "http://127.0.0.1:1", "", "AWS_CONTAINER_AUTHORIZATION_TOKEN=the-token AWS_CONTAINER_CREDENTIALS_FULL_URI="+endpoint)
		transport := &hosts{}
		if _, err := NewKeyStore(testARN, transport).Key(t.Context()); err == nil {
			t.Error("got a key without credentials")
		}
		if got := strings.Count(strings.Join(transport.asked, " "), "stranger.test"); got != want {
			t.Errorf("%s: asked %d times, want %d", endpoint, got, want)
		}
	}
}

// The binary built for Lambda has no chain, and says so.
func TestWithoutTheChain(t *testing.T) {
	withoutKeys(t, "http://127.0.0.1:1", "[default]\naws_access_key_id=FROMDEFAULT\naws_secret_access_key=x\n", "")
	chain := defaultChain
	t.Cleanup(func() { defaultChain = chain })
	defaultChain = nil
	_, err := readKey(t)
	checkFailure(t, err, rotation.Misconfigured, rotation.Once, "built for Lambda", "give the function a role", "make build-local")
}
