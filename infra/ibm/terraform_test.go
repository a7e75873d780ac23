package ibm_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

func TestFitsTheProvidersSchema(t *testing.T) {
	schema, err := loadSchema("testdata/provider-schema.json")
	if err != nil {
		t.Fatal(err)
	}
	c := loadConfiguration(t)
	for _, block := range c.ofType("resource") {
		for _, problem := range schema.checkResource(block) {
			t.Error(problem)
		}
	}
	for _, block := range c.ofType("provider") {
		for _, problem := range schema.Provider.Block.check("provider", block.Body, false) {
			t.Error(problem)
		}
	}
	if got := len(c.ofType("resource")); got < 10 {
		t.Errorf("resources: got %d, want every one of the folder", got)
	}
	for _, problem := range badReferences(&c, schema) {
		t.Error(problem)
	}
}

// badReferences lists the references to what is not declared, and to attributes that the provider does not know.
func badReferences(c *configuration, schema providerSchema) []string {
	var faults []string
	variables, locals := c.names("variable"), c.names("locals")
	used := map[string]bool{}
	c.references(func(where string, path []string) {
		switch root := path[0]; {
		case root == "var" && !variables[path[1]]:
			faults = append(faults, fault(where, "no variable %s", path[1]))
		case root == "var":
			used[path[1]] = true
		case root == "local" && !locals[path[1]]:
			faults = append(faults, fault(where, "no local value %s", path[1]))
		case strings.HasPrefix(root, "ibm_"):
			faults = append(faults, badAttribute(c, schema, where, path)...)
		}
	})
	for name := range variables {
		if !used[name] {
			faults = append(faults, fault("variable "+name, "is used nowhere"))
		}
	}
	return faults
}

func badAttribute(c *configuration, schema providerSchema, where string, path []string) []string {
	if !slices.ContainsFunc(c.ofType("resource"), func(b *hclBlock) bool { return slices.Equal(b.Labels, path[:2]) }) {
		return []string{fault(where, "no resource %s", strings.Join(path[:2], "."))}
	}
	if len(path) > 2 {
		if _, ok := schema.ResourceSchemas[path[0]].Block.Attributes[path[2]]; !ok {
			return []string{fault(where, "%s has no attribute %s", path[0], path[2])}
		}
	}
	return nil
}

// TestTheCheckRefuses shows that each kind of mistake is found.
func TestTheCheckRefuses(t *testing.T) {
	schema, err := loadSchema("testdata/provider-schema.json")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, source, want string }{
		{"unknown argument", `resource "ibm_iam_service_id" "a" {
			name  = "a"
			names = "a"
		}`, "no argument names"},
		{"missing argument", `resource "ibm_iam_service_id" "a" {}`, "name is required"},
		{"computed argument", `resource "ibm_iam_service_id" "a" {
			name   = "a"
			iam_id = "a"
		}`, "iam_id is the provider's to set"},
		{"deprecated argument", `resource "ibm_iam_service_policy" "a" {
			roles          = ["Reader"]
			iam_service_id = "a"
		}`, "iam_service_id is deprecated"},
		{"unknown block", `resource "ibm_iam_service_id" "a" {
			name = "a"
			link {}
		}`, "no block link"},
		{"missing block", `resource "ibm_iam_trusted_profile_link" "a" {
			profile_id = "a"
			cr_type    = "CE"
		}`, "0 blocks link, want 1 to 1"},
		{"unknown argument in a dynamic block", `resource "ibm_iam_service_policy" "a" {
			roles = ["Reader"]
			dynamic "resource_attributes" {
				for_each = []
				content {
					name  = "a"
					value = "a"
					equal = "a"
				}
			}
		}`, "no argument equal"},
		{"provisioner", `resource "ibm_iam_service_id" "a" {
			name = "a"
			provisioner "local-exec" {}
		}`, "no block provisioner"},
		{"unknown resource", `resource "ibm_iam_service_idea" "a" {}`, "no such resource"},
		{"API key", `resource "ibm_iam_service_api_key" "a" {}`, "into the state"},
		{"arbitrary secret", `resource "ibm_sm_arbitrary_secret" "a" {}`, "into the state"},
		{"kv secret", `resource "ibm_sm_kv_secret" "a" {}`, "into the state"},
		{"Code Engine secret", `resource "ibm_code_engine_secret" "a" {}`, "into the state"},
		{"undeclared variable", `resource "ibm_iam_service_id" "a" { name = var.none }`, "no variable none"},
		{"undeclared resource", `resource "ibm_iam_service_id" "a" { name = ibm_iam_service_id.b.name }`, "no resource ibm_iam_service_id.b"},
		{"unknown attribute", `resource "ibm_iam_service_id" "a" { name = ibm_iam_service_id.a.names }`, "has no attribute names"},
		{"unknown attribute of each", `resource "ibm_iam_service_id" "a" { name = one(ibm_iam_service_id.a[*].names) }`, "has no attribute names"},
		{"unused variable", `variable "a" {}`, "is used nowhere"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := configuration{files: map[string]*hclBody{}}
			c.add(t, "bad.tf", test.source)
			var got []string
			for _, block := range c.ofType("resource") {
				got = append(got, schema.checkResource(block)...)
			}
			got = append(got, badReferences(&c, schema)...)
			if !strings.Contains(strings.Join(got, "\n"), test.want) {
				t.Errorf("got %q, want a fault with %q", got, test.want)
			}
		})
	}
}

