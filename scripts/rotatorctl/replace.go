package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/IBM/platform-services-go-sdk/iamidentityv1"
	"github.com/spf13/cobra"

	"iam-token-rotator/scripts/envfile"
)

// replacement puts another service id in the place of one whose key was stolen. The new service id works before the old one is
// deleted. The deletion ends the old one's keys and tokens at once.
//
// Each step can be repeated. What an interrupted run has chosen, the next one must not choose again: it is in a file beside the
// one of --env.
type replacement struct {
	*setup
	workloadToo, bootstrapToo, noDeploy bool
	vars                                []string            // for terraform
	file                                string              // of the note
	note                                map[string]progress // by role; what file holds
}

// progress is the state of the replacement of one service id: nothing, then Old, then also Place, and at the end New.
type progress struct {
	Old   string `json:"deleted_iam_id"` // the service id to delete
	Place string `json:"old_place"`      // the secret that has its key, or noSecret
	New   string `json:"iam_id"`         // the service id in its place: the replacement is complete
}

// noSecret is the Place of a service id whose key is in no secret of IBM.
const noSecret = "none"

var noteShape = regexp.MustCompile(`^(?:|none|(?:iam-ServiceId-)?` + uuid + `)$`)

func (p *program) replaceCommand() *cobra.Command {
	r := &replacement{setup: &setup{program: &program{}}}
	command := &cobra.Command{
		Use:   "replace-identity",
		Short: "After a theft: replace a service id, which ends its keys and tokens at once",
		Long: `Replaces the service id of the bootstrap, the workload, or both by another one with the same policies. Terraform makes the
new service id. Then come the steps of setup, which makes and stores its key, and of deploy, which changes what the function
expects. At the end it deletes the old service id, with all its keys and tokens. Readers have a valid token all the time.

It asks before it deletes. If it is interrupted, run it again and it continues: FILE.replacing, beside the --env FILE, notes
what to delete. Give the options and variables with which setup was run last, and those of deploy: see rotatorctl setup -h
and deploy -h. If --terraform names no folder, make the service id yourself, and give its id in WORKLOAD_IAM_ID or
BOOTSTRAP_IAM_ID when the first run asks for it.

Whoever has the bootstrap key could read the workload's key: replace both.`,
		Example: "  rotatorctl replace-identity --bootstrap --workload --terraform infra/ibm --env build/ibm.env",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			*r.program = *p
			r.output, r.stdout = "text", io.Discard // for the results of setup and deploy
			replaced, text, err := r.run(cmd.Context())
			if err != nil {
				return err
			}
			return p.print(map[string]any{"replaced": replaced}, text)
		},
	}
	flags := command.Flags()
	r.addFlags(flags)
	env := flags.Lookup("env")
	env.DefValue, env.Usage = "", "the `FILE` that setup has written; it is changed"
	flags.BoolVar(&r.bootstrapToo, "bootstrap", false, "replace the bootstrap's service id")
	flags.BoolVar(&r.workloadToo, "workload", false, "replace the workload's service id")
	flags.BoolVar(&r.noDeploy, "no-deploy", false, "the function is deployed by other means: ask until it runs with the new FILE")
	flags.StringArrayVar(&r.vars, "var", nil, "`NAME=VALUE` for terraform, as in your terraform apply; can be repeated")
	return command
}

// run returns the service ids that it has replaced, as a document and as text.
func (r *replacement) run(ctx context.Context) (replaced []map[string]string, text string, err error) {
	switch {
	case !r.bootstrapToo && !r.workloadToo:
		err = usagef("name what was stolen: --bootstrap, --workload or both. Whoever has the bootstrap key could read the workload's")
	case r.envFile == "-" || r.outputsFrom == "-":
		err = usagef("--env: name the file that setup has written, such as build/ibm.env; and for --terraform a file or folder, not -")
	case r.noBootstrapKey && r.bootstrapToo:
		err = usagef("--bootstrap does not go with --no-bootstrap-key")
	default:
		err = r.readFiles()
	}
	if err == nil && !r.noDeploy {
		err = r.checkStack(ctx)
	}
	if err != nil {
		return nil, "", err
	}
	// The bootstrap first: as long as its old service id exists, its key reads the workload's next one.
	for _, role := range []string{"bootstrap", "workload"} {
		if role == "bootstrap" && !r.bootstrapToo || role == "workload" && !r.workloadToo {
			continue
		}
		done := r.note[role]
		if done.New == "" {
			if err := r.replace(ctx, role, &done); err != nil {
				return nil, "", err
			}
		}
		replaced = append(replaced, map[string]string{"role": role, "iam_id": done.New, "deleted_iam_id": done.Old})
		text += fmt.Sprintf("%s: %s replaces %s, which is deleted\n", role, done.New, done.Old)
	}
	if !r.workloadToo {
		r.say("note: whoever had the bootstrap key could read the workload's key: replace that service id too, with --workload")
	}
	if os.Remove(r.file) != nil {
		return nil, "", fmt.Errorf("%s cannot be removed: remove it by hand", printable(r.file))
	}
	return replaced, text, nil
}

