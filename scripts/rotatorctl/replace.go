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

// replacement puts another service id in the place of one whose key was stolen. The new one works before the old one is
// deleted, which ends the old one's keys and tokens at once.
//
// Each step can be repeated, and a file beside the one of --env notes what a run cut off must not choose again: the service
// id to delete, and the secret that had its key.
type replacement struct {
	*setup
	workloadToo, bootstrapToo, noDeploy bool
	vars                                []string
	file                                string
	note                                map[string]progress // by role; in the file
}

// progress is how far the replacement of one service id has come.
type progress struct {
	Old   string `json:"deleted_iam_id"`
	Place string `json:"old_place"` // the secret with its key; empty until it was looked for
	New   string `json:"iam_id"`    // empty until all is done
}

// none is in the note where there is no secret.
const none = "none"

var noteShape = regexp.MustCompile(`^(?:|none|(?:iam-ServiceId-)?` + uuid + `)$`)

func (p *program) replaceCommand() *cobra.Command {
	r := &replacement{setup: &setup{program: &program{}}}
	command := &cobra.Command{
		Use:   "replace-identity",
		Short: "After a theft: replace a service id, which ends its keys and tokens at once",
		Long: `Puts another service id with the same policies in the place of the bootstrap's, the workload's, or both. Terraform makes
it, setup makes its key and stores it, deploy changes what the function expects, and then the old service id is deleted,
with all its keys and tokens. Readers have a good token all the time.

It asks before it deletes. Interrupted, it continues when run again: FILE.replacing, beside the --env FILE, notes what to
delete. Options and variables are those of setup, as it was last run, and those of deploy: see rotatorctl setup -h and
deploy -h. Without a folder of Terraform's, make the service id yourself and give its id in WORKLOAD_IAM_ID or BOOTSTRAP_IAM_ID
when the first run asks for it.

Whoever has the bootstrap key could read the workload's: replace both.`,
		Example: "  rotatorctl replace-identity --bootstrap --workload --terraform infra/ibm --env build/ibm.env",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			*r.program = *p
			r.output, r.stdout = "text", io.Discard // setup and deploy have results of their own
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
	flags.BoolVar(&r.noDeploy, "no-deploy", false, "rotatorctl does not deploy this function: ask whether it runs with the new FILE")
	flags.StringArrayVar(&r.vars, "var", nil, "`NAME=VALUE` for terraform, as in your terraform apply; can be repeated")
	return command
}

// run returns what is replaced, and the text of it.
func (r *replacement) run(ctx context.Context) (replaced []map[string]string, text string, err error) {
	switch {
	case !r.bootstrapToo && !r.workloadToo:
		err = usagef("name what was stolen: --bootstrap, --workload or both. Whoever has the bootstrap key could read the workload's")
	case r.env == "-" || r.outputsAt == "-":
		err = usagef("--env: name the file that setup has written, such as build/ibm.env; and for --terraform a file or folder, not -")
	case r.noBootstrapKey && r.bootstrapToo:
		err = usagef("--bootstrap does not go with --no-bootstrap-key")
	default:
		err = r.readFiles()
	}
	if err == nil && !r.noDeploy {
		err = r.deployment().check(ctx)
	}
	if err != nil {
		return nil, "", err
	}
	// As long as the old bootstrap service id is there, its key reads the workload's next one.
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
		r.say("note: whoever had the bootstrap key could read the workload's: replace that service id, too, with --workload")
	}
	if os.Remove(r.file) != nil {
		return nil, "", fmt.Errorf("%s cannot be removed: remove it by hand", printable(r.file))
	}
	return replaced, text, nil
}

// readFiles reads what the last setup has written, and the note of a run cut off.
func (r *replacement) readFiles() error {
	written, err := envfile.Read(r.env)
	if err != nil {
		return usagef("--env %s cannot be read: name the file that setup has written", printable(r.env))
	}
	r.readerKeyID = written["READER_APIKEY_ID"]
	r.file, r.note = r.env+".replacing", map[string]progress{}
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
				err = errors.New("a foreign value")
			}
		}
	}
	if err != nil {
		return usagef("%s cannot be read, or has values of unknown form: correct it, or remove it to begin again", printable(r.file))
	}
	return nil
}

// keep writes the note.
func (r *replacement) keep(role string, done *progress) error {
	r.note[role] = *done
	text, err := json.MarshalIndent(r.note, "", "  ")
	if err != nil || envfile.WriteWhole(r.file, append(text, '\n'), 0o600) != nil {
		return fmt.Errorf("writing %s failed: is its folder writable, and has it room?", printable(r.file))
	}
	return nil
}

func (r *replacement) replace(ctx context.Context, role string, done *progress) error {
	// 1. Another service id, with the same policies.
	id, err := r.makeServiceID(ctx, role, done)
	if err != nil {
		return err
	}
	// 2. Its key, in a secret of its own: the function uses the old one until it is deployed.
	if err := r.setAside(ctx, id, done); err != nil {
		return err
	}
	id.probes = id == r.bootstrap
	if err := r.makeMissing(ctx); err != nil {
		return err
	}
	// 3. The function uses it, and readers have its token.
	if err := r.deploy(ctx); err != nil {
		return err
	}
	// 4. The old one ends.
	if err := r.end(ctx, role, done); err != nil {
		return err
	}
	// 5. A thief who could write to the token secret does not have the last word in it.
	if err := r.rotate(ctx); err != nil {
		return err
	}
	done.New = id.iamID
	return r.keep(role, done)
}

// load reads the ids of now.
func (r *replacement) load(ctx context.Context, role string) (*serviceID, error) {
	if err := r.begin(ctx); err != nil {
		return nil, err
	}
	if role == "workload" {
		return r.workload, nil
	}
	if r.bootstrap.store == nil {
		return nil, usagef("there is no bootstrap service id: a trusted profile has no key that can be stolen")
	}
	return r.bootstrap, nil
}

