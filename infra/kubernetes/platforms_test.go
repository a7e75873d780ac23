package kubernetes_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"iam-token-rotator/scripts/programs"
)

// platform is the path of an example, and its text.
func platform(t *testing.T, name string) (file, text string) {
	t.Helper()
	file = filepath.Join(root, "scripts", "examples", "platforms", name)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, string(content)
}

// External Secrets' own definitions say what its objects may hold; scripts/conformance reads a token with them.
func TestExternalSecrets(t *testing.T) {
	t.Parallel()
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "github.com/external-secrets/external-secrets@v0.16.2")
	download.Dir = t.TempDir() // in no module
	printed, err := download.Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(printed, &module) != nil {
		programs.Missing(t, "the module of External Secrets cannot be downloaded")
	}
	definitions := filepath.Join(module.Dir, "config", "crds", "bases")
	_, text := platform(t, "external-secrets.yaml")
	if err := validate(t, []byte(text), definitions); err != nil {
		t.Error(err)
	}
	if err := validate(t, []byte(strings.Replace(text, "containerAuth:", "profileAuth:", 1)), definitions); err == nil {
		t.Error("an unknown way to authenticate is accepted")
	}
}

func TestGitLabJobFitsTheSchema(t *testing.T) {
	t.Parallel()
	program := filepath.Join(root, "build", "local", "node_modules", ".bin", "gitlab-ci-local")
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("npm is not installed")
	}
	if _, err := os.Stat(program); err != nil {
		programs.Missing(t, "gitlab-ci-local is not in build/local") // .ci/run installs it
	}
	_, text := platform(t, "gitlab-ci.yml")
	for _, test := range []struct {
		text string
		fits bool
	}{{text, true}, {strings.Replace(text, "aud:", "audience:", 1), false}} {
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, ".gitlab-ci.yml"), []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), "sh", "-euc", `git init -q; git remote add origin git@gitlab.com:group/project.git; exec "$0" --list`, program)
		command.Dir = folder
		if printed, err := command.CombinedOutput(); (err == nil) != test.fits {
			t.Errorf("fits the schema: want %t: %s", test.fits, printed)
		}
	}
}

func TestECSTemplate(t *testing.T) {
	t.Parallel()
	file, _ := platform(t, "ecs.yaml")
	if printed, err := exec.CommandContext(t.Context(), programs.Path(t, "cfn-lint"), file).CombinedOutput(); err != nil {
		t.Errorf("cfn-lint: %v\n%s", err, printed)
	}
}

// No block of the example writes what it reads into the state: data sources and outputs would.
func TestTerraformKeepsNoToken(t *testing.T) {
	file, text := platform(t, "terraform.tf")
	if out, err := exec.CommandContext(t.Context(), programs.Path(t, "terraform"), "fmt", "-check", "-diff", file).Output(); err != nil {
		t.Errorf("run terraform fmt: %s", out)
	}
	parsed, problems := hclsyntax.ParseConfig([]byte(text), file, hcl.InitialPos)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	allowed := map[string]bool{"terraform": true, "variable": true, "ephemeral": true, "provider": true}
	for _, block := range parsed.Body.(*hclsyntax.Body).Blocks {
		if !allowed[block.Type] {
			t.Errorf("%s: a block of type %s", block.TypeRange, block.Type)
		}
	}
}
