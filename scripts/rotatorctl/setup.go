package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iam-token-rotator/scripts/envfile"
)

// setup makes the API keys and the two secrets of one rotation. Terraform must not make them, because its provider writes their
// values into the state.
type setup struct {
	*program
	// the options
	outputsFrom, name, envFile                     string
	awsSecret, kmsKeyID, bootstrapFile, readerFile string
	days                                           int // lifetime of new keys
	noBootstrapKey, rotateKeys, kv                 bool
	// Terraform's outputs
	account, keyGroup, tokenGroup, profile string
	// what is found or made
	tokenSecret                 string // its id
	readerKeyID                 string // of a reader's key that an earlier run made
	workload, bootstrap, reader *serviceID
	cloud                       *ibmCloud
	aws                         *bootstrapSecret // nil if no key is to be stored there
}

func (p *program) setupCommand() *cobra.Command {
	s := &setup{program: p}
	command := &cobra.Command{
		Use:   "setup",
		Short: "Make the API keys and the two secrets, and print what deploy needs",
		Long: `Makes the API keys of the bootstrap, workload and reader service ids, stores the workload's in the key group and
the bootstrap's in AWS Secrets Manager, and creates the token secret. Where all of this exists, it changes nothing. If it
is interrupted, run it again and it continues. It prints ids and ARNs as NAME='value' lines, no secret. With -o json it
prints one document, whose "rotation" is the entry of ROTATIONS.

You need Manager on the Secrets Manager instance and Administrator on the service ids. Log in with one of
  IAM_TOKEN            your own token: export IAM_TOKEN="$(ibmcloud iam oauth-tokens)"
  IBMCLOUD_API_KEY     your own API key
Other variables:
  IAM_URL              https://iam.cloud.ibm.com unless set
Without --terraform, also Terraform's outputs, by their names in capitals:
  SECRETS_MANAGER_URL, ACCOUNT_ID, KEY_GROUP_ID, TOKEN_GROUP_ID, WORKLOAD_IAM_ID, BOOTSTRAP_IAM_ID, READER_IAM_ID,
  IAM_PROFILE_ID
  MANAGED_KEYS         true if IBM makes, rotates and deletes the keys of the workload and the bootstrap`,
		Example: "  rotatorctl setup --terraform infra/ibm --reader-key-file build/reader.key --env build/ibm.env",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	s.addFlags(command.Flags())
	command.Flags().BoolVar(&s.rotateKeys, "rotate-keys", false, "make, try and store new keys; the old ones remain valid")
	return command
}

// addFlags adds the options that replace-identity has too.
func (s *setup) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.outputsFrom, "terraform", "", "`PATH` of Terraform's folder, or of a file with what terraform output -json prints (- is standard input)")
	flags.StringVar(&s.envFile, "env", "-", "write the lines to this `FILE`, all or none (- is standard output)")
	flags.StringVar(&s.name, "name", "iam-token-rotator", "beginning of the names of keys and secrets")
	flags.StringVar(&s.awsSecret, "aws-secret", defaultAWSSecret, "`NAME` of the AWS secret for the bootstrap key")
	flags.StringVar(&s.kmsKeyID, "aws-kms-key-id", "", "encrypt the AWS secret with this KMS key of yours")
	flags.StringVar(&s.bootstrapFile, "bootstrap-key-file", "", "write the bootstrap key to this `FILE`, mode 0600, instead of AWS")
	flags.StringVar(&s.readerFile, "reader-key-file", "", "also make a key of the reader, in this `FILE`, mode 0600; each file gets its own key")
	flags.BoolVar(&s.kv, "kv", false, "make the token secret of type kv, with the token in its entry iam_token")
	flags.BoolVar(&s.noBootstrapKey, "no-bootstrap-key", false, "make no bootstrap key: all workloads use the one of the first")
	flags.IntVar(&s.days, "expires-in", 90, "lifetime of new keys in `DAYS`; 0 is for ever")
}

func (s *setup) run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	return s.makeMissing(ctx)
}

// begin checks the input, and logs in.
func (s *setup) begin(ctx context.Context) error {
	if err := s.readInput(); err != nil {
		return err
	}
	return s.cloud.logIn(ctx, s.getenv("IAM_TOKEN"), s.getenv("IBMCLOUD_API_KEY"))
}

