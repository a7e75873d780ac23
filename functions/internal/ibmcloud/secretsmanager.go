package ibmcloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
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

	keyIDs   sync.Map                   // in lower case, of secrets that keys are read from
	keyNames map[string]rotation.KeyRef // of those given by name, by type and name
	found    sync.Map                   // which of those have been read, and so have their id in keyIDs
}

// SecretsManagerOptions says which instance, as whom and how politely.
type SecretsManagerOptions struct {
	URL       string // origin without a path
	Bootstrap *Bootstrap
	Transport http.RoundTripper
	MaxRPS    int               // requests in any second, retries included; 0 means no limit
	Keys      []rotation.KeyRef // of all rotations configured: no token is ever saved over one of them
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
	sdk.Service.Client = newRecorder(o.Transport, o.Now).client()
	s := &SecretsManager{sdk: sdk, host: hostOf(o.URL), bootstrap: o.Bootstrap, limiter: newLimiter(o.MaxRPS), now: o.Now,
		keyNames: map[string]rotation.KeyRef{}}
	for _, ref := range o.Keys {
		if ref.ID != "" {
			s.keyIDs.Store(strings.ToLower(ref.ID), true)
		} else {
			s.keyNames[ref.Type+"/"+ref.Name] = ref
		}
	}
	return s, nil
}

// newLimiter allows at most maxRPS requests in any second: a token bucket lets
// its burst and its rate through in the first, so the two share the limit. A
// twentieth is left for requests that set out late and arrive closer together.
func newLimiter(maxRPS int) *rate.Limiter {
	if maxRPS == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	burst := max(1, min(3, maxRPS/4)) // one rotation's requests at once
	return rate.NewLimiter(rate.Limit(0.95*float64(maxRPS-burst+1)), burst)
}

// call makes one request as the bootstrap identity. Its errors are
// *rotation.Error; the SDK's own are not passed on, see wireResponse.
func call[T any](ctx context.Context, s *SecretsManager, op operation, request func(context.Context) (T, *core.DetailedResponse, error)) (T, error) {
	var none T
	op.host, op.instance = s.host, true
	token, err := s.bootstrap.Token(ctx)
	if err != nil {
		return none, err
	}
	if err := s.limiter.Wait(ctx); err != nil {
		return none, &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later,
			Message: op.doing + ": its turn under SECRETS_MANAGER_MAX_RPS did not come in time"}
	}
	ctx, got := withResponse(context.WithValue(ctx, tokenKey{}, token))
	got.limit = op.limit
	defer got.done()
	result, err := guard(func() (T, error) {
		result, _, err := request(ctx)
		return result, err
	})
	switch {
	case got.status == 0 && got.err == nil:
		return none, misconfigured(op.doing+": IBM's SDK rejects the request", "check the secret's id or name")
	case got.status < 200 || got.status > 299:
		switch got.status {
		case http.StatusUnauthorized:
			s.bootstrap.reject(token)
		case http.StatusForbidden:
			s.bootstrap.deny()
		}
		return none, op.failure(got, s.now())
	case op.unsuitable(got) != nil:
		return none, op.unsuitable(got)
	case err != nil || core.IsNil(result): // the body was empty or null
		return none, op.unusable(got)
	}
	return result, nil
}

type tokenKey struct{}

// contextToken authenticates a request with the token in its context. The token
// is obtained before the SDK is called, so that a failure of IAM is never reported
// as one of Secrets Manager.
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

	tokenRejected     = "the bootstrap identity's token is rejected: was the identity deleted, or the token revoked?"
	noTokenSecret     = "there is no such secret: check TOKEN_SECRET (or token_secret); the function never creates it"
	tokenSecretLocked = "the token secret is locked: remove its locks"
)

// tokenTypes are those of secrets that can hold a token.
var tokenTypes = []string{typeArbitrary, typeKV}

