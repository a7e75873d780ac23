package main

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"iam-token-rotator/functions/ibmcloudtest"
)

// runsOn checks that the schedules run a version, with its settings.
func (a *account) runsOn(version, tokenSecret string) {
	a.t.Helper()
	stack, err := a.ownStack(a.t.Context())
	noError(a.t, err)
	want(a.t, "the alias names", a.live(), version)
	want(a.t, "the stack's output", output(stack, "AliasVersion"), version)
	want(a.t, "TOKEN_SECRET of $LATEST", a.variables()["TOKEN_SECRET"], tokenSecret)
	a.must(0, "status", "; the stored token expires ")
	a.must(0, "invoke --mode=ensure", ": fresh; ")
}

// A deployment with any fault does not replace one that works, and leaves nothing behind.
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
		{"lost-release", func(a *account) {
			a.store(a.objects(a.prefix("release"))[0], "{}")
			a.set["TOKEN_SECRET"] = unknown
		}, "default: look: not_found: "},
		{"dead-bootstrap-key", func(a *account) {
			a.set["BOOTSTRAP_SECRET_ARN"] = a.newSecret("dead", strings.Repeat("dead-key-", 5))
		}, "default: bootstrap: denied: "},
		{"wrong-architecture", func(a *account) {
			a.set["DEPLOY_DIR"] = a.t.TempDir()
			noError(a.t, os.WriteFile(filepath.Join(a.set["DEPLOY_DIR"], "bootstrap"), append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...), 0o700))
		}, "exec format error"},
		{"faulty-list", func(a *account) { a.useFile(a.cloud.Rotations()[1].TokenSecret, unknown) }, "1 of 2 rotations failed"},
		{"no-save", func(a *account) { // the check does not save
			a.set["PARAMS"] = "LogLevel=debug"
			noError(a.t, a.cloud.AddFault(ibmcloudtest.Fault{Op: "versions.create", Times: 1, Status: 404}))
		}, " failed: RotationRefused: 1 of 1 rotations failed; default: save: not_found: "},
		{"dead-key", func(a *account) {
			a.set["API_KEY_SECRET"] = a.cloud.Rotations()[1].APIKeySecret
			a.cloud.MustDeleteAPIKey(a.cloud.Rotations()[1].APIKey)
		}, "default: exchange: denied: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a.t, a.set = t, maps.Clone(set)
			tt.wrong(a)
			a.must(1, "deploy", tt.says, "the stack returns to version 1", "\nThe schedules run version 1. Correct that and deploy again\n")
			want(t, "environment", a.variables(), variables)
			want(t, "token", a.published(good), before)
			a.runsOn("1", good)
			want(t, "releases", a.releases(), []string{"1"})
		})
	}
}

// A release that only cannot be read now is not replaced.
func TestLostObjects(t *testing.T) {
	for code, want := range map[string]bool{"NoSuchKey": true, "AccessDenied": false, "SlowDown": false, "InternalError": false} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, "<Error><Code>%s</Code></Error>", code)
		}))
		defer server.Close()
		p := program{clients: clients{s3: s3.NewFromConfig(configFor(server.URL), func(o *s3.Options) { o.UsePathStyle = true })}}
		_, err := p.get(t.Context(), "bucket", "key")
		if _, lost := errors.AsType[lostError](err); lost != want || !strings.Contains(fmt.Sprint(err), code) {
			t.Errorf("%s: got %v, lost %v; want %v", code, err, lost, want)
		}
	}
}

// rollback returns one version at a time, with its settings. The next deployment deletes the versions that it has left. destroy
// deletes nothing before the answer, also if the stack no longer exists.
func TestRollback(t *testing.T) {
	t.Parallel()
	a := newAccount(t, "back")
	a.must(1, "rollback", "there is no stack back in account 123456789012")
	a.must(0, "deploy")
	a.must(1, "rollback", "version 1 is the oldest that deploy has kept: there is nothing to return to")
	level := func(value, version string) {
		t.Helper()
		want(t, "MIN_REMAINING", a.variables()["MIN_REMAINING"], value)
		want(t, "the alias names", a.live(), version)
		a.must(0, "status")
	}
	for n := 2; n <= 3; n++ {
		a.set["PARAMS"] = fmt.Sprintf("MinRemaining=%dm", 10+n)
		a.must(0, "deploy", fmt.Sprintf("The schedules run version %d from now on", n))
	}
	a.set["PARAMS"] = ""
	a.must(0, "rollback", "Returning the stack back from version 3 to 2", "default: rotated; ")
	level("12m", "2")
	a.must(0, "rollback -o json", `"version": "1"`)
	level("8m", "1")
	a.must(0, "deploy", "The schedules run version 4 from now on")
	level("8m", "4")
	listed, err := a.program.lambda.ListVersionsByFunction(t.Context(), &lambda.ListVersionsByFunctionInput{FunctionName: &a.stack})
	noError(t, err)
	var versions []string
	for _, version := range listed.Versions {
		versions = append(versions, *version.Version)
	}
	want(t, "versions, releases", fmt.Sprint(versions, a.releases()), "[$LATEST 1 4] [1 4]")
	for _, key := range a.objects(a.prefix("release")) { // by somebody who may only write to the bucket
		a.store(key, `{"template":"Resources: {}","parameters":{}}`)
	}
	a.must(1, "rollback", "could not be returned to version 1", "was changed after deploy had stored it")
	want(t, "the alias names", a.live(), "4")

	left := len(a.objects(""))
	destroy := func(typed string, exit, objects int, says string) {
		t.Helper()
		got := a.run(typed, "destroy", "--bucket="+a.bucket)
		if n := len(a.objects("")); got.exit != exit || n != objects || !strings.Contains(got.stderr, says) {
			t.Errorf("answered %q: got exit code %d and %d objects left, want %d and %d:\n%s", typed, got.exit, n, exit, objects, got.all())
		}
	}
	destroy("n\n", 1, left, "log. Continue? [y/N] rotatorctl: not confirmed: nothing was changed")
	a.must(0, "invoke --mode=check", "default: checked")
	a.query("cloudformation", "Action=DeleteStack&Version=2010-05-15&StackName=back", &struct{}{})
	destroy("\n", 1, left, "destroy: there is no stack back in account 123456789012, region eu-central-1: check STACK and AWS_REGION\nThis deletes only its zips, from the bucket back-code. Continue? [y/N] rotatorctl: not confirmed")
	destroy("yes\n", 1, 0, "there is no stack back in account")
}

