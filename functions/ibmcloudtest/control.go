package ibmcloudtest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// controlPrefix is where the control interface is, without authorization. Its Hosts and Origins are those of [IsLocal].
//
//	POST   /_sandbox/faults    add a Fault: 201, or 400 with the allowed values
//	GET    /_sandbox/faults    the faults that wait
//	DELETE /_sandbox/faults    clear them
//	PATCH  /_sandbox/settings  {"token_ttl_seconds":900} and the fields of Undocumented
//	GET    /_sandbox/settings
//	GET    /_sandbox/clock     {"now","ahead_seconds"}
//	POST   /_sandbox/clock     {"advance":"24h"}: forward by that much
//	GET    /_sandbox/requests  the request log, without secrets
//	DELETE /_sandbox/requests  empty it
//	GET    /_sandbox/state     all that the live page shows, without secrets; the page itself is at /
//	GET    /_sandbox/cases     the published answers that a Fault can name
const controlPrefix = "/_sandbox/"

// ofControl reports whether a path belongs to the control interface and not to IBM Cloud.
func ofControl(path string) bool {
	return path == "/" || path+"/" == controlPrefix || strings.HasPrefix(path, controlPrefix)
}

// IsLocal reports whether a request to a server on this machine can be trusted to come from a program of its user. A web
// page, which any browser lets send requests to loopback, gives itself away in two ways: by an Origin other than the
// request's own scheme and Host, or, where its own name resolves to loopback (DNS rebinding), by its Host. The Host must
// be 127.0.0.1, ::1, localhost or one of hosts, with any port or none. A request without Origin, as curl sends it, passes.
func IsLocal(r *http.Request, hosts ...string) bool {
	u, err := url.Parse("http://" + r.Host)
	if err != nil || u.Host != r.Host || u.Hostname() == "" {
		return false
	}
	right := func(host string) bool { return sameHost(u.Hostname(), host) }
	if !right("127.0.0.1") && !right("::1") && !right("localhost") && !slices.ContainsFunc(hosts, right) {
		return false
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	origins := r.Header["Origin"]
	return len(origins) == 0 || len(origins) == 1 && strings.EqualFold(origins[0], scheme+r.Host)
}

// sameHost compares names without regard to case, and addresses however they are written.
func sameHost(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return strings.EqualFold(a, b) || errX == nil && errY == nil && x == y
}

// controls are the functions of the control interface by name and method. They return the status and body of a good
// answer.
var controls = map[string]map[string]func(c *Cloud, body []byte) (int, any, error){
	"faults": {
		http.MethodGet:    func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.Faults(), nil },
		http.MethodPost:   (*Cloud).postFault,
		http.MethodDelete: func(c *Cloud, _ []byte) (int, any, error) { c.ClearFaults(); return http.StatusNoContent, nil, nil },
	},
	"settings": {
		http.MethodGet:   func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.controlSettings(), nil },
		http.MethodPatch: (*Cloud).patchSettings,
	},
	"clock": {
		http.MethodGet:  func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.clock(), nil },
		http.MethodPost: (*Cloud).postClock,
	},
	"requests": {
		http.MethodGet:    func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.Requests(), nil },
		http.MethodDelete: func(c *Cloud, _ []byte) (int, any, error) { c.ClearRequests(); return http.StatusNoContent, nil, nil },
	},
	"state": {http.MethodGet: func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.state(), nil }},
	"cases": {http.MethodGet: func(*Cloud, []byte) (int, any, error) { return http.StatusOK, caseList(), nil }},
}

func (c *Cloud) control(r *http.Request) reply {
	if r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return page()
	}
	methods, known := controls[strings.TrimPrefix(r.URL.Path, controlPrefix)]
	if !known {
		return jsonReply(http.StatusNotFound, commonError(fail(http.StatusNotFound, "not_found",
			"The control interface has "+controlPrefix+strings.Join(slices.Sorted(maps.Keys(controls)), ", "+controlPrefix)+".")))
	}
	serve := methods[r.Method]
	if serve == nil {
		var others []*operation
		for method := range methods {
			others = append(others, &operation{method: method, service: serviceSecretsManager})
		}
		return c.noOperation(r, others)
	}
	var body []byte
	var err error
	if r.Body != nil {
		body, err = io.ReadAll(io.LimitReader(r.Body, maxBody))
	}
	if err != nil {
		return jsonReply(http.StatusBadRequest, commonError(badRequest("The body could not be read.")))
	}
	status, answer, err := serve(c, body)
	if err != nil {
		return jsonReply(http.StatusBadRequest, commonError(badRequest(err.Error())))
	}
	return jsonReply(status, answer)
}

func (c *Cloud) postFault(body []byte) (int, any, error) {
	var f Fault
	var delay string
	err := decodeControl(body,
		field{"op", &f.Op, aString}, field{"identity", &f.Identity, aString},
		field{"skip", &f.Skip, aNumber}, field{"times", &f.Times, aNumber}, field{"case", &f.Case, aString}, field{"status", &f.Status, aNumber},
		field{"headers", &f.Headers, "an object of strings"}, field{"content_type", &f.ContentType, aString},
		field{"body", &f.Body, aString}, field{"delay", &delay, aString}, field{"drop", &f.Drop, aString})
	if err != nil {
		return 0, nil, err
	}
	if delay != "" {
		if f.Delay, err = time.ParseDuration(delay); err != nil {
			return 0, nil, errDelay
		}
	}
	return http.StatusCreated, f, c.AddFault(f)
}

