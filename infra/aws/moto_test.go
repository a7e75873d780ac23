package aws_test

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// motoServer stands for AWS: it keeps everything in memory and enforces no
// permissions. One serves all tests, each with a stack and a bucket of its own.
type motoServer struct {
	url *url.URL
}

// scratch is a folder for what all tests share; it lasts as long as they do.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "rotator-aws-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	if motoProcess != nil {
		_ = motoProcess.Process.Kill()
		_ = motoProcess.Wait()
	}
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

var (
	moto        = sync.OnceValues(startMoto)
	motoProcess *exec.Cmd // ended after the last test
)

var listening = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// startMoto returns nil when moto is not installed.
func startMoto() (*motoServer, error) {
	path, err := exec.LookPath("moto_server")
	if err != nil {
		return nil, nil
	}
	command := exec.Command(path, "-H", "127.0.0.1", "-p", "0")
	command.Env = cleanEnvironment("PYTHONUNBUFFERED=1")
	stderr, err := command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	motoProcess = command
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			go func() { _, _ = io.Copy(io.Discard, stderr) }()
			address, err := url.Parse(found[1])
			return &motoServer{address}, err
		}
	}
	return nil, errors.New("moto_server did not start")
}

func needMoto(t *testing.T) *motoServer {
	t.Helper()
	needTools(t, "moto_server", "aws", "jq", "make")
	server, err := moto()
	if err != nil {
		t.Fatal(err)
	}
	return server
}

const region = "eu-central-1"

// request sends a request to one of moto's services. moto routes by the scope of
// the signature and does not check it.
func (m *motoServer) request(t *testing.T, service, method, path, target, body string) (int, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, m.url.String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/"+region+"/"+service+"/aws4_request, SignedHeaders=host, Signature=x")
	if strings.HasPrefix(body, "Action=") {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	}
	if target != "" {
		request.Header.Set("X-Amz-Target", target)
		request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}

// call makes a call of one of AWS's JSON protocols and returns the answer.
func (m *motoServer) call(t *testing.T, service, target string, in object) object {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	status, answer := m.request(t, service, http.MethodPost, "/", target, string(body))
	if status != http.StatusOK {
		t.Fatalf("%s: %d %s", target, status, answer)
	}
	out := object{}
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &out); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
	}
	return out
}

// query makes a call of one of AWS's XML protocols and decodes the answer.
func (m *motoServer) query(t *testing.T, service, body string, into any) {
	t.Helper()
	status, answer := m.request(t, service, http.MethodPost, "/", "", body)
	if status != http.StatusOK {
		t.Fatalf("%s: %d %s", body, status, answer)
	}
	if err := xml.Unmarshal(answer, into); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
}

// environment makes the aws CLI and SDK speak to moto. Only AWS_REGION is set,
// which version 1 of the CLI does not know by itself.
func (m *motoServer) environment(add ...string) []string {
	return cleanEnvironment(append([]string{
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_REGION=" + region,
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_ENDPOINT_URL=" + m.url.String(),
	}, add...)...)
}
