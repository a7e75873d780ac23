// Command examples runs the example jobs in the sandboxes of IBM Cloud and AWS (make examples). It expects go-job in
// build/local, and the repository as its folder.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/awstest"
	"iam-token-rotator/scripts/programs"
	"iam-token-rotator/scripts/serving"
)

func main() {
	serving.Main(func(ctx context.Context, _ []string, stdout, stderr io.Writer) int {
		return serving.End(stderr, "examples", run(ctx, stdout))
	})
}

// A job is an example, as its platform starts it.
type job struct {
	name    string
	needs   []need
	command []string
	mirror  bool     // reads the mirror in AWS, not Secrets Manager
	once    bool     // prints what its only call returns; the others make CALLS calls, and end with 3 if the token has expired
	env     []string // further variables
	without string   // a setting of the others that is not set
}

// A need is a program or library: a command that succeeds where it is installed, and what installs it.
type need struct{ name, check, install string }

var (
	curl    = need{"curl", "curl --version", "apt-get install curl"}
	jq      = need{"jq", "jq --version", "apt-get install jq"}
	python  = need{"Python 3", "python3 --version", "https://www.python.org/downloads"}
	boto3   = need{"boto3", "python3 -c 'import boto3'", "pip install boto3"}
	moto    = need{"moto_server", "command -v moto_server", "pip install 'moto[server]'"}
	aws     = need{"the aws program", "aws --version", "pip install awscli"}
	node    = need{"Node.js", "node --version", "https://nodejs.org"}
	nodeSDK = need{"IBM's SDK", `node -e 'require("ibm-cloud-sdk-core")'`, "npm install --no-save --prefix build/local ibm-cloud-sdk-core@5.9.1"}
	java    = need{"Java 17", "java --version", "https://adoptium.net"}
)

// callLambda calls the handler of lambda_job.py as AWS Lambda would, in one process.
const callLambda = `import os, sys, time
sys.path.insert(0, "scripts/examples/platforms")
import lambda_job
for call in range(int(os.environ["CALLS"])):
    try: print("answered", lambda_job.handler({}, None)["status"], flush=True)
    except Exception as error: sys.exit(3 if "expired" in str(error) else repr(error) if type(error) is KeyError else type(error).__name__)
    time.sleep(2)`