// ReadMetadata reads the metadata of the current version, and of a kv secret whose current version
// is not the function's the previous one's too. The bootstrap identity needs
// secret-version-metadata.read on the token's group.
func (s *SecretsManager) ReadMetadata(ctx context.Context, ref rotation.TokenRef) (rotation.CurrentVersion, error) {
	current, err := s.readVersion(ctx, ref, "current")
	if err != nil || !current.Foreign {
		return current, err
	}
	previous, err := s.readVersion(ctx, ref, "previous")
	var failure *rotation.Error
	if errors.As(err, &failure) && (failure.Kind == rotation.NotFound || failure.Kind == rotation.Misconfigured) {
		return current, nil // 404, or 400: there is no previous version yet
	}
	current.Foreign = previous.Foreign
	return current, err
}

// ReadVersion reads the metadata of the version id, the zero CurrentVersion if Secrets Manager
// does not know it, or no longer: it keeps the metadata of 50 versions.
func (s *SecretsManager) ReadVersion(ctx context.Context, ref rotation.TokenRef, id string) (rotation.CurrentVersion, error) {
	if id != rotation.PreviousVersion && !isID(&id) {
		return rotation.CurrentVersion{}, nil
	}
	version, err := s.readVersion(ctx, ref, id)
	var failure *rotation.Error
	switch {
	case errors.As(err, &failure) && (failure.Kind == rotation.NotFound || failure.Kind == rotation.Misconfigured):
		return rotation.CurrentVersion{}, nil // 404, or 400
	case err == nil && id != rotation.PreviousVersion && !strings.EqualFold(version.VersionID, id):
		return rotation.CurrentVersion{}, unavailable("reading a version's metadata: the answer is about another version: is there a proxy in between?")
	}
	return version, err
}

// readVersion reads the metadata of a version by its id or alias: "current", "previous".
func (s *SecretsManager) readVersion(ctx context.Context, ref rotation.TokenRef, alias string) (rotation.CurrentVersion, error) {
	ctx, _ = withResponse(ctx)
	metadata, err := call(ctx, s, operation{
		doing:    "reading the stored token's metadata",
		types:    tokenTypes,
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret-version-metadata.read on the token's secret group, if it is the right identity and TOKEN_SECRET the right secret; a new policy takes minutes to reach everywhere",
		notFound: noTokenSecret,
		locked:   tokenSecretLocked,
	}, func(ctx context.Context) (sm.SecretVersionMetadataIntf, *core.DetailedResponse, error) {
		version, response, err := s.sdk.GetSecretVersionMetadataWithContext(ctx, &sm.GetSecretVersionMetadataOptions{SecretID: &ref.ID, ID: &alias})
		if _, got := withResponse(ctx); err != nil && got.status == http.StatusOK {
			version, err = withoutCustomMetadata(got.body)
		}
		return version, response, err
	})
	if err != nil {
		return rotation.CurrentVersion{}, err
	}
	switch version := metadata.(type) {
	case *sm.ArbitrarySecretVersionMetadata:
		if ref.Field != "" {
			return rotation.CurrentVersion{}, misconfigured("token_field is set, but the token secret is of type arbitrary", "remove one or change the other")
		}
		return s.currentVersion(ctx, ref, storedVersion{typeArbitrary, deref(version.SecretID), deref(version.SecretName), version.ID, time.Time(deref(version.CreatedAt)), version.VersionCustomMetadata})
	case *sm.KVSecretVersionMetadata:
		return s.currentVersion(ctx, ref, storedVersion{typeKV, deref(version.SecretID), deref(version.SecretName), version.ID, time.Time(deref(version.CreatedAt)), version.VersionCustomMetadata})
	default:
		return rotation.CurrentVersion{}, misconfigured("the token secret's type cannot hold a token", "name another") // see operation.types
	}
}

// withoutCustomMetadata reads a version as the SDK does, but for what others may edit: it
// must not make the rest unreadable, a number that is too large say.
func withoutCustomMetadata(body []byte) (version sm.SecretVersionMetadataIntf, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, err
	}
	delete(fields, "version_custom_metadata")
	err = core.UnmarshalModel(fields, "", &version, sm.UnmarshalSecretVersionMetadata)
	return version, err
}

