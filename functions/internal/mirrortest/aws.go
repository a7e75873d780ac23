// Package mirrortest emulates the part of AWS that mirrors use, with the quota of versions
// of AWS Secrets Manager, in memory and by the clock of the test.
package mirrortest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

const (
	maxVersions = 100
	minAge      = 24 * time.Hour // of a version that AWS removes to make room
)

// AWS implements rotation.Mirrors. Every mirror exists, made when it is first named.
type AWS struct {
	// Fault, if set, is called before each request. It may wait; an error that it returns is the
	// answer. A put is not done then, unless the error is ErrLost.
	Fault func(ctx context.Context, arn string, put bool) error
	// OnPut, if set, is called after each put that was done.
	OnPut func(arn string, version Version)

	mu      sync.Mutex
	secrets map[string]*secret
}

// ErrLost is the fault of a put that is done, but whose answer is lost.
var ErrLost = &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "lost by the test"}

// Version is a version of a mirror.
type Version struct {
	ID, Payload string
	At          time.Time
}

type secret struct {
	versions          []Version
	current, previous string
	changed           time.Time
	limited           int // puts that the quota refused
}

// open returns the secret, locked: call unlock at the end.
func (a *AWS) open(arn string) (s *secret, unlock func()) {
	a.mu.Lock()
	if a.secrets == nil {
		a.secrets = map[string]*secret{}
	}
	if a.secrets[arn] == nil {
		a.secrets[arn] = &secret{changed: time.Now()}
	}
	return a.secrets[arn], a.mu.Unlock
}

func (a *AWS) fault(ctx context.Context, arn string, put bool) error {
	switch {
	case ctx.Err() != nil:
		return &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later, Message: "the time was up"}
	case a.Fault == nil:
		return nil
	}
	return a.Fault(ctx, arn, put)
}

// Describe implements rotation.Mirrors.
func (a *AWS) Describe(ctx context.Context, arn string) (rotation.MirrorDescription, error) {
	if err := a.fault(ctx, arn, false); err != nil {
		return rotation.MirrorDescription{}, err
	}
	s, unlock := a.open(arn)
	defer unlock()
	found := rotation.MirrorDescription{VersionID: s.current, ChangedAt: s.changed}
	if s.previous != "" && !rotation.IsParameter(arn) {
		found.Others = []string{s.previous}
	}
	return found, nil
}

// Put implements rotation.Mirrors.
func (a *AWS) Put(ctx context.Context, arn, versionID string, payload iamtoken.Secret) error {
	err := a.fault(ctx, arn, true)
	if err != nil && !errors.Is(err, ErrLost) {
		return err
	}
	if full := a.Write(arn, versionID, payload.Reveal()); full != nil {
		return full
	}
	return err
}

// Write puts a version, regardless of Fault, as anybody may who has the permission.
func (a *AWS) Write(arn, versionID, payload string) error {
	s, unlock := a.open(arn)
	defer unlock()
	now := time.Now()
	for _, version := range s.versions {
		if version.ID == versionID && !rotation.IsParameter(arn) {
			return nil
		}
	}
	if len(s.versions) >= maxVersions {
		if now.Sub(s.versions[0].At) < minAge && !rotation.IsParameter(arn) {
			s.limited++
			return &rotation.Error{Kind: rotation.RateLimited, Message: "LimitExceededException"}
		}
		s.versions = s.versions[1:]
	}
	version := Version{versionID, payload, now}
	s.versions = append(s.versions, version)
	s.previous, s.current, s.changed = s.current, versionID, now
	if a.OnPut != nil {
		a.OnPut(arn, version)
	}
	return nil
}

// Move makes an older version the current one, as a person may. If versionID is "", only the date of the last change moves.
func (a *AWS) Move(arn, versionID string) {
	s, unlock := a.open(arn)
	defer unlock()
	if s.changed = time.Now(); versionID != "" {
		s.previous, s.current = s.current, versionID
	}
}

// Current returns the version that readers get; the zero Version if there is none.
func (a *AWS) Current(arn string) Version {
	s, unlock := a.open(arn)
	defer unlock()
	for _, version := range slices.Backward(s.versions) {
		if version.ID == s.current {
			return version
		}
	}
	return Version{}
}

// Versions returns the versions that AWS keeps, oldest first, and how many puts it
// has refused for its quota.
func (a *AWS) Versions(arn string) (kept []Version, limited int) {
	s, unlock := a.open(arn)
	defer unlock()
	return slices.Clone(s.versions), s.limited
}
