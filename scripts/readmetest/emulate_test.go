package readmetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Programs that cannot be had here are emulated: in the PATH of a stage their names are links to this test, which knows the commands
// of the pages and refuses all others. Of Code Engine, Kubernetes and profiles it looks at the arguments alone.

// state is what the emulated programs know, in the file stateName of their home.
type state struct {
	Administrator string            // an API key
	Outputs       map[string]string // of Terraform
	Profile       string            // what the output iam_profile_id is for Code Engine
	Next          map[string]string // service ids that Terraform makes when the first one is not in its state any more
	Applied       map[string]string // outputs
	Forgotten     []string          // the roles of service ids
	Recording     bool              // every program is only recorded, in Called
	Packed        string            // the folder of zips
	Called        []string
}

const stateName = ".emulation.json"

// emulations are the programs; those without a function are only recorded.
var emulations = map[string]func(s *state, args []string) (string, error){
	"docker": matched, "kubectl": matched, "ibmcloud": ibmcloud, "terraform": terraform, "go": goCommand, "make": nil, "aws": nil, "rotatorctl": nil,
}

// commandLines are those of the pages, as regular expressions. The group file is a file that must not be empty.
var commandLines = map[string][]string{
	"docker": {`build --file (?<file>\S+) --build-arg VERSION=\S* --tag \S+ \.`, `push \S+/\S+:\S+`},
	"kubectl": {
		`apply -k (?<folder>\S+)`, `create secret generic iam-token-rotator-bootstrap --namespace iam-token-rotator --from-file=apikey=(?<file>\S+)`,
		`create job --namespace iam-token-rotator --from=cronjob/iam-token-rotator first`, `wait --namespace iam-token-rotator --for=condition=complete --timeout=\d+s job/first`,
		`logs --namespace iam-token-rotator job/first`,
	},
	"ibmcloud": {
		`login`, `iam oauth-tokens( --output json)?`, `ks cluster get --cluster \S+ --output json`, `secrets-manager secret-delete --id (?<id>\S+) --service-url (?<url>\S+)`,
		`iam trusted-profile-link-create iam-token-rotator-bootstrap --name \S+ --cr-type IKS_SA --link-crn crn:v1:\S+:containers-kubernetes:\S+ ` +
			`--link-namespace iam-token-rotator --link-name iam-token-rotator`, // the service account of infra/kubernetes
		`ce project select --name \S+`, `ce job (create|update) --name \S+ --build-source (?<source>\S+)( --trusted-profiles-enabled=true| --(cpu|memory|maxexecutiontime|retrylimit|env) \S+)*`,
		`ce job delete --name \S+ --force`, `ce registry create --name \S+ --server \S+ --username \S+ --password-from-file \S+`, `ce buildrun submit --build \S+ --wait`,
		`ce jobrun submit --job \S+ --name \S+ --wait`, `ce jobrun logs --name \S+`, `ce sub cron create --name \S+ --destination \S+ --destination-type job --schedule [*\d/ ]+`,
		`ce sub cron delete --name \S+ --force`,
	},
	"terraform": {`init`, `output -json( -no-color)?`, `output -raw (?<output>\S+)`, `state list( -id=(?<id>\S+))?`, `state rm (?<addresses>.+)`,
		`(?<change>apply|plan|destroy)(?<variables>( -auto-approve| -input=false| -no-color| -detailed-exitcode| -var-file=\S+| -var \S+)*)`},
}

// emulate is the main function of an emulated program.
func emulate(program string, args []string) error {
	var s state
	file := filepath.Join(os.Getenv("HOME"), stateName)
	content, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(content, &s)
	}
	if err != nil {
		return err
	}
	printed := ""
	if s.Recording {
		s.Called = append(s.Called, program+" "+strings.Join(args, " "))
	} else {
		printed, err = emulations[program](&s, args)
	}
	fmt.Print(printed)
	changed, failure := json.Marshal(s)
	if failure == nil && !bytes.Equal(changed, content) {
		failure = os.WriteFile(file, changed, 0o600)
	}
	return errors.Join(err, failure)
}

