package ibmcloud

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// ReadKey reads an API key from an arbitrary, kv, service_credentials or
// iam_credentials secret. The bootstrap identity needs secret.read on its group.
func (s *SecretsManager) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	secret, err := s.ReadCurrentKey(ctx, ref)
	return secret.Key, err
}

// ReadCurrentKey reads an API key and what the same answer says of its secret. The
// bootstrap identity needs secret.read on its group.
func (s *SecretsManager) ReadCurrentKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	return s.readKeySecret(ctx, ref, keySecretAdvice)
}

// ReadManagedKey reads the secret of type iam_credentials that IBM renews the bootstrap
// key in. The bootstrap identity needs secret.read on its group.
func (s *SecretsManager) ReadManagedKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	secret, err := s.readKeySecret(ctx, ref, managedKeyAdvice)
	if err == nil && secret.Type != sm.SecretMetadata_SecretType_IamCredentials {
		return rotation.KeySecret{}, misconfigured("BOOTSTRAP_KEY_SECRET names a secret whose key nobody renews: name one of type iam_credentials")
	}
	return secret, err
}

// ReadKeySecret reads an API key and describes its secret. The bootstrap identity
// needs secret.read on its group.
//
// Reading an iam_credentials secret with reuse_api_key false makes a new key and
// deletes the last, so the metadata is read first. An identity that may not
// read it (secret-metadata.read, or secrets.list where the secret is given by name)
// reads all the same, as a rotation does.
func (s *SecretsManager) ReadKeySecret(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	if reuse := s.reusesKey(ctx, ref); reuse != nil && !*reuse {
		return rotation.KeySecret{}, errKeyNotReused()
	}
	return s.ReadCurrentKey(ctx, ref)
}

var (
	keySecretAdvice = operation{
		doing:    "reading the API key",
		limit:    secretAnswer,
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret.read on the key's secret group, if it is the right identity and API_KEY_SECRET the right secret; a new policy takes minutes to reach everywhere",
		notFound: "there is no such secret: check API_KEY_SECRET (or api_key_secret)",
		locked:   "the key secret is locked: remove its locks",
	}
	managedKeyAdvice = operation{
		doing:    "reading the managed bootstrap key",
		limit:    secretAnswer,
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret.read on that secret's group, if BOOTSTRAP_KEY_SECRET is the right secret; a new policy takes minutes to reach everywhere",
		notFound: "there is no such secret, or its key has expired: check BOOTSTRAP_KEY_SECRET, or make the secret anew",
		locked:   "the secret is locked: remove its locks",
	}
)

func (s *SecretsManager) readKeySecret(ctx context.Context, ref rotation.KeyRef, op operation) (rotation.KeySecret, error) {
	secret, err := s.readSecret(ctx, ref, op)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	s.noteKeySecret(ref, secret)
	key, err := keyOf(secret, ref)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	read := rotation.KeySecret{SecretDescription: describe(secret), Key: key}
	if credentials, ok := secret.(*sm.IAMCredentialsSecret); ok {
		read.KeyID, read.TTL = deref(credentials.ApiKeyID), ttlOf(deref(credentials.TTL))
		read.Interval, read.NextRotation = intervalOf(credentials.Rotation), time.Time(deref(credentials.NextRotationDate))
	}
	return read, nil
}

// ttlOf reads a lifetime: a duration such as 1080h, or a number of seconds.
func ttlOf(text string) time.Duration {
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	ttl, err := time.ParseDuration(text)
	if err != nil {
		return 0
	}
	return max(0, ttl)
}

// intervalOf is the time between two automatic rotations, 0 when there are none or it
// cannot be read. A month counts as 31 days.
func intervalOf(policy sm.RotationPolicyIntf) time.Duration {
	const day = 24 * time.Hour
	rule, ok := policy.(*sm.RotationPolicy)
	if !ok || rule == nil || !deref(rule.AutoRotate) {
		return 0
	}
	units := map[string]time.Duration{"day": day, "month": 31 * day}
	return time.Duration(min(max(0, deref(rule.Interval)), 1000)) * units[deref(rule.Unit)]
}

func (s *SecretsManager) readSecret(ctx context.Context, ref rotation.KeyRef, op operation) (sm.SecretIntf, error) {
	secret, err := call(ctx, s, op, func(ctx context.Context) (sm.SecretIntf, *core.DetailedResponse, error) {
		if ref.ID != "" {
			return s.sdk.GetSecretWithContext(ctx, &sm.GetSecretOptions{ID: &ref.ID})
		}
		return s.sdk.GetSecretByNameTypeWithContext(ctx, &sm.GetSecretByNameTypeOptions{
			SecretGroupName: &ref.Group, SecretType: &ref.Type, Name: &ref.Name,
		})
	})
	if id := describe(secret).ID; err == nil && id != "" && ref.ID != "" && !strings.EqualFold(id, ref.ID) {
		return nil, &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later,
			Message: op.doing + ": the answer is about another secret: is there a proxy in between?"}
	}
	return secret, err
}