func (s *setup) makeMissing(ctx context.Context) error {
	// First everything is read, so that a missing right or a wrong id shows before anything is made.
	if err := s.readState(ctx); err != nil {
		return err
	}
	if s.tokenSecret != "" {
		s.say("the token secret exists, %s", s.tokenSecret)
	} else if err := s.createTokenSecret(ctx); err != nil {
		return err
	}
	for _, id := range s.serviceIDs() {
		ensure := s.ensureKey
		if id.managed {
			ensure = s.ensureManaged
		}
		if err := ensure(ctx, id); err != nil {
			return err
		}
	}
	s.reportUnused()
	return s.writeResult()
}

// serviceIDs are those that get a key. The workload's is first: so its managed key has been tried, too, when AWS gets the bootstrap's.
func (s *setup) serviceIDs() []*serviceID {
	return slices.DeleteFunc([]*serviceID{s.workload, s.bootstrap, s.reader}, func(id *serviceID) bool { return id.store == nil })
}

// readState finds the secrets and keys that exist. It changes nothing.
func (s *setup) readState(ctx context.Context) error {
	token, err := s.findSecret(ctx, s.name+"-token", s.tokenGroup, "arbitrary,kv")
	if err != nil {
		return err
	}
	fixed, err := s.findSecret(ctx, s.name+"-api-key", s.keyGroup, "arbitrary")
	if err != nil {
		return err
	}
	s.tokenSecret, s.workload.place = token.ID, fixed.ID
	for _, id := range s.serviceIDs() {
		if id.file == "" {
			if id.iamCredentials, err = s.findSecret(ctx, s.keySecretName(id), s.keyGroup, "iam_credentials"); err != nil {
				return err
			}
		}
		if id.managed {
			if err := s.checkIAMCredentials(id); err != nil {
				return err
			}
		}
		if mayHaveFixedKey := !id.managed || id != s.workload; mayHaveFixedKey { // AWS gets one before the bootstrap's managed key
			if err := s.loadKeys(ctx, id); err != nil {
				return err
			}
		}
	}
	b := s.bootstrap
	if inAWS := b.store != nil && b.file == ""; !inAWS {
		return nil
	}
	if mayStore := b.managed || b.iamCredentials.ID != "" || s.needsKey(b); mayStore {
		if s.aws, err = s.openBootstrapSecret(ctx, s.awsSecret, s.kmsKeyID); err != nil || b.managed {
			return err
		}
		b.mustReplace = s.aws.keyID() != "" // which nothing renews any more
	}
	if s.needsKey(b) {
		return nil
	}
	return s.checkAWSSecret(ctx, b.stored.place)
}

// checkAWSSecret returns an error if the AWS secret with the stored key is gone. Without AWS it only says that it has not looked:
// nothing is to be stored there.
func (s *setup) checkAWSSecret(ctx context.Context, arn string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found, err := s.openBootstrapSecret(ctx, arn, "")
	switch {
	case errors.Is(err, errDeleted):
		return err
	case err != nil:
		s.say("note: whether the AWS secret with the bootstrap key still exists was not checked: %v", err)
	case found.version == "":
		return fmt.Errorf("the AWS secret %s, with the bootstrap key, is gone: run setup again with --rotate-keys, which stores another key, and then deploy", arn)
	}
	return nil
}

// outputs are the outputs of Terraform that setup reads, with their shapes, and IAM's URL.
var outputs = []struct {
	name     string
	shape    *regexp.Regexp
	optional bool // may be empty
}{
	{"iam_url", originShape, false}, {"secrets_manager_url", originShape, false}, {"account_id", accountShape, false},
	{"key_group_id", groupShape, false}, {"token_group_id", groupShape, false}, {"workload_iam_id", iamIDShape, false},
	{"bootstrap_iam_id", iamIDShape, true}, {"reader_iam_id", iamIDShape, true}, {"iam_profile_id", profileShape, true},
	{"managed_keys", regexp.MustCompile(`^(true|false)$`), true},
}

