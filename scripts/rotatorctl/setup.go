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
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/scripts/envfile"
)

// setup makes what Terraform must not see, because its provider writes values into the state: the API keys, and
// the two secrets of one rotation.
type setup struct {
	*program
	terraform, name, env                           string
	awsSecret, kmsKeyID, bootstrapFile, readerFile string
	days                                           int
	noBootstrapKey, rotateKeys, kv                 bool
	account, keyGroup, tokenGroup, profile         string
	apiKeySecret, tokenSecret                      string // ids; empty until found or created
	readerKeyID                                    string // of a reader's key that this run is not about
	workload                                       *serviceID
	bootstrap, reader                              *serviceID // nil where there is to be no key
	cloud                                          *ibmCloud
	aws                                            *bootstrapSecret // opened only where a key is to be stored there
}

func (p *program) setupCommand() *cobra.Command {
	s := &setup{program: p}
	command := &cobra.Command{
		Use:   "setup",
		Short: "Make the API keys and the two secrets, and print what deploy needs",
		Long: `Makes the API keys of the bootstrap, workload and reader service ids, stores the workload's in the key group and
the bootstrap's in AWS Secrets Manager, and creates the token secret. Run again, it changes nothing; interrupted,
it continues. It prints ids and ARNs as NAME='value' lines, no secret. With -o json, "rotation" is the entry of ROTATIONS.

You need Manager on the Secrets Manager instance and Administrator on the service ids. Log in with
  IAM_TOKEN            your own token: export IAM_TOKEN="$(ibmcloud iam oauth-tokens)"
  IBMCLOUD_API_KEY     or your own API key
Other variables:
  IAM_URL              https://iam.cloud.ibm.com unless set
  SECRETS_MANAGER_URL, ACCOUNT_ID, KEY_GROUP_ID, TOKEN_GROUP_ID, WORKLOAD_IAM_ID, BOOTSTRAP_IAM_ID, READER_IAM_ID,
  IAM_PROFILE_ID       without --terraform: Terraform's outputs by their names in capitals
  MANAGED_KEYS         likewise; true: IBM makes, rotates and deletes the keys of the workload and the bootstrap`,
		Example: "  rotatorctl setup --terraform infra/ibm --reader-key-file build/reader.key --env build/ibm.env",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	s.addFlags(command.Flags())
	command.Flags().BoolVar(&s.rotateKeys, "rotate-keys", false, "make new keys, try and store them; the old ones stay valid")
	return command
}

// addFlags adds the options that say what to make and where it is.
func (s *setup) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&s.terraform, "terraform", "", "`PATH` of Terraform's folder, or of a file with what terraform output -json prints (- is standard input)")
	flags.StringVar(&s.env, "env", "-", "write the lines to this `FILE`, whole or not at all (- is standard output)")
	flags.StringVar(&s.name, "name", "iam-token-rotator", "beginning of the names of keys and secrets")
	flags.StringVar(&s.awsSecret, "aws-secret", defaultAWSSecret, "`NAME` of the AWS secret for the bootstrap key")
	flags.StringVar(&s.kmsKeyID, "aws-kms-key-id", "", "encrypt the AWS secret with this key of yours")
	flags.StringVar(&s.bootstrapFile, "bootstrap-key-file", "", "write the bootstrap key to this `FILE`, mode 0600, and not to AWS")
	flags.StringVar(&s.readerFile, "reader-key-file", "", "make the reader's key too, in this `FILE`, mode 0600; another file gets its own key")
	flags.BoolVar(&s.kv, "kv", false, "make the token secret of type kv, with the token in its entry iam_token")
	flags.BoolVar(&s.noBootstrapKey, "no-bootstrap-key", false, "make no bootstrap key: a further workload uses the first one's")
	flags.IntVar(&s.days, "expires-in", 90, "lifetime of new keys in `DAYS`; 0 is for ever")
}

func (s *setup) run(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	return s.makeMissing(ctx)
}

// begin reads what is given, and logs in.
func (s *setup) begin(ctx context.Context) error {
	if err := s.readInput(ctx); err != nil {
		return err
	}
	return s.cloud.logIn(ctx, s.getenv("IAM_TOKEN"), s.getenv("IBMCLOUD_API_KEY"))
}

func (s *setup) makeMissing(ctx context.Context) error {
	// Everything is read before anything is made, so that a missing right or a wrong id shows first.
	if err := s.readState(ctx); err != nil {
		return err
	}
	if s.tokenSecret != "" {
		s.say("the token secret exists, %s", s.tokenSecret)
	} else if err := s.createTokenSecret(ctx); err != nil {
		return err
	}
	if err := s.makeManaged(ctx); err != nil {
		return err
	}
	keys := map[*serviceID]apiKey{}
	for _, id := range s.serviceIDs() {
		key, err := s.ensureKey(ctx, id)
		if err != nil {
			return err
		}
		keys[id] = key
	}
	for _, file := range []string{s.bootstrapFile, s.readerFile} {
		if _, err := os.Lstat(file); file != "" && err != nil {
			s.say("note: %s is not there, and is not written again. If this machine alone had it: --rotate-keys makes another key.", printable(file))
		}
	}
	return s.writeResult(keys)
}

