package rotation

import (
	"fmt"
	"time"
)

const (
	// redeliveryWindow is how long a version that bears this run's id counts as
	// this run's work: an event is delivered at least once, not exactly once.
	redeliveryWindow = 15 * time.Minute
	// minTokenLife is the least life a token must have to be published.
	minTokenLife = 5 * time.Minute
	// maxClockSkew is how far the clock may be off IBM's before the report warns.
	maxClockSkew = 30 * time.Second
	// keyExpiryNotice is how long before the bootstrap key expires the report warns.
	keyExpiryNotice = 14 * 24 * time.Hour
)

// nothingToDo decides from the stored version whether the attempt ends here.
func (p *pass) nothingToDo(stored Stored) (Outcome, bool) {
	if p.Mode == ModeCheck {
		return "", false
	}
	if _, sent := p.sent[stored.Metadata.Fingerprint]; sent && stored.Metadata.RunID == p.RunID {
		return Rotated, true // our own save: only its answer was lost
	}
	now := p.wallClock()
	switch {
	case stored.ExpiresAt().Sub(now) < p.MinRemaining:
		return "", false
	case p.Mode == ModeEnsure:
		return Fresh, true
	case stored.Metadata.RunID == p.RunID && now.Sub(stored.CreatedAt) < redeliveryWindow:
		return AlreadyDone, true
	case stored.VersionID != p.firstSeen:
		return AlreadyDone, true // someone has published since this run began
	}
	return "", false
}

// checkToken returns an *Error if the token must not be published.
func (p *pass) checkToken(fresh freshToken, stored Stored) error {
	token := fresh.Token
	if left := token.Expiration.Sub(p.wallClock()); left < minTokenLife || left < token.ExpiresIn/2 {
		return &Error{Step: StepCheck, Kind: InvalidToken, Retry: Later, Message: fmt.Sprintf(
			"IAM returned a token with %s of life left (at least 5m and half of its %s are required): it is an old one, "+
				"or this machine's clock is wrong (IBM's clock less ours: %s)",
			left.Round(time.Second), token.ExpiresIn, fresh.ClockSkew.Round(time.Second))}
	}
	if err := p.checkExpected(fresh); err != nil {
		return err
	}
	before := stored.Metadata
	if p.Force || token.Opaque() || before.IAMID == "" {
		return nil
	}
	if token.IAMID != before.IAMID || token.Account != before.Account {
		return mismatch("the token belongs to another identity than the stored one (%q, not %q): "+
			"if the API key was replaced on purpose, run once with force", identity(token.IAMID, token.Account), identity(before.IAMID, before.Account))
	}
	return nil
}

// checkExpected holds the token against what the configuration expects; force
// does not go past it.
func (p *pass) checkExpected(fresh freshToken) error {
	token, expect := fresh.Token, p.Expect
	switch {
	case expect == Expect{}:
		return nil
	case token.Opaque():
		return mismatch("the token cannot be read, so `expect` cannot be verified: remove `expect` to publish opaque tokens")
	case expect.Account != "" && expect.Account != token.Account:
		return mismatch("the token belongs to account %q, but %q is expected: correct the API key or `expect`", token.Account, expect.Account)
	case expect.IAMID != "" && expect.IAMID != token.IAMID:
		return mismatch("the token belongs to %q, but %q is expected: correct the API key or `expect`", token.IAMID, expect.IAMID)
	}
	return nil
}

func mismatch(format string, args ...any) *Error {
	return &Error{Step: StepCheck, Kind: InvalidToken, Message: fmt.Sprintf(format, args...)}
}

func identity(iamID, account string) string { return iamID + " of account " + account }

// expiresSooner reports whether publishing would take life from readers.
func (p *pass) expiresSooner(fresh freshToken, stored Stored) bool {
	return !p.Force && fresh.Token.Expiration.Before(stored.ExpiresAt())
}

// warnAbout notes what an operator should know of a token that is good enough.
func (p *pass) warnAbout(exchanged Exchanged) {
	token := exchanged.Token
	if token.Opaque() {
		p.warn("the token is no JWT: its identity could not be verified")
	}
	if token.ExpiresIn < p.Interval {
		p.warn("tokens live %s, shorter than the schedule of %s: only the ensure schedule keeps one valid", token.ExpiresIn, p.Interval)
	}
	if token.ExpiresIn <= p.MinRemaining {
		p.warn("tokens live %s, no longer than MIN_REMAINING (%s): every ensure run publishes a new one", token.ExpiresIn, p.MinRemaining)
	}
	if exchanged.ClockSkew.Abs() > maxClockSkew {
		p.warn("this machine's clock is off: IBM's clock less ours is %s", exchanged.ClockSkew.Round(time.Second))
	}
}

func (p *pass) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}
