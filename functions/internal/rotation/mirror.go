package rotation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/report"
)

// repairAfter is the least age of the current version before a mirror that is behind
// it is repaired by saving another one. AWS prunes old versions slowly:
// sustained writes more often than every 10 minutes use up its quota.
const repairAfter = 5 * time.Minute

// mirrorState compares the mirrors with the current version.
type mirrorState string

const (
	mirrorsCurrent mirrorState = "current" // every mirror holds the version, or there is none
	mirrorsUnsent  mirrorState = "unsent"  // the version is our own save: its token is known
	mirrorsBehind  mirrorState = "behind"  // a mirror holds another version: a new token repairs it
	mirrorsTooNew  mirrorState = "too new" // likewise, but the version is too new for that
)

// compareMirrors compares the mirrors with the current version, and names one that is
// behind. The rotator may not read the stored token: only a full pass brings a mirror
// up to a version that is not our own. The least age of a version also gives a run
// that is writing the mirrors the time to finish.
func (p *pass) compareMirrors(ctx context.Context, current CurrentVersion) (state mirrorState, behind string, err error) {
	if _, own := p.sent[current.Metadata.Fingerprint]; own {
		return mirrorsUnsent, "", nil
	}
	behind, err = p.mirrorBehind(ctx, current.VersionID)
	switch {
	case err != nil:
		return "", "", err
	case behind == "":
		return mirrorsCurrent, "", nil
	case p.ibmClock().Sub(current.CreatedAt) < repairAfter:
		return mirrorsTooNew, behind, nil
	default:
		return mirrorsBehind, behind, nil
	}
}

// endUpToDate ends an attempt that found the current version up to date. done is
// false if the attempt has to continue, because a new token must repair a mirror.
func (p *pass) endUpToDate(ctx context.Context, outcome report.Outcome, current CurrentVersion) (result report.Result, done bool, err error) {
	state, behind, err := p.compareMirrors(ctx, current)
	switch {
	case err != nil:
		return report.Result{}, true, err
	case state == mirrorsBehind:
		return report.Result{}, false, nil
	case state == mirrorsTooNew:
		age := p.ibmClock().Sub(current.CreatedAt)
		return report.Result{}, true, &Error{Step: StepMirror, Kind: Unavailable, Retry: Once, Message: fmt.Sprintf(
			"the mirror %s does not hold the current version, which is only %s old: a run in %s saves a new token in both",
			behind, age.Round(time.Second), (repairAfter - age).Round(time.Second))}
	case state == mirrorsUnsent:
		return p.result(outcome, current), true, p.mirror(ctx, current, p.sent[current.Metadata.Fingerprint])
	default:
		return p.result(outcome, current), true, nil
	}
}

// checkMirrors returns an *Error if a mirror cannot be read.
func (p *pass) checkMirrors(ctx context.Context, current CurrentVersion) error {
	_, err := p.mirrorBehind(ctx, current.VersionID)
	return err
}

// checkMirrorsOfKept returns an *Error if a mirror lacks the version that is to be
// kept: there is no other token to repair it with.
func (p *pass) checkMirrorsOfKept(ctx context.Context, current CurrentVersion) error {
	behind, err := p.mirrorBehind(ctx, current.VersionID)
	if err != nil || behind == "" {
		return err
	}
	return &Error{Step: StepMirror, Kind: Unavailable, Message: "the mirror " + behind + " does not hold the current version, " +
		"and a new token would expire sooner than that: run once with force to save it in both"}
}

// mirror writes the token to every mirror, under the id of the version current.
func (p *pass) mirror(ctx context.Context, current CurrentVersion, fresh TokenResponse) error {
	if len(p.Mirror) == 0 {
		return nil
	}
	if p.suspended() {
		return &Error{Step: StepMirror, Kind: Timeout, Message: "the process was suspended for longer than the run may take: the token is too old to mirror"}
	}
	ctx = WithWallDeadline(ctx, p.started.Add(p.timeout))
	payload := p.mirrorPayload(current, fresh.Token)
	return p.eachMirror(func(arn string) error {
		return p.Mirrors.Put(ctx, arn, current.VersionID, payload)
	})
}

// mirrorBehind returns a mirror that does not hold the version, or "" if all do.
func (p *pass) mirrorBehind(ctx context.Context, versionID string) (string, error) {
	var mu sync.Mutex
	behind := ""
	err := p.eachMirror(func(arn string) error {
		held, err := p.Mirrors.Current(ctx, arn)
		if err == nil && held != versionID {
			mu.Lock()
			defer mu.Unlock()
			behind = arn
		}
		return err
	})
	return behind, err
}

// eachMirror calls do for all mirrors in parallel, and returns the first error in
// their order.
func (p *pass) eachMirror(do func(arn string) error) error {
	if len(p.Mirror) > 0 {
		defer p.timed(StepMirror)()
	}
	errs := make([]error, len(p.Mirror))
	var all sync.WaitGroup
	for i, arn := range p.Mirror {
		all.Go(func() { errs[i] = do(arn) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return at(StepMirror, err)
		}
	}
	return nil
}

// mirrorPayload is the text that is stored at IBM: the payload, or for a kv secret
// the object with it.
func (p *pass) mirrorPayload(current CurrentVersion, token iamtoken.Token) iamtoken.Secret {
	payload := p.Token.Format.Payload(token)
	if current.SecretType != "kv" {
		return payload
	}
	// Marshalling a map of strings cannot fail.
	object, _ := json.Marshal(map[string]string{cmp.Or(p.Token.Field, iamtoken.DefaultField): payload.Reveal()})
	return iamtoken.NewSecret(string(object))
}
