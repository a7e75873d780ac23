package awstest

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Lambda is an http.Handler that emulates all of AWS. It serves Invoke itself and passes all other requests on to Moto,
// except /_sandbox/clock, which is that of [versions]. For Invoke it runs the zip of the alias or version as AWS Lambda
// would: with the environment that Moto reports, with credentials of the function's role, and with its output in Moto's log.
//
// The deployed function runs as this process's user, with all permissions of that user; it is not isolated. So serve it
// only on loopback.
type Lambda struct {
	Moto    *Moto
	Program string            // the built scripts/invoke
	Timeout time.Duration     // of an invocation; if zero, the function's own
	Secrets string            // the endpoint of AWS Secrets Manager and SSM for functions; if empty, Moto
	Set     map[string]string // variables that override the function's own
	Host    string            // a further Host to accept, see ibmcloudtest.IsLocal

	mu      sync.Mutex
	printed strings.Builder
}

// Function is AWS Lambda's description of a function.
type Function struct {
	Configuration struct {
		FunctionName, Handler, CodeSha256, Role string
		Version                                 string
		Timeout, MemorySize                     int // seconds, MB
		Environment                             struct{ Variables map[string]string }
	}
	Code struct{ Location string }
}

// FunctionPath is the path of a function's description.
func FunctionPath(name string) string { return "/2015-03-31/functions/" + name }

// functionOf splits an ARN of a function, or NAME:QUALIFIER.
func functionOf(name string) (function, qualifier string) {
	if _, rest, isARN := strings.Cut(name, ":function:"); isARN {
		name = rest
	}
	function, qualifier, _ = strings.Cut(name, ":")
	return function, qualifier
}

var invocationPath = regexp.MustCompile("^" + FunctionPath("([^/]+)") + "/invocations$")

func (l *Lambda) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	service, err := l.Moto.admit(r, l.Host)
	if err == nil {
		asked, _ := signatureOf(r) // without a region for AssumeRoleWithWebIdentity
		err = l.serve(w, r.WithContext(context.WithValue(r.Context(), regionKey{}, asked.region)), service)
	}
	if err != nil {
		reject(w, r, err)
	}
}

// stackChanges are the actions of CloudFormation that deploy a function. This Lambda runs it from then on.
var stackChanges = []string{"CreateStack", "UpdateStack", "ExecuteChangeSet"}

// serve answers an admitted request, unless it returns an error.
func (l *Lambda) serve(w http.ResponseWriter, r *http.Request, service string) error {
	if found := invocationPath.FindStringSubmatch(r.URL.Path); found != nil {
		name, qualifier := functionOf(found[1])
		return l.serveInvocation(w, r, name, cmp.Or(r.URL.Query().Get("Qualifier"), qualifier))
	}
	if r.URL.Path == "/_sandbox/clock" {
		l.Moto.serveClock(w, r)
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if form, _ := url.ParseQuery(string(body)); isForm(r) && slices.Contains(stackChanges, form.Get("Action")) {
		l.Moto.lambdas.Store(regionOf(r.Context())+":"+form.Get("StackName"), l)
	}
	l.Moto.forward(w, r, service)
	return nil
}

func (l *Lambda) serveInvocation(w http.ResponseWriter, r *http.Request, name, qualifier string) error {
	described := Request{Service: "lambda", Method: http.MethodGet, Path: FunctionPath(name)}
	if qualifier != "" {
		described.Path += "?Qualifier=" + url.QueryEscape(qualifier)
	}
	var function Function
	if found, err := l.Moto.read(r.Context(), described, &function); err != nil {
		return err
	} else if !found {
		return &rejection{"ResourceNotFoundException", "Function not found: " + name}
	}
	event, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading the event: %w", err)
	}
	answer, failed, err := l.invoke(r.Context(), function, event)
	if err != nil {
		return err
	}
	w.Header().Set("X-Amz-Executed-Version", function.Configuration.Version)
	if failed {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
	}
	_, _ = w.Write(answer) // #nosec G705 -- JSON of the function that was deployed here
	return nil
}

// invoke runs the function once and logs its output. failed says that the function failed; an error is one of the emulation.
func (l *Lambda) invoke(ctx context.Context, f Function, event []byte) (answer []byte, failed bool, err error) {
	answer, output, failed, err := l.run(ctx, f, event)
	if err != nil {
		return nil, false, err
	}
	if failed {
		output = append(output, logLineOf(answer)...)
	}
	l.mu.Lock()
	l.printed.Write(output)
	l.mu.Unlock()
	return answer, failed, l.Moto.log(ctx, f, string(output))
}

