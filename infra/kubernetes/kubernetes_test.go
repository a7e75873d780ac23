package kubernetes_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"go.yaml.in/yaml/v3"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// root is the repository.
var root, _ = filepath.Abs("../..")

// Tools whose versions files in .ci pin.
var (
	kustomize       = pinned("tools.mod", "kustomize")
	actionlint      = pinned("tools.mod", "actionlint")
	kubectlValidate = pinned("kubernetes.mod", "kubectl-validate")
)

// pinned makes commands of a tool, which is built once. Without its modules the test is skipped.
func pinned(pins, name string) func(*testing.T, ...string) *exec.Cmd {
	built := sync.OnceValues(func() (string, error) {
		command := exec.Command("go", "tool", "-modfile=.ci/"+pins, "-n", name)
		command.Dir, command.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		path, err := command.Output()
		return strings.TrimSpace(string(path)), err
	})
	return func(t *testing.T, arguments ...string) *exec.Cmd {
		t.Helper()
		path, err := built()
		if err != nil {
			programs.Missing(t, name+" of .ci/"+pins+" cannot be built without a network")
		}
		command := exec.CommandContext(t.Context(), path, arguments...)
		command.Dir = root
		return command
	}
}

// build returns the objects that `kubectl apply -k` sends for an overlay.
func build(t *testing.T, overlay string) []byte {
	t.Helper()
	command := kustomize(t, "build", "infra/kubernetes/"+overlay)
	var printed bytes.Buffer
	command.Stderr = &printed
	built, err := command.Output()
	if err != nil {
		t.Fatalf("kustomize build %s: %v: %s", overlay, err, &printed)
	}
	return built
}

// validate validates objects by the schemas of Kubernetes 1.30, and by the CRDs in folders.
func validate(t *testing.T, objects []byte, crds ...string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, objects, 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := []string{"--version=1.30", file}
	for _, folder := range crds {
		arguments = append(arguments, "--local-crds="+folder)
	}
	if printed, err := kubectlValidate(t, arguments...).CombinedOutput(); err != nil {
		return errors.New(string(printed))
	}
	return nil
}

// at is the value at a path of keys and indexes; nil if there is none.
func at(value any, path ...any) any {
	for _, step := range path {
		switch key := step.(type) {
		case string:
			fields, _ := value.(map[string]any)
			value = fields[key]
		case int:
			list, _ := value.([]any)
			if key >= len(list) {
				return nil
			}
			value = list[key]
		}
	}
	return value
}

// objects are the objects of a stream, by kind.
func objects(t *testing.T, stream []byte) map[string]any {
	t.Helper()
	found := map[string]any{}
	for decoder := yaml.NewDecoder(bytes.NewReader(stream)); ; {
		var object map[string]any
		switch err := decoder.Decode(&object); {
		case errors.Is(err, io.EOF):
			return found
		case err != nil:
			t.Fatal(err)
		}
		found[object["kind"].(string)] = object
	}
}

var overlays = []string{"trusted-profile", "api-key"}