// readFiles reads the file that setup wrote, and the note of an interrupted run.
func (r *replacement) readFiles() error {
	written, err := envfile.Read(r.envFile)
	if err != nil {
		return usagef("--env %s cannot be read: name the file that setup has written", printable(r.envFile))
	}
	r.readerKeyID = written["READER_APIKEY_ID"]
	r.file, r.note = r.envFile+".replacing", map[string]progress{}
	text, err := os.ReadFile(r.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r.note)
	}
	for _, done := range r.note {
		for _, value := range []string{done.Old, done.Place, done.New} {
			if !noteShape.MatchString(value) {
				err = errors.New("a value of unknown form")
			}
		}
	}
	if err != nil {
		return usagef("%s cannot be read, or has values of unknown form: correct it, or remove it to begin again", printable(r.file))
	}
	return nil
}

// saveProgress writes the note.
func (r *replacement) saveProgress(role string, done *progress) error {
	r.note[role] = *done
	text, err := json.MarshalIndent(r.note, "", "  ")
	if err != nil || envfile.WriteWhole(r.file, append(text, '\n'), 0o600) != nil {
		return fmt.Errorf("writing %s failed: is its folder writable, and has it room?", printable(r.file))
	}
	return nil
}

func (r *replacement) replace(ctx context.Context, role string, done *progress) error {
	// 1. Another service id, with the same policies. Progress has Old now.
	id, err := r.makeServiceID(ctx, role, done)
	if err != nil {
		return err
	}
	// 2. Its key, in a new secret: the function uses the old one until it is deployed. Progress has Place now.
	if err := r.renameOldSecret(ctx, id, done); err != nil {
		return err
	}
	id.mayWait = id == r.bootstrap
	for _, step := range []func(context.Context) error{
		r.makeMissing,
		// 3. The function uses it, and readers have its token.
		r.deploy,
		// 4. The old service id is deleted.
		func(ctx context.Context) error { return r.deleteOld(ctx, role, done) },
		// 5. Until now a thief could write to the token secret: another token replaces what may be there.
		r.rotate,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	done.New = id.iamID
	return r.saveProgress(role, done)
}

// readServiceID returns the service id that Terraform's outputs name for the role at present.
func (r *replacement) readServiceID(ctx context.Context, role string) (*serviceID, error) {
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	written, _ := envfile.Read(r.envFile)
	token, err := r.findSecret(ctx, r.name+"-token", r.tokenGroup, "arbitrary,kv")
	switch {
	case err != nil:
		return nil, err
	case token.ID != written["TOKEN_SECRET"]: // readers would be left with a token of the old service id
		return nil, usagef("TOKEN_SECRET in %s is not the secret %s-token: give the options that setup was last run with", printable(r.envFile), r.name)
	case role == "workload":
		return r.workload, nil
	case r.bootstrap.store == nil:
		return nil, usagef("there is no bootstrap service id: a trusted profile has no key that can be stolen")
	}
	return r.bootstrap, nil
}

// makeServiceID makes another service id, unless an interrupted run has: then Terraform's outputs no longer name the old one.
// Terraform itself would delete the old one first. So it is removed from Terraform's state, and deleted here at the end.
func (r *replacement) makeServiceID(ctx context.Context, role string, done *progress) (*serviceID, error) {
	id, err := r.readServiceID(ctx, role)
	begun := done.Old != ""
	if err != nil || begun && done.Old != id.iamID { // it is made already
		return id, err
	}
	folder, err := os.Stat(r.outputsFrom)
	byHand := err != nil || !folder.IsDir()
	if !byHand && !begun {
		if err := r.checkPlan(ctx); err != nil {
			return nil, err
		}
	}
	done.Old = id.iamID
	if err := r.saveProgress(id.role, done); err != nil {
		return nil, err
	}
	if byHand {
		return nil, fmt.Errorf("make a service id with the policies of %s, and run this again with its id in %s", id.iamID,
			cmp.Or(printable(r.outputsFrom), strings.ToUpper(role)+"_IAM_ID"))
	}
	listed, err := r.runTerraform(ctx, nil, "state", "list", "-id="+strings.TrimPrefix(id.iamID, "iam-"))
	if err == nil && len(bytes.TrimSpace(listed)) > 0 {
		_, err = r.runTerraform(ctx, nil, append([]string{"state", "rm"}, addresses[role]...)...)
	}
	if err != nil {
		return nil, err
	}
	r.say("Terraform makes another service id for the %s, with the same policies", id.role)
	if _, err := r.runTerraform(ctx, r.vars, "apply", "-auto-approve", "-input=false", "-no-color"); err != nil {
		return nil, err
	}
	made, err := r.readServiceID(ctx, id.role)
	if err == nil && made.iamID == id.iamID {
		err = fmt.Errorf("terraform apply has made no other service id for the %s: %s is still its output", id.role, made.iamID)
	}
	return made, err
}

// checkPlan asks before an apply that would change anything else, and with --yes it stops: with other variables than the last
// time, an apply might delete the Secrets Manager instance.
func (r *replacement) checkPlan(ctx context.Context) error {
	_, err := r.runTerraform(ctx, r.vars, "plan", "-detailed-exitcode", "-input=false", "-no-color")
	exit, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err)
	if !ok || exit.ExitCode() != 2 {
		return err
	}
	if r.yes || r.confirm(ctx, "Terraform would also make these changes") != nil {
		return errors.New("nothing is replaced: Terraform would make other changes, see above. Give the same --var as for your terraform apply, or apply first")
	}
	return nil
}