// allJobs are the examples. The aws program of the GitLab job keeps credentials in home.
func allJobs(home string) ([]job, error) {
	var pipeline map[string]struct{ Script []string }
	definition, err := os.ReadFile("scripts/examples/platforms/gitlab-ci.yml")
	err = errors.Join(err, yaml.Unmarshal(definition, &pipeline))
	gitLab := strings.Join(append([]string{"set -e", "cd scripts"}, pipeline["logs-routing"].Script...), "\n") // it calls ./iam-token
	const folder = "scripts/examples/"
	return []job{
		{name: "Shell", needs: []need{curl, jq}, command: []string{"sh", folder + "shell-job"}},
		{name: "Go", command: []string{"build/local/go-job"}},
		{name: "Python", needs: []need{python}, command: []string{"python3", folder + "python-job.py"}},
		{name: "Node.js", needs: []need{node}, command: []string{"node", folder + "node-job.mjs"}},
		{name: "Node.js with IBM's SDK", needs: []need{curl, jq, node, nodeSDK}, command: []string{"node", folder + "node-sdk-job.cjs"}},
		{name: "Java", needs: []need{java}, command: []string{"java", folder + "JavaJob.java"}},
		{name: "Python with boto3", needs: []need{python, boto3, moto}, command: []string{"python3", folder + "python-mirror-job.py"}, mirror: true},
		{name: "AWS Lambda in Python", needs: []need{python, boto3, moto}, command: []string{"python3", "-c", callLambda}, mirror: true},
		{name: "GitLab CI", needs: []need{curl, jq, moto, aws}, command: []string{"sh", "-c", gitLab}, mirror: true, once: true, env: []string{
			"HOME=" + home, "AWS_WEB_IDENTITY_TOKEN_FILE=" + home + "/id", "AWS_ID_TOKEN=" + awstest.WebIdentityToken(),
			"AWS_ROLE_ARN=arn:aws:iam::123456789012:role/token-reader", "AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}},
	}, err
}

// run runs all jobs whose needs are met, one after the other. Where CI=true all must be met.
func run(ctx context.Context, stdout io.Writer) (err error) {
	home, err := os.MkdirTemp("", "examples-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	jobs, err := allJobs(home)
	if err != nil {
		return err
	}
	s := newStage()
	defer s.server.Close()
	_, _ = fmt.Fprintln(stdout, "Each job calls Logs Routing with the token that it reads:")
	for _, j := range jobs {
		missing := slices.IndexFunc(j.needs, func(n need) bool { return s.command(ctx, "/bin/sh", "-c", n.check).Run() != nil })
		if missing >= 0 {
			n := j.needs[missing]
			if os.Getenv("CI") == "true" {
				return fmt.Errorf("%s needs %s, and CI must have it: %s", j.name, n.name, n.install)
			}
			_, _ = fmt.Fprintf(stdout, "%s: skipped; to run it, install %s: %s\n", j.name, n.name, n.install)
			continue
		}
		if j.mirror && s.moto == nil {
			if s.moto, err = awstest.StartMoto(); err != nil {
				return err
			}
			defer s.moto.Stop()
		}
		if err := s.try(ctx, j, stdout); err != nil {
			return fmt.Errorf("%s: %w", j.name, err)
		}
	}
	return nil
}

// A stage is both clouds, with a token secret and its mirror.
type stage struct {
	env    []string // of every job
	cloud  *ibmcloudtest.Cloud
	server *httptest.Server // the cloud's
	moto   *awstest.Moto    // nil before the first job that reads the mirror
	mirror string           // its ARN; empty before it holds a token
}

// proxies would lead a job elsewhere.
var proxies = regexp.MustCompile(`(?i)^[A-Z]+_PROXY=`)

func newStage() *stage {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	server := httptest.NewServer(cloud)
	return &stage{cloud: cloud, server: server, env: append(slices.DeleteFunc(programs.WithoutCredentials(), proxies.MatchString), "PATH=scripts:"+os.Getenv("PATH"),
		"NODE_PATH="+cmp.Or(os.Getenv("NODE_PATH"), "build/local/node_modules"), "PYTHONDONTWRITEBYTECODE=1", "LOGS_ROUTING_URL="+server.URL)}
}

func (s *stage) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...)
	command.Env, command.WaitDelay = s.env, 5*time.Second
	return command
}

// try runs a job in four situations, and prints how it went.
func (s *stage) try(ctx context.Context, j job, stdout io.Writer) error {
	calls, printed, says := 2, "answered 200\n", ": 200, then 200 with a new token after a 401; status 3 with an expired one"
	if j.once {
		calls, printed, says = 1, `"targets"`, ": 200; fails with an expired token"
	}
	_, _, err := s.run(ctx, j, "with a valid token", time.Hour, calls, func(got string, exit int) bool { return exit == 0 && strings.Count(got, printed) == calls })
	if err == nil {
		_, _, err = s.run(ctx, j, "with an expired token", -time.Minute, 1, func(_ string, exit int) bool { return exit == 3 || exit != 0 && j.once })
	}
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(stdout, j.name+says)

	for _, op := range []string{ibmcloudtest.OpSecretsGet, ibmcloudtest.OpVersionsGet} {
		s.cloud.MustAddFault(ibmcloudtest.Fault{Op: op, Status: http.StatusServiceUnavailable})
	}
	defer s.cloud.ClearFaults()
	j.env = append(j.env, "AWS_ENDPOINT_URL=http://127.0.0.1:9")
	got, exit, err := s.run(ctx, j, "while the secret cannot be read", time.Hour, 1, func(got string, exit int) bool {
		lines := strings.Count(got, "\n") // many are a trace
		return exit != 0 && exit != 3 && lines >= 1 && lines <= 5
	})
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(got), "\n")
	_, _ = fmt.Fprintf(stdout, "%s, while the secret cannot be read: status %d, %s\n", j.name, exit, lines[len(lines)-1])

	j.without = map[bool]string{false: "READER_APIKEY", true: "TOKEN_SECRET_ARN"}[j.mirror]
	_, _, err = s.run(ctx, j, "without "+j.without, time.Hour, 1, func(got string, exit int) bool { return exit != 0 && exit != 3 && strings.Contains(got, j.without) })
	return err
}