// run runs the function with scripts/invoke, in the folder of its unpacked zip.
func (l *Lambda) run(ctx context.Context, f Function, event []byte) (answer, output []byte, failed bool, err error) {
	folder, err := l.Moto.unpack(ctx, f)
	if err != nil {
		return nil, nil, false, err
	}
	role, err := l.Moto.assume(ctx, f.Configuration.Role, f.Configuration.FunctionName)
	if err != nil {
		return nil, nil, false, err
	}
	timeout := cmp.Or(l.Timeout, time.Duration(f.Configuration.Timeout)*time.Second)
	command := exec.CommandContext(ctx, l.Program, "-event", "-", "-timeout", timeout.String(), "--", "./"+f.Configuration.Handler)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // it ends the function, too
	secrets := cmp.Or(l.Secrets, l.Moto.URL())
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "AWS_LAMBDA_FUNCTION_NAME=" + f.Configuration.FunctionName, "AWS_REGION=" + regionOf(ctx),
		"AWS_ACCESS_KEY_ID=" + role.KeyID, "AWS_SECRET_ACCESS_KEY=" + role.Secret, "AWS_SESSION_TOKEN=" + role.Token,
		"AWS_ENDPOINT_URL_SECRETS_MANAGER=" + secrets, "AWS_ENDPOINT_URL_SSM=" + secrets, "AWS_ENDPOINT_URL_EVENTBRIDGE=" + l.Moto.URL()}
	variables := maps.Clone(f.Configuration.Environment.Variables)
	maps.Copy(variables, l.Set)
	for name, value := range variables {
		command.Env = append(command.Env, name+"="+value)
	}
	var stdout, stderr bytes.Buffer
	command.Dir, command.Stdin, command.Stdout, command.Stderr = folder, bytes.NewReader(event), &stdout, &stderr
	err = command.Run()
	if strings.Contains(stderr.String(), "invoke: cannot start COMMAND") { // the zip is wrong: the same error as Lambda's
		const format = `{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: %s Error: fork/exec /var/task/%s: exec format error"}`
		return fmt.Appendf(nil, format, rand.Text(), f.Configuration.Handler), nil, true, nil
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) { // 1 says that the invocation failed
		return nil, nil, false, fmt.Errorf("running the function: %w: %s", err, stderr.Bytes())
	}
	return stdout.Bytes(), stderr.Bytes(), err != nil, nil
}

// unpack returns the folder with the files of the deployed zip, which it unpacks the first time. All invocations share it,
// like /var/task of Lambda.
func (m *Moto) unpack(ctx context.Context, f Function) (folder string, err error) {
	m.unpacking.Lock()
	defer m.unpacking.Unlock()
	folder = filepath.Join(filepath.Dir(m.socket), url.PathEscape(f.Configuration.CodeSha256))
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	packed, err := m.code(ctx, f)
	if err != nil {
		return "", err
	}
	part := folder + ".part"
	archive, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err == nil {
		err = errors.Join(os.RemoveAll(part), os.CopyFS(part, archive))
	}
	if err == nil { // CopyFS keeps only some of the mode
		var root *os.Root
		if root, err = os.OpenRoot(part); err == nil {
			err = errors.Join(root.Chmod(f.Configuration.Handler, 0o700), root.Close())
		}
	}
	if err == nil {
		err = os.Rename(part, folder)
	}
	if err != nil {
		return "", fmt.Errorf("unpacking the zip of %s: %w", f.Configuration.FunctionName, err)
	}
	return folder, nil
}

// code returns the deployed zip. Moto does not report its bucket, and its key only for the latest version. So code looks in
// every bucket, in the folder of the latest version's zip, for the zip with the hash that Lambda reports.
func (m *Moto) code(ctx context.Context, f Function) ([]byte, error) {
	location, err := url.Parse(f.Code.Location)
	if err != nil {
		return nil, fmt.Errorf("reading where the zip of %s is: %w", f.Configuration.FunctionName, err)
	}
	list := func(path, tag string) (keys []string, err error) {
		_, listed, err := m.Do(ctx, Request{Service: "s3", Method: http.MethodGet, Path: path})
		for _, found := range regexp.MustCompile("<"+tag+">([^<]+)</"+tag+">").FindAllSubmatch(listed, -1) {
			keys = append(keys, string(found[1]))
		}
		return keys, err
	}
	buckets, err := list("/", "Name")
	if err != nil {
		return nil, err
	}
	for _, bucket := range buckets {
		keys, err := list("/"+bucket+"?list-type=2&prefix="+url.QueryEscape(strings.TrimPrefix(path.Dir(location.Path), "/")), "Key")
		if err != nil {
			return nil, err
		}
		for _, key := range keys {
			_, packed, err := m.Do(ctx, Request{Service: "s3", Method: http.MethodGet, Path: "/" + bucket + "/" + key})
			if err != nil {
				return nil, err
			}
			if sum := sha256.Sum256(packed); base64.StdEncoding.EncodeToString(sum[:]) == f.Configuration.CodeSha256 {
				return packed, nil
			}
		}
	}
	return nil, fmt.Errorf("no bucket has, beside %s, the zip with the hash %s of the function", location.Path, f.Configuration.CodeSha256)
}

// logLineOf is the line that Lambda itself logs if the function exited or timed out without an answer; else "".
func logLineOf(answer []byte) string {
	var failure struct{ ErrorType, ErrorMessage string }
	ofLambda := []string{"Sandbox.Timedout", "Runtime.ExitError", "Runtime.InvalidEntrypoint"}
	if json.Unmarshal(answer, &failure) == nil && slices.Contains(ofLambda, failure.ErrorType) {
		return failure.ErrorMessage + "\n"
	}
	return ""
}

// Printed returns everything that functions have printed so far.
func (l *Lambda) Printed() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.printed.String()
}

// log writes lines to the function's log group, in a new stream with a name in Lambda's form.
func (m *Moto) log(ctx context.Context, f Function, lines string) error {
	now := time.Now()
	name := now.UTC().Format("2006/01/02/") + f.Configuration.FunctionName + "[" + f.Configuration.Version + "]" + now.UTC().Format("150405.000000000")
	stream := map[string]any{"logGroupName": logGroup(f.Configuration.FunctionName), "logStreamName": name}
	if _, err := m.Call(ctx, "logs", "Logs_20140328.CreateLogStream", stream); err != nil {
		return err
	}
	var events []any
	for line := range strings.Lines(lines) {
		events = append(events, map[string]any{"timestamp": now.UnixMilli(), "message": line})
	}
	stream["logEvents"] = events
	_, err := m.Call(ctx, "logs", "Logs_20140328.PutLogEvents", stream)
	return err
}

// logGroup is the log group of a function.
func logGroup(function string) string { return "/aws/lambda/" + function }