// storedVersion is a version as the service describes it.
type storedVersion struct {
	secretType           string
	secretID, secretName string
	id                   *string
	createdAt            time.Time
	metadata             map[string]any
}

// currentVersion reads a version. Metadata that cannot be read counts as none, which
// counts as expired: others may have edited it.
func (s *SecretsManager) currentVersion(ctx context.Context, ref rotation.TokenRef, version storedVersion) (rotation.CurrentVersion, error) {
	_, got := withResponse(ctx)
	unusable := func(why string) error { return unavailable("reading the stored token's metadata: " + why) }
	switch {
	case !isID(version.id):
		return rotation.CurrentVersion{}, unusable("the answer does not name the version")
	case got.dateBefore(version.createdAt):
		return rotation.CurrentVersion{}, unusable("the answer's Date is before the version was created: is there a proxy in between whose clock is wrong?")
	case s.bootstrap.contradicts(got.clock):
		return rotation.CurrentVersion{}, unusable("the answer's Date is more than " + rotation.MaxClocksApart.String() + " off IAM's: is there a proxy in between whose clock is wrong?")
	}
	if err := s.checkNoKey(ctx, ref, version); err != nil {
		return rotation.CurrentVersion{}, err
	}
	if version.secretID != "" && !strings.EqualFold(version.secretID, ref.ID) {
		return rotation.CurrentVersion{}, unusable("the answer is about another secret: is there a proxy in between?")
	}
	metadata, _ := iamtoken.ParseMetadata(version.metadata)
	mark, _ := version.metadata["rotator_version"].(string) // counts also where another field cannot be read
	return rotation.CurrentVersion{VersionID: *version.id, SecretType: version.secretType, CreatedAt: version.createdAt, Metadata: metadata, Clock: got.clock,
		Foreign: version.secretType == typeKV && mark == ""}, nil
}

// isID reports whether id has the form of a version's. It is repeated in logs and
// reports, so nothing else may be accepted.
func isID(id *string) bool { return id != nil && iamtoken.IsSecretID(*id) }

// Save stores token as a new version. The bootstrap identity needs
// secret-version.create on the token's group. A new version of a kv secret holds
// the token's entry and no other, which is why CheckOwn comes before.
func (s *SecretsManager) Save(ctx context.Context, ref rotation.TokenRef, before rotation.CurrentVersion, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.SavedVersion, error) {
	if s.holdsKey(ref.ID) {
		return rotation.SavedVersion{}, errOverKey()
	}
	payload := ref.Format.Payload(token).Reveal()
	op := operation{
		doing:    "saving the token",
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret-version.create on the token's secret group; a new policy takes minutes to reach everywhere",
		notFound: noTokenSecret,
		locked:   "the previous version is locked: remove its locks (a lock on the current version moves there with the next save)",
	}
	version, err := call(ctx, s, op, func(ctx context.Context) (sm.SecretVersionIntf, *core.DetailedResponse, error) {
		var prototype sm.SecretVersionPrototypeIntf = &sm.ArbitrarySecretVersionPrototype{Payload: &payload, VersionCustomMetadata: metadata.Map()}
		if before.SecretType == typeKV {
			field := cmp.Or(ref.Field, iamtoken.DefaultField)
			prototype = &sm.KVSecretVersionPrototype{Data: map[string]any{field: payload}, VersionCustomMetadata: metadata.Map()}
		}
		return s.sdk.CreateSecretVersionWithContext(ctx, &sm.CreateSecretVersionOptions{SecretID: &ref.ID, SecretVersionPrototype: prototype})
	})
	if err != nil {
		return rotation.SavedVersion{}, err
	}
	switch version := version.(type) {
	case *sm.ArbitrarySecretVersion:
		return saved(op, version.ID, time.Time(deref(version.CreatedAt)))
	case *sm.KVSecretVersion:
		return saved(op, version.ID, time.Time(deref(version.CreatedAt)))
	default:
		return saved(op, nil, time.Time{})
	}
}

