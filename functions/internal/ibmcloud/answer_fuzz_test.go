package ibmcloud_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/ibmcloud"
)

// says answers every request to a host in one way, and IAM's bootstrap exchange well.
type says struct {
	host        string
	status      int
	contentType string
	body        string
}

func (s says) RoundTrip(req *http.Request) (*http.Response, error) {
	answer := &http.Response{StatusCode: s.status, Header: http.Header{"Content-Type": {s.contentType}}, Request: req}
	body := s.body
	if req.URL.Host != s.host {
		answer.StatusCode, answer.Header = http.StatusOK, http.Header{"Content-Type": {"application/json"}}
		body = goodToken
	}
	answer.Body, answer.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	return answer, nil
}

// fuzzNow is the clock of fuzzed adapters: an hour before the expirations below.
func fuzzNow() time.Time { return time.Unix(1767261600, 0) }

// Good answers, from which the fuzzing sets out.
const (
	goodToken  = `{"access_token":"abc","token_type":"Bearer","expires_in":3600,"expiration":1767265200}`
	goodSecret = `{"secret_type":"arbitrary","id":"x","payload":"key\n"}`
	goodLook   = `{"id":"c0b54eb1-9c8d-4d5e-8a6e-d1a8a7a4f1f4","secret_type":"arbitrary","created_at":"2026-01-01T10:00:00.000Z","version_custom_metadata":{"expiration":1767265200}}`
)

func fuzzedIAM(wire says) *ibmcloud.IAM { return ibmcloud.NewIAM("https://iam.test", wire, fuzzNow) }

var statuses = []int{200, 201, 204, 301, 400, 401, 403, 404, 412, 429, 500, 503}

func statusOf(n uint8) int { return statuses[int(n)%len(statuses)] }

func fuzzedSecretsManager(t testing.TB, status uint8, contentType, body string) *ibmcloud.SecretsManager {
	t.Helper()
	wire := says{"instance.test", statusOf(status), contentType, body}
	sm, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: "https://instance.test", Transport: wire, Now: fuzzNow,
		Bootstrap: ibmcloud.BootstrapByKey(fuzzedIAM(wire), ibmcloud.FixedKey(iamtoken.NewSecret(keyCanary))),
	})
	if err != nil {
		t.Fatal(err)
	}
	return sm
}

// checkFailure: a failure is one of ours, with a kind, and repeats no secret.
func checkFailure(t *testing.T, err error) {
	t.Helper()
	failure := asFailure(t, err)
	if failure.Kind == "" || failure.Message == "" || strings.Contains(failure.Error(), "canary") {
		t.Errorf("got the failure %q of kind %q", failure.Message, failure.Kind)
	}
}

func FuzzIAMAnswer(f *testing.F) {
	if _, err := fuzzedIAM(says{"iam.test", 200, "application/json", goodToken}).Exchange(context.Background(), iamtoken.NewSecret(keyCanary)); err != nil {
		f.Fatal("a good answer:", err)
	}
	for _, body := range []string{
		goodToken, ``, `null`, `[]`, `{}`, `{"errors":[]}`, `<html>`, `{"access_token":"","token_type":"Bearer","expires_in":3600,"expiration":1767265200}`,
		`{"access_token":"a.b.c","token_type":"Bearer","expires_in":3600,"expiration":1}`, `{"access_token":"a b","token_type":"bearer"}`,
		`{"access_token":"eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDAsImlhbV9pZCI6ImlhbS1TZXJ2aWNlSWQtMSJ9.c2ln","token_type":"Bearer","expires_in":3600,"expiration":1767265200}`,
		`{"access_token":"abc","token_type":"Bearer","expires_in":-1,"expiration":9223372036854775807}`,
		`{"errorCode":"BXNIM0415E","errorMessage":"` + keyCanary + `"}`, `{"access_token":"abc","token_type":"Bearer","expires_in":1e99}`,
	} {
		f.Add(uint8(0), "application/json", body)
	}
	f.Add(uint8(4), "application/json", `{"errorCode":"`+keyCanary+`"}`)
	f.Add(uint8(11), "text/html", "<html>")
	f.Fuzz(func(t *testing.T, status uint8, contentType, body string) {
		wire := says{"iam.test", statusOf(status), contentType, body}
		got, err := fuzzedIAM(wire).Exchange(context.Background(), iamtoken.NewSecret(keyCanary))
		if err != nil {
			checkFailure(t, err)
			return
		}
		token := got.Token
		if token.Value.IsZero() || strings.ContainsAny(token.Value.Reveal(), " \r\n\t\x00") || token.Expiration.Unix() <= 0 || statusOf(status) > 299 {
			t.Errorf("got a token that expires %s of an answer %d", token.Expiration, statusOf(status))
		}
	})
}
