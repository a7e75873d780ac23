package rotation

import (
	"fmt"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

const (
	// redeliveryWindow is how long a version that bears this run's id counts as
	// this run's work: an event is delivered at least once, not exactly once.
	redeliveryWindow = 15 * time.Minute
	// minTokenLife is the least life a token must have to be published.
	minTokenLife = 5 * time.Minute
	// keyExpiryNotice is how long before the bootstrap key expires the report warns.
	keyExpiryNotice = 14 * 24 * time.Hour
)

// nothingToDo decides from the stored version whether the attempt ends here.
func (p *pass) nothingToDo(stored Stored) (Outcome, bool) {
	if p.Mode == ModeCheck {
		return "", false
	}
	if _, sent := p.sent[stored.Metadata.Fingerprint]; sent {
		return Rotated, true // our own save: only its answer was lost
	}
	now := p.ibmClock()
	switch {
	case stored.ExpiresAt().Sub(now) < p.MinRemaining:
		return "", false
	case p.Mode == ModeEnsure:
		return Fresh, true
	case stored.Metadata.RunID == p.RunID && now.Sub(stored.CreatedAt) < redeliveryWindow:
		return AlreadyDone, true
	case stored.VersionID != p.first.VersionID && !stored.CreatedAt.Before(p.first.CreatedAt) && !p.Force:
		return AlreadyDone, true // someone has published since this run began
	}
	return "", false
}

// checkToken returns an *Error if the token must not be published.
func (p *pass) checkToken(fresh Exchanged, stored Stored) error {
	if err := CheckLife(fresh, p.ibmClock()); err != nil {
		return err
	}
	return p.CheckIdentity(fresh.Token, stored.Metadata, p.Force)
}

// CheckLife returns an *Error if the token has too little of its life left at
// now, by IBM's clock, to be published.
func CheckLife(fresh Exchanged, now time.Time) error {
	left := fresh.Token.Expiration.Sub(now)
	if left >= minTokenLife && left >= fresh.Token.ExpiresIn/2 {
		return nil
	}
	return &Error{Step: StepCheck, Kind: InvalidToken, Retry: Later, Message: fmt.Sprintf(
		"IAM returned a token with %s of life left (at least 5m and half of its %s are required): it is an old one, "+
			"or this machine's clock is wrong (IBM's clock less ours: %s)",
		left.Round(time.Second), fresh.Token.ExpiresIn, fresh.ClockSkew.Round(time.Second))}
}

// CheckIdentity returns an *Error if the token does not belong to whom Expect
// names or, unless force says that this is meant, to another identity than the
// token before it.
func (r Rotation) CheckIdentity(token iamtoken.Token, before iamtoken.Metadata, force bool) error {
	if err := r.checkExpected(token); err != nil {
		return err
	}
	if force {
		return nil
	}
	if differ(token.IAMID, before.IAMID) || differ(token.Account, before.Account) {
		return mismatch("if the API key was replaced on purpose, run once with force",
			"the token belongs to another identity than the stored one (%q, not %q)", identity(token.IAMID, token.Account), identity(before.IAMID, before.Account))
	}
	return nil
}

// checkExpected holds the token against what the configuration expects; force
// does not go past it.
func (r Rotation) checkExpected(token iamtoken.Token) error {
	const advice = "correct the API key or `expect`"
	expect := r.Expect
	switch {
	case expect == Expect{}:
		return nil
	case token.Opaque():
		return mismatch("remove `expect` to publish opaque tokens", "the token cannot be read, so `expect` cannot be verified")
	case expect.Account != "" && expect.Account != token.Account:
		return mismatch(advice, "the token belongs to account %q, but %q is expected", token.Account, expect.Account)
	case expect.IAMID != "" && expect.IAMID != token.IAMID:
		return mismatch(advice, "the token belongs to %q, but %q is expected", token.IAMID, expect.IAMID)
	}
	return nil
}

func mismatch(advice, format string, args ...any) *Error {
	return &Error{Step: StepCheck, Kind: InvalidToken, Message: fmt.Sprintf(format, args...) + ": " + advice, Advice: advice}
}

// differ compares what both tell: a token may be opaque, and metadata erased.
func differ(a, b string) bool { return a != "" && b != "" && a != b }

func identity(iamID, account string) string {
	if account == "" {
		return iamID
	}
	return strings.TrimSpace(iamID + " of account " + account)
}

// expiresSooner reports whether publishing would take life from readers.
func (p *pass) expiresSooner(fresh Exchanged, stored Stored) bool {
	return !p.Force && fresh.Token.Expiration.Before(stored.ExpiresAt())
}

// warnAbout notes what an operator should know of a token that is good enough.
func (p *pass) warnAbout(token iamtoken.Token) {
	if token.Opaque() {
		p.warn("the token does not tell whose it is: its identity could not be verified")
	}
	if token.ExpiresIn < p.Interval {
		p.warn("tokens live %s, shorter than the schedule of %s: keep the ensure schedule on, it alone keeps one valid", token.ExpiresIn, p.Interval)
	}
	if token.ExpiresIn <= p.MinRemaining {
		p.warn("tokens live %s, no longer than MIN_REMAINING (%s): every ensure run publishes a new one, lower it", token.ExpiresIn, p.MinRemaining)
	}
}

func (p *pass) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}
