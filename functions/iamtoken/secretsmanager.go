package iamtoken

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// DefaultIAMURL is IAM's global endpoint.
const DefaultIAMURL = "https://iam.cloud.ibm.com"

// SecretsManager is a [Store]: the token secret in IBM Cloud Secrets Manager. It reads the
// secret as a reader identity, which needs secret-version.read on the token's secret group
// (the role SecretsReader). A secret group is the finest scope of a policy: whoever may read
// one token of a group may read them all.
//
// Use a pointer, and do not change the fields after the first use.
type SecretsManager struct {
	URL      string // the instance's endpoint, https://….secrets-manager.appdomain.cloud
	SecretID string // the token secret's id, in a form of ParseSecretID
	IAMURL   string // if empty, DefaultIAMURL

	// APIKey is the reader identity's. It is exchanged at IAM as needed.
	APIKey Secret
	// AccessToken is used instead of APIKey. It returns a token of the reader identity, for
	// example from a trusted profile. It is called before every read; its error is passed on.
	AccessToken func(ctx context.Context) (Secret, error)

	// Transport makes the requests. If nil, one is used that honours HTTPS_PROXY and NO_PROXY
	// and makes a new connection for each request, over HTTP/1.1. Others, for example
	// http.DefaultTransport, may log what a server sends without a request.
	Transport http.RoundTripper

	mu     sync.Mutex
	access Secret    // the reader identity's token; empty if there is none to use
	until  time.Time // when to exchange the key again
}

// IsSecretID reports whether id has the form of a secret's or a version's id, a UUID.
func IsSecretID(id string) bool {
	return len(id) == 36 && id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-' &&
		len(strings.ReplaceAll(id, "-", "")) == 32 && only(strings.ToLower(id), lowerHex+"-")
}

// secretTypes are Secrets Manager's types. Any other text before a slash may be a group.
var secretTypes = []string{"arbitrary", "kv", "iam_credentials", "service_credentials", "custom_credentials", "username_password", "imported_cert", "public_cert", "private_cert"}

// ParseSecretID returns the id in text. text is a secret's UUID, a CRN, Terraform's
// "region/instance/secret" or External Secrets' "type/uuid". instance is the id of the
// Secrets Manager instance, or "" if text does not name it. The error repeats nothing of
// text.
func ParseSecretID(text string) (id, instance string, err error) {
	parts := strings.Split(strings.TrimSpace(text), "/")
	if crn := strings.Split(strings.TrimSpace(text), ":"); len(crn) == 10 && crn[0] == "crn" && crn[4] == "secrets-manager" && crn[8] == "secret" {
		parts = []string{crn[5], crn[7], crn[9]}
	}
	id = parts[len(parts)-1]
	switch {
	case !IsSecretID(id):
	case len(parts) == 1:
		return id, "", nil
	case len(parts) == 2 && slices.Contains(secretTypes, parts[0]):
		return id, "", nil
	case len(parts) == 3 && parts[0] != "" && IsSecretID(parts[1]):
		return id, parts[1], nil
	}
	return "", "", errors.New("is not a secret id, such as e2dd1896-8c39-4160-b230-92430f439ba9")
}

// Validate reports what is wrong with the fields, without a request. The error repeats no
// value: a key may have been put in the wrong place.
func (s *SecretsManager) Validate() error {
	_, instance, idErr := ParseSecretID(s.SecretID)
	host, _, _ := strings.Cut(strings.TrimPrefix(s.URL, "https://"), ".")
	if instance != "" && IsSecretID(host) && !strings.EqualFold(instance, host) {
		idErr = errors.New("is of another Secrets Manager instance than URL")
	}
	var keyErr error
	if s.AccessToken == nil {
		keyErr = CheckAPIKey(s.APIKey.Reveal())
	}
	if s.APIKey.IsZero() == (s.AccessToken == nil) {
		keyErr = errors.New("or AccessToken is required, and not both")
	}
	return errors.Join(fieldError("URL", checkOrigin(s.URL)), fieldError("IAMURL", checkOrigin(cmp.Or(s.IAMURL, DefaultIAMURL))), fieldError("SecretID", idErr), fieldError("APIKey", keyErr))
}

// fieldError is err with the field's name, or nil.
func fieldError(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("iamtoken: SecretsManager.%s %w", field, err)
}

