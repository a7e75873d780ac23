package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	"iam-token-rotator/functions/ibmcloudtest"
)

// door stands before the cloud. It notes the tokens and keys that go out, and writes into the answers of faults what the
// request bore, where they say $AUTHORIZATION, $KEY, $TOKEN, $BODY, $BASE64 or $JWT: a service that repeats what it was sent.
type door struct {
	cloud                     *ibmcloudtest.Cloud
	bootstrapKey, workloadKey string

	mu      sync.Mutex
	awsOp   string              // the call to AWS Secrets Manager that aws answers
	aws     *ibmcloudtest.Fault // nil: none
	issued  []string
	waiting chan struct{} // gets a value when a request is held back
	held    chan struct{} // closed to let it go on
}

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	d.holdBack(r)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		d.answerAsAWS(answer, target)
	} else {
		d.cloud.ServeHTTP(answer, r) // a dropped connection is a panic, and goes through
	}
	d.note(answer.Body.Bytes())
	fill := d.repeat(r, body)
	if raw := answer.Header().Get(rawHeader); raw != "" && writeRaw(w, fill.Replace(raw)) {
		return
	}
	answer.Header().Del(rawHeader)
	answer.Header().Del("Content-Length") // the replaced body has another
	for name, values := range answer.Header() {
		for _, value := range values {
			w.Header().Add(name, fill.Replace(value))
		}
	}
	w.WriteHeader(answer.Code)
	_, _ = io.WriteString(w, fill.Replace(answer.Body.String()))
}

// rawHeader makes the answer raw bytes, which need not be HTTP. Its value is a Go string literal, since a header has no
// line breaks.
const rawHeader = "Canary-Raw"

// writeRaw reports whether it could: HTTP/2 has no raw answers.
func writeRaw(w http.ResponseWriter, literal string) bool {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return false
	}
	connection, _, err := hijacker.Hijack()
	if err != nil {
		return false
	}
	_, _ = io.WriteString(connection, strings.ReplaceAll(literal, `\r\n`, "\r\n"))
	_ = connection.Close()
	return true
}

// repeat knows what the request bore; a key where it bore none is the workload's.
func (d *door) repeat(r *http.Request, body []byte) *strings.Replacer {
	key := d.workloadKey
	if form, err := url.ParseQuery(string(body)); err == nil && form.Get("apikey") != "" {
		key = form.Get("apikey")
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		authorization = "Basic " + key
	}
	token := strings.TrimPrefix(authorization, "Bearer ")
	inJSON, _ := json.Marshal(string(body)) // a string always marshals
	return strings.NewReplacer("$AUTHORIZATION", authorization, "$KEY", key, "$TOKEN", token, "$JWT", jwtOf(key),
		"$BASE64", base64.StdEncoding.EncodeToString([]byte("apikey:"+key)), "$BODY", strings.Trim(string(inJSON), `"`))
}

// note remembers the secrets of an answer.
func (d *door) note(body []byte) {
	var answer struct {
		AccessToken string `json:"access_token"`
		APIKey      string `json:"apikey"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, secret := range []string{answer.AccessToken, answer.APIKey} {
		if secret != "" && !strings.HasPrefix(secret, "$") {
			d.issued = append(d.issued, secret)
		}
	}
}

func (d *door) issuedSecrets() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.issued...)
}
