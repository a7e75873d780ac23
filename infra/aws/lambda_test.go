package aws_test

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// lambdaServer stands for AWS Lambda: it passes everything on to moto but Invoke,
// which it answers by running the deployed zip as Lambda would, with the
// environment that moto reports, and writing its output to moto's log.
type lambdaServer struct {
	t       *testing.T
	moto    *motoServer
	bucket  string // of the deployed zips
	timeout string // of an invocation; empty for the function's own
	secrets string // where the function finds AWS Secrets Manager

	mu  sync.Mutex
	log []string // lines of all invocations
}

// lambda serves m's Lambda. Functions deployed from bucket can be invoked.
func (m *motoServer) lambda(t *testing.T, bucket string) (*lambdaServer, string) {
	t.Helper()
	l := &lambdaServer{t: t, moto: m, bucket: bucket, secrets: m.url.String()}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	return l, server.URL
}

var invocationPath = regexp.MustCompile(`^/2015-03-31/functions/([^/]+)/invocations$`)

func (l *lambdaServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	function := invocationPath.FindStringSubmatch(r.URL.Path)
	if function == nil {
		httputil.NewSingleHostReverseProxy(l.moto.url).ServeHTTP(w, r)
		return
	}
	status, described := l.moto.request(l.t, "lambda", http.MethodGet, "/2015-03-31/functions/"+function[1], "", "")
	if status != http.StatusOK {
		w.Header().Set("X-Amzn-Errortype", "ResourceNotFoundException")
		w.WriteHeader(status)
		_, _ = w.Write(described)
		return
	}
	event, err := io.ReadAll(r.Body)
	if err != nil {
		l.t.Error(err)
	}
	answer, failed := l.invoke(described, event)
	w.Header().Set("X-Amz-Executed-Version", "$LATEST")
	if failed {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
	}
	_, _ = w.Write(answer)
}

// described is what Lambda tells of a function.
type described struct {
	Configuration struct {
		FunctionName, Handler, CodeSha256 string
		Timeout, MemorySize               int
		Environment                       struct{ Variables map[string]string }
	}
	Code struct{ Location string }
}

func (l *lambdaServer) invoke(description, event []byte) (answer []byte, failed bool) {
	var function described
	if err := json.Unmarshal(description, &function); err != nil {
		l.t.Error(err)
	}
	folder := l.t.TempDir()
	l.unpack(function, folder)
	timeout := l.timeout
	if timeout == "" {
		timeout = (time.Duration(function.Configuration.Timeout) * time.Second).String()
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "AWS_LAMBDA_FUNCTION_NAME=" + function.Configuration.FunctionName, "AWS_REGION=" + region,
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_ENDPOINT_URL_SECRETS_MANAGER=" + l.secrets}
	for name, value := range function.Configuration.Environment.Variables {
		env = append(env, name+"="+value)
	}
	got := runIn(l.t, folder, env, string(event), filepath.Join(programs(l.t), "invoke"),
		"-event", "-", "-timeout", timeout, "--", "./"+function.Configuration.Handler)
	if got.code > 1 {
		l.t.Errorf("scripts/invoke could not run the function: %s", got.stderr)
	}
	l.writeLog(function.Configuration.FunctionName, got.stderr)
	return []byte(got.stdout), got.code != 0
}

// unpack puts the deployed zip, which must be the one that Lambda reports, into
// the folder.
func (l *lambdaServer) unpack(function described, folder string) {
	location, err := url.Parse(function.Code.Location)
	if err != nil {
		l.t.Error(err)
	}
	_, packed := l.moto.request(l.t, "s3", http.MethodGet, "/"+l.bucket+location.Path, "", "")
	sum := sha256.Sum256(packed)
	if got := base64.StdEncoding.EncodeToString(sum[:]); got != function.Configuration.CodeSha256 {
		l.t.Errorf("the zip at %s has the hash %s, but the function's is %s", location.Path, got, function.Configuration.CodeSha256)
	}
	archive, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		l.t.Errorf("%s: %v", location.Path, err)
		return
	}
	if err := os.CopyFS(folder, archive); err != nil {
		l.t.Error(err)
	}
	for _, file := range archive.File { // CopyFS keeps only some of the mode
		if err := os.Chmod(filepath.Join(folder, file.Name), file.Mode()); err != nil {
			l.t.Error(err)
		}
	}
}

func (l *lambdaServer) writeLog(function, output string) {
	stream := time.Now().UTC().Format("2006/01/02/15/04/05.000000000")
	var events []any
	for line := range strings.Lines(output) {
		events = append(events, object{"timestamp": time.Now().UnixMilli(), "message": line})
	}
	l.mu.Lock()
	l.log = append(l.log, output)
	l.mu.Unlock()
	group := "/aws/lambda/" + function
	l.moto.call(l.t, "logs", "Logs_20140328.CreateLogStream", object{"logGroupName": group, "logStreamName": stream})
	l.moto.call(l.t, "logs", "Logs_20140328.PutLogEvents", object{"logGroupName": group, "logStreamName": stream, "logEvents": events})
}

// printed is everything that the function has printed so far.
func (l *lambdaServer) printed() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.log, "")
}
