// Package awstest emulates the parts of AWS that a deployment uses. moto_server, another program, has the services; it
// keeps everything in memory and checks nothing. [Lambda] adds what moto lacks: it runs functions. Only tests and the
// command awssandbox use this package.
//
//	moto := awstest.Start(t)                                 // ends with the test
//	env := awstest.Environment(moto.URL())                   // for the aws CLI, an SDK, the function
//	server := httptest.NewServer(&awstest.Lambda{Moto: moto, Program: invoke})
//
// Outside a test, [StartMoto] starts moto. Both servers answer 403 to a request that is not signed with the credentials
// of [Environment], or with credentials that their STS issued.
package awstest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/scripts/programs"
)

// Start starts moto, which ends with the test. If it is not installed, the test is skipped, or fails if CI=true.
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

// Setenv makes the SDK in this process use endpoint until the test ends, whatever AWS variables the process had.
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

// MustCall is Call, but an error fails the test.
func (m *Moto) MustCall(t testing.TB, service, operation string, in map[string]any) map[string]any {
	t.Helper()
	out, err := m.Call(t.Context(), service, operation, in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// MustDo is Do, but an error fails the test.
func (m *Moto) MustDo(t testing.TB, r Request) (status int, answer []byte) {
	t.Helper()
	status, answer, err := m.Do(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

// ErrNotInstalled is the error of StartMoto if there is no moto_server.
var ErrNotInstalled = errors.New("moto_server is not installed: pip install 'moto[server]'")

// Moto is a running moto_server. It listens on a Unix socket in a folder that only this user may enter. On a loopback
// port, an HTTP server passes on to it what the gate admits. statemachines.py and functions.py change moto where it
// differs from AWS.
type Moto struct {
	gate
	versions
	process *exec.Cmd
	socket  string
	client  *http.Client // connects to the socket, whatever the host of the URL
	ended   chan struct{}

	unpacking sync.Mutex

	front   *httptest.Server // the server on the loopback port
	lambdas sync.Map         // the *Lambda that runs the function of a stack, by REGION:STACK
}

//go:embed statemachines.py
var stateMachines string

//go:embed functions.py
var functions string

// StartMoto starts moto_server and returns when it listens. Stop ends it.
func StartMoto() (*Moto, error) {
	path, err := exec.LookPath("moto_server")
	if err != nil {
		return nil, ErrNotInstalled
	}
	folder, err := os.MkdirTemp("", "moto-") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	m := &Moto{socket: filepath.Join(folder, "socket"), ended: make(chan struct{})}
	m.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", m.socket)
	}}}
	m.process = exec.Command(path, "-H", "unix://"+m.socket, "-p", "0")
	foreign := func(variable string) bool {
		return strings.HasPrefix(variable, "AWS_") || strings.HasPrefix(variable, "MOTO_")
	}
	m.front = httptest.NewServer(m)
	m.process.Env = append(slices.DeleteFunc(os.Environ(), foreign), "PYTHONUNBUFFERED=1", "MOTO_DISABLE_GLOBAL_CORS=true", "PYTHONPATH="+folder,
		"AWSTEST_URL="+m.front.URL, "AWSTEST_KEY_ID="+own().KeyID, "AWSTEST_SECRET="+own().Secret)
	stderr, err := m.process.StderrPipe()
	if err == nil { // Python loads sitecustomize.py before all else
		err = os.WriteFile(filepath.Join(folder, "sitecustomize.py"), []byte(stateMachines+functions), 0o600)
	}
	if err == nil {
		err = m.process.Start()
	}
	if err != nil {
		m.front.Close()
		return nil, errors.Join(fmt.Errorf("starting moto_server: %w", err), os.RemoveAll(folder))
	}
	err = listening(stderr)
	go func() {
		_, _ = io.Copy(io.Discard, stderr)
		_ = m.process.Wait()
		_ = os.RemoveAll(folder)
		close(m.ended)
	}()
	if err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

// listening waits until moto prints that it listens. If it ends instead, the error has the last line that it printed.
func listening(printed io.Reader) error {
	last := "it ended and printed nothing: run moto_server yourself to see why"
	for lines := bufio.NewScanner(printed); lines.Scan(); last = lines.Text() {
		if strings.Contains(lines.Text(), "Running on ") {
			return nil
		}
	}
	return fmt.Errorf("moto_server did not start: %s", last)
}

// URL is the origin of all services, on a loopback port.
func (m *Moto) URL() string { return m.front.URL }

// ServeHTTP serves what the gate admits. When a state machine invokes a function, the Lambda that deployed it runs it.
func (m *Moto) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	service, err := m.admit(r)
	if found := invocationPath.FindStringSubmatch(r.URL.Path); err == nil && found != nil {
		asked, _ := signatureOf(r)
		r = r.WithContext(context.WithValue(r.Context(), regionKey{}, asked.region))
		name, qualifier := functionOf(found[1])
		if l, ok := m.lambdas.Load(asked.region + ":" + name); ok {
			if err = l.(*Lambda).serveInvocation(w, r, name, qualifier); err == nil {
				return
			}
		}
	}
	if err != nil {
		reject(w, r, err)
		return
	}
	m.forward(w, r, service)
}

// forward passes an admitted request on to moto. It stores the credentials that STS issues, and removes CORS headers
// from answers.
func (m *Moto) forward(w http.ResponseWriter, r *http.Request, service string) {
	if err := m.mayStore(r); err != nil {
		reject(w, r, err)
		return
	}
	proxy := httputil.ReverseProxy{Transport: m.client.Transport}
	proxy.Rewrite = func(pr *httputil.ProxyRequest) { pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "moto" }
	proxy.ModifyResponse = func(response *http.Response) error {
		for name := range response.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				response.Header.Del(name)
			}
		}
		if service != "sts" {
			return nil
		}
		answer, err := io.ReadAll(response.Body)
		response.Body = io.NopCloser(bytes.NewReader(answer))
		m.learn(answer)
		return err
	}
	proxy.ServeHTTP(w, r)
}

