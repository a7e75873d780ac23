package ibmcloudtest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

const (
	mediaJSON       = "application/json"
	mediaMergePatch = "application/merge-patch+json"
	mediaForm       = "application/x-www-form-urlencoded"
)

// maxBody limits a request's body, in bytes. An arbitrary secret of 1,000,000 characters fits, whatever
// escapes its JSON uses.
const maxBody = 8 << 20

// A call is one request to an operation.
type call struct {
	request     *http.Request
	operation   *operation
	params      []string // path parameters, in order
	query       url.Values
	transaction string // the request's Transaction-Id, or a new one
	body        []byte
	bodyError   *apiError  // why the body cannot be read, nil if it can
	form        url.Values // at IAM: the body
	caller      *identity  // whose key or token the request has, nil if unknown
	tokenError  error      // why the bearer token is not valid, nil if it is
	now         time.Time  // when the operation is carried out

	// What the path names, as authorize finds it; nil if it names none.
	secret    *secret
	version   *version
	group     *group
	key       *apiKey
	serviceID *identity
}

// newCall reads the request's body and determines its caller. It returns an error only if the client is gone.
func (c *Cloud) newCall(r *http.Request, found *operation, params []string) (*call, error) {
	in := &call{request: r, operation: found, params: params, query: r.URL.Query()}
	in.transaction = cmp.Or(r.Header.Get("Transaction-Id"), uuid.NewString())
	if r.Body != nil {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			return nil, err
		}
		in.body, in.bodyError = decoded(body, strings.ToLower(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	}
	if len(in.body) > maxBody {
		c.mu.Lock()
		in.body, in.bodyError = nil, c.tooLarge("body")
		c.mu.Unlock()
	}
	switch found.service {
	case serviceControl:
	case serviceIAM:
		if in.bodyError != nil {
			in.bodyError.code = codeInvalid
		}
		in.form, _ = url.ParseQuery(string(in.body))
		in.caller = c.grantee(in.form)
	default:
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if in.tokenError = errNoToken; strings.EqualFold(scheme, "Bearer") && token != "" {
			in.caller, _, in.tokenError = c.bearer(token)
		}
	}
	return in, nil
}

var errNoToken = errors.New("the request carries no bearer token")

// decoded undoes the Content-Encoding of a body, gzip or none. Of more than maxBody bytes it returns maxBody+1.
func decoded(body []byte, encoding string) ([]byte, *apiError) {
	switch {
	case len(body) == 0, encoding == "", encoding == "identity":
		return body, nil
	case encoding != "gzip":
		return nil, fail(http.StatusUnsupportedMediaType, "unsupported_media_type", "The Content-Encoding must be gzip or none.")
	}
	zipped, err := gzip.NewReader(bytes.NewReader(body))
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(zipped, maxBody+1))
	}
	if err != nil {
		return nil, badRequest("The body is not what its Content-Encoding says, gzip.")
	}
	return body, nil
}

// class is the caller's class, for faults and the request log; "" if the caller is unknown.
func (in *call) class() string {
	if in.caller == nil {
		return ""
	}
	return in.caller.class
}

// wantMedia returns an error if the request has another content type.
func (in *call) wantMedia(mediaType string) error {
	if got, _, _ := mime.ParseMediaType(in.request.Header.Get("Content-Type")); got != mediaType {
		return fail(http.StatusUnsupportedMediaType, "unsupported_media_type", "The content type must be "+mediaType+".")
	}
	return nil
}