// makeServiceID makes another service id unless the note's old one is not Terraform's any more. Terraform would delete before
// it creates, and the keys come last: so it forgets the old one, which is deleted here when all is ready.
func (r *replacement) makeServiceID(ctx context.Context, role string, done *progress) (*serviceID, error) {
	id, err := r.load(ctx, role)
	begun := done.Old != ""
	if err != nil || begun && done.Old != id.iamID {
		return id, err
	}
	folder, err := os.Stat(r.outputsAt)
	byHand := err != nil || !folder.IsDir()
	if !byHand && !begun {
		if err := r.checkPlan(ctx); err != nil {
			return nil, err
		}
	}
	done.Old = id.iamID
	if err := r.keep(id.role, done); err != nil {
		return nil, err
	}
	if byHand {
		return nil, fmt.Errorf("make a service id with the policies of %s, and run this again with its id in %s_IAM_ID", id.iamID, strings.ToUpper(role))
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
	made, err := r.load(ctx, id.role)
	if err == nil && made.iamID == id.iamID {
		err = fmt.Errorf("terraform apply has made no other service id for the %s: %s is still its output", id.role, made.iamID)
	}
	return made, err
}

// checkPlan asks where an apply would change more than this, and refuses without an answer: with other variables than the last
// time it might remove the instance.
func (r *replacement) checkPlan(ctx context.Context) error {
	_, err := r.runTerraform(ctx, r.vars, "plan", "-detailed-exitcode", "-input=false", "-no-color")
	exit, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err)
	if !ok || exit.ExitCode() != 2 {
		return err
	}
	if r.yes || r.confirm(ctx, "Terraform would make these changes, too") != nil {
		return errors.New("nothing is replaced: terraform has other changes to make, see above. Give --var as for your terraform apply, or apply them first")
	}
	return nil
}

// addresses are Terraform's, of a service id and its policies. Those that are not in a state do no harm.
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
		return nil, fmt.Errorf("terraform %s failed, see above: run this again when that is solved: %w", args[0], err)
	}
	return printed, nil
}

// setAside renames the secret that has the old service id's key, so that the new one's can have its name. Its id stays, and
// by that the function reads it.
func (r *replacement) setAside(ctx context.Context, id *serviceID, done *progress) error {
	kind := map[bool]string{true: "iam_credentials", false: "arbitrary"}[id.managed]
	if id == r.bootstrap && !id.managed {
		return nil // its key is in AWS or a file alone
	}
	if done.Place == "" {
		found, err := r.findSecret(ctx, r.makerName(id), r.keyGroup, kind)
		if err != nil {
			return err
		}
		done.Place = cmp.Or(found.ID, none)
		if err := r.keep(id.role, done); err != nil {
			return err
		}
	}
	if done.Place == none {
		return nil
	}
	body := map[string]string{"name": r.makerName(id) + "-of-" + strings.TrimPrefix(done.Old, "iam-")}
	err := r.cloud.send(ctx, &failure{doing: "renaming the secret " + done.Place}, http.MethodPatch, "secrets/"+done.Place+"/metadata", body, nil)
	if statusOf(err) == http.StatusGone { // its key has expired
		return nil
	}
	return unlessGone(err) // deleted by a run cut off later
}

// deployment deploys what setup has written: an environment loaded before has the old values.
func (r *replacement) deployment() *deployment {
	d := &deployment{program: r.program, values: map[string]string{}, force: true}
	written, _ := envfile.Read(r.env) // read before
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

func (r *replacement) deploy(ctx context.Context) error {
	if r.noDeploy {
		if r.confirm(ctx, fmt.Sprintf("The function must run with %s now, once with force", printable(r.env))) != nil {
			return fmt.Errorf("the old service id still works. Deploy the function with %s, and run this again", printable(r.env))
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
				if old != "" && old != none && strings.Contains(string(list), old) {
					return fmt.Errorf("ROTATIONS_FILE=%s names %s: put in what %s says now, and run this again", printable(file), old, printable(r.env))
				}
			}
		}
	}
	return d.run(ctx)
}

// end deletes the old service id, and the secret that made its keys.
func (r *replacement) end(ctx context.Context, role string, done *progress) error {
	if r.confirm(ctx, fmt.Sprintf("Deleting the service id %s of the %s, with all its keys and tokens", done.Old, role)) != nil {
		return fmt.Errorf("not confirmed: %s still works, with its keys and tokens. Run this again to delete it", done.Old)
	}
	err := deleteAtIAM(ctx, r.cloud, "deleting the service id "+done.Old, r.cloud.apiKeys.DeleteServiceIDWithContext,
		&iamidentityv1.DeleteServiceIDOptions{ID: new(strings.TrimPrefix(done.Old, "iam-"))})
	if err != nil {
		return err
	}
	r.say("deleted the service id %s, with its keys and tokens", done.Old)
	if done.Place == "" || done.Place == none {
		return nil
	}
	return r.deleteSecret(ctx, done.Place)
}

// rotate publishes a token of now.
func (r *replacement) rotate(ctx context.Context) error {
	if r.noDeploy {
		r.say("note: run the function once more with force: a thief of the bootstrap key could write to the token secret until now")
		return nil
	}
	d := r.deployment()
	if err := d.connect(ctx); err != nil {
		return err
	}
	r.say("Rotating once more, now that nothing else can write to the token secret")
	_, err := d.patientCall(ctx, aliasName, event{Mode: "rotate", Force: true})
	if isFailure(err) {
		err = fmt.Errorf("the run failed: %w. Run this again", err)
	}
	return err
}
