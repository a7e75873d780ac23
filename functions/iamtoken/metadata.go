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

// MaxLifetime is how long after a version's creation its token may expire at the latest: an
// IAM token has a lifetime of 60 minutes at most, and a minute is for differences of clocks.
const MaxLifetime = 61 * time.Minute

// Metadata is the version_custom_metadata of every version that the rotator writes. It
// describes the token, so that nobody needs permission to read the value in order to know
// when it expires. Times are in epoch seconds, ExpiresIn is in seconds.
type Metadata struct {
	Expiration     int64  `json:"expiration"`
	IssuedAt       int64  `json:"issued_at"`
	ExpiresIn      int64  `json:"expires_in"`
	IAMID          string `json:"iam_id"`
	Account        string `json:"account"`
	Fingerprint    string `json:"fingerprint"`
	RunID          string `json:"run_id"`
	RotatorVersion string `json:"rotator_version"`
	Mirrors        string `json:"mirrors,omitempty"` // hashes of the mirrors that the version is for, divided by commas, or "none"; empty if not known
}

// Describe returns the metadata of t for a version that the run runID saves.
func Describe(t Token, runID, rotatorVersion string) Metadata {
	return Metadata{
		Expiration: t.Expiration.Unix(), IssuedAt: t.IssuedAt.Unix(), ExpiresIn: int64(t.ExpiresIn.Seconds()),
		IAMID: t.IAMID, Account: t.Account, Fingerprint: t.Fingerprint(),
		RunID: runID, RotatorVersion: rotatorVersion,
	}
}

// Map returns the metadata in the form that Secrets Manager's API needs.
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

// only reports whether text has only characters of set. A regular expression would have to
// be compiled at every start of a program that imports this package.
func only(text, set string) bool { return strings.Trim(text, set) == "" }

func isFingerprint(text string) bool { return len(text) == 16 && only(text, lowerHex) }
func isAccount(text string) bool     { return len(text) == 32 && only(text, lowerHex) }

func isIAMID(id string) bool {
	kind, rest, _ := strings.Cut(id, "-")
	return len(id) <= 256 && slices.Contains([]string{"iam", "IBMid", "crn", "sha256"}, kind) && rest != "" && only(rest, alphanumerics+":._/-")
}

// Identity returns an IAM id and an account in a form that may be printed: whoever can edit
// metadata or forge an answer could have put a key there. An IAM id of unknown form becomes
// its hash, "sha256-" and 16 hex digits, which still differs from others. An account of
// unknown form becomes "".
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

// errMetadata replaces the errors of encoding/json, which repeat values.
var errMetadata = errors.New("the version's metadata cannot be read: a field is of another type")

// ParseMetadata reads metadata that Secrets Manager returned. Others can edit it, and reports
// repeat it. So a field of another type is an error, and a fingerprint, IAM id or account of
// another form becomes "".
func ParseMetadata(fields map[string]any) (Metadata, error) {
	var m Metadata
	encoded, err := json.Marshal(fields)
	if err != nil || json.Unmarshal(encoded, &m) != nil {
		return Metadata{}, errMetadata
	}
	for field, valid := range map[*string]func(string) bool{&m.Fingerprint: isFingerprint, &m.IAMID: isIAMID, &m.Account: isAccount} {
		if !valid(*field) {
			*field = ""
		}
	}
	return m, nil
}

// ExpiresAt returns the expiration as far as it may be trusted: at most MaxLifetime after
// createdAt, which the service has set. The zero time means that it is not known, which
// every caller must treat as expired.
func (m Metadata) ExpiresAt(createdAt time.Time) time.Time {
	if m.Expiration <= 0 || createdAt.IsZero() {
		return time.Time{}
	}
	return sooner(time.Unix(m.Expiration, 0), createdAt.Add(MaxLifetime))
}
