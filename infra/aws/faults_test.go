package aws_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/infra/aws/awstest"
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

	// A later failure is told at once, and status still knows the expiry, which the
	// failed run could not look up.
	a.lambda.Secrets = a.refusing(-1)
	a.mustSay("invoke", a.script("invoke", "MODE=ensure"), 1, "the run failed: RotationError: 1 of 1 rotations failed; default: bootstrap: denied: ")
	a.mustSay("status", a.script("status"), 0, "default: failed at 20", "; the stored token expires 20", "\n  bootstrap: denied: ")
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

// putSecret replaces the bootstrap secret's value.
func (a *account) putSecret(value string) {
	a.t.Helper()
	a.moto.MustCall(a.t, "secretsmanager", "secretsmanager.PutSecretValue", object{"SecretId": a.arn, "SecretString": value, "ClientRequestToken": strings.Repeat("d", 32)})
}

// inFrontOf serves what answer gives, or else passes requests on to moto. It is
// called for one request at a time.
func (a *account) inFrontOf(answer func(r *http.Request, form url.Values) (int, string)) string {
	a.t.Helper()
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		form, _ := url.ParseQuery(string(body))
		if status, text := answer(r, form); status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		a.moto.ServeHTTP(w, r)
	}))
	a.t.Cleanup(server.Close)
	return server.URL
}

// refusing answers as AWS Secrets Manager does to a role without permission, so
// many times (-1: always).
func (a *account) refusing(times int) string {
	a.t.Helper()
	return a.inFrontOf(func(*http.Request, url.Values) (int, string) {
		if times == 0 {
			return 0, ""
		}
		times--
		return 400, `{"__type":"AccessDeniedException","Message":"User: arn:aws:sts::123456789012:assumed-role/x is not authorized to perform: secretsmanager:GetSecretValue"}`
	})
}

// forbidding answers as CloudFormation does to a person without permission.
func (a *account) forbidding(action string) string {
	a.t.Helper()
	return a.inFrontOf(func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") != action {
			return 0, ""
		}
		return 403, fmt.Sprintf(`<ErrorResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code>`+
			`<Message>User is not authorized to perform: cloudformation:%s</Message></Error></ErrorResponse>`, action)
	})
}
