package ibmcloud_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
)

// fixedAnswer gives the same answer to every request to host, and a good token to all others.
type fixedAnswer struct {
	host   string
	status int
	body   string
}

func (s fixedAnswer) RoundTrip(req *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: s.status, Header: http.Header{}, Request: req}
	body := s.body
	if req.URL.Host != s.host {
		answer.StatusCode, body = http.StatusOK, goodToken
	}
	answer.Body = io.NopCloser(strings.NewReader(body))
	return answer, nil
}

// fuzzNow is the clock of the clients: an hour before the expirations below.
func fuzzNow() time.Time { return time.Unix(1767261600, 0) }

// Good answers, with which the fuzzing begins.
const (
	goodToken    = `{"access_token":"opaque-token-0123456789abcdefghijkl","token_type":"Bearer","expires_in":3600,"expiration":1767265200}`
	goodSecret   = `{"secret_type":"arbitrary","id":"cb1e238c","payload":"key\n"}`
	goodMetadata = `{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"arbitrary","created_at":"2026-01-01T10:00:00.000Z","version_custom_metadata":{"expiration":1767265200}}`
)

func iamThatSays(status int, body string) *ibmcloud.IAM {
	return ibmcloud.NewIAM("https://iam.test", fixedAnswer{"iam.test", status, body}, fuzzNow)
}

var statuses = []int{200, 201, 204, 301, 400, 401, 403, 404, 412, 429, 500, 503, 410}

func statusOf(n uint8) int { return statuses[int(n)%len(statuses)] }

func instanceThatSays(t testing.TB, status int, body string) *ibmcloud.SecretsManager {
	t.Helper()
	wire := fixedAnswer{"instance.test", status, body}
	sm, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: "https://instance.test", Transport: wire, Now: fuzzNow,
		Bootstrap: ibmcloud.BootstrapByKey(ibmcloud.NewIAM("https://iam.test", wire, fuzzNow), ibmcloud.FixedKey(iamtoken.NewSecret(keyCanary))),
	})
	if err != nil {
		t.Fatal(err)
	}
	return sm
}

