package ibmcloudtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
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
// the work is done; Delay passes; then the connection is dropped, or Status is answered in place of
// any work, or (Status 0) the work is done and answered truly, Headers added. A caller who gives up
// during Delay gets nothing, and nothing more is done.
type Fault struct {
	Op          string            `json:"op"`                     // one of the Op constants
	Identity    string            `json:"identity,omitempty"`     // whose key or token the request bears; if empty, anyone's
	Skip        int               `json:"skip,omitempty"`         // matches to let through first
	Times       int               `json:"times,omitempty"`        // how often it applies; if 0, until cleared
	Status      int               `json:"status,omitempty"`       // 200 to 599; if 0, the real answer
	Headers     map[string]string `json:"headers,omitempty"`      // of the answer, the real one too
	ContentType string            `json:"content_type,omitempty"` // of Body; if empty, application/json
	Body        string            `json:"body,omitempty"`         // sent as it is; needs a Status
	Delay       time.Duration     `json:"-"`                      // over HTTP a Go duration, "delay": "1.5s"
	Drop        string            `json:"drop,omitempty"`         // DropBefore, DropAfter or empty
}

// faultFields names a fault's fields for a person who got one wrong.
const faultFields = "op, identity, content_type, body, delay and drop (strings), " +
	"skip, times and status (whole numbers), headers (an object of strings)"

// A wireFault is a Fault in JSON, its delay a Go duration.
type wireFault struct {
	plainFault
	Delay string `json:"delay,omitempty"`
}

// plainFault is a Fault without its methods.
type plainFault Fault

var errDelay = errors.New("delay must be a Go duration of 0 or more, such as 1.5s")

func (w *wireFault) fault() (Fault, error) {
	f := Fault(w.plainFault)
	if w.Delay == "" {
		return f, nil
	}
	var err error
	if f.Delay, err = time.ParseDuration(w.Delay); err != nil {
		return Fault{}, errDelay
	}
	return f, nil
}

// MarshalJSON writes Delay as a Go duration.
func (f Fault) MarshalJSON() ([]byte, error) {
	wire := wireFault{plainFault: plainFault(f)}
	if f.Delay != 0 {
		wire.Delay = f.Delay.String()
	}
	return json.Marshal(wire)
}

// validate tells what is wrong with the fault and which values are allowed.
func (f *Fault) validate() error {
	switch {
	case !slices.Contains(operationNames, f.Op):
		return fmt.Errorf("op must be one of %s", strings.Join(operationNames, ", "))
	case f.Identity != "" && !slices.Contains(identityNames, f.Identity):
		return fmt.Errorf("identity must be one of %s, or absent for any", strings.Join(identityNames, ", "))
	case f.Skip < 0:
		return fmt.Errorf("skip must be 0 or more")
	case f.Times < 0:
		return fmt.Errorf("times must be 1 or more, or 0 for until cleared")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status must be 200 to 599, or 0 for the real answer")
	case f.Delay < 0:
		return errDelay
	case f.Drop != "" && f.Drop != DropBefore && f.Drop != DropAfter:
		return fmt.Errorf("drop must be before or after, or absent")
	case f.Drop != "" && f.Status != 0:
		return fmt.Errorf("drop leaves the request unanswered: it allows no status")
	case f.Status == 0 && (f.Body != "" || f.ContentType != ""):
		return fmt.Errorf("body and content_type need a status: 0 is the real answer")
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
			return fmt.Errorf("headers must be a map of HTTP header names to values of one line")
		}
		if http.CanonicalHeaderKey(name) == "Content-Length" {
			return fmt.Errorf("headers must leave out Content-Length: it follows from body")
		}
	}
	if strings.ContainsAny(f.ContentType, "\r\n\x00") {
		return fmt.Errorf("content_type must be one line")
	}
	return nil
}

// reply is the answer of a fault with a status.
func (f *Fault) reply() reply {
	out := reply{status: f.Status, header: http.Header{}, body: []byte(f.Body)}
	switch {
	case f.ContentType != "":
		out.header.Set("Content-Type", f.ContentType)
	case f.Body != "":
		out.header.Set("Content-Type", "application/json")
	}
	return out
}

// clone keeps the queue's fault apart from the caller's map.
func (f Fault) clone() *Fault {
	f.Headers = maps.Clone(f.Headers)
	return &f
}
