package ibmcloudtest

import (
	"strings"
	"sync"
	"time"
)

// A Request is one line of the request log. It holds no secret: no header, query or body, and in
// the path no API key or token.
type Request struct {
	At       time.Time `json:"at"`       // when it arrived
	Op       string    `json:"op"`       // one of the Op constants, "" for a path or method without one
	Method   string    `json:"method"`   //
	Path     string    `json:"path"`     //
	Status   int       `json:"status"`   // 0 when it was never answered
	Identity string    `json:"identity"` // whose key or token it bore, "" if unknown
}

// requestLog keeps the newest requests, in the order in which they ended.
type requestLog struct {
	mu      sync.Mutex
	limit   int // most requests to keep, 0 for none
	entries []Request
	oldest  int // index of the oldest entry once the log is full
}

func (l *requestLog) add(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.limit == 0:
	case len(l.entries) < l.limit:
		l.entries = append(l.entries, r)
	default:
		l.entries[l.oldest] = r
		l.oldest = (l.oldest + 1) % l.limit
	}
}

// Requests returns the requests to the three services in the order in which they ended; those to
// the control interface are not among them.
func (c *Cloud) Requests() []Request {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	l := &c.requests
	return append(append([]Request{}, l.entries[l.oldest:]...), l.entries[:l.oldest]...)
}

// ClearRequests empties the request log.
func (c *Cloud) ClearRequests() {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	c.requests.entries, c.requests.oldest = nil, 0
}

// redactPath replaces path segments that are an API key or look like a token: a caller that mixes
// up its arguments must not write them into the log.
func (c *Cloud) redactPath(path string) string {
	if !strings.Contains(path, "/eyJ") && !c.namesKey(path) {
		return path
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, "eyJ") || c.namesKey("/"+segment) {
			segments[i] = "REDACTED"
		}
	}
	return strings.Join(segments, "/")
}

// namesKey tells whether a segment of the path is an API key.
func (c *Cloud) namesKey(path string) bool {
	for segment := range strings.SplitSeq(path, "/") {
		if len(segment) == 44 && c.keyOwner(segment) != nil {
			return true
		}
	}
	return false
}
