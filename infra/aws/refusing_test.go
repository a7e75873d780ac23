package aws_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
)

// putSecret replaces the bootstrap secret's value.
func (a *account) putSecret(value string) {
	a.t.Helper()
	a.moto.MustCall(a.t, "secretsmanager", "secretsmanager.PutSecretValue", object{"SecretId": a.arn, "SecretString": value, "ClientRequestToken": strings.Repeat("d", 32)})
}

// inFrontOf serves what answer gives, or else passes requests on to moto. It is
// called for one request at a time.
func (a *account) inFrontOf(answer func(r *http.Request, form url.Values) (int, string)) string {
	a.t.Helper()
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		form, _ := url.ParseQuery(string(body))
		if status, text := answer(r, form); status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		a.moto.ServeHTTP(w, r)
	}))
	a.t.Cleanup(server.Close)
	return server.URL
}

// refusing answers as AWS Secrets Manager does to a role without permission, so
// many times (-1: always).
func (a *account) refusing(times int) string {
	a.t.Helper()
	return a.inFrontOf(func(*http.Request, url.Values) (int, string) {
		if times == 0 {
			return 0, ""
		}
		times--
		return 400, `{"__type":"AccessDeniedException","Message":"User: arn:aws:sts::123456789012:assumed-role/x is not authorized to perform: secretsmanager:GetSecretValue"}`
	})
}

// forbidding answers as CloudFormation does to a person without permission.
func (a *account) forbidding(action string) string {
	a.t.Helper()
	return a.inFrontOf(func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") != action {
			return 0, ""
		}
		return 403, fmt.Sprintf(`<ErrorResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code>`+
			`<Message>User is not authorized to perform: cloudformation:%s</Message></Error></ErrorResponse>`, action)
	})
}
