package rotation

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

// repairAfter is the least age of a stored version before a copy that lags behind
// it is repaired by publishing another one. AWS prunes old versions slowly: writes
// more often than every 10 minutes, kept up, use up its quota.
const repairAfter = 5 * time.Minute

// mirrored reports whether the mirrors hold the stored version. One of our own that
// an earlier attempt saved is copied again. For another one false means that a full
// pass has to repair the copies, since nobody here may read the stored token; it is
// an *Error if the version is too young for that, which also leaves a run that is
// just making the copies the time to finish.
func (p *pass) mirrored(ctx context.Context, stored Stored) (bool, error) {
	if own, sent := p.sent[stored.Metadata.Fingerprint]; sent {
		return true, p.mirror(ctx, stored, own)
	}
	lagging, err := p.laggingMirror(ctx, stored.VersionID)
	if err != nil || lagging == "" {
		return err == nil, err
	}
	if age := p.ibmClock().Sub(stored.CreatedAt); age < repairAfter {
		return false, &Error{Step: StepMirror, Kind: Unavailable, Retry: Once, Message: fmt.Sprintf(
			"the copy in the AWS secret %s is not of the current version, which is only %s old: a run in %s publishes a new token to both",
			lagging, age.Round(time.Second), (repairAfter - age).Round(time.Second))}
	}
	return false, nil
}

// checkMirrors returns an *Error if a mirror cannot be looked at.
func (p *pass) checkMirrors(ctx context.Context, stored Stored) error {
	_, err := p.laggingMirror(ctx, stored.VersionID)
	return err
}

// keptInMirrors returns an *Error if the version that is to be kept has not reached
// every mirror: there is no other token to repair them with.
func (p *pass) keptInMirrors(ctx context.Context, stored Stored) error {
	lagging, err := p.laggingMirror(ctx, stored.VersionID)
	if err != nil || lagging == "" {
		return err
	}
	return &Error{Step: StepMirror, Kind: Unavailable, Message: "the copy in the AWS secret " + lagging + " is not of the current version, " +
		"and a new token would expire sooner than that: run once with force to publish it to both"}
}

// mirror copies the token to every mirror, as a copy of the version stored.
func (p *pass) mirror(ctx context.Context, stored Stored, fresh Exchanged) error {
	if len(p.Mirror) == 0 {
		return nil
	}
	if p.outlived() {
		return &Error{Step: StepMirror, Kind: Timeout, Message: "the process was suspended for longer than the run may take: the token is too old to copy"}
	}
	ctx = WithWallDeadline(ctx, p.started.Add(p.timeout))
	payload := p.copyOf(stored, fresh.Token)
	return p.eachMirror(func(arn string) error {
		return p.Mirrors.Put(ctx, arn, stored.VersionID, payload)
	})
}

// laggingMirror returns a mirror that does not hold the version, or "" if all do.
func (p *pass) laggingMirror(ctx context.Context, versionID string) (string, error) {
	var mu sync.Mutex
	lagging := ""
	err := p.eachMirror(func(arn string) error {
		current, err := p.Mirrors.Current(ctx, arn)
		if err == nil && current != versionID {
			mu.Lock()
			defer mu.Unlock()
			lagging = arn
		}
		return err
	})
	return lagging, err
}

// eachMirror does something with all mirrors side by side, and returns the first
// error in their order.
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

// copyOf is what is stored at IBM, as text: the payload, or of a kv secret the
// object with it.
func (p *pass) copyOf(stored Stored, token iamtoken.Token) iamtoken.Secret {
	payload := p.Token.Format.Payload(token)
	if stored.SecretType != "kv" {
		return payload
	}
	field := p.Token.Field
	if field == "" {
		field = iamtoken.DefaultField
	}
	// Marshalling a map of strings cannot fail.
	object, _ := json.Marshal(map[string]string{field: payload.Reveal()})
	return iamtoken.NewSecret(string(object))
}