// controlSettings are the settings as the control interface writes them.
type controlSettings struct {
	TokenTTLSeconds int64 `json:"token_ttl_seconds"`
	Undocumented
}

func (c *Cloud) controlSettings() controlSettings {
	defer c.lock()()
	return controlSettings{int64(c.settings.tokenTTL / time.Second), c.settings.Undocumented}
}

func (c *Cloud) patchSettings(body []byte) (int, any, error) {
	var ttl *int64
	var change Undocumented
	fields := []field{{"token_ttl_seconds", &ttl, aNumber}}
	for _, choice := range change.choices() {
		kind := aString
		if choice.value.CanInt() {
			kind = aNumber
		}
		fields = append(fields, field{choice.name, choice.value.Addr().Interface(), kind})
	}
	if err := decodeControl(body, fields...); err != nil {
		return 0, nil, err
	}
	if ttl != nil && (*ttl < 1 || *ttl > int64(maxTokenTTL/time.Second)) {
		return 0, nil, fmt.Errorf("token_ttl_seconds must be 1 to %d", maxTokenTTL/time.Second)
	}
	if err := c.set(change); err != nil {
		return 0, nil, err
	}
	if ttl != nil {
		c.SetTokenTTL(time.Duration(*ttl) * time.Second)
	}
	return http.StatusOK, c.controlSettings(), nil
}

func (c *Cloud) clock() object {
	return object{"now": timestamp(c.now()), "ahead_seconds": int64(time.Duration(c.ahead.Load()) / time.Second)}
}

func (c *Cloud) postClock(body []byte) (int, any, error) {
	var text string
	if err := decodeControl(body, field{"advance", &text, aString}); err != nil {
		return 0, nil, err
	}
	d, _ := time.ParseDuration(text) // 0 is refused
	if err := c.advance(d); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, c.clock(), nil
}

// A field of a request to the control interface: where its value goes, and what it must be in words.
type field struct {
	name string
	into any
	kind string
}

const (
	aString = "a string"
	aNumber = "a whole number"
)

// decodeControl reads one JSON object that has no other fields than those. The error is in our own words: it names the
// field and what it must be, repeats no value, and shows nothing of how this is written in Go.
func decodeControl(body []byte, fields ...field) error {
	var names []string
	for _, f := range fields {
		names = append(names, f.name+" ("+f.kind+")")
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf(format+"; the fields are "+strings.Join(names, ", "), args...)
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil || object == nil {
		return wrong("the body must be one JSON object")
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			return wrong("unknown field %q", name)
		}
		if json.Unmarshal(object[name], fields[i].into) != nil {
			return wrong("%s must be %s", name, fields[i].kind)
		}
	}
	return nil
}

// maxLogged is the longest path of a [Request]: any web page can have a browser ask for others.
const maxLogged = 256

// A Request is one line of the request log. It holds no secret: no header, query or body, and in
// the method and path no API key or token.
type Request struct {
	At       time.Time `json:"at"`       // when it arrived
	Op       string    `json:"op"`       // the name of an operation, "" for a path or method without one
	Method   string    `json:"method"`   //
	Path     string    `json:"path"`     // the first 256 bytes
	Status   int       `json:"status"`   // 0 when it was never answered
	Identity string    `json:"identity"` // whose key or token it bore, "" if unknown
}

// requestLog keeps the newest requests, in the order in which they ended.
type requestLog struct {
	mu      sync.Mutex
	limit   int       // most requests to keep, 0 for none
	entries []Request // up to twice as many: the oldest go together
}

func (l *requestLog) add(r Request) {
	for _, text := range []*string{&r.Method, &r.Path} {
		*text = strings.ToValidUTF8(strings.Clone((*text)[:min(len(*text), maxLogged)]), "")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries = append(l.entries, r); len(l.entries) > 2*l.limit {
		l.entries = append([]Request(nil), l.newest()...)
	}
}

func (l *requestLog) newest() []Request { return l.entries[max(0, len(l.entries)-l.limit):] }

// Requests returns the requests to the three services in the order in which they ended; those to
// the control interface are not among them.
func (c *Cloud) Requests() []Request {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	return append([]Request{}, c.requests.newest()...)
}

func (c *Cloud) ClearRequests() {
	c.requests.mu.Lock()
	defer c.requests.mu.Unlock()
	c.requests.entries = nil
}

// redactPath replaces path segments that are an API key or look like a token: a caller that mixes
// up its arguments must not write them into the log.
func (c *Cloud) redactPath(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, "eyJ") || len(segment) == 44 && c.keyOwner(segment) != nil {
			segments[i] = "REDACTED"
		}
	}
	return strings.Join(segments, "/")
}