// Whatever an instance answers, the client returns a possible key, a version with metadata that
// may be trusted, or a *rotation.Error.
func FuzzSecretsManager(f *testing.F) {
	for _, body := range []string{
		``, `null`, `{}`, `0`, `{""0`, "{\x14", `"\`, "\v", `{"errors":[]}`, `{"secret_type":"arbitrary"}`, goodSecret, goodMetadata,
		`{"secret_type":"arbitrary","payload":7}`, `{"secret_type":"kv","data":{"k":"v"}}`, `{"secret_type":"kv","data":null}`,
		`{"secret_type":"iam_credentials","reuse_api_key":true,"api_key":"k"}`, `{"secret_type":"service_credentials","credentials":{"apikey":"k"}}`,
		`{"secret_type":"service_credentials","credentials":null}`, `{"secret_type":"username_password"}`, `{"secret_type":null}`, `{"secret_type":"arbitrary","payload":"a\u0000b"}`,
		`{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"kv","created_at":"yesterday"}`, `{"id":"","secret_type":"arbitrary"}`, `{"total_count":1,"locks":[{}]}`,
	} {
		f.Add(uint8(0), body, "")
		f.Add(uint8(4), body, "k")
	}
	for _, fields := range []string{
		`null`, `{}`, `[]`, `{"expiration":"soon"}`, `{"expiration":-1}`, `{"expiration":1e300}`, `{"expiration":1e999}`, `{"expiration":1.5}`,
		`{"expiration":1767261600,"iam_id":"iam-ServiceId-1","fingerprint":"` + keyCanary + `"}`, `{"run_id":7}`, `{"expiration":{"a":[]}}`,
	} {
		f.Add(uint8(0), strings.Replace(goodMetadata, `{"expiration":1767265200}`, fields, 1), "")
	}
	f.Fuzz(func(t *testing.T, status uint8, body, field string) {
		sm, ctx := instanceThatSays(t, statusOf(status), body), context.Background()
		key, err := sm.ReadKey(ctx, rotation.KeyRef{ID: "cb1e238c", Field: field})
		checkFailure(t, err)
		if value := key.Reveal(); err == nil && (value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' })) {
			t.Errorf("got a key of %d characters that cannot be one", len(value))
		}
		current, err := sm.ReadMetadata(ctx, rotation.TokenRef{ID: "e2dd1896"})
		checkFailure(t, err)
		if err == nil && (current.VersionID == "" || current.SecretType == "") {
			t.Errorf("got a version without id or type: %+v", current)
		}
		if latest := current.CreatedAt.Add(iamtoken.MaxLifetime); current.ExpiresAt().After(latest) {
			t.Errorf("got expiry %s of a version made %s: no later than %s may be trusted", current.ExpiresAt(), current.CreatedAt, latest.Format(time.RFC3339))
		}
		_, err = sm.Describe(ctx, "e2dd1896")
		checkFailure(t, err)
		_, err = sm.CountLocks(ctx, "e2dd1896", "current")
		checkFailure(t, err)
		_, err = sm.Save(ctx, rotation.TokenRef{ID: "e2dd1896"}, current, iamtoken.Token{}, iamtoken.Metadata{})
		checkFailure(t, err)
	})
}

func TestGoodAnswers(t *testing.T) {
	if key, err := instanceThatSays(t, 200, goodSecret).ReadKey(t.Context(), rotation.KeyRef{ID: "cb1e238c"}); err != nil || key.Reveal() != "key" {
		t.Errorf("a key: %v", err)
	}
	if version, err := instanceThatSays(t, 200, goodMetadata).ReadMetadata(t.Context(), rotation.TokenRef{ID: "e2dd1896"}); err != nil || version.Metadata.Expiration != 1767265200 {
		t.Errorf("a version: got %+v, %v", version, err)
	}
	if got, err := iamThatSays(200, goodToken).Exchange(t.Context(), iamtoken.NewSecret(keyCanary)); err != nil || got.Token.Expiration.Unix() != 1767265200 {
		t.Errorf("a token: %v", err)
	}
}

// An answer that does not name a version of a token secret may be a proxy's, even if it has an
// id: the token does not count as saved.
func TestASaveCountsOnlyWithAVersionOfATokenSecret(t *testing.T) {
	for body, saved := range map[string]bool{
		goodMetadata: true, strings.Replace(goodMetadata, "arbitrary", "kv", 1): true,
		strings.Replace(goodMetadata, `"secret_type":"arbitrary",`, ``, 1): false, strings.Replace(goodMetadata, "arbitrary", "iam_credentials", 1): false,
		`{"secret_type":"arbitrary"}`: false, `{}`: false, `null`: false, `<html>`: false, ``: false,
	} {
		_, err := instanceThatSays(t, 201, body).Save(t.Context(), rotation.TokenRef{ID: "e2dd1896"}, rotation.TokenVersion{SecretType: "arbitrary"}, iamtoken.Token{}, iamtoken.Metadata{})
		if failure := asFailure(t, err); (failure == nil) != saved || failure != nil && (failure.Kind != rotation.Unavailable || failure.Retry != rotation.Later) {
			t.Errorf("%s: got %v, want a saved version (%t), or a failure that is tried again", body, failure, saved)
		}
	}
}

// Errors that need a person are not retried, and messages repeat nothing of the secret but
// the name of its type.
func TestKeySecretsThatGiveNoKey(t *testing.T) {
	const lease = `"expiration_date":"2026-01-01T09:00:00Z",`
	for body, says := range map[string]string{
		`{"secret_type":"iam_credentials","reuse_api_key":true,"service_id_is_static":false,"api_key":"` + keyCanary + `"}`:                 "made by access groups (service_id_is_static false)",
		`{"secret_type":"iam_credentials","reuse_api_key":true,"access_groups":["AccessGroupId-1"],"api_key":"` + keyCanary + `"}`:          "made by access groups",
		`{"secret_type":"iam_credentials","api_key":"` + keyCanary + `"}`:                                                                   "reuse_api_key false",
		`{"secret_type":"iam_credentials",` + lease + `"reuse_api_key":true,"service_id_is_static":true}`:                                   "its lease has ended (lease: until 2026-01-01T09:00:00Z)",
		`{"secret_type":"iam_credentials","reuse_api_key":true,"service_id_is_static":true,"api_key":""}`:                                   "its lease has ended",
		`{"secret_type":"service_credentials","credentials":{"username":"` + keyCanary + `"}}`:                                              "service_credentials, and its credentials have no apikey",
		`{"secret_type":"service_credentials",` + lease + `"credentials":{"iam_apikey_id":"ApiKey-1"}}`:                                     "no apikey (lease: until",
		`{"secret_type":"service_credentials"}`:                                                                                             "have no apikey",
		`{"secret_type":"username_password","username":"x","password":"` + keyCanary + `"}`:                                                 `of type "username_password": name one of type arbitrary, kv, service_credentials or iam_credentials`,
		`{"secret_type":"custom_credentials"}`:                                                                                              `of type "custom_credentials"`,
		`{"secret_type":"oracle_wallet_2030","payload":"` + keyCanary + `"}`:                                                                `of type "oracle_wallet_2030"`,
		`{"secret_type":"a\u001b[31m\n\u202e"}`:                                                                                             `of type "a\x1b[31m\n\u202e"`,
		`{"secret_type":"` + keyCanary + `"}`:                                                                                               "(42 characters, not repeated here)",
		`{"secret_type":"service_credentials","credentials":{"apikey":"` + "`" + keyCanary + "`" + `"}}`:                                    "is in quotes",
		`{"secret_type":"iam_credentials","reuse_api_key":true,"service_id_is_static":true,"api_key":"{\"apikey\":\"` + keyCanary + `\"}"}`: "is JSON",
	} {
		_, err := instanceThatSays(t, 200, body).ReadKey(t.Context(), rotation.KeyRef{ID: "cb1e238c"})
		if err == nil {
			t.Errorf("got a key, want a failure that says %q", says)
			continue
		}
		checkFailure(t, err)
		failure := asFailure(t, err)
		if failure.Kind != rotation.Misconfigured || failure.Retry != rotation.Never || !strings.Contains(failure.Message, says) || !strings.HasSuffix(failure.Message, ": "+failure.Advice) || failure.Advice == "" {
			t.Errorf("got %s, want it to say %q", failure, says)
		}
	}
	for _, body := range []string{`{"secret_type":7}`, `{"secret_type":null}`, `{}`, ``, `<html>`} {
		_, err := instanceThatSays(t, 200, body).ReadKey(t.Context(), rotation.KeyRef{ID: "cb1e238c"})
		if failure := asFailure(t, err); failure == nil || failure.Retry != rotation.Later {
			t.Errorf("%s: got %v, want a failure that is tried again", body, failure)
		}
	}
	future := instanceThatSays(t, 200, strings.Replace(goodMetadata, "arbitrary", "future_type", 1))
	_, read := future.ReadMetadata(t.Context(), rotation.TokenRef{ID: "e2dd1896"})
	_, described := future.Describe(t.Context(), "e2dd1896")
	for _, err := range []error{read, described} {
		if failure := asFailure(t, err); failure == nil || failure.Retry != rotation.Never || !strings.Contains(failure.Message, `of type "future_type": name one of type arbitrary or kv`) {
			t.Errorf("a token secret of a type unknown here: got %v, want a failure that names it and is not tried again", failure)
		}
	}
	for _, status := range []int{404, 410} {
		sm := instanceThatSays(t, status, `{"errors":[{"message":"`+keyCanary+`"}]}`)
		_, err := sm.ReadKey(t.Context(), rotation.KeyRef{Group: "g", Type: "iam_credentials", Name: "n"})
		if failure := asFailure(t, err); failure == nil || failure.Kind != rotation.NotFound || !strings.Contains(failure.Message, "when its lease has ended") {
			t.Errorf("%d: got %v, want not_found that speaks of the lease", status, failure)
		}
	}
}

// checkFailure checks that err is nil, or a *rotation.Error with a kind that repeats no secret.
func checkFailure(t *testing.T, err error) {
	t.Helper()
	if failure := asFailure(t, err); failure != nil && (failure.Kind == "" || failure.Message == "" || strings.Contains(failure.Error(), "canary")) {
		t.Errorf("got a failure of kind %q and %d bytes that repeats a secret, or says nothing", failure.Kind, len(failure.Message))
	}
}

func FuzzIAMAnswer(f *testing.F) {
	for _, body := range []string{
		goodToken, ``, `null`, `[]`, `{}`, "\x00", `"`, "nul", `{"errors":[]}`, `<html>`, `{"access_token":"","token_type":"Bearer","expires_in":3600,"expiration":1767265200}`,
		`{"access_token":"a.b.c","token_type":"Bearer","expires_in":3600,"expiration":1}`, `{"access_token":"a b","token_type":"bearer"}`, `{"expires_in":0,"aaaaaaaa":0}`,
		`{"access_token":"eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlhbV9pZCI6ImlhbS1TZXJ2aWNlSWQtMSJ9.c2ln","token_type":"Bearer","expires_in":3600,"expiration":1767265200}`,
		`{"access_token":"opaque-token-0123456789abcdefghijkl","token_type":"Bearer","expires_in":-1,"expiration":9223372036854775807}`,
		`{"errorCode":"BXNIM0415E","errorMessage":"` + keyCanary + `"}`, `{"access_token":"` + keyCanary + `","token_type":"Bearer","expires_in":3600,"expiration":1767265200}`,
		`{"access_token":"opaque-token-0123456789abcdefghijkl","token_type":"Bearer","expires_in":1e99}`, `{"errorCode":"` + keyCanary + `"}`,
	} {
		f.Add(uint8(0), body)
		f.Add(uint8(4), body)
	}
	f.Fuzz(func(t *testing.T, status uint8, body string) {
		got, err := iamThatSays(statusOf(status), body).Exchange(context.Background(), iamtoken.NewSecret(keyCanary))
		checkFailure(t, err)
		if err != nil {
			return
		}
		token := got.Token
		if iamtoken.CheckForm(token.Value.Reveal()) != nil || strings.Contains(token.Value.Reveal(), keyCanary) || token.Expiration.Unix() <= 0 || statusOf(status) > 299 {
			t.Errorf("got a token that expires %s of an answer %d", token.Expiration, statusOf(status))
		}
		if got.Unverified == "" {
			t.Error("got a token whose signature passes for verified, and IAM has no keys")
		}
	})
}

