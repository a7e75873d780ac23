package iamtoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultIAMURL is where IAM answers unless told otherwise.
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
	// trusted profile, say. It is asked before every read.
	AccessToken func(ctx context.Context) (Secret, error)

	Transport http.RoundTripper // if nil, http.DefaultTransport

	mu     sync.Mutex
	access Secret    // the reader's own token
	until  time.Time // when to exchange the key again
}

var secretIDShape = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// Validate reports what is wrong with the fields; it makes no request. No error
// repeats a value: a key may have been put in the wrong place.
func (s *SecretsManager) Validate() error {
	var faults []error
	fault := func(text string) { faults = append(faults, errors.New("iamtoken: SecretsManager."+text)) }
	if s.URL == "" {
		fault("URL is required")
	} else if !isOrigin(s.URL) {
		fault("URL must be an https origin without a path")
	}
	if s.IAMURL != "" && !isOrigin(s.IAMURL) {
		fault("IAMURL must be an https origin without a path")
	}
	if !secretIDShape.MatchString(s.SecretID) {
		fault("SecretID is no secret id")
	}
	if s.APIKey.IsZero() == (s.AccessToken == nil) {
		fault("APIKey or AccessToken is required, and not both")
	}
	return errors.Join(faults...)
}

func isOrigin(value string) bool {
	u, err := url.Parse(strings.TrimSuffix(value, "/"))
	return err == nil && u.Host != "" && u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == "" && checkConfidential(u) == nil
}

