package ibm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"iam-token-rotator/scripts/programs"
)

// TestTheModuleByTerraform finds what does not fit the provider's schema. What Terraform itself lets through:
func TestMistakesThatTerraformAllows(t *testing.T) {
	var schema providerSchema
	raw, err := os.ReadFile("testdata/provider-schema.json")
	if err == nil {
		err = json.Unmarshal(raw, &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := loadConfiguration(t, ".")
	for _, mistake := range c.mistakes(schema) {
		t.Error(mistake)
	}
	if got := len(c.ofType("resource")); got < 10 {
		t.Errorf("resources: got %d, want every one of the folder", got)
	}
	example := loadConfiguration(t, "../terraform")
	for argument := range example.ofType("provider")[0].Body.Attributes {
		if !schema.Provider.Block.Attributes[argument].Optional {
			t.Errorf("the example's provider: no argument %s", argument)
		}
	}
	for source, want := range map[string]string{
		`resource "ibm_iam_service_id" "a" { iam_id = "a" }`:                         "iam_id is the provider's to set",
		`resource "ibm_iam_service_policy" "a" { iam_service_id = "a" }`:             "iam_service_id is deprecated",
		"resource \"ibm_iam_service_id\" \"a\" {\n provisioner \"local-exec\" {}\n}": "no block provisioner",
		`resource "ibm_iam_service_api_key" "a" {}`:                                  "into the state",
		`resource "ibm_sm_arbitrary_secret" "a" {}`:                                  "into the state",
		`resource "ibm_sm_kv_secret" "a" {}`:                                         "into the state",
		`resource "ibm_code_engine_secret" "a" {}`:                                   "into the state",
		`variable "a" {}`: "is used nowhere",
	} {
		bad := configuration{}
		bad.add(t, "bad.tf", source)
		if got := bad.mistakes(schema); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%s: got %q, want a mistake with %q", source, got, want)
		}
	}
}

// deniedTypes would carry a key, a secret value or a token into the state.
var deniedTypes = []string{"api_key", "secret_metadata", "_secret", "_secrets", "auth_token", "credential", "resource_key"}

// mistakes are values in the state, arguments that are the provider's to set or deprecated, programs that run, and variables
// without a use.
func (c *configuration) mistakes(schema providerSchema) (all []string) {
	for _, block := range c.ofType("resource") {
		name, kind := strings.Join(block.Labels, "."), block.Labels[0]
		if kind != "ibm_sm_secret_group" && slices.ContainsFunc(deniedTypes, func(part string) bool { return strings.Contains(kind, part) }) {
			all = append(all, name+": its values would be written into the state")
		}
		for argument := range block.Body.Attributes {
			switch attribute, known := schema.ResourceSchemas[kind].Block.Attributes[argument]; {
			case known && !attribute.Required && !attribute.Optional:
				all = append(all, name+": "+argument+" is the provider's to set")
			case attribute.Deprecated:
				all = append(all, name+": "+argument+" is deprecated")
			}
		}
		for _, inner := range block.Body.Blocks {
			if inner.Type == "provisioner" || inner.Type == "connection" {
				all = append(all, name+": no block "+inner.Type+" belongs here")
			}
		}
	}
	for name := range c.names("variable") {
		if !regexp.MustCompile(`\bvar\.` + name + `\b`).MatchString(c.text) {
			all = append(all, "the variable "+name+" is used nowhere")
		}
	}
	return all
}

// A providerSchema is what the provider says of its resources.
type providerSchema struct {
	Provider        struct{ Block schemaBlock }
	ResourceSchemas map[string]struct{ Block schemaBlock } `json:"resource_schemas"`
}

type schemaBlock struct {
	Attributes map[string]struct{ Required, Optional, Deprecated bool }
}

// TestNothingButTheProviderIsUsed keeps data sources, modules, imports and other providers' resources out:
// each would be a way for a value into the state. With a provider block, the module could not be used with for_each.
func TestNothingButTheProviderIsUsed(t *testing.T) {
	c := loadConfiguration(t, ".")
	allowed := []string{"terraform", "variable", "locals", "resource", "output"}
	roles := 0 // madeByTerraform has what they may do
	for _, block := range c.blocks {
		if len(block.Labels) > 0 && block.Labels[0] == "ibm_iam_custom_role" {
			roles++
		}
		if !slices.Contains(allowed, block.Type) {
			t.Errorf("%s: a block of type %s", block.TypeRange, block.Type)
		}
	}
	if roles != 2 {
		t.Errorf("custom roles: got %d, want 2", roles)
	}
}

func TestEverythingIsDocumented(t *testing.T) {
	c := loadConfiguration(t, ".")
	for _, block := range append(c.ofType("variable"), c.ofType("output")...) {
		if text := literals(t, block.Body, "description"); len(text[0]) < 20 {
			t.Errorf("%s %s: no description to speak of", block.Type, block.Labels[0])
		}
	}
	for _, block := range c.ofType("variable") {
		if block.Body.Attributes["type"] == nil {
			t.Errorf("variable %s: no type", block.Labels[0])
		}
		if !slices.ContainsFunc(block.Body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == "validation" }) {
			t.Errorf("variable %s: no validation", block.Labels[0])
		}
	}
}