func TestReleasesThatAreKept(t *testing.T) {
	stack := &types.Stack{Parameters: []types.Parameter{{ParameterKey: aws.String(releasesList), ParameterValue: aws.String("4:d,x:e,2:b,5,10:j,1:a,,9:i,0:z")}}}
	for _, tt := range []struct {
		live, version int
		want          string
	}{
		{10, 11, "2:b,4:d,9:i,10:j,11:new"}, // the oldest goes
		{4, 11, "1:a,2:b,4:d,11:new"},       // rollback has left 9 and 10
		{10, 10, "1:a,2:b,4:d,9:i,10:new"},
		{0, 1, "1:new"},
	} {
		want(t, fmt.Sprint(tt.live, " ", tt.version), stackReleases(stack).with(tt.live, tt.version, "new"), tt.want)
	}
	want(t, "before 9, before 1", fmt.Sprint(stackReleases(stack).before(9), stackReleases(stack).before(1)), "4 0")
}

// A deployment that ended between the check and the alias continues; one whose stack cannot be returned says so.
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
	a.must(1, "deploy", "the alias could not be moved to version 2: AccessDenied", "Deploy again to continue")
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

	// Two at once: the last to change the stack continues, whatever happens to the other.
	live := a.live()
	for path, secret := range map[string]string{"/versions": good, "/invocations": "00000000-0000-4000-8000-000000000000"} {
		a.answer = func(r *http.Request, _ url.Values) (int, string) {
			if stack, err := a.ownStack(t.Context()); err == nil && strings.HasSuffix(r.URL.Path, path) {
				others := stack.Parameters
				others[slices.IndexFunc(others, func(p types.Parameter) bool { return *p.ParameterKey == "MinRemaining" })].ParameterValue = aws.String("9m")
				_, err = a.stacks.UpdateStack(t.Context(), &cloudformation.UpdateStackInput{StackName: &a.stack, UsePreviousTemplate: aws.Bool(true), Parameters: others})
				want(t, "the other's update", err, nil)
			}
			return 0, ""
		}
		a.set["TOKEN_SECRET"], a.set["PARAMS"] = secret, "MinRemaining=14m"
		a.must(1, "deploy", "another deployment has changed the stack goes-on meanwhile")
		want(t, "MIN_REMAINING", a.variables()["MIN_REMAINING"], "9m")
		want(t, "the alias names", a.live(), live)
	}
}

// What the template alone has deployed, with and without an alias, runs unchecked; deploy keeps it until its own is checked.
func TestOverTheTemplateAlone(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../infra/aws/template.yaml")
	noError(t, err)
	old := regexp.MustCompile(`(?ms)^  AliasVersion:\n.*?\n\n|^  Alias:\n.*?\n\n|    DependsOn: Alias\n|, AliasVersion`).ReplaceAllString(string(text), "\n")
	old = strings.NewReplacer("Qualifier: live", "Qualifier: $LATEST", "!Ref Alias\n", "!GetAtt Function.Arn\n").Replace(old)
	old = regexp.MustCompile(`  AliasVersion:\n    Description.*\n    Value.*\n`).ReplaceAllString(old, "")
	for name, template := range map[string]string{"alone": string(text), "older": old} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAccount(t, name)
			a.must(0, "deploy") // for the zip
			zip := a.objects(a.prefix("rotate"))[0]
			a.query("cloudformation", "Action=DeleteStack&Version=2010-05-15&StackName="+name, &struct{}{})
			d := deployment{program: &program{stack: name}, root: "../..", values: maps.Clone(a.set)}
			d.values["ARCH"] = "arm64"
			noError(t, d.readParameters())
			all, parameters := maps.Clone(d.defaults), []types.Parameter{} // moto cannot update a stack that was given some
			maps.Copy(all, d.parameters)
			all["CodeKey"] = zip
			for key, value := range all {
				if strings.Contains(template, "\n  "+key+":\n") {
					parameters = append(parameters, types.Parameter{ParameterKey: aws.String(key), ParameterValue: aws.String(value)})
				}
			}
			if _, err := a.stacks.CreateStack(t.Context(), &cloudformation.CreateStackInput{StackName: &name, TemplateBody: &template, Parameters: parameters}); err != nil {
				t.Fatal(err)
			}
			if name == "alone" {
				want(t, "the alias names", a.live(), "$LATEST")
				a.must(0, "invoke --mode=rotate", "default: rotated")
				a.must(0, "status", "default: rotated")
			} else { // what ran in the stack of before may be deployed no more
				a.log(time.Minute, `{"msg":"report","report":{"results":[{"rotation":"gone","outcome":"rotated"}]}}`)
				a.must(1, "status", "no report since ")
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
