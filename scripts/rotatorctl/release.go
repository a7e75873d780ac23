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
	keptVersions = 5              // that rollback can go back through, with the live one
)

// release is what a version of the function was deployed with. Roles and alarms are of the stack, not of a version, so
// to go back to a version is to give the stack its template and parameters again. It is kept beside the zips, under a
// name that has its hash, and the stack has the hashes: who may write to the bucket alone can deploy nothing by it.
type release struct {
	Template   string            `json:"template"`
	Parameters map[string]string `json:"parameters"`
}

// releases are the hashes of those that are kept, by version.
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

// before is the last one before a version, 0 if there is none.
func (r releases) before(version int) (last int) {
	for v := range r {
		if v < version {
			last = max(last, v)
		}
	}
	return last
}

// with adds one in place of those since live, and drops the oldest.
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

func (p *program) saveRelease(ctx context.Context, bucket, version string, r release) (hash string, err error) {
	r.Parameters = maps.Clone(r.Parameters)
	delete(r.Parameters, releasesList)
	text, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encoding the release: %w", err)
	}
	hash = fmt.Sprintf("%.16x", sha256.Sum256(text))
	return hash, p.put(ctx, bucket, p.releaseKey(number(version), hash), text)
}

func (p *program) readRelease(ctx context.Context, bucket string, all releases, version int) (r release, err error) {
	key := p.releaseKey(version, all[version])
	text, err := p.get(ctx, bucket, key)
	if err == nil && (fmt.Sprintf("%.16x", sha256.Sum256(text)) != all[version] || json.Unmarshal(text, &r) != nil) {
		err = fmt.Errorf("s3://%s/%s is not what deploy stored there", printable(bucket), key)
	}
	return r, err
}

// restore gives the stack what a version was deployed with, the alias included.
func (p *program) restore(ctx context.Context, bucket string, all releases, version int) error {
	r, err := p.readRelease(ctx, bucket, all, version)
	if err != nil {
		return err
	}
	if r.Parameters[aliasVersion] != "" { // one of before has neither
		r.Parameters[releasesList] = all.String()
	}
	return p.change(ctx, false, r)
}

// number is the version, 0 for $LATEST or none.
func number(version string) int {
	n, err := strconv.Atoi(version)
	if err != nil {
		return 0
	}
	return n
}

// holdLive keeps the alias at the version that runs now. What the template alone has deployed, or one without an alias,
// runs unpublished: it is published first, so that it goes on whatever this deployment does.
func (d *deployment) holdLive(ctx context.Context) error {
	stack, err := d.removeUnusable(ctx)
	if err != nil || stack == nil {
		return err
	}
	switch {
	case isFleet(stack) && !d.fleet:
		return fmt.Errorf("the stack %s is a fleet: give another STACK, or deploy with --fleet", d.stack)
	case d.fleet && !isFleet(stack):
		return fmt.Errorf("the stack %s is no fleet: give another STACK, or deploy without --fleet", d.stack)
	}
	d.existing, d.live, d.releases = stack, parameter(stack, aliasVersion), stackReleases(stack)
	if number(d.live) == 0 {
		published, err := d.lambda.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: &d.stack})
		if _, missing := errors.AsType[*lambdatypes.ResourceNotFoundException](err); missing {
			d.live = ""
			return nil
		} else if err != nil {
			return d.functionError(err)
		}
		d.live, d.releases = aws.ToString(published.Version), releases{}
	}
	// Its release may also have been in another bucket, or deleted by a rule of the bucket.
	if _, err := d.readRelease(ctx, d.values["BUCKET"], d.releases, number(d.live)); err != nil {
		found, err := d.stacks.GetTemplate(ctx, &cloudformation.GetTemplateInput{StackName: stack.StackId, TemplateStage: types.TemplateStageOriginal})
		if err != nil {
			return fmt.Errorf("the template of the stack cannot be read: %w", awsError(err))
		}
		now := release{aws.ToString(found.TemplateBody), parameters(stack)}
		if now.Parameters[aliasVersion] != "" {
			now.Parameters[aliasVersion] = d.live
		}
		hash, err := d.saveRelease(ctx, d.values["BUCKET"], d.live, now)
		if err != nil {
			return err
		}
		d.releases = d.releases.with(number(d.live), number(d.live), hash)
	}
	d.parameters[aliasVersion], d.parameters[releasesList] = d.live, d.releases.String()
	return nil
}

// publish makes a version of the code and settings that the stack has now. AWS makes none when nothing has changed since
// the last, so a deployment that was interrupted goes on.
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
	d.version = printable(aws.ToString(published.Version))
	d.say("The deployed code is what was built: CodeSha256 %s", built)
	if err := d.checkOwn(ctx); err != nil {
		return err
	}
	ready := lambda.NewPublishedVersionActiveWaiter(d.lambda)
	if err := ready.Wait(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: &d.stack, Qualifier: &d.version}, 5*time.Minute); err != nil {
		return fmt.Errorf("version %s does not become active: %w", d.version, awsError(err))
	}
	return nil
}