func TestVersionsArePinned(t *testing.T) {
	source, err := os.ReadFile("versions.tf")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`required_version = ">= 1.11.0, < 2.0.0"`, `"IBM-Cloud/ibm"`, `version = "~> 2.5"`} {
		if !strings.Contains(string(source), want) {
			t.Errorf("versions.tf: got no %s", want)
		}
	}
	lock, err := os.ReadFile(".terraform.lock.hcl")
	if err != nil || !strings.Contains(string(lock), `"registry.terraform.io/ibm-cloud/ibm" {`) || !strings.Contains(string(lock), `= "~> 2.5"`) {
		t.Errorf(".terraform.lock.hcl: got %s, %v; want the provider at the same version", lock, err)
	}
}

func TestIsFormatted(t *testing.T) {
	for _, folder := range []string{".", "../terraform", "../aws/terraform"} {
		if out, err := exec.Command(programs.Path(t, "terraform"), "fmt", "-check", "-diff", folder).Output(); err != nil {
			t.Errorf("run terraform fmt in %s:\n%s", folder, out)
		}
	}
}

// TestTheExampleFitsTheModules: Terraform itself would say so only with the providers at hand.
func TestTheExampleFitsTheModules(t *testing.T) {
	example := loadConfiguration(t, "../terraform")
	for _, call := range example.ofType("module") {
		source := literals(t, call.Body, "source")[0]
		module := loadConfiguration(t, filepath.Join("../terraform", source))
		declared := module.names("variable")
		for name := range call.Body.Attributes {
			if !declared[name] && name != "source" && name != "for_each" {
				t.Errorf("module %s: no variable %s", call.Labels[0], name)
			}
		}
		for _, variable := range module.ofType("variable") {
			if variable.Body.Attributes["default"] == nil && call.Body.Attributes[variable.Labels[0]] == nil {
				t.Errorf("module %s: %s is not given", call.Labels[0], variable.Labels[0])
			}
		}
	}
	if got := len(example.ofType("module")); got != 2 {
		t.Errorf("got %d modules, want both clouds", got)
	}
	whole := loadConfiguration(t, ".")
	outputs := whole.names("output")
	for _, want := range []string{"secrets_manager_url", "account_id", "key_group_id", "token_group_id", "workload_iam_id", "bootstrap_iam_id", "reader_iam_id", "iam_profile_id", "managed_keys"} {
		if !outputs[want] {
			t.Errorf("the set-up reads %s, which is no output", strings.ToUpper(want))
		}
	}
}

