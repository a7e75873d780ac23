package ibmcloudtest

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

// errDropped tells that the connection is to be closed without an answer.
var errDropped = errors.New("connection dropped")

// answer carries a request through faults, checks and work. It returns errDropped for a dropped
// connection and the context's error when the caller gave up during a delay.
func (c *Cloud) answer(r *http.Request) (reply, error) {
	at := c.now()
	if strings.HasPrefix(r.URL.Path, controlPrefix) {
		return c.dated(c.control(r)), nil
	}
	found, params, allow := findOperation(r)
	if found == nil {
		out := c.noOperation(r, allow)
		c.requests.add(Request{At: at, Method: r.Method, Path: c.redactPath(r.URL.Path), Status: out.status})
		return c.dated(out), nil
	}
	in, err := c.newCall(r, found, params)
	if err != nil {
		return reply{}, err
	}
	entry := Request{At: at, Op: found.name, Method: r.Method, Path: c.redactPath(r.URL.Path), Identity: in.class()}
	out, err := c.answerWithFaults(in)
	entry.Status = out.status
	c.requests.add(entry)
	return out, err
}

// noOperation answers a request that is none of the operations: 404, or 405 when the path knows
// other methods.
func (c *Cloud) noOperation(r *http.Request, allow []string) reply {
	e := notFound("requested path")
	if len(allow) > 0 {
		e = fail(http.StatusMethodNotAllowed, "method_not_allowed", "The method is not allowed on this path.")
	}
	body := commonError(e)
	if strings.HasPrefix(r.URL.Path, "/identity/") {
		body = c.iamError(r, newUUID(), e)
	}
	out := jsonReply(e.status, body)
	if len(allow) > 0 {
		out.header.Set("Allow", strings.Join(allow, ", "))
	}
	return out
}

// perform does the operation's work.
func (c *Cloud) perform(in *call) reply {
	in.now = c.now()
	body, err := c.checkedServe(in)
	out := jsonReply(in.operation.success, body)
	if err != nil {
		out = c.errorReply(in, err)
	}
	if in.operation.service == serviceIAM {
		out.header.Set("Transaction-Id", in.transaction)
	}
	return c.dated(out)
}

// checkedServe lets the operation serve a request that, beyond IAM, bears a good token, and in
// Secrets Manager is of a bearable size.
func (c *Cloud) checkedServe(in *call) (any, error) {
	if in.operation.service != serviceIAM && in.refused != nil {
		return nil, fail(http.StatusUnauthorized, "unauthorized", "Authentication failed: "+in.refused.Error()+".")
	}
	if in.operation.service != serviceSecretsManager && in.operation.service != serviceAPIKeys {
		return in.operation.serve(c, in)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.tooLarge {
		return nil, c.tooLarge("body")
	}
	return in.operation.serve(c, in)
}

// dated sets the Date header by the cloud's clock.
func (c *Cloud) dated(out reply) reply {
	if out.header == nil {
		out.header = http.Header{}
	}
	out.header.Set("Date", c.now().UTC().Format(http.TimeFormat))
	return out
}

// wait lets d pass, or less when the caller gives up.
func wait(r *http.Request, d time.Duration) error {
	if d == 0 {
		return r.Context().Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.Context().Done():
		return r.Context().Err()
	}
}
