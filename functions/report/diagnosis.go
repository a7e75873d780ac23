package report

import (
	"encoding/json"
	"errors"
)

// Diagnosis is what doctor found, in the order of the checks and then of the rotations.
type Diagnosis struct {
	Checks []Check `json:"checks"`
	OK     bool    `json:"ok"` // no check failed
}

// Check is one finding.
type Check struct {
	Name     string `json:"check"`
	Rotation string `json:"rotation,omitempty"` // empty: it concerns all of them
	Status   Status `json:"status"`
	Detail   string `json:"detail"`
	Advice   string `json:"advice,omitempty"` // what to do
}

// Status is how a check ended.
type Status string

const (
	CheckOK      Status = "ok"
	CheckFailed  Status = "failed"  // rotations fail because of it, or readers lack a token: act now
	CheckWarning Status = "warning" // nothing fails because of it today
	CheckSkipped Status = "skipped" // not tried, or it cannot be
)

// NewDiagnosis returns the diagnosis of these checks.
func NewDiagnosis(checks []Check) Diagnosis {
	diagnosis := Diagnosis{Checks: checks}
	diagnosis.OK = diagnosis.Count(CheckFailed) == 0
	return diagnosis
}

// Count returns how many checks ended in status.
func (d Diagnosis) Count(status Status) int {
	var count int
	for _, check := range d.Checks {
		if check.Status == status {
			count++
		}
	}
	return count
}

// ParseDiagnosis decodes the JSON of a diagnosis.
func ParseDiagnosis(encoded []byte) (Diagnosis, error) {
	var diagnosis Diagnosis
	if json.Unmarshal(encoded, &diagnosis) != nil || diagnosis.Checks == nil {
		return Diagnosis{}, errors.New("not the JSON of a diagnosis")
	}
	return diagnosis, nil
}