// TestTheModuleForAWSGivesWhatTheTemplateTakes compares the stack's parameters with template.yaml, by name.
func TestTheModuleForAWSGivesWhatTheTemplateTakes(t *testing.T) {
	template, err := os.ReadFile("../aws/template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	section, _, _ := strings.Cut(string(template[strings.Index(string(template), "\nParameters:\n"):]), "\nConditions:\n")
	given := map[string]bool{}
	module := loadConfiguration(t, "../aws/terraform")
	body := module.resource(t, "aws_cloudformation_stack", "rotator").Body
	_ = hclsyntax.VisitAll(body.Attributes["parameters"].Expr.(hclsyntax.Node), func(node hclsyntax.Node) hcl.Diagnostics {
		if object, ok := node.(*hclsyntax.ObjectConsExpr); ok {
			for _, item := range object.Items {
				given[hcl.ExprAsKeyword(item.KeyExpr)] = true
			}
		}
		return nil
	})
	found := regexp.MustCompile(`(?m)^  (\w+):\n((?:    .*\n)*)`).FindAllStringSubmatch(section+"\n", -1)
	for _, parameter := range found {
		if !strings.Contains(parameter[2], "Default:") && !given[parameter[1]] {
			t.Errorf("the template demands %s", parameter[1])
		}
	}
	for name := range given {
		if !slices.ContainsFunc(found, func(parameter []string) bool { return parameter[1] == name }) {
			t.Errorf("the template has no parameter %s", name)
		}
	}
	if len(found) < 30 || len(given) < 10 {
		t.Errorf("got %d parameters of the template and %d of the module, want all", len(found), len(given))
	}
	if got := module.names("variable"); !got["tags"] || !got["service_role_arn"] {
		t.Errorf("got the variables %v", got)
	}
}

// A configuration is what a folder's *.tf files hold.
type configuration struct {
	text   string
	blocks []*hclsyntax.Block
}

func loadConfiguration(t *testing.T, folder string) configuration {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.tf"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no *.tf files: %v", err)
	}
	c := configuration{}
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c.add(t, path, string(source))
	}
	return c
}

