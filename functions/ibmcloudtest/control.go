package ibmcloudtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ofControl reports whether a path belongs to the control interface and not to IBM Cloud. The control
// interface needs no authorization; [IsLocal] protects it. scripts/sandbox/README.md explains it.
func ofControl(path string) bool {
	return path == "/" || strings.HasPrefix(path+"/", "/_sandbox/")
}

// controlPaths is a message that lists the paths of the control interface.
func controlPaths() string {
	var paths []string
	for _, o := range operations {
		if o.service == serviceControl && len(o.path) > 1 {
			paths = append(paths, "/"+strings.Join(o.path, "/"))
		}
	}
	return "The control interface has " + strings.Join(slices.Compact(paths), ", ") + "."
}

// IsLocal reports whether a request to a server on this machine comes from a program, or from a page of the
// server itself, and not from a foreign web page, which a browser lets send requests to loopback. A foreign
// page has an Origin other than the request's own scheme and Host. Or its own name resolves to loopback (DNS
// rebinding), and then it has a foreign Host. The Host must be 127.0.0.1, ::1, localhost or one of hosts,
// with any port or none. A request without Origin, for example of curl, is accepted.
func IsLocal(r *http.Request, hosts ...string) bool {
	u, err := url.Parse("http://" + r.Host)
	if err != nil || u.Host != r.Host || u.Hostname() == "" {
		return false
	}
	isOwn := func(host string) bool { return sameHost(u.Hostname(), host) }
	if !slices.ContainsFunc(slices.Concat(hosts, []string{"127.0.0.1", "::1", "localhost"}), isOwn) {
		return false
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	origins := r.Header["Origin"]
	return len(origins) == 0 || len(origins) == 1 && strings.EqualFold(origins[0], scheme+r.Host)
}

// sameHost compares names regardless of case, and addresses regardless of their notation.
func sameHost(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return strings.EqualFold(a, b) || errX == nil && errY == nil && x == y
}

func (c *Cloud) postFault(in *call) (any, error) {
	var body struct {
		Fault
		Delay string `json:"delay"`
	}
	if err := in.decodeControl(&body); err != nil {
		return nil, err
	}
	f := body.Fault
	if body.Delay != "" {
		var err error
		if f.Delay, err = time.ParseDuration(body.Delay); err != nil {
			return nil, errDelay
		}
	}
	return c.jsonReply(in, http.StatusCreated, f), c.AddFault(f)
}

func (c *Cloud) getSettings(*call) any {
	defer c.lock()()
	return c.settings
}

func (c *Cloud) patchSettings(in *call) (any, error) {
	var change struct {
		TTL *int64 `json:"token_ttl_seconds"`
		Undocumented
	}
	if err := in.decodeControl(&change); err != nil {
		return nil, err
	}
	if change.TTL != nil && (*change.TTL < 1 || *change.TTL > int64(maxTokenTTL/time.Second)) {
		return nil, fmt.Errorf("token_ttl_seconds must be 1 to %d", maxTokenTTL/time.Second)
	}
	if err := c.set(change.Undocumented); err != nil {
		return nil, err
	}
	if change.TTL != nil {
		c.SetTokenTTL(time.Duration(*change.TTL) * time.Second)
	}
	return c.getSettings(in), nil
}

func (c *Cloud) clock(*call) any {
	return object{"now": timestamp(c.now()), "ahead_seconds": int64(time.Duration(c.ahead.Load()) / time.Second)}
}

func (c *Cloud) postClock(in *call) (any, error) {
	var body struct {
		Advance string `json:"advance"`
	}
	if err := in.decodeControl(&body); err != nil {
		return nil, err
	}
	d, _ := time.ParseDuration(body.Advance) // 0 if it is invalid, which advance rejects
	if err := c.advance(d); err != nil {
		return nil, err
	}
	return c.clock(in), nil
}

// A setting is a field of a struct that a request to the control interface can set.
type setting struct {
	name, kind string // in JSON, for example "skip" and "a whole number"
	value      reflect.Value
	allowed    []string // from the tag "allowed", the default first; empty without such a tag
}

// settingsOf lists the settings of the struct that v points to.
func settingsOf(v any) (list []setting) {
	kinds := map[reflect.Kind]string{reflect.String: "a string", reflect.Map: "an object of strings"}
	value := reflect.ValueOf(v).Elem()
	for _, f := range reflect.VisibleFields(value.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name == "-" {
			continue
		}
		kind := kinds[f.Type.Kind()]
		if kind == "" {
			kind = "a whole number"
		}
		list = append(list, setting{name, kind, value.FieldByIndex(f.Index), listOf(f.Tag.Get("allowed"))})
	}
	return list
}

// decodeControl reads the body, one JSON object, into the struct that v points to. Unknown fields are errors.
// An error names the field and the type that it must have. It repeats no value, and names no type of Go.
func (in *call) decodeControl(v any) error {
	fields := settingsOf(v)
	var names []string
	for _, f := range fields {
		names = append(names, f.name+" ("+f.kind+")")
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf(format+"; the fields are "+strings.Join(names, ", "), args...)
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(in.body, &object) != nil || object == nil {
		return wrong("the body must be one JSON object")
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		i := slices.IndexFunc(fields, func(f setting) bool { return f.name == name })
		if i < 0 {
			return wrong("unknown field %q", name)
		}
		if json.Unmarshal(object[name], fields[i].value.Addr().Interface()) != nil {
			return wrong("%s must be %s", name, fields[i].kind)
		}
	}
	return nil
}

// maxShown limits how much of a path is logged, in bytes: any web page can have a browser request long paths.
const maxShown = 256

// A Request is an entry of the request log. It holds no secret: no header, query or body, and no API
// key or token in the method and path.
type Request struct {
	At       time.Time `json:"at"`       // when it arrived
	Op       string    `json:"op"`       // the name of an operation, "" for a path or method without one
	Method   string    `json:"method"`   //
	Path     string    `json:"path"`     // the first 256 bytes
	Status   int       `json:"status"`   // 0 when it was never answered
	Identity string    `json:"identity"` // whose key or token it had, "" if unknown
}

func (c *Cloud) logRequest(r Request) {
	defer c.lock()()
	if c.requests = append(c.requests, r); len(c.requests) > 2*c.maxRequests { // drop many at once, which is cheaper
		c.requests = slices.Clone(c.requests[len(c.requests)-c.maxRequests:])
	}
}

// Requests returns the requests to the services, in the order in which they ended. It omits those to the
// control interface.
func (c *Cloud) Requests() []Request {
	defer c.lock()()
	return append([]Request{}, c.requests[max(0, len(c.requests)-c.maxRequests):]...)
}

func (c *Cloud) ClearRequests() {
	defer c.lock()()
	c.requests = nil
}

// shownPath is the beginning of a path, or of a method, for the log. Segments that are an API key or look like
// a token are replaced, because a caller that mixes up its arguments would write them into the log.
func (c *Cloud) shownPath(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, "eyJ") || len(segment) == 44 && c.keyOwner(segment) != nil {
			segments[i] = "REDACTED"
		}
	}
	path = strings.Join(segments, "/")
	return strings.ToValidUTF8(strings.Clone(path[:min(len(path), maxShown)]), "")
}

