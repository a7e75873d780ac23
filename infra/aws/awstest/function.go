package awstest

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
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
