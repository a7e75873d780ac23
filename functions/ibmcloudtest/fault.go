package ibmcloudtest

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// When a [Fault] drops the connection.
const (
	DropBefore = "before" // nothing is done
	DropAfter  = "after"  // the work is done, its answer lost
)

// A Fault makes an operation misbehave.
//
// Of several faults that match a request the oldest applies; a fault whose Skip is not used up
// counts the request and leaves it to the next one. A fault applies in this order: with DropAfter
// the work is done; Delay passes; then the connection is dropped, or Case or Status is answered in
// place of any work, or (neither given) the work is done and answered truly, Headers added. A caller
// who gives up during Delay gets nothing, and nothing more is done.
type Fault struct {
	Op          string            `json:"op"`                     // the name of an operation, or OpAny
	Identity    string            `json:"identity,omitempty"`     // whose key or token the request bears; if empty, anyone's
	Skip        int               `json:"skip,omitempty"`         // matches to let through first
	Times       int               `json:"times,omitempty"`        // how often it applies; if 0, until cleared
	Case        string            `json:"case,omitempty"`         // the name of a published answer, see CasesOf; in place of Status and Body
	Status      int               `json:"status,omitempty"`       // 200 to 599; if 0, the real answer
	Headers     map[string]string `json:"headers,omitempty"`      // of the answer, the real one too
	ContentType string            `json:"content_type,omitempty"` // of Body; if empty, application/json
	Body        string            `json:"body,omitempty"`         // sent as it is; needs a Status
	Delay       time.Duration     `json:"-"`                      // over HTTP a Go duration, "delay": "1.5s"
	Drop        string            `json:"drop,omitempty"`         // DropBefore, DropAfter or empty
}

var errDelay = errors.New("delay must be a Go duration of 0 or more, such as 1.5s")

// MarshalJSON writes Delay as a Go duration.
func (f Fault) MarshalJSON() ([]byte, error) {
	type plain Fault
	wire := struct {
		plain
		Delay string `json:"delay,omitempty"`
	}{plain: plain(f)}
	if f.Delay != 0 {
		wire.Delay = f.Delay.String()
	}
	return json.Marshal(wire)
}

func (f *Fault) answers() bool { return f.Case != "" || f.Status != 0 }

// validate returns what is wrong with the fault and which values are allowed.
func (f *Fault) validate() error {
	names := operationNames()
	hasBody := f.Body != "" || f.ContentType != ""
	for _, rule := range []struct {
		broken bool
		says   string
	}{
		{!slices.Contains(names, f.Op), "op must be one of " + strings.Join(names, ", ")},
		{f.Identity != "" && !slices.Contains(identityNames, f.Identity), "identity must be one of " + strings.Join(identityNames, ", ") + ", or absent for any"},
		{f.Skip < 0, "skip must be 0 or more"},
		{f.Times < 0, "times must be 1 or more, or 0 for until cleared"},
		{f.Status != 0 && (f.Status < 200 || f.Status > 599), "status must be 200 to 599, or 0 for the real answer"},
		{f.Delay < 0, errDelay.Error()},
		{f.Drop != "" && f.Drop != DropBefore && f.Drop != DropAfter, "drop must be before or after, or absent"},
		{f.Case != "" && (f.Status != 0 || hasBody), "case stands in place of status, content_type and body: leave them out, or leave case out"},
		{f.Drop != "" && f.answers(), "drop leaves the request unanswered: it allows no status and no case"},
		{!f.answers() && hasBody, "body and content_type need a status: 0 is the real answer"},
		{strings.ContainsAny(f.ContentType, "\r\n\x00"), "content_type must be one line"},
	} {
		if rule.broken {
			return errors.New(rule.says)
		}
	}
	if f.Case != "" {
		if _, err := caseNamed(f.Case, f.Op); err != nil {
			return err
		}
	}
	return f.validateHeaders()
}

// validateHeaders refuses what HTTP cannot carry, and Content-Length, which is the body's own.
func (f *Fault) validateHeaders() error {
	for name, value := range f.Headers {
		isToken := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
			return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
		})
		if !isToken || strings.ContainsAny(value, "\r\n\x00") {
			return errors.New("headers must be a map of HTTP header names to values of one line")
		}
		if http.CanonicalHeaderKey(name) == "Content-Length" {
			return errors.New("headers must leave out Content-Length: it follows from body")
		}
	}
	return nil
}

// clone keeps the queue's fault apart from the caller's map.
func (f Fault) clone() Fault {
	f.Headers = maps.Clone(f.Headers)
	return f
}

// A faultQueue holds the faults that are waiting, oldest first.
type faultQueue struct {
	mu      sync.Mutex
	waiting []Fault // Skip and Times count down
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
		faults[i] = f.clone()
	}
	return faults
}

// take returns the fault that applies to a request, if one does, and counts it.
func (q *faultQueue) take(op, class string) (f Fault, found bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.waiting {
		f := &q.waiting[i]
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
		return applied, true
	}
	return Fault{}, false
}

// answerWithFaults is perform under the fault that applies, if one does.
func (c *Cloud) answerWithFaults(in *call) (out reply, err error) {
	f, found := c.faults.take(in.operation.name, in.class())
	if !found {
		return c.perform(in), nil
	}
	if f.Drop == DropAfter {
		c.perform(in)
	}
	if err := wait(in.request, f.Delay); err != nil {
		return reply{}, err
	}
	of, errCase := caseNamed(f.Case, in.operation.name)
	switch {
	case f.Drop != "":
		return reply{}, errDropped
	case f.Case != "" && errCase == nil:
		out = c.caseReply(in, of)
	case f.answers():
		if f.Body != "" {
			f.ContentType = cmp.Or(f.ContentType, mediaJSON)
		}
		out = c.reply(in, f.Status, f.ContentType, []byte(f.Body))
	default:
		out = c.perform(in)
	}
	for name, value := range f.Headers {
		out.header.Set(name, value)
	}
	return out, nil
}