// serviceIDs are those that need a key of setup's making.
func (s *setup) serviceIDs() []*serviceID {
	return slices.DeleteFunc([]*serviceID{s.workload, s.bootstrap, s.reader}, func(id *serviceID) bool { return id == nil || id.managed != nil })
}

// readState finds what is there.
func (s *setup) readState(ctx context.Context) (err error) {
	if s.workload.managed == nil {
		if s.apiKeySecret, err = s.findSecret(ctx, s.name+"-api-key", s.keyGroup, "arbitrary"); err != nil {
			return err
		}
	}
	if s.tokenSecret, err = s.findSecret(ctx, s.name+"-token", s.tokenGroup, "arbitrary,kv"); err != nil {
		return err
	}
	for _, id := range s.serviceIDs() {
		if err := s.loadKeys(ctx, id); err != nil {
			return err
		}
	}
	for _, id := range s.managed() {
		if err := s.findManaged(ctx, id); err != nil {
			return err
		}
	}
	if err := s.findFormer(ctx); err != nil {
		return err
	}
	switch {
	case s.bootstrap == nil || s.bootstrapFile != "" || s.aws != nil:
	case s.bootstrap.managed != nil:
		if err := s.loadKeys(ctx, s.bootstrap); err != nil {
			return err
		}
		s.aws, err = s.openBootstrapSecret(ctx, s.awsSecret, s.kmsKeyID)
	case s.needsKey(s.bootstrap):
		s.aws, err = s.openBootstrapSecret(ctx, s.awsSecret, s.kmsKeyID)
	}
	return err
}

// findSecret returns the id of a secret of one of the types, empty if there is none.
func (s *setup) findSecret(ctx context.Context, name, group, types string) (string, error) {
	const size = 200
	doing := "finding the secret " + name
	for page := range pagesLimit {
		var list struct {
			Total   *int `json:"total_count"`
			Secrets []struct {
				ID    string `json:"id"`
				Name  string `json:"name"`
				Group string `json:"secret_group_id"`
			} `json:"secrets"`
		}
		query := url.Values{"groups": {group}, "secret_types": {types}, "search": {name},
			"limit": {fmt.Sprint(size)}, "offset": {fmt.Sprint(page * size)}}
		if err := s.cloud.send(ctx, doing, http.MethodGet, "secrets?"+query.Encode(), http.StatusOK, nil, &list); err != nil {
			return "", err
		}
		if list.Total == nil {
			return "", fmt.Errorf("%s: the answer is not the expected JSON: check SECRETS_MANAGER_URL", doing)
		}
		for _, found := range list.Secrets {
			if found.Name == name && found.Group == group {
				return knownID(doing, found.ID)
			}
		}
		if len(list.Secrets) == 0 || *list.Total <= (page+1)*size {
			return "", nil
		}
	}
	return "", fmt.Errorf("%s: the list does not end", doing)
}

func knownID(doing, id string) (string, error) {
	if !idShape.MatchString(id) {
		return "", fmt.Errorf("%s: the answer has an id of unknown form", doing)
	}
	return id, nil
}

// createSecret returns the new secret's id. It never expires: at its expiration date Secrets Manager destroys a
// secret, past recovery.
func (s *setup) createSecret(ctx context.Context, body map[string]any, refused string) (string, error) {
	var created struct {
		ID string `json:"id"`
	}
	doing := fmt.Sprintf("creating the secret %s", body["name"])
	refused = cmp.Or(refused, "Check the ids and options.") + " Or a secret of another group has the name: use another --name." // a taken name is 409 or 400
	f := &failure{doing: doing, needed: managerNeeded, refused: refused}
	if err := s.cloud.sendAs(ctx, f, http.MethodPost, "secrets", http.StatusCreated, body, &created); err != nil {
		return "", err
	}
	return knownID(doing, created.ID)
}

func (s *setup) createTokenSecret(ctx context.Context) (err error) {
	const noToken = "no token yet"
	body := map[string]any{"name": s.name + "-token", "secret_group_id": s.tokenGroup, "secret_type": "arbitrary", "payload": noToken,
		"description": "IAM access token, kept valid by iam-token-rotator."}
	if s.kv {
		delete(body, "payload")
		body["secret_type"], body["data"] = "kv", map[string]any{iamtoken.DefaultField: noToken}
		body["version_custom_metadata"] = map[string]any{"rotator_version": "rotatorctl"} // the function writes no kv secret without it
	}
	s.tokenSecret, err = s.createSecret(ctx, body, "")
	if err == nil {
		s.say("created the token secret, %s", s.tokenSecret)
	}
	return err
}

