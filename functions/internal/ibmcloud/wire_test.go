package ibmcloud_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

const (
	keyCanary   = "canary-key-5gkHXZ0r8vPw2QmB1sTqL9fYc3nA7eR"
	tokenCanary = "canary-token-8dJ2kWq0ZxT5vHb7NfGs1LmP4yCu6EaR"
)

// serve starts an HTTP server for the test.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func exchange(t *testing.T, origin string) (rotation.TokenResponse, *rotation.Error) {
	t.Helper()
	exchanged, err := ibmcloud.NewIAM(origin, network.New(), nil).Exchange(t.Context(), iamtoken.NewSecret(keyCanary))
	return exchanged, asFailure(t, err)
}

func asFailure(t *testing.T, err error) *rotation.Error {
	t.Helper()
	var failure *rotation.Error
	if err != nil && !errors.As(err, &failure) {
		t.Fatalf("got a %T, want a *rotation.Error", err)
	}
	return failure
}

func secretsManager(t *testing.T, origin string) *ibmcloud.SecretsManager {
	t.Helper()
	transport := network.New()
	iam := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`, tokenCanary, time.Now().Add(time.Hour).Unix())
	})
	sm, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: origin, Transport: transport,
		Bootstrap: ibmcloud.BootstrapByKey(ibmcloud.NewIAM(iam, transport, nil), ibmcloud.FixedKey(iamtoken.NewSecret(keyCanary))),
	})
	if err != nil {
		t.Fatal(err)
	}
	return sm
}

// An error's body and headers may repeat what was sent.
func TestNothingOfAnErrorBodyEntersTheMessageButAKnownCode(t *testing.T) {
	var status int
	var body string
	origin := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		echo := keyCanary + " " + tokenCanary + " " + r.Header.Get("Authorization") + " " + string(sent)
		w.Header().Set("Transaction-Id", keyCanary)
		w.Header().Set("Location", "/"+keyCanary)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.ReplaceAll(body, "SECRET", echo))
	})
	sm := secretsManager(t, origin)
	for _, status = range []int{200, 201, 302, 307, 400, 401, 403, 404, 409, 412, 429, 500, 503} {
		for _, body = range []string{
			`{"errorCode":"BXNIM0415E","errorMessage":"key SECRET could not be found","errorDetails":"SECRET"}`,
			`{"errors":[{"code":"secrets-manager.Error07012","message":"SECRET","more_info":"SECRET","target":{"name":"SECRET"}}]}`,
			`{"errorCode":"BXNIM0415E SECRET"}`, `{"errors":[{"code":"SECRET secrets-manager.Error07012"}]}`,
			`{"errorCode":"SECRET"}`, `{"errors":[{"code":"SECRET","message":"SECRET"}]}`, `{"errors":[]}`, `{"errors":"SECRET"}`,
			`SECRET`, `<html>SECRET</html>`, ``, `null`, `[]`, `{"errors":[{}]}`,
		} {
			_, iam := exchange(t, origin)
			_, err := sm.ReadKey(t.Context(), rotation.KeyRef{ID: "cb1e238c-d449-4fe7-bd68-04f0c5b59eb1"})
			for _, failure := range []*rotation.Error{iam, asFailure(t, err)} {
				if failure == nil {
					t.Fatalf("%d %s: got no failure", status, body)
				}
				if text := fmt.Sprintf("%+v %s", *failure, failure); strings.Contains(text, "canary") {
					t.Errorf("%d %s: the failure repeats a secret", status, body)
				}
			}
			if strings.Contains(body, `"BXNIM0415E"`) && status == 400 && !strings.Contains(iam.Message, "BXNIM0415E") {
				t.Errorf("got %q, want IBM's code in it", iam.Message)
			}
		}
	}
}

// The status decides, the code explains: each code with each status.
func TestACodeOfIAMNamesTheCauseAndWhatHelps(t *testing.T) {
	const byStatus = "" // no such code is known
	codes := map[string]string{
		"BXNIM0415E": "is not known to IAM. It was deleted, has expired or was made seconds ago: replace it with a valid key",
		"BXNIM0398E": "the trusted profile is not known, or its conditions do not fit this compute resource: check IAM_PROFILE_NAME or IAM_PROFILE_ID",
		"BXNIM0430E": "requests from this IP address are not permitted: add the address that they come from",
		"BXNIM0462E": "is disabled: enable it, or",
		"BXNIM0410E": "is of a user who has left the account: replace it with a key of a service id or another user. A new key of the same user does not help",
		"BXNIM0436E": "is of a user who is suspended: have the account's administrator reactivate the user, or replace it with a key of a service id. A new key of the same user does not help",
		"BXNIM0439E": "the session or refresh token behind the API key in the key secret is no longer valid: log in again",
		"BXNIM0408E": "the session or refresh token behind the API key in the key secret is no longer valid: log in again",
		"BXNIM0109E": "a property is missing from the request: ",
		"BXNIM0106E": "IAM does not accept the value of a property of the request: check the API key in the key secret",
		"BXNIM0407E": "IAM says that the API key in the key secret is an invalid token: ",
		"BXNIM9999E": byStatus, "bxnim0415e": byStatus, "BXNIM0415": byStatus, "BXNIM00415E": byStatus, "BXNIM0415EE": byStatus, "BXNIM0415E ": byStatus,
		"BXNIM0415E\n": byStatus, "XBXNIM0415E": byStatus, "BXNAB0415E": byStatus, "BXNIM٠٤١٥E": byStatus, "forbidden": byStatus, "": byStatus,
	}
	var status int
	var body string
	origin := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	for _, status = range []int{400, 401, 403, 404, 412, 418, 429, 500, 503} {
		body = "<html>" + keyCanary + "</html>"
		_, bare := exchange(t, origin)
		for code, says := range codes {
			for _, shape := range []string{`{"errorCode":"%s","errorMessage":"%s"}`, `{"errors":[{"code":"%s","message":"%s"}]}`} {
				body = fmt.Sprintf(shape, code, keyCanary)
				_, failure := exchange(t, origin)
				if failure.Kind != bare.Kind || failure.Retry != bare.Retry || strings.Contains(failure.Message+failure.Advice, "canary") || strings.Contains(failure.Message, "locked") {
					t.Fatalf("%d %s: got kind %s, retry %d; want those of the status alone, %s and %d, no secret and no lock", status, code, failure.Kind, failure.Retry, bare.Kind, bare.Retry)
				}
				want := fmt.Sprintf(" answered %d: %s", status, bare.Advice)
				if says != byStatus {
					want = fmt.Sprintf(" answered %d %s: ", status, code)
				} else if code == "BXNIM9999E" {
					want = fmt.Sprintf(" answered %d %s: %s", status, code, bare.Advice)
				}
				if !strings.Contains(failure.Message, want) || !strings.Contains(failure.Message, says) || !strings.HasSuffix(failure.Message, ": "+failure.Advice) {
					t.Errorf("%d %q: got %q, want %q and %q in it", status, code, failure.Message, want, says)
				}
			}
		}
	}
}

// For each of IAM's published answers the function and the reader print the same text.
func TestTheReaderPrintsTheSame(t *testing.T) {
	for _, published := range ibmcloudtest.CasesOf(ibmcloudtest.OpIAMToken) {
		if published.Status >= 429 || published.Code == "BXNIM0398E" { // an outage, or about a trusted profile, which the reader does not use
			continue
		}
		cloud := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
		cloud.MustAddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Case: published.Name})
		origin := serve(t, cloud.ServeHTTP)
		_, failure := exchange(t, origin)
		store := &iamtoken.SecretsManager{URL: origin, IAMURL: origin, SecretID: cloud.Rotations()[0].TokenSecret, APIKey: iamtoken.NewSecret(cloud.ReaderAPIKey())}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := store.Read(ctx)
		cancel()
		if failure == nil || err == nil {
			t.Fatalf("%s: got no failure", published.Name)
		}
		_, said, _ := strings.Cut(strings.ReplaceAll(failure.Message, "the API key in the key secret", "KEY"), fmt.Sprintf(" answered %d", published.Status))
		if theirs := strings.ReplaceAll(err.Error(), "the reader's API key", "KEY"); said == "" || !strings.Contains(theirs, said) {
			t.Errorf("%s: the function says %q, the reader %q", published.Name, said, theirs)
		}
	}
}
