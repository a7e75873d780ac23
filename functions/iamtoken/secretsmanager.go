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

// SecretsManager is the token secret in IBM Cloud Secrets Manager, as a [Store].
// It opens it with a reader identity, which needs secret-version.read on the
// token's secret group (the role SecretsReader). A group of secrets is the finest
// scope of a policy: whoever may read one token of a group may read them all.
//
// It is used by pointer, and its fields must not change once it is in use.
type SecretsManager struct {
	URL      string // the instance's endpoint, https://….secrets-manager.appdomain.cloud
	SecretID string // the token secret's id, in a form of ParseSecretID
	IAMURL   string // if empty, DefaultIAMURL

	// APIKey is the reader identity's. It is exchanged at IAM as needed.
	APIKey Secret
	// AccessToken returns a token of the reader identity, in place of APIKey: from a
	// trusted profile, say. It is called before every read; its error is passed on.
	AccessToken func(ctx context.Context) (Secret, error)

	// Transport makes the requests. If nil, one that honours HTTPS_PROXY and NO_PROXY
	// and uses a connection for one request, over HTTP/1.1. Another may log what a
	// server sends unasked, as http.DefaultTransport does.
	Transport http.RoundTripper

	mu     sync.Mutex
	access Secret    // the reader's own token
	until  time.Time // when to exchange the key again
}

// IsSecretID reports whether id has the form of a secret's or a version's id, a UUID.
func IsSecretID(id string) bool {
	return len(id) == 36 && id[8] == '-' && id[13] == '-' && id[18] == '-' && id[23] == '-' &&
		len(strings.ReplaceAll(id, "-", "")) == 32 && only(strings.ToLower(id), lowerHex+"-")
}

// secretTypes are Secrets Manager's. What else stands before a slash can be a group.
var secretTypes = []string{"arbitrary", "kv", "iam_credentials", "service_credentials", "custom_credentials", "username_password", "imported_cert", "public_cert", "private_cert"}

// ParseSecretID returns the id in text: a secret's UUID, or one in a form of another
// tool that can mean nothing else. These are a CRN, "region/instance/secret" of
// Terraform and "type/uuid" of External Secrets. instance is the id of the Secrets
// Manager instance, if the form names it. The error says which form is wanted and
// repeats nothing of text.
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

// Validate reports what is wrong with the fields; it makes no request. No error
// repeats a value: a key may have been put in the wrong place.
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
	return errors.Join(of("URL", checkOrigin(s.URL)), of("IAMURL", checkOrigin(cmp.Or(s.IAMURL, DefaultIAMURL))), of("SecretID", idErr), of("APIKey", keyErr))
}

// of is the error of a field; nil if err is.
func of(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("iamtoken: SecretsManager.%s %w", field, err)
}

// CheckAPIKey returns an error if text cannot be an API key as it is: it names the cause,
// such as quotes around it, and repeats nothing of text. White space around a key is no
// fault.
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

// noValues are what jq, JavaScript, Python and Go print for a value that is not there.
var noValues = []string{"null", "undefined", "none", "nil", "<nil>"}

// isAssignment reports whether text is a line of a shell or an .env file, "export KEY=…". No
// API key has an equals sign, but as padding at its end.
func isAssignment(text string) bool {
	name, value, _ := strings.Cut(text, "=")
	return strings.Trim(value, "=") != "" && !strings.HasPrefix(value, "=") && !strings.ContainsFunc(strings.TrimPrefix(name, "export "), func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// CheckHost returns an error if host, a name with or without a port, has a placeholder
// of documentation or an empty variable in it. Others would find only that it does not
// resolve. The error repeats nothing of it.
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

// Read reads the current version, value and metadata in one request. If a kept token
// of the reader is rejected, its key is exchanged again, and the version read once more.
func (s *SecretsManager) Read(ctx context.Context) (Version, error) {
	if err := s.Validate(); err != nil {
		return Version{}, failure{error: err, final: true}
	}
	for {
		access, kept, err := s.authenticate(ctx)
		if err != nil {
			return Version{}, err
		}
		version, err := s.readAs(ctx, access)
		if !kept || !errors.Is(err, ErrDenied) {
			return version, err
		}
	}
}

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
	metadata, _ := ParseMetadata(body.Metadata) // what cannot be read counts as none: others may have edited it
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
	// Four fifths of its lifetime, by this machine's clock alone, which may be off.
	s.access, s.until = access, time.Now().Round(0).Add(lifetime*4/5)
	return access, false, nil
}

// exchange gets a token for the reader's API key, with the lifetime that IAM gives it.
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