// CheckAPIKey returns an error if text cannot be an API key. It names the cause, for example
// quotes, and repeats nothing of text. White space around a key is allowed.
func CheckAPIKey(text string) error {
	text = strings.TrimSpace(text)
	id, isID := strings.CutPrefix(text, "ApiKey-")
	is := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
	}
	for _, fault := range []struct {
		found bool
		text  string
	}{
		{is("\ufeff", "\xff\xfe", "\xfe\xff"), "begins with a byte-order mark: save it without one (UTF-8 without BOM)"}, // of UTF-8, UTF-16
		{strings.Trim(text, "\"'`\u201c\u201d\u2018\u2019") != text, "is in quotes: remove them"},
		{is("{", "[") && !is("{{"), "is JSON: use the bare key in it (jq -er .apikey)"},
		{is("eyJ") && IsJWT(text), "is an access token, and not an API key"},
		{isID && IsSecretID(id), "is the id of an API key, and not the key"},
		{slices.Contains(noValues, strings.ToLower(text)), "is what a program prints for a field that is not there: put the real key there"},
		{is("$", "<", "{{") || strings.Contains(text, "${"), "is a placeholder: put the real key there"}, // of a template, of a page
		{isAssignment(text), "is a line NAME=key: remove all but the key"},
		{text == "" || strings.ContainsFunc(text, unicode.IsSpace), "is not an API key on one line"},
		{strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }),
			"has an invisible character in it: type it anew, or save it as plain text (UTF-8)"},
		{strings.ContainsFunc(text, func(r rune) bool { return r > '~' }), "has a character that no API key has"},
	} {
		if fault.found {
			return errors.New(fault.text)
		}
	}
	return nil
}

// noValues are what jq, JavaScript, Python and Go print for a missing value.
var noValues = []string{"null", "undefined", "none", "nil", "<nil>"}

