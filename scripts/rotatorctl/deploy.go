package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// setting is an option of deploy, which a variable can set too. Most set a parameter of the template.
type setting struct {
	variable, parameter, help string
}

var settings = []setting{
	{"BUCKET", "CodeBucket", "S3 bucket for the function's zip, in the stack's region"},
	{"BOOTSTRAP_SECRET_ARN", "BootstrapSecretArn", "AWS secret with the bootstrap API key, as rotatorctl put-key prints it"},
	{"SECRETS_MANAGER_URL", "SecretsManagerUrl", "endpoint of the IBM Cloud Secrets Manager instance"},
	{"IAM_URL", "IamUrl", "IAM endpoint, if not https://iam.cloud.ibm.com"},
	{"API_KEY_SECRET", "ApiKeySecret", "IBM secret with the API key to exchange"},
	{"TOKEN_SECRET", "TokenSecret", "id of the IBM secret to save the token to"},
	{"EXPECT_ACCOUNT", "ExpectAccount", "account that the token must be of"},
	{"EXPECT_IAM_ID", "ExpectIamId", "IAM id that the token must be of"},
	{"ROTATIONS_FILE", "RotationsFile", "a list of rotations, in place of these four"},
	{"BOOTSTRAP_KEY_SECRET", "BootstrapKeySecret", "IBM secret in which IBM renews the bootstrap API key"},
	{"BOOTSTRAP_EXPIRES_AT", "BootstrapExpiresAt", "when the bootstrap API key expires, if IAM does not show it: 2026-01-31"},
	{"ARCH", "Architecture", "arm64 (if not set) or amd64; aarch64 and x86_64 mean the same"},
	{"PARAMS", "", `other parameters of the template in infra/aws, "Key=Value …"; each keeps its value until set again`},
	{"TAGS", "", `tags of the stack and everything in it, "Key=Value …"; they stay until set again`},
	{"CLOUDFORMATION_ROLE_ARN", "", "service role for CloudFormation, which also uses it for later updates and the deletion"},
	{"DEPLOY_DIR", "", "folder to build in (build/deploy)"},
}

// ownParameters are the parameters that deploy itself sets, and why PARAMS must not.
var ownParameters = map[string]string{
	"CodeKey":    "deploy names the zip after its content",
	namesKey:     "deploy names the list after its content",
	aliasVersion: "deploy sets it to the version that it has checked",
	releasesList: "deploy sets it to what rollback can return to",
}

// ofOneRotation are the variables that ROTATIONS_FILE replaces. Without it the first two are required.
var ofOneRotation = []string{"API_KEY_SECRET", "TOKEN_SECRET", "EXPECT_ACCOUNT", "EXPECT_IAM_ID"}

func (s setting) option() string { return strings.ToLower(strings.ReplaceAll(s.variable, "_", "-")) }

func (p *program) deployCommand() *cobra.Command {
	d := deployment{program: p, values: map[string]string{}}
	var cmd *cobra.Command
	cmd = p.newCommand("deploy", "Deploy the function as a CloudFormation stack and rotate once",
		`Builds the function, uploads it, creates or updates the stack, and publishes a new version of the function. It invokes this version
with check, which does everything but save. Only then do the schedules run it; it rotates once, so that a token exists.
If the check or this rotation fails, the schedules run the version before, with its settings and roles, and the exit code is 1.
Run deploy inside the repository. The first build takes a minute or two.`,
		func(ctx context.Context) error {
			for _, s := range settings {
				d.values[s.variable] = cmd.Flag(s.option()).Value.String()
			}
			return d.run(ctx)
		})
	cmd.Flags().SortFlags = false
	for _, s := range settings {
		cmd.Flags().String(s.option(), "", s.help+" ("+s.variable+")")
	}
	cmd.Flags().BoolVar(&d.fleet, "fleet", false, "deploy infra/aws/fleet.yaml, for hundreds or thousands of rotations (FLEET)")
	cmd.Flags().BoolVar(&d.unchecked, "unchecked", false, "deploy even if the check or the first run fails, for example of one rotation of a list (UNCHECKED)")
	return cmd
}

