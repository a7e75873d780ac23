package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// job is a downstream job: it knows a reader's key and the token secret's id.
type job struct {
	ctx context.Context
	env map[string]string
}

// readToken reads the published token as any reader would: the reader's own
// token first, then the secret.
func (j job) readToken() (string, error) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {j.env["READER_APIKEY"]}}
	request, err := http.NewRequestWithContext(j.ctx, http.MethodPost, j.env["IAM_URL"]+"/identity/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Accept", "application/json")
	var reader struct {
		AccessToken string `json:"access_token"`
	}
	if _, err := do(request, &reader); err != nil {
		return "", fmt.Errorf("authenticating the reader: %w", err)
	}
	var secret struct {
		Payload string `json:"payload"`
	}
	if _, err := j.get(j.env["SECRETS_MANAGER_URL"]+"/api/v2/secrets/"+j.env["TOKEN_SECRET"], reader.AccessToken, &secret); err != nil {
		return "", fmt.Errorf("reading the token secret: %w", err)
	}
	return secret.Payload, nil
}

// callLogsRouting lists the targets and returns the status line.
func (j job) callLogsRouting(token string) (string, error) {
	var targets any
	status, err := j.get(j.env["LOGS_ROUTING_URL"]+"/v3/targets", token, &targets)
	if err != nil {
		return "", fmt.Errorf("calling Logs Routing: %w", err)
	}
	return status, nil
}

func (j job) get(url, token string, into any) (string, error) {
	request, err := http.NewRequestWithContext(j.ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	return do(request, into)
}

// do sends the request and decodes a 200. It never repeats the body of another
// answer.
func do(request *http.Request, into any) (status string, err error) {
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s", request.URL.Path, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(into); err != nil {
		return "", fmt.Errorf("reading the answer of %s: %w", request.URL.Path, err)
	}
	return response.Status, nil
}

// fingerprint is the first 16 hex digits of the token's SHA-256.
func fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}
