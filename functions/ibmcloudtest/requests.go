package ibmcloudtest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// maxBody bounds a request's body, in bytes: an arbitrary secret of 1,000,000 characters fits however
// it is escaped.
const maxBody = 8 << 20

// A call is one request to an operation.
type call struct {
	request     *http.Request
	operation   *operation
	params      []string // path parameters, in order
	transaction string   // the request's Transaction-Id, or a new one
	body        []byte
	tooLarge    bool       // the body went past maxBody
	unreadable  *apiError  // why the body cannot be read, nil if it can
	form        url.Values // of IAM's token endpoint
	caller      *identity  // whose key or token the request bears, nil if unknown
	refused     error      // why the bearer token is not accepted
	now         time.Time  // when the operation is carried out

	// What the path names; nil if it names none.
	secret  *secret
	version *version
	group   *group
	key     *apiKey // of the operations on API keys

	serviceID *identity // of those on service ids
}

// newCall reads the request's body and finds out whose it is.
func (c *Cloud) newCall(r *http.Request, found *operation, params []string) (*call, error) {
	in := &call{request: r, operation: found, params: params, transaction: r.Header.Get("Transaction-Id")}
	if in.transaction == "" {
		in.transaction = uuid.NewString()
	}
	if err := in.readBody(); err != nil {
		return nil, err
	}
	if found.service == serviceIAM {
		if in.unreadable != nil {
			in.unreadable.code = "BXNIM0106E"
		}
		in.form, _ = url.ParseQuery(string(in.body))
		in.caller = c.grantee(in.form)
		return in, nil
	}
	in.caller, in.refused = c.bearerOf(r)
	return in, nil
}

// readBody reads the body and decodes it, up to maxBody bytes each, as IBM's clients can send it: as it is, or gzip. An error
// means that the caller is gone.
func (in *call) readBody() error {
	r := in.request
	if r.Body == nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return err
	}
	encoding := strings.ToLower(strings.Join(r.Header.Values("Content-Encoding"), ","))
	switch {
	case len(body) == 0, encoding == "", encoding == "identity":
	case encoding == "gzip":
		zipped, err := gzip.NewReader(bytes.NewReader(body[:min(len(body), maxBody)]))
		if err == nil {
			body, err = io.ReadAll(io.LimitReader(zipped, maxBody+1))
		}
		if err != nil {
			in.unreadable = badRequest("The body is not what its Content-Encoding says, gzip.")
		}
	default:
		in.unreadable = fail(http.StatusUnsupportedMediaType, "unsupported_media_type", "The Content-Encoding must be gzip or none.")
	}
	in.tooLarge = len(body) > maxBody
	in.body = body[:min(len(body), maxBody)]
	return nil
}

// bearerOf returns whose token the request bears and why that token is refused, if it is.
func (c *Cloud) bearerOf(r *http.Request) (*identity, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, errNoToken
	}
	id, _, err := c.bearer(token)
	return id, err
}

// class is the name under which faults and the request log know the caller, "" if unknown.
func (in *call) class() string {
	if in.caller == nil {
		return ""
	}
	return in.caller.class
}

// mediaType is the request's content type without parameters, in lower case.
func (in *call) mediaType() string {
	mediaType, _, _ := mime.ParseMediaType(in.request.Header.Get("Content-Type"))
	return mediaType
}