// tokenAndKeys answers a token request with token, and all others with keys.
type tokenAndKeys struct{ token, keys string }

func (k tokenAndKeys) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasSuffix(req.URL.Path, "/identity/token") {
		return fixedAnswer{"iam.test", 200, k.token}.RoundTrip(req)
	}
	return fixedAnswer{"iam.test", 200, k.keys}.RoundTrip(req)
}

func FuzzSigningKeys(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iam_id": "iam-ServiceId-1", "iat": 1767261600, "exp": 1767265200})
	token.Header["kid"] = "1"
	signed, err := token.SignedString(key)
	if err != nil {
		f.Fatal(err)
	}
	modulus := base64.RawURLEncoding.EncodeToString(key.N.Bytes())
	exchange := func(keys string) (rotation.TokenResponse, error) {
		iam := ibmcloud.NewIAM("https://iam.test", tokenAndKeys{strings.Replace(goodToken, "opaque-token-0123456789abcdefghijkl", signed, 1), keys}, fuzzNow)
		return iam.Exchange(context.Background(), iamtoken.NewSecret(keyCanary))
	}
	good := `{"keys":[{"kty":"RSA","alg":"RS256","kid":"1","n":"` + modulus + `","e":"AQAB"}]}`
	for _, keys := range []string{good, strings.Replace(good, "[", `[null,7,{"kty":1},{"kid":"1","kty":"RSA","n":"AA","e":"AA"},`, 1)} {
		if got, err := exchange(keys); err != nil || got.Unverified != "" {
			f.Fatal("a good answer:", got.Unverified, err)
		}
		f.Add(keys)
	}
	for _, keys := range []string{
		strings.Replace(good, "AQAB", "AQ", 1), strings.Replace(good, modulus, modulus[:100], 1), strings.Replace(good, `"1"`, `"2"`, 1), `{"keys":null}`, `{"keys":[]}`, `[]`, ``,
	} {
		f.Add(keys)
	}
	f.Fuzz(func(t *testing.T, keys string) {
		got, err := exchange(keys)
		checkFailure(t, err)
		if err == nil && got.Unverified == "" && !strings.Contains(keys, modulus[:200]) {
			t.Error("got a token that passes for verified by keys that have not signed it")
		}
	})
}

