// Package rotation keeps access tokens valid: it reads an API key, exchanges it
// for a token, checks the token and saves it.
//
// It uses neither IBM's SDKs nor the environment: adapters implement the interfaces
// below. Start reading at attempt in pass.go.
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
	Mirror []string // ARNs of the AWS secrets and parameters that hold the token too, see mirror.go
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

// Expect is the identity that the token must belong to; empty fields are not checked.
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

// HowToRun returns how a person runs one rotation on this host: by a command, or an invocation.
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

// Exchanger exchanges an API key for an access token: a new one each time, never
// one from a cache, and one whose signature is IAM's. It returns an *Error.
type Exchanger interface {
	Exchange(ctx context.Context, key iamtoken.Secret) (TokenResponse, error)
	// Prepare fetches what exchanges need besides the key (IAM's public keys), in parallel with the
	// steps before them. No exchange waits for it, and none fails because of it.
	Prepare(ctx context.Context)
}

// TokenStore holds the token secrets. Its methods return an *Error.
type TokenStore interface {
	// ReadMetadata reads the metadata of the current version, not its value.
	ReadMetadata(ctx context.Context, ref TokenRef) (TokenVersion, error)
	VersionReader
	// Save saves token as a new version of the secret, which follows the version current.
	Save(ctx context.Context, ref TokenRef, current TokenVersion, token iamtoken.Token, metadata iamtoken.Metadata) (SavedVersion, error)
}

// PreviousVersion names the version before the current one.
const PreviousVersion = "previous"

// VersionReader reads the metadata of any version, by its id or PreviousVersion. It returns
// the zero TokenVersion if the secret does not have that version, or no longer.
type VersionReader interface {
	ReadVersion(ctx context.Context, ref TokenRef, id string) (TokenVersion, error)
}

// Mirrors are secrets in AWS Secrets Manager and parameters in SSM Parameter Store that
// hold the token too, each named by its ARN. Both methods return an *Error.
type Mirrors interface {
	// Describe returns what AWS shows of the mirror. If the mirror must not have a token (it is a
	// replica, is being deleted or is not encrypted), the error is one that no retry changes.
	Describe(ctx context.Context, arn string) (MirrorDescription, error)
	// Put makes payload the mirror's value, as the version versionID. It is idempotent.
	Put(ctx context.Context, arn, versionID string, payload iamtoken.Secret) error
}

// MirrorDescription is what AWS shows of a mirror without its value.
type MirrorDescription struct {
	VersionID string    // of the version that readers get, as Put got it; "" if there is none
	Others    []string  // ids of the other versions that have a label: AWSPREVIOUS, once there were two
	ChangedAt time.Time // of the last change of the mirror, whatever it was; zero when AWS does not show it
}

// TokenResponse is IAM's answer to an exchange.
type TokenResponse struct {
	Token         iamtoken.Token
	TransactionID string // IAM's Transaction-Id, for IBM support
	Clock         Clock  // IAM's clock
	Unverified    string // why the signature could not be verified; empty if it was
}

// TokenVersion is what the metadata of a version of a token secret shows.
type TokenVersion struct {
	VersionID  string            // IBM's id of the version
	SecretType string            // "arbitrary" or "kv"
	CreatedAt  time.Time         // set by Secrets Manager; zero when the answer has none
	Metadata   iamtoken.Metadata // zero when missing or unreadable
	Clock      Clock             // Secrets Manager's clock
	Foreign    bool              // it is a kv secret, and neither this version nor the previous one has a rotator_version
}

// ExpiresAt is when the stored token expires, as far as that may be trusted;
// zero when it is not known.
func (v TokenVersion) ExpiresAt() time.Time { return v.Metadata.ExpiresAt(v.CreatedAt) }

// Remaining is how long the stored token is still valid at now; negative if it has expired
// or that is not known. It is never more than the token's lifetime, whatever a clock shows.
func (v TokenVersion) Remaining(now time.Time) time.Duration {
	return min(v.ExpiresAt().Sub(now), v.Lifetime())
}

// Threshold is the remaining lifetime below which a token is replaced: least (MIN_REMAINING), or a
// cap if that is less, for example 44 minutes of 60. The cap leaves a token alone for PutInterval:
// then each version may be put to the mirrors, and a repeated delivery of an event saves nothing.
// Tokens too short for that have a cap of 8 minutes, the default of MIN_REMAINING; those of less
// than 15 minutes, which no account can set, one of 8/15 of their lifetime.
func Threshold(least, lifetime time.Duration) time.Duration {
	return min(least, max(lifetime-PutInterval, min(8*time.Minute, lifetime*8/15)))
}

// Threshold is that of the stored token, by the lifetime that remained when it was saved, which
// was minSaved at least.
func (v TokenVersion) Threshold(least time.Duration) time.Duration {
	return Threshold(least, max(minSaved, min(v.ExpiresAt().Sub(v.CreatedAt), v.Lifetime())))
}

// InOrder reports whether the stored token needs no replacement at now.
func (v TokenVersion) InOrder(now time.Time, least time.Duration) bool {
	return v.Remaining(now) >= v.Threshold(least)
}

// Lifetime is the whole lifetime of the stored token; MaxLifetime if the metadata shows none
// that is possible.
func (v TokenVersion) Lifetime() time.Duration {
	issued, expires := v.Metadata.IssuedAt, v.Metadata.Expiration
	if issued <= 0 || expires <= issued || expires-issued > int64(iamtoken.MaxLifetime/time.Second) {
		return iamtoken.MaxLifetime
	}
	return time.Duration(expires-issued) * time.Second
}

// Clock is a service's clock, as far as the Date header of an answer shows it: the header was
// written between the request and the answer. The zero Clock is that of an answer without the header.
type Clock struct {
	known       bool
	least, most time.Duration // how far it is ahead of this machine's
}

// ClockAt is the clock of a service that wrote date into its answer. sent and received are
// the times of the request and the answer by this machine's clock. They are far apart if the
// process was suspended between them.
func ClockAt(date, sent, received time.Time) Clock {
	return Clock{known: true, least: date.Sub(received), most: date.Sub(sent)}
}

// Skew is how far the clock is at least off this machine's; negative if it is behind.
func (c Clock) Skew() time.Duration { return max(c.least, min(0, c.most)) }

// Apart is how far two clocks are at least off each other; 0 if one is not known.
func (c Clock) Apart(other Clock) time.Duration {
	if !c.known || !other.known {
		return 0
	}
	return max(0, c.least-other.most, other.least-c.most)
}

// MaxClocksApart is how far the clocks of two services may be apart. If it is more, one of
// them is wrong, and nobody knows which.
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
	Clock Clock // Secrets Manager's clock

	// Of type iam_credentials alone, whose keys Secrets Manager creates and deletes.
	KeyID        string        // IAM's id of the key
	TTL          time.Duration // lifetime of each key; 0 when it is not known
	Interval     time.Duration // between two automatic rotations; 0 when there are none
	NextRotation time.Time     // zero when none is planned
}

// KeyInUse is the API key that the bootstrap identity's token was obtained with.
type KeyInUse struct {
	Key      iamtoken.Secret
	Previous bool // it is AWS's previous key, since IAM refused the current one
}
