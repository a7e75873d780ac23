package ibmcloudtest

import (
	"slices"
	"sync"
)

// A faultQueue holds the faults that are waiting, oldest first.
type faultQueue struct {
	mu      sync.Mutex
	waiting []*Fault // Skip and Times count down
}

// AddFault makes f wait for its requests, behind the faults added before. The error names the
// field at fault and its allowed values.
func (c *Cloud) AddFault(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.waiting = append(c.faults.waiting, f.clone())
	return nil
}

// ClearFaults removes every fault.
func (c *Cloud) ClearFaults() {
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	c.faults.waiting = nil
}

// Faults returns the waiting faults, oldest first, with what is left of their Skip and Times.
func (c *Cloud) Faults() []Fault {
	c.faults.mu.Lock()
	defer c.faults.mu.Unlock()
	faults := make([]Fault, len(c.faults.waiting))
	for i, f := range c.faults.waiting {
		faults[i] = *f.clone()
	}
	return faults
}

// take returns the fault that applies to a request, or nil, and counts it.
func (q *faultQueue) take(op, class string) *Fault {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, f := range q.waiting {
		if f.Op != OpAny && f.Op != op || f.Identity != "" && f.Identity != class {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		applied := *f
		switch f.Times {
		case 0: // until cleared
		case 1:
			q.waiting = slices.Delete(q.waiting, i, i+1)
		default:
			f.Times--
		}
		return &applied
	}
	return nil
}

// answerWithFaults is perform under the fault that applies, if one does.
func (c *Cloud) answerWithFaults(in *call) (reply, error) {
	f := c.faults.take(in.operation.name, in.class())
	if f == nil {
		return c.perform(in), nil
	}
	if f.Drop == DropAfter {
		c.perform(in)
	}
	if err := wait(in.request, f.Delay); err != nil {
		return reply{}, err
	}
	if f.Drop != "" {
		return reply{}, errDropped
	}
	var out reply
	if f.Status != 0 {
		out = c.dated(f.reply())
	} else {
		out = c.perform(in)
	}
	for name, value := range f.Headers {
		out.header.Set(name, value)
	}
	return out, nil
}
