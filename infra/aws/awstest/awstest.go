// Package awstest stands for the parts of AWS that a deployment meets. moto_server, a program of its
// own, keeps everything in memory and enforces no permissions; [Lambda] adds what it lacks: to run a
// function. Only tests and the sandbox command use it.
//
//	moto := awstest.Start(t)                                 // ends with the test
//	env := awstest.Environment(moto.URL())                   // for the aws CLI, an SDK, the function
//	server := httptest.NewServer(&awstest.Lambda{Moto: moto, Program: invoke})
//
// Whoever has no test starts it with [StartMoto].
package awstest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// Start starts moto, which ends with the test. Where it is not installed the test is skipped, and
// fails where CI=true.
func Start(t testing.TB) *Moto {
	t.Helper()
	moto, err := StartMoto()
	if errors.Is(err, ErrNotInstalled) {
		programs.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(moto.Stop)
	return moto
}

// Setenv leads the SDK in this process to endpoint until the test ends, whatever AWS variables the
// process was started with.
func Setenv(t testing.TB, endpoint string) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range Environment(endpoint) {
		t.Setenv(name, value)
	}
}

// MustCall is Call, whose error ends the test.
func (m *Moto) MustCall(t testing.TB, service, operation string, in map[string]any) map[string]any {
	t.Helper()
	out, err := m.Call(t.Context(), service, operation, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// MustDo is Do, whose error ends the test.
func (m *Moto) MustDo(t testing.TB, r Request) (status int, answer []byte) {
	t.Helper()
	status, answer, err := m.Do(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

// ErrNotInstalled is the error of StartMoto where there is no moto_server.
var ErrNotInstalled = errors.New("moto_server is not installed: pip install 'moto[server]'")

// Moto is a running moto_server.
type Moto struct {
	url     *url.URL
	process *exec.Cmd
	ended   chan struct{}
}

// StartMoto starts moto_server on a free loopback port and returns when it listens. Stop ends it.
func StartMoto() (*Moto, error) {
	path, err := exec.LookPath("moto_server")
	if err != nil {
		return nil, ErrNotInstalled
	}
	process := exec.Command(path, "-H", "127.0.0.1", "-p", "0")
	ours := func(variable string) bool { return strings.HasPrefix(variable, "AWS_") }
	process.Env = append(slices.DeleteFunc(os.Environ(), ours), "PYTHONUNBUFFERED=1")
	stderr, err := process.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	if err := process.Start(); err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	m := &Moto{process: process, ended: make(chan struct{})}
	m.url, err = readAddress(stderr)
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	go func() {
		_ = process.Wait()
		close(m.ended)
	}()
	if err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

var listening = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// readAddress reads where moto listens from what it prints. When it ends instead, its last words are
// the reason.
func readAddress(printed io.Reader) (*url.URL, error) {
	var last string
	for lines := bufio.NewScanner(printed); lines.Scan(); last = lines.Text() {
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			return url.Parse(found[1])
		}
	}
	return nil, fmt.Errorf("moto_server did not start: %s", last)
}

// URL is the origin of all of its services.
func (m *Moto) URL() string { return m.url.String() }

// ServeHTTP passes a request on, for whoever stands in front of moto.
func (m *Moto) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	httputil.NewSingleHostReverseProxy(m.url).ServeHTTP(w, r)
}

// Ended is closed when moto_server has ended, by itself or by Stop.
func (m *Moto) Ended() <-chan struct{} { return m.ended }

// Stop ends moto_server, and what it holds is gone.
func (m *Moto) Stop() {
	_ = m.process.Process.Kill()
	<-m.ended
}

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

// Region is the one that Environment names.
const Region = "eu-central-1"

// Environment returns the variables that lead the aws CLI, an SDK or the function to endpoint, with
// credentials of no worth, and keep them from the accounts that this machine knows. Version 1 of the
// CLI looks for the region in AWS_DEFAULT_REGION alone, which is left to the caller.
func Environment(endpoint string) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL":            endpoint,
		"AWS_ACCESS_KEY_ID":           "test",
		"AWS_SECRET_ACCESS_KEY":       "test",
		"AWS_REGION":                  Region,
		"AWS_CONFIG_FILE":             "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_EC2_METADATA_DISABLED":   "true",
	}
}

// passOn leaves a request to Moto. The deletion of a stack it completes.
func (l *Lambda) passOn(w http.ResponseWriter, r *http.Request) {
	form, err := readForm(r)
	if err == nil && form.Get("Action") != "DeleteStack" {
		l.Moto.ServeHTTP(w, r)
		return
	}
	var status int
	var answer []byte
	if err == nil {
		status, answer, err = l.Moto.deleteStack(r.Context(), form)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(answer)
}

// readForm returns the form that a request sends, nil if it sends none. The request can still be
// passed on.
func readForm(r *http.Request) (url.Values, error) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		return nil, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the request: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body)) // what moto says of a bad one is good enough
	return form, nil
}

// deleteStack has moto delete a stack, and then deletes what CloudFormation would have deleted too: moto
// forgets a log group once an update has touched it, and could not make the stack again while it is there.
func (m *Moto) deleteStack(ctx context.Context, form url.Values) (status int, answer []byte, err error) {
	functions, err := m.functions(ctx, form.Get("StackName"))
	if err != nil {
		return 0, nil, err
	}
	status, answer, err = m.Do(ctx, Request{Service: "cloudformation", Body: form.Encode()})
	if err != nil || status != http.StatusOK {
		return status, answer, err
	}
	for _, function := range functions {
		left := Request{Service: "logs", Target: "Logs_20140328.DeleteLogGroup", Body: fmt.Sprintf(`{"logGroupName":%q}`, logGroup(function))}
		status, complaint, err := m.Do(ctx, left)
		if err == nil && status != http.StatusOK && !strings.Contains(string(complaint), "ResourceNotFoundException") {
			err = fmt.Errorf("%d %s", status, complaint)
		}
		if err != nil {
			return 0, nil, fmt.Errorf("deleting the log of %s: %w", function, err)
		}
	}
	return status, answer, nil
}

// functions are the names of a stack's functions, none if there is no such stack.
func (m *Moto) functions(ctx context.Context, stack string) ([]string, error) {
	form := url.Values{"Action": {"DescribeStackResources"}, "Version": {"2010-05-15"}, "StackName": {stack}}
	status, answer, err := m.Do(ctx, Request{Service: "cloudformation", Body: form.Encode()})
	if err != nil || status != http.StatusOK {
		return nil, err
	}
	var described struct {
		Resources []struct {
			Type string `xml:"ResourceType"`
			Name string `xml:"PhysicalResourceId"`
		} `xml:"DescribeStackResourcesResult>StackResources>member"`
	}
	if err := xml.Unmarshal(answer, &described); err != nil {
		return nil, fmt.Errorf("reading the resources of %s: %w", stack, err)
	}
	var names []string
	for _, resource := range described.Resources {
		if resource.Type == "AWS::Lambda::Function" {
			names = append(names, resource.Name)
		}
	}
	return names, nil
}

// logGroup is where Lambda writes a function's log.
func logGroup(function string) string { return "/aws/lambda/" + function }
