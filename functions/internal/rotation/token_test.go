package rotation_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

const (
	opaque    = "opaque-token-0123456789abcdefghijkl"
	iamsKeyID = "20260101-0000" // of the sandbox
)

// tokenAnswer is IAM's answer with a token that is valid for an hour.
func tokenAnswer(value string) string {
	encoded, _ := json.Marshal(value)
	return `{"access_token":` + string(encoded) + `,"token_type":"Bearer","expires_in":3600,"expiration":` + unixIn(time.Hour) + `}`
}

// answer has IAM answer the workload's exchanges with body, times times; 0 is for ever.
func (fx *fixture) answer(body string, times int) {
	fx.t.Helper()
	fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Status: 200, Body: body, Times: times})
}

// token is one of the workload that IAM has signed. It takes names and JSON values of claims to replace.
func (fx *fixture) token(claims ...string) string { return fx.cloud.MustSign("", fx.claims(claims...)) }

func (fx *fixture) claims(replaced ...string) string {
	claims := map[string]json.RawMessage{
		"iam_id": json.RawMessage(`"` + fx.workload().IAMID + `"`), "account": json.RawMessage(`{"bss":"` + fx.cloud.AccountID() + `"}`),
		"iat": json.RawMessage(unixIn(0)), "exp": json.RawMessage(unixIn(time.Hour)), "jti": json.RawMessage(`"` + rand.Text() + `"`),
	}
	for i := 0; i < len(replaced); i += 2 {
		claims[replaced[i]] = json.RawMessage(replaced[i+1])
	}
	encoded, err := json.Marshal(claims)
	if err != nil {
		fx.t.Fatal(err)
	}
	return string(encoded)
}

// foreignKey is a key pair that is not IAM's.
var foreignKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// signed is a token of the workload that somebody has signed.
func (fx *fixture) signed(method jwt.SigningMethod, kid string, key any) string {
	var claims jwt.MapClaims
	_ = json.Unmarshal([]byte(fx.claims()), &claims)
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"] = kid
	signed, err := token.SignedString(key)
	if err != nil {
		fx.t.Fatal(err)
	}
	return signed
}

// keySet is a JWKS of one key.
func keySet(kid string, modulus []byte, exponent string) string {
	return `{"keys":[{"kty":"RSA","alg":"RS256","kid":"` + kid + `","n":"` + base64.RawURLEncoding.EncodeToString(modulus) + `","e":"` + exponent + `"}]}`
}

