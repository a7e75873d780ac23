package rotation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/report"
)

// MirrorState is what AWS shows of a mirror, and what IBM's metadata shows of the version in it.
type MirrorState struct {
	MirrorDescription
	Version TokenVersion // that the mirror holds; zero if it is not known
	InOrder bool         // the mirror's token needs no replacement yet

	arn            string
	lastPut        time.Time // zero if it is not known
	assumedExpired bool      // Version was not read, see MirrorReader
}

// newMirrorState combines what AWS shows of a mirror with IBM's versions. lookUp returns the
// zero TokenVersion for one that it does not know.
func newMirrorState(arn string, shown MirrorDescription, lookUp func(versionID string) TokenVersion, now time.Time, least time.Duration) MirrorState {
	s := MirrorState{MirrorDescription: shown, arn: arn, Version: lookUp(shown.VersionID)}
	s.lastPut, s.InOrder = s.Version.CreatedAt, s.Version.InOrder(now, least)
	if s.InOrder || !s.ChangedAt.IsZero() && now.Sub(s.ChangedAt) > PutInterval {
		return s
	}
	for _, id := range s.Others { // a person may have moved AWSCURRENT to an older version
		s.lastPut = later(s.lastPut, lookUp(id).CreatedAt)
	}
	// A value that IBM does not know was put when the mirror was last changed. The only value of a
	// mirror is an exception: the mirror was created with it.
	if s.Version.CreatedAt.IsZero() && (s.Version.VersionID != "" || len(s.Others) > 0) {
		s.lastPut = later(s.lastPut, s.ChangedAt)
	}
	return s
}

// MirrorReader reads the state of mirrors.
type MirrorReader struct {
	Mirrors      Mirrors
	Versions     VersionReader
	Token        TokenRef
	MinRemaining time.Duration

	// assumeExpired saves the request to IBM for a mirror that was last changed longer ago than
	// any token is valid: a slow IBM must not hinder the repair.
	assumeExpired bool
}

// Read reads the state of a mirror, at the time now by IBM's clock.
func (r MirrorReader) Read(ctx context.Context, arn string, current TokenVersion, now time.Time) (MirrorState, error) {
	shown, err := r.Mirrors.Describe(ctx, arn)
	if err != nil {
		return MirrorState{arn: arn}, err
	}
	expired := r.assumeExpired && shown.VersionID != current.VersionID && !shown.ChangedAt.IsZero() && now.Sub(shown.ChangedAt) > iamtoken.MaxLifetime
	lookUp := func(id string) (version TokenVersion) {
		switch {
		case id != "" && id == current.VersionID:
			version = current
		case expired:
			version = TokenVersion{VersionID: id, CreatedAt: shown.ChangedAt, Metadata: iamtoken.Metadata{Expiration: shown.ChangedAt.Add(iamtoken.MaxLifetime).Unix()}}
		case err == nil:
			version, err = r.Versions.ReadVersion(ctx, r.Token, id)
		}
		if version.CreatedAt.Sub(now) > iamtoken.MaxLifetime { // its token would never expire
			return TokenVersion{}
		}
		return version
	}
	s := newMirrorState(arn, shown, lookUp, now, r.MinRemaining)
	if err != nil {
		return MirrorState{arn: arn}, err
	}
	s.assumedExpired = expired
	return s, nil
}

// nextPut is when AWS's quota allows the next put; zero if it does at once.
func (s MirrorState) nextPut() time.Time {
	if s.lastPut.IsZero() || IsParameter(s.arn) {
		return time.Time{}
	}
	return s.lastPut.Add(PutInterval)
}

// Wait is how long a mirror that is not in order has to wait for its next put, if AWS's quota
// is the only reason. It is 0 if somebody else wrote to the mirror or moved its label.
func (s MirrorState) Wait(now time.Time) time.Duration {
	if s.InOrder || !s.holdsLastPut() {
		return 0
	}
	return max(0, s.nextPut().Sub(now))
}

// holdsLastPut reports whether the mirror holds what was put last, or what was put within the
// same seconds: two runs at the same moment may put their versions in either order.
func (s MirrorState) holdsLastPut() bool {
	return s.Version.VersionID != "" && s.lastPut.Sub(s.Version.CreatedAt) < 2*AttemptLimit
}

// describe says which token the readers of a mirror get that is not in order.
func (s MirrorState) describe(now time.Time) string {
	expires := s.Version.ExpiresAt()
	switch {
	case s.assumedExpired:
		return fmt.Sprintf("the mirror %s was last changed %s ago, so it has no token that is valid", s.arn, now.Sub(s.ChangedAt).Round(time.Second))
	case expires.IsZero():
		return "the mirror " + s.arn + " does not hold a token that this function has put there"
	}
	return fmt.Sprintf("the mirror %s has a token that %s", s.arn, report.Expiry(expires, expires.Sub(now).Round(time.Second)))
}

// waitWarning is the warning about a mirror whose token expires, or may expire, before its
// next put is allowed; empty if it does not.
func (s MirrorState) waitWarning(now time.Time) string {
	if s.Version.VersionID == "" {
		return fmt.Sprintf("the mirror %s gets a later token: it was changed %s ago, and AWS's quota allows one put in %s", s.arn, now.Sub(s.ChangedAt).Round(time.Second), PutInterval)
	}
	expired := s.nextPut().Sub(s.Version.ExpiresAt())
	if s.InOrder || s.Version.ExpiresAt().IsZero() || expired <= 0 {
		return ""
	}
	return fmt.Sprintf("%s, and gets the next one in %s: AWS's quota allows one in %s, so its readers have an expired token for %s at least; tokens of %s or more prevent that",
		s.describe(now), s.nextPut().Sub(now).Round(time.Second), PutInterval, expired.Round(time.Second), MirrorLifetime)
}

// IsParameter reports whether a mirror is a parameter of SSM Parameter Store, and not a
// secret of AWS Secrets Manager.
func IsParameter(arn string) bool {
	parts := strings.SplitN(arn, ":", 4)
	return len(parts) == 4 && parts[2] == "ssm"
}

// mirrorHash names a mirror in a version's metadata, which anybody may read who sees the token
// secret: 8 hex digits of the SHA-256 of its ARN.
func mirrorHash(arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return hex.EncodeToString(sum[:4])
}

// isFor reports whether a version was saved for a mirror, as far as its metadata shows.
func (v TokenVersion) isFor(arn string) bool {
	return strings.Contains(v.Metadata.Mirrors, mirrorHash(arn))
}

// isForOthers reports whether a version was saved for other mirrors only: by another
// function, or for a repair of those.
func (v TokenVersion) isForOthers(arn string) bool { return v.Metadata.Mirrors != "" && !v.isFor(arn) }

func later(times ...time.Time) time.Time { return slices.MaxFunc(times, time.Time.Compare) }
