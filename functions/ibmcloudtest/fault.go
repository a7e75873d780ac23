package ibmcloudtest

import (
	"cmp"
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
	DropBefore = "before" // the operation is not carried out
	DropAfter  = "after"  // the operation is carried out, but its answer is lost
)

// A Fault makes an operation misbehave.
//
// If several faults match a request, the oldest applies. A fault that still has a Skip counts it down
// and leaves the request to the next fault. A fault applies in this order:
//
//  1. With DropAfter the operation is carried out.
//  2. Delay passes. If the caller gives up meanwhile, nothing more is done.
//  3. The connection is dropped, if Drop says so.
//  4. Case or Status is answered, and the operation is not carried out. If neither is given, the
//     operation is carried out and its real answer is sent, with Headers added.
type Fault struct {
	Op          string            `json:"op"`                     // the name of an operation, or OpAny
	Identity    string            `json:"identity,omitempty"`     // whose key or token the request has; if empty, anyone's
	Skip        int               `json:"skip,omitempty"`         // how many matching requests to let through first
	Times       int               `json:"times,omitempty"`        // how often it applies; if 0, until cleared
	Case        string            `json:"case,omitempty"`         // the name of a published answer, see CasesOf; excludes Status and Body
	Status      int               `json:"status,omitempty"`       // 200 to 599; if 0, the real answer
	Headers     map[string]string `json:"headers,omitempty"`      // added to the answer, also to the real one
	ContentType string            `json:"content_type,omitempty"` // of Body; if empty, application/json
	Body        string            `json:"body,omitempty"`         // sent unchanged; needs a Status
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

// validate returns an error that says what is wrong with the fault and which values are allowed.
func (f *Fault) validate() error {
	names, identities := operationNames(), strings.Join(identityNames, ", ")
	hasBody := f.Body != "" || f.ContentType != ""
	for _, rule := range []struct {
		broken bool
		says   string
	}{
		{!slices.Contains(names, f.Op), "op must be one of " + strings.Join(names, ", ")},
		{f.Identity != "" && !slices.Contains(identityNames, f.Identity), "identity must be one of " + identities + ", or absent for any"},
		{f.Skip < 0, "skip must be 0 or more"},
		{f.Times < 0, "times must be 1 or more, or 0 for until cleared"},
		{f.Status != 0 && (f.Status < 200 || f.Status > 599), "status must be 200 to 599, or 0 for the real answer"},
		{f.Delay < 0, errDelay.Error()},
		{f.Drop != "" && f.Drop != DropBefore && f.Drop != DropAfter, "drop must be before or after, or absent"},
		{f.Case != "" && (f.Status != 0 || hasBody), "case stands in place of status, content_type and body: leave them out, or leave case out"},
		{f.Drop != "" && f.answers(), "drop leaves the request unanswered: it allows no status and no case"},
		{!f.answers() && !hasBody && f.Drop == "" && f.Delay == 0 && len(f.Headers) == 0, "the fault changes nothing: give case, status, drop, delay or headers"},
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

// validateHeaders rejects headers that HTTP does not allow, and Content-Length, which follows from the body.
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

// clone copies the fault, so that the cloud and its caller share no map.
func (f Fault) clone() Fault {
	f.Headers = maps.Clone(f.Headers)
	return f
}

// AddFault adds f behind the faults that were added before. An error names the field that is wrong and its
// allowed values.
func (c *Cloud) AddFault(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	defer c.lock()()
	c.faults = append(c.faults, f.clone())
	return nil
}

func (c *Cloud) ClearFaults() {
	defer c.lock()()
	c.faults = nil
}

// Faults returns the active faults, oldest first, with what is left of their Skip and Times.
func (c *Cloud) Faults() []Fault {
	defer c.lock()()
	return rendered(c.faults, Fault.clone)
}

// takeFault returns the fault that applies to a request, if there is one, and counts down Skip and Times.
func (c *Cloud) takeFault(in *call) (f Fault, found bool) {
	defer c.lock()()
	for i := range c.faults {
		f := &c.faults[i]
		switch {
		case f.Op != OpAny && f.Op != in.operation.name, f.Identity != "" && f.Identity != in.class():
			continue
		case f.Skip > 0:
			f.Skip--
			continue
		}
		applied := *f
		if f.Times == 1 {
			c.faults = slices.Delete(c.faults, i, i+1)
		} else if f.Times > 1 {
			f.Times--
		}
		return applied, true
	}
	return Fault{}, false
}

// answerWithFaults is perform, changed by the fault that applies, if there is one.
func (c *Cloud) answerWithFaults(in *call) (out reply, err error) {
	f, found := c.takeFault(in)
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

// A Case is an answer that IBM publishes, under a name for [Fault]. The codes come from IBM's pages and from
// reports of IBM's users, so a program should rely on the status.
type Case struct {
	Name    string
	Status  int
	Code    string // at IAM errorCode, elsewhere the code of the first error; if empty, the body is an HTML page
	Message string // "{apikey}" is replaced by the key of the request, here and in Details
	Details string // errorDetails at IAM; often empty
	Of      string // the operations or services that can answer so, separated by ", "
}

const (
	everywhere = "each operation"
	beyondIAM  = "access groups, Secrets Manager, Logs Routing"
)

var serviceNames = map[service]string{
	serviceAPIKeys: "API keys", serviceAccess: "access groups", serviceSecretsManager: "Secrets Manager", serviceLogsRouting: "Logs Routing",
}

// cases are all published answers. A test compares the table in scripts/sandbox/README.md with them.
var cases = []Case{
	{"key_unknown", 400, "BXNIM0415E", "Provided API key could not be found.", "", "iam.token"},
	{"key_unknown_401", 401, "BXNIM0415E", "Provided API key could not be found.", "", "iam.token"},
	{"key_repeated", 400, "BXNIM0415E", "Provided API key {apikey} could not be found.", "The API key {apikey} is unknown.", "iam.token"},
	{"key_disabled", 400, "BXNIM0462E", "Provided API key is disabled.", "", "iam.token"},
	{"key_disabled_401", 401, "BXNIM0462E", "Provided API key is disabled.", "", "iam.token"},
	{"property_missing", 400, "BXNIM0109E", "Property missing or empty: apikey.", "", "iam.token"},
	{"property_invalid", 400, "BXNIM0106E", "Property apikey has an invalid value.", "", "iam.token"},
	{"invalid_token", 400, "BXNIM0407E", "Provided token is invalid.", "", "iam.token"},
	{"invalid_token_401", 401, "BXNIM0407E", "Provided token is invalid.", "", "iam.token"},
	{"refresh_token_invalid", 400, "BXNIM0408E", "Provided refresh_token is invalid.", "", "iam.token"},
	{"user_left", 400, "BXNIM0410E", "Provided user not found or active.", "The user is not a member of the account.", "iam.token"},
	{"user_suspended", 401, "BXNIM0436E", "User is suspended in the account.", "", "iam.token"},
	{"session_gone", 400, "BXNIM0439E", "Session not found.", "", "iam.token"},
	{"address_not_allowed", 401, "BXNIM0430E", "User login from given IP address is not permitted.", "", "iam.token"},
	{"profile_conditions", 400, "BXNIM0398E", "The trusted profile cannot be used by this compute resource.",
		"None of the conditions of the trusted profile fits the compute resource token.", "iam.token"},

	{"invalid_token", 401, "unauthorized", "The provided access token is invalid or has expired.", "", beyondIAM},
	{"invalid_token", 401, "invalid_access_token", "The provided access token is invalid.", "", "API keys"},
	{"denied", 403, "forbidden", "The caller lacks the permission for this action.", "", beyondIAM},
	{"denied", 403, "forbidden", "You are not authorized to use this API.", "The action iam-identity.apikey is missing.", "API keys"},
	{"context_restriction", 403, "forbidden", "The request is denied by a context-based restriction.", "", everywhere},
	{"not_found", 404, "not_found", "The requested resource was not found.", "",
		"apikeys.get, apikeys.details, apikeys.update, apikeys.delete, serviceids"},
	{"not_found", 404, "not_found", "The requested resource was not found.", "", "Secrets Manager"},
	{"version_locked", 412, "secrets-manager.Error07012", "The requested action can't be completed because the secret version is locked.", "",
		"versions.create, versions.get, secrets.get, secrets.delete"},
	{"conflict", 409, "conflict", "The API key was changed by someone else, or is locked.", "", "apikeys.update, apikeys.delete, apikeys.disable"},
	{"already_exists", 409, "already_exists", "A secret with the same name already exists.", "", "secrets.create, secrets.patch, groups"},
	{"too_large", 413, "too_large", "The payload is too large.", "", "secrets.create, versions.create"},

	{"network_rule", 403, "", "Forbidden", "", everywhere},
	{"rate_limited", 429, "too_many_requests", "The rate limit is exceeded.", "", everywhere},
	{"server_error", 500, "", "Internal Server Error", "", everywhere},
	{"bad_gateway", 502, "", "Bad Gateway", "", everywhere},
	{"unavailable", 503, "service_unavailable", "The service is temporarily unavailable.", "", everywhere},
	{"gateway_timeout", 504, "", "Gateway Timeout", "", everywhere},
}

func Cases() []Case { return slices.Clone(cases) }

// CasesOf returns the cases that fit an operation; for [OpAny], those that fit every operation.
func CasesOf(op string) []Case {
	return slices.DeleteFunc(Cases(), func(c Case) bool { return !c.fits(op) })
}

func (c *Case) fits(op string) bool {
	if op == OpAny || c.Of == everywhere {
		return c.Of == everywhere
	}
	of := strings.Split(c.Of, ", ")
	return slices.Contains(of, op) || !slices.ContainsFunc(operations, func(o *operation) bool {
		return o.name == op && !slices.Contains(of, serviceNames[o.service])
	})
}

// caseNamed returns the case of that name that fits the operation. The error lists the cases that fit.
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

// published returns the first case of that name as an error.
func published(name string) *apiError {
	i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == name })
	return &apiError{status: cases[i].Status, code: cases[i].Code, message: cases[i].Message, details: cases[i].Details}
}

// caseReply renders a case in the JSON of the call's service.
func (c *Cloud) caseReply(in *call, of Case) (out reply) {
	if of.Code == "" {
		page := fmt.Sprintf("<html>\n<head><title>%d %s</title></head>\n<body><h1>%[1]d %[2]s</h1></body>\n</html>\n", of.Status, of.Message)
		out = c.reply(in, of.Status, "text/html", []byte(page))
	} else {
		key := strings.NewReplacer("{apikey}", in.form.Get("apikey"))
		out = c.errorReply(in, &apiError{status: of.Status, code: of.Code, message: key.Replace(of.Message), details: key.Replace(of.Details)})
	}
	if of.Status == http.StatusTooManyRequests {
		out.header.Set("Retry-After", "1")
	}
	return out
}

// caseList renders the cases for the control interface, with the operations that each fits.
func (c *Cloud) caseList(*call) any {
	return rendered(cases, func(of Case) object {
		fits := slices.DeleteFunc(operationNames(), func(op string) bool { return !of.fits(op) })
		slices.Sort(fits)
		return object{"name": of.Name, "status": of.Status, "answer": strings.TrimSpace(of.Code + " " + of.Message), "ops": fits}
	})
}
