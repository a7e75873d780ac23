package ibmcloud

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
	"golang.org/x/time/rate"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// SecretsManager reads keys from one instance and saves tokens there.
type SecretsManager struct {
	sdk       *sm.SecretsManagerV2
	host      string
	bootstrap *Bootstrap
	limiter   *rate.Limiter
	now       func() time.Time
	keys      keySecrets
}

// SecretsManagerOptions names the instance, the identity that opens it, and the limits.
type SecretsManagerOptions struct {
	URL       string // origin without a path
	Bootstrap *Bootstrap
	Transport http.RoundTripper
	MaxRPS    int               // requests in any second, retries included; 0 means no limit
	Keys      []rotation.KeyRef // of all configured rotations: no token is ever saved over one of them
	Now       func() time.Time  // if nil, time.Now
}

// NewSecretsManager returns a client for one instance.
func NewSecretsManager(o SecretsManagerOptions) (*SecretsManager, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	sdk, err := sm.NewSecretsManagerV2(&sm.SecretsManagerV2Options{URL: o.URL, Authenticator: contextToken{}})
	if err != nil {
		return nil, misconfigured("IBM's SDK rejects SECRETS_MANAGER_URL", "it is the instance's origin, https://….secrets-manager.appdomain.cloud")
	}
	sdk.Service.Client = &http.Client{Transport: newWire(o.Transport, o.Now)}
	s := &SecretsManager{sdk: sdk, host: hostOf(o.URL), bootstrap: o.Bootstrap, limiter: newLimiter(o.MaxRPS), now: o.Now}
	for _, ref := range o.Keys {
		s.keys.add(ref, ref.ID)
	}
	return s, nil
}

// newLimiter allows at most maxRPS requests in any second. A token bucket can let its burst
// and its rate pass within one second, so the two share the limit. The rate is 5 % lower:
// requests that are delayed on the way arrive closer together than they were sent.
func newLimiter(maxRPS int) *rate.Limiter {
	if maxRPS == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	burst := max(1, min(3, maxRPS/4)) // a rotation makes up to 3 requests at once
	return rate.NewLimiter(rate.Limit(0.95*float64(maxRPS-burst+1)), burst)
}

// reply is any answer of Secrets Manager, decoded: a secret, a secret's metadata, a version
// or a list. Each fills in the fields that it has.
type reply struct {
	*answer `json:"-"`

	ID             string    `json:"id"`
	Type           string    `json:"secret_type"`
	Name           string    `json:"name"`
	GroupID        string    `json:"secret_group_id"`
	State          int       `json:"state"`
	VersionsTotal  int       `json:"versions_total"`
	LocksTotal     int       `json:"locks_total"`
	CreatedAt      timestamp `json:"created_at"`
	ExpirationDate timestamp `json:"expiration_date"`

	// Of a secret: where each type has its API key.
	Payload     iamtoken.Secret            `json:"payload"`
	Data        map[string]json.RawMessage `json:"data"`
	APIKey      iamtoken.Secret            `json:"api_key"`
	Credentials struct {
		APIKey iamtoken.Secret `json:"apikey"`
	} `json:"credentials"`

	// Of type iam_credentials.
	APIKeyID        string    `json:"api_key_id"`
	ReuseAPIKey     bool      `json:"reuse_api_key"`
	StaticServiceID *bool     `json:"service_id_is_static"`
	AccessGroups    []string  `json:"access_groups"`
	TTL             string    `json:"ttl"`
	Rotation        rule      `json:"rotation"`
	NextRotation    timestamp `json:"next_rotation_date"`

	// Of a version.
	SecretID   string `json:"secret_id"`
	SecretName string `json:"secret_name"`
	// Metadata is decoded later: others may edit it, and what they write (for example a number
	// that is too large) must not make the rest unreadable.
	Metadata json.RawMessage `json:"version_custom_metadata"`

	// Of a list.
	TotalCount *int              `json:"total_count"`
	Locks      []json.RawMessage `json:"locks"`
	Secrets    []reply           `json:"secrets"`
}

