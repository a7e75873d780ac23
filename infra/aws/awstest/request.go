package awstest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Request is a request to one of AWS's services.
type Request struct {
	Service string // as a signature's scope names it: secretsmanager, s3, …
	Method  string // POST if empty
	Path    string // with the query; / if empty
	Target  string // the operation, in AWS's JSON protocols
	Body    string // form values, in AWS's query protocol
}

// Do sends a request and returns whatever is answered. moto tells services apart by the scope of the
// signature, and does not check it.
func (m *Moto) Do(ctx context.Context, r Request) (status int, answer []byte, err error) {
	if r.Method == "" {
		r.Method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, m.URL()+r.Path, strings.NewReader(r.Body))
	if err != nil {
		return 0, nil, fmt.Errorf("constructing a request to %s: %w", r.Service, err)
	}
	scope := Region + "/" + r.Service
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/"+scope+"/aws4_request, SignedHeaders=host, Signature=x")
	if strings.HasPrefix(r.Body, "Action=") {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	}
	if r.Target != "" {
		request.Header.Set("X-Amz-Target", r.Target)
		request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("asking %s: %w", r.Service, err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err = io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer of %s: %w", r.Service, err)
	}
	return response.StatusCode, answer, nil
}

// Call calls an operation of AWS's JSON protocols, such as secretsmanager.CreateSecret of the service
// secretsmanager, and returns the answer. Anything but a 200 is an error.
func (m *Moto) Call(ctx context.Context, service, operation string, in map[string]any) (map[string]any, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", operation, err)
	}
	status, answer, err := m.Do(ctx, Request{Service: service, Target: operation, Body: string(body)})
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %s", operation, status, answer)
	}
	out := map[string]any{}
	if len(answer) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return nil, fmt.Errorf("decoding the answer to %s: %w", operation, err)
	}
	return out, nil
}

// MakeBucket makes an S3 bucket in Region.
func (m *Moto) MakeBucket(ctx context.Context, name string) error {
	const there = `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">` +
		`<LocationConstraint>` + Region + `</LocationConstraint></CreateBucketConfiguration>`
	status, answer, err := m.Do(ctx, Request{Service: "s3", Method: http.MethodPut, Path: "/" + name, Body: there})
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%d %s", status, answer)
	}
	if err != nil {
		return fmt.Errorf("making the bucket %s: %w", name, err)
	}
	return nil
}
