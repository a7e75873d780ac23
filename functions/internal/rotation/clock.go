package rotation

import (
	"context"
	"time"
)

// maxClockSkew is how far the clock may be off IBM's before the report warns.
const maxClockSkew = 30 * time.Second

// wallClock is the time without its monotonic part, which stands still while a
// process is frozen between two Lambda invocations.
func (r *Rotator) wallClock() time.Time {
	if r.Now == nil {
		return time.Now().Round(0)
	}
	return r.Now().Round(0)
}

// outlived reports whether more wall-clock time has gone by since the run began
// than the caller gave: the process was suspended, and whoever called has given up.
func (r *run) outlived() bool { return r.wallClock().Sub(r.started) > r.timeout }

// setClock notes how far our clock is off IBM's, by the latest answer. Expirations
// are by IBM's clock; a difference that whole seconds explain is left alone.
func (p *pass) setClock(skew time.Duration) {
	if skew.Abs() <= maxClockSkew {
		p.skew = 0
		return
	}
	if p.skew == 0 {
		p.warn("this machine's clock is off: IBM's clock less ours is %s", skew.Round(time.Second))
	}
	p.skew = skew
}

// ibmClock is the time by IBM's clock, as far as its answers have told.
func (p *pass) ibmClock() time.Time { return p.wallClock().Add(p.skew) }

type wallDeadlineKey struct{}

// WithWallDeadline says until when, by the wall clock, a request under ctx may
// leave. A context's own deadline does not see to that: timers stand still while
// a process is frozen, and on thawing it would go on with what it had decided.
func WithWallDeadline(ctx context.Context, latest time.Time) context.Context {
	return context.WithValue(ctx, wallDeadlineKey{}, latest)
}

// WallDeadline returns until when, by the wall clock, a request under ctx may
// leave; ok is false if at any time. An adapter looks at it last of all, when
// the request is on its way out.
func WallDeadline(ctx context.Context) (latest time.Time, ok bool) {
	latest, ok = ctx.Value(wallDeadlineKey{}).(time.Time)
	return latest, ok
}