// describe returns the secret's metadata, without a value.
func (r *reply) describe() rotation.SecretDescription {
	const destroyed = 5 // the state of a secret whose expiration date has come
	return rotation.SecretDescription{ID: r.ID, Type: r.Type, GroupID: r.GroupID, Destroyed: r.State == destroyed,
		ExpiresAt: r.ExpirationDate.Time, Versions: r.VersionsTotal, Locks: r.LocksTotal}
}

// ask makes one request as the bootstrap identity. Its errors are *rotation.Error.
func (s *SecretsManager) ask(ctx context.Context, op operation, send func(context.Context)) (*reply, error) {
	op.host, op.instance, op.rejected = s.host, true, "the bootstrap identity's token is rejected: was the identity deleted, or the token revoked?"
	token, err := s.bootstrap.Token(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.limiter.Wait(ctx); err != nil {
		return nil, &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later,
			Message: op.doing + ": its turn under SECRETS_MANAGER_MAX_RPS did not come in time"}
	}
	found := &reply{}
	got := ask(context.WithValue(ctx, tokenKey{}, token), op.limit, found, send)
	found.answer = got
	switch {
	case got.notSent():
		return nil, misconfigured(op.doing+": IBM's SDK rejects the request", "check the secret's id or name")
	case got.status == http.StatusUnauthorized:
		s.bootstrap.forgetIfCurrent(token)
	case got.status == http.StatusForbidden:
		s.bootstrap.markKeyStale()
	}
	switch {
	case !got.succeeded():
		return nil, op.failure(got, s.now())
	case op.types != nil && found.Type != "" && !slices.Contains(op.types, found.Type):
		return nil, op.wrongType(found.Type)
	case got.decodeErr != nil, op.types != nil && found.Type == "":
		return nil, op.unusable(got)
	}
	return found, nil
}

type tokenKey struct{}

// contextToken authenticates a request with the token in its context. The token is obtained
// before the SDK is called, so that a failure of IAM is not reported as a failure of Secrets
// Manager.
type contextToken struct{}

func (contextToken) AuthenticationType() string { return core.AUTHTYPE_BEARER_TOKEN }
func (contextToken) Validate() error            { return nil }

func (contextToken) Authenticate(req *http.Request) error {
	token, _ := req.Context().Value(tokenKey{}).(iamtoken.Secret)
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	return nil
}

const (
	typeArbitrary          = "arbitrary"
	typeKV                 = "kv"
	typeIAMCredentials     = "iam_credentials"
	typeServiceCredentials = "service_credentials"

	noTokenSecret     = "there is no such secret: check TOKEN_SECRET (or token_secret); the function never creates it"
	tokenSecretLocked = "the token secret is locked: remove its locks"
)

var (
	// tokenTypes are those of secrets that can hold a token.
	tokenTypes = []string{typeArbitrary, typeKV}

	readingMetadata = operation{
		doing:    "reading the stored token's metadata",
		types:    tokenTypes,
		denied:   "give the bootstrap identity a role with secret-version-metadata.read on the token's secret group, if it is the right identity and TOKEN_SECRET the right secret; a new policy takes minutes to reach everywhere",
		notFound: noTokenSecret,
		locked:   tokenSecretLocked,
	}
	savingToken = operation{
		doing:    "saving the token",
		denied:   "give the bootstrap identity a role with secret-version.create on the token's secret group; a new policy takes minutes to reach everywhere",
		notFound: noTokenSecret,
		locked:   "the previous version is locked: remove its locks (a lock on the current version moves there with the next save)",
	}
	describing = operation{
		doing:    "reading the secret's metadata",
		denied:   "give the bootstrap identity a role with secret-metadata.read on the token's secret group, which only doctor needs",
		notFound: noTokenSecret,
		locked:   tokenSecretLocked,
	}
	countingLocks = operation{
		limit:    largeAnswer,
		denied:   "give the bootstrap identity a role with secret-version-locks.list on the token's secret group, which only doctor needs",
		notFound: "there is no such version: check TOKEN_SECRET (or token_secret)",
		locked:   tokenSecretLocked,
	}
)

