//go:build !awslambda

package awscloud

import (
	"context"
	"crypto/sha1" // #nosec G505 -- the name of the SDK's file
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/infra/aws/awstest"
)

const far = "2100-01-01T00:00:00Z"

// withoutKeys has the environment of a machine on which nobody is logged in. config and
// shared are the files of ~/.aws.
func withoutKeys(t *testing.T, endpoint, config, shared string) (home string) {
	t.Helper()
	awsEnvironment(t, endpoint)
	_ = os.Unsetenv("AWS_ENDPOINT_URL") // empty, it would outweigh a profile's; Setenv has arranged for its return
	home = t.TempDir()
	for name, content := range map[string]string{"config": config, "credentials": shared, "token": "web-identity"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range map[string]string{"HOME": home, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
		"AWS_CONFIG_FILE": filepath.Join(home, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(home, "credentials")} {
		t.Setenv(name, value)
	}
	return home
}

// stsAnswer has the shape of AWS STS.
func stsAnswer(operation string) string {
	return `<` + operation + `Response><` + operation + `Result><Credentials><AccessKeyId>FROMSTS</AccessKeyId><SecretAccessKey>x</SecretAccessKey>` +
		`<SessionToken>y</SessionToken><Expiration>` + far + `</Expiration></Credentials></` + operation + `Result></` + operation + `Response>`
}

// sts answers as AWS STS does to a role that may be assumed.
func sts(t *testing.T) string {
	return serving(t, func(r *http.Request) (int, string) {
		_ = r.ParseForm()
		operation := r.Form.Get("Action")
		known := operation == "AssumeRole" && strings.Contains(r.Header.Get("Authorization"), "FROMPROFILE") ||
			operation == "AssumeRoleWithWebIdentity" && r.Form.Get("WebIdentityToken") == "web-identity"
		if !known || r.Form.Get("RoleArn") != "arn:aws:iam::123456789012:role/rotator" {
			return 403, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>` + canary + `</Message></Error></ErrorResponse>`
		}
		return 200, stsAnswer(operation)
	})
}

// instance answers as version 2 of an EC2 instance's metadata service.
func instance(t *testing.T) string {
	const path = "/latest/meta-data/iam/security-credentials/"
	return serving(t, func(r *http.Request) (int, string) {
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
			return 200, "imds-token"
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds-token":
			return 401, ""
		case r.URL.Path == path:
			return 200, "rotator"
		case r.URL.Path == path+"rotator":
			return 200, `{"Code":"Success","AccessKeyId":"FROMINSTANCE","SecretAccessKey":"x","Token":"y","Expiration":"` + far + `"}`
		}
		return 0, ""
	})
}

// container answers as the endpoint of a container's role, which a token opens.
func container(t *testing.T) string {
	return serving(t, func(r *http.Request) (int, string) {
		if r.Header.Get("Authorization") != "web-identity" {
			return 401, ""
		}
		return 200, `{"AccessKeyId":"FROMCONTAINER","SecretAccessKey":"x","Token":"y","Expiration":"` + far + `"}`
	})
}

const (
	profileKeys = "[keys]\naws_access_key_id=FROMPROFILE\naws_secret_access_key=x\n"
	profileRole = "[profile role]\nrole_arn=arn:aws:iam::123456789012:role/rotator\nsource_profile=keys\n"
	profileSSO  = "[profile sso]\nsso_session=s\nsso_account_id=123456789012\nsso_role_name=rotator\n[sso-session s]\nsso_region=us-east-1\nsso_start_url=https://x.test/start\n"
)

// logIn leaves the file that `aws sso login` leaves.
func logIn(t *testing.T, home, expires string) {
	t.Helper()
	sum := sha1.Sum([]byte("s")) // #nosec G401
	cache := filepath.Join(home, ".aws", "sso", "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	content := `{"accessToken":"sso-token","expiresAt":"` + expires + `"}`
	if err := os.WriteFile(filepath.Join(cache, hex.EncodeToString(sum[:])+".json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSourcesOfCredentials(t *testing.T) {
	requests := answering(t, 200, secretValue("SecretString", canary))
	secrets := os.Getenv("AWS_ENDPOINT_URL_SECRETS_MANAGER")
	single := func(token string) string {
		return serving(t, func(r *http.Request) (int, string) {
			if r.Header.Get("X-Amz-Sso_bearer_token") != token {
				return 401, canary
			}
			return 200, `{"roleCredentials":{"accessKeyId":"FROMSSO","secretAccessKey":"x","sessionToken":"y","expiration":4102444800000}}`
		})
	}
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho '{\"Version\":1,\"AccessKeyId\":\"FROMPROGRAM\",\"SecretAccessKey\":\"x\"}'\n"), 0o700); err != nil { // #nosec G306
		t.Fatal(err)
	}
	role := map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "token", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/rotator"}
	for _, tt := range []struct {
		name, config string
		set          map[string]string
		servers      map[string]func(*testing.T) string
		signedBy     string
	}{
		{"the environment", "", map[string]string{"AWS_ACCESS_KEY_ID": "FROMENV", "AWS_SECRET_ACCESS_KEY": "x", "AWS_PROFILE": "none"}, nil, "FROMENV"},
		{"the default profile", "[default]\naws_access_key_id=FROMDEFAULT\naws_secret_access_key=x\n", nil, nil, "FROMDEFAULT"},
		{"AWS_PROFILE", "", map[string]string{"AWS_PROFILE": "keys"}, nil, "FROMPROFILE"},
		{"a profile's role", profileRole, map[string]string{"AWS_PROFILE": "role"}, map[string]func(*testing.T) string{"AWS_ENDPOINT_URL_STS": sts}, "FROMSTS"},
		{"a profile's program", "[default]\ncredential_process=" + program, nil, nil, "FROMPROGRAM"},
		{"single sign-on", profileSSO, map[string]string{"AWS_PROFILE": "sso"},
			map[string]func(*testing.T) string{"AWS_ENDPOINT_URL_SSO": func(*testing.T) string { return single("sso-token") }}, "FROMSSO"},
		{"EKS, web identity", "", role, map[string]func(*testing.T) string{"AWS_ENDPOINT_URL_STS": sts}, "FROMSTS"},
		{"ECS and EKS, a container's role", "", map[string]string{"AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "token"},
			map[string]func(*testing.T) string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": container}, "FROMCONTAINER"},
		{"EC2", "", map[string]string{"AWS_EC2_METADATA_DISABLED": ""}, map[string]func(*testing.T) string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance}, "FROMINSTANCE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := withoutKeys(t, secrets, tt.config, profileKeys)
			logIn(t, home, far)
			set(t, home, tt.set)
			for name, start := range tt.servers {
				t.Setenv(name, start(t))
			}
			*requests = nil
			key, err := readKey(t)
			if err != nil || key.Reveal() != canary {
				t.Fatalf("got %v, want the key", err)
			}
			if got := (*requests)[0].signed; !strings.Contains(got, "Credential="+tt.signedBy+"/") {
				t.Errorf("the request is not signed with %s", tt.signedBy)
			}
		})
	}
}

func set(t *testing.T, home string, variables map[string]string) {
	t.Helper()
	for name, value := range variables {
		if strings.HasSuffix(name, "_TOKEN_FILE") {
			value = filepath.Join(home, value)
		}
		t.Setenv(name, value)
	}
}

// Where a source gives no credentials, the message names it and what helps, with status and code.
func TestSourcesThatGiveNoCredentials(t *testing.T) {
	role := map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "token", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/rotator"}
	with := func(name, value string, more ...string) map[string]string {
		all := maps.Clone(role)
		all[name] = value
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	answers := func(status int, body string) string {
		return serving(t, func(*http.Request) (int, string) { return status, body })
	}
	stsError := func(status int, code string) string {
		return answers(status, `<ErrorResponse><Error><Code>`+code+`</Code><Message>`+canary+`</Message></Error></ErrorResponse>`)
	}
	const config, denied, unavailable = rotation.Misconfigured, rotation.Denied, rotation.Unavailable
	for _, tt := range []struct {
		name, config string
		set          map[string]string
		kind         rotation.Kind
		retry        rotation.Retry
		says         []string
	}{
		{"nobody is logged in", "", nil, config, rotation.Once, []string{"AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_PROFILE", "(switched off by AWS_EC2_METADATA_DISABLED) gives none: ", "aws sso login"}},
		{"one variable", "", map[string]string{"AWS_ACCESS_KEY_ID": canary}, config, rotation.Once, []string{"none in AWS_ACCESS_KEY_ID"}},
		{"no such profile", "", map[string]string{"AWS_PROFILE": canary}, config, rotation.Never, []string{"AWS_PROFILE names a profile that is not in"}},
		{"an odd file", "[profile " + canary, map[string]string{"AWS_PROFILE": canary}, config, rotation.Never, []string{"AWS_PROFILE names a profile"}},
		{"MFA", profileRole + "mfa_serial=" + canary, map[string]string{"AWS_PROFILE": "role"}, config, rotation.Never, []string{"MFA code"}},
		{"no role", "", map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "token"}, config, rotation.Never, []string{"AWS_ROLE_ARN"}},
		{"AWS_CA_BUNDLE", "", map[string]string{"AWS_CA_BUNDLE": "/dev/null"}, config, rotation.Never, []string{": AWS_CA_BUNDLE is not used", "SSL_CERT_FILE"}},
		{"ca_bundle", "[default]\nca_bundle=/dev/null", nil, config, rotation.Never, []string{"A profile's ca_bundle", "SSL_CERT_FILE"}},
		{"no login", profileSSO, map[string]string{"AWS_PROFILE": "sso"}, config, rotation.Once, []string{"single sign-on", "aws sso login"}},
		{"a program that fails", "[default]\ncredential_process=false " + canary, nil, config, rotation.Once, []string{"credential_process"}},
		{"no token file", "", with("AWS_WEB_IDENTITY_TOKEN_FILE", canary), config, rotation.Once, []string{"web identity", "must be readable"}},
		{"a role that is not ours", "", with("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/other", "AWS_ENDPOINT_URL_STS", sts(t)), denied, rotation.Once,
			[]string{"answered 403 AccessDenied: the role's trust policy"}},
		{"STS has trouble", "", with("AWS_ENDPOINT_URL_STS", stsError(503, "ServiceUnavailable")), unavailable, rotation.Later, []string{"answered 503 ServiceUnavailable"}},
		{"STS is not there", "", with("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1"), unavailable, rotation.Later, []string{"web identity", "refuses connections"}},
		{"a profile's role that is denied", profileRole, map[string]string{"AWS_PROFILE": "role", "AWS_ENDPOINT_URL_STS": stsError(403, canary)}, denied, rotation.Once,
			[]string{"the profile answered 403: ", "role_arn"}},
		{"a profile in the clear", profileRole + "services=local\n[services local]\nsts =\n  endpoint_url = http://stranger.test\n", map[string]string{"AWS_PROFILE": "role"}, config, rotation.Once, []string{"the profile names an endpoint without TLS"}},
		{"a container without a role", "", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": answers(400, canary)}, config, rotation.Once,
			[]string{"the container's endpoint", "answered 400: ", "EKS Pod Identity"}},
		{"a container's endpoint is not there", "", map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1"}, unavailable, rotation.Later,
			[]string{"the container's endpoint", "refuses connections", "check the port in AWS_CONTAINER_CREDENTIALS_FULL_URI"}},
		{"an instance without a role", "", map[string]string{"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": answers(404, canary)}, config, rotation.Once,
			[]string{"the metadata of an EC2 instance answered 404: ", "give the instance"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			home := withoutKeys(t, "http://127.0.0.1:1", tt.config, profileKeys)
			set(t, home, tt.set)
			_, err := readKey(t)
			checkFailure(t, err, tt.kind, tt.retry, tt.says...)
		})
	}
}

func init() { inMoto["web identity"] = webIdentityInMoto }

// The role of a service account, at the STS that moto emulates.
func webIdentityInMoto(t *testing.T, moto *awstest.Moto) {
	moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": "bootstrap", "SecretString": canary, "ClientRequestToken": versionID})
	described := moto.MustCall(t, "secretsmanager", "secretsmanager.DescribeSecret", map[string]any{"SecretId": "bootstrap"})
	home := withoutKeys(t, moto.URL(), "", "")
	for name, value := range map[string]string{"AWS_ENDPOINT_URL_STS": moto.URL(), "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/rotator",
		"AWS_WEB_IDENTITY_TOKEN_FILE": filepath.Join(home, "token")} {
		t.Setenv(name, value)
	}
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

// hanging answers nobody.
type hanging struct{ requests atomic.Int32 }

func (h *hanging) RoundTrip(req *http.Request) (*http.Response, error) {
	h.requests.Add(1)
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// On a laptop nobody answers at the address of an instance's metadata.
func TestALaptopDoesNotWaitForEC2(t *testing.T) {
	withoutKeys(t, "http://127.0.0.1:1", "", "")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	synctest.Test(t, func(t *testing.T) {
		nobody, began := &hanging{}, time.Now()
		_, err := NewKeyStore(testARN, nobody).Key(t.Context())
		checkFailure(t, err, rotation.Misconfigured, rotation.Once, "aws sso login")
		if took := time.Since(began); took > 2*metadataLimit || nobody.requests.Load() == 0 {
			t.Errorf("took %v for %d requests, want %v at most for some", took, nobody.requests.Load(), 2*metadataLimit)
		}
	})
}

// An attempt that gave up leaves nothing behind for which the next one waits.
func TestAServiceThatDoesNotAnswerIsAskedAgain(t *testing.T) {
	home := withoutKeys(t, "http://127.0.0.1:1", "", "")
	set(t, home, map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": "token", "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/rotator"})
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

// Credentials that AWS calls expired are obtained anew for the next attempt, once for all mirrors.
func TestExpiredCredentialsAreObtainedAnew(t *testing.T) {
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
	withoutKeys(t, secrets, "", "")
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container)
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
		awsEnvironment(t, "http://127.0.0.1:1")
		t.Setenv("AWS_ACCESS_KEY_ID", "")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "")
		t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", endpoint)
		t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "the-token")
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
