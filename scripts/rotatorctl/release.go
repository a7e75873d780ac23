package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/spf13/cobra"
)

const (
	aliasName    = "live"         // of the alias that the schedules run
	aliasVersion = "AliasVersion" // the template's parameter for its version
	releasesList = "Releases"     // the template's parameter for the hashes of the releases
	keptVersions = 5              // the live one, and those that rollback can return to
)

// release is the template and parameters with which a version of the function was deployed. A version has code and settings, but
// roles and alarms belong to the stack. So to return to a version, the stack gets its template and parameters again.
//
// The bucket has each release beside the zips, under a name with its hash, and the stack has the hashes: whoever may only write
// to the bucket cannot deploy a release of his own.
type release struct {
	Template   string            `json:"template"`
	Parameters map[string]string `json:"parameters"`
}

// releases are the hashes of the kept releases, by version.
type releases map[int]string

// stackReleases reads the stack's parameter: VERSION:HASH,…
func stackReleases(stack *types.Stack) releases {
	all := releases{}
	for word := range strings.SplitSeq(parameter(stack, releasesList), ",") {
		if version, hash, _ := strings.Cut(word, ":"); hash != "" && number(version) > 0 {
			all[number(version)] = hash
		}
	}
	return all
}

func (r releases) String() string {
	var words []string
	for _, version := range slices.Sorted(maps.Keys(r)) {
		words = append(words, fmt.Sprintf("%d:%s", version, r[version]))
	}
	return strings.Join(words, ",")
}

// before is the last version before another that has a release, 0 if there is none.
func (r releases) before(version int) (last int) {
	for v := range r {
		if v < version {
			last = max(last, v)
		}
	}
	return last
}

// with adds a release, and drops those after the live version, which rollback has left, and the oldest beyond keptVersions.
func (r releases) with(live, version int, hash string) releases {
	kept := releases{}
	maps.Copy(kept, r)
	maps.DeleteFunc(kept, func(v int, _ string) bool { return v > live })
	kept[version] = hash
	for _, v := range slices.Sorted(maps.Keys(kept)) {
		if len(kept) > keptVersions {
			delete(kept, v)
		}
	}
	return kept
}

func (p *program) releaseKey(version int, hash string) string {
	return fmt.Sprintf("%s%d-%s.json", p.prefix("release"), version, hash)
}

func (p *program) saveRelease(ctx context.Context, bucket string, version int, r release) (hash string, err error) {
	r.Parameters = maps.Clone(r.Parameters)
	delete(r.Parameters, releasesList)
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encoding the release: %w", err)
	}
	hash = fmt.Sprintf("%.16x", sha256.Sum256(text))
	return hash, p.put(ctx, bucket, p.releaseKey(version, hash), text)
}

// readRelease reads a release from the bucket. It is a lostError if it does not have the hash that the stack has.
func (p *program) readRelease(ctx context.Context, bucket string, all releases, version int) (r release, err error) {
	key := p.releaseKey(version, all[version])
	text, err := p.get(ctx, bucket, key)
	if err == nil && (fmt.Sprintf("%.16x", sha256.Sum256(text)) != all[version] || json.Unmarshal(text, &r) != nil) {
		err = lostError{fmt.Errorf("s3://%s/%s was changed after deploy had stored it", printable(bucket), key)}
	}
	return r, err
}

// restore gives the stack the release of a version again. That moves the alias, too.
func (p *program) restore(ctx context.Context, bucket string, all releases, version int) error {
	r, err := p.readRelease(ctx, bucket, all, version)
	if err != nil {
		return err
	}
	if r.Parameters[aliasVersion] != "" { // templates from before the alias have neither parameter
		r.Parameters[releasesList] = all.String()
	}
	return p.change(ctx, false, r)
}

// number is a version as Lambda writes it, as a number; 0 for $LATEST or no version.
func number(version string) int {
	n, err := strconv.Atoi(version)
	if err != nil {
		return 0
	}
	return n
}

// holdLive finds the version that the schedules run now, and has the update of the stack leave the alias there. That version
// gets a release if none can be read, so that the stack can return to it.
func (d *deployment) holdLive(ctx context.Context) error {
	stack, err := d.removeUnusable(ctx)
	switch {
	case err != nil || stack == nil:
		return err
	case isFleet(stack) && !d.fleet:
		return fmt.Errorf("the stack %s is a fleet: give another STACK, or deploy with --fleet", d.stack)
	case d.fleet && !isFleet(stack):
		return fmt.Errorf("the stack %s is no fleet: give another STACK, or deploy without --fleet", d.stack)
	}
	d.existing, d.live, d.releases = stack, number(parameter(stack, aliasVersion)), stackReleases(stack)
	if d.live == 0 {
		if d.live, err = d.publishUnversioned(ctx); err != nil || d.live == 0 {
			return err
		}
		d.releases = releases{}
	}
	// It may have no release, or that was in another bucket, or a rule of the bucket has deleted it. One that only cannot be
	// read now stays: the stack's present template may be that of a deployment that was rejected.
	_, err = d.readRelease(ctx, d.values["BUCKET"], d.releases, d.live)
	if _, lost := errors.AsType[lostError](err); lost {
		err = d.saveLiveRelease(ctx)
	}
	if err != nil {
		return err
	}
	d.parameters[aliasVersion], d.parameters[releasesList] = strconv.Itoa(d.live), d.releases.String()
	return nil
}