func TestOverlays(t *testing.T) {
	t.Parallel()
	for _, overlay := range overlays {
		t.Run(overlay, func(t *testing.T) {
			t.Parallel()
			stream := build(t, overlay)
			if err := validate(t, stream); err != nil {
				t.Fatal(err)
			}
			all := objects(t, stream)
			if got, want := slices.Sorted(maps.Keys(all)), []string{"ConfigMap", "CronJob", "Namespace", "NetworkPolicy", "ServiceAccount"}; !slices.Equal(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
			pod := []any{"CronJob", "spec", "jobTemplate", "spec", "template", "spec"}
			container := append(slices.Clip(pod), "containers", 0)
			// The schemas allow any text for values of which the API server accepts few.
			for _, test := range []struct {
				from []any
				path []any
				want any
			}{
				{nil, []any{"CronJob", "spec", "concurrencyPolicy"}, "Forbid"},
				{nil, []any{"CronJob", "spec", "jobTemplate", "spec", "backoffLimit"}, 0},
				{pod, []any{"restartPolicy"}, "Never"},
				{pod, []any{"automountServiceAccountToken"}, false},
				{pod, []any{"serviceAccountName"}, at(all, "ServiceAccount", "metadata", "name")},
				{pod, []any{"securityContext"}, map[string]any{"runAsNonRoot": true, "seccompProfile": map[string]any{"type": "RuntimeDefault"}}},
				{container, []any{"securityContext"}, map[string]any{"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": map[string]any{"drop": []any{"ALL"}}}},
				{container, []any{"envFrom"}, []any{map[string]any{"configMapRef": map[string]any{"name": at(all, "ConfigMap", "metadata", "name")}}}},
				{nil, []any{"Namespace", "metadata", "labels", "pod-security.kubernetes.io/enforce"}, "restricted"},
				{nil, []any{"NetworkPolicy", "spec", "policyTypes"}, []any{"Ingress", "Egress"}},
				{nil, []any{"NetworkPolicy", "spec", "ingress"}, nil},
				{nil, []any{"NetworkPolicy", "spec", "podSelector", "matchLabels"}, at(all, "CronJob", "spec", "jobTemplate", "spec", "template", "metadata", "labels")},
			} {
				path := append(slices.Clip(test.from), test.path...)
				if got := at(all, path...); !reflect.DeepEqual(got, test.want) {
					t.Errorf("%v: got %v, want %v", path, got, test.want)
				}
			}
			for _, kind := range []string{"requests", "limits"} {
				if at(all, append(container, "resources", kind, "memory")...) == nil {
					t.Errorf("no %s of memory", kind)
				}
			}
			image, _ := at(all, append(container, "image")...).(string)
			if !strings.Contains(image, "/") || strings.HasSuffix(image, ":latest") {
				t.Errorf("image: got %q, want one of a registry, with a version", image)
			}
			withKey := overlay == "api-key"
			if mounts := at(all, append(container, "volumeMounts")...) != nil; mounts == withKey || (at(all, append(pod, "volumes")...) != nil) == withKey {
				t.Errorf("the service account's token is mounted: %t", mounts)
			}
			bad := strings.Replace(string(stream), "concurrencyPolicy:", "concurrencyPolice:", 1)
			if withKey && validate(t, []byte(bad)) == nil { // once is enough
				t.Error("kubectl-validate accepts an unknown field")
			}
		})
	}
}

// buildah runs it with a store of images that the test deletes.
func buildah(t *testing.T, store string, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "buildah", append([]string{"--storage-driver=vfs", "--root=" + store + "/root", "--runroot=" + store + "/run"}, arguments...)...)
	command.Dir, command.Env = root, append(os.Environ(), "BUILDAH_ISOLATION=chroot")
	var printed bytes.Buffer
	command.Stderr = &printed
	output, err := command.Output()
	if err != nil {
		t.Fatalf("buildah %s: %v: %s", arguments[0], err, &printed)
	}
	return strings.TrimSpace(string(output))
}

// image builds infra/Dockerfile, and returns the folder with the image's files, its user and its program. This machine is the base
// of the build.
func image(t *testing.T) (files, user, program string) {
	t.Helper()
	programs.Need(t, "buildah", "unshare", "chroot", "bash")
	if os.Geteuid() != 0 {
		programs.Missing(t, "not root, which builds an image and enters it")
	}
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		programs.Missing(t, "no right to mount, as in most containers")
	}
	store := t.TempDir()
	var goEnv map[string]string
	printed, err := exec.Command("go", "env", "-json", "GOROOT", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN").Output()
	if err = errors.Join(err, json.Unmarshal(printed, &goEnv)); err != nil {
		t.Fatal(err)
	}
	base := buildah(t, store, "from", "scratch")
	configure := []string{"config", "--env=PATH=" + goEnv["GOROOT"] + "/bin:/usr/bin:/bin", "--env=HOME=/root"}
	for name, value := range goEnv {
		if name != "GOROOT" {
			configure = append(configure, "--env="+name+"="+value)
		}
	}
	buildah(t, store, append(configure, base)...)
	buildah(t, store, "copy", base, "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt")
	buildah(t, store, "copy", base, t.TempDir(), "/tmp")
	buildah(t, store, "commit", "--quiet", base, "localhost/go:test")
	bud := []string{"bud", "--quiet", "--pull-never", "--network=host", "--file=infra/Dockerfile", "--build-arg=GO_IMAGE=localhost/go:test", "--build-arg=VERSION=v0.0.0-test", "--tag=localhost/rotator:test"}
	for _, folder := range []string{"/bin", "/lib", "/lib64", "/usr"} {
		if _, err := os.Stat(folder); err == nil {
			bud = append(bud, "--volume="+folder+":"+folder+":ro")
		}
	}
	for _, folder := range []string{goEnv["GOCACHE"], goEnv["GOMODCACHE"]} {
		bud = append(bud, "--volume="+folder+":"+folder)
	}
	buildah(t, store, append(bud, ".")...)
	config := buildah(t, store, "inspect", "--type=image", "--format={{.OCIv1.Config.User}} {{index .OCIv1.Config.Entrypoint 0}}", "localhost/rotator:test")
	user, program, _ = strings.Cut(config, " ")
	return buildah(t, store, "mount", buildah(t, store, "from", "--pull-never", "localhost/rotator:test")), user, program
}