// bad are answers of IAM with a token that must not be saved. The form of a token and its claims have tables of their own in package
// iamtoken.
var bad = map[string]func(fx *fixture) string{
	"nothing":          text(""),
	"a login page":     text("<html><body>Log in</body></html>"),
	"truncated":        text(`{"access_token":"eyJraWQiOi`),
	"JSON's null":      text("null"),
	"no expiration":    text(`{"access_token":"` + opaque + `","token_type":"Bearer"}`),
	"expires_in wrong": text(`{"access_token":"` + opaque + `","token_type":"Bearer","expires_in":"soon"}`),
	"not Bearer":       instead("Bearer", "MAC"),

	"expires_in huge":                  instead(`"expires_in":3600`, `"expires_in":9000000000000000000`),
	"expires_in less than 0":           instead(`"expires_in":3600`, `"expires_in":-1`),
	"expires_in before the expiration": instead(`"expires_in":3600`, `"expires_in":240`),
	"an expiration after expires_in": func(*fixture) string {
		return strings.Replace(tokenAnswer(opaque), unixIn(time.Hour), unixIn(20*time.Hour), 1)
	},
	"in milliseconds": func(*fixture) string {
		return strings.Replace(tokenAnswer(opaque), unixIn(time.Hour), unixIn(time.Hour)+"000", 1)
	},
	"an old one that counts from now": func(fx *fixture) string {
		answer := tokenAnswer(fx.token("iat", unixIn(-49*time.Minute), "exp", unixIn(11*time.Minute)))
		return strings.NewReplacer(`"expires_in":3600`, `"expires_in":660`, `"expiration":`+unixIn(time.Hour),
			`"expiration":`+unixIn(11*time.Minute)).Replace(answer)
	},

	"a token: empty":                       token(""),
	"a token: HTML":                        token("<html>502</html>"),
	"a token: Bearer and a token":          token("Bearer " + opaque),
	"a token: long and quoted":             token(`"` + opaque + `"`),
	"a token: 8,193 letters":               token(strings.Repeat("a", 8193)),
	"a token: 31 letters":                  token(strings.Repeat("a", 31)),
	"a token: three words with dots":       token("nothing-that-is-of-a-jwt.but-has-three.parts-between-dots"),
	"a token: a JWT without its signature": of(func(fx *fixture) string { return fx.token()[:strings.LastIndex(fx.token(), ".")] }),
	"a token: a JWT and more":              of(func(fx *fixture) string { return fx.token() + ".e30.e30" }),

	"a token: the workload's key":        of(func(fx *fixture) string { return fx.workload().APIKey }),
	"a token: the bootstrap's key":       of(func(fx *fixture) string { return fx.cloud.BootstrapAPIKey() }),
	"a token: the key and a line's end":  of(func(fx *fixture) string { return fx.workload().APIKey + "\n" }),
	"a token: the key, padded":           of(func(fx *fixture) string { return fx.workload().APIKey + "==" }),
	"a token: the key within":            of(func(fx *fixture) string { return opaque + "." + fx.cloud.BootstrapAPIKey() }),
	"a token: a part of the key":         of(func(fx *fixture) string { return fx.workload().APIKey[:40] }),
	"a token: the key in base64":         of(func(fx *fixture) string { return encoded(base64.StdEncoding, fx.workload().APIKey) }),
	"a token: the key for Basic":         of(func(fx *fixture) string { return encoded(base64.URLEncoding, "apikey:"+fx.workload().APIKey) }),
	"a token: the bootstrap's in base64": of(func(fx *fixture) string { return encoded(base64.RawStdEncoding, fx.cloud.BootstrapAPIKey()) }),
	"a token: the key in hexadecimal":    of(func(fx *fixture) string { return fmt.Sprintf("%X", fx.workload().APIKey) }),
	"a token: the key in lower case":     of(func(fx *fixture) string { return strings.ToLower(fx.workload().APIKey) }),
	"a token: a claim with the key":      of(func(fx *fixture) string { return fx.token("note", `"`+fx.workload().APIKey+`"`) }),
	"a token: a claim with it, encoded": of(func(fx *fixture) string {
		return fx.token("note", `"`+encoded(base64.StdEncoding, fx.workload().APIKey)+`"`)
	}),
	"a token: an identity with the key": of(func(fx *fixture) string { return fx.token("iam_id", `"iam-`+fx.cloud.BootstrapAPIKey()+`"`) }),

	"a token: not signed": of(func(fx *fixture) string {
		return fx.signed(jwt.SigningMethodNone, iamsKeyID, jwt.UnsafeAllowNoneSignatureType)
	}),
	"a token: signed with HS256": of(func(fx *fixture) string { return fx.signed(jwt.SigningMethodHS256, iamsKeyID, []byte(iamsKeyID)) }),
	"a token: signed with RS512": of(func(fx *fixture) string { return fx.signed(jwt.SigningMethodRS512, iamsKeyID, foreignKey()) }),
	"a token: of an unknown algorithm": of(func(fx *fixture) string {
		return fx.cloud.MustSign(`{"alg":"ML-DSA-65","kid":"`+iamsKeyID+`"}`, fx.claims())
	}),
	"a token: signed by another":        of(func(fx *fixture) string { return fx.signed(jwt.SigningMethodRS256, iamsKeyID, foreignKey()) }),
	"a token: an unknown key id":        of(func(fx *fixture) string { return fx.signed(jwt.SigningMethodRS256, "another", foreignKey()) }),
	"a token: no key id":                of(func(fx *fixture) string { return fx.cloud.MustSign(`{"alg":"RS256"}`, fx.claims()) }),
	"a token: a key id of another type": of(func(fx *fixture) string { return fx.cloud.MustSign(`{"alg":"RS256","kid":7}`, fx.claims()) }),
	"a token: tampered": of(func(fx *fixture) string {
		parts := strings.Split(fx.token(), ".")
		return parts[0] + "." + encoded(base64.RawURLEncoding, fx.claims()) + "." + parts[2]
	}),
	"a token: claims that are no JSON":  of(func(fx *fixture) string { return fx.cloud.MustSign("", "claims, but no JSON") }),
	"a token: an account that is text":  of(func(fx *fixture) string { return fx.token("account", `"`+fx.cloud.AccountID()+`"`) }),
	"a token: an identity 7":            of(func(fx *fixture) string { return fx.token("iam_id", "7") }),
	"a token: an expiry as text":        of(func(fx *fixture) string { return fx.token("exp", `"`+unixIn(time.Hour)+`"`) }),
	"a token: an issue in milliseconds": of(func(fx *fixture) string { return fx.token("iat", unixIn(0)+"000") }),
	"a token: issued in the future":     of(func(fx *fixture) string { return fx.token("iat", unixIn(3*time.Minute)) }),
}