// Read reads the current version, value and metadata in one request. If the
// reader's own token is refused, its key is exchanged again, once.
func (s *SecretsManager) Read(ctx context.Context) (Version, error) {
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
var errUnauthorized = fmt.Errorf("%w: Secrets Manager does not take the reader's own token (HTTP 401): is it of this instance's account?", ErrDenied)

func (s *SecretsManager) readAs(ctx context.Context, access Secret) (Version, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(s.URL, "/")+"/api/v2/secrets/"+s.SecretID+"/versions/current", nil)
	if err != nil {
		return Version{}, fmt.Errorf("building the request to Secrets Manager: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+access.Reveal())
	answer, err := s.send(request, "Secrets Manager")
	if err != nil {
		return Version{}, err
	}
	switch answer.status {
	case http.StatusOK:
		return answer.version()
	case http.StatusUnauthorized:
		return Version{}, errUnauthorized
	case http.StatusForbidden:
		return Version{}, fmt.Errorf("%w: the reader identity needs SecretsReader on the token's secret group; a new policy takes minutes to reach everywhere", ErrDenied)
	case http.StatusNotFound:
		return Version{}, fmt.Errorf("%w in this Secrets Manager instance: check SecretID and URL", ErrNotFound)
	default:
		return Version{}, answer.failure("Secrets Manager")
	}
}

// version decodes a secret version.
func (a answer) version() (Version, error) {
	var body struct {
		SecretType string          `json:"secret_type"`
		CreatedAt  time.Time       `json:"created_at"`
		Payload    string          `json:"payload"`
		Data       json.RawMessage `json:"data"`
		Metadata   map[string]any  `json:"version_custom_metadata"`
	}
	if json.Unmarshal(a.body, &body) != nil || body.SecretType == "" {
		return Version{}, unusable("Secrets Manager")
	}
	if body.SecretType != "arbitrary" && body.SecretType != "kv" {
		return Version{}, noToken("a secret of its type cannot: use arbitrary or kv")
	}
	// Metadata that cannot be read counts as none: others may have edited it.
	metadata, err := ParseMetadata(body.Metadata)
	if err != nil {
		metadata = Metadata{}
	}
	payload := body.Payload
	if body.SecretType == "kv" {
		payload = string(body.Data)
	}
	return Version{Payload: NewSecret(payload), CreatedAt: body.CreatedAt, Metadata: metadata, ReadAt: a.date}, nil
}

// authenticate returns a token of the reader identity: the one kept, or a new one.
func (s *SecretsManager) authenticate(ctx context.Context) (Secret, error) {
	if s.AccessToken != nil {
		access, err := s.AccessToken(ctx)
		if err != nil {
			return Secret{}, fmt.Errorf("getting the reader's own token: %w", err)
		}
		return NewSecret(TrimBearer(access.Reveal())), nil
	}
	s.mu.Lock()
	access, until := s.access, s.until
	s.mu.Unlock()
	if !access.IsZero() && time.Now().Round(0).Before(until) {
		return access, nil
	}
	access, life, err := s.exchange(ctx)
	if err != nil {
		return Secret{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// Four fifths of its life, by this machine's clock alone, which may be off.
	s.access, s.until = access, time.Now().Round(0).Add(life*4/5)
	return access, nil
}

// forget drops a token that was refused; false if there is no way to another one.
func (s *SecretsManager) forget(refused Secret) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.AccessToken != nil {
		return false
	}
	if s.access == refused {
		s.access = Secret{}
	}
	return true
}

// exchange gets a token for the reader's API key, with the life IAM gives it.
func (s *SecretsManager) exchange(ctx context.Context) (Secret, time.Duration, error) {
	iam := s.IAMURL
	if iam == "" {
		iam = DefaultIAMURL
	}
	form := url.Values{
		"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"},
		"apikey":     {strings.TrimSpace(s.APIKey.Reveal())},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(iam, "/")+"/identity/token", strings.NewReader(form.Encode()))
	if err != nil {
		return Secret{}, 0, fmt.Errorf("building the request to IAM: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := s.send(request, "IAM")
	if err != nil {
		return Secret{}, 0, err
	}
	switch answer.status {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return Secret{}, 0, fmt.Errorf("%w: IAM does not take the reader's API key (HTTP %d): does it exist, and is it enabled and in date?", ErrDenied, answer.status)
	default:
		return Secret{}, 0, answer.failure("IAM")
	}
	var body struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if json.Unmarshal(answer.body, &body) != nil || !tokenShape.MatchString(body.AccessToken) {
		return Secret{}, 0, unusable("IAM")
	}
	return NewSecret(body.AccessToken), time.Duration(body.ExpiresIn) * time.Second, nil
}

// maxBody bounds an answer: a secret of a million characters fits, however escaped.
const maxBody = 8 << 20

// answer is what a service said. Nothing of its body enters an error.
type answer struct {
	status     int
	body       []byte
	date       time.Time     // the service's clock; zero when it was not told
	retryAfter time.Duration // what it asked for; 0 when it did not
}

// send makes one request and reads the answer whole. It follows no redirect: the
// request bears a key or a token.
func (s *SecretsManager) send(request *http.Request, service string) (answer, error) {
	request.Header.Set("Accept", "application/json")
	client := &http.Client{
		Transport:     s.Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, unanswered(request.Context(), service, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return answer{}, unanswered(request.Context(), service, err)
	}
	a := answer{status: response.StatusCode, body: body}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		a.date = date
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		a.retryAfter = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	return a, nil
}

// failure is the error for a status that the request does not explain.
func (a answer) failure(service string) error {
	if a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout || a.status >= 500 {
		return &retryAfter{fmt.Errorf("%w: %s answered HTTP %d", ErrUnavailable, service, a.status), a.retryAfter}
	}
	return fmt.Errorf("%s answered HTTP %d: is its URL right?", service, a.status)
}

func unusable(service string) error {
	return fmt.Errorf("%w: %s answered HTTP 200, but not what was asked for: is there a proxy in between, or is its URL wrong?", ErrUnavailable, service)
}

// unanswered is the error for a call without an answer. The cause's text is that
// of net/http, which knows addresses and no headers or bodies.
func unanswered(ctx context.Context, service string, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return fmt.Errorf("%w: %s did not answer in time", ErrUnavailable, service)
	}
	return fmt.Errorf("%w: calling %s: %w", ErrUnavailable, service, err)
}