// TestImageRunsAsTheCronJobSays runs the image's files with the CronJob's arguments and variables: as a user that is not root, on a
// read-only file system, with only the image's certificates.
func TestImageRunsAsTheCronJobSays(t *testing.T) {
	t.Parallel()
	files, user, program := image(t)
	if id, _, _ := strings.Cut(user, ":"); !regexp.MustCompile(`^[1-9][0-9]*$`).MatchString(id) {
		t.Fatalf("user %q: runAsNonRoot needs a number other than 0", user)
	}
	for _, name := range []string{program, "THIRD-PARTY.txt"} {
		if info, err := os.Stat(filepath.Join(files, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	all := objects(t, build(t, "trusted-profile"))
	pod := at(all, "CronJob", "spec", "jobTemplate", "spec", "template", "spec")
	container := at(pod, "containers", 0)
	variables := map[string]string{}
	for name, value := range at(all, "ConfigMap", "data").(map[string]any) {
		variables[name] = value.(string)
	}
	for _, variable := range at(container, "env").([]any) {
		variables[at(variable, "name").(string)] = at(variable, "value").(string)
	}
	var arguments []string
	for _, argument := range at(container, "args").([]any) {
		arguments = append(arguments, argument.(string))
	}
	// What Kubernetes and IBM Cloud provide.
	cloud := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	server := httptest.NewTLSServer(cloud)
	defer server.Close()
	projected := at(pod, "volumes", 0, "projected", "sources", 0, "serviceAccountToken")
	if got := at(projected, "audience"); got != "iam" {
		t.Errorf("the token is for %v, but IAM accepts only iam", got)
	}
	token := filepath.Join(files, at(container, "volumeMounts", 0, "mountPath").(string), at(projected, "path").(string))
	if err := errors.Join(os.MkdirAll(filepath.Dir(token), 0o755), os.WriteFile(token, []byte("compute-resource-token"), 0o644)); err != nil {
		t.Fatal(err)
	}
	rotation := cloud.Rotations()[0]
	maps.Copy(variables, map[string]string{
		"IAM_URL": server.URL, "SECRETS_MANAGER_URL": server.URL, "IAM_PROFILE_ID": cloud.ProfileID(),
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret, "EXPECT_ACCOUNT": cloud.AccountID(), "EXPECT_IAM_ID": rotation.IAMID,
	})
	run := func(wantStatus int, want string, arguments ...string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "bash", "-euc",
			`mount --bind "$0" "$0"; mount -o remount,ro,bind "$0"; exec chroot --userspec="$1" "$0" "$2" "${@:3}"`, files, user, program}, arguments...)...)
		command.Env = []string{"PATH=" + os.Getenv("PATH")}
		for name, value := range variables {
			command.Env = append(command.Env, name+"="+value)
		}
		printed, _ := command.CombinedOutput()
		if got := command.ProcessState.ExitCode(); got != wantStatus || !strings.Contains(string(printed), want) {
			t.Errorf("%q: got exit %d, want %d and %q in:\n%s", arguments, got, wantStatus, want, printed)
		}
	}
	run(0, "v0.0.0-test", "-version")
	run(1, "certificate", "-mode", "ensure", "-timeout", "3s") // the image does not trust this server
	certificates, err := os.OpenFile(filepath.Join(files, "etc/ssl/certs/ca-certificates.crt"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = pem.Encode(certificates, &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err = errors.Join(err, certificates.Close()); err != nil {
		t.Fatal(err)
	}
	run(0, "default: rotated", arguments...)
	run(0, "default: fresh", arguments...)
	variables["SECRETS_MANAGER_URL"] = "https://"
	run(2, "SECRETS_MANAGER_URL", arguments...)
}

// The workflow and the steps on the page are valid for GitHub, and so is the shell in them.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	programs.Need(t, "shellcheck")
	page, err := os.ReadFile(filepath.Join(root, "functions", "iamtoken", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml actions\n")
	steps, _, found := strings.Cut(rest, "\n```")
	if !found {
		t.Fatal("the page has no steps for GitHub")
	}
	file := filepath.Join(t.TempDir(), "page.yaml")
	workflow := "on: push\njobs:\n  job:\n    runs-on: ubuntu-24.04\n    " + strings.ReplaceAll(steps, "\n", "\n    ") + "\n"
	if err := os.WriteFile(file, []byte(workflow), 0o600); err != nil {
		t.Fatal(err)
	}
	if printed, err := actionlint(t, "infra/github/deploy.yaml", file).CombinedOutput(); err != nil {
		t.Errorf("actionlint: %v\n%s", err, printed)
	}
}

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

// The example is valid by the definitions of External Secrets; scripts/conformance reads a token with it.
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

// An event of a new token restarts the service, and no other event does.
func TestATokenRestartsAnECSService(t *testing.T) {
	t.Parallel()
	file, _ := platform(t, filepath.Join("testdata", "ecs_restart.py"))
	python := programs.Path(t, "python3")
	printed, err := exec.CommandContext(t.Context(), python, file).CombinedOutput()
	if bytes.Contains(printed, []byte("ModuleNotFoundError: No module named")) {
		programs.Missing(t, "Python has no moto: pip install 'moto[server]'")
	}
	if err != nil {
		t.Errorf("%v\n%s", err, printed)
	}
}

// The example has no data source and no output, which would write the token into the state.
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