func text(s string) func(*fixture) string { return func(*fixture) string { return s } }

// of is the answer with a token that depends on the fixture, token one with the same token for all.
func of(value func(*fixture) string) func(*fixture) string {
	return func(fx *fixture) string { return tokenAnswer(value(fx)) }
}

func token(value string) func(*fixture) string { return of(text(value)) }

// instead is an answer with an opaque token in which something is replaced.
func instead(old, by string) func(*fixture) string {
	return func(*fixture) string { return strings.Replace(tokenAnswer(opaque), old, by, 1) }
}

func encoded(encoding *base64.Encoding, s string) string { return encoding.EncodeToString([]byte(s)) }

func TestABadTokenIsNeverSaved(t *testing.T) {
	each(t, bad, func(fx *fixture, answer func(fx *fixture) string) {
		fx.rotate()
		fx.answer(answer(fx), 0)
		fx.wantFailure(fx.runWithin(20*time.Second, fx.rotator, rotation.Request{Mode: rotation.ModeRotate, RunID: "bad-for-ever"}),
			rotation.StepCheck, rotation.InvalidToken)
		fx.wantVersions(2)
		fx.wantStored(50 * time.Minute)
		// It may pass: the next attempts ask again.
		fx.cloud.ClearFaults()
		fx.answer(answer(fx), 2)
		result := fx.rotate()
		fx.wantAttempts(result, 3)
		fx.wantNoWarning(result)
	})
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) { // no answer is read to its end
		fx.answer(tokenAnswer(strings.Repeat("a", 990_000)), 0)
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepExchange, rotation.Unavailable)
	})
}

// Whatever opens Secrets Manager is not for readers: IAM, or a cache before it, may
// answer the workload's exchange with what it has seen before.
func TestNoCredentialOfTheBootstrapIdentityIsSaved(t *testing.T) {
	compute := strings.Repeat("compute-resource-token", 3)
	file := filepath.Join(t.TempDir(), "cr-token")
	if err := os.WriteFile(file, []byte(compute), 0o600); err != nil {
		t.Fatal(err)
	}
	byProfile := func(iam *ibmcloud.IAM) *ibmcloud.Bootstrap {
		return ibmcloud.BootstrapByProfile(iam, ibmcloud.Profile{Name: ibmcloudtest.ProfileName, CRTokenFilename: file})
	}
	each(t, map[string]func(fx *fixture){
		"the token of its key": func(fx *fixture) {
			fx.rotator = fx.processAs(caching(fx.cloud.Transport()), byKey(fx.cloud.BootstrapAPIKey()))
		},
		"the profile's token": func(fx *fixture) { fx.rotator = fx.processAs(caching(fx.cloud.Transport()), byProfile) },
		"a person's token": func(fx *fixture) {
			token := fx.cloud.MustMintToken(fx.cloud.BootstrapAPIKey(), time.Hour)
			fx.answer(tokenAnswer(token), 0)
			fx.rotator = fx.processAs(fx.cloud.Transport(), byToken(token))
		},
		"a compute resource token": func(fx *fixture) {
			fx.answer(tokenAnswer(compute), 0)
			fx.rotator = fx.processAs(fx.cloud.Transport(), byProfile)
		},
		"an earlier one, which Secrets Manager has rejected": func(fx *fixture) {
			fx.rotator = fx.process(onTokens(fx.cloud.Transport(), func(answer, first []byte) []byte {
				if fx.cloud.CountRequests(tokenOp, ibmcloudtest.IdentityWorkload) > 0 {
					return first
				}
				return answer
			}))
			fx.fault(ibmcloudtest.Fault{Op: metadataOp, Status: 401, Times: 1})
		},
	}, func(fx *fixture, begin func(fx *fixture)) {
		begin(fx)
		fx.wantFailure(fx.run(check), rotation.StepCheck, rotation.InvalidToken, "a key or token that was sent")
	})
}