// addresses are those of a service id and its policies in Terraform's state. Some may not be in it.
var addresses = map[string][]string{
	"workload": {"ibm_iam_service_id.workload", "ibm_iam_service_policy.workload"},
	"bootstrap": {"ibm_iam_service_id.bootstrap", `ibm_iam_service_policy.secret_group["bootstrap-keys"]`,
		`ibm_iam_service_policy.secret_group["bootstrap-tokens"]`},
}

// runTerraform returns what terraform prints.
func (r *replacement) runTerraform(ctx context.Context, variables []string, args ...string) ([]byte, error) {
	for _, v := range variables {
		args = append(args, "-var", v)
	}
	printed, err := r.askTerraform(args...)
	if err != nil && ctx.Err() != nil {
		return nil, errors.New("interrupted. Run it again to continue")
	}
	if err != nil {
		return nil, fmt.Errorf("terraform %s failed, see above (%w). Correct that and run this again", args[0], err)
	}
	return printed, nil
}

// renameOldSecret renames the secret that has the old service id's key, so that the new one's can have the name. The function reads
// the secret by its id, which does not change.
func (r *replacement) renameOldSecret(ctx context.Context, id *serviceID, done *progress) error {
	if id == r.bootstrap && !id.managed {
		return nil // its key is only in AWS or in a file
	}
	kind := map[bool]string{true: "iam_credentials", false: "arbitrary"}[id.managed]
	if done.Place == "" {
		found, err := r.findSecret(ctx, r.keySecretName(id), r.keyGroup, kind)
		if err != nil {
			return err
		}
		done.Place = cmp.Or(found.ID, noSecret)
		if err := r.saveProgress(id.role, done); err != nil {
			return err
		}
	}
	if done.Place == noSecret {
		return nil
	}
	body := map[string]string{"name": r.keySecretName(id) + "-of-" + strings.TrimPrefix(done.Old, "iam-")}
	// Its key may have expired, or an interrupted run has deleted it.
	return unlessGone(r.cloud.send(ctx, &failure{doing: "renaming the secret " + done.Place}, http.MethodPatch, "secrets/"+done.Place+"/metadata", body, nil))
}