// TestNothingButTheProviderIsUsed keeps data sources, modules, imports and other providers' resources out:
// each would be a way for a value into the state.
func TestNothingButTheProviderIsUsed(t *testing.T) {
	c := loadConfiguration(t)
	allowed := []string{"terraform", "provider", "variable", "locals", "resource", "output"}
	for _, block := range c.blocks {
		if !slices.Contains(allowed, block.Type) {
			t.Errorf("%s: a block of type %s", block.TypeRange, block.Type)
		}
	}
}

func TestEverythingIsDocumented(t *testing.T) {
	c := loadConfiguration(t)
	for _, block := range append(c.ofType("variable"), c.ofType("output")...) {
		if text := literals(t, block.Body, "description"); len(text[0]) < 20 {
			t.Errorf("%s %s: no description to speak of", block.Type, block.Labels[0])
		}
	}
	for _, block := range c.ofType("variable") {
		if block.Body.Attributes["type"] == nil {
			t.Errorf("variable %s: no type", block.Labels[0])
		}
		if !slices.ContainsFunc(block.Body.Blocks, func(b *hclBlock) bool { return b.Type == "validation" }) {
			t.Errorf("variable %s: no validation", block.Labels[0])
		}
	}
}

// TestRolesHoldTheseActionsOnly lists the whole of what the bootstrap identity may do.
func TestRolesHoldTheseActionsOnly(t *testing.T) {
	c := loadConfiguration(t)
	want := map[string][]string{
		"key_reader": {"secrets-manager.secret.read"},
		"token_publisher": {
			"secrets-manager.secret-version.create",
			"secrets-manager.secret-version-metadata.read",
			"secrets-manager.secret-metadata.read",
			"secrets-manager.secret-version-locks.list",
		},
	}
	roles := 0
	for _, block := range c.ofType("resource") {
		if block.Labels[0] != "ibm_iam_custom_role" {
			continue
		}
		roles++
		if got := literals(t, block.Body, "actions"); !slices.Equal(got, want[block.Labels[1]]) {
			t.Errorf("%s: got %q, want %q", block.Labels[1], got, want[block.Labels[1]])
		}
	}
	if roles != len(want) {
		t.Errorf("custom roles: got %d, want %d", roles, len(want))
	}
}

// TestPoliciesNameOneSecretGroup: a policy without the group would open the whole instance.
func TestPoliciesNameOneSecretGroup(t *testing.T) {
	c := loadConfiguration(t)
	for _, resourceType := range []string{"ibm_iam_service_policy", "ibm_iam_trusted_profile_policy"} {
		got := map[string]string{}
		for _, block := range c.resource(t, resourceType, "secret_group").Body.Blocks {
			name := literals(t, block.Body, "name")[0]
			value := block.Body.Attributes["value"].Expr
			if constant, diagnostics := value.Value(nil); !diagnostics.HasErrors() {
				got[name] = constant.AsString()
				continue
			}
			for _, variable := range value.Variables() {
				got[name] = strings.Join(path(variable), ".")
			}
		}
		for name, want := range map[string]string{
			"serviceName": "secrets-manager", "serviceInstance": "local.instance_guid",
			"resourceType": "secret-group", "resource": "each.value.group",
		} {
			if got[name] != want {
				t.Errorf("%s: %s: got %q, want %q", resourceType, name, got[name], want)
			}
		}
	}
}

func TestVersionsArePinned(t *testing.T) {
	source, err := os.ReadFile("versions.tf")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`required_version = ">= 1.11.0, < 2.0.0"`, `"IBM-Cloud/ibm"`, `version = "= 2.5.0"`} {
		if !strings.Contains(string(source), want) {
			t.Errorf("versions.tf: got no %s", want)
		}
	}
}

func TestIsFormatted(t *testing.T) {
	if out, err := exec.Command(programs.Path(t, "terraform"), "fmt", "-check", "-diff", ".").Output(); err != nil {
		t.Errorf("run terraform fmt in infra/ibm:\n%s", out)
	}
}