// Ended is closed when moto_server has ended, by itself or by Stop.
func (m *Moto) Ended() <-chan struct{} { return m.ended }

// Stop ends moto_server, with everything that is in it.
func (m *Moto) Stop() {
	_ = m.process.Process.Kill()
	<-m.ended
	m.front.Close()
}

// Request is a request to one of AWS's services.
type Request struct {
	Service string // as in the scope of a signature: secretsmanager, s3, …
	Region  string // if empty, the region of the request that is being served, or else Region
	Method  string // POST if empty
	Path    string // with the query; / if empty
	Target  string // the operation, in AWS's JSON protocols
	Body    string // form values, in AWS's query protocol
}

// Do sends a request to moto without the gate and returns the answer, whatever its status. moto reads the service from
// the scope of the signature, and does not check the signature.
func (m *Moto) Do(ctx context.Context, r Request) (status int, answer []byte, err error) {
	if r.Method == "" {
		r.Method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, "http://127.0.0.1"+r.Path, strings.NewReader(r.Body))
	if err != nil {
		return 0, nil, fmt.Errorf("constructing a request to %s: %w", r.Service, err)
	}
	scope := cmp.Or(r.Region, regionOf(ctx)) + "/" + r.Service
	request.Header.Set("Authorization", algorithm+" Credential="+own().KeyID+"/20260101/"+scope+"/aws4_request, SignedHeaders=host, Signature=x")
	if strings.HasPrefix(r.Body, "Action=") {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	}
	if r.Target != "" {
		request.Header.Set("X-Amz-Target", r.Target)
		request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	}
	response, err := m.client.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("calling %s: %w", r.Service, err)
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
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &out); err != nil {
			return nil, fmt.Errorf("decoding the answer to %s: %w", operation, err)
		}
	}
	return out, nil
}

// query builds a request of AWS's query protocol. parameters are names and values in turn.
func query(service, action string, parameters ...string) Request {
	version := map[string]string{"cloudformation": "2010-05-15", "iam": "2010-05-08", "sts": "2011-06-15"}[service]
	form := url.Values{"Action": {action}, "Version": {version}}
	for i := 0; i+1 < len(parameters); i += 2 {
		form.Set(parameters[i], parameters[i+1])
	}
	return Request{Service: service, Body: form.Encode()}
}

// read sends a request and decodes the answer, JSON or XML. If the status is not 200, found is false.
func (m *Moto) read(ctx context.Context, r Request, into any) (found bool, err error) {
	status, answer, err := m.Do(ctx, r)
	if err != nil || status != http.StatusOK {
		return false, err
	}
	decode := json.Unmarshal
	if bytes.HasPrefix(answer, []byte("<")) {
		decode = xml.Unmarshal
	}
	if err := decode(answer, into); err != nil {
		return false, fmt.Errorf("decoding the answer of %s: %w", r.Service, err)
	}
	return true, nil
}

// assume returns temporary credentials of a role.
func (m *Moto) assume(ctx context.Context, role, session string) (credentials, error) {
	status, answer, err := m.Do(ctx, query("sts", "AssumeRole", "RoleArn", role, "RoleSessionName", session))
	if err != nil {
		return credentials{}, err
	}
	issued := m.learn(answer)
	if issued.KeyID == "" {
		return credentials{}, fmt.Errorf("assuming the role %s: %d %s", role, status, answer)
	}
	return issued, nil
}

