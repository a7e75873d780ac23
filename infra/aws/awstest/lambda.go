package awstest

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// run runs the function's zip by scripts/invoke, in a folder of its own.
func (l *Lambda) run(ctx context.Context, f Function, event []byte) (answer, output []byte, failed bool, err error) {
	folder, err := os.MkdirTemp("", "lambda-")
	if err != nil {
		return nil, nil, false, fmt.Errorf("making a folder for the zip: %w", err)
	}
	defer func() { _ = os.RemoveAll(folder) }()
	if err := l.Moto.unpack(ctx, f, folder); err != nil {
		return nil, nil, false, err
	}
	timeout := cmp.Or(l.Timeout, time.Duration(f.Configuration.Timeout)*time.Second)
	command := exec.CommandContext(ctx, l.Program, "-event", "-", "-timeout", timeout.String(), "--", "./"+f.Configuration.Handler)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) } // it ends the function, too
	command.Dir, command.Env, command.Stdin = folder, l.environment(f), bytes.NewReader(event)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err = command.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) { // 1 says that the invocation failed
		return nil, nil, false, fmt.Errorf("running the function: %w: %s", err, stderr.Bytes())
	}
	return stdout.Bytes(), stderr.Bytes(), err != nil, nil
}

// environment is what the function gets: what Lambda gives to all, and its own variables.
func (l *Lambda) environment(f Function) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "AWS_LAMBDA_FUNCTION_NAME=" + f.Configuration.FunctionName, "AWS_REGION=" + Region,
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_ENDPOINT_URL_SECRETS_MANAGER=" + cmp.Or(l.Secrets, l.Moto.URL())}
	for name, value := range f.Configuration.Environment.Variables {
		env = append(env, name+"="+value)
	}
	return env
}

// unpack puts the deployed zip into a folder.
func (m *Moto) unpack(ctx context.Context, f Function, folder string) error {
	packed, err := m.code(ctx, f)
	if err != nil {
		return err
	}
	archive, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		return fmt.Errorf("opening the zip of %s: %w", f.Configuration.FunctionName, err)
	}
	if err := os.CopyFS(folder, archive); err != nil {
		return fmt.Errorf("unpacking the zip of %s: %w", f.Configuration.FunctionName, err)
	}
	for _, file := range archive.File { // CopyFS keeps only some of the mode
		if err := os.Chmod(filepath.Join(folder, file.Name), file.Mode()); err != nil {
			return fmt.Errorf("unpacking the zip of %s: %w", f.Configuration.FunctionName, err)
		}
	}
	return nil
}

// code returns the deployed zip. Moto tells its key but not its bucket: it is the one with the hash
// that Lambda reports.
func (m *Moto) code(ctx context.Context, f Function) ([]byte, error) {
	location, err := url.Parse(f.Code.Location)
	if err != nil {
		return nil, fmt.Errorf("reading where the zip of %s is: %w", f.Configuration.FunctionName, err)
	}
	_, listed, err := m.Do(ctx, Request{Service: "s3", Method: http.MethodGet, Path: "/"})
	if err != nil {
		return nil, err
	}
	var buckets struct {
		Names []string `xml:"Buckets>Bucket>Name"`
	}
	if err := xml.Unmarshal(listed, &buckets); err != nil {
		return nil, fmt.Errorf("reading the list of buckets: %w", err)
	}
	for _, bucket := range buckets.Names {
		_, packed, err := m.Do(ctx, Request{Service: "s3", Method: http.MethodGet, Path: "/" + bucket + location.Path})
		if err != nil {
			return nil, err
		}
		if sum := sha256.Sum256(packed); base64.StdEncoding.EncodeToString(sum[:]) == f.Configuration.CodeSha256 {
			return packed, nil
		}
	}
	return nil, fmt.Errorf("no bucket has, at %s, the zip with the hash %s of the function", location.Path, f.Configuration.CodeSha256)
}

// Lambda is an http.Handler that stands for AWS Lambda, and for everything else: it passes all
// requests on to Moto but two. Invoke it answers by running the deployed zip as Lambda would, with the
// environment that Moto reports, and writing its output to Moto's log. DeleteStack it completes, where
// Moto leaves a log behind. Whoever reaches it can run programs here: serve it on loopback alone.
type Lambda struct {
	Moto    *Moto
	Program string        // the built scripts/invoke
	Timeout time.Duration // of an invocation; if zero, the function's own
	Secrets string        // where functions find AWS Secrets Manager; if empty, Moto

	mu      sync.Mutex
	printed strings.Builder
}

// Function is what AWS Lambda tells of a function.
type Function struct {
	Configuration struct {
		FunctionName, Handler, CodeSha256 string
		Timeout, MemorySize               int // seconds, MB
		Environment                       struct{ Variables map[string]string }
	}
	Code struct{ Location string }
}

// FunctionPath is where AWS Lambda describes a function.
func FunctionPath(name string) string { return "/2015-03-31/functions/" + name }

var invocationPath = regexp.MustCompile("^" + FunctionPath("([^/]+)") + "/invocations$")

func (l *Lambda) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found := invocationPath.FindStringSubmatch(r.URL.Path)
	if found == nil {
		l.passOn(w, r)
		return
	}
	status, description, err := l.Moto.Do(r.Context(), Request{Service: "lambda", Method: http.MethodGet, Path: FunctionPath(found[1])})
	if err != nil {
		refuse(w, err)
		return
	}
	if status != http.StatusOK {
		w.Header().Set("X-Amzn-Errortype", "ResourceNotFoundException")
		w.WriteHeader(status)
		_, _ = w.Write(description)
		return
	}
	event, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, fmt.Errorf("reading the event: %w", err))
		return
	}
	answer, failed, err := l.invoke(r.Context(), description, event)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("X-Amz-Executed-Version", "$LATEST")
	if failed {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
	}
	_, _ = w.Write(answer)
}

// refuse answers as AWS Lambda does when it has trouble of its own.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("X-Amzn-Errortype", "ServiceException")
	w.WriteHeader(http.StatusInternalServerError)
	_ = json.NewEncoder(w).Encode(map[string]string{"Type": "Service", "Message": err.Error()})
}

// invoke runs the function once. The error is this stand-in's own, never the function's.
func (l *Lambda) invoke(ctx context.Context, description, event []byte) (answer []byte, failed bool, err error) {
	var function Function
	if err := json.Unmarshal(description, &function); err != nil {
		return nil, false, fmt.Errorf("reading the function's description: %w", err)
	}
	answer, output, failed, err := l.run(ctx, function, event)
	if err != nil {
		return nil, false, err
	}
	if failed {
		output = append(output, ownWords(answer)...)
	}
	l.mu.Lock()
	l.printed.Write(output)
	l.mu.Unlock()
	return answer, failed, l.Moto.log(ctx, logGroup(function.Configuration.FunctionName), string(output))
}

// ownWords is the line that Lambda itself logs when the function did not come to an answer.
func ownWords(answer []byte) string {
	var failure struct{ ErrorType, ErrorMessage string }
	if json.Unmarshal(answer, &failure) == nil && (failure.ErrorType == "Sandbox.Timedout" || failure.ErrorType == "Runtime.ExitError") {
		return failure.ErrorMessage + "\n"
	}
	return ""
}

// Printed is everything that functions have printed so far.
func (l *Lambda) Printed() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.printed.String()
}

// log writes lines to a log group, as a stream of their own.
func (m *Moto) log(ctx context.Context, group, lines string) error {
	now := time.Now()
	stream := map[string]any{"logGroupName": group, "logStreamName": now.UTC().Format("2006/01/02/15/04/05.000000000")}
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
