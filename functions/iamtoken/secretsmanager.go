package iamtoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
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