// ReadMetadata reads the metadata of the current version. If that is a kv secret's and the
// function has not saved it, it also reads the previous version's, to set Foreign. The
// bootstrap identity needs secret-version-metadata.read on the token's group.
func (s *SecretsManager) ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.TokenVersion, error) {
	current, err := s.readVersion(ctx, ref, "current")
	if err != nil || !current.Foreign {
		return current, err
	}
	previous, err := s.readVersion(ctx, ref, "previous")
	if isNoVersion(err) {
		return current, nil
	}
	current.Foreign = previous.Foreign
	return current, err
}

// isNoVersion reports whether err says that there is no such version: 404 or 400.
func isNoVersion(err error) bool {
	kind := rotation.ErrorOf(err).Kind
	return kind == rotation.NotFound || kind == rotation.Misconfigured
}

// ReadVersion reads the metadata of a version by its id. It returns the zero TokenVersion if
// Secrets Manager does not have the version (any more: it keeps the metadata of 50).
func (s *SecretsManager) ReadVersion(ctx context.Context, ref rotation.TokenRef, id string) (rotation.TokenVersion, error) {
	if id != rotation.PreviousVersion && !iamtoken.IsSecretID(id) {
		return rotation.TokenVersion{}, nil
	}
	version, err := s.readVersion(ctx, ref, id)
	switch {
	case isNoVersion(err):
		return rotation.TokenVersion{}, nil
	case err == nil && id != rotation.PreviousVersion && !strings.EqualFold(version.VersionID, id):
		return rotation.TokenVersion{}, unavailable("reading a version's metadata: the answer is about another version: is there a proxy in between?")
	}
	return version, err
}

// readVersion reads the metadata of a version by its id or alias: "current", "previous".
// Others may have edited it: metadata that cannot be read is treated like none, so the token
// counts as expired.
func (s *SecretsManager) readVersion(ctx context.Context, ref rotation.TokenRef, alias string) (rotation.TokenVersion, error) {
	version, err := s.ask(ctx, readingMetadata, func(ctx context.Context) {
		_, _, _ = s.sdk.GetSecretVersionMetadataWithContext(ctx, &sm.GetSecretVersionMetadataOptions{SecretID: &ref.ID, ID: &alias})
	})
	if err == nil {
		err = s.checkVersion(ctx, ref, version)
	}
	if err != nil {
		return rotation.TokenVersion{}, err
	}
	var fields map[string]any
	if json.Unmarshal(version.Metadata, &fields) != nil {
		fields = nil // a part of it may be decoded
	}
	metadata, _ := iamtoken.ParseMetadata(fields)
	mark, _ := fields["rotator_version"].(string) // it counts even if another field cannot be read
	return rotation.TokenVersion{VersionID: version.ID, SecretType: version.Type, CreatedAt: version.CreatedAt.Time, Metadata: metadata,
		Clock: version.clock, Foreign: version.Type == typeKV && mark == ""}, nil
}