// decode reads the body, one JSON object of the given media type, into v. Only the listed fields
// may occur, and those marked with "!" must.
func (in *call) decode(v any, mediaType string, fields ...string) error {
	if in.mediaType() != mediaType {
		return fail(http.StatusUnsupportedMediaType, "unsupported_media_type", "The content type must be "+mediaType+".")
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(in.body, &object); err != nil || object == nil {
		return badRequest("The body must be a JSON object.")
	}
	known := map[string]bool{}
	for _, field := range fields {
		name, required := strings.CutSuffix(field, "!")
		known[name] = true
		if required && isNull(object[name]) {
			return badField(name, "is required")
		}
	}
	for name := range object {
		if !known[name] {
			return badField(name, "is not a property of this request")
		}
	}
	if err := json.Unmarshal(in.body, v); err != nil {
		return badRequest("The body has a property of the wrong type.")
	}
	return nil
}

// href is an absolute URL of the request's path with another query.
func (in *call) href(query url.Values) string {
	r := in.request
	u := url.URL{Scheme: "http", Host: host(r), Path: r.URL.Path, RawQuery: query.Encode()}
	if r.TLS != nil || r.URL.Scheme == "https" {
		u.Scheme = "https"
	}
	return u.String()
}

// host is the host that the request names, on a client's request as on a server's.
func host(r *http.Request) string {
	if r.Host != "" {
		return r.Host
	}
	return r.URL.Host
}

// sortBy sorts by a field, descending after "-"; no field leaves the order as it is.
func sortBy[T any](list []T, by string, orders map[string]func(a, b T) int) error {
	if by == "" {
		return nil
	}
	field, descending := strings.CutPrefix(by, "-")
	order, ok := orders[field]
	if !ok {
		return badField("sort", "names no field to sort by")
	}
	slices.SortStableFunc(list, func(a, b T) int {
		if descending {
			return order(b, a)
		}
		return order(a, b)
	})
	return nil
}

// inOrder returns the wanted items in the order in which they were made.
func inOrder[T interface{ order() int }](all map[string]T, wanted func(T) bool) []T {
	list := slices.DeleteFunc(slices.Collect(maps.Values(all)), func(item T) bool { return !wanted(item) })
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(a.order(), b.order()) })
	return list
}

// listOf splits a comma-separated query parameter.
func listOf(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// listed reports whether a query's list names the item; an empty list names everything.
func listed(list []string, item string) bool { return len(list) == 0 || slices.Contains(list, item) }

// maxLimit is the most items that one page holds.
const maxLimit = 1000

// paginate returns the page, with its links, of the items that the query's offset and limit choose.
func paginate[T any](in *call, name string, items []T, defaultLimit int, render func(T) object) (any, error) {
	query := in.request.URL.Query()
	limit, err := queryNumber(query, "limit", defaultLimit, 1, maxLimit)
	if err != nil {
		return nil, err
	}
	offset, err := queryNumber(query, "offset", 0, 0, 1<<31-1)
	if err != nil {
		return nil, err
	}
	at := func(offset int) object {
		query.Set("limit", strconv.Itoa(limit))
		query.Set("offset", strconv.Itoa(offset))
		return object{"href": in.href(query)}
	}
	total := len(items)
	list := []object{}
	for _, item := range items[min(offset, total):min(offset+limit, total)] {
		list = append(list, render(item))
	}
	page := object{name: list, "total_count": total, "limit": limit, "offset": offset, "first": at(0), "last": at(max(total-1, 0) / limit * limit)}
	if offset+limit < total {
		page["next"] = at(offset + limit)
	}
	if offset > 0 {
		page["previous"] = at(max(offset-limit, 0))
	}
	return page, nil
}

// queryNumber reads a whole number of the query, within bounds.
func queryNumber(query url.Values, name string, absent, least, most int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, badField(name, fmt.Sprintf("must be a number from %d to %d", least, most))
	}
	return n, nil
}

const (
	mediaJSON       = "application/json"
	mediaMergePatch = "application/merge-patch+json"
)

// Limits of Secrets Manager, in characters unless they say bytes.
const (
	minName        = 2
	maxSecretName  = 256
	maxGroupName   = 64
	maxDescription = 1024
	maxLabels      = 30
	minLabel       = 2
	maxLabel       = 64
	maxPayload     = 1_000_000
	maxDataBytes   = 512 << 10
	maxMetaBytes   = 10 << 10
)

// nameForm is the API reference's pattern for a secret's name.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_]*(?:_*-*\.*[A-Za-z0-9]*)*[A-Za-z0-9]+$`)

// A rule refuses a property of a request if it is broken.
type rule struct {
	broken bool
	field  string
	must   string
}

