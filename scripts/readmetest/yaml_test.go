package readmetest

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// A workflow is what is looked at in a block for GitHub Actions.
type workflow struct {
	Permissions map[string]string
	Steps       []struct {
		Uses, Run string
		With, Env map[string]string
	}
}

// A pod is what is looked at in a block for Kubernetes.
type pod struct {
	Containers []struct {
		Name         string
		Env          []struct{ Name, Value string }
		VolumeMounts []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	Volumes []struct {
		Name      string
		Projected struct {
			Sources []map[string]struct {
				Path, Audience    string
				ExpirationSeconds int `yaml:"expirationSeconds"`
			}
		}
	}
}

func decodeYAML(t *testing.T, b *block, into any) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(b.text))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", b.where(), err)
	}
}

func yamlBlocks(t *testing.T, purpose string) []*block {
	t.Helper()
	var found []*block
	for _, b := range allBlocks(t) {
		if b.language == "yaml" && b.is(purpose) {
			found = append(found, b)
		}
	}
	if len(found) == 0 {
		t.Fatalf("no page has a block `yaml %s`", purpose)
	}
	return found
}

// The token that a pod mounts is where CR_TOKEN_FILENAME says.
func TestPodsMountTheTokenThatTheyName(t *testing.T) {
	for _, b := range yamlBlocks(t, "pod") {
		var p pod
		decodeYAML(t, b, &p)
		files := map[string]bool{}
		for _, container := range p.Containers {
			for _, mount := range container.VolumeMounts {
				for _, volume := range p.Volumes {
					if volume.Name == mount.Name {
						files[mount.MountPath+"/"+volume.Projected.Sources[0]["serviceAccountToken"].Path] = true
					}
				}
			}
			for _, variable := range container.Env {
				if variable.Name == "CR_TOKEN_FILENAME" && !files[variable.Value] {
					t.Errorf("%s: CR_TOKEN_FILENAME is %s, but what is mounted is %v", b.where(), variable.Value, files)
				}
			}
		}
		if len(files) == 0 {
			t.Errorf("%s: no token is mounted", b.where())
		}
	}
}

// workflowRuns are the commands of GitHub Actions on the pages, as blocks of their own.
func workflowRuns(t *testing.T) []*block {
	t.Helper()
	var found []*block
	for _, b := range yamlBlocks(t, "actions") {
		var w workflow
		decodeYAML(t, b, &w)
		if w.Permissions["id-token"] != "write" {
			t.Errorf("%s: without id-token: write there is no role", b.where())
		}
		for _, step := range w.Steps {
			if step.Run != "" && step.Env["TOKEN_SECRET_ARN"] != "" {
				found = append(found, &block{page: b.page, line: b.line, language: "sh", text: step.Run, section: b.section})
			}
		}
	}
	if len(found) == 0 {
		t.Error("no workflow reads a token")
	}
	return found
}
