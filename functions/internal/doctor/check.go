package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"iam-token-rotator/functions/internal/rotation"
)

// Status is how a check ended.
type Status string

const (
	OK      Status = "ok"
	Failed  Status = "failed"  // rotations fail of it, or readers lack a token: act now
	Warning Status = "warning" // nothing fails of it today
	Skipped Status = "skipped" // not tried, or it cannot be
)

// Check is one finding. Its texts are our own words: nothing that a service
// answered enters them but identities and times.
type Check struct {
	Name     string `json:"check"`
	Rotation string `json:"rotation,omitempty"` // empty: it concerns all of them
	Status   Status `json:"status"`
	Detail   string `json:"detail"`
	Advice   string `json:"advice,omitempty"` // what to do
}

// Diagnosis is what a run found, in the order of the checks and then of the
// rotations.
type Diagnosis struct {
	Checks []Check `json:"checks"`
	OK     bool    `json:"ok"` // no check failed
}

func newDiagnosis(checks []Check) Diagnosis {
	diagnosis := Diagnosis{Checks: checks, OK: true}
	for _, check := range checks {
		diagnosis.OK = diagnosis.OK && check.Status != Failed
	}
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

// Misconfigured is the diagnosis of a configuration that cannot be used: one
// failed check for each fault that err joins, and nothing tried beyond.
func Misconfigured(err error) Diagnosis {
	faults := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		faults = joined.Unwrap()
	}
	var s sheet
	for _, fault := range faults {
		s.fail("configuration", fault.Error(), "correct this setting")
	}
	s.skip("everything else", "the configuration comes first")
	return newDiagnosis(s.checks)
}

// sheet collects the checks of one rotation, or of what all share.
type sheet struct {
	rotation string
	checks   []Check
}

func (s *sheet) add(name string, status Status, detail, advice string) {
	s.checks = append(s.checks, Check{Name: name, Rotation: s.rotation, Status: status, Detail: detail, Advice: advice})
}

func (s *sheet) ok(name, format string, args ...any) {
	s.add(name, OK, fmt.Sprintf(format, args...), "")
}

func (s *sheet) warn(name, detail, advice string) { s.add(name, Warning, detail, advice) }

func (s *sheet) fail(name, detail, advice string) { s.add(name, Failed, detail, advice) }

func (s *sheet) skip(name, why string) { s.add(name, Skipped, why, "") }

// notTried skips checks that rest on another one.
func (s *sheet) notTried(blocker string, names ...string) {
	for _, name := range names {
		s.skip(name, "not tried: "+blocker+" failed")
	}
}

// failed is for an error of the adapters.
func (s *sheet) failed(name string, err error) {
	detail, advice := explain(err)
	s.fail(name, detail, advice)
}

// explain splits an error into what was found and what to do.
func explain(err error) (detail, advice string) {
	var failure *rotation.Error
	if !errors.As(err, &failure) {
		return fmt.Sprintf("unexpected failure of type %T", err), "run doctor again"
	}
	finding := failure.Message
	if failure.Advice != "" {
		finding = strings.TrimSuffix(finding, ": "+failure.Advice)
	}
	return string(failure.Kind) + ": " + finding, cmp.Or(failure.Advice, adviceFor[failure.Kind])
}

// adviceFor is what to do about a failure whose message holds its advice itself,
// or that has none but to try again.
var adviceFor = map[rotation.Kind]string{
	rotation.Misconfigured: "correct what is named here, and run doctor again",
	rotation.Denied:        "see whose permission is missing, and run doctor again; a new policy takes minutes",
	rotation.NotFound:      "check the id or the name",
	rotation.Locked:        "remove the locks",
	rotation.RateLimited:   "run doctor again in a minute",
	rotation.Unavailable:   "run doctor again; if it stays, see the checks of the host and the service's status page",
	rotation.InvalidToken:  "does the URL name the service itself, or something in its place? The stored token stays as it is",
	rotation.Timeout:       "run doctor again; is there a slow proxy or firewall on the way to the host?",
}

// mayNot reports whether the identity lacks a permission; that its token is not
// taken at all is another matter, which may pass.
func mayNot(err error) bool {
	var failure *rotation.Error
	return errors.As(err, &failure) && failure.Kind == rotation.Denied && failure.Retry == rotation.Never
}

func kindOf(err error) rotation.Kind {
	var failure *rotation.Error
	if errors.As(err, &failure) {
		return failure.Kind
	}
	return ""
}
