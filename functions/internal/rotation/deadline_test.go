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
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, test := range []struct {
		ctx          context.Context
		before, want *Error
	}{{ctx, answered, cutOff}, {lateTimer{ctx}, answered, answered}, {lateTimer{ctx}, nil, cutOff}} {
		p := &pass{run: &run{ctx: test.ctx}}
		if got := p.errorToReport(test.before, cutOff); got != test.want {
			t.Errorf("%T, after %v: got %v, want %v", test.ctx, test.before, got, test.want)
		}
	}
}