// decode reads the body, one JSON object, into v. It may have only the listed fields, which are separated by
// blanks, and must have those that end with "!".
func (in *call) decode(v any, fields string) error {
	mediaType := mediaJSON
	if in.request.Method == http.MethodPatch {
		mediaType = mediaMergePatch
	}
	if err := in.wantMedia(mediaType); err != nil {
		return err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(in.body, &object); err != nil || object == nil {
		return badRequest("The body must be a JSON object.")
	}
	known := map[string]bool{}
	for field := range strings.FieldsSeq(fields) {
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

// A prototype is a request's body that can check itself; the caller of check holds c.mu.
type prototype[P any] interface {
	*P
	check(c *Cloud, in *call) error
}

// withBody makes a handler from a function that takes a checked body. The fields are in the notation of
// [call.decode].
func withBody[P any, Q prototype[P]](serve func(*Cloud, *call, Q) (any, error), fields string) handler {
	return func(c *Cloud, in *call) (any, error) {
		p := Q(new(P))
		err := in.decode(p, fields)
		if err == nil {
			err = p.check(c, in)
		}
		if err != nil {
			return nil, err
		}
		return serve(c, in, p)
	}
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

// host is the host that the request names, whether it comes through Transport or ServeHTTP.
func host(r *http.Request) string { return cmp.Or(r.Host, r.URL.Host) }

// rendered renders each item of a list.
func rendered[T, R any](items []T, render func(T) R) []R {
	list := make([]R, len(items))
	for i, item := range items {
		list[i] = render(item)
	}
	return list
}

// sorted sorts the list by the field in the query's sort, which must be one of fields; "-" before it means
// descending. It compares strings, so times must be written in UTC.
func (in *call) sorted(list []object, fields ...string) error {
	field, descending := strings.CutPrefix(in.query.Get("sort"), "-")
	switch {
	case field == "" && !descending:
		return nil
	case !slices.Contains(fields, field):
		return badField("sort", "names no field to sort by")
	}
	slices.SortStableFunc(list, func(a, b object) int {
		textA, _ := a[field].(string)
		textB, _ := b[field].(string)
		if descending {
			return cmp.Compare(textB, textA)
		}
		return cmp.Compare(textA, textB)
	})
	return nil
}

// inOrder returns the wanted items in the order of their creation.
func inOrder[T interface{ order() int }](all map[string]T, wanted func(T) bool) []T {
	list := slices.DeleteFunc(slices.Collect(maps.Values(all)), func(item T) bool { return !wanted(item) })
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(a.order(), b.order()) })
	return list
}

// A creation says when and by whom something was created. Secrets, versions, groups, keys and locks embed it.
type creation struct {
	sequence int    // its place in the order of all creations
	by       string // iam id
	at       time.Time
}

func (m creation) order() int { return m.sequence }

// newCreation numbers the creation. The caller holds c.mu.
func (c *Cloud) newCreation(by string, at time.Time) creation {
	c.sequence++
	return creation{c.sequence, by, at}
}

// listOf splits a comma-separated list.
func listOf(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
}

// listed reports whether a list from the query has the item; an empty list has every item.
func listed(list []string, item string) bool { return len(list) == 0 || slices.Contains(list, item) }

// number reads a whole number from least to most from the query; absent is its value if it is not there.
func (in *call) number(name string, absent, least, most int) (int, error) {
	text := in.query.Get(name)
	if text == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, badField(name, fmt.Sprintf("must be a number from %d to %d", least, most))
	}
	return n, nil
}

// paginate returns the page of the items that the query's offset and limit select, with links to other pages.
func (in *call) paginate(name string, items []object, defaultLimit int) (any, error) {
	limit, errLimit := in.number("limit", defaultLimit, 1, 1000)
	offset, errOffset := in.number("offset", 0, 0, 1<<31-1)
	if err := cmp.Or(errLimit, errOffset); err != nil {
		return nil, err
	}
	at := func(offset int) object {
		in.query.Set("limit", strconv.Itoa(limit))
		in.query.Set("offset", strconv.Itoa(offset))
		return object{"href": in.href(in.query)}
	}
	total := len(items)
	page := object{name: items[min(offset, total):min(offset+limit, total)], "total_count": total, "limit": limit, "offset": offset,
		"first": at(0), "last": at(max(total-1, 0) / limit * limit)}
	if offset+limit < total {
		page["next"] = at(offset + limit)
	}
	if offset > 0 {
		page["previous"] = at(max(offset-limit, 0))
	}
	return page, nil
}

// identityPage is paginate in the form of IAM Identity Services. The page tokens are offsets; IBM's are opaque.
func (in *call) identityPage(name string, items []object) (any, error) {
	limit, errLimit := in.number("pagesize", 20, 1, 100)
	offset, errOffset := in.number("pagetoken", 0, 0, 1<<31-1)
	if err := cmp.Or(errLimit, errOffset); err != nil {
		return nil, err
	}
	page := object{"offset": offset, "limit": limit, name: items[min(offset, len(items)):min(offset+limit, len(items))]}
	if offset+limit < len(items) {
		in.query.Set("pagetoken", strconv.Itoa(offset+limit))
		page["next"] = in.href(in.query)
	}
	return page, nil
}

// A rule applies to one property of a request.
type rule struct {
	broken bool
	field  string
	must   string // what the rule demands, for example "must not be empty"
}

// check returns an error for the first broken rule.
func check(rules ...rule) error {
	for _, r := range rules {
		if r.broken {
			return badField(r.field, r.must)
		}
	}
	return nil
}

// length is the rule that a text, unless it is nil, has from least to most characters.
func length(field string, text *string, least, most int) rule {
	n := utf8.RuneCountInString(deref(text))
	return rule{text != nil && (n < least || n > most), field, fmt.Sprintf("must have %d to %d characters", least, most)}
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

// deref returns the value of a request's property, "" if it is absent.
func deref(s *string) (text string) {
	assign(&text, s)
	return text
}

// assign sets a field to a request's property, unless that is absent.
func assign[T any](field, property *T) {
	if property != nil {
		*field = *property
	}
}