var (
	nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,38}[A-Za-z0-9]$`)
	// originShape allows http only for this machine. nullLabel finds a host in which jq has put null for a missing value.
	originShape = regexp.MustCompile(`^(?:https://[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|http://(?:127\.0\.0\.1|localhost))(?::[0-9]{1,5})?/?$`)
	nullLabel   = regexp.MustCompile(`(?i)[/.]null(?:[/.:]|$)`)
)

// readInput checks options and variables. It sends no request.
func (s *setup) readInput() error {
	switch {
	case s.noBootstrapKey && s.bootstrapFile != "":
		return usagef("--no-bootstrap-key leaves nothing to write to --bootstrap-key-file")
	case !nameShape.MatchString(s.name):
		return usagef("--name takes 2 to 40 letters, digits, dots, hyphens and underscores, and begins and ends with a letter or digit")
	case s.envFile == "":
		return usagef("--env takes a file, or - for standard output")
	case s.days < 0 || s.days > 9999:
		return usagef("--expires-in takes a number of days, 9999 at most")
	}
	values, err := s.readOutputs()
	if err != nil {
		return err
	}
	values["iam_url"] = cmp.Or(s.getenv("IAM_URL"), "https://iam.cloud.ibm.com")
	for _, o := range outputs {
		value, variable := values[o.name], strings.ToUpper(o.name)
		switch {
		case value == "" && o.optional:
		case value == "":
			return usagef("%s is not set: give --terraform, or export it", variable)
		case o.shape == originShape && (!o.shape.MatchString(value) || nullLabel.MatchString(value)):
			return usagef("%s must be an https URL without a path, its host complete", variable)
		case !o.shape.MatchString(value):
			return usagef("%s does not have the form of such an id", variable)
		}
	}
	s.cloud = newIBMCloud(strings.TrimSuffix(values["iam_url"], "/"), strings.TrimSuffix(values["secrets_manager_url"], "/"), s.sleep)
	s.account, s.profile = values["account_id"], values["iam_profile_id"]
	s.keyGroup, s.tokenGroup = values["key_group_id"], values["token_group_id"]
	return s.planKeys(values)
}

// planKeys decides which service ids get a key, and where it is stored.
func (s *setup) planKeys(values map[string]string) error {
	managed := values["managed_keys"] == "true"
	newID := func(role string) *serviceID { return &serviceID{role: role, iamID: values[role+"_iam_id"]} }
	s.workload, s.bootstrap, s.reader = newID("workload"), newID("bootstrap"), newID("reader")
	s.workload.store, s.workload.managed = s.storeInKeyGroup, managed
	switch b := s.bootstrap; {
	case s.bootstrapFile != "":
		if err := b.keepInFile(s.bootstrapFile); err != nil {
			return err
		}
	case b.iamID != "" && !s.noBootstrapKey:
		b.managed, b.place = managed, s.awsSecret
		b.store = func(ctx context.Context, key keyValue) (string, error) { return s.aws.put(ctx, key.value, "") }
	}
	if s.readerFile != "" {
		if err := s.reader.keepInFile(s.readerFile); err != nil {
			return err
		}
	}
	inOneFile := s.readerFile != "" && s.reader.place == s.bootstrap.place
	if env, _ := placeOf(s.envFile); inOneFile || env == s.reader.place || env == s.bootstrap.place {
		return usagef("two of --env, --bootstrap-key-file and --reader-key-file name the same file: give each its own")
	}
	if managed && s.rotateKeys {
		s.say("note: --rotate-keys does not change the keys that IBM manages: IBM rotates them")
	}
	return nil
}

// readOutputs returns Terraform's outputs, from --terraform if that is given, else from the environment. It never mixes the two.
func (s *setup) readOutputs() (map[string]string, error) {
	values := map[string]string{}
	if s.outputsFrom == "" {
		for _, o := range outputs {
			values[o.name] = s.getenv(strings.ToUpper(o.name))
		}
		return values, nil
	}
	printed, err := s.readTerraform()
	if err != nil {
		why := "see above; in a folder, terraform init and terraform apply must have run"
		if errors.Is(err, exec.ErrNotFound) {
			why = "terraform is not installed, or not in PATH; a file with what terraform output -json prints does as well"
		} else if errors.Is(err, fs.ErrNotExist) {
			why = "there is no such file or folder"
		} else if s.outputsFrom != "-" && errors.Is(err, fs.ErrPermission) {
			why = "you may not read it"
		}
		return nil, usagef("--terraform: the outputs cannot be read: %s", why)
	}
	var document map[string]struct{ Value any }
	if err := json.Unmarshal(printed, &document); err != nil || document["workload_iam_id"].Value == nil {
		return nil, usagef("--terraform: these are not the outputs of infra/ibm: after terraform apply, terraform -chdir=infra/ibm output -json prints them")
	}
	for _, o := range outputs {
		values[o.name], _ = document[o.name].Value.(string)
	}
	return values, nil
}