// onTokens changes the answers to token requests; change gets the first answer of all, too.
func onTokens(base http.RoundTripper, change func(answer, first []byte) []byte) http.RoundTripper {
	var first []byte
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		response, err := base.RoundTrip(req)
		if err != nil || !strings.HasSuffix(req.URL.Path, "/identity/token") {
			return response, err
		}
		answer, err := io.ReadAll(response.Body)
		if first == nil {
			first = answer
		}
		response.Body = io.NopCloser(bytes.NewReader(change(answer, first)))
		return response, err
	})
}

// caching is a proxy that answers every token request with the first one's answer.
func caching(base http.RoundTripper) http.RoundTripper {
	return onTokens(base, func(_, first []byte) []byte { return first })
}

func TestAnOpaqueTokenIsSavedWithWarnings(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.answer(tokenAnswer(opaque), 0)
		warnings := strings.Join(fx.rotate().Warnings, "\n")
		if !strings.Contains(warnings, "does not show its identity") ||
			!strings.Contains(warnings, "signature could not be verified: the token is opaque") {
			t.Errorf("got warnings %q, want them on the identity and the signature", warnings)
		}
		fx.one.Expect.Account = fx.cloud.AccountID()
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepCheck, rotation.InvalidToken)
		fx.wantVersions(2)
	})
}

func TestIAMsKeysThatCannotBeFetchedDelayNoToken(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	modulus := foreignKey().N.Bytes()
	long := make([]byte, 2048)
	long[0], long[2047] = 0x80, 1
	const keysOp = ibmcloudtest.OpIAMKeys
	page := func(body string) story {
		return story{edit: fault(ibmcloudtest.Fault{Op: keysOp, Status: 200, Body: body})}
	}
	play(t, with(func(s *story) {
		s.first, s.says, s.attempts = true, "/identity/keys could not be fetched", 1
		s.then = func(fx *fixture, result report.Result) {
			if len(result.Warnings) != 1 || result.Duration > 2*time.Second {
				fx.t.Errorf("took %s with the warnings %q, want 2s at most and one", result.Duration, result.Warnings)
			}
		}
	}, map[string]story{
		"out of order":        {edit: fault(ibmcloudtest.Fault{Op: keysOp, Status: 503})},
		"hanging":             {edit: fault(ibmcloudtest.Fault{Op: keysOp, Delay: time.Hour})},
		"hanging, in a hurry": {edit: fault(ibmcloudtest.Fault{Op: keysOp, Delay: time.Hour}), within: 2 * time.Second},
		"a page":              page("<html>Log in</html>"),
		"no keys":             page(`{"keys":[]}`),
		"keys of nobody":      page(`{"keys":{"a":1}}`),
		"odd entries":         page(`{"keys":[null,7,"x",[],{"kty":7},{"kty":"RSA"},{"kty":"EC","kid":"` + iamsKeyID + `"}]}`),
		"a weak key":          page(keySet(iamsKeyID, weak.N.Bytes(), "AQAB")),
		"a huge key":          page(keySet(iamsKeyID, long, "AQAB")),
		"exponent 1":          page(keySet(iamsKeyID, modulus, "AQ")),
		"a huge exponent":     page(keySet(iamsKeyID, modulus, encoded(base64.RawURLEncoding, string(long)))),
		"an even modulus":     page(keySet(iamsKeyID, append([]byte{0}, append(modulus[:255:255], 2)...), "AQAB")),
		"for encryption":      page(strings.Replace(keySet(iamsKeyID, modulus, "AQAB"), `"kty"`, `"use":"enc","kty"`, 1)),
		"too long":            page(keySet(iamsKeyID, modulus, "AQAB") + strings.Repeat(" ", 300_000)),
	}))
	withFixture(t, ibmcloudtest.Options{Rotations: 8}, func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: keysOp, Status: 503})
		if fx.runAll("without-keys"); fx.countRequests(keysOp) != 1 {
			t.Errorf("got %d requests for the keys by 8 rotations, want one", fx.countRequests(keysOp))
		}
	})
}