// groups are what a command line has for the groups of its pattern.
func groups(program string, args []string) (map[string]string, error) {
	line := strings.Join(args, " ")
	for _, pattern := range commandLines[program] {
		shape := regexp.MustCompile("^" + pattern + "$")
		if found := shape.FindStringSubmatch(line); found != nil {
			named := map[string]string{}
			for i, name := range shape.SubexpNames() {
				named[name] = found[i]
			}
			return named, nil
		}
	}
	return nil, fmt.Errorf("unknown command: %s", line)
}

var copied = regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`)

// matched is a program that does nothing: it wants a known command, and the files that are named.
func matched(_ *state, args []string) (string, error) {
	program := filepath.Base(os.Args[0])
	found, err := groups(program, args)
	if err != nil {
		return "", err
	}
	var files []string
	switch {
	case found["file"] != "":
		files = []string{found["file"]}
	case found["folder"] != "":
		files = []string{filepath.Join(found["folder"], "kustomization.yaml")}
	case found["source"] != "":
		recipe, _ := os.ReadFile(filepath.Join(found["source"], "Dockerfile"))
		files = []string{filepath.Join(found["source"], "Dockerfile")}
		for _, line := range copied.FindAllStringSubmatch(string(recipe), -1) {
			for name := range strings.FieldsSeq(line[1]) {
				files = append(files, filepath.Join(found["source"], name))
			}
		}
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			return "", fmt.Errorf("there is no %s, or it is empty", file)
		}
	}
	return "", nil
}

// ibmcloud does what concerns IAM and Secrets Manager in the sandbox at $IAM_URL, as its administrator.
func ibmcloud(s *state, args []string) (string, error) {
	found, err := groups("ibmcloud", args)
	if err != nil {
		return "", err
	}
	switch line := strings.Join(args, " "); {
	case strings.HasPrefix(line, "ks "):
		return `{"crn":"crn:v1:bluemix:public:containers-kubernetes:us-south:a/0123456789abcdef0123456789abcdef:c0pigdctkkc07fs7pm06::"}`, nil
	case found["id"] == "" && !strings.HasPrefix(line, "iam oauth-tokens"):
		return matched(s, args)
	}
	var token struct {
		Value string `json:"access_token"`
	}
	answer, err := http.PostForm(os.Getenv("IAM_URL")+"/identity/token", url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {s.Administrator}})
	if err == nil {
		err = json.NewDecoder(answer.Body).Decode(&token)
	}
	switch {
	case err != nil:
		return "", err
	case found["id"] != "":
		request, err := http.NewRequest(http.MethodDelete, found["url"]+"/api/v2/secrets/"+found["id"], nil)
		if err != nil {
			return "", err
		}
		request.Header.Set("Authorization", "Bearer "+token.Value)
		answer, err := http.DefaultClient.Do(request)
		if err == nil && answer.StatusCode >= 300 {
			err = errors.New(answer.Status)
		}
		return "", err
	case len(args) > 2:
		return fmt.Sprintf("{\"iam_token\":\"Bearer %s\"}\n", token.Value), nil
	}
	return fmt.Sprintf("IAM token:  Bearer %s\n", token.Value), nil
}

// terraform knows the variables and outputs of the configuration. What it makes the test has made before.
func terraform(s *state, args []string) (string, error) {
	if folder, ok := strings.CutPrefix(args[0], "-chdir="); ok {
		if err := os.Chdir(folder); err != nil {
			return "", err
		}
		args = args[1:]
	}
	found, err := groups("terraform", args)
	configuration, _ := filepath.Glob("*.tf")
	switch line := strings.Join(args, " "); {
	case err != nil:
		return "", err
	case len(configuration) == 0:
		return "", errors.New("there is no configuration in this folder")
	case found["change"] == "apply" || found["change"] == "plan":
		planned, err := s.planned(strings.Fields(found["variables"]))
		if found["change"] == "plan" && err == nil && !maps.Equal(planned, s.Applied) {
			err = errors.New("Plan: there are changes")
		} else if found["change"] == "apply" {
			s.Applied = planned
		}
		return "", err
	case line == "init":
		return "", nil
	case s.Applied == nil:
		return "", errors.New("nothing has been applied")
	case found["change"] == "destroy":
		s.Applied = nil
	case found["output"] != "":
		return s.Applied[found["output"]], nil
	case args[0] == "output":
		outputs := map[string]any{}
		for name, value := range s.Applied {
			outputs[name] = map[string]any{"sensitive": false, "type": "string", "value": value}
			err = errors.Join(err, declared("output", name))
		}
		text, _ := json.Marshal(outputs) // strings always marshal
		return string(text), err
	case found["id"] != "":
		for name, value := range s.Applied {
			if value == "iam-"+found["id"] {
				return name + "\n", nil
			}
		}
	case found["addresses"] == "":
		return "ibm_iam_service_id.bootstrap[0]\nibm_iam_service_id.reader\nibm_iam_service_id.workload\nibm_iam_service_policy.workload[0]\n" +
			`ibm_iam_service_policy.secret_group["bootstrap-keys"]` + "\n" + `ibm_iam_service_policy.secret_group["bootstrap-tokens"]` + "\n" + `ibm_iam_service_policy.secret_group["reader"]` + "\n", nil
	case strings.Contains(found["addresses"], "reader"):
		return "", errors.New("state rm of the reader's")
	}
	for _, address := range strings.Fields(found["addresses"]) {
		if role, isID := strings.CutPrefix(address, "ibm_iam_service_id."); isID {
			role, _, _ = strings.Cut(role, "[")
			s.Forgotten = append(s.Forgotten, role)
		}
	}
	return "", nil
}

// declared is an error if the configuration has no such variable or output.
func declared(kind, name string) error {
	text, err := os.ReadFile(kind + "s.tf")
	if err == nil && !strings.Contains(string(text), fmt.Sprintf("%s %q {", kind, name)) {
		err = fmt.Errorf("there is no %s %s", kind, name)
	}
	return err
}

// planned are the outputs as an apply makes them.
func (s *state) planned(options []string) (map[string]string, error) {
	outputs, err := maps.Clone(s.Outputs), error(nil)
	set := func(name, value string) {
		err = errors.Join(err, declared("variable", name))
		switch name {
		case "managed_keys":
			outputs[name] = value
		case "code_engine":
			outputs["bootstrap_iam_id"], outputs["iam_profile_id"] = "", s.Profile
		}
	}
	for i, option := range options {
		if file, isFile := strings.CutPrefix(option, "-var-file="); isFile {
			var variables map[string]any
			content, failure := os.ReadFile(file)
			err = errors.Join(err, failure, json.Unmarshal(content, &variables))
			for name := range variables {
				set(name, "")
			}
		}
		if option == "-var" {
			name, value, _ := strings.Cut(options[i+1], "=")
			set(name, value)
		}
	}
	for _, role := range s.Forgotten {
		outputs[role+"_iam_id"] = s.Next[role]
	}
	return outputs, err
}

// goCommand builds nothing that is there already, of the same sources, and packs the same files once. All else the go command does.
func goCommand(s *state, args []string) (string, error) {
	if out := slices.Index(args, "-o") + 1; out > 0 && args[0] == "build" {
		if _, err := os.Stat(args[out]); err == nil {
			return "", nil
		}
	}
	_, path, _ := strings.Cut(os.Getenv("PATH"), ":") // without this program
	if err := os.Setenv("PATH", path); err != nil {
		return "", err
	}
	program, err := exec.LookPath("go")
	if err != nil {
		return "", err
	}
	const function = "./functions/rotate"
	if i := slices.Index(args, function); i > 0 && args[0] == "run" {
		built := "build/local/iam-token-rotator"
		return "", syscall.Exec(built, append([]string{built}, args[i+1:]...), os.Environ())
	}
	if len(args) < 5 || args[1] != "./scripts/package" || args[2] != "-o" {
		return "", syscall.Exec(program, append([]string{"go"}, args...), os.Environ())
	}
	sum := sha256.New()
	for _, file := range args[4:] {
		content, err := os.Open(file)
		if err == nil {
			_, err = io.Copy(sum, content)
		}
		if err != nil {
			return "", err
		}
	}
	zip := filepath.Join(s.Packed, fmt.Sprintf("%x.zip", sum.Sum(nil)))
	if _, err := os.Stat(zip); err != nil {
		pack := exec.Command(program, append([]string{"run", args[1], "-o", zip}, args[4:]...)...)
		if printed, err := pack.CombinedOutput(); err != nil {
			return string(printed), err
		}
	}
	content, err := os.ReadFile(zip)
	if err == nil {
		err = os.WriteFile(args[3], content, 0o600)
	}
	return "", err
}