// deployment is one run of deploy.
type deployment struct {
	*program
	values     map[string]string // of settings, by the variable
	root       string            // the repository
	fleet      bool
	unchecked  bool
	force      bool              // check and rotate even if the stored token is another identity's or expires later
	list       []byte            // what ROTATIONS_FILE holds; nil without it
	names      []string          // of a fleet's rotations
	packed     []byte            // the zip
	template   string            // its text
	defaults   map[string]string // of the template's parameters
	others     []string          // the parameters that PARAMS may set
	parameters map[string]string // what the stack gets
	existing   *types.Stack      // nil if there is none yet
	live       int               // the version that the schedules run until the new one is checked; 0 for none
	version    int               // the new version; the live one if nothing has changed
	releases   releases          // before this deployment
	kept       releases          // after it; nil if they are the same
}

func (d *deployment) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.check, d.connect, d.checkBucket, d.pack, d.upload, d.holdLive, d.createOrUpdate, d.publish, d.checkVersion, d.moveAlias, d.finish,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// check finds mistakes in options and files, before anything is built or sent.
func (d *deployment) check(ctx context.Context) error {
	var err error
	if d.root, err = repository(); err != nil {
		return err
	}
	required := []string{"BUCKET", "BOOTSTRAP_SECRET_ARN", "SECRETS_MANAGER_URL"}
	unset := func(name string) bool { return d.values[name] == "" }
	file := d.values["ROTATIONS_FILE"]
	if d.fleet {
		required = append(required, "ROTATIONS_FILE")
	} else if file == "" {
		required = append(required, ofOneRotation[:2]...)
	}
	if set := slices.DeleteFunc(slices.Clone(ofOneRotation), unset); file != "" && len(set) > 0 {
		return usagef("ROTATIONS_FILE and %s are set: set one rotation or a list, not both", strings.Join(set, ", "))
	}
	if missing := slices.DeleteFunc(required, func(name string) bool { return !unset(name) }); len(missing) > 0 {
		return usagef("set %s: load what setup wrote (set -a; . build/ibm.env; set +a); without setup, rotatorctl put-key stores a key and prints BOOTSTRAP_SECRET_ARN; BUCKET is an S3 bucket of yours in the stack's region (rotatorctl deploy -h explains all of them)",
			strings.Join(missing, ", "))
	}
	asAWSCallsIt := map[string]string{"": "arm64", "arm64": "arm64", "aarch64": "arm64", "amd64": "x86_64", "x86_64": "x86_64"}
	arch, known := asAWSCallsIt[d.values["ARCH"]]
	if !known {
		return usagef("ARCH=%s is not known: use arm64 or amd64", quote(d.values["ARCH"]))
	}
	d.values["ARCH"] = arch
	if err := cmp.Or(d.readParameters(), d.readTags()); err != nil {
		return err
	}
	if role := d.values["CLOUDFORMATION_ROLE_ARN"]; roleARN.MatchString(role) {
		d.role = &role
	} else if role != "" {
		return usagef("CLOUDFORMATION_ROLE_ARN must be a role's ARN, arn:aws:iam::ACCOUNT:role/NAME")
	}
	if file != "" {
		return d.checkRotations(ctx, file)
	}
	return nil
}

// repository is the folder of go.mod, at or above the working directory.
func repository() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the repository: %w", err)
	}
	for ; ; folder = filepath.Dir(folder) {
		if text, err := os.ReadFile(filepath.Join(folder, "go.mod")); err == nil && bytes.HasPrefix(text, []byte("module iam-token-rotator\n")) {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", usagef("deploy builds the function: run it inside the repository of iam-token-rotator")
		}
	}
}