// The keys of the day before serve on while IAM does not answer with new ones.
func TestIAMsKeysAreFetchedOnceADayAndBesideARun(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Delay: time.Second})
		want := func(when string, result report.Result, took time.Duration, fetches int) {
			t.Helper()
			if got := fx.countRequests(ibmcloudtest.OpIAMKeys); got != fetches || result.Duration != took || len(result.Warnings) != 0 {
				t.Errorf("%s: got %s (%v), %d fetches, %s and warnings %q; want %d, %s and none", when, result.Outcome, result.Error, got,
					result.Duration, result.Warnings, fetches, took)
			}
		}
		want("cold", fx.rotate(), 4*time.Second, 1) // authenticate, read, exchange, save
		want("fresh", fx.run(rotation.ModeEnsure), time.Second, 1)
		time.Sleep(30 * time.Minute)
		want("warm", fx.rotate(), 3*time.Second, 1)
		fx.rotator = fx.process(fx.cloud.Transport())
		want("cold and fresh", fx.run(rotation.ModeEnsure), 2*time.Second, 1)
		time.Sleep(25 * time.Hour)
		want("cold, by ensure", fx.run(rotation.ModeEnsure), 5*time.Second, 2) // the key is read after the metadata
		time.Sleep(23 * time.Hour)
		want("not yet a day later", fx.rotate(), 4*time.Second, 2)
		time.Sleep(2 * time.Hour)
		want("a day later", fx.rotate(), 4*time.Second, 3)
		time.Sleep(25 * time.Hour)
		fx.cloud.ClearFaults()
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Delay: time.Hour})
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpAny, Delay: time.Second})
		want("another day later, without an answer", fx.rotate(), 4*time.Second, 4)
	})
}

// One unknown key must not make every rotation ask for the keys.
func TestAnUnknownKeyIsAskedForOnceAMinute(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{Rotations: 8}, func(fx *fixture) {
		modulus := foreignKey().N.Bytes()
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Status: 200, Body: keySet("another", modulus, "AQAB"), Times: 2})
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
		defer cancel()
		for _, result := range fx.rotator.Run(ctx, rotation.Request{Mode: rotation.ModeRotate, RunID: "unknown-key"}, fx.all).Results {
			fx.wantFailure(result, rotation.StepCheck, rotation.InvalidToken)
		}
		if got := fx.countRequests(ibmcloudtest.OpIAMKeys); got != 2 {
			t.Errorf("got %d fetches in 100s, want 2", got)
		}
		fx.rotate() // IAM has published its new key meanwhile
		time.Sleep(5 * time.Hour)
		fx.answer(tokenAnswer(fx.signed(jwt.SigningMethodRS256, "another", foreignKey())), 0)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Status: 200, Body: keySet("another", modulus, "AQAB")})
		fx.wantOutcome(fx.run(rotation.ModeCheck), report.Checked)
	})
}

// What IAM seemed to answer once, a proxy's say, is not trusted for a day: it would have
// every token of IAM pass for a forged one.
func TestAWrongKeyIsReplaced(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Status: 200, Body: keySet(iamsKeyID, foreignKey().N.Bytes(), "AQAB"), Times: 1})
		result := fx.rotate()
		if len(result.Warnings) != 0 || result.Duration < time.Minute || result.Duration > 75*time.Second {
			t.Errorf("got %s and warnings %q, want the keys to be fetched again after a minute", result.Duration, result.Warnings)
		}
		// A fetched key decides while no others can be fetched.
		time.Sleep(time.Hour)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Status: 503})
		fx.answer(tokenAnswer(fx.signed(jwt.SigningMethodRS256, iamsKeyID, foreignKey())), 0)
		fx.wantFailure(fx.run(rotation.ModeRotate), rotation.StepCheck, rotation.InvalidToken)
		fx.wantVersions(2)
	})
}