// isAssignment reports whether text is a line of a shell or an .env file, "export KEY=…". An
// API key has no equals sign, except as padding at its end.
func isAssignment(text string) bool {
	name, value, _ := strings.Cut(text, "=")
	return strings.Trim(value, "=") != "" && !strings.HasPrefix(value, "=") && !strings.ContainsFunc(strings.TrimPrefix(name, "export "), func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// CheckHost returns an error if host, a name with or without a port, contains a placeholder
// or what an empty variable leaves. Otherwise the only error would be that it does not
// resolve. The error repeats nothing of host.
func CheckHost(host string) error {
	name, _, _ := strings.Cut(host, ":")
	labels := strings.Split(strings.ToLower(name), ".")
	switch {
	case strings.HasPrefix(host, "[") && strings.Count(host, ":") > 1: // an IPv6 address
	case strings.ContainsAny(host, "<>${}()[]%~*\u2026"):
		return errors.New("still has a placeholder in its host: put the real value there")
	case slices.Contains(labels, ""):
		return errors.New("has an empty part in its host: is a variable empty?")
	case slices.ContainsFunc(labels, func(label string) bool { return slices.Contains(noValues, label) }):
		return errors.New("has null, undefined or none in its host: what filled it in found no value")
	}
	return nil
}

func checkOrigin(value string) error {
	if value == "" {
		return errors.New("is required")
	}
	_, authority, _ := strings.Cut(value, "://")
	authority, _, _ = strings.Cut(authority, "/")
	if authority != "" && !strings.Contains(authority, "@") {
		if err := CheckHost(authority); err != nil {
			return err
		}
	}
	u, err := url.Parse(strings.TrimSuffix(value, "/"))
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || !IsConfidential(u) {
		return errors.New("must be an https origin without a path")
	}
	return nil
}

// Read reads the current version, value and metadata in one request. If Secrets Manager
// denies that (401 or 403) to a token that was kept from an earlier Read, Read exchanges the
// key and tries once more. So it makes three requests at most: an exchange and two reads.
func (s *SecretsManager) Read(ctx context.Context) (Version, error) {
	if err := s.Validate(); err != nil {
		return Version{}, failure{error: err, final: true}
	}
	for try := 1; ; try++ {
		access, kept, err := s.authenticate(ctx)
		if err != nil {
			return Version{}, err
		}
		version, err := s.readAs(ctx, access)
		if !kept || try == 2 || !errors.Is(err, ErrDenied) {
			return version, err
		}
	}
}

// readAs reads the current version with the token access. If it is denied, the token is no
// longer kept.
func (s *SecretsManager) readAs(ctx context.Context, access Secret) (Version, error) {
	id, _, _ := ParseSecretID(s.SecretID)
	address := strings.TrimSuffix(s.URL, "/") + "/api/v2/secrets/" + id + "/versions/current"
	got, err := s.send(ctx, secretsManager, address, "Bearer "+access.Reveal(), nil)
	switch {
	case err != nil:
		return Version{}, err
	case got.status == http.StatusOK:
		return s.version(got)
	case got.status == http.StatusUnauthorized, got.status == http.StatusForbidden:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.access == access {
			s.access = Secret{}
		}
	}
	return Version{}, got.failure()
}

// version decodes a secret version.
func (s *SecretsManager) version(got response) (Version, error) {
	var body struct {
		SecretType string          `json:"secret_type"`
		CreatedAt  time.Time       `json:"created_at"`
		Payload    string          `json:"payload"`
		Data       json.RawMessage `json:"data"`
		Metadata   map[string]any  `json:"version_custom_metadata"`
	}
	if json.Unmarshal(got.body, &body) != nil || body.SecretType == "" {
		return Version{}, got.unusable()
	}
	payload := body.Payload
	switch body.SecretType {
	case "arbitrary":
	case "kv":
		payload = string(body.Data)
	default:
		return Version{}, noToken("a secret of its type cannot: use arbitrary or kv")
	}
	if token, _, err := unpack(payload); err == nil && token == s.key() {
		return Version{}, noToken("it holds the reader's own API key, which is no token")
	}
	metadata, _ := ParseMetadata(body.Metadata) // others may edit it: what cannot be read is treated like none
	return Version{Payload: NewSecret(payload), CreatedAt: body.CreatedAt, Metadata: metadata, ReadAt: got.date}, nil
}

func (s *SecretsManager) key() string { return strings.TrimSpace(s.APIKey.Reveal()) }

// authenticate returns a token of the reader identity: the kept one, or a new one.
func (s *SecretsManager) authenticate(ctx context.Context) (access Secret, kept bool, err error) {
	if s.AccessToken != nil {
		access, err := s.AccessToken(ctx)
		if err != nil {
			return Secret{}, false, fmt.Errorf("getting the reader's own token: %w", err)
		}
		token := TrimBearer(access.Reveal())
		if CheckForm(token) != nil {
			return Secret{}, false, fmt.Errorf("%w: SecretsManager.AccessToken returned something that is no token", ErrDenied)
		}
		return NewSecret(token), false, nil
	}
	s.mu.Lock()
	access, kept = s.access, time.Now().Round(0).Before(s.until)
	s.mu.Unlock()
	if kept && !access.IsZero() {
		return access, true, nil
	}
	access, lifetime, err := s.exchange(ctx)
	if err != nil {
		return Secret{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Four fifths of the lifetime, from now: it does not matter if this machine's clock is off.
	s.access, s.until = access, time.Now().Round(0).Add(lifetime*4/5)
	return access, false, nil
}

// exchange returns a token for the reader's API key, and its lifetime.
func (s *SecretsManager) exchange(ctx context.Context) (Secret, time.Duration, error) {
	origin := strings.TrimSuffix(cmp.Or(s.IAMURL, DefaultIAMURL), "/")
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {s.key()}}
	got, err := s.send(ctx, iam, origin+"/identity/token", "", form)
	switch {
	case err != nil:
		return Secret{}, 0, err
	case got.status != http.StatusOK:
		return Secret{}, 0, got.failure()
	}
	return s.accessToken(got)
}

// accessToken decodes IAM's token response.
func (s *SecretsManager) accessToken(got response) (Secret, time.Duration, error) {
	var body struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if json.Unmarshal(got.body, &body) != nil || CheckForm(body.AccessToken) != nil || body.AccessToken == s.key() {
		return Secret{}, 0, got.unusable()
	}
	lifetime := time.Duration(min(max(body.ExpiresIn, 0), int64(MaxLifetime.Seconds()))) * time.Second
	return NewSecret(body.AccessToken), lifetime, nil
}
