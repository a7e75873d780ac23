package readmetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// This file emulates programs that cannot run here. In the PATH of a stage their names are links to this test's binary,
// which knows the commands of the pages and rejects all others. For Code Engine, Kubernetes and trusted profiles it checks
// only the arguments.

// state is the state of the emulated programs, in the file stateName of their home folder.
type state struct {
	Token     string            // of the user who is logged in with ibmcloud
	Outputs   map[string]string // Terraform's outputs of a first apply
	Profile   string            // the output iam_profile_id with code_engine
	Next      map[string]string // by role, the service ids that Terraform creates in place of forgotten ones
	Applied   map[string]string // Terraform's current outputs
	Forgotten []string          // the roles of service ids that were removed from Terraform's state
	Recording bool              // calls are only recorded, in Called
	Called    []string
}

const stateName = ".emulation.json"

// emulations are the emulated programs. Those without a function can only be recorded.
var emulations = map[string]func(s *state, args []string) (string, error){
	"docker": matched, "kubectl": matched, "ibmcloud": ibmcloud, "terraform": terraform, "go": goCommand, "make": nil, "aws": nil, "rotatorctl": nil,
}

// commandLines are the command lines of the pages, as regular expressions.
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
		`ce project select --name \S+`, `ce job (create|update) --name \S+ --build-source (?<folder>\S+)( --trusted-profiles-enabled=true| --(cpu|memory|maxexecutiontime|retrylimit|env) \S+)*`,
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

// groups finds the pattern of a command line and returns the texts of its named groups.
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

// matched does nothing, but returns an error for an unknown command line, and for a file that is named and is
// missing or empty.
func matched(_ *state, args []string) (string, error) {
	found, err := groups(filepath.Base(os.Args[0]), args)
	if file := found["file"] + found["folder"]; file != "" {
		if found["folder"] != "" {
			file = filepath.Join(file, map[string]string{"ce": "Dockerfile", "apply": "kustomization.yaml"}[args[0]])
		}
		if info, missing := os.Stat(file); missing != nil || info.Size() == 0 {
			err = fmt.Errorf("there is no %s, or it is empty", file)
		}
	}
	return "", err
}

// ibmcloud prints its administrator's token, and deletes secrets. It checks the arguments of all other commands.
func ibmcloud(s *state, args []string) (string, error) {
	found, err := groups("ibmcloud", args)
	if err != nil {
		return "", err
	}
	switch line := strings.Join(args, " "); {
	case line == "iam oauth-tokens":
		return "IAM token:  Bearer " + s.Token + "\n", nil
	case line == "iam oauth-tokens --output json":
		return `{"iam_token":"Bearer ` + s.Token + "\"}\n", nil
	case strings.HasPrefix(line, "ks "):
		return `{"crn":"crn:v1:bluemix:public:containers-kubernetes:us-south:a/0123456789abcdef0123456789abcdef:c0pigdctkkc07fs7pm06::"}`, nil
	case found["id"] == "":
		return matched(s, args)
	}
	request, err := http.NewRequest(http.MethodDelete, found["url"]+"/api/v2/secrets/"+found["id"], nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("Authorization", "Bearer "+s.Token)
	answer, err := http.DefaultClient.Do(request)
	if err == nil && answer.StatusCode >= 300 {
		err = errors.New(answer.Status)
	}
	return "", err
}

// terraform emulates infra/ibm, whose resources are in the sandbox already. It checks that the configuration declares
// the variables and outputs.
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

// declared returns an error if the configuration has no such variable or output.
func declared(kind, name string) error {
	text, err := os.ReadFile(kind + "s.tf")
	if err == nil && !strings.Contains(string(text), fmt.Sprintf("%s %q {", kind, name)) {
		err = fmt.Errorf("there is no %s %s", kind, name)
	}
	return err
}

// planned returns the outputs after an apply with these options.
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

// goCommand does not build a file that exists, and runs built programs in place of go run. The go command does all else.
func goCommand(_ *state, args []string) (string, error) {
	if out := slices.Index(args, "-o") + 1; out > 0 && args[0] == "build" {
		if _, err := os.Stat(args[out]); err == nil {
			return "", nil
		}
	}
	for source, program := range map[string]string{"./functions/rotate": "build/local/iam-token-rotator", "./scripts/package": "build/local/package"} {
		if i := slices.Index(args, source); i > 0 && args[0] == "run" {
			return "", syscall.Exec(program, append([]string{program}, args[i+1:]...), os.Environ())
		}
	}
	_, path, _ := strings.Cut(os.Getenv("PATH"), ":") // without this program
	err := os.Setenv("PATH", path)
	program, missing := exec.LookPath("go")
	if err = errors.Join(err, missing); err != nil {
		return "", err
	}
	return "", syscall.Exec(program, append([]string{"go"}, args...), os.Environ())
}