// run stores a token with a lifetime, which may be negative, and runs a job, whose output and exit status must be fine. After the job's
// first call the token is replaced, and Logs Routing answers 401 once.
func (s *stage) run(ctx context.Context, j job, situation string, lifetime time.Duration, calls int, fine func(string, int) bool) (string, int, error) {
	if err := s.store(ctx, lifetime); err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	reads := map[string]string{"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.server.URL,
		"READER_APIKEY": s.cloud.ReaderAPIKey(), "TOKEN_SECRET": s.cloud.Rotations()[0].TokenSecret}
	if j.mirror {
		reads = awstest.Environment(s.moto.URL())
		reads["AWS_DEFAULT_REGION"], reads["TOKEN_SECRET_ARN"] = awstest.Region, s.mirror
	}
	delete(reads, j.without)
	command := s.command(ctx, j.command[0], j.command[1:]...)
	command.Env = slices.Concat(s.env, programs.Environ(reads), j.env, []string{fmt.Sprintf("CALLS=%d", calls)})
	var replaced error
	out := &output{answered: func() {
		s.cloud.MustAddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpTargetsList, Status: http.StatusUnauthorized, Times: 1})
		replaced = s.store(ctx, time.Hour)
	}}
	command.Stdout, command.Stderr = out, out
	err := command.Run()
	printed, exit := out.printed.String(), command.ProcessState.ExitCode()
	switch _, exited := errors.AsType[*exec.ExitError](err); {
	case replaced != nil:
		return "", 0, replaced
	case strings.Contains(printed, "eyJ") || strings.Contains(printed, s.cloud.ReaderAPIKey()): // as a token begins
		return "", 0, fmt.Errorf("%s it printed a token or the key", situation)
	case exit == 0 && calls > 1 && out.answered != nil:
		return "", 0, fmt.Errorf("%s it never printed \"answered 200\", so its token was not replaced", situation)
	case ctx.Err() != nil || err != nil && !exited || !fine(printed, exit):
		return "", 0, fmt.Errorf("%s it ended with status %d: %w\n%s", situation, exit, cmp.Or(ctx.Err(), err, errors.New("that is not what it should do")), printed)
	}
	return printed, exit, nil
}

// store saves a token as the rotator does: in the token secret, and in the mirror if there is an AWS.
func (s *stage) store(ctx context.Context, lifetime time.Duration) error {
	rotation := s.cloud.Rotations()[0]
	token := s.cloud.MustMintToken(rotation.APIKey, lifetime)
	s.cloud.MustPutVersion(rotation.TokenSecret, token, map[string]any{"expiration": time.Now().Add(lifetime).Unix()})
	if s.moto == nil {
		return nil
	}
	operation, in := "secretsmanager.PutSecretValue", map[string]any{"SecretId": s.mirror, "SecretString": token, "ClientRequestToken": rand.Text() + rand.Text()}
	if s.mirror == "" {
		operation, in["Name"] = "secretsmanager.CreateSecret", "iam-token"
	}
	made, err := s.moto.Call(ctx, "secretsmanager", operation, in)
	if err == nil {
		s.mirror = made["ARN"].(string)
	}
	return err
}

// output is what a job prints. The buffer is not embedded: its ReadFrom would be called in place of Write.
type output struct {
	printed  bytes.Buffer
	answered func() // called after the job's first call; nil from then on
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.printed.Write(p)
	if o.answered != nil && strings.Contains(o.printed.String(), "answered 200\n") {
		o.answered()
		o.answered = nil
	}
	return n, err
}
