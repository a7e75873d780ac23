// Package aws_test holds the CloudFormation template to what the rest of the
// project promises, and drives the whole life of a stack, through the Makefile's
// own targets, against moto (a server that stands for AWS) and the sandbox of IBM
// Cloud. Tools that are not installed make tests skip, but fail where CI=true.
package aws_test

import (
	"encoding/xml"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// root is the repository.
var root, _ = filepath.Abs("../..")

// runIn runs a program with the environment given and nothing else.
func runIn(t *testing.T, dir string, env []string, stdin, name string, args ...string) programs.Result {
	t.Helper()
	return programs.Run(t, programs.Command{Dir: dir, Env: env, Stdin: stdin, Name: name, Args: args})
}

// scratch is a folder for what all tests share; it lasts as long as they do.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "rotator-aws-test-"); err != nil {
		panic(err)
	}
	code := m.Run()
	if theMoto != nil {
		theMoto.Stop()
	}
	_ = os.RemoveAll(scratch)
	os.Exit(code)
}

// One moto serves all tests, each with a stack and a bucket of its own.
var (
	startMoto = sync.OnceValues(func() (_ *awstest.Moto, err error) {
		theMoto, err = awstest.StartMoto()
		return theMoto, err
	})
	theMoto *awstest.Moto // nil until it is started
)

func needMoto(t *testing.T) *awstest.Moto {
	t.Helper()
	programs.Need(t, "moto_server", "aws", "jq", "make")
	moto, err := startMoto()
	if err != nil {
		t.Fatal(err)
	}
	return moto
}

// query makes a call of one of AWS's XML protocols and decodes the answer.
func (a *account) query(service, body string, into any) {
	a.t.Helper()
	status, answer := a.moto.MustDo(a.t, awstest.Request{Service: service, Body: body})
	if status != http.StatusOK {
		a.t.Fatalf("%s: %d %s", body, status, answer)
	}
	if err := xml.Unmarshal(answer, into); err != nil {
		a.t.Fatalf("%s: %v", body, err)
	}
}

// awsEnvironment makes the aws CLI and SDK speak to moto. Only AWS_REGION is set,
// which version 1 of the CLI does not know by itself.
func awsEnvironment(moto *awstest.Moto, add ...string) []string {
	return programs.CleanEnviron(append(programs.Environ(awstest.Environment(moto.URL())), add...)...)
}
