package main

import (
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/infra/aws/awstest"
)

// live is the version that the alias names.
func (a *account) live() string {
	a.t.Helper()
	alias, err := lambda.NewFromConfig(configFor(a.url)).GetAlias(a.t.Context(), &lambda.GetAliasInput{FunctionName: &a.stack, Name: aws.String(aliasName)})
	if err != nil {
		a.t.Fatal(err)
	}
	return *alias.FunctionVersion
}

// runsOn fails the test unless the schedules run that version as if nothing had happened.
func (a *account) runsOn(version, tokenSecret string) {
	a.t.Helper()
	want(a.t, "the alias names", a.live(), version)
	want(a.t, "the stack's output", a.output("AliasVersion"), version)
	want(a.t, "TOKEN_SECRET of $LATEST", a.variables()["TOKEN_SECRET"], tokenSecret)
	a.must(0, "status", "; the stored token expires ")
	a.must(0, "invoke --mode=ensure", ": fresh; ")
}

func (a *account) output(key string) string {
	a.t.Helper()
	var answer struct {
		Outputs []struct {
			Key   string `xml:"OutputKey"`
			Value string `xml:"OutputValue"`
		} `xml:"DescribeStacksResult>Stacks>member>Outputs>member"`
	}
	a.query("cloudformation", "Action=DescribeStacks&Version=2010-05-15&StackName="+a.stack, &answer)
	for _, output := range answer.Outputs {
		if output.Key == key {
			return output.Value
		}
	}
	return ""
}

// releases are the versions that rollback knows.
func (a *account) releases() (numbers []string) {
	a.t.Helper()
	for _, key := range a.objects() {
		if name, found := strings.CutPrefix(key, "iam-token-rotator/"+a.stack+"/release-"); found {
			version, _, _ := strings.Cut(name, "-")
			numbers = append(numbers, version)
		}
	}
	return numbers
}

// foreignBinary has the function built for a processor that is not this one.
func (a *account) foreignBinary() {
	a.t.Helper()
	folder := a.t.TempDir()
	binary, err := os.ReadFile(filepath.Join(mustBuild(a.t), "bootstrap"))
	if err == nil {
		binary[18] ^= 62 ^ 183 // e_machine, x86-64 or AArch64
		err = os.WriteFile(filepath.Join(folder, "bootstrap"), binary, 0o700)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.set["DEPLOY_DIR"] = folder
}

// A deployment that is wrong does not take the place of one that is right, whatever is wrong, and leaves nothing.
func TestWrongOverGood(t *testing.T) {
	t.Parallel()
	const unknown = "00000000-0000-4000-8000-000000000000"
	a := newAccount(t, "wrong")
	good := a.set["TOKEN_SECRET"]
	a.must(0, "deploy", "version 1", "default: rotated")
	before, variables, set := a.published(good), a.variables(), maps.Clone(a.set)
	for _, tt := range []struct {
		name  string
		wrong func(a *account)
		says  string
	}{
		{"wrong-id", func(a *account) { a.set["TOKEN_SECRET"] = unknown }, "default: look: not_found: "},
		{"dead-bootstrap-key", func(a *account) {
			secret := a.moto.MustCall(a.t, "secretsmanager", "secretsmanager.CreateSecret", object{"Name": "dead", "SecretString": strings.Repeat("dead-key-", 5), "ClientRequestToken": strings.Repeat("e", 32)})
			a.set["BOOTSTRAP_SECRET_ARN"] = secret["ARN"].(string)
		}, "default: bootstrap: denied: "},
		{"wrong-architecture", (*account).foreignBinary, "exec format error"},
		{"faulty-list", func(a *account) {
			a.useFile()
			list, err := os.ReadFile(a.set["ROTATIONS_FILE"])
			if err == nil {
				err = os.WriteFile(a.set["ROTATIONS_FILE"], []byte(strings.Replace(string(list), a.cloud.Rotations()[1].TokenSecret, unknown, 1)), 0o600)
			}
			if err != nil {
				a.t.Fatal(err)
			}
		}, "1 of 2 rotations failed"},
		{"no-save", func(a *account) { // the check does not save
			a.set["PARAMS"] = "LogLevel=debug"
			if err := a.cloud.AddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Status: 404}); err != nil {
				a.t.Fatal(err)
			}
		}, " failed: RotationRefused: 1 of 1 rotations failed; default: save: not_found: "},
		{"dead-key", func(a *account) {
			a.set["API_KEY_SECRET"] = a.cloud.Rotations()[1].APIKeySecret
			a.cloud.MustDeleteAPIKey(a.cloud.Rotations()[1].APIKey)
		}, "default: exchange: denied: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.t, a.set = t, maps.Clone(set)
			tt.wrong(a)
			a.must(1, "deploy", tt.says, "the stack returns to version 1", "\nVersion 1 runs on. Correct that and deploy again\n")
			want(t, "environment", a.variables(), variables)
			want(t, "token", a.published(good), before)
			a.runsOn("1", good)
			want(t, "releases", a.releases(), []string{"1"})
		})
	}
}

