package ibmcloud

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	if err == nil && secret.Type != typeIAMCredentials {
		return rotation.KeySecret{}, misconfigured("BOOTSTRAP_KEY_SECRET names a secret whose key nobody renews", "name one of type iam_credentials")
	}
	return secret, err
}

// InspectManagedKey is ReadManagedKey for a diagnosis, which makes no key, see ReadKeySecret.
func (s *SecretsManager) InspectManagedKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	if err := s.checkUnread(ctx, ref); err != nil {
		return rotation.KeySecret{}, err
	}
	return s.ReadManagedKey(ctx, ref)
}

// ReadKeySecret reads an API key and describes its secret. The bootstrap identity
// needs secret.read on its group.
//
// Reading an iam_credentials secret with reuse_api_key false makes a new key and
// deletes the last, so the metadata is read first. An identity that may not
// read it (secret-metadata.read, or secrets.list where the secret is given by name)
// reads all the same, as a rotation does.
func (s *SecretsManager) ReadKeySecret(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	if err := s.checkUnread(ctx, ref); err != nil {
		return rotation.KeySecret{}, err
	}
	return s.ReadCurrentKey(ctx, ref)
}

// checkUnread returns an error if reading the secret would make a key, as far as that can
// be seen.
func (s *SecretsManager) checkUnread(ctx context.Context, ref rotation.KeyRef) error {
	seen := s.credentialsOf(ctx, ref)
	if seen == nil {
		return nil
	}
	return checkCredentials(seen.ReuseApiKey, seen.ServiceIdIsStatic, seen.AccessGroups)
}

var (
	keyTypes        = []string{typeArbitrary, typeKV, typeServiceCredentials, typeIAMCredentials}
	keySecretAdvice = operation{
		doing:    "reading the API key",
		limit:    secretAnswer,
		types:    keyTypes,
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret.read on the key's secret group, if it is the right identity and API_KEY_SECRET the right secret; a new policy takes minutes to reach everywhere",
		notFound: "there is no such secret: check API_KEY_SECRET (or api_key_secret); one of type iam_credentials is gone when its lease has ended: delete it, and make it anew under the same name",
		locked:   "the key secret is locked: remove its locks",
	}
	managedKeyAdvice = operation{
		doing:    "reading the managed bootstrap key",
		limit:    secretAnswer,
		types:    keyTypes,
		rejected: tokenRejected,
		denied:   "give the bootstrap identity a role with secret.read on that secret's group, if BOOTSTRAP_KEY_SECRET is the right secret; a new policy takes minutes to reach everywhere",
		notFound: "there is no such secret, or its key has expired: check BOOTSTRAP_KEY_SECRET, or make the secret anew",
		locked:   "the secret is locked: remove its locks",
	}
)

func (s *SecretsManager) readKeySecret(ctx context.Context, ref rotation.KeyRef, op operation) (rotation.KeySecret, error) {
	ctx, got := withResponse(ctx)
	secret, err := s.readSecret(ctx, ref, op)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	s.noteKeySecret(ref, secret)
	value, err := keyIn(secret, ref.Field)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	key, err := checkKey(value)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	read := rotation.KeySecret{SecretDescription: describe(secret), Key: key, Clock: got.clock}
	if credentials, ok := secret.(*sm.IAMCredentialsSecret); ok {
		read.KeyID, read.TTL = keyIDOf(deref(credentials.ApiKeyID)), ttlOf(deref(credentials.TTL))
		read.Interval, read.NextRotation = intervalOf(credentials.Rotation), time.Time(deref(credentials.NextRotationDate))
	}
	return read, nil
}

// keyIDOf is IAM's id of a key, which reports and logs repeat: in place of anything but an
// id, which could be a key, is its hash.
func keyIDOf(text string) string {
	if id, ok := strings.CutPrefix(text, "ApiKey-"); text == "" || ok && iamtoken.IsSecretID(id) {
		return text
	}
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:16])
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
		return nil, unavailable(op.doing + ": the answer is about another secret: is there a proxy in between?")
	}
	return secret, err
}

