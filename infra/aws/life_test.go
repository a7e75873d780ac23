package aws_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/infra/aws/awstest"
	"iam-token-rotator/scripts/programs"
)

// The whole life of a stack, by the Makefile's own targets: the key stored, the
// first token at once, nothing to deploy, its status, a run by hand, two updates, and
// the end.
func TestLifeOfAStack(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "life")
	rotations := a.cloud.Rotations()
	a.set["BOOTSTRAP_SECRET_ARN"] = a.putKey("sh")
	a.putObject("iam-token-rotator/life/notes.txt") // not ours: it must survive

	deployed := a.make("deploy", `PARAMS=AlarmEmail=ops@example.com ReservedConcurrency=5`)
	a.mustSay("deploy", deployed, 0, "default: rotated; the stored token expires 20")
	first := a.published(rotations[0].TokenSecret)
	a.checkFunction()
	a.checkSurroundings()

	again := a.make("deploy", `PARAMS=AlarmEmail=ops@example.com ReservedConcurrency=5`)
	a.mustSay("deploy without a change", again, 0, "Nothing has changed", "default: rotated; the stored token expires 20")
	if second := a.published(rotations[0].TokenSecret); second == first {
		t.Error("deploy without a change has not rotated")
	} else {
		first = second
	}

	a.mustSay("status", a.make("status"), 0, "default: rotated at 20", "; the stored token expires 20")
	a.mustSay("invoke ensure", a.make("invoke", "MODE=ensure"), 0, "default: fresh; ")
	a.mustSay("status after it", a.make("status"), 0, "default: fresh at 20")
	if second := a.published(rotations[0].TokenSecret); second != first {
		t.Error("ensure has published although the token had life enough")
	}
	a.mustSay("invoke check", a.make("invoke", "MODE=check", "ROTATION=default"), 0, "default: checked; ")
	a.mustSay("invoke doctor", a.make("invoke", "MODE=doctor"), 0, "✓ configuration         valid: ", "\nrotation default\n✓ ", "\nnothing is wrong that can be seen without writing\n")
	a.mustSay("invoke a misspelt rotation", a.script("invoke", "MODE=ensure", "ROTATION=defualt"), 1, `misconfigured: no rotation is called "defualt"`)
	a.mustSay("status after that", a.make("status"), 0, "default: checked at 20", "\nthe run at 20", `could not begin: no rotation is called "defualt"`)
	a.mustSay("logs", a.make("logs"), 0, `"msg":"report"`, `"mode":"ensure"`, "CloudWatchMetrics")

	a.update()
	a.checkNoSecret("log", a.lambda.Printed())
	a.end()
}

// putKey stores the bootstrap key with scripts/put-bootstrap-key, untidily as
// people do, under a shell, and returns the ARN printed.
func (a *account) putKey(shell string) string {
	a.t.Helper()
	stored := a.keep(runIn(a.t, root, awsEnvironment(a.moto), "  "+a.cloud.BootstrapAPIKey()+"\r\n\n", shell, "scripts/put-bootstrap-key", "--name", a.stack+"/key"))
	arn := strings.TrimSuffix(stored.Stdout, "\n")
	if stored.Exit != 0 || !strings.HasPrefix(arn, "arn:aws:secretsmanager:"+awstest.Region+":123456789012:secret:"+a.stack+"/key-") || strings.ContainsAny(arn, " \n") {
		a.t.Fatalf("put-bootstrap-key: exit %d, printed %q and %q, want an ARN alone", stored.Exit, stored.Stdout, stored.Stderr)
	}
	return arn
}

// published returns the fingerprint of the token that a secret holds, which must
// be a token.
func (a *account) published(secret string) string {
	a.t.Helper()
	version := a.cloud.MustCurrent(secret)
	fingerprint := iamtoken.Token{Value: iamtoken.NewSecret(version.Payload)}.Fingerprint()
	if version.Payload == noTokenYet || version.Metadata["fingerprint"] != fingerprint {
		a.t.Errorf("the token secret holds no token that its metadata describes: %v", version.Metadata)
	}
	return fingerprint
}

// update changes a parameter, then goes from one rotation to a file of two.
func (a *account) update() {
	a.t.Helper()
	before := a.published(a.cloud.Rotations()[0].TokenSecret)
	zips := len(a.objects())
	updated := a.script("deploy", "PARAMS=LogLevel=debug", "BOOTSTRAP_EXPIRES_AT=2020-01-31")
	a.mustSay("update", updated, 0, "default: rotated; ", "; the old one had 5", "warning: the bootstrap API key expires 2020-01-31")
	if a.published(a.cloud.Rotations()[0].TokenSecret) == before {
		a.t.Error("the update published no token")
	}
	if got := a.describe().Configuration.Environment.Variables["LOG_LEVEL"]; got != "debug" {
		a.t.Errorf("got LOG_LEVEL %q after the update, want debug", got)
	}
	if got := len(a.objects()); got != zips {
		a.t.Errorf("the same code was uploaded under another key: %v", a.objects())
	}

	var entries []object
	for _, rotation := range a.cloud.Rotations() {
		entries = append(entries, object{"name": rotation.Name, "api_key_secret": rotation.APIKeySecret, "token_secret": rotation.TokenSecret})
	}
	text, err := json.Marshal(entries)
	if err != nil {
		a.t.Fatal(err)
	}
	file := filepath.Join(a.t.TempDir(), "my rotations.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	a.set["ROTATIONS_FILE"], a.set["API_KEY_SECRET"], a.set["TOKEN_SECRET"] = file, "", ""
	both := []string{a.cloud.Rotations()[0].Name + ": rotated", a.cloud.Rotations()[1].Name + ": rotated"}
	a.mustSay("update to a file", a.script("deploy"), 0, both...)
	a.mustSay("status of both", a.make("status"), 0, both...)
	a.published(a.cloud.Rotations()[1].TokenSecret)
}

// end destroys the stack, and looks for anything left or missing.
func (a *account) end() {
	a.t.Helper()
	destroyed := a.make("destroy")
	a.mustSay("destroy", destroyed, 0, "the bucket "+a.bucket, "the bootstrap secret "+a.set["BOOTSTRAP_SECRET_ARN"])
	if got := fmt.Sprint(a.objects()); got != "[iam-token-rotator/life/notes.txt]" {
		a.t.Errorf("the bucket holds %s, want only what was not ours", got)
	}
	a.checkGone(map[string]string{"FunctionRole": a.role, "LogGroup": "/aws/lambda/" + a.stack}) // moto forgets to delete what it has updated, but for these
	a.mustSay("put-bootstrap-key after destroy", programs.Result{Stdout: a.putKey("sh")}, 0, a.set["BOOTSTRAP_SECRET_ARN"])
	a.mustSay("destroy again", a.make("destroy"), 0, "There is no stack life")
	a.mustSay("deploy after destroy", a.script("deploy"), 0, a.cloud.Rotations()[0].Name+": rotated; ")
}
