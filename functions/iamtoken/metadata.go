package iamtoken

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

// MaxLifetime bounds what a version may state of its expiration: the lifetime of an IAM
// token is 60 minutes at most, and a minute is left for clocks.
const MaxLifetime = 61 * time.Minute

// Metadata is the version_custom_metadata of every version the rotator writes.
// It shows all but the token, so nobody needs the right to read the value in order
// to know when it expires. Times are in epoch seconds.
type Metadata struct {
	Expiration     int64  `json:"expiration"`
	IssuedAt       int64  `json:"issued_at"`
	ExpiresIn      int64  `json:"expires_in"`
	IAMID          string `json:"iam_id"`
	Account        string `json:"account"`
	Fingerprint    string `json:"fingerprint"`
	RunID          string `json:"run_id"`
	RotatorVersion string `json:"rotator_version"`
	Mirrors        string `json:"mirrors,omitempty"` // hashes of the mirrors that the version was saved for, divided by commas, or "none"; empty if not known
}

// Describe returns the metadata of t as saved by the run runID.
func Describe(t Token, runID, rotatorVersion string) Metadata {
	return Metadata{
		Expiration: t.Expiration.Unix(), IssuedAt: t.IssuedAt.Unix(), ExpiresIn: int64(t.ExpiresIn.Seconds()),
		IAMID: t.IAMID, Account: t.Account, Fingerprint: t.Fingerprint(),
		RunID: runID, RotatorVersion: rotatorVersion,
	}
}

// Map is the form that Secrets Manager's API takes.
func (m Metadata) Map() map[string]any {
	fields := map[string]any{
		"expiration": m.Expiration, "issued_at": m.IssuedAt, "expires_in": m.ExpiresIn,
		"iam_id": m.IAMID, "account": m.Account, "fingerprint": m.Fingerprint,
		"run_id": m.RunID, "rotator_version": m.RotatorVersion,
	}
	if m.Mirrors != "" {
		fields["mirrors"] = m.Mirrors
	}
	return fields
}

const (
	lowerHex      = "0123456789abcdef"
	alphanumerics = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// only reports whether text holds characters of set alone. Compiling a pattern
// would cost every cold start of a program that imports this package.
func only(text, set string) bool { return strings.Trim(text, set) == "" }

func isFingerprint(text string) bool { return len(text) == 16 && only(text, lowerHex) }

func isAccount(text string) bool { return len(text) == 32 && only(text, lowerHex) }

func isIAMID(id string) bool {
	kind, rest, _ := strings.Cut(id, "-")
	return len(id) <= 256 && slices.Contains([]string{"iam", "IBMid", "crn", "sha256"}, kind) && rest != "" && only(rest, alphanumerics+":._/-")
}

// Identity returns an IAM id and an account as they may be shown: whoever can
// write metadata or forge an answer could have put a key there. An IAM id of
// unknown shape becomes a digest, "sha256-" and 16 hex digits, which still differs
// from others; such an account becomes empty.
func Identity(iamID, account string) (string, string) {
	if iamID != "" && !isIAMID(iamID) {
		sum := sha256.Sum256([]byte(iamID))
		iamID = "sha256-" + hex.EncodeToString(sum[:8])
	}
	if !isAccount(account) {
		account = ""
	}
	return iamID, account
}

// errMetadata has our own words: the errors of encoding/json repeat values.
var errMetadata = errors.New("the version's metadata cannot be read: a field is of another type")

// ParseMetadata reads what Secrets Manager returned. Metadata can be edited by
// others, so it is an error if a field has another type, and a fingerprint, an IAM
// id or an account of another shape is dropped (a report would repeat it).
func ParseMetadata(fields map[string]any) (Metadata, error) {
	var m Metadata
	encoded, err := json.Marshal(fields)
	if err != nil || json.Unmarshal(encoded, &m) != nil {
		return Metadata{}, errMetadata
	}
	if !isFingerprint(m.Fingerprint) {
		m.Fingerprint = ""
	}
	if !isIAMID(m.IAMID) {
		m.IAMID = ""
	}
	if !isAccount(m.Account) {
		m.Account = ""
	}
	return m, nil
}

// ExpiresAt is the expiration as far as it is trusted: never later than
// createdAt, which the server set, plus MaxLifetime. The zero time means that it is
// not known, which every caller must treat as expired.
func (m Metadata) ExpiresAt(createdAt time.Time) time.Time {
	if m.Expiration <= 0 || createdAt.IsZero() {
		return time.Time{}
	}
	return sooner(time.Unix(m.Expiration, 0), createdAt.Add(MaxLifetime))
}