// credentialsOf returns the metadata of an iam_credentials secret; nil for others, and
// when it cannot be seen.
func (s *SecretsManager) credentialsOf(ctx context.Context, ref rotation.KeyRef) *sm.IAMCredentialsSecretMetadata {
	if deadline, ok := ctx.Deadline(); ok { // the read itself needs time too
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	if ref.ID != "" {
		metadata, _ := s.metadata(ctx, ref.ID, nil)
		credentials, _ := metadata.(*sm.IAMCredentialsSecretMetadata)
		return credentials
	}
	if ref.Type != typeIAMCredentials {
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
			return credentials
		}
	}
	return nil
}

// checkCredentials rejects an iam_credentials secret whose key, or whose owner, is another
// one every time.
func checkCredentials(reuse, static *bool, groups []string) error {
	switch {
	case !deref(reuse):
		return misconfigured("the key secret is of type iam_credentials with reuse_api_key false: every read makes a new key and deletes the last, so tokens of others break",
			"create it with reuse_api_key true and a fixed service_id")
	case static != nil && !*static, len(groups) > 0:
		return misconfigured("the key secret is of type iam_credentials and made by access groups (service_id_is_static false): its service id, and so the token's identity, is another one after each rotation and lease",
			"create it with a fixed service_id, which has the job's permissions, and reuse_api_key true")
	}
	return nil
}

// keyIn finds the key where a secret of its type has it.
func keyIn(secret sm.SecretIntf, field string) (string, error) {
	if _, kv := secret.(*sm.KVSecret); !kv && field != "" {
		return "", misconfigured("api_key_field is set, but the key secret is not of type kv", "remove one or change the other")
	}
	switch secret := secret.(type) {
	case *sm.ArbitrarySecret:
		return deref(secret.Payload), nil
	case *sm.KVSecret:
		return kvKey(secret.Data, field)
	case *sm.ServiceCredentialsSecret:
		if key := deref(deref(secret.Credentials).Apikey); key != "" {
			return key, nil
		}
		return "", misconfigured("the key secret is of type service_credentials, and its credentials have no apikey"+leaseOf(time.Time(deref(secret.ExpirationDate))),
			"name one whose service has IAM API keys, or an arbitrary secret with the key; one whose lease has ended: make it anew")
	case *sm.IAMCredentialsSecret:
		if err := checkCredentials(secret.ReuseApiKey, secret.ServiceIdIsStatic, secret.AccessGroups); err != nil {
			return "", err
		}
		if key := deref(secret.ApiKey); key != "" {
			return key, nil
		}
		return "", misconfigured("the key secret is of type iam_credentials, and gives no API key any more: its lease has ended"+leaseOf(time.Time(deref(secret.ExpirationDate))),
			"delete it, and make it anew under the same name; a rotation of its own before the lease ends prevents this")
	default:
		return "", misconfigured("the key secret's type cannot hold an API key", "name another") // see operation.types
	}
}

// leaseOf says until when a secret gives its key; empty if that is not known.
func leaseOf(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return " (lease: until " + at.UTC().Format(time.RFC3339) + ")"
}

func kvKey(data map[string]any, field string) (string, error) {
	if field == "" {
		return "", misconfigured("the key secret is of type kv", "name the entry that holds the key in api_key_field")
	}
	value, ok := data[field].(string)
	if !ok {
		// The field is not repeated: it may be the key itself.
		return "", misconfigured("the key secret has no text entry of the name in api_key_field", "correct one of them")
	}
	return value, nil
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
		return iamtoken.Secret{}, misconfigured("the key secret holds no API key: it is empty or was destroyed", "store the bare key")
	case len(key) > maxKey:
		return iamtoken.Secret{}, misconfigured("the key secret holds more than an API key", "store the bare key")
	}
	if err := iamtoken.CheckAPIKey(key); err != nil {
		return iamtoken.Secret{}, misconfigured("what the key secret holds "+err.Error(), "store the bare key")
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
	return misconfigured("TOKEN_SECRET (or token_secret) is a secret that a rotation reads its API key from, which the token would replace", "name another")
}