type regionKey struct{}

// regionOf is the region of the request that is being served under ctx, or else Region.
func regionOf(ctx context.Context) string {
	served, _ := ctx.Value(regionKey{}).(string)
	return cmp.Or(served, Region)
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

// Environment returns the variables that make the aws CLI, an SDK or the function use endpoint, and not an account that
// is configured on this machine. The credentials are random for each process and valid nowhere else. The caller must add
// AWS_DEFAULT_REGION for version 1 of the CLI.
func Environment(endpoint string) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL":            endpoint,
		"AWS_ENDPOINT_URL_STS":        endpoint, // the SDK for Go needs it for the credentials of a web identity
		"AWS_ACCESS_KEY_ID":           own().KeyID,
		"AWS_SECRET_ACCESS_KEY":       own().Secret,
		"AWS_REGION":                  Region,
		"AWS_CONFIG_FILE":             "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_EC2_METADATA_DISABLED":   "true",
	}
}

// versions applies AWS's quota to moto's secrets, because moto has none: a secret has at most 100 versions, and AWS
// removes none that is younger than a day to make room for a new one.
//
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html
type versions struct {
	mu    sync.Mutex
	ahead time.Duration                   // how far the clock is ahead of this machine's
	made  map[string]map[string]time.Time // when versions were created, by the secret's ARN and the version's id
}

const (
	maxVersions = 100
	keptFor     = 24 * time.Hour
)

var (
	errDeleted = &rejection{"InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion."}
	errFull    = &rejection{"LimitExceededException", "You've reached the maximum number of versions of this secret."}
)

// Advance moves the clock forward that determines the age of versions.
func (v *versions) Advance(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ahead += d
}

// serveClock shows the clock, and with POST {"advance":"24h"} moves it forward, as the sandbox of IBM Cloud does.
func (v *versions) serveClock(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		var asked struct{ Advance string }
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&asked)
		by, notDuration := time.ParseDuration(asked.Advance)
		if err != nil || notDuration != nil || by <= 0 || by > 1000*time.Hour {
			http.Error(w, `send {"advance":"24h"}: a Go duration above 0, 1000h at most`, http.StatusBadRequest)
			return
		}
		v.Advance(by)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"now": time.Now().Add(v.ahead).UTC().Format(time.RFC3339), "ahead_seconds": int64(v.ahead.Seconds())})
}

// count records a new version of a secret, or returns errFull. A known id is no new version. current are the versions with
// staging labels, by id.
func (v *versions) count(arn, id string, current map[string][]string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now().Add(v.ahead)
	if v.made == nil {
		v.made = map[string]map[string]time.Time{}
	}
	if v.made[arn] == nil { // the version with which the secret was created
		v.made[arn] = map[string]time.Time{}
		for id := range current {
			v.made[arn][id] = now
		}
	}
	made := v.made[arn]
	maps.DeleteFunc(made, func(id string, at time.Time) bool { return current[id] == nil && now.Sub(at) >= keptFor })
	if _, known := made[id]; known {
		return nil
	}
	young := 0
	for _, at := range made {
		if now.Sub(at) < keptFor {
			young++
		}
	}
	if young >= maxVersions {
		return errFull
	}
	made[id] = now
	return nil
}

// mayStore returns an error if a request to Secrets Manager writes to a secret that is scheduled for deletion, or exceeds
// the quota, which moto would allow. What moto itself rejects, such as a write to a replica, it does not check.
func (m *Moto) mayStore(r *http.Request) error {
	switch r.Header.Get("X-Amz-Target") {
	case "secretsmanager.PutSecretValue", "secretsmanager.UpdateSecret":
	default:
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var asked struct {
		SecretID           string `json:"SecretId"`
		ClientRequestToken string
		SecretString       *string
		SecretBinary       []byte
	}
	if json.Unmarshal(body, &asked) != nil {
		return nil
	}
	s, _ := signatureOf(r)
	question, err := json.Marshal(map[string]string{"SecretId": asked.SecretID})
	if err != nil {
		return err
	}
	var secret struct {
		ARN, PrimaryRegion string
		DeletedDate        float64
		VersionIdsToStages map[string][]string
	}
	described := Request{Service: "secretsmanager", Region: s.region, Target: "secretsmanager.DescribeSecret", Body: string(question)}
	switch found, err := m.read(r.Context(), described, &secret); {
	case err != nil || !found:
		return err
	case secret.DeletedDate != 0:
		return errDeleted
	case secret.PrimaryRegion != "" && secret.PrimaryRegion != s.region, asked.SecretString == nil && asked.SecretBinary == nil:
		return nil
	}
	return m.count(secret.ARN, asked.ClientRequestToken, secret.VersionIdsToStages)
}