// check refuses the first property that breaks a rule.
func check(rules ...rule) error {
	for _, r := range rules {
		if r.broken {
			return badField(r.field, r.must)
		}
	}
	return nil
}

// outside reports whether a text, unless it is absent, has fewer or more characters than it may.
func outside(text *string, least, most int) bool {
	if text == nil {
		return false
	}
	n := utf8.RuneCountInString(*text)
	return n < least || n > most
}

// checkTexts applies the rules for a name, with so many characters at most, and a description; each may be absent.
func checkTexts(name, description *string, longest int) error {
	return check(
		rule{outside(name, minName, longest), "name", fmt.Sprintf("must have %d to %d characters", minName, longest)},
		rule{name != nil && !nameForm.MatchString(*name), "name", "must match " + nameForm.String()},
		rule{outside(description, 0, maxDescription), "description", fmt.Sprintf("must have at most %d characters", maxDescription)},
	)
}

// check applies the rules for names, texts, labels, metadata, dates and values. The caller holds c.mu.
func (c *Cloud) check(p *secretPrototype, now time.Time) error {
	if err := checkTexts(p.Name, p.Description, maxSecretName); err != nil {
		return err
	}
	badLabel := func(label string) bool { return outside(&label, minLabel, maxLabel) }
	items, isObject := members(p.Data)
	err := check(
		rule{len(p.Labels) > maxLabels, "labels", fmt.Sprintf("must be at most %d", maxLabels)},
		rule{slices.ContainsFunc(p.Labels, badLabel), "labels", fmt.Sprintf("must have %d to %d characters each", minLabel, maxLabel)},
		rule{!isObjectOrNull(p.CustomMetadata), "custom_metadata", "must be a JSON object"},
		rule{!isObjectOrNull(p.VersionCustomMetadata), "version_custom_metadata", "must be a JSON object"},
		rule{p.ExpirationDate != nil && !p.ExpirationDate.After(now), "expiration_date", "must be in the future"},
		rule{p.Payload != nil && *p.Payload == "", "payload", "must not be empty"},
		rule{!isNull(p.Data) && (!isObject || items == 0), "data", "must be a JSON object with at least one item"},
	)
	switch {
	case err != nil:
		return err
	case len(p.CustomMetadata) > maxMetaBytes:
		return c.tooLarge("custom_metadata")
	case len(p.VersionCustomMetadata) > maxMetaBytes:
		return c.tooLarge("version_custom_metadata")
	case outside(p.Payload, 0, maxPayload):
		return c.tooLarge("payload")
	case len(p.Data) > maxDataBytes:
		return c.tooLarge("data")
	}
	return nil
}

// tooLarge and duplicate answer with the status that the settings choose. The caller holds c.mu.
func (c *Cloud) tooLarge(field string) *apiError {
	e := badField(field, "is too large")
	e.status = c.settings.TooLarge
	return e
}

func (c *Cloud) duplicate(what string) *apiError {
	return fail(c.settings.Duplicate, "already_exists", "A "+what+" with the same name already exists.")
}

// destroyed answers a change to a secret past its expiration date.
func (c *Cloud) destroyed() *apiError {
	return fail(c.settings.Destroyed, "destroyed", "The requested action can't be completed because the secret is destroyed.")
}

// isNull reports whether a JSON value is absent or null.
func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func isObjectOrNull(raw json.RawMessage) bool {
	_, isObject := members(raw)
	return isObject || isNull(raw)
}

// members counts the members of a JSON object; ok is false for any other value.
func members(raw json.RawMessage) (n int, ok bool) {
	var object map[string]json.RawMessage
	err := json.Unmarshal(raw, &object)
	return len(object), err == nil && object != nil
}

// deref is a property of a request, "" if it is absent.
func deref(s *string) (text string) {
	assign(&text, s)
	return text
}

// assign sets a field to a property of a request, unless that is absent.
func assign[T any](field, property *T) {
	if property != nil {
		*field = *property
	}
}
