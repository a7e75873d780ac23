package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/report"
)

func wantNothingWritten(t *testing.T, cloud *ibmcloudtest.Cloud) {
	t.Helper()
	for _, request := range cloud.Requests() {
		if request.Method != "GET" && request.Op != ibmcloudtest.OpIAMToken {
			t.Errorf("doctor asked for %s %s", request.Method, request.Path)
		}
	}
}

func TestTheDoctorEventAnswersWithTheDiagnosisAndRaisesNoAlarm(t *testing.T) {
	cloud, origin := newCloud(t)
	for name, test := range map[string]struct {
		payload string
		environ []string
		ok      bool
		says    string
	}{
		"sound":           {`{"mode":"doctor"}`, environ(cloud, origin), true, `"check":"stored-token"`},
		"by name":         {`{"mode":"doctor","rotations":["default"]}`, environ(cloud, origin), true, `"rotation":"default"`},
		"something wrong": {`{"mode":"doctor"}`, environ(cloud, origin, "SECRETS_MANAGER_APIKEY=unknown"), false, `"check":"bootstrap-identity","status":"failed"`},
		"unknown name":    {`{"mode":"doctor","rotations":["other"]}`, environ(cloud, origin), false, "no rotation is called"},
		"unknown field":   {`{"mode":"doctor","rotation":"default"}`, environ(cloud, origin), false, `unknown field \"rotation\"`},
		"empty list":      {`{"rotations":[],"mode":"doctor"}`, environ(cloud, origin), false, "rotations are empty"},
		"misconfigured":   {`{"mode":"doctor"}`, []string{"IAM_URL=http://iam.cloud.ibm.com"}, false, "IAM_URL: must begin with https://"},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			response, err := invoke(t, newFunction("the-function", test.environ, &log), test.payload)
			if err != nil {
				t.Fatalf("got %v, want the diagnosis as the response", err)
			}
			if diagnosis, err := report.ParseDiagnosis(response); err != nil || diagnosis.OK != test.ok || !bytes.Contains(response, []byte(test.says)) {
				t.Errorf("got %s, want ok %t and %s", response, test.ok, test.says)
			}
			if lines := logged(t, &log); messages(lines) != "diagnosis" || lines[0]["request_id"] != "request-0001" {
				t.Errorf("got log %s, want the diagnosis alone: no metric", &log)
			}
		})
	}
	wantNothingWritten(t, cloud)
}

func TestAWarmFunctionsDoctorSeesWhatHasBrokenSince(t *testing.T) {
	cloud, origin := newCloud(t)
	f := newFunction("the-function", environ(cloud, origin), &bytes.Buffer{})
	if _, err := invoke(t, f, `{}`); err != nil {
		t.Fatal(err)
	}
	cloud.MustDeleteAPIKey(cloud.BootstrapAPIKey())
	response, err := invoke(t, f, `{"mode":"doctor"}`)
	if err != nil || !bytes.Contains(response, []byte(`"check":"bootstrap-identity","status":"failed"`)) {
		t.Errorf("got %s, %v; want the bootstrap identity rejected, although the function still has a token of it", response, err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestADiagnosisThatCannotBePrintedFails(t *testing.T) {
	cloud, origin := newCloud(t)
	var stderr bytes.Buffer
	if exit := command([]string{"doctor"}, environ(cloud, origin), nil, fullDisk{}, &stderr); exit != 1 || !strings.Contains(stderr.String(), "writing to stdout: no space left") {
		t.Errorf("got exit %d, %s", exit, &stderr)
	}
}

func TestDoctorAndTheSecretsInAWS(t *testing.T) {
	const arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:k-Ab12Cd"
	cloud, origin := newCloud(t)
	one := cloud.Rotations()[0]
	list := `ROTATIONS=[{"name":"a","api_key_secret":"` + one.APIKeySecret + `","token_secret":"` + one.TokenSecret + `","mirror":["` + arn[:len(arn)-1] + `x"]}]`
	environ := environ(cloud, origin, "SECRETS_MANAGER_APIKEY=", "SECRETS_MANAGER_APIKEY_ARN="+arn, "API_KEY_SECRET=", "TOKEN_SECRET=", list)
	for _, test := range []struct {
		denial string
		exit   int
		words  []string
	}{
		{"", 0, []string{"✓ bootstrap-key         the secret that SECRETS_MANAGER_APIKEY_ARN names", "✓ bootstrap-identity", "✓ mirror", "waits for the first token"}},
		{"no " + cloud.BootstrapAPIKey(), 1, []string{"✗ bootstrap-key         denied: reading the bootstrap key from the AWS secret " + arn,
			"secretsmanager:GetSecretValue", "– bootstrap-identity    not tried: bootstrap-key failed", "✗ mirror                denied: ", "secretsmanager:DescribeSecret"}},
	} {
		aws := newAWSSecret(t, cloud.BootstrapAPIKey())
		aws.denial = test.denial
		var stdout bytes.Buffer
		exit := command([]string{"doctor"}, environ, nil, &stdout, io.Discard)
		for _, asked := range aws.requests {
			if asked != "GetSecretValue" && asked != "DescribeSecret" {
				t.Errorf("doctor asked AWS for %s", asked)
			}
		}
		if strings.Contains(stdout.String(), cloud.BootstrapAPIKey()) {
			t.Fatal("the bootstrap key shows")
		}
		for _, words := range test.words {
			if exit != test.exit || !strings.Contains(stdout.String(), words) {
				t.Errorf("got exit %d, %s\nwant %q", exit, &stdout, words)
			}
		}
	}
}