// Back one at a time, with the settings of then; what was gone back from goes with the next deployment, and old ones too.
func TestRollback(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "back")
	a.must(1, "rollback", "there is no stack back in account 123456789012")
	a.must(0, "deploy")
	a.must(1, "rollback", "there is no version before 1")
	level := func(value, version string) {
		t.Helper()
		want(t, "MIN_REMAINING", a.variables()["MIN_REMAINING"], value)
		want(t, "the alias names", a.live(), version)
		a.must(0, "status")
	}
	for n := 2; n <= 6; n++ {
		a.set["PARAMS"] = "MinRemaining=" + strconv.Itoa(10+n) + "m"
		a.must(0, "deploy", "The schedules run version "+strconv.Itoa(n)+" from now on")
	}
	a.set["PARAMS"] = ""
	want(t, "releases", a.releases(), "[2 3 4 5 6]")
	a.must(0, "rollback", "Returning the stack back from version 6 to 5", "default: rotated; ")
	level("15m", "5")
	a.must(0, "rollback -o json", `"version": "4"`)
	level("14m", "4")
	a.must(0, "deploy", "The schedules run version 7 from now on")
	level("14m", "7")
	want(t, "releases", a.releases(), "[2 3 4 7]")
	listed, err := lambda.NewFromConfig(configFor(a.url)).ListVersionsByFunction(t.Context(), &lambda.ListVersionsByFunctionInput{FunctionName: &a.stack})
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, version := range listed.Versions {
		versions = append(versions, *version.Version)
	}
	want(t, "versions", versions, "[$LATEST 2 3 4 7]")
	a.must(0, "rollback", "from version 7 to 4")
	for _, key := range a.objects() { // by who may write to the bucket alone
		if strings.Contains(key, "/release-") {
			a.moto.MustDo(t, awstest.Request{Service: "s3", Method: "PUT", Path: "/" + a.bucket + "/" + key, Body: `{"template":"Resources: {}","parameters":{}}`})
		}
	}
	a.must(1, "rollback", "could not be returned to version 3", "is not what deploy stored there")
	want(t, "the alias names", a.live(), "4")
	a.must(0, "destroy --yes")
	want(t, "left in the bucket", a.objects(), "[]")
}

