package rotation

import (
	"context"
	"errors"
	"sync"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

// keyReads lets the rotations of a run share the reads of equal keys.
type keyReads struct {
	ctx     context.Context // the run's: a read serves several passes and ends with the last
	reader  KeyReader
	running sync.WaitGroup

	mu     sync.Mutex
	latest map[KeyRef]*keyRead
}

type keyRead struct {
	begun time.Time
	done  chan struct{}
	key   iamtoken.Secret
	err   error
}

func newKeyReads(ctx context.Context, reader KeyReader) *keyReads {
	return &keyReads{ctx: ctx, reader: reader, latest: map[KeyRef]*keyRead{}}
}

// start begins a read, or shares one that is under way or has succeeded and was
// begun after since: an attempt that follows a failure at that time must see a
// key that was just replaced.
func (k *keyReads) start(ref KeyRef, since time.Time) *keyRead {
	k.mu.Lock()
	defer k.mu.Unlock()
	if read, ok := k.latest[ref]; ok && read.begun.After(since) && !read.hasFailed() {
		return read
	}
	read := &keyRead{begun: time.Now(), done: make(chan struct{})}
	k.latest[ref] = read
	k.running.Go(func() {
		defer close(read.done)
		ctx, cancel := context.WithTimeout(k.ctx, attemptLimit)
		defer cancel()
		key, err := k.reader.ReadKey(ctx, ref)
		read.key, read.err = key, at(StepReadKey, err)
	})
	return read
}

// wait returns when no read is under way any more. No read may start meanwhile.
func (k *keyReads) wait() { k.running.Wait() }

func (r *keyRead) hasFailed() bool {
	select {
	case <-r.done:
		return r.err != nil
	default:
		return false
	}
}

// wait returns what the read gave, or an *Error when ctx ends first.
func (r *keyRead) wait(ctx context.Context) (iamtoken.Secret, error) {
	select {
	case <-r.done:
		return r.key, r.err
	case <-ctx.Done():
	}
	message := "reading the API key took longer than an attempt may: is Secrets Manager slow or unreachable?"
	if errors.Is(ctx.Err(), context.Canceled) {
		message = "the run was interrupted while it read the API key"
	}
	return iamtoken.Secret{}, &Error{Step: StepReadKey, Kind: Timeout, Retry: Later, Message: message}
}