func TestKeysOfOneIDDoNotHideEachOther(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		response, err := (&http.Client{Transport: fx.cloud.Transport()}).Get("https://iam.test/identity/keys")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		list := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(string(body)), `{"keys":[`), "]}")
		other := strings.TrimSuffix(strings.TrimPrefix(keySet(iamsKeyID, foreignKey().N.Bytes(), "AQAB"), `{"keys":[`), "]}")
		for _, keys := range []string{list + "," + other, other + "," + list, strings.Repeat(`{"kty":"EC","kid":"x"},`, 150) + list} {
			fx.cloud.ClearFaults()
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Status: 200, Body: `{"keys":[` + keys + `]}`})
			fx.rotator = fx.process(fx.cloud.Transport())
			fx.wantNoWarning(fx.rotate())
		}
	})
}

// A run that ends takes the fetch with it: a process may be frozen next.
func TestFetchesOfTheKeysEndWithTheirRun(t *testing.T) {
	withFixture(t, ibmcloudtest.Options{}, func(fx *fixture) {
		var begun, ended atomic.Int32
		fx.rotator = fx.process(roundTripper(func(req *http.Request) (*http.Response, error) {
			if strings.HasSuffix(req.URL.Path, "/identity/keys") {
				begun.Add(1)
				defer ended.Add(1)
			}
			return fx.cloud.Transport().RoundTrip(req)
		}))
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Delay: time.Hour})
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Delay: time.Second})
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata, Status: 404, Delay: time.Second})
		result := fx.run(rotation.ModeRotate)
		fx.wantFailure(result, rotation.StepReadMetadata, rotation.NotFound)
		if begun.Load() != 1 || ended.Load() != 1 || result.Duration > time.Second {
			t.Errorf("got %d fetches begun, %d ended and %s; want 1, 1 and 1s", begun.Load(), ended.Load(), result.Duration)
		}
		// That says nothing of IAM: the next run fetches the keys itself.
		fx.cloud.ClearFaults()
		fx.wantNoWarning(fx.rotate())
	})
}

func TestAnAgeingOrUnsignedTokenIsNeverSaved(t *testing.T) {
	left := func(left, lifetime time.Duration) func(*fixture) {
		return func(fx *fixture) {
			fx.cloud.SetTokenTTL(lifetime)
			fx.answer(strings.Replace(tokenAnswer(fx.cloud.MustMintToken(fx.workload().APIKey, left)), "3600", fmt.Sprint(lifetime.Seconds()), 1), 0)
		}
	}
	// What no key could have signed is not saved, whether there are keys or not.
	signature := func(text string) func(*fixture) {
		return func(fx *fixture) {
			fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMKeys, Status: 503})
			token := fx.token()
			fx.answer(tokenAnswer(token[:strings.LastIndex(token, ".")+1]+text), 0)
		}
	}
	play(t, with(func(s *story) {
		s.first, s.fails, s.kind, s.attempts = true, rotation.StepCheck, rotation.InvalidToken, several
	}, map[string]story{
		"expired":                     {edit: left(-time.Minute, time.Hour)},
		"4 seconds left":              {edit: left(4*time.Second, time.Hour)},
		"less than 5 minutes":         {edit: left(299*time.Second, time.Hour)},
		"less than half its lifetime": {edit: left(29*time.Minute, time.Hour)},
		"less than 5 minutes, of 8":   {edit: left(299*time.Second, 8*time.Minute)},
		"without a signature":         {edit: signature("")},
		"a signature of 3 bytes":      {edit: signature("AAAA")},
		"a signature of 2 KB":         {edit: signature(strings.Repeat("A", 2732))},
	}))
	play(t, map[string]story{"5 minutes of 8": {first: true, edit: left(301*time.Second, 8*time.Minute)}})
}