func (c *configuration) add(t *testing.T, path, source string) {
	t.Helper()
	file, diagnostics := hclsyntax.ParseConfig([]byte(source), path, hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	c.text += source
	c.blocks = append(c.blocks, file.Body.(*hclsyntax.Body).Blocks...)
}

// ofType returns the blocks of one type: "resource", "variable", "output" and so on.
func (c *configuration) ofType(kind string) []*hclsyntax.Block {
	var blocks []*hclsyntax.Block
	for _, block := range c.blocks {
		if block.Type == kind {
			blocks = append(blocks, block)
		}
	}
	return blocks
}

// resource returns one resource block.
func (c *configuration) resource(t *testing.T, resourceType, name string) *hclsyntax.Block {
	t.Helper()
	for _, block := range c.ofType("resource") {
		if slices.Equal(block.Labels, []string{resourceType, name}) {
			return block
		}
	}
	t.Fatalf("no resource %s.%s", resourceType, name)
	return nil
}

// names returns what is declared under a type: variables, or local values.
func (c *configuration) names(kind string) map[string]bool {
	names := map[string]bool{}
	for _, block := range c.ofType(kind) {
		if kind == "locals" {
			for name := range block.Body.Attributes {
				names[name] = true
			}
			continue
		}
		names[block.Labels[0]] = true
	}
	return names
}

// literals evaluates a list of strings, or one string, that refers to nothing.
func literals(t *testing.T, body *hclsyntax.Body, name string) []string {
	t.Helper()
	attribute, ok := body.Attributes[name]
	if !ok {
		t.Fatalf("no argument %s", name)
	}
	value, diagnostics := attribute.Expr.Value(nil)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	if value.Type() == cty.String {
		return []string{value.AsString()}
	}
	var list []string
	for _, element := range value.AsValueSlice() {
		list = append(list, element.AsString())
	}
	return list
}

const (
	rootKeyCRN   = "crn:v1:bluemix:public:kms:eu-de:a/0123456789abcdef0123456789abcdef:11111111-2222-3333-4444-555555555555:key:66666666-7777-8888-9999-000000000000"
	instanceGUID = "11111111-2222-3333-4444-555555555555"
	instanceCRN  = "crn:v1:bluemix:public:secrets-manager:eu-de:a/0123456789abcdef0123456789abcdef:11111111-2222-3333-4444-555555555555::"
	projectCRN   = "crn:v1:bluemix:public:codeengine:eu-de:a/0123456789abcdef0123456789abcdef:66666666-7777-8888-9999-000000000000::"
)

// TestVariables plans the variables and local values alone, which need no provider: Terraform itself
// says which values pass and what follows from them.
func TestVariables(t *testing.T) {
	tests := []struct {
		name      string
		variables map[string]any
		rejection string         // text of the error, if it must fail
		want      map[string]any // local values
	}{
		{name: "defaults", want: map[string]any{"new_instance": true, "region": "us-south", "keyless": false, "new_project": false, "role_name_start": "IamTokenRotator", "private": false, "endpoint_zone": "us-south"}},
		{name: "existing instance", variables: map[string]any{"secrets_manager_crn": instanceCRN},
			want: map[string]any{"new_instance": false, "region": "eu-de"}},
		{name: "Code Engine, new project", variables: map[string]any{"code_engine": map[string]any{}},
			want: map[string]any{"keyless": true, "new_project": true}},
		{name: "Code Engine, existing project", variables: map[string]any{"code_engine": map[string]any{"project_crn": projectCRN, "job_name": "rotate"}},
			want: map[string]any{"keyless": true, "new_project": false}},
		{name: "Code Engine, private", variables: map[string]any{"code_engine": map[string]any{}, "service_endpoints": "private"},
			want: map[string]any{"private": true, "endpoint_zone": "private.us-south"}},
		{name: "Code Engine, private, existing instance", variables: map[string]any{"code_engine": map[string]any{}, "service_endpoints": "private", "secrets_manager_crn": instanceCRN},
			want: map[string]any{"private": true, "endpoint_zone": "private.eu-de"}},
		{name: "private without Code Engine", variables: map[string]any{"service_endpoints": "private"}, rejection: "nothing on AWS reaches it"},
		{name: "public alone", variables: map[string]any{"service_endpoints": "public"}, rejection: "public-and-private or private"},
		{name: "no endpoints", variables: map[string]any{"code_engine": map[string]any{}, "service_endpoints": "private-only"}, rejection: "public-and-private or private"},
		{name: "null for endpoints", variables: map[string]any{"service_endpoints": nil}, rejection: "null"},
		{name: "managed keys", variables: map[string]any{"managed_keys": true}, want: map[string]any{"new_instance": true}},
		{name: "null for managed keys", variables: map[string]any{"managed_keys": nil}, rejection: "managed_keys must be true or false"},
		{name: "no policy for the workload", variables: map[string]any{"workload_policies": []any{}}},
		{name: "own network, public endpoint", variables: map[string]any{"code_engine": map[string]any{}, "service_endpoints": "private", "endpoint_type": "public"},
			want: map[string]any{"private": true, "endpoint_type": "public"}},
		{name: "a job", variables: job(map[string]string{"API_KEY_SECRET": "x"}), want: map[string]any{"makes_job": true, "endpoint_type": "public"}},
		{name: "no job", variables: map[string]any{"code_engine": map[string]any{}}, want: map[string]any{"makes_job": false}},
		{name: "a key in the job's environment", variables: job(map[string]string{"SECRETS_MANAGER_APIKEY": "x"}), rejection: "keep it in its state"},
		{name: "AWS's key in the job's environment", variables: job(map[string]string{"AWS_SECRET_ACCESS_KEY": "x"}), rejection: "keep it in its state"},
		{name: "a proxy's password in the job's environment", variables: job(map[string]string{"HTTPS_PROXY": "http://user:x@proxy:3128"}), rejection: "keep it in its state"},
		{name: "a build without an image", variables: map[string]any{"code_engine": map[string]any{"build": map[string]any{"source_url": "https://x"}}}, rejection: "A build needs image"},
		{name: "readers", variables: map[string]any{"readers": map[string]any{"ibm_ids": []string{"a@b"}}}, want: map[string]any{"has_readers": true}},
		{name: "a group without readers", variables: map[string]any{"readers": map[string]any{}}, want: map[string]any{"has_readers": false}},
		{name: "an IAM id for a service id", variables: map[string]any{"readers": map[string]any{"service_ids": []string{"iam-ServiceId-1"}}}, rejection: "begin with ServiceId-"},
		{name: "tags", variables: map[string]any{"tags": []string{"team:data"}, "access_tags": []string{"env:prod"}, "kms_key_crn": rootKeyCRN}},
		{name: "an odd tag", variables: map[string]any{"tags": []string{"a,b"}}, rejection: "A tag has at most"},
		{name: "an access tag without a value", variables: map[string]any{"access_tags": []string{"prod"}}, rejection: "An access tag is"},
		{name: "an instance for a root key", variables: map[string]any{"kms_key_crn": instanceCRN}, rejection: "not the CRN of a root key"},
		{name: "a root key for an instance that exists", variables: map[string]any{"kms_key_crn": rootKeyCRN, "secrets_manager_crn": instanceCRN}, rejection: "keeps its key"},
		{name: "no endpoint", variables: map[string]any{"endpoint_type": "vpe"}, rejection: "public or private"},
		{name: "restricted", variables: map[string]any{"restrict_to": map[string]any{"subnets": []string{"192.0.2.0/24"}, "enforcement_mode": "enabled"}}},
		{name: "restricted to nobody", variables: map[string]any{"restrict_to": map[string]any{}}, rejection: "nobody would reach"},
		{name: "restricted to everybody", variables: map[string]any{"restrict_to": map[string]any{"subnets": []string{"0.0.0.0/0"}}}, rejection: "restricts nothing"},
		{name: "an odd mode", variables: map[string]any{"restrict_to": map[string]any{"ip_addresses": []string{"192.0.2.1"}, "enforcement_mode": "on"}}, rejection: "report, enabled or disabled"},
		{name: "policy with an attribute", variables: policy("cloud-object-storage", "serviceInstance", "x")},
		{name: "prefix with capitals", variables: map[string]any{"prefix": "Rotator"}, rejection: "lower-case letters"},
		{name: "prefix too long", variables: map[string]any{"prefix": strings.Repeat("a", 21)}, rejection: "at most 20"},
		{name: "CRN of another service", variables: map[string]any{"secrets_manager_crn": projectCRN}, rejection: "not the CRN of a Secrets Manager instance"},
		{name: "guid for a CRN", variables: map[string]any{"secrets_manager_crn": "11111111-2222-3333-4444-555555555555"}, rejection: "not the CRN of a Secrets Manager instance"},
		{name: "zone for a region", variables: map[string]any{"region": "us-south-1"}, rejection: "A region looks like"},
		{name: "unknown plan", variables: map[string]any{"plan": "lite"}, rejection: "standard or trial"},
		{name: "name of a resource group", variables: map[string]any{"resource_group_id": "Default"}, rejection: "32 hexadecimal digits"},
		{name: "policy without roles", variables: map[string]any{"workload_policies": []any{
			map[string]any{"service": "logs-router", "roles": []string{}}}}, rejection: "at least one role"},
		{name: "token that opens the vault", variables: policy("secrets-manager"), rejection: "would open the vault"},
		{name: "token that makes keys", variables: policy("iam-identity"), rejection: "could give itself the vault"},
		{name: "token that joins groups", variables: policy("iam-groups"), rejection: "could give itself the vault"},
		{name: "token that grants policies", variables: policy("iam-access-management"), rejection: "could give itself the vault"},
		{name: "token for all IAM services", variables: policy("all-account-management-services"), rejection: "could give itself the vault"},
		{name: "token that invites users", variables: policy("user-management"), rejection: "could give itself the vault"},
		{name: "service in capitals", variables: policy("IAM-Identity"), rejection: "lower-case letters"},
		{name: "service with a blank", variables: policy(" secrets-manager"), rejection: "lower-case letters"},
		{name: "every service", variables: policy("*"), rejection: "lower-case letters"},
		{name: "no service", variables: policy(""), rejection: "needs a service"},
		{name: "service named twice", variables: policy("logs-router", "serviceName", "is"), rejection: "leave serviceName"},
		{name: "service named twice, in another case", variables: policy("logs-router", "servicename", "is"), rejection: "leave serviceName"},
		{name: "platform services", variables: policy("logs-router", "serviceType", "platform_service"), rejection: "leave serviceName"},
		{name: "group of IAM services", variables: policy("logs-router", "service_group_id", "IAM"), rejection: "leave serviceName"},
		{name: "project's name for its CRN", variables: map[string]any{"code_engine": map[string]any{"project_crn": "rotator"}}, rejection: "not the CRN of a Code Engine project"},
		{name: "job name with capitals", variables: map[string]any{"code_engine": map[string]any{"job_name": "Rotator"}}, rejection: "A job's name"},
	}
	cases := map[string]any{}
	for _, test := range tests {
		asserts := []any{}
		for name, want := range test.want {
			asserts = append(asserts, map[string]any{"condition": fmt.Sprintf("${local.%s == %#v}", name, want), "error_message": fmt.Sprintf("local.%s is ${local.%s}, want %v", name, name, want)})
		}
		cases[test.name] = map[string]any{"command": "plan", "variables": test.variables, "assert": asserts}
	}
	said := tryVariables(t, cases)
	for _, test := range tests {
		if got := said[test.name]; (got == "") != (test.rejection == "") || !strings.Contains(got, test.rejection) {
			t.Errorf("%s: got %q, want an error with %q", test.name, got, test.rejection)
		}
	}
}

// tryVariables has `terraform test` try runs, each in a file of its own, and returns what it says of those that fail.
func tryVariables(t *testing.T, runs map[string]any) (said map[string]string) {
	t.Helper()
	folder, names, said := t.TempDir(), map[string]string{}, map[string]string{}
	write := func(file string, content []byte, err error) {
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, file), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"variables.tf", "locals.tf"} {
		source, err := os.ReadFile(file)
		write(file, source, err)
	}
	for name, run := range runs {
		file := fmt.Sprintf("%d.tftest.json", len(names))
		names[file] = name
		text, err := json.Marshal(map[string]any{"run": map[string]any{"a": run}})
		write(file, text, err)
	}
	out, _ := exec.Command(programs.Path(t, "terraform"), "-chdir="+folder, "test", "-json").Output()
	tried := 0
	for line := range strings.Lines(string(out)) {
		var event struct {
			File       string `json:"@testfile"`
			Diagnostic struct{ Summary, Detail string }
			Run        struct{ Progress string } `json:"test_run"`
		}
		_ = json.Unmarshal([]byte(line), &event)
		said[names[event.File]] += strings.TrimSpace(event.Diagnostic.Summary + " " + event.Diagnostic.Detail)
		if event.Run.Progress == "complete" {
			tried++
		}
	}
	if tried != len(runs) {
		t.Fatalf("terraform tried %d of %d:\n%s", tried, len(runs), out)
	}
	return said
}