func (s *setup) readTerraform() ([]byte, error) {
	if s.outputsFrom == "-" {
		return io.ReadAll(io.LimitReader(s.stdin, 1<<20))
	}
	if info, err := os.Stat(s.outputsFrom); err == nil && info.IsDir() {
		return s.askTerraform("output", "-json", "-no-color")
	}
	return os.ReadFile(s.outputsFrom)
}

// terraform runs the program terraform. The terminal sends Ctrl-C to it too, and it then finishes what it has begun. So it gets
// no second signal from here: that one would make it abandon its state.
func terraform(folder string, args ...string) (printed, complaint []byte, err error) {
	command := exec.Command("terraform", append([]string{"-chdir=" + folder}, args...)...)
	var stderr bytes.Buffer
	command.Env, command.Stderr = withoutCredentials(os.Environ()), &stderr
	printed, err = command.Output()
	return printed, stderr.Bytes(), err
}

// askTerraform returns what terraform prints on standard output. It shows standard error, and if terraform fails both.
func (s *setup) askTerraform(args ...string) ([]byte, error) {
	printed, said, err := s.terraform(s.outputsFrom, args...)
	if err != nil {
		said = slices.Concat(printed, said)
	}
	for line := range strings.Lines(string(said)) {
		s.say("%s", withoutSecrets(strings.TrimRight(line, "\r\n")))
	}
	return printed, err
}

// writeResult prints, or writes to --env, the ids and ARNs of everything that was found and made.
func (s *setup) writeResult() error {
	w, b := s.workload, s.bootstrap
	arn, iamCredentials, expires, profile := "", "", "", ""
	if b.file == "" {
		arn = b.stored.place
	}
	if b.managed {
		iamCredentials = b.iamCredentials.ID
	}
	if b.store == nil {
		profile = s.profile
	}
	if !b.stored.expires.IsZero() {
		expires = b.stored.expires.Format(time.DateOnly)
	}
	lines := slices.DeleteFunc([][2]string{
		{"SECRETS_MANAGER_URL", s.cloud.secretsURL}, {"API_KEY_SECRET", w.stored.place}, {"TOKEN_SECRET", s.tokenSecret},
		{"EXPECT_ACCOUNT", s.account}, {"EXPECT_IAM_ID", w.iamID}, {"WORKLOAD_APIKEY_ID", w.stored.id}, {"BOOTSTRAP_APIKEY_ID", b.stored.id},
		{"BOOTSTRAP_EXPIRES_AT", expires}, {"BOOTSTRAP_SECRET_ARN", arn}, {"BOOTSTRAP_KEY_SECRET", iamCredentials}, {"IAM_PROFILE_ID", profile},
		{"READER_APIKEY_ID", cmp.Or(s.reader.stored.id, s.readerKeyID)},
	}, func(line [2]string) bool { return line[1] == "" })
	if s.envFile != "-" || s.output != "json" {
		if err := envfile.Write(s.envFile, envfile.Lines(lines), s.stdout); err != nil {
			return fmt.Errorf("writing the result failed: %s: run it again, with an --env that can be written; it makes nothing twice", printable(err.Error()))
		}
	}
	if s.output != "json" {
		return nil
	}
	document := map[string]any{"rotation": map[string]any{"name": s.name, "api_key_secret": w.stored.place, "token_secret": s.tokenSecret,
		"expect": map[string]string{"account": s.account, "iam_id": w.iamID}}}
	for _, line := range lines {
		document[line[0]] = line[1]
	}
	return s.printJSON(document)
}