//go:embed page.html
var pageHTML []byte

// pagePolicy allows the page its own script and style, by their hashes, and requests to its own origin. Trusted
// Types prevent that the script turns text into HTML.
var pagePolicy = "default-src 'none'; connect-src 'self'; img-src data:; script-src " + pageHash("script") + "; style-src " + pageHash("style") +
	"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// pageHash is the hash of an element of the page, in the notation of a Content-Security-Policy.
func pageHash(element string) string {
	_, rest, opened := bytes.Cut(pageHTML, []byte("<"+element+">"))
	content, _, closed := bytes.Cut(rest, []byte("</"+element+">"))
	must(opened && closed, "page.html has no <%s>", element)
	sum := sha256.Sum256(content)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// page is the live page. It reads /_sandbox/state once a second.
func (c *Cloud) page(in *call) any {
	out := c.reply(in, http.StatusOK, "text/html; charset=utf-8", pageHTML)
	for name, value := range map[string]string{
		"Content-Security-Policy": pagePolicy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
	} {
		out.header.Set(name, value)
	}
	return out
}

// A storedToken is what may be shown of a token in a version.
type storedToken struct {
	fingerprint string // the first 16 hexadecimal digits of its SHA-256
	expires     time.Time
}

var tokenForm = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

// tokenIn returns the token of this IAM that a value contains, in any format, or nil. It ignores the metadata.
func (c *Cloud) tokenIn(v *value) *storedToken {
	token := tokenForm.FindString(v.payload + string(v.data))
	if token == "" {
		return nil
	}
	verified, err := c.verify(token)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	return &storedToken{hex.EncodeToString(sum[:8]), time.Unix(verified.ExpiresAt, 0)}
}

// Limits of state.
const (
	stateTokens   = 12  // token secrets, the first
	stateRequests = 200 // requests, the newest
)

// state is everything that the page shows. It holds no secret: it omits the headers and bodies of faults.
func (c *Cloud) state(in *call) any {
	faults, requests, out := c.Faults(), c.Requests(), c.clock(in).(object)
	for i := range faults {
		faults[i].Headers, faults[i].Body, faults[i].ContentType = nil, "", ""
	}
	defer c.lock()()
	secrets := inOrder(c.secrets, func(s *secret) bool {
		return s.groupID == c.tokenGroup.id || slices.ContainsFunc(s.versions, func(v *version) bool { return v.token != nil })
	})
	out["token_ttl_seconds"], out["environment_file"] = c.settings.TokenTTL, c.envFile
	out["tokens"], out["tokens_total"] = rendered(secrets[:min(len(secrets), stateTokens)], c.tokenState), len(secrets)
	out["faults"], out["requests"] = faults, requests[max(0, len(requests)-stateRequests):]
	return out
}

// tokenState is what the page shows of a token secret. The caller holds c.mu.
func (c *Cloud) tokenState(s *secret) object {
	versions := []object{}
	for _, v := range slices.Backward(s.versions) {
		if v.token != nil {
			by := cmp.Or(c.identities[v.by], &identity{})
			versions = append(versions, object{"id": v.id, "created_at": timestamp(v.at), "created_by": cmp.Or(by.class, c.shown(by.name)),
				"fingerprint": v.token.fingerprint, "expires_at": timestamp(v.token.expires)})
		}
	}
	return object{"secret_id": s.id, "name": c.shown(s.name), "valid": s.current().token != nil, "versions": versions}
}

// shown is the name, or "REDACTED" if somebody used an API key as a name. The caller holds c.mu.
func (c *Cloud) shown(name string) string {
	if c.keys[name] != nil {
		return "REDACTED"
	}
	return name
}