// job is a job of Code Engine with an environment.
func job(environment map[string]string) map[string]any {
	return map[string]any{"code_engine": map[string]any{"image": "us.icr.io/a/b:1", "image_secret": "registry", "environment": environment}}
}

// policy is a workload's policy on a service, with one attribute if any is given.
func policy(service string, attribute ...string) map[string]any {
	attributes := map[string]string{}
	if len(attribute) > 0 {
		attributes[attribute[0]] = attribute[1]
	}
	return map[string]any{"workload_policies": []any{map[string]any{"service": service, "roles": []string{"Reader"}, "attributes": attributes}}}
}

// madeByTerraform are runs by the variables of the module, with what holds for the resources that it makes: the whole of what
// the bootstrap identity may do; no policy without a secret group, which would open the whole instance; no Secrets Manager but
// this one makes keys; and endpoints as asked for: by the parameter alone, an instance may be private-only.
var madeByTerraform = []struct {
	variables string
	holds     []string
}{
	{`secrets_manager_crn = "` + instanceCRN + `", managed_keys = true, readers = { ibm_ids = ["reader@example.com"] }`, []string{
		`toset(ibm_iam_custom_role.key_reader.actions) == toset(["secrets-manager.secret.read"])`,
		`toset(ibm_iam_custom_role.token_publisher.actions) == toset(["secrets-manager.secret-version.create",
			"secrets-manager.secret-version-metadata.read", "secrets-manager.secret-metadata.read", "secrets-manager.secret-version-locks.list"])`,
		`toset(keys(ibm_iam_service_policy.secret_group)) == toset(["reader", "bootstrap-keys", "bootstrap-tokens"])`,
		opens(`ibm_iam_service_policy.secret_group["bootstrap-keys"]`, "ibm_iam_custom_role.key_reader.display_name", "keys"),
		opens(`ibm_iam_service_policy.secret_group["bootstrap-tokens"]`, "ibm_iam_custom_role.token_publisher.display_name", "tokens"),
		opens(`ibm_iam_service_policy.secret_group["reader"]`, `"SecretsReader"`, "tokens"),
		opens(`ibm_iam_access_group_policy.secret_group["readers"]`, `"SecretsReader"`, "tokens"),
		`ibm_iam_authorization_policy.keys[0].source_service_name == "secrets-manager"`,
		`ibm_iam_authorization_policy.keys[0].source_resource_instance_id == "` + instanceGUID + `"`,
		`ibm_iam_authorization_policy.keys[0].target_service_name == "iam-identity"`,
		`toset(ibm_iam_authorization_policy.keys[0].roles) == toset(["Operator"])`,
	}},
	{`secrets_manager_crn = "` + instanceCRN + `", code_engine = {}, managed_keys = false`, []string{
		`length(ibm_iam_authorization_policy.keys) == 0`,
		`toset(keys(ibm_iam_service_policy.secret_group)) == toset(["reader"])`,
		`toset(keys(ibm_iam_trusted_profile_policy.secret_group)) == toset(["keys", "tokens"])`,
		opens(`ibm_iam_trusted_profile_policy.secret_group["keys"]`, "ibm_iam_custom_role.key_reader.display_name", "keys"),
		opens(`ibm_iam_trusted_profile_policy.secret_group["tokens"]`, "ibm_iam_custom_role.token_publisher.display_name", "tokens"),
	}},
	{``, []string{
		`ibm_resource_instance.secrets_manager[0].service_endpoints == "public-and-private"`,
		`ibm_resource_instance.secrets_manager[0].parameters == tomap({ allowed_network = "public-and-private" })`,
	}},
	{`code_engine = {}, service_endpoints = "private", kms_key_crn = "` + rootKeyCRN + `"`, []string{
		`ibm_resource_instance.secrets_manager[0].service_endpoints == "private"`,
		`ibm_resource_instance.secrets_manager[0].parameters == tomap({ allowed_network = "private-only", kms_key = "` + rootKeyCRN + `" })`,
	}},
}