// A deployment that ended between the check and the alias goes on; one whose stack cannot be returned says so.
func TestDeploymentGoesOn(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "goes-on")
	a.must(0, "deploy")
	updates, refused := 0, 2
	a.answer = func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("Action") == "UpdateStack" {
			updates++
		}
		if updates != refused {
			return 0, ""
		}
		return forbidding("UpdateStack", "AccessDenied")(nil, form)
	}
	a.set["PARAMS"] = "MinRemaining=12m"
	a.must(1, "deploy", "the alias could not be moved to version 2: AccessDenied", "Deploy again to go on")
	want(t, "the alias names", a.live(), "1")
	a.must(0, "deploy", "Nothing has changed", "The schedules run version 2 from now on")
	want(t, "the alias names", a.live(), "2")

	good := a.set["TOKEN_SECRET"]
	a.set["TOKEN_SECRET"], updates = "00000000-0000-4000-8000-000000000000", 0
	a.must(1, "deploy", "The schedules run version 2, but the stack could not be returned to it: AccessDenied")
	want(t, "the alias names", a.live(), "2")
	// What is deployed now is wrong, but the version before is known: to that the next one returns.
	a.answer, a.set["API_KEY_SECRET"] = nil, "00000000-0000-4000-8000-000000000000"
	a.must(1, "deploy", "the stack returns to version 2")
	a.runsOn("2", good)
	a.set["PARAMS"] = "MinRemaining=13m"
	a.must(1, "deploy --unchecked", "Warning: the check of version ", "the stack is deployed, but the first run of version ")
	a.set["TOKEN_SECRET"], a.set["API_KEY_SECRET"] = good, a.cloud.Rotations()[0].APIKeySecret
	a.must(0, "deploy", "default: rotated")
}

// What the template alone has deployed, with and without an alias, runs unchecked; deploy keeps it until its own is checked.
func TestOverTheTemplateAlone(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../infra/aws/template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	old := regexp.MustCompile(`(?ms)^  AliasVersion:\n.*?\n\n|^  Alias:\n.*?\n\n|    DependsOn: Alias\n|, AliasVersion`).ReplaceAllString(string(text), "\n")
	old = strings.NewReplacer("Qualifier: live", "Qualifier: $LATEST", "!Ref Alias\n", "!GetAtt Function.Arn\n").Replace(old)
	old = regexp.MustCompile(`  AliasVersion:\n    Description.*\n    Value.*\n`).ReplaceAllString(old, "")
	for name, template := range map[string]string{"alone": string(text), "older": old} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, name)
			a.must(0, "deploy") // for the zip
			zip := a.objects()[slices.IndexFunc(a.objects(), func(key string) bool { return strings.HasSuffix(key, ".zip") })]
			a.query("cloudformation", "Action=DeleteStack&Version=2010-05-15&StackName="+name, &struct{}{})
			d := deployment{program: &program{stack: name}, root: "../..", values: maps.Clone(a.set)}
			d.values["ARCH"] = "arm64"
			if err := d.readParameters(); err != nil {
				t.Fatal(err)
			}
			d.parameters["CodeKey"] = zip
			parameters := []types.Parameter{}
			for key, value := range d.completed(nil) {
				if strings.Contains(template, "\n  "+key+":\n") {
					parameters = append(parameters, types.Parameter{ParameterKey: aws.String(key), ParameterValue: aws.String(value)})
				}
			}
			client := cloudformation.NewFromConfig(configFor(a.url))
			if _, err := client.CreateStack(t.Context(), &cloudformation.CreateStackInput{StackName: &name, TemplateBody: &template, Parameters: parameters}); err != nil {
				t.Fatal(err)
			}
			if name == "alone" {
				want(t, "the alias names", a.live(), "$LATEST")
				a.must(0, "invoke --mode=rotate", "default: rotated")
				a.must(0, "status", "default: rotated")
			}
			a.must(1, "rollback", "the stack was not deployed by rotatorctl deploy")
			good := a.set["TOKEN_SECRET"]
			a.set["TOKEN_SECRET"] = "00000000-0000-4000-8000-000000000000"
			a.must(1, "deploy", "the stack returns to version 1")
			want(t, "TOKEN_SECRET", a.variables()["TOKEN_SECRET"], good)
			a.set["TOKEN_SECRET"], a.set["PARAMS"] = good, "LogLevel=debug"
			a.must(0, "deploy", "default: rotated")
			a.must(0, "status", "default: rotated")
		})
	}
}