// pairs parses the variable PARAMS or TAGS.
func (d *deployment) pairs(variable string) (pairs [][2]string, err error) {
	for _, word := range strings.Fields(d.values[variable]) {
		key, value, found := strings.Cut(word, "=")
		if !found {
			return nil, usagef("%s has %s, which is no Key=Value (no value may have a space in it)", variable, quote(word))
		}
		pairs = append(pairs, [2]string{key, value})
	}
	return pairs, nil
}

// rotationsName is the list's name in the zip; the function reads it by this name.
const rotationsName = "rotations.json"

// readTemplate reads the template, and returns the rules of its parameters.
func (d *deployment) readTemplate() (map[string]rule, error) {
	file := filepath.Join(d.root, map[bool]string{false: "infra/aws/template.yaml", true: "infra/aws/fleet.yaml"}[d.fleet])
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	d.template = string(text)
	var template struct {
		Parameters map[string]rule `yaml:"Parameters"`
	}
	if err := yaml.Unmarshal(text, &template); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return template.Parameters, nil
}

// readParameters checks every value by the template's rule before it is sent to AWS: a value may be a key in the wrong place, and
// whoever may read the stack can read its parameters. It rejects a key of PARAMS that the template does not have, or that
// another variable or deploy itself sets.
func (d *deployment) readParameters() error {
	rules, err := d.readTemplate()
	if err != nil {
		return err
	}
	d.parameters, d.defaults = map[string]string{}, map[string]string{}
	variables, reserved := map[string]string{}, maps.Clone(ownParameters)
	for _, s := range settings {
		value := d.values[s.variable]
		if s.variable == "ROTATIONS_FILE" && value != "" {
			value = rotationsName
		}
		if _, known := rules[s.parameter]; known {
			d.parameters[s.parameter], variables[s.parameter] = value, s.variable
		}
		if s.parameter != "" {
			reserved[s.parameter] = "set " + s.variable
		}
	}
	names := slices.Sorted(maps.Keys(rules))
	d.others = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return reserved[name] != "" })
	given, err := d.pairs("PARAMS")
	if err != nil {
		return err
	}
	for _, pair := range given {
		switch key := pair[0]; {
		case reserved[key] != "":
			return usagef("PARAMS must not set %s: %s", key, reserved[key])
		case !slices.Contains(d.others, key):
			return usagef("PARAMS has the key %s, which the template does not know. It may have: %s", quote(key), strings.Join(d.others, " "))
		default:
			d.parameters[key] = pair[1]
		}
	}
	for _, name := range names {
		d.defaults[name] = rules[name].Default
		if err := rules[name].check(cmp.Or(variables[name], name), d.parameters[name]); err != nil {
			return err
		}
	}
	return nil
}

// rule is the template's rule for a parameter's value.
type rule struct {
	Default string   `yaml:"Default"`
	Pattern string   `yaml:"AllowedPattern"`
	Values  []string `yaml:"AllowedValues"`
	Must    string   `yaml:"ConstraintDescription"`
}

func (r rule) check(name, value string) error {
	pattern, err := regexp.Compile(r.Pattern)
	if err != nil {
		return fmt.Errorf("reading the parameter %s of the template: %w", name, err)
	}
	if value == "" || pattern.MatchString(value) && (r.Values == nil || slices.Contains(r.Values, value)) {
		return nil
	}
	return usagef("%s %s", name, cmp.Or(r.Must, "must be one of: "+strings.Join(r.Values, " ")))
}

var (
	roleARN = regexp.MustCompile(`^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9/_+=.@-]+$`)
	// The tags of every service may have letters, digits and these signs. Keys that begin with aws: are AWS's.
	tagKey   = regexp.MustCompile(`^[\pL\pN_.:/+@-]{1,128}$`)
	tagValue = regexp.MustCompile(`^[\pL\pN_.:/=+@-]{0,256}$`)
)

