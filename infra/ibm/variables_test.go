package ibm_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

const (
	instanceCRN = "crn:v1:bluemix:public:secrets-manager:eu-de:a/0123456789abcdef0123456789abcdef:11111111-2222-3333-4444-555555555555::"
	projectCRN  = "crn:v1:bluemix:public:codeengine:eu-de:a/0123456789abcdef0123456789abcdef:66666666-7777-8888-9999-000000000000::"
)

// TestVariables plans the variables and local values alone, which need no provider: Terraform itself
// says which values pass and what follows from them.
func TestVariables(t *testing.T) {
	folder := t.TempDir()
	for _, file := range []string{"variables.tf", "locals.tf"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, file), source, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outputs := ""
	for _, name := range []string{"new_instance", "region", "keyless", "new_project", "role_name_start"} {
		outputs += "output \"" + name + "\" { value = local." + name + " }\n"
	}
	if err := os.WriteFile(filepath.Join(folder, "outputs.tf"), []byte(outputs), 0o600); err != nil {
		t.Fatal(err)
	}

	tests := []struct {
		name      string
		variables map[string]any
		refusal   string         // text of the error, if it must fail
		want      map[string]any // local values
	}{
		{name: "defaults", want: map[string]any{"new_instance": true, "region": "us-south", "keyless": false, "new_project": false, "role_name_start": "IamTokenRotator"}},
		{name: "existing instance", variables: map[string]any{"secrets_manager_crn": instanceCRN},
			want: map[string]any{"new_instance": false, "region": "eu-de"}},
		{name: "Code Engine, new project", variables: map[string]any{"code_engine": map[string]any{}},
			want: map[string]any{"keyless": true, "new_project": true}},
		{name: "Code Engine, existing project", variables: map[string]any{"code_engine": map[string]any{"project_crn": projectCRN, "job_name": "rotate"}},
			want: map[string]any{"keyless": true, "new_project": false}},
		{name: "no policy for the workload", variables: map[string]any{"workload_policies": []any{}}},
		{name: "policy with an attribute", variables: map[string]any{"workload_policies": []any{
			map[string]any{"service": "cloud-object-storage", "roles": []string{"Reader"}, "attributes": map[string]string{"serviceInstance": "x"}}}}},
		{name: "prefix with capitals", variables: map[string]any{"prefix": "Rotator"}, refusal: "lower-case letters"},
		{name: "prefix too long", variables: map[string]any{"prefix": strings.Repeat("a", 21)}, refusal: "at most 20"},
		{name: "CRN of another service", variables: map[string]any{"secrets_manager_crn": projectCRN}, refusal: "not the CRN of a Secrets Manager instance"},
		{name: "guid for a CRN", variables: map[string]any{"secrets_manager_crn": "11111111-2222-3333-4444-555555555555"}, refusal: "not the CRN of a Secrets Manager instance"},
		{name: "zone for a region", variables: map[string]any{"region": "us-south-1"}, refusal: "A region looks like"},
		{name: "unknown plan", variables: map[string]any{"plan": "lite"}, refusal: "standard or trial"},
		{name: "name of a resource group", variables: map[string]any{"resource_group_id": "Default"}, refusal: "32 hexadecimal digits"},
		{name: "policy without roles", variables: map[string]any{"workload_policies": []any{
			map[string]any{"service": "logs-router", "roles": []string{}}}}, refusal: "at least one role"},
		{name: "token that opens the vault", variables: map[string]any{"workload_policies": []any{
			map[string]any{"service": "secrets-manager", "roles": []string{"Manager"}}}}, refusal: "would open the vault"},
		{name: "service named twice", variables: map[string]any{"workload_policies": []any{
			map[string]any{"service": "logs-router", "roles": []string{"Viewer"}, "attributes": map[string]string{"serviceName": "is"}}}}, refusal: "leave serviceName out"},
		{name: "project's name for its CRN", variables: map[string]any{"code_engine": map[string]any{"project_crn": "rotator"}}, refusal: "not the CRN of a Code Engine project"},
		{name: "job name with capitals", variables: map[string]any{"code_engine": map[string]any{"job_name": "Rotator"}}, refusal: "A job's name"},
	}
	program := programs.Path(t, "terraform")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			output, planned := plan(t, program, folder, test.variables)
			if test.refusal != "" {
				if planned || !strings.Contains(output, test.refusal) {
					t.Errorf("got %s, want an error with %q", output, test.refusal)
				}
				return
			}
			if !planned {
				t.Fatalf("got %s, want a plan", output)
			}
			got := localValues(t, program, folder)
			for name, want := range test.want {
				if got[name] != want {
					t.Errorf("local.%s: got %v, want %v", name, got[name], want)
				}
			}
		})
	}
}

// plan runs terraform plan with the variables; planned is false if Terraform refused them.
func plan(t *testing.T, program, folder string, variables map[string]any) (output string, planned bool) {
	t.Helper()
	if variables == nil {
		variables = map[string]any{}
	}
	raw, err := json.Marshal(variables)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "test.tfvars.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "-chdir="+folder, "plan", "-no-color", "-input=false", "-lock=false", "-var-file="+file, "-out=plan").CombinedOutput()
	return strings.Join(strings.Fields(strings.ReplaceAll(string(out), "│", "")), " "), err == nil
}

// localValues returns the planned outputs.
func localValues(t *testing.T, program, folder string) map[string]any {
	t.Helper()
	out, err := exec.Command(program, "-chdir="+folder, "show", "-json", "plan").Output()
	if err != nil {
		t.Fatalf("reading the plan: %v", err)
	}
	var shown struct {
		PlannedValues struct {
			Outputs map[string]struct{ Value any }
		} `json:"planned_values"`
	}
	if err := json.Unmarshal(out, &shown); err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	for name, output := range shown.PlannedValues.Outputs {
		values[name] = output.Value
	}
	return values
}
