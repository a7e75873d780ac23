package main

import (
	"fmt"
	"strings"
	"testing"

	"iam-token-rotator/infra/aws/awstest"
)

// The function's copy in AWS bears the version's id; without it the invocation
// fails, but not the token at IBM.
func TestTheFunctionCopiesTheTokenToAWS(t *testing.T) {
	s := newStage(t)
	moto := awstest.Start(t)
	more := awstest.Environment(moto.URL())
	delete(more, "AWS_REGION") // the ARN's counts
	arn, _ := moto.MustCall(t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{"Name": "iam-token", "ClientRequestToken": "11111111-2919-432f-9883-d5040bfcd326"})["ARN"].(string)
	mirrorTo := func(arn string) map[string]string {
		more["API_KEY_SECRET"], more["TOKEN_SECRET"] = "", ""
		more["ROTATIONS"] = fmt.Sprintf(`[{"name":"logs","api_key_secret":%q,"token_secret":%q,"mirror":[%q]}]`, s.env["API_KEY_SECRET"], s.env["TOKEN_SECRET"], arn)
		return more
	}
	stdout, stderr, exit := s.invoke(mirrorTo(arn))
	if exit != 0 {
		t.Fatalf("got exit %d: %s%s", exit, stdout, stderr)
	}
	result := firstResult(t, reports(t, stdout)[0])
	value := moto.MustCall(t, "secretsmanager", "secretsmanager.GetSecretValue", map[string]any{"SecretId": arn})
	if value["VersionId"] != result["version_id"] || !strings.HasPrefix(value["SecretString"].(string), "eyJ") {
		t.Errorf("got the copy %v, want version %v", value["VersionId"], result["version_id"])
	}
	if stdout, _, exit := s.invoke(mirrorTo(arn), "-event", s.event(`{"mode":"ensure"}`)); exit != 0 || !strings.Contains(stdout, `"fresh"`) {
		t.Errorf("ensure: got exit %d and %s, want fresh", exit, stdout)
	}
	stdout, stderr, exit = s.invoke(mirrorTo(strings.Replace(arn, "iam-token", "no-such-token", 1)))
	if exit != 1 || !strings.Contains(stdout, "mirror: not_found") {
		t.Errorf("no such secret: got exit %d and %s, want a failure of the step mirror", exit, stdout)
	}
	if !strings.Contains(stderr, `"Failure":1`) {
		t.Error("the metrics do not tell of the failure")
	}
}