// checkVersion returns an error for an answer that cannot be trusted, and for a secret that
// no token may be saved to.
func (s *SecretsManager) checkVersion(ctx context.Context, ref rotation.TokenRef, version *reply) error {
	unusable := func(why string) error { return unavailable(readingMetadata.doing + ": " + why) }
	switch {
	case version.Type == typeArbitrary && ref.Field != "":
		return misconfigured("token_field is set, but the token secret is of type arbitrary", "remove one or change the other")
	case !iamtoken.IsSecretID(version.ID): // logs and reports repeat it
		return unusable("the answer does not name the version")
	case version.dateBefore(version.CreatedAt.Time):
		return unusable("the answer's Date is before the version was created: is there a proxy in between whose clock is wrong?")
	case s.bootstrap.contradicts(version.clock):
		return unusable("the answer's Date is more than " + rotation.MaxClocksApart.String() + " off IAM's: is there a proxy in between whose clock is wrong?")
	}
	if err := s.checkNotKeySecret(ctx, ref, version); err != nil {
		return err
	}
	if version.SecretID != "" && !strings.EqualFold(version.SecretID, ref.ID) {
		return unusable("the answer is about another secret: is there a proxy in between?")
	}
	return nil
}

// Save stores token as a new version. The bootstrap identity needs secret-version.create on
// the token's group. A new version of a kv secret has only the token's entry; callers run
// CheckOwn before, so that no other entry is lost. An answer that does not name a version of
// such a secret may be a proxy's: it is an error, and the next attempt reads whether the
// version was saved.
func (s *SecretsManager) Save(ctx context.Context, ref rotation.TokenRef, before rotation.TokenVersion, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	if s.keys.has(typedName{}, ref.ID) {
		return rotation.SavedVersion{}, errIsKeySecret()
	}
	payload := ref.Format.Payload(token).Reveal()
	var prototype sm.SecretVersionPrototypeIntf = &sm.ArbitrarySecretVersionPrototype{Payload: &payload, VersionCustomMetadata: metadata.Map()}
	if before.SecretType == typeKV {
		field := cmp.Or(ref.Field, iamtoken.DefaultField)
		prototype = &sm.KVSecretVersionPrototype{Data: map[string]any{field: payload}, VersionCustomMetadata: metadata.Map()}
	}
	version, err := s.ask(ctx, savingToken, func(ctx context.Context) {
		_, _, _ = s.sdk.CreateSecretVersionWithContext(ctx, &sm.CreateSecretVersionOptions{SecretID: &ref.ID, SecretVersionPrototype: prototype})
	})
	switch {
	case err != nil:
		return rotation.SavedVersion{}, err
	case !iamtoken.IsSecretID(version.ID), !slices.Contains(tokenTypes, version.Type):
		return rotation.SavedVersion{}, unavailable(savingToken.doing + ": the answer does not name the new version")
	}
	return rotation.SavedVersion{VersionID: version.ID, CreatedAt: version.CreatedAt.Time}, nil
}

// Describe returns the metadata of the token secret, never its value. Only this needs
// secret-metadata.read on the token's group.
func (s *SecretsManager) Describe(ctx context.Context, id string) (rotation.SecretDescription, error) {
	metadata, err := s.metadata(ctx, id, tokenTypes)
	if err != nil {
		return rotation.SecretDescription{}, err
	}
	return metadata.describe(), nil
}

func (s *SecretsManager) metadata(ctx context.Context, id string, types []string) (*reply, error) {
	op := describing
	op.types = types
	return s.ask(ctx, op, func(ctx context.Context) {
		_, _, _ = s.sdk.GetSecretMetadataWithContext(ctx, &sm.GetSecretMetadataOptions{ID: &id})
	})
}

// CountLocks counts the locks of a version: "current" or "previous". Only this needs
// secret-version-locks.list on the token's group.
func (s *SecretsManager) CountLocks(ctx context.Context, id, version string) (int, error) {
	op := countingLocks
	op.doing = "counting the locks of the " + version + " version"
	page, err := s.ask(ctx, op, func(ctx context.Context) {
		_, _, _ = s.sdk.ListSecretVersionLocksWithContext(ctx, &sm.ListSecretVersionLocksOptions{SecretID: &id, ID: &version})
	})
	switch {
	case err != nil:
		return 0, err
	case page.TotalCount == nil:
		return 0, unavailable(op.doing + ": the answer does not say how many there are")
	}
	return max(*page.TotalCount, len(page.Locks)), nil
}
