// Package rotation keeps access tokens fresh: it reads an API key, exchanges it
// for a token, checks the token and saves it.
//
// It knows neither IBM's SDKs nor the environment; adapters bring those in
// through the interfaces below. The order of a pass is in pass.go.
package rotation

import (
	"context"
	"fmt"
	"strings"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

// Rotation names one API key and the secret that its token is saved to.
type Rotation struct {
	Name   string
	APIKey KeyRef
	Token  TokenRef
	Expect Expect
	Mirror []string // ARNs of AWS secrets and parameters that hold the token too; none if empty
}

// KeyRef names the secret that holds an API key: by ID, or by Group, Type and
// Name. Field is the entry of a kv secret. Equal references are the same key.
type KeyRef struct {
	ID                string
	Group, Type, Name string
	Field             string
}

// IsZero reports whether r names no secret.
func (r KeyRef) IsZero() bool { return r == KeyRef{} }

// String is the reference as the configuration has it.
func (r KeyRef) String() string {
	if r.ID != "" {
		return r.ID
	}
	return r.Group + "/" + r.Type + "/" + r.Name
}

// TokenRef names the token secret, always by ID: reading by name
// returns the value and would need the right to read it.
type TokenRef struct {
	ID     string
	Field  string // the entry of a kv secret
	Format iamtoken.Format
}

// Expect is whom the token must belong to; empty fields are not checked.
type Expect struct {
	Account string // 32 hex digits
	IAMID   string // "iam-ServiceId-…"
}

// Full reports whether both fields are set.
func (e Expect) Full() bool { return e.Account != "" && e.IAMID != "" }

// Mode says how far a run goes.
type Mode string

const (
	ModeRotate Mode = "rotate" // save a new token
	ModeEnsure Mode = "ensure" // save one only if the stored one expires soon
	ModeCheck  Mode = "check"  // do everything but save
)

// Request is one run over some rotations.
type Request struct {
	Mode  Mode
	Force bool   // save in spite of the same-identity, expires-sooner and kv guards
	RunID string // names the run: a repeated delivery has the same one
}

// HowToRun says how a person starts a run of one rotation on this host.
type HowToRun func(rotation string, force bool) string

const runIDChars = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz:._/-"

// CheckRunID returns an error unless id can name a run.
func CheckRunID(id string) error {
	if len(id) >= 8 && len(id) <= 256 && strings.Trim(id, runIDChars) == "" {
		return nil
	}
	return fmt.Errorf("run_id must be 8 to 256 characters of A-Z a-z 0-9 : . _ / - "+
		"(got %d characters; an unsubstituted <aws.scheduler.scheduled-time> is one cause)", len(id))
}

// KeyReader reads API keys. It returns an *Error.
type KeyReader interface {
	ReadKey(ctx context.Context, ref KeyRef) (iamtoken.Secret, error)
}

// Exchanger exchanges an API key for an access token: a fresh one each time, never
// one from a cache, and one that the issuer has signed. It returns an *Error.
type Exchanger interface {
	Exchange(ctx context.Context, key iamtoken.Secret) (TokenResponse, error)
	// Prepare gets ready for exchanges. It runs in parallel with what precedes them.
	// Nothing waits for it, and it fails nothing.
	Prepare(ctx context.Context)
}

// TokenStore holds the token secrets. Its methods return an *Error.
type TokenStore interface {
	// ReadMetadata returns what is known of the current version without its value.
	ReadMetadata(ctx context.Context, ref TokenRef) (TokenVersion, error)
	VersionReader
	// Save stores a new version of the secret, after the version current.
	Save(ctx context.Context, ref TokenRef, current TokenVersion, token iamtoken.Token, metadata iamtoken.Metadata) (SavedVersion, error)
}

// PreviousVersion names the version before the current one.
const PreviousVersion = "previous"

// VersionReader reads of any version, by its id or as PreviousVersion, what TokenStore reads of the current one. It
// returns the zero TokenVersion if there is no such version, or no longer.
type VersionReader interface {
	ReadVersion(ctx context.Context, ref TokenRef, id string) (TokenVersion, error)
}

// Mirrors are secrets in AWS Secrets Manager and parameters in SSM Parameter Store that
// hold the token too, each named by its ARN. Both methods return an *Error.
type Mirrors interface {
	// Describe returns what AWS shows of the mirror. One that must have no token, because
	// it is a replica, is being deleted or is not encrypted, is an error that no retry changes.
	Describe(ctx context.Context, arn string) (MirrorDescription, error)
	// Put makes payload the mirror's value, of the version versionID. It may be repeated.
	Put(ctx context.Context, arn, versionID string, payload iamtoken.Secret) error
}

// MirrorDescription is what AWS shows of a mirror without its value.
type MirrorDescription struct {
	VersionID string    // of the version that readers get, as Put got it; "" if there is none
	Others    []string  // ids of the other versions that have a label: AWSPREVIOUS, once there were two
	ChangedAt time.Time // when anything of the mirror was last changed; zero when AWS does not show it
}

// TokenResponse is IAM's answer to an exchange.
type TokenResponse struct {
	Token         iamtoken.Token
	TransactionID string // IAM's Transaction-Id, for IBM support
	Clock         Clock  // IAM's
	Unverified    string // why the signature could not be verified; empty if it was
}

// TokenVersion is what the metadata of a version of a token secret shows.
type TokenVersion struct {
	VersionID  string            // IBM's id of the version
	SecretType string            // "arbitrary" or "kv"
	CreatedAt  time.Time         // set by Secrets Manager; zero when the answer has none
	Metadata   iamtoken.Metadata // zero when missing or unreadable
	Clock      Clock             // Secrets Manager's
	Foreign    bool              // of a kv secret: neither this version nor the previous one has a rotator_version
}

// ExpiresAt is when the stored token expires, as far as that may be trusted;
// zero when it is not known.
func (v TokenVersion) ExpiresAt() time.Time { return v.Metadata.ExpiresAt(v.CreatedAt) }

// Remaining is how long the stored token is still valid at now; negative if it has
// expired or that is not known. Whatever a clock shows, it is never more than the token
// was issued with.
func (v TokenVersion) Remaining(now time.Time) time.Duration {
	return min(v.ExpiresAt().Sub(now), v.Lifetime())
}

// Threshold is the remaining lifetime below which a token of lifetime is replaced: least,
// or what the lifetime allows. A token is left alone for PutInterval, so that each version is
// put to the mirrors too, and a repeated delivery finds the token in order for as long as it is
// recognized. Only the default of 8 minutes holds for every lifetime of 15 minutes or more, the
// shortest that an account may set; a shorter one is left alone for 7 of its 15 parts.
func Threshold(least, lifetime time.Duration) time.Duration {
	return min(least, max(lifetime-PutInterval, min(8*time.Minute, lifetime*8/15)))
}

// Threshold counts the lifetime with which the token was saved; none shorter is.
func (v TokenVersion) Threshold(least time.Duration) time.Duration {
	return Threshold(least, max(minRemaining, min(v.ExpiresAt().Sub(v.CreatedAt), v.Lifetime())))
}

// InOrder reports whether the stored token needs no replacement yet.
func (v TokenVersion) InOrder(now time.Time, least time.Duration) bool {
	return v.Remaining(now) >= v.Threshold(least)
}

// Lifetime is what the stored token was issued with, as far as the metadata may be
// trusted.
func (v TokenVersion) Lifetime() time.Duration {
	issued, expires := v.Metadata.IssuedAt, v.Metadata.Expiration
	if issued <= 0 || expires <= issued || expires-issued > int64(iamtoken.MaxLifetime/time.Second) {
		return iamtoken.MaxLifetime
	}
	return time.Duration(expires-issued) * time.Second
}

// Clock is what the Date header of an answer shows of a service's clock. The zero
// Clock, of an answer without the header, shows nothing.
type Clock struct {
	known       bool
	least, most time.Duration // how far it is ahead of ours
}

// ClockAt is the clock of a service that wrote date into the answer to a request. It
// wrote it at some time between sent and received, by our clock, which are far apart
// if the process was suspended meanwhile.
func ClockAt(date, sent, received time.Time) Clock {
	return Clock{known: true, least: date.Sub(received), most: date.Sub(sent)}
}

// Skew is how far the clock is off ours at least; negative if it is behind.
func (c Clock) Skew() time.Duration { return max(c.least, min(0, c.most)) }

// Apart is how far two clocks are off each other at least; 0 if one is not known.
func (c Clock) Apart(other Clock) time.Duration {
	if !c.known || !other.known {
		return 0
	}
	return max(0, c.least-other.most, other.least-c.most)
}

// MaxClocksApart is how far the clocks of two services may be apart: if they are
// more, one of them is wrong, and nobody knows which.
const MaxClocksApart = time.Minute

// SavedVersion is the version that a save made.
type SavedVersion struct {
	VersionID string
	CreatedAt time.Time // set by Secrets Manager; zero when the answer has none
}

// SecretDescription is the metadata of a secret in Secrets Manager.
type SecretDescription struct {
	ID        string
	Type      string // "arbitrary", "kv", …; empty for a type that this project has no use for
	GroupID   string
	Destroyed bool
	ExpiresAt time.Time // zero when it has no expiration date
	Versions  int       // 0 when it is not known
	Locks     int       // of all versions; 0 when it is not known
}

// KeySecret is a secret with the API key in it.
type KeySecret struct {
	SecretDescription
	Key   iamtoken.Secret
	Clock Clock // Secrets Manager's

	// Of type iam_credentials alone, whose keys Secrets Manager makes and ends.
	KeyID        string        // IAM's id of the key
	TTL          time.Duration // lifetime of each key; 0 when it is not known
	Interval     time.Duration // between two automatic rotations; 0 when there are none
	NextRotation time.Time     // zero when none is planned
}

// KeyInUse is the API key that the bootstrap identity's token was obtained with.
type KeyInUse struct {
	Key      iamtoken.Secret
	Previous bool // AWS's current key was refused, this is the one before it
}
