// Command conformance runs IBM's own tests and the IBM provider of External Secrets against the sandbox (make conformance).
// What is run and what is left out is in scripts/sandbox/README.md, "What it serves". It expects the repository as its folder.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
	"iam-token-rotator/scripts/serving"
)

func main() { serving.Main(run) }

const usage = `usage: conformance

Runs IBM's own integration tests of its Go SDK and, where node is, its node SDK against the sandbox, and the
IBM provider of External Secrets against what the rotator saves.
It takes no arguments. The first run downloads what the SDKs need.
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	err := serving.Parse(flags, args, usage, "", stdout, func() error { return nil })
	if err == nil {
		err = testAll(ctx, stdout, stderr)
	}
	return serving.End(stderr, "conformance", err)
}

func testAll(ctx context.Context, stdout, stderr io.Writer) (err error) {
	t := &tester{ctx: ctx, stdout: stdout, stderr: stderr, env: programs.WithoutCredentials()}
	if t.repository, err = os.Getwd(); err != nil {
		return err
	}
	if t.work, err = os.MkdirTemp("", "conformance-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(t.work)) }()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	server := httptest.NewServer(cloud)
	defer server.Close()
	only := cloud.Rotations()[0]
	t.env = append(t.env, "SECRETS_MANAGER_URL="+server.URL, "IAM_URL="+server.URL, "READER_APIKEY="+cloud.ReaderAPIKey(),
		"SECRETS_MANAGER_APIKEY="+cloud.BootstrapAPIKey(), "API_KEY_SECRET="+only.APIKeySecret, "TOKEN_SECRET="+only.TokenSecret)
	t.goSDK(fmt.Sprintf("SECRETS_MANAGER_URL=%[1]s\nSECRETS_MANAGER_AUTH_TYPE=iam\nSECRETS_MANAGER_AUTH_URL=%[1]s\nSECRETS_MANAGER_APIKEY=%[2]s\n"+
		"IAM_IDENTITY_URL=%[1]s\nIAM_IDENTITY_AUTH_TYPE=iam\nIAM_IDENTITY_AUTH_URL=%[1]s\nIAM_IDENTITY_APIKEY=%[2]s\n"+
		"IAM_IDENTITY_ACCOUNT_ID=%[3]s\nIAM_IDENTITY_IAM_ID=%[4]s\n", server.URL, cloud.AdminAPIKey(), cloud.AccountID(), only.IAMID))
	t.externalSecrets()
	t.nodeSDKs()
	return t.err
}

// folder is in what go mod download prints.
const folder = `"Dir": "(.+)"`

// goSDK runs the integration test. Without the file of credentials that test skips everything and passes.
func (t *tester) goSDK(settings string) {
	module := t.run(t.repository, "go", "mod", "download", "-json", "github.com/IBM/secrets-manager-go-sdk/v2")
	t.try(os.CopyFS(t.path("sdk"), os.DirFS(t.find(module, folder))))
	t.try(os.WriteFile(t.path("sdk/secrets_manager_v2.env"), []byte(settings), 0o600))
	t.run(t.path("sdk"), "go", "test", "-c", "-o", t.path("go.test"), "-tags", "integration", "./secretsmanagerv2/")
	// specs is how many specs are selected; without -ginkgo.dryRun they run.
	specs := func(args ...string) string {
		return t.find(t.run(t.path("sdk/secretsmanagerv2"), t.path("go.test"), append(args, "-ginkgo.noColor")...), `(?m)^Ran (\d+) of `)
	}
	passed := specs("-ginkgo.focus", "Integration", "-ginkgo.skip", "Configuration|Notifications")
	engines := specs("-ginkgo.dryRun", "-ginkgo.focus", "Integration.*Configuration")
	events := specs("-ginkgo.dryRun", "-ginkgo.focus", "Integration.*Notifications")
	units := specs("-ginkgo.dryRun", "-ginkgo.skip", "Integration")
	if passed != "30" {
		t.try(fmt.Errorf("30 specs should have passed, not %s", passed))
	}
	t.say("secrets-manager-go-sdk %s: %s specs of IBM's integration test passed", t.find(module, `"Version": "(.+)"`), passed)
	t.say("  left out: %s specs of the configurations of secret engines, and %s of Event Notifications: the sandbox answers them 501", engines, events)
	t.say("  left out: %s unit tests: they bring a server of their own", units)
}

// externalSecrets runs the provider in its own module, which has its own versions of everything: the product's go.mod stays small.
func (t *tester) externalSecrets() {
	const module, version = "github.com/external-secrets/external-secrets", "v0.16.2"
	described, err := t.output("/", "go", "mod", "download", "-json", module+"@"+version)
	if err != nil {
		t.skip("external-secrets: not run, since " + module + "@" + version + " could not be downloaded")
		return
	}
	t.try(os.CopyFS(t.path("eso"), os.DirFS(t.find(described, folder))))
	examples, provider := filepath.Join(t.repository, "scripts/examples/platforms"), t.path("eso/pkg/provider/ibm")
	t.run(provider, "sh", "-c", `rm ./*_test.go && cp "$0" .`, filepath.Join(examples, "testdata/external_secrets_test.go"))
	t.run(t.repository, "go", "build", "-o", t.path("rotator"), "./functions/rotate")
	t.env = append(t.env, "ROTATOR="+t.path("rotator"), "EXAMPLE="+filepath.Join(examples, "external-secrets.yaml"), "CGO_ENABLED=0")
	t.find(t.run(provider, "go", "test", "-vet=off", "-count=1", "-v", "."), `(?m)^--- PASS: (TestReadsTheRotatedToken)`)
	t.say("external-secrets %s: its IBM provider read the rotated token, and the next one", version)
}

// nodeSDKs runs IBM's tests of identities, and a story of Secrets Manager, for which npm has neither a test nor a client of version 2.
func (t *tester) nodeSDKs() {
	_, noNode := exec.LookPath("node")
	if _, noNPM := exec.LookPath("npm"); noNode != nil || noNPM != nil {
		t.skip("node SDK: not run, since node and npm are not both here")
		return
	}
	t.try(os.Mkdir(t.path("node"), 0o700))
	if _, err := t.output(t.path("node"), "npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts",
		"@ibm-cloud/platform-services@0.83.1", "ibm-cloud-sdk-core@5.9.1", "jest@29.7.0"); err != nil {
		t.skip("node SDK: not run, since npm could not install it")
		return
	}
	// The package is its own dist folder, and lacks the helper that its tests need: it chooses the file of the credentials.
	t.run(t.path("node"), "sh", "-c", `cp -R node_modules/@ibm-cloud/platform-services platform && ln -s . platform/dist &&
		mkdir -p platform/test/resources && echo 'exports.prepareTests = () => describe;' >platform/test/resources/auth-helper.js &&
		cp "$0" .`, filepath.Join(t.repository, "scripts/sandbox/conformance.test.js"))
	t.env = append(t.env, "IBM_CREDENTIALS_FILE="+t.path("sdk/secrets_manager_v2.env"))
	jest := func(test, names string) string {
		return t.run(t.path("node"), "node_modules/.bin/jest", "--rootDir="+t.path("node"), "--ci", test, "-t", names)
	}
	printed := jest("platform/examples/iam-identity.v1.test.js", "(ApiKeys?(Details)?|(create|get|list|delete)ServiceIds?) request")
	skipped := t.find(printed, `(?m)^Tests: +(\d+) skipped, 14 passed`)
	t.say("@ibm-cloud/platform-services 0.83.1: IBM's tests of API keys and service ids, 14 passed")
	t.say("  left out: %s tests of changes to service ids, of their groups, and of profiles, settings and the like, which the sandbox answers 501", skipped)
	t.find(jest("conformance.test.js", "."), `(?m)^Tests: +(5) passed`)
	t.say("ibm-cloud-sdk-core 5.9.1: a story of Secrets Manager, 5 tests passed; npm has no test and no client of IBM's for its version 2")
}

// A tester runs programs until one fails: after the first error it runs none.
type tester struct {
	ctx              context.Context
	repository, work string   // folders; work is temporary
	env              []string // of the programs, with that of the sandbox
	stdout, stderr   io.Writer
	err              error
}

func (t *tester) path(name string) string { return filepath.Join(t.work, name) }

func (t *tester) say(format string, args ...any) {
	if t.err == nil {
		_, _ = fmt.Fprintf(t.stdout, format+"\n", args...)
	}
}

// try keeps the first error.
func (t *tester) try(err error) { t.err = cmp.Or(t.err, err) }

// skip says why a part is not run, which CI does not allow.
func (t *tester) skip(why string) {
	if os.Getenv("CI") == "true" {
		t.try(errors.New(why + ", and CI must run it"))
	}
	t.say("%s", why)
}

// output is what a program prints. If it fails, stderr has that, too.
func (t *tester) output(dir, name string, args ...string) (string, error) {
	if t.err != nil {
		return "", t.err
	}
	command := exec.CommandContext(t.ctx, name, args...)
	command.Dir, command.Env, command.WaitDelay = dir, t.env, 5*time.Second
	printed, err := command.CombinedOutput()
	if err != nil {
		t.show(string(printed))
		err = fmt.Errorf("%s: %w", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err)
	}
	return string(printed), err
}

func (t *tester) run(dir, name string, args ...string) string {
	printed, err := t.output(dir, name, args...)
	t.try(err)
	return printed
}

// find is the one group of a pattern in what a program printed.
func (t *tester) find(printed, pattern string) string {
	found := regexp.MustCompile(pattern).FindStringSubmatch(printed)
	if t.err == nil && found == nil {
		t.show(printed)
		t.err = fmt.Errorf("nothing fits %s", pattern)
	}
	return append(found, "", "")[1]
}

// secret is a key or token of the sandbox.
var secret = regexp.MustCompile(`eyJ[A-Za-z0-9_.-]+|[A-Za-z0-9_-]{44}`)

func (t *tester) show(printed string) {
	_, _ = io.WriteString(t.stderr, secret.ReplaceAllString(printed, "[secret]"))
}
