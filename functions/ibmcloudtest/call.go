package ibmcloudtest

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
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
	form        url.Values // of IAM's token endpoint
	caller      *identity  // whose key or token the request bears, nil if unknown
	refused     error      // why the bearer token is not accepted
	now         time.Time  // when the operation is carried out
}

// newCall reads the request's body and finds out whose it is.
func (c *Cloud) newCall(r *http.Request, found *operation, params []string) (*call, error) {
	in := &call{request: r, operation: found, params: params, transaction: r.Header.Get("Transaction-Id")}
	if in.transaction == "" {
		in.transaction = newUUID()
	}
	if r.Body != nil {
		body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err != nil {
			return nil, err
		}
		in.tooLarge = len(body) > maxBody
		in.body = body[:min(len(body), maxBody)]
	}
	if found.service == serviceIAM {
		in.form, _ = url.ParseQuery(string(in.body))
		in.caller = c.grantee(in.form)
		return in, nil
	}
	in.caller, in.refused = c.bearerOf(r)
	return in, nil
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
		if value, ok := object[name]; required && (!ok || bytes.Equal(value, []byte("null"))) {
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
