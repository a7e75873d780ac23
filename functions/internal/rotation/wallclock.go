package rotation

import (
	"context"
	"time"
)

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
