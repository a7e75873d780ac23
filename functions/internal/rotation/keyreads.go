package rotation

import (
	"context"
	"sync"

	"iam-token-rotator/functions/iamtoken"
)

// keyReads lets the rotations of a run share the reads of equal keys. The nth
// attempt of a rotation uses the nth read of its key, so a retry sees a key that
// was just replaced.
type keyReads struct {
	ctx     context.Context // the run's: a read serves several passes and ends with the last
	reader  KeyReader
	running sync.WaitGroup

	mu    sync.Mutex
	reads map[keyReadID]*keyRead
}

type keyReadID struct {
	ref     KeyRef
	attempt int
}

type keyRead struct {
	done chan struct{}
	key  iamtoken.Secret
	err  error
}

func newKeyReads(ctx context.Context, reader KeyReader) *keyReads {
	return &keyReads{ctx: ctx, reader: reader, reads: map[keyReadID]*keyRead{}}
}

// start begins the read unless another rotation already has.
func (k *keyReads) start(ref KeyRef, attempt int) *keyRead {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := keyReadID{ref, attempt}
	if read, ok := k.reads[id]; ok {
		return read
	}
	read := &keyRead{done: make(chan struct{})}
	k.reads[id] = read
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

// wait returns what the read gave, or an *Error when ctx ends first.
func (r *keyRead) wait(ctx context.Context) (iamtoken.Secret, error) {
	select {
	case <-r.done:
		return r.key, r.err
	case <-ctx.Done():
		return iamtoken.Secret{}, &Error{Step: StepReadKey, Kind: Timeout, Retry: Later,
			Message: "reading the API key took longer than an attempt may: is Secrets Manager slow or unreachable?"}
	}
}