// readTags parses TAGS.
func (d *deployment) readTags() error {
	given, err := d.pairs("TAGS")
	if len(given) > 40 { // of the 50 that a resource may have
		return usagef("TAGS has %d tags: 40 at most", len(given))
	}
	for _, pair := range given {
		switch key, value := pair[0], pair[1]; {
		case !tagKey.MatchString(key) || !tagValue.MatchString(value) || strings.HasPrefix(strings.ToLower(key), "aws:"):
			return usagef("TAGS has %s: a key has 1 to 128, a value at most 256 letters, digits and _ . : / = + - @, and no key begins with aws:", quote(key+"="+value))
		case slices.ContainsFunc(d.tags, func(tag types.Tag) bool { return *tag.Key == key }):
			return usagef("TAGS has the key %s twice", quote(key))
		default:
			d.tags = append(d.tags, types.Tag{Key: &key, Value: &value})
		}
	}
	return err
}

// checkRotations has the function itself check the list, with valid values for all else: a faulty list must not replace one
// that works.
func (d *deployment) checkRotations(ctx context.Context, file string) error {
	whole, err := filepath.Abs(file)
	if info, failure := os.Stat(whole); err == nil && failure == nil && info.Mode().IsRegular() && info.Size() < 50<<20 { // Lambda accepts no larger zip
		d.list, err = os.ReadFile(whole)
	}
	if err != nil || d.list == nil {
		return usagef("ROTATIONS_FILE=%s cannot be read: it must be a file of less than 50 MiB", printable(file))
	}
	d.say("Checking ROTATIONS_FILE with the function itself; the first time its build takes a minute or two")
	check := d.goTool(ctx, "run", "-trimpath", "-buildvcs=false", "-tags", "lambda.norpc", "./functions/rotate", "config")
	check.Env = append(slices.DeleteFunc(check.Env, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return !strings.HasPrefix(name, "GO") && !slices.Contains([]string{"PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME"}, name)
	}), "ROTATIONS_FILE="+whole, "SECRETS_MANAGER_URL=https://sound.invalid", "SECRETS_MANAGER_APIKEY=sound")
	complaint := &bytes.Buffer{}
	check.Stdout, check.Stderr = nil, complaint
	if err := check.Run(); err != nil {
		message := fmt.Sprintf("ROTATIONS_FILE=%s: nothing was deployed", printable(file))
		for line := range strings.Lines(complaint.String()) {
			if !strings.HasPrefix(line, "exit status") {
				message += "\n  " + printable(strings.TrimRight(line, "\n"))
			}
		}
		return usagef("%s", message)
	}
	if d.fleet {
		return d.readNames()
	}
	return nil
}

// command is a program to run in the repository, without credentials: a build needs none.
func (d *deployment) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, name, args...)
	command.Dir, command.Env, command.Stdout, command.Stderr = d.root, withoutCredentials(os.Environ(), "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "IC_API_KEY", "IC_IAM_TOKEN"), d.stderr, d.stderr
	return command
}

func (d *deployment) goTool(ctx context.Context, args ...string) *exec.Cmd {
	return d.command(ctx, cmp.Or(d.getenv("GO"), "go"), args...)
}

func (d *deployment) checkBucket(ctx context.Context) error {
	d.say("Deploying the stack %s to %s", d.stack, d.who)
	bootstrap, _ := arn.Parse(d.values["BOOTSTRAP_SECRET_ARN"]) // check has compared it with the template's pattern
	if secret := (identity{bootstrap.AccountID, bootstrap.Region}); secret != d.who {
		d.say("Warning: the bootstrap secret is in %s. Is the stack in the right place?", secret)
	}
	bucket := printable(d.values["BUCKET"])
	_, err := d.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &bucket})
	if answer, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		switch answer.HTTPStatusCode() {
		case 301:
			return fmt.Errorf("the bucket %s is in the region %s, the stack in %s", bucket, printable(answer.Response.Header.Get("X-Amz-Bucket-Region")), d.who.region)
		case 403, 404:
			return fmt.Errorf("the bucket %s does not exist or is not yours. Make one in the stack's region: aws s3 mb s3://%s", bucket, bucket)
		}
	}
	if err != nil {
		return fmt.Errorf("the bucket %s: %w", bucket, awsError(err))
	}
	return nil
}