// A token is compared with Expect, and with the stored token by what both show: one may
// show less than the other, or show it in another form.
func TestATokenOfTheWrongIdentityIsNeverSaved(t *testing.T) {
	const federated, other, somebody = "saml-somebody@example.test", "saml-else@example.test", "iam-ServiceId-somebody-else"
	ones, none := strings.Repeat("1", 32), ""
	type says struct{ iamID, account string } // "own" is the workload's
	type identities struct {
		before, after says
		expect        says
		force         bool
		want          report.Outcome
	}
	each(t, map[string]identities{
		"the same":                       {says{"own", "own"}, says{"own", "own"}, says{}, false, report.Rotated},
		"as expected":                    {says{"own", "own"}, says{"own", "own"}, says{"own", "own"}, false, report.Rotated},
		"another account expected":       {says{"own", "own"}, says{"own", "own"}, says{"", ones}, false, report.Failed},
		"another identity expected":      {says{"own", "own"}, says{"own", "own"}, says{somebody, ""}, false, report.Failed},
		"force does not pass expect":     {says{"own", "own"}, says{"own", "own"}, says{somebody, ""}, true, report.Failed},
		"all expected, another account":  {says{"own", "own"}, says{"own", ones}, says{"own", "own"}, true, report.Failed},
		"all expected, after another":    {says{somebody, ones}, says{"own", "own"}, says{"own", "own"}, false, report.Rotated},
		"another identity":               {says{"own", "own"}, says{somebody, "own"}, says{}, false, report.Failed},
		"another identity, by force":     {says{"own", "own"}, says{somebody, "own"}, says{}, true, report.Rotated},
		"another account":                {says{"own", "own"}, says{"own", ones}, says{}, false, report.Failed},
		"no account":                     {says{"own", "own"}, says{"own", none}, says{}, false, report.Rotated},
		"nobody, and another account":    {says{"own", "own"}, says{none, ones}, says{}, false, report.Failed},
		"nobody, and the account":        {says{"own", "own"}, says{none, "own"}, says{}, false, report.Rotated},
		"no account, as before":          {says{"own", none}, says{"own", none}, says{}, false, report.Rotated},
		"an account for the first time":  {says{"own", none}, says{"own", "own"}, says{}, false, report.Rotated},
		"no account, another identity":   {says{"own", "own"}, says{somebody, none}, says{}, false, report.Failed},
		"of a realm not known":           {says{"own", "own"}, says{federated, "own"}, says{}, false, report.Failed},
		"of a realm not known as before": {says{federated, "own"}, says{federated, "own"}, says{}, false, report.Rotated},
		"another one of that realm":      {says{federated, "own"}, says{other, "own"}, says{}, false, report.Failed},
	}, func(fx *fixture, test identities) {
		mean := func(s says) says {
			return says{strings.Replace(s.iamID, "own", fx.workload().IAMID, 1), strings.Replace(s.account, "own", fx.cloud.AccountID(), 1)}
		}
		publish := func(s says, force bool) report.Result {
			fx.cloud.ClearFaults()
			fx.answer(tokenAnswer(fx.token("iam_id", `"`+mean(s).iamID+`"`, "account", `{"bss":"`+mean(s).account+`"}`)), 0)
			return fx.runAs(rotation.Request{Mode: rotation.ModeRotate, Force: force, RunID: "identity-" + unixIn(0)})
		}
		fx.wantOutcome(publish(test.before, false), report.Rotated)
		time.Sleep(time.Second)
		fx.one.Expect = rotation.Expect{Account: mean(test.expect).account, IAMID: mean(test.expect).iamID}
		result := publish(test.after, test.force)
		if fx.wantOutcome(result, test.want); test.want == report.Failed {
			fx.wantFailure(result, rotation.StepCheck, rotation.InvalidToken)
			fx.wantVersions(2)
			if strings.Contains(result.Error.Message, "saml") {
				fx.t.Errorf("got %q, want an identity of a form not known as its digest", result.Error.Message)
			}
		}
	})
}