// opens says that a policy gives one role in one secret group of the instance.
func opens(policy, role, group string) string {
	return fmt.Sprintf(`toset(%[1]s.roles) == toset([%[2]s]) && { for a in %[1]s.resource_attributes : a.name => "${a.operator} ${a.value}" } == {
		serviceName  = "stringEquals secrets-manager", serviceInstance = "stringEquals %[4]s"
		resourceType = "stringEquals secret-group", resource = "stringEquals ${ibm_sm_secret_group.%[3]s.secret_group_id}" }`, policy, role, group, instanceGUID)
}

// TestTheModuleByTerraform has Terraform apply the module twice at once with made-up answers, and validate it by the
// provider's schema. TF_CLI_CONFIG_FILE keeps it from asking a registry.
func TestTheModuleByTerraform(t *testing.T) {
	terraform := programs.Path(t, "terraform")
	folder := t.TempDir()
	build := exec.Command("go", "build", "-modfile=../../.ci/tools.mod", "-o", filepath.Join(folder, "terraform-provider-ibm"), "./testdata/provider")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the provider: %v\n%s", err, out)
	}
	module, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	made := "mock_provider \"ibm\" {}\n"
	for i, test := range madeByTerraform {
		made += fmt.Sprintf("run \"made_%d\" {\n module {\n source = \"./module\"\n }\n variables {\n %s\n }\n", i, strings.ReplaceAll(test.variables, ", ", "\n"))
		for _, condition := range test.holds {
			made += fmt.Sprintf(" assert {\n condition = %s\n error_message = %q\n }\n", condition, strings.ReplaceAll(condition, "${", "$${"))
		}
		made += "}\n"
	}
	for name, text := range map[string]string{
		"rc": fmt.Sprintf("provider_installation {\n  dev_overrides {\n    \"IBM-Cloud/ibm\" = %q\n  }\n}\n", folder),
		"main.tf": `
terraform {
  required_providers {
    ibm = { source = "IBM-Cloud/ibm" }
  }
}
variable "code_engine" {
  type    = any
  default = null
}
module "ibm" {
  source      = "./module"
  for_each    = toset(["team-a", "team-b"])
  prefix      = each.key
  code_engine = var.code_engine
  tags        = ["team:data"]
  access_tags = ["env:prod"]
  kms_key_crn = "` + rootKeyCRN + `"
  readers     = { ibm_ids = ["reader@example.com"] }
  restrict_to = { subnets = ["192.0.2.0/24"] }
}
output "made" {
  value = module.ibm
}`,
		"two.tftest.hcl": `
mock_provider "ibm" {}
run "service_ids" {
  assert {
    condition     = output.made["team-a"].token_group_id != output.made["team-b"].token_group_id && output.made["team-a"].bootstrap_iam_id != ""
    error_message = "two modules must make two of each"
  }
}
run "code_engine" {
  variables {
    code_engine = { image = "us.icr.io/a/b:1", image_secret = "registry", environment = { API_KEY_SECRET = "x" }, build = { source_url = "https://example.com/a" } }
  }
  assert {
    condition     = output.made["team-a"].iam_profile_id != "" && output.made["team-a"].bootstrap_iam_id == ""
    error_message = "a trusted profile must take the place of the bootstrap service id"
  }
}`,
		"made.tftest.hcl": made,
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(folder, "module"), os.DirFS(module)); err != nil {
		t.Fatal(err)
	}
	run := func(command string) (string, error) {
		program := exec.Command(terraform, "-chdir="+folder, command, "-no-color")
		program.Env = append(programs.CleanEnviron(), "TF_CLI_CONFIG_FILE="+filepath.Join(folder, "rc"), "SCHEMA="+filepath.Join(module, "testdata/provider-schema.json"))
		out, err := program.CombinedOutput()
		return string(out), err
	}
	for _, command := range []string{"get", "validate", "test"} {
		if out, err := run(command); err != nil || command == "test" && !strings.Contains(out, "6 passed, 0 failed") {
			t.Fatalf("terraform %s: %v\n%s", command, err, out)
		}
	}
	const bad = "resource \"ibm_iam_service_id\" \"bad\" {\n name = \"a\"\n names = \"a\"\n}\n"
	if err := os.WriteFile(filepath.Join(folder, "module", "bad.tf"), []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("validate"); err == nil || !strings.Contains(out, `"names" is not expected here`) {
		t.Errorf("a bad module: got %v, want the unknown argument\n%s", err, out)
	}
}