// requestTimes records when each request to Secrets Manager was sent.
type requestTimes struct {
	http.RoundTripper
	mu   sync.Mutex
	sent []time.Time
}

func (c *requestTimes) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == "instance.test" {
		c.mu.Lock()
		c.sent = append(c.sent, time.Now())
		c.mu.Unlock()
	}
	return c.RoundTripper.RoundTrip(req)
}

func TestMaxRPSIsNeverExceededOverAnySecond(t *testing.T) {
	for _, limit := range []int{1, 2, 3, 7, 8, 20, 100} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := ibmcloudtest.New(ibmcloudtest.Options{})
				// Some of the requests fail, and are repeated at once.
				for range 50 {
					cloud.MustAddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 503, Times: 1, Skip: 1})
				}
				wire := &requestTimes{RoundTripper: cloud.Transport()}
				iam := ibmcloud.NewIAM("https://iam.test", wire, nil)
				sm, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
					URL: "https://instance.test", Transport: wire, MaxRPS: limit,
					Bootstrap: ibmcloud.BootstrapByKey(iam, ibmcloud.FixedKey(iamtoken.NewSecret(cloud.BootstrapAPIKey()))),
				})
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute) // the bucket is full
				var all sync.WaitGroup
				for range 200 {
					all.Go(func() {
						for {
							if _, err := sm.ReadKey(context.Background(), rotation.KeyRef{ID: cloud.Rotations()[0].APIKeySecret}); err == nil {
								return
							}
						}
					})
				}
				all.Wait()
				for i := range wire.sent {
					if j := i + limit; j < len(wire.sent) && wire.sent[j].Sub(wire.sent[i]) < time.Second {
						t.Fatalf("%d requests within %s, want at most %d in a second", limit+1, wire.sent[j].Sub(wire.sent[i]), limit)
					}
				}
				if took, fair := wire.sent[len(wire.sent)-1].Sub(wire.sent[0]), time.Duration(len(wire.sent))*time.Second/time.Duration(limit); took > fair*5/4+time.Second {
					t.Errorf("%d requests took %s, want about %s: the limit must be used up", len(wire.sent), took, fair)
				}
			})
		})
	}
}