// saved reads the answer to a save. Without a version id it settles nothing, so
// the next attempt reads whether the version is there.
func saved(op operation, id *string, createdAt time.Time) (rotation.SavedVersion, error) {
	if !isID(id) {
		return rotation.SavedVersion{}, unavailable(op.doing + ": the answer does not name the new version")
	}
	return rotation.SavedVersion{VersionID: *id, CreatedAt: createdAt}, nil
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// Describe returns the metadata of the token secret, never its value. The
// bootstrap identity needs secret-metadata.read on its group, and only for this.
func (s *SecretsManager) Describe(ctx context.Context, id string) (rotation.SecretDescription, error) {
	metadata, err := s.metadata(ctx, id, tokenTypes)
	if err != nil {
		return rotation.SecretDescription{}, err
	}
	return describe(metadata), nil
}

func (s *SecretsManager) metadata(ctx context.Context, id string, types []string) (sm.SecretMetadataIntf, error) {
	return call(ctx, s, operation{
		doing:    "reading the secret's metadata",
		types:    types,
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret-metadata.read on the token's secret group, which doctor alone needs",
		notFound: noTokenSecret,
		locked:   tokenSecretLocked,
	}, func(ctx context.Context) (sm.SecretMetadataIntf, *core.DetailedResponse, error) {
		return s.sdk.GetSecretMetadataWithContext(ctx, &sm.GetSecretMetadataOptions{ID: &id})
	})
}

// CountLocks counts the locks of a version: "current" or "previous". The
// bootstrap identity needs secret-version-locks.list on the group, and only for
// this.
func (s *SecretsManager) CountLocks(ctx context.Context, id, version string) (int, error) {
	page, err := call(ctx, s, operation{
		doing:    "counting the locks of the " + version + " version",
		limit:    secretAnswer,
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret-version-locks.list on the token's secret group, which doctor alone needs",
		notFound: "there is no such version: check TOKEN_SECRET (or token_secret)",
		locked:   tokenSecretLocked,
	}, func(ctx context.Context) (*sm.SecretVersionLocksPaginatedCollection, *core.DetailedResponse, error) {
		return s.sdk.ListSecretVersionLocksWithContext(ctx, &sm.ListSecretVersionLocksOptions{SecretID: &id, ID: &version})
	})
	if err != nil {
		return 0, err
	}
	if page.TotalCount == nil {
		return 0, unavailable("counting the locks of the " + version + " version: the answer does not say how many there are")
	}
	return max(int(*page.TotalCount), len(page.Locks)), nil
}

// stateDestroyed is the state of a secret whose expiration date has come.
const stateDestroyed = 5

// describe takes what doctor needs out of a secret or its metadata.
func describe(secret any) rotation.SecretDescription {
	switch s := secret.(type) {
	case *sm.ArbitrarySecret:
		return secretOf(s.ID, s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, s.LocksTotal, time.Time(deref(s.ExpirationDate)))
	case *sm.ArbitrarySecretMetadata:
		return secretOf(s.ID, s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, s.LocksTotal, time.Time(deref(s.ExpirationDate)))
	case *sm.KVSecret:
		return secretOf(s.ID, s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, s.LocksTotal, time.Time{})
	case *sm.KVSecretMetadata:
		return secretOf(s.ID, s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, s.LocksTotal, time.Time{})
	case *sm.ServiceCredentialsSecret:
		return secretOf(s.ID, s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, s.LocksTotal, time.Time(deref(s.ExpirationDate)))
	case *sm.IAMCredentialsSecret:
		return secretOf(s.ID, s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, s.LocksTotal, time.Time(deref(s.ExpirationDate)))
	default:
		return rotation.SecretDescription{}
	}
}

func secretOf(id, kind, group *string, state, versions, locks *int64, expires time.Time) rotation.SecretDescription {
	return rotation.SecretDescription{
		ID: deref(id), Type: deref(kind), GroupID: deref(group), Destroyed: deref(state) == stateDestroyed,
		ExpiresAt: expires, Versions: int(deref(versions)), Locks: int(deref(locks)),
	}
}