// reusesKey returns the reuse_api_key of an iam_credentials secret; nil for
// others, and when it cannot be seen.
func (s *SecretsManager) reusesKey(ctx context.Context, ref rotation.KeyRef) *bool {
	if deadline, ok := ctx.Deadline(); ok { // the read itself needs time too
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	if ref.ID != "" {
		metadata, _ := s.metadata(ctx, ref.ID)
		credentials, _ := metadata.(*sm.IAMCredentialsSecretMetadata)
		return reuseOf(credentials)
	}
	if ref.Type != sm.SecretMetadata_SecretType_IamCredentials {
		return nil
	}
	page, err := call(ctx, s, operation{doing: "looking for the key secret", limit: secretAnswer}, func(ctx context.Context) (*sm.SecretMetadataPaginatedCollection, *core.DetailedResponse, error) {
		return s.sdk.ListSecretsWithContext(ctx, &sm.ListSecretsOptions{Search: &ref.Name, SecretTypes: []string{ref.Type}})
	})
	if err != nil {
		return nil
	}
	for _, metadata := range page.Secrets {
		// Names are unique for each type.
		if credentials, ok := metadata.(*sm.IAMCredentialsSecretMetadata); ok && deref(credentials.Name) == ref.Name {
			return reuseOf(credentials)
		}
	}
	return nil
}

func reuseOf(credentials *sm.IAMCredentialsSecretMetadata) *bool {
	if credentials == nil {
		return nil
	}
	reuse := deref(credentials.ReuseApiKey)
	return &reuse
}

// keyOf takes the key out of the secret that ref names.
func keyOf(secret sm.SecretIntf, ref rotation.KeyRef) (iamtoken.Secret, error) {
	value, err := keyIn(secret, ref.Field)
	if err != nil {
		return iamtoken.Secret{}, err
	}
	return checkKey(value)
}

// keyIn finds the key where a secret of its type has it.
func keyIn(secret sm.SecretIntf, field string) (string, error) {
	if _, kv := secret.(*sm.KVSecret); !kv && field != "" {
		return "", misconfigured("api_key_field is set, but the key secret is not of type kv: remove one or change the other")
	}
	switch secret := secret.(type) {
	case *sm.ArbitrarySecret:
		return deref(secret.Payload), nil
	case *sm.KVSecret:
		return kvKey(secret.Data, field)
	case *sm.ServiceCredentialsSecret:
		if secret.Credentials == nil {
			return "", nil
		}
		return deref(secret.Credentials.Apikey), nil
	case *sm.IAMCredentialsSecret:
		if secret.ReuseApiKey == nil || !*secret.ReuseApiKey {
			return "", errKeyNotReused()
		}
		return deref(secret.ApiKey), nil
	default:
		return "", misconfigured("the key secret's type cannot hold an API key: use arbitrary, kv, service_credentials or iam_credentials")
	}
}

func kvKey(data map[string]any, field string) (string, error) {
	if field == "" {
		return "", misconfigured("the key secret is of type kv: name the entry that holds the key in api_key_field")
	}
	value, ok := data[field].(string)
	if !ok {
		// The field is not repeated: it may be the key itself.
		return "", misconfigured("the key secret has no text entry of the name in api_key_field: correct one of them")
	}
	return value, nil
}

func errKeyNotReused() error {
	return misconfigured("the key secret is of type iam_credentials with reuse_api_key false: every read makes a new key " +
		"and deletes the last, so tokens of others break; create it with reuse_api_key true")
}

// maxKey is the greatest length of an API key. IAM's have 44 characters; each is sent,
// and looked for in what comes back.
const maxKey = 8192

// checkKey trims the white space that editors and echo leave behind, and rejects
// what cannot be an API key.
func checkKey(value string) (iamtoken.Secret, error) {
	key := strings.TrimSpace(value)
	switch {
	case key == "":
		return iamtoken.Secret{}, misconfigured("the key secret holds no API key: it is empty or was destroyed")
	case len(key) > maxKey, strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return iamtoken.Secret{}, misconfigured("the key secret holds something other than one API key: store the bare key")
	}
	return iamtoken.NewSecret(key), nil
}

// checkNoKey returns an error if a key is read from the token secret.
func (s *SecretsManager) checkNoKey(ctx context.Context, ref rotation.TokenRef, version storedVersion) error {
	if version.secretName == "" { // the service need not report it
		if err := s.findKeySecrets(context.WithValue(ctx, responseKey{}, nil), version.secretType); err != nil {
			return err
		}
	}
	if _, byName := s.keyNames[version.secretType+"/"+version.secretName]; byName || s.holdsKey(ref.ID, version.secretID) {
		return errOverKey()
	}
	return nil
}

// holdsKey reports whether a rotation reads its key from the secret to which a token
// is to be saved. The configuration may name it in two ways: by id, as given there
// or as the service reports it, and by name, which is unique for each type.
func (s *SecretsManager) holdsKey(ids ...string) bool {
	for _, id := range ids {
		if _, ok := s.keyIDs.Load(strings.ToLower(id)); ok {
			return true
		}
	}
	return false
}

func (s *SecretsManager) noteKeySecret(ref rotation.KeyRef, secret sm.SecretIntf) {
	if id := describe(secret).ID; id != "" {
		s.keyIDs.Store(strings.ToLower(id), true)
		s.found.Store(ref, true)
	}
}

// findKeySecrets reads the secrets of a type that keys are read from by name, for their
// ids. One that cannot be read gives nobody a key.
func (s *SecretsManager) findKeySecrets(ctx context.Context, kind string) error {
	for _, ref := range s.keyNames {
		if _, ok := s.found.Load(ref); ok || ref.Type != kind {
			continue
		}
		secret, err := s.readSecret(ctx, ref, keySecretAdvice)
		var failure *rotation.Error
		if errors.As(err, &failure) && failure.Retry != rotation.Never {
			return err
		}
		if err == nil {
			s.noteKeySecret(ref, secret)
		}
	}
	return nil
}

func errOverKey() error {
	return misconfigured("TOKEN_SECRET (or token_secret) is a secret that a rotation reads its API key from: the token would replace it; name another")
}
