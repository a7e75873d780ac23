package ibmcloudtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"regexp"
	"slices"
	"time"
)

//go:embed page.html
var pageHTML []byte

// pagePolicy allows the page its own script and style, by their hashes, and requests to its own origin. Trusted Types
// keep the script from making HTML of text.
var pagePolicy = "default-src 'none'; connect-src 'self'; img-src data:; script-src " + pageHash("script") + "; style-src " + pageHash("style") +
	"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// pageHash is the hash of an element of the page, as a Content-Security-Policy has it.
func pageHash(element string) string {
	_, rest, opened := bytes.Cut(pageHTML, []byte("<"+element+">"))
	content, _, closed := bytes.Cut(rest, []byte("</"+element+">"))
	must(opened && closed, "page.html has no <%s>", element)
	sum := sha256.Sum256(content)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// page is the live page. It reads /_sandbox/state once a second.
func (c *Cloud) page(in *call) (any, error) {
	out := c.reply(in, http.StatusOK, "text/html; charset=utf-8", pageHTML)
	for name, value := range map[string]string{
		"Content-Security-Policy": pagePolicy, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
	} {
		out.header.Set(name, value)
	}
	return out, nil
}

// A storedToken is what may be shown of a token that a version holds or held.
type storedToken struct {
	fingerprint string // the first 16 hexadecimal digits of its SHA-256
	expires     time.Time
}

var tokenForm = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+`)

// tokenIn returns the token of this IAM in a value, in whatever format it is stored, or nil. What metadata say does not count.
func (c *Cloud) tokenIn(v *value) *storedToken {
	token := tokenForm.FindString(v.payload + string(v.data))
	if token == "" {
		return nil
	}
	verified, err := c.verified.verify(token)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	return &storedToken{hex.EncodeToString(sum[:8]), time.Unix(verified.ExpiresAt, 0)}
}

// Limits of a state.
const (
	stateTokens   = 12  // secrets
	stateRequests = 200 // the newest
)

// state is all that the page shows. It holds no secret: of faults neither headers nor body.
func (c *Cloud) state(*call) (any, error) {
	faults, requests, out := c.Faults(), c.Requests(), c.clock()
	for i := range faults {
		faults[i].Headers, faults[i].Body, faults[i].ContentType = nil, "", ""
	}
	defer c.lock()()
	secrets := inOrder(c.secrets, func(s *secret) bool {
		return s.groupID == c.tokenGroup.id || slices.ContainsFunc(s.versions, func(v *version) bool { return v.token != nil })
	})
	out["token_ttl_seconds"], out["environment_file"] = int64(c.settings.tokenTTL/time.Second), c.envFile
	out["tokens"], out["tokens_total"] = rendered(secrets[:min(len(secrets), stateTokens)], c.tokenState), len(secrets)
	out["faults"], out["requests"] = faults, requests[max(0, len(requests)-stateRequests):]
	return out, nil
}

// tokenState is what the page shows of a secret. The caller holds c.mu.
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

// shown is a name, unless somebody mixed it up with an API key. The caller holds c.mu.
func (c *Cloud) shown(name string) string {
	if c.keys[name] != nil {
		return "REDACTED"
	}
	return name
}