func (s *setup) storeWorkloadKey(ctx context.Context, value iamtoken.Secret, keyID string) (place string, err error) {
	body := map[string]any{"payload": value.Reveal(), "version_custom_metadata": map[string]any{"apikey_id": keyID}}
	if s.apiKeySecret != "" {
		return s.apiKeySecret, s.cloud.send(ctx, "storing the workload's new key", http.MethodPost,
			"secrets/"+s.apiKeySecret+"/versions", http.StatusCreated, body, &struct{}{})
	}
	body["name"], body["secret_group_id"], body["secret_type"] = s.name+"-api-key", s.keyGroup, "arbitrary"
	body["description"] = "API key of the workload whose token is published."
	s.apiKeySecret, err = s.createSecret(ctx, body, "")
	return s.apiKeySecret, err
}

// outputs are Terraform's that matter here, with their shapes. Empty values are allowed where optional.
var outputs = []struct {
	name     string
	shape    *regexp.Regexp // nil for secrets_manager_url, see origin
	optional bool
}{
	{"secrets_manager_url", nil, false}, {"account_id", accountShape, false}, {"key_group_id", groupShape, false},
	{"token_group_id", groupShape, false}, {"workload_iam_id", iamIDShape, false}, {"bootstrap_iam_id", iamIDShape, true},
	{"reader_iam_id", iamIDShape, true}, {"iam_profile_id", profileShape, true},
	{"managed_keys", regexp.MustCompile(`^(true|false)$`), true},
}

// readInput checks everything that is given, without a request.
func (s *setup) readInput(ctx context.Context) error {
	if s.noBootstrapKey && s.bootstrapFile != "" {
		return usagef("--no-bootstrap-key leaves nothing to write to --bootstrap-key-file")
	}
	if !nameShape.MatchString(s.name) {
		return usagef("--name takes 2 to 40 letters, digits, dots, hyphens and underscores, and begins and ends with a letter or digit")
	}
	if s.days < 0 || s.days > 9999 {
		return usagef("--expires-in takes a number of days, 9999 at most")
	}
	values, err := s.readOutputs(ctx)
	if err != nil {
		return err
	}
	for _, o := range outputs {
		variable := strings.ToUpper(o.name)
		if values[o.name] == "" && !o.optional {
			return usagef("%s is not set: give --terraform, or export it", variable)
		}
		if o.shape != nil && values[o.name] != "" && !o.shape.MatchString(values[o.name]) {
			return usagef("%s does not have the form of such an id", variable)
		}
	}
	iamURL, err := origin("IAM_URL", cmp.Or(s.getenv("IAM_URL"), "https://iam.cloud.ibm.com"))
	if err != nil {
		return err
	}
	secretsURL, err := origin("SECRETS_MANAGER_URL", values["secrets_manager_url"])
	if err != nil {
		return err
	}
	s.cloud = newIBMCloud(iamURL, secretsURL, s.sleep)
	s.account, s.keyGroup, s.tokenGroup, s.profile = values["account_id"], values["key_group_id"], values["token_group_id"], values["iam_profile_id"]
	return s.planKeys(values)
}

// planKeys decides which service ids get a key, and where it belongs.
func (s *setup) planKeys(values map[string]string) (err error) {
	plan := func(role string, isPlace func(string) bool, store func(context.Context, iamtoken.Secret, string) (string, error)) *serviceID {
		return &serviceID{role: role, iamID: values[role+"_iam_id"], isPlace: isPlace, store: store}
	}
	inFile := func(role, file string) (*serviceID, error) {
		if values[role+"_iam_id"] == "" {
			return nil, usagef("%s_IAM_ID is empty, so there is no key to write to %s", strings.ToUpper(role), printable(file))
		}
		place, err := checkFile(file)
		return plan(role, func(p string) bool { return p == place }, func(_ context.Context, value iamtoken.Secret, _ string) (string, error) {
			return place, writeKeyFile(file, value)
		}), err
	}
	s.workload = plan("workload", func(place string) bool { return place == s.apiKeySecret }, s.storeWorkloadKey)
	if s.bootstrapFile != "" {
		s.bootstrap, err = inFile("bootstrap", s.bootstrapFile)
	} else if values["bootstrap_iam_id"] != "" && !s.noBootstrapKey {
		s.bootstrap = plan("bootstrap", func(place string) bool { return arnName(place) == s.awsSecret },
			func(ctx context.Context, value iamtoken.Secret, _ string) (string, error) {
				return s.aws.put(ctx, value, "")
			})
	}
	if err == nil && s.readerFile != "" {
		s.reader, err = inFile("reader", s.readerFile)
	}
	if err != nil {
		return err
	}
	if values["managed_keys"] == "true" {
		s.planManaged()
	}
	if place, _ := filePlace(s.readerFile); s.reader != nil && s.bootstrapFile != "" && s.bootstrap.isPlace(place) {
		return usagef("the two keys need a file each")
	}
	return nil
}