// deployment takes its values from the file that setup wrote just now. Those in the environment may be from before.
func (r *replacement) deployment() *deployment {
	d := &deployment{program: r.program, values: map[string]string{}, force: true}
	written, _ := envfile.Read(r.envFile) // readFiles has read it without an error
	for _, s := range settings {
		d.values[s.variable] = r.getenv(s.variable)
	}
	names := []string{"SECRETS_MANAGER_URL", "BOOTSTRAP_SECRET_ARN", "BOOTSTRAP_KEY_SECRET", "BOOTSTRAP_EXPIRES_AT"}
	for _, name := range slices.Concat(ofOneRotation, names) {
		if !r.noBootstrapKey || !strings.HasPrefix(name, "BOOTSTRAP_") {
			d.values[name] = written[name]
		}
	}
	if d.values["ROTATIONS_FILE"] != "" {
		for _, name := range ofOneRotation {
			delete(d.values, name)
		}
	}
	return d
}

// checkStack checks that the stack is the one that uses the old service ids. To deploy another one would leave that one without keys.
func (r *replacement) checkStack(ctx context.Context) error {
	d := r.deployment()
	if err := d.check(ctx); err != nil {
		return err
	}
	if err := d.connect(ctx); err != nil {
		return err
	}
	stack, err := d.ownStack(ctx)
	if err == nil && parameter(stack, "TokenSecret") != d.values["TOKEN_SECRET"] {
		err = fmt.Errorf("the stack %s in %s has another TOKEN_SECRET than %s: check STACK, AWS_REGION and ROTATIONS_FILE", d.stack, d.who, printable(r.envFile))
	}
	return err
}

func (r *replacement) deploy(ctx context.Context) error {
	if r.noDeploy {
		if r.confirm(ctx, fmt.Sprintf("The function must run with %s now, once with force", printable(r.envFile))) != nil {
			return fmt.Errorf("the old service id still works. Deploy the function with %s, and run this again", printable(r.envFile))
		}
		return nil
	}
	d := r.deployment()
	if file := d.values["ROTATIONS_FILE"]; file != "" {
		list, err := os.ReadFile(file)
		if err != nil {
			return usagef("ROTATIONS_FILE=%s cannot be read", printable(file))
		}
		for _, done := range r.note {
			for _, old := range []string{done.Old, done.Place} {
				if old != "" && old != noSecret && strings.Contains(string(list), old) {
					return fmt.Errorf("ROTATIONS_FILE=%s names %s: replace it with the value in %s, and run this again", printable(file), old, printable(r.envFile))
				}
			}
		}
	}
	return d.run(ctx)
}

// deleteOld deletes the old service id, and the secret that has its key.
func (r *replacement) deleteOld(ctx context.Context, role string, done *progress) error {
	if r.confirm(ctx, fmt.Sprintf("Deleting the service id %s of the %s, with all its keys and tokens", done.Old, role)) != nil {
		return fmt.Errorf("not confirmed: %s still works, with its keys and tokens. Run this again to delete it", done.Old)
	}
	err := deleteAtIAM(ctx, r.cloud, "deleting the service id "+done.Old, r.cloud.apiKeys.DeleteServiceIDWithContext,
		&iamidentityv1.DeleteServiceIDOptions{ID: new(strings.TrimPrefix(done.Old, "iam-"))})
	if err != nil {
		return err
	}
	r.say("deleted the service id %s, with its keys and tokens", done.Old)
	if done.Place == "" || done.Place == noSecret {
		return nil
	}
	return r.deleteSecret(ctx, done.Place)
}

// rotate saves another token.
func (r *replacement) rotate(ctx context.Context) error {
	if r.noDeploy {
		r.say("note: run the function once more with force: until now a thief of the bootstrap key could write to the token secret")
		return nil
	}
	r.say("Rotating once more, now that nothing else can write to the token secret")
	_, err := r.callPatiently(ctx, aliasName, event{Mode: "rotate", Force: true})
	if isFailure(err) {
		err = fmt.Errorf("the run failed: %w. Run this again", err)
	}
	return err
}