// publishUnversioned publishes what the schedules run in a stack without rotatorctl's versions: one that only the template has
// deployed. It returns 0 if there is no function.
func (d *deployment) publishUnversioned(ctx context.Context) (version int, err error) {
	published, err := d.lambda.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: &d.stack})
	if _, missing := errors.AsType[*lambdatypes.ResourceNotFoundException](err); missing {
		return 0, nil
	} else if err != nil {
		return 0, d.functionError(err)
	}
	return number(aws.ToString(published.Version)), nil
}

// saveLiveRelease makes a release of the live version from the stack's present template and parameters.
func (d *deployment) saveLiveRelease(ctx context.Context) error {
	found, err := d.stacks.GetTemplate(ctx, &cloudformation.GetTemplateInput{StackName: d.existing.StackId, TemplateStage: types.TemplateStageOriginal})
	if err != nil {
		return fmt.Errorf("the template of the stack cannot be read: %w", awsError(err))
	}
	now := release{aws.ToString(found.TemplateBody), parameters(d.existing)}
	if now.Parameters[aliasVersion] != "" {
		now.Parameters[aliasVersion] = strconv.Itoa(d.live)
	}
	hash, err := d.saveRelease(ctx, d.values["BUCKET"], d.live, now)
	d.releases = d.releases.with(d.live, d.live, hash)
	return err
}

// publish makes a version of the function's new code and settings. Lambda returns the last version if nothing has changed since:
// so a deployment continues one that was interrupted.
func (d *deployment) publish(ctx context.Context) error {
	sum := sha256.Sum256(d.packed)
	built := base64.StdEncoding.EncodeToString(sum[:])
	published, err := d.lambda.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: &d.stack, CodeSha256: &built})
	if err != nil {
		return fmt.Errorf("no version can be published: %w", d.functionError(err))
	}
	if deployed := aws.ToString(published.CodeSha256); deployed != built {
		return fmt.Errorf("the deployed code is not what was built: CodeSha256 is %s, built was %s", printable(deployed), built)
	}
	d.version = number(aws.ToString(published.Version))
	d.say("The deployed code is what was built: CodeSha256 %s", built)
	if err := d.checkSettings(ctx); err != nil {
		return err
	}
	ready := lambda.NewPublishedVersionActiveWaiter(d.lambda)
	if err := ready.Wait(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: &d.stack, Qualifier: aws.String(strconv.Itoa(d.version))}, 5*time.Minute); err != nil {
		return fmt.Errorf("version %d does not become active: %w", d.version, awsError(err))
	}
	return nil
}

// checkSettings checks that the stack still has the settings of this deployment, and not those of another one at the same time.
func (d *deployment) checkSettings(ctx context.Context) error {
	stack, err := d.ownStack(ctx)
	if err == nil && !maps.Equal(parameters(stack), d.parameters) {
		err = fmt.Errorf("another deployment has changed the stack %s meanwhile: when that has ended, deploy again", d.stack)
	}
	return err
}

// checkVersion invokes the new version with check, which does everything but save, before the schedules run it.
func (d *deployment) checkVersion(ctx context.Context) error {
	if d.version == d.live {
		return nil
	}
	d.say("Checking version %d before the schedules run it; that takes two minutes at most", d.version)
	_, err := d.callPatiently(ctx, strconv.Itoa(d.version), event{Mode: "check", Force: d.force, Rotations: sample(d.names)})
	switch {
	case err == nil:
		return nil
	case d.fleet && isFailure(err) && someSucceeded(err.Error()):
		d.say("Warning: %s", err)
		return nil
	case ctx.Err() != nil && d.live != 0:
		return fmt.Errorf("interrupted: the schedules run version %d as before. Deploy again to continue", d.live)
	}
	return d.reject(ctx, "check", err)
}