// pack builds the function and its zip.
func (d *deployment) pack(ctx context.Context) error {
	folder, err := filepath.Abs(cmp.Or(d.values["DEPLOY_DIR"], filepath.Join(d.root, "build/deploy")))
	if err == nil {
		err = os.MkdirAll(folder, 0o755)
	}
	if err != nil {
		return fmt.Errorf("making the folder to build in: %w", err)
	}
	binary, zip := filepath.Join(folder, "bootstrap"), filepath.Join(folder, "rotate.zip")
	if err := d.build(ctx, d, binary); err != nil {
		return err
	}
	arguments := []string{"run", "./scripts/package", "-o", zip, binary}
	if d.list != nil {
		list := filepath.Join(folder, rotationsName)
		if err := os.WriteFile(list, d.list, 0o600); err != nil {
			return fmt.Errorf("copying the list of rotations: %w", err)
		}
		arguments = append(arguments, list)
	}
	if err := d.goTool(ctx, arguments...).Run(); err != nil {
		return fmt.Errorf("packing the function failed: %w", err)
	}
	d.packed, err = os.ReadFile(zip)
	return err
}

// buildByMake builds the function as the Makefile says.
func buildByMake(ctx context.Context, d *deployment, binary string) error {
	d.say("Building the function; the first time that takes a minute or two")
	make := d.command(ctx, "make", "--no-print-directory", "deploy-build")
	// If a make has called this program, its variables must not reach this one.
	make.Env = append(slices.DeleteFunc(make.Env, func(variable string) bool {
		return strings.HasPrefix(variable, "MAKE") || strings.HasPrefix(variable, "MFLAGS=")
	}), "ARCH="+d.values["ARCH"], "DEPLOY_BINARY="+binary)
	if err := make.Run(); err != nil {
		return fmt.Errorf("building the function failed: %w", err)
	}
	return nil
}

// upload stores the zip, and of a fleet the names, under keys with the hashes of their contents.
func (d *deployment) upload(ctx context.Context) error {
	bucket, key := d.values["BUCKET"], fmt.Sprintf("%s%.16x.zip", d.prefix("rotate"), sha256.Sum256(d.packed))
	d.parameters["CodeKey"] = key
	d.say("Uploading the function to s3://%s/%s", printable(bucket), key)
	if err := d.put(ctx, bucket, key, d.packed); err != nil || !d.fleet {
		return err
	}
	return d.uploadNames(ctx)
}

// finish rotates once, so that a token exists, and prints the result.
func (d *deployment) finish(ctx context.Context) error {
	stack, err := d.ownStack(ctx)
	if err != nil {
		return err
	}
	e, longest := event{Mode: "rotate", Force: d.force}, "two minutes at most"
	if d.fleet {
		longest = "six minutes for each 1,000 rotations"
		if d.existing != nil { // a rotate beside the schedule's own would exceed the rate limit
			e.Mode = "ensure"
		}
	}
	d.say("Rotating once, so that a token exists and mistakes show now; that takes %s", longest)
	ran, err := d.runOnce(ctx, stack, e)
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted: the stack is deployed, but may have saved no new token yet: rotatorctl invoke --mode=rotate")
	case isFailure(err) && !d.fleet:
		return d.reject(ctx, "first run", err)
	case isFailure(err): // a fleet's version has passed its check, so the rotations themselves fail
		return fmt.Errorf("the stack is deployed, but %w", err)
	case err != nil:
		return err
	}
	d.prune(ctx)
	dashboard, text := output(stack, "DashboardUrl"), ran.text
	if dashboard != "" {
		text += "Dashboard: " + printable(dashboard) + "\n"
	}
	return d.print(
		map[string]any{"stack": d.stack, "account": d.who.account, "region": d.who.region, "version": strconv.Itoa(d.version), "dashboard": dashboard, "report": ran.document},
		text)
}
