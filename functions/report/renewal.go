package report

import "time"

// KeyRenewal describes how a run renewed the bootstrap key. It fails no run.
type KeyRenewal struct {
	Outcome RenewalOutcome `json:"outcome"`
	// KeyID is IAM's id of the key that is current at IBM.
	KeyID          string     `json:"key_id,omitempty"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty"`       // of the key in use after the run
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"` // when IBM plans to make the next key
	// ByPreviousKey is true if IAM refused AWS's current key, and the run used the one before it.
	ByPreviousKey bool     `json:"by_previous_key,omitempty"`
	Warnings      []string `json:"warnings"`
	Error         *Error   `json:"error,omitempty"`

	DaysLeft      float64 `json:"-"` // until ExpiresAt, by IBM's clock
	PreviousEnded bool    `json:"-"` // IAM refuses the key before the current one, AWSPREVIOUS
	Expiring      bool    `json:"-"` // the key expires sooner than it would if IBM and this renewal worked
}

// RenewalOutcome is how a renewal ended.
type RenewalOutcome string

const (
	KeyCurrent       RenewalOutcome = "current" // the key in use is the current one at IBM
	KeyRenewed       RenewalOutcome = "renewed" // a new key was stored in AWS, and is in use
	KeyRenewalFailed RenewalOutcome = "failed"  // the key in use stays
)

// Text is the renewal for a person: a line, and below it the error and the warnings.
func (k KeyRenewal) Text() string { return text(k.headline(), k.Error, k.Warnings) }

// Line is the renewal in one line, without a line end.
func (k KeyRenewal) Line() string { return line(k.headline(), k.Error, k.Warnings) }

func (k KeyRenewal) headline() string {
	text := "bootstrap key: " + Printable(string(k.Outcome))
	if k.ExpiresAt != nil {
		text += "; it expires " + k.ExpiresAt.UTC().Format(time.RFC3339)
	}
	if k.NextRotationAt != nil {
		text += "; IBM makes the next one " + k.NextRotationAt.UTC().Format(time.RFC3339)
	}
	return text
}

// IsNews reports whether a person wants to know: the key was renewed, or something is wrong.
func (k KeyRenewal) IsNews() bool { return k.Outcome != KeyCurrent || len(k.Warnings) > 0 }