// readOutputs returns Terraform's outputs: those of --terraform alone, or else those in the environment.
func (s *setup) readOutputs(ctx context.Context) (map[string]string, error) {
	values := map[string]string{}
	if s.terraform == "" {
		for _, o := range outputs {
			values[o.name] = s.getenv(strings.ToUpper(o.name))
		}
		return values, nil
	}
	var printed []byte
	var err error
	if info, statErr := os.Stat(s.terraform); s.terraform == "-" {
		printed, err = io.ReadAll(io.LimitReader(s.stdin, 1<<20))
	} else if statErr == nil && info.IsDir() {
		command := exec.CommandContext(ctx, "terraform", "-chdir="+s.terraform, "output", "-json", "-no-color")
		var complaint bytes.Buffer
		command.Env, command.Stderr = withoutCredentials(os.Environ()), &complaint // Terraform's state may be in AWS
		printed, err = command.Output()
		for line := range strings.Lines(complaint.String()) {
			s.say("%s", withoutSecrets(strings.TrimRight(line, "\r\n")))
		}
	} else {
		printed, err = os.ReadFile(s.terraform)
	}
	if err != nil {
		why := "see above; in a folder, terraform init and terraform apply must have run"
		if errors.Is(err, exec.ErrNotFound) {
			why = "terraform is not installed, or not in PATH; a file with what terraform output -json prints does as well"
		} else if errors.Is(err, fs.ErrNotExist) {
			why = "there is no such file or folder"
		} else if s.terraform != "-" && errors.Is(err, fs.ErrPermission) {
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

var (
	nameShape   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,38}[A-Za-z0-9]$`)
	nullLabel   = regexp.MustCompile(`(?i)[/.]null(?:[.:]|$)`) // what a missing value becomes in jq
	originShape = regexp.MustCompile(`^(?:https://[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|http://(?:127\.0\.0\.1|localhost))(?::[0-9]{1,5})?$`)
)

// origin checks an https URL without a path. http is for this machine alone.
func origin(variable, value string) (string, error) {
	value = strings.TrimSuffix(value, "/")
	if !originShape.MatchString(value) || nullLabel.MatchString(value) {
		return "", usagef("%s must be an https URL without a path, its host complete", variable)
	}
	return value, nil
}

// writeResult prints or writes what was found and made.
func (s *setup) writeResult(keys map[*serviceID]apiKey) error {
	bootstrap, expires, arn, profile, managed := keys[s.bootstrap], "", "", "", ""
	if !bootstrap.expires.IsZero() {
		expires = bootstrap.expires.Format(time.DateOnly)
	}
	if s.bootstrapFile == "" {
		arn = bootstrap.place
	}
	switch {
	case s.bootstrap == nil:
		profile = s.profile
	case s.bootstrap.managed != nil:
		arn, managed = s.aws.arn, s.bootstrap.managed.secret
	}
	lines := slices.DeleteFunc([][2]string{
		{"SECRETS_MANAGER_URL", s.cloud.secretsURL}, {"API_KEY_SECRET", s.apiKeySecret}, {"TOKEN_SECRET", s.tokenSecret},
		{"EXPECT_ACCOUNT", s.account}, {"EXPECT_IAM_ID", s.workload.iamID}, {"WORKLOAD_APIKEY_ID", keys[s.workload].id},
		{"BOOTSTRAP_APIKEY_ID", bootstrap.id}, {"BOOTSTRAP_EXPIRES_AT", expires}, {"BOOTSTRAP_SECRET_ARN", arn}, {"BOOTSTRAP_KEY_SECRET", managed}, {"IAM_PROFILE_ID", profile},
		{"READER_APIKEY_ID", cmp.Or(keys[s.reader].id, s.readerKeyID)},
	}, func(line [2]string) bool { return line[1] == "" })
	if s.env != "-" || s.output != "json" {
		if err := envfile.Write(s.env, envfile.Lines(lines), s.stdout); err != nil {
			return fmt.Errorf("writing the result failed: %s: run it again, with an --env that can be written; it makes nothing twice", printable(err.Error()))
		}
	}
	if s.output != "json" {
		return nil
	}
	document := map[string]any{"rotation": map[string]any{"name": s.name, "api_key_secret": s.apiKeySecret, "token_secret": s.tokenSecret,
		"expect": map[string]string{"account": s.account, "iam_id": s.workload.iamID}}}
	for _, line := range lines {
		document[line[0]] = line[1]
	}
	return s.printJSON(document)
}