// reject returns the stack to the version before, because the check or the first run (what) of the new one has failed.
func (d *deployment) reject(ctx context.Context, what string, why error) error {
	failed := fmt.Errorf("the %s of version %d failed: %w", what, d.version, why)
	switch {
	case d.unchecked && what == "check":
		d.say("Warning: %s", failed)
		return nil
	case d.unchecked, d.live == 0, d.live == d.version:
		return fmt.Errorf("the stack is deployed, but %w. Correct that and deploy again", failed)
	}
	if err := d.checkSettings(ctx); err != nil {
		return fmt.Errorf("%w\n%w", failed, err)
	}
	d.say("The %s failed: the stack returns to version %d", what, d.live)
	if err := d.restore(ctx, d.values["BUCKET"], d.releases, d.live); err != nil {
		return fmt.Errorf("%w\nThe schedules run version %d, but the stack could not be returned to it: %w\nCorrect both and deploy again", failed, d.live, err)
	}
	d.deleteVersion(ctx, d.version)
	d.kept = d.releases
	d.prune(ctx)
	return fmt.Errorf("%w\nThe schedules run version %d. Correct that and deploy again", failed, d.live)
}

// moveAlias has the schedules run the new version, and adds its release to those that rollback can return to.
func (d *deployment) moveAlias(ctx context.Context) error {
	d.parameters[aliasVersion] = strconv.Itoa(d.version)
	hash, err := d.saveRelease(ctx, d.values["BUCKET"], d.version, release{d.template, d.parameters})
	if err != nil || d.version == d.live && d.releases[d.live] == hash {
		return err
	}
	d.kept = d.releases.with(d.live, d.version, hash)
	d.parameters[releasesList] = d.kept.String()
	d.say("The schedules run version %d from now on", d.version)
	if err := d.change(ctx, false, release{d.template, d.parameters}); err != nil {
		return fmt.Errorf("the alias could not be moved to version %d: %w\nDeploy again to continue", d.version, err)
	}
	return nil
}

// prune deletes the versions and releases that are not kept: old ones, rejected ones, and those that rollback has left.
func (d *deployment) prune(ctx context.Context) {
	if d.kept == nil {
		return
	}
	pages := lambda.NewListVersionsByFunctionPaginator(d.lambda, &lambda.ListVersionsByFunctionInput{FunctionName: &d.stack})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			d.say("Warning: the versions of the function cannot be listed: %s", awsError(err))
			return
		}
		for _, found := range page.Versions {
			if n := number(aws.ToString(found.Version)); n > 0 && n < d.version && d.kept[n] == "" {
				d.deleteVersion(ctx, n)
			}
		}
	}
	var keys []string
	for version, hash := range d.kept {
		keys = append(keys, d.releaseKey(version, hash))
	}
	if err := d.deleteObjects(ctx, d.values["BUCKET"], "release", keys...); err != nil {
		d.say("Warning: %s", err)
	}
}

// deleteVersion deletes a version. If that fails, the next deployment tries again.
func (d *deployment) deleteVersion(ctx context.Context, version int) {
	if _, err := d.lambda.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: &d.stack, Qualifier: aws.String(strconv.Itoa(version))}); err != nil {
		d.say("Warning: version %d cannot be deleted: %s", version, awsError(err))
	}
}

func (p *program) rollbackCommand() *cobra.Command {
	return p.newCommand("rollback", "Return the stack to the version before, and rotate once",
		fmt.Sprintf(`Returns the stack to the version that was deployed before the one that runs now: code, settings, roles and alarms. Then it rotates once.
You can repeat it: deploy keeps the last %d versions. The next deploy deletes the versions that rollback has left.`, keptVersions),
		p.rollback)
}

func (p *program) rollback(ctx context.Context) error {
	if err := p.connect(ctx); err != nil {
		return err
	}
	stack, err := p.ownStack(ctx)
	if err != nil {
		return err
	}
	live, all := number(parameter(stack, aliasVersion)), stackReleases(stack)
	if live == 0 {
		return errors.New("the stack was not deployed by rotatorctl deploy: there is no version to return to")
	}
	before := all.before(live)
	if before == 0 {
		return fmt.Errorf("version %d is the oldest that deploy has kept: there is nothing to return to", live)
	}
	p.say("Returning the stack %s from version %d to %d", p.stack, live, before)
	if err := p.restore(ctx, parameter(stack, "CodeBucket"), all, before); err != nil {
		return fmt.Errorf("the stack could not be returned to version %d: %w", before, err)
	}
	if stack, err = p.ownStack(ctx); err != nil {
		return err
	}
	p.say("Rotating once")
	e := event{Mode: "rotate"}
	if isFleet(stack) { // as deploy does after an update
		e.Mode = "ensure"
	}
	ran, err := p.runOnce(ctx, stack, e)
	if isFailure(err) {
		err = fmt.Errorf("version %d runs again, but its first run failed: %w. To return to what ran before, deploy again", before, err)
	}
	if err != nil {
		return err
	}
	return p.print(map[string]any{"stack": p.stack, "from": strconv.Itoa(live), "version": strconv.Itoa(before), "report": ran.document}, ran.text)
}
