package aws_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// What a person can get wrong, and what the deployment then says. Whatever it
// made, `destroy` can remove.
func TestDeploymentFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		wrong func(a *account)
		// whether to see that destroy removes what was made (it takes its time)
		destroy bool
		says    []string
	}{
		{"no-bucket", func(a *account) { a.set["BUCKET"] = "nobody-has-this" }, false, []string{"the bucket nobody-has-this does not exist", "aws s3 mb"}},
		{"no-secret", func(a *account) { a.set["BOOTSTRAP_SECRET_ARN"] = strings.Replace(a.arn, "bootstrap", "misspelt", 1) }, false,
			[]string{"RotationError: 1 of 1 rotations failed; default: bootstrap: not_found: ", "scripts/put-bootstrap-key"}},
		{"not-allowed", func(a *account) { a.lambda.Secrets = a.refusing(-1) }, true,
			[]string{"default: bootstrap: denied: ", "the function's role needs secretsmanager:GetSecretValue on it", "new permissions take minutes"}},
		{"private-only", func(a *account) {
			a.set["SECRETS_MANAGER_URL"] = "https://instance.private.us-south.secrets-manager.invalid"
			a.lambda.Timeout = 2 * time.Second // the function tries for as long as it may
		}, false, []string{"default: look: unavailable: ", "does not resolve", "public-and-private endpoints"}},
		{"may-not-create", func(a *account) {
			a.env = append(a.env, "AWS_ENDPOINT_URL_CLOUDFORMATION="+a.forbidding("CreateChangeSet"))
		}, true,
			[]string{"AccessDenied", "the deployment failed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, tt.name)
			tt.wrong(a)
			a.mustSay("deploy", a.script("deploy"), 1, tt.says...)
			if tt.destroy {
				a.mustSay("destroy", a.script("destroy"), 0, "Left as they are")
				if a.stackExists() {
					t.Error("the stack is there after destroy")
				}
			}
			if zips := a.objects(); tt.destroy && len(zips) > 0 {
				t.Errorf("after destroy the bucket holds %v", zips)
			}
		})
	}
}

func (a *account) stackExists() bool {
	a.t.Helper()
	status, _ := a.moto.MustDo(a.t, awstest.Request{Service: "cloudformation", Body: "Action=DescribeStacks&Version=2010-05-15&StackName=" + a.stack})
	return status == 200
}

// Permissions that are not everywhere yet are waited for; nothing else is.
func TestDeploymentWaitsForPermissions(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "patient")
	a.lambda.Secrets = a.refusing(2)
	got := a.script("deploy", "DENIED_FOR=300", "DENIED_PAUSE=0")
	a.mustSay("deploy", got, 0, "default: rotated; ")
	if waits := strings.Count(got.Stdout, "New permissions may take minutes"); waits != 2 {
		t.Errorf("waited %d times, want 2:\n%s", waits, got.Stdout)
	}
	a.published(a.cloud.Rotations()[0].TokenSecret)

	a.lambda.Secrets = ""
	a.putSecret(" ")
	a.mustSay("invoke with an empty secret", a.script("invoke", "MODE=check"), 1,
		"default: bootstrap: misconfigured: ", "the secret is empty: store the bootstrap API key with scripts/put-bootstrap-key")
	diagnosis := a.doctor()
	a.mustSay("invoke doctor", a.script("invoke", "MODE=doctor"), 1, diagnosis, "stack: what is marked ✗ must be mended")
	for _, part := range []string{"✗ bootstrap-key", "\nrotation default\n– ", "\n                        nor ", "1 check failed, "} {
		if !strings.Contains(diagnosis, part) {
			t.Errorf("doctor shows no %q, so what invoke makes of that is not tested:\n%s", part, diagnosis)
		}
	}

	// A later failure is told at once, and status still knows the expiry, which the
	// failed run could not look up.
	a.lambda.Secrets = a.refusing(-1)
	a.mustSay("invoke", a.script("invoke", "MODE=ensure"), 1, "the run failed: RotationError: 1 of 1 rotations failed; default: bootstrap: denied: ")
	a.mustSay("status", a.script("status"), 0, "default: failed at 20", "; the stored token expires 20", "\n  bootstrap: denied: ")
}

// doctor is what `bootstrap doctor` prints in the function's environment.
func (a *account) doctor() string {
	a.t.Helper()
	env := append(slices.Clone(a.env), programs.Environ(a.describe().Configuration.Environment.Variables)...)
	return a.keep(runIn(a.t, a.folder, env, "", "./bootstrap", "doctor")).Stdout
}

// A stack that a failed first deployment left can only be deleted.
func TestDeploymentRemovesWhatWasRolledBack(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "rolledback")
	var actions []string
	endpoint := a.inFrontOf(func(r *http.Request, form url.Values) (int, string) {
		actions = append(actions, form.Get("Action"))
		if form.Get("Action") == "DescribeStacks" && !slices.Contains(actions, "DeleteStack") {
			return 200, `<DescribeStacksResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><DescribeStacksResult><Stacks><member>` +
				`<StackName>rolledback</StackName><CreationTime>2026-01-01T00:00:00Z</CreationTime><StackStatus>ROLLBACK_COMPLETE</StackStatus></member></Stacks></DescribeStacksResult></DescribeStacksResponse>`
		}
		return 0, ""
	})
	a.env = append(a.env, "AWS_ENDPOINT_URL_CLOUDFORMATION="+endpoint)
	a.mustSay("deploy", a.script("deploy"), 0, "Removing the stack rolledback, which an earlier deployment left in ROLLBACK_COMPLETE", "default: rotated")
	deleted, created := slices.Index(actions, "DeleteStack"), slices.Index(actions, "CreateChangeSet")
	if deleted < 0 || created < deleted {
		t.Errorf("got %v, want the stack deleted before it is created", actions)
	}
}
