package rotation

import (
	"context"
	"testing"
	"time"
)

// lateTimer is a context whose deadline is over and whose timer has not fired yet.
type lateTimer struct{ context.Context }

func (lateTimer) Deadline() (time.Time, bool) { return time.Now(), true }

func TestErrorOfAnAttemptCutOffIsNotReported(t *testing.T) {
	answered, cutOff := &Error{Kind: Unavailable}, &Error{Kind: Timeout}
	ended, cancel := context.WithTimeout(t.Context(), time.Hour)
	cancel()
	going, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for name, test := range map[string]struct {
		ctx    context.Context
		before *Error
		want   *Error
	}{
		"time left":            {going, answered, cutOff},
		"the time is up":       {ended, answered, answered},
		"its timer is late":    {lateTimer{going}, answered, answered},
		"the first attempt's":  {ended, nil, cutOff},
		"the first's, by time": {lateTimer{going}, nil, cutOff},
	} {
		p := &pass{run: &run{ctx: test.ctx}}
		if got := p.errorToReport(test.before, cutOff); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}
