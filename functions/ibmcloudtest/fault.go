package ibmcloudtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	case f.Case != "" && (f.Status != 0 || f.Body != "" || f.ContentType != ""):
		return fmt.Errorf("case stands in place of status, content_type and body: leave them out, or leave case out")
	case f.Drop != "" && f.answers():
		return fmt.Errorf("drop leaves the request unanswered: it allows no status and no case")
	case f.Case == "" && f.Status == 0 && (f.Body != "" || f.ContentType != ""):
		return fmt.Errorf("body and content_type need a status: 0 is the real answer")
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

// faultReply is the answer of a fault that has a case or a status.
func (c *Cloud) faultReply(in *call, f *Fault) reply {
	if of, err := caseNamed(f.Case, in.operation.name); err == nil {
		return c.caseReply(in, of)
	}
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
	if f.answers() {
		out = c.dated(c.faultReply(in, f))
	} else {
		out = c.perform(in)
	}
	for name, value := range f.Headers {
		out.header.Set(name, value)
	}
	return out, nil
}

// A Case is an answer that IBM publishes, by a name that a [Fault] can have. Codes are those of IBM's pages and of its
// users' reports: a program must go by the status.
type Case struct {
	Name     string
	Status   int
	Code     string // errorCode at IAM; elsewhere that of the first error. Empty: the body is an HTML page
	Message  string
	Details  string // errorDetails at IAM; often empty. "{apikey}" stands for the key of the request, in Message too
	services []service
	ops      []string // of those services; if empty, all
}

var (
	atIAM            = []service{serviceIAM}
	atAPIKeys        = []service{serviceAPIKeys}
	atSecretsManager = []service{serviceSecretsManager}
	beyondIAM        = []service{serviceAccess, serviceSecretsManager, serviceLogsRouting}
	everywhere       = append(slices.Concat(atIAM, atAPIKeys), beyondIAM...)
	ofToken          = []string{OpIAMToken}
)

// cases is the one list of published answers. The table in scripts/sandbox/README.md is held against it.
var cases = []Case{
	{"key_unknown", 400, "BXNIM0415E", "Provided API key could not be found.", "", atIAM, ofToken},
	{"key_unknown_401", 401, "BXNIM0415E", "Provided API key could not be found.", "", atIAM, ofToken},
	{"key_repeated", 400, "BXNIM0415E", "Provided API key {apikey} could not be found.", "The API key {apikey} is unknown.", atIAM, ofToken},
	{"key_disabled", 400, "BXNIM0462E", "Provided API key is disabled.", "", atIAM, ofToken},
	{"key_disabled_401", 401, "BXNIM0462E", "Provided API key is disabled.", "", atIAM, ofToken},
	{"property_missing", 400, "BXNIM0109E", "Property missing or empty: apikey.", "", atIAM, ofToken},
	{"property_invalid", 400, "BXNIM0106E", "Property apikey has an invalid value.", "", atIAM, ofToken},
	{"invalid_token", 400, "BXNIM0407E", "Provided token is invalid.", "", atIAM, ofToken},
	{"invalid_token_401", 401, "BXNIM0407E", "Provided token is invalid.", "", atIAM, ofToken},
	{"refresh_token_invalid", 400, "BXNIM0408E", "Provided refresh_token is invalid.", "", atIAM, ofToken},
	{"user_left", 400, "BXNIM0410E", "Provided user not found or active.", "The user is not a member of the account.", atIAM, ofToken},
	{"user_suspended", 401, "BXNIM0436E", "User is suspended in the account.", "", atIAM, ofToken},
	{"session_gone", 400, "BXNIM0439E", "Session not found.", "", atIAM, ofToken},
	{"address_not_allowed", 401, "BXNIM0430E", "User login from given IP address is not permitted.", "", atIAM, ofToken},
	{"profile_conditions", 400, "BXNIM0398E", "The trusted profile cannot be used by this compute resource.",
		"None of the conditions of the trusted profile fits the compute resource token.", atIAM, ofToken},

	{"invalid_token", 401, "unauthorized", "The provided access token is invalid or has expired.", "", beyondIAM, nil},
	{"invalid_token", 401, "invalid_access_token", "The provided access token is invalid.", "", atAPIKeys, nil},
	{"denied", 403, "forbidden", "The caller lacks the permission for this action.", "", beyondIAM, nil},
	{"denied", 403, "forbidden", "You are not authorized to use this API.", "The action iam-identity.apikey is missing.", atAPIKeys, nil},
	{"context_restriction", 403, "forbidden", "The request is denied by a context-based restriction.", "", everywhere, nil},
	{"not_found", 404, "not_found", "The requested resource was not found.", "", atAPIKeys, []string{OpAPIKeysGet, OpAPIKeysDetails, "apikeys.update", "apikeys.delete", OpServiceIDs}},
	{"not_found", 404, "not_found", "The requested resource was not found.", "", atSecretsManager, nil},
	{"version_locked", 412, "secrets-manager.Error07012", "The requested action can't be completed because the secret version is locked.", "",
		atSecretsManager, []string{OpVersionsCreate, OpVersionsGet, OpSecretsGet, "secrets.delete"}},
	{"conflict", 409, "conflict", "The API key was changed by someone else, or is locked.", "", atAPIKeys,
		[]string{"apikeys.update", "apikeys.delete", "apikeys.disable"}},
	{"already_exists", 409, "already_exists", "A secret with the same name already exists.", "", atSecretsManager, []string{"secrets.create", "secrets.patch", OpGroups}},
	{"too_large", 413, "too_large", "The payload is too large.", "", atSecretsManager, []string{"secrets.create", OpVersionsCreate}},

	{"network_rule", 403, "", "Forbidden", "", everywhere, nil},
	{"rate_limited", 429, "too_many_requests", "The rate limit is exceeded.", "", everywhere, nil},
	{"server_error", 500, "", "Internal Server Error", "", everywhere, nil},
	{"bad_gateway", 502, "", "Bad Gateway", "", everywhere, nil},
	{"unavailable", 503, "service_unavailable", "The service is temporarily unavailable.", "", everywhere, nil},
	{"gateway_timeout", 504, "", "Gateway Timeout", "", everywhere, nil},
}