// checkOwn checks that the stack has the settings of this deployment, not of another one that runs at the same time.
func (d *deployment) checkOwn(ctx context.Context) error {
	stack, err := d.ownStack(ctx)
	if err == nil && !maps.Equal(parameters(stack), d.parameters) {
		err = fmt.Errorf("another deployment has changed the stack %s meanwhile: when that has ended, deploy again", d.stack)
	}
	return err
}

// checkVersion has the new version do everything but save, before the schedules run it.
func (d *deployment) checkVersion(ctx context.Context) error {
	if d.version == d.live {
		return nil
	}
	d.say("Checking version %s before the schedules run it; that takes two minutes at most", d.version)
	_, err := d.patientCall(ctx, d.version, event{Mode: "check", Force: d.force, Rotations: d.sample()})
	switch {
	case err == nil:
		return nil
	case d.fleet && isFailure(err) && someSucceeded(err.Error()):
		d.say("Warning: %s", err)
		return nil
	case ctx.Err() != nil && d.live != "":
		return fmt.Errorf("interrupted: the schedules run version %s as before. Deploy again to go on", d.live)
	}
	return d.reject(ctx, "check", err)
}

// reject returns the stack to the version before, after a check or first run that failed.
func (d *deployment) reject(ctx context.Context, what string, why error) error {
	failed := fmt.Errorf("the %s of version %s failed: %w", what, d.version, why)
	switch {
	case d.unchecked && what == "check":
		d.say("Warning: %s", failed)
		return nil
	case d.unchecked, d.live == "", d.live == d.version:
		return fmt.Errorf("the stack is deployed, but %w. Correct that and deploy again", failed)
	}
	if err := d.checkOwn(ctx); err != nil {
		return fmt.Errorf("%w\n%w", failed, err)
	}
	d.say("The %s failed: the stack returns to version %s", what, d.live)
	if err := d.restore(ctx, d.values["BUCKET"], d.releases, number(d.live)); err != nil {
		return fmt.Errorf("%w\nThe schedules run version %s, but the stack could not be returned to it: %w\nCorrect both and deploy again", failed, d.live, err)
	}
	d.deleteVersion(ctx, d.version)
	d.kept = d.releases
	d.prune(ctx)
	return fmt.Errorf("%w\nVersion %s runs on. Correct that and deploy again", failed, d.live)
}

// moveAlias has the schedules run the new version.
func (d *deployment) moveAlias(ctx context.Context) error {
	d.parameters[aliasVersion] = d.version
	hash, err := d.saveRelease(ctx, d.values["BUCKET"], d.version, release{d.template, d.parameters})
	if err != nil || d.version == d.live && d.releases[number(d.live)] == hash {
		return err
	}
	d.kept = d.releases.with(number(d.live), number(d.version), hash)
	d.parameters[releasesList] = d.kept.String()
	d.say("The schedules run version %s from now on", d.version)
	if err := d.change(ctx, false, release{d.template, d.parameters}); err != nil {
		return fmt.Errorf("the alias could not be moved to version %s: %w\nDeploy again to go on", d.version, err)
	}
	return nil
}

// prune deletes the versions and releases that are not kept: old ones, those that no schedule ever ran, and those that
// rollback went back from.
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
			version := aws.ToString(found.Version)
			if n := number(version); n > 0 && n < number(d.version) && d.kept[n] == "" {
				d.deleteVersion(ctx, version)
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

// deleteVersion deletes a version. What cannot be deleted is left to the next deployment.
func (d *deployment) deleteVersion(ctx context.Context, version string) {
	if _, err := d.lambda.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: &d.stack, Qualifier: &version}); err != nil {
		d.say("Warning: version %s cannot be deleted: %s", version, awsError(err))
	}
}

func (p *program) rollbackCommand() *cobra.Command {
	return p.newCommand("rollback", "Return the stack to the version before, and rotate once",
		fmt.Sprintf(`Returns the stack to the version that was deployed before the one that runs now: code, settings, roles and alarms. Then it rotates once.
It can be repeated: deploy keeps the last %d versions. The next deploy deletes what rollback went back from.`, keptVersions),
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
	live, all := parameter(stack, aliasVersion), stackReleases(stack)
	if number(live) == 0 {
		return errors.New("the stack was not deployed by rotatorctl deploy: there is no version to return to")
	}
	before := all.before(number(live))
	if before == 0 {
		return fmt.Errorf("there is no version before %s", live)
	}
	p.say("Returning the stack %s from version %s to %d", p.stack, live, before)
	if err := p.restore(ctx, parameter(stack, "CodeBucket"), all, before); err != nil {
		return fmt.Errorf("the stack could not be returned to version %d: %w", before, err)
	}
	if stack, err = p.ownStack(ctx); err != nil {
		return err
	}
	p.say("Rotating once")
	e := event{Mode: "rotate"}
	if isFleet(stack) { // as after a deployment
		e.Mode = "ensure"
	}
	ran, err := p.runOnce(ctx, stack, e)
	if isFailure(err) {
		err = fmt.Errorf("version %d runs again, but its first run failed: %w. To return to what ran before, deploy again", before, err)
	}
	if err != nil {
		return err
	}
	return p.print(map[string]any{"stack": p.stack, "from": live, "version": strconv.Itoa(before), "report": ran.document}, ran.text)
}
