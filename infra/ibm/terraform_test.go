package ibm_test

import (
	"cmp"
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

	"iam-token-rotator/scripts/programs"
)

// TestTheModuleByTerraform finds what does not fit the provider's schema. What Terraform itself lets through:
func TestMistakesThatTerraformAllows(t *testing.T) {
	var schema providerSchema
	raw, _ := os.ReadFile("testdata/provider-schema.json")
	if err := json.Unmarshal(raw, &schema); err != nil {
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
		if len(literal(t, block.Body, "description")) < 20 {
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
	lock, err2 := os.ReadFile(".terraform.lock.hcl")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	for _, want := range []string{`required_version = ">= 1.11.0, < 2.0.0"`, `"IBM-Cloud/ibm"`, `version = "~> 2.5"`} {
		if !strings.Contains(string(source), want) {
			t.Errorf("versions.tf: got no %s", want)
		}
	}
	if !strings.Contains(string(lock), `"registry.terraform.io/ibm-cloud/ibm" {`) || !strings.Contains(string(lock), `= "~> 2.5"`) {
		t.Errorf(".terraform.lock.hcl: got %s, want the provider at the same version", lock)
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
		source := literal(t, call.Body, "source")
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
	resources := module.ofType("resource")
	stack := slices.IndexFunc(resources, func(block *hclsyntax.Block) bool { return block.Labels[0] == "aws_cloudformation_stack" })
	_ = hclsyntax.VisitAll(resources[stack].Body.Attributes["parameters"].Expr.(hclsyntax.Node), func(node hclsyntax.Node) hcl.Diagnostics {
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

// names returns the names of all variables, or of all outputs.
func (c *configuration) names(kind string) map[string]bool {
	names := map[string]bool{}
	for _, block := range c.ofType(kind) {
		names[block.Labels[0]] = true
	}
	return names
}

// literal evaluates a string that refers to nothing; it is empty if there is no such argument.
func literal(t *testing.T, body *hclsyntax.Body, name string) string {
	t.Helper()
	attribute, ok := body.Attributes[name]
	if !ok {
		return ""
	}
	value, diagnostics := attribute.Expr.Value(nil)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	return value.AsString()
}

const (
	rootKeyCRN   = "crn:v1:bluemix:public:kms:eu-de:a/0123456789abcdef0123456789abcdef:11111111-2222-3333-4444-555555555555:key:66666666-7777-8888-9999-000000000000"
	instanceGUID = "11111111-2222-3333-4444-555555555555"
	instanceCRN  = "crn:v1:bluemix:public:secrets-manager:eu-de:a/0123456789abcdef0123456789abcdef:11111111-2222-3333-4444-555555555555::"
	projectCRN   = "crn:v1:bluemix:public:codeengine:eu-de:a/0123456789abcdef0123456789abcdef:66666666-7777-8888-9999-000000000000::"
)

// TestVariables plans the variables and local values alone, which need no provider: Terraform itself says which values it
// accepts, and what follows from them.
func TestVariables(t *testing.T) {
	const crn = `secrets_manager_crn = "` + instanceCRN + `"`
	job := func(environment string) string {
		return `code_engine = { image = "us.icr.io/a/b:1", image_secret = "registry", environment = { ` + environment + ` } }`
	}
	policy := func(service, attributes string) string {
		return fmt.Sprintf(`workload_policies = [{ service = %q, roles = ["Reader"], attributes = { %s } }]`, service, attributes)
	}
	tests := map[string]struct {
		variables string // one after another, with ; between them
		rejection string // part of the error, if they must be rejected
		holds     string // a condition for local values
	}{
		"defaults":                       {"", "", `local.new_instance && local.region == "us-south" && !local.keyless && !local.new_project && local.role_name_start == "IamTokenRotator" && !local.private && local.endpoint_zone == "us-south"`},
		"existing instance":              {crn, "", `!local.new_instance && local.region == "eu-de"`},
		"Code Engine, new project":       {`code_engine = {}`, "", `local.keyless && local.new_project`},
		"Code Engine, existing project":  {`code_engine = { project_crn = "` + projectCRN + `", job_name = "rotate" }`, "", `local.keyless && !local.new_project`},
		"Code Engine, private":           {`code_engine = {}; service_endpoints = "private"`, "", `local.private && local.endpoint_zone == "private.us-south"`},
		"private, existing instance":     {`code_engine = {}; service_endpoints = "private"; ` + crn, "", `local.private && local.endpoint_zone == "private.eu-de"`},
		"own network, public endpoint":   {`code_engine = {}; service_endpoints = "private"; endpoint_type = "public"`, "", `local.private && local.endpoint_type == "public"`},
		"private without Code Engine":    {`service_endpoints = "private"`, "nothing on AWS reaches it", ""},
		"public alone":                   {`service_endpoints = "public"`, "public-and-private or private", ""},
		"no endpoints":                   {`code_engine = {}; service_endpoints = "private-only"`, "public-and-private or private", ""},
		"null for endpoints":             {`service_endpoints = null`, "null", ""},
		"no endpoint":                    {`endpoint_type = "vpe"`, "public or private", ""},
		"managed keys":                   {`managed_keys = true`, "", "local.new_instance"},
		"null for managed keys":          {`managed_keys = null`, "managed_keys must be true or false", ""},
		"no policy for the workload":     {`workload_policies = []`, "", ""},
		"a job":                          {job(`API_KEY_SECRET = "x"`), "", `local.makes_job && local.endpoint_type == "public"`},
		"no job":                         {`code_engine = {}`, "", "!local.makes_job"},
		"a key for the job":              {job(`SECRETS_MANAGER_APIKEY = "x"`), "keep it in its state", ""},
		"AWS's key for the job":          {job(`AWS_SECRET_ACCESS_KEY = "x"`), "keep it in its state", ""},
		"a proxy's password for the job": {job(`HTTPS_PROXY = "http://user:x@proxy:3128"`), "keep it in its state", ""},
		"a build without an image":       {`code_engine = { build = { source_url = "https://x" } }`, "A build needs image", ""},
		"readers":                        {`readers = { ibm_ids = ["a@b"] }`, "", "local.has_readers"},
		"a group without readers":        {`readers = {}`, "", "!local.has_readers"},
		"an IAM id for a service id":     {`readers = { service_ids = ["iam-ServiceId-1"] }`, "begin with ServiceId-", ""},
		"tags":                           {`tags = ["team:data"]; access_tags = ["env:prod"]; kms_key_crn = "` + rootKeyCRN + `"`, "", ""},
		"an odd tag":                     {`tags = ["a,b"]`, "A tag has at most", ""},
		"an access tag without a value":  {`access_tags = ["prod"]`, "An access tag is", ""},
		"an instance for a root key":     {`kms_key_crn = "` + instanceCRN + `"`, "not the CRN of a root key", ""},
		"a root key for an old instance": {`kms_key_crn = "` + rootKeyCRN + `"; ` + crn, "keeps its key", ""},
		"restricted":                     {`restrict_to = { subnets = ["192.0.2.0/24"], enforcement_mode = "enabled" }`, "", ""},
		"restricted to nobody":           {`restrict_to = {}`, "nobody would reach", ""},
		"restricted to everybody":        {`restrict_to = { subnets = ["0.0.0.0/0"] }`, "restricts nothing", ""},
		"an odd mode":                    {`restrict_to = { ip_addresses = ["192.0.2.1"], enforcement_mode = "on" }`, "report, enabled or disabled", ""},
		"prefix with capitals":           {`prefix = "Rotator"`, "lower-case letters", ""},
		"prefix too long":                {`prefix = "` + strings.Repeat("a", 21) + `"`, "at most 20", ""},
		"CRN of another service":         {`secrets_manager_crn = "` + projectCRN + `"`, "not the CRN of a Secrets Manager instance", ""},
		"guid for a CRN":                 {`secrets_manager_crn = "` + instanceGUID + `"`, "not the CRN of a Secrets Manager instance", ""},
		"zone for a region":              {`region = "us-south-1"`, "A region looks like", ""},
		"unknown plan":                   {`plan = "lite"`, "standard or trial", ""},
		"name of a resource group":       {`resource_group_id = "Default"`, "32 hexadecimal digits", ""},
		"project's name for its CRN":     {`code_engine = { project_crn = "rotator" }`, "not the CRN of a Code Engine project", ""},
		"job name with capitals":         {`code_engine = { job_name = "Rotator" }`, "A job's name", ""},
		"policy with an attribute":       {policy("cloud-object-storage", `serviceInstance = "x"`), "", ""},
		"policy without roles":           {`workload_policies = [{ service = "logs-router", roles = [] }]`, "at least one role", ""},
		"token that opens the vault":     {policy("secrets-manager", ""), "would open the vault", ""},
		"token that makes keys":          {policy("iam-identity", ""), "could give itself the vault", ""},
		"token that joins groups":        {policy("iam-groups", ""), "could give itself the vault", ""},
		"token that grants policies":     {policy("iam-access-management", ""), "could give itself the vault", ""},
		"token for all IAM services":     {policy("all-account-management-services", ""), "could give itself the vault", ""},
		"token that invites users":       {policy("user-management", ""), "could give itself the vault", ""},
		"service in capitals":            {policy("IAM-Identity", ""), "lower-case letters", ""},
		"service with a blank":           {policy(" secrets-manager", ""), "lower-case letters", ""},
		"every service":                  {policy("*", ""), "lower-case letters", ""},
		"no service":                     {policy("", ""), "needs a service", ""},
		"service named twice":            {policy("logs-router", `serviceName = "is"`), "leave serviceName", ""},
		"the same in small letters":      {policy("logs-router", `servicename = "is"`), "leave serviceName", ""},
		"platform services":              {policy("logs-router", `serviceType = "platform_service"`), "leave serviceName", ""},
		"group of IAM services":          {policy("logs-router", `service_group_id = "IAM"`), "leave serviceName", ""},
	}
	runs := map[string]string{}
	for name, test := range tests {
		runs[name] = testRun("a", "command = plan", test.variables, cmp.Or(test.holds, `local.region != ""`))
	}
	errors := tryVariables(t, runs)
	for name, test := range tests {
		if got := errors[name]; (got == "") != (test.rejection == "") || !strings.Contains(got, test.rejection) {
			t.Errorf("%s: got %q, want an error with %q", name, got, test.rejection)
		}
	}
}

// testRun is a run of `terraform test` in which the conditions must hold.
func testRun(name, settings, variables string, conditions ...string) string {
	text := fmt.Sprintf("run %q {\n%s\nvariables {\n%s\n}\n", name, settings, strings.ReplaceAll(variables, "; ", "\n"))
	for _, condition := range conditions {
		text += fmt.Sprintf("assert {\ncondition = %s\nerror_message = %q\n}\n", condition, strings.ReplaceAll(condition, "${", "$${"))
	}
	return text + "}\n"
}

// tryVariables has `terraform test` try the runs, each in a file of its own, and returns the errors of those that fail.
func tryVariables(t *testing.T, runs map[string]string) (errors map[string]string) {
	t.Helper()
	folder, names, errors := t.TempDir(), map[string]string{}, map[string]string{}
	write := func(file, content string) {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"variables.tf", "locals.tf"} {
		source, _ := os.ReadFile(file)
		write(file, string(source))
	}
	for name, run := range runs {
		file := fmt.Sprintf("%d.tftest.hcl", len(names))
		names[file] = name
		write(file, run)
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
		errors[names[event.File]] += strings.TrimSpace(event.Diagnostic.Summary + " " + event.Diagnostic.Detail)
		if event.Run.Progress == "complete" {
			tried++
		}
	}
	if tried != len(runs) {
		t.Fatalf("terraform tried %d of %d:\n%s", tried, len(runs), out)
	}
	return errors
}

// madeByTerraform are runs by the variables of the module, with what holds for the resources that it makes: the whole of what
// the bootstrap identity may do; no policy without a secret group, which would open the whole instance; no Secrets Manager but
// this one makes keys; and endpoints as asked for: by the parameter alone, an instance may be private-only.
var madeByTerraform = []struct {
	variables string
	holds     []string
}{
	{`secrets_manager_crn = "` + instanceCRN + `"; managed_keys = true; readers = { ibm_ids = ["reader@example.com"] }`, []string{
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
	{`secrets_manager_crn = "` + instanceCRN + `"; code_engine = {}; managed_keys = false`, []string{
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
	{`code_engine = {}; service_endpoints = "private"; kms_key_crn = "` + rootKeyCRN + `"`, []string{
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
		made += testRun(fmt.Sprintf("made_%d", i), "module {\nsource = \"./module\"\n}", test.variables, test.holds...)
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