func Cases() []Case { return slices.Clone(cases) }

// Of says what the case fits: operations, or services.
func (c *Case) Of() string {
	names := c.ops
	if len(c.services) == len(everywhere) {
		return "each operation"
	}
	if len(names) == 0 {
		for _, s := range c.services {
			names = append(names, serviceNames[s])
		}
	}
	return strings.Join(names, ", ")
}

// CasesOf returns the cases that fit an operation; [OpAny] has those that fit all of them.
func CasesOf(op string) []Case {
	return slices.DeleteFunc(slices.Clone(cases), func(c Case) bool { return !c.fits(op) })
}

func (c *Case) fits(op string) bool {
	known := false
	for _, list := range operations {
		for _, o := range list {
			if op != OpAny && op != o.name {
				continue
			}
			known = true
			if !slices.Contains(c.services, o.service) || len(c.ops) > 0 && !slices.Contains(c.ops, o.name) {
				return false
			}
		}
	}
	return known
}

// caseNamed returns the case of that name that fits the operation. The error lists those that do.
func caseNamed(name, op string) (Case, error) {
	var names []string
	for _, c := range CasesOf(op) {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Case{}, fmt.Errorf("case must be one that fits the op %s: %s", op, strings.Join(names, ", "))
}

// caseReply answers as the service of the call would.
func (c *Cloud) caseReply(in *call, of Case) reply {
	var out reply
	if of.Code == "" {
		page := fmt.Sprintf("<html>\n<head><title>%d %s</title></head>\n<body><h1>%[1]d %[2]s</h1></body>\n</html>\n", of.Status, of.Message)
		out = reply{of.Status, http.Header{"Content-Type": {"text/html"}}, []byte(page)}
	} else {
		repeat := func(text string) string { return strings.ReplaceAll(text, "{apikey}", in.form.Get("apikey")) }
		out = c.errorReply(in, &apiError{status: of.Status, code: of.Code, message: repeat(of.Message), details: repeat(of.Details)})
	}
	if in.operation.service == serviceIAM {
		out.header.Set("Transaction-Id", in.transaction)
	}
	if of.Status == http.StatusTooManyRequests {
		out.header.Set("Retry-After", "1")
	}
	return out
}

// A SlowProxy forwards TCP connections to a server as if it were a round trip away: connecting costs
// one, and every byte half of one in each direction. It counts the connections.
type SlowProxy struct {
	listener    net.Listener
	target      string
	roundTrip   time.Duration
	connections atomic.Int64
}

// NewSlowProxy listens on a free port of the loopback interface, before the server at target.
func NewSlowProxy(target string, roundTrip time.Duration) (*SlowProxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &SlowProxy{listener: listener, target: target, roundTrip: roundTrip}
	go p.serve()
	return p, nil
}

// Addr is where the proxy listens, host:port.
func (p *SlowProxy) Addr() string { return p.listener.Addr().String() }

// Connections is how many connections were made so far.
func (p *SlowProxy) Connections() int { return int(p.connections.Load()) }

// Close stops listening. Connections end with their clients.
func (p *SlowProxy) Close() error { return p.listener.Close() }

func (p *SlowProxy) serve() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.connections.Add(1)
			go p.forward(client)
		}
	}
}

// forward carries one connection. The client's kernel connects at once; what it sends before the
// connection would be there waits for it.
func (p *SlowProxy) forward(client net.Conn) {
	connected := time.Now().Add(p.roundTrip)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	go carry(server, client, connected, p.roundTrip/2)
	carry(client, server, connected, p.roundTrip/2)
}

// A segment is what was read at once, with when it arrives.
type segment struct {
	bytes []byte
	due   time.Time
}

// carry copies from one connection to another, each byte late, and closes both at the end.
func carry(to, from net.Conn, connected time.Time, late time.Duration) {
	flight := make(chan segment, 1024)
	go func() {
		defer close(flight)
		for {
			buffer := make([]byte, 16<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				flight <- segment{buffer[:n], time.Now().Add(max(0, time.Until(connected)) + late)}
			}
			if err != nil {
				return
			}
		}
	}()
	for s := range flight {
		time.Sleep(time.Until(s.due))
		if _, err := to.Write(s.bytes); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range flight { // lets the reader end
	}
}
