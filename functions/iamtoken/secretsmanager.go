package iamtoken

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
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
	SecretID string // the token secret's id
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
	if len(id) != 36 {
		return false
	}
	for i, c := range []byte(id) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (c == '-') || !hyphen && !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
			return false
		}
	}
	return true
}

// Validate reports what is wrong with the fields; it makes no request. No error
// repeats a value: a key may have been put in the wrong place.
func (s *SecretsManager) Validate() error {
	var faults []error
	fault := func(text string) { faults = append(faults, errors.New("iamtoken: SecretsManager."+text)) }
	switch {
	case s.URL == "":
		fault("URL is required")
	case !isOrigin(s.URL):
		fault("URL must be an https origin without a path")
	}
	if s.IAMURL != "" && !isOrigin(s.IAMURL) {
		fault("IAMURL must be an https origin without a path")
	}
	if !IsSecretID(s.SecretID) {
		fault("SecretID is not a secret id, such as e2dd1896-8c39-4160-b230-92430f439ba9")
	}
	if s.APIKey.IsZero() == (s.AccessToken == nil) {
		fault("APIKey or AccessToken is required, and not both")
	}
	return errors.Join(faults...)
}

func isOrigin(value string) bool {
	u, err := url.Parse(strings.TrimSuffix(value, "/"))
	return err == nil && u.Host != "" && u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && IsConfidential(u)
}

// Read reads the current version, value and metadata in one request. If the
// reader's own token is rejected, its key is exchanged again, once.
func (s *SecretsManager) Read(ctx context.Context) (Version, error) {
	if err := s.Validate(); err != nil {
		return Version{}, err
	}
	access, err := s.authenticate(ctx)
	if err != nil {
		return Version{}, err
	}
	version, err := s.readAs(ctx, access)
	if errors.Is(err, errUnauthorized) && s.forget(access) {
		if access, err = s.authenticate(ctx); err != nil {
			return Version{}, err
		}
		version, err = s.readAs(ctx, access)
	}
	return version, err
}

// errUnauthorized is a 401 of Secrets Manager.
var errUnauthorized = fmt.Errorf("%w: Secrets Manager rejects the reader's own token (HTTP 401): is it of this instance's account?", ErrDenied)

func (s *SecretsManager) readAs(ctx context.Context, access Secret) (Version, error) {
	address := strings.TrimSuffix(s.URL, "/") + "/api/v2/secrets/" + s.SecretID + "/versions/current"
	got, err := s.send(ctx, call{service: "Secrets Manager", method: http.MethodGet, url: address, authorization: "Bearer " + access.Reveal()})
	if err != nil {
		return Version{}, err
	}
	switch got.status {
	case http.StatusOK:
		return s.version(got)
	case http.StatusUnauthorized:
		return Version{}, errUnauthorized
	case http.StatusForbidden:
		return Version{}, fmt.Errorf("%w: the reader identity needs SecretsReader on the token's secret group; a new policy takes minutes to reach everywhere", ErrDenied)
	case http.StatusNotFound:
		return Version{}, fmt.Errorf("%w in this Secrets Manager instance: check SecretID and URL", ErrNotFound)
	default:
		return Version{}, got.failure()
	}
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
func (s *SecretsManager) authenticate(ctx context.Context) (Secret, error) {
	if s.AccessToken != nil {
		access, err := s.AccessToken(ctx)
		if err != nil {
			return Secret{}, fmt.Errorf("getting the reader's own token: %w", err)
		}
		token, ok := bareToken(access.Reveal())
		if !ok {
			return Secret{}, fmt.Errorf("%w: SecretsManager.AccessToken returned something that is no token", ErrDenied)
		}
		return NewSecret(token), nil
	}
	s.mu.Lock()
	access, until := s.access, s.until
	s.mu.Unlock()
	if !access.IsZero() && time.Now().Round(0).Before(until) {
		return access, nil
	}
	access, lifetime, err := s.exchange(ctx)
	if err != nil {
		return Secret{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Four fifths of its lifetime, by this machine's clock alone, which may be off.
	s.access, s.until = access, time.Now().Round(0).Add(lifetime*4/5)
	return access, nil
}

// forget drops a token that was rejected; false if no other can be obtained.
func (s *SecretsManager) forget(rejected Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.AccessToken != nil {
		return false
	}
	if s.access == rejected {
		s.access = Secret{}
	}
	return true
}

// exchange gets a token for the reader's API key, with the lifetime that IAM gives it.
func (s *SecretsManager) exchange(ctx context.Context) (Secret, time.Duration, error) {
	iam := cmp.Or(s.IAMURL, DefaultIAMURL)
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {s.key()}}
	got, err := s.send(ctx, call{service: "IAM", method: http.MethodPost, url: strings.TrimSuffix(iam, "/") + "/identity/token", form: form.Encode()})
	if err != nil {
		return Secret{}, 0, err
	}
	switch got.status {
	case http.StatusOK:
		return s.accessToken(got)
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return Secret{}, 0, fmt.Errorf("%w: IAM rejects the reader's API key (HTTP %d): does it exist, is it enabled, has it expired?", ErrDenied, got.status)
	default:
		return Secret{}, 0, got.failure()
	}
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
