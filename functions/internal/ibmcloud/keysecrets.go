package ibmcloud

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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

// ReadCurrentKey is ReadKey, and returns the secret's description too.
func (s *SecretsManager) ReadCurrentKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	return s.readKeySecret(ctx, ref, readingKey)
}

// ReadManagedKey reads the secret of type iam_credentials that IBM renews the bootstrap
// key in. The bootstrap identity needs secret.read on its group.
func (s *SecretsManager) ReadManagedKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	secret, err := s.readKeySecret(ctx, ref, readingManagedKey)
	if err == nil && secret.Type != typeIAMCredentials {
		return rotation.KeySecret{}, misconfigured("BOOTSTRAP_KEY_SECRET names a secret whose key nobody renews", "name one of type iam_credentials")
	}
	return secret, err
}

// InspectManagedKey is ReadManagedKey for a diagnosis, which must not cause a new key.
func (s *SecretsManager) InspectManagedKey(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	if err := s.checkReadMakesNoKey(ctx, ref); err != nil {
		return rotation.KeySecret{}, err
	}
	return s.ReadManagedKey(ctx, ref)
}

// ReadKeySecret is ReadCurrentKey for a diagnosis, which must not cause a new key.
func (s *SecretsManager) ReadKeySecret(ctx context.Context, ref rotation.KeyRef) (rotation.KeySecret, error) {
	if err := s.checkReadMakesNoKey(ctx, ref); err != nil {
		return rotation.KeySecret{}, err
	}
	return s.ReadCurrentKey(ctx, ref)
}

const newPolicy = "; a new policy takes minutes to reach everywhere"

var (
	keyTypes   = []string{typeArbitrary, typeKV, typeServiceCredentials, typeIAMCredentials}
	readingKey = operation{
		doing:    "reading the API key",
		limit:    largeAnswer,
		types:    keyTypes,
		denied:   "give the bootstrap identity a role with secret.read on the key's secret group, if it is the right identity and API_KEY_SECRET the right secret" + newPolicy,
		notFound: "there is no such secret: check API_KEY_SECRET (or api_key_secret); one of type iam_credentials is gone when its lease has ended: delete it, and create it again under the same name",
		locked:   "the key secret is locked: remove its locks",
	}
	readingManagedKey = operation{
		doing:    "reading the managed bootstrap key",
		limit:    largeAnswer,
		types:    keyTypes,
		denied:   "give the bootstrap identity a role with secret.read on that secret's group, if BOOTSTRAP_KEY_SECRET is the right secret" + newPolicy,
		notFound: "there is no such secret, or its key has expired: check BOOTSTRAP_KEY_SECRET, or create the secret again",
		locked:   "the secret is locked: remove its locks",
	}
)

func (s *SecretsManager) readKeySecret(ctx context.Context, ref rotation.KeyRef, op operation) (rotation.KeySecret, error) {
	secret, err := s.readSecret(ctx, ref, op)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	value, err := secret.key(ref.Field)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	key, err := trimKey(value)
	if err != nil {
		return rotation.KeySecret{}, err
	}
	read := rotation.KeySecret{SecretDescription: secret.describe(), Key: key, Clock: secret.clock}
	if secret.Type == typeIAMCredentials {
		read.KeyID, read.TTL = keyIDOf(secret.APIKeyID), ttlOf(secret.TTL)
		read.Interval, read.NextRotation = secret.Rotation.every(), secret.NextRotation.Time
	}
	return read, nil
}

func (s *SecretsManager) readSecret(ctx context.Context, ref rotation.KeyRef, op operation) (*reply, error) {
	secret, err := s.ask(ctx, op, func(ctx context.Context) {
		if ref.ID != "" {
			_, _, _ = s.sdk.GetSecretWithContext(ctx, &sm.GetSecretOptions{ID: &ref.ID})
			return
		}
		_, _, _ = s.sdk.GetSecretByNameTypeWithContext(ctx, &sm.GetSecretByNameTypeOptions{SecretGroupName: &ref.Group, SecretType: &ref.Type, Name: &ref.Name})
	})
	switch {
	case err != nil:
		return nil, err
	case secret.ID != "" && ref.ID != "" && !strings.EqualFold(secret.ID, ref.ID):
		return nil, unavailable(op.doing + ": the answer is about another secret: is there a proxy in between?")
	}
	s.keys.add(ref, secret.ID)
	return secret, nil
}

// keyIDOf returns the id of a key, which reports and logs repeat. A text that is not such an
// id may be a key, so its hash is returned instead.
func keyIDOf(text string) string {
	if id, ok := strings.CutPrefix(text, "ApiKey-"); text == "" || ok && iamtoken.IsSecretID(id) {
		return text
	}
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:16])
}

// ttlOf reads a lifetime: a duration such as 1080h, or a number of seconds. It is 0 if text
// is neither.
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

// rule says how often a secret rotates automatically.
type rule struct {
	AutoRotate bool   `json:"auto_rotate"`
	Interval   int64  `json:"interval"`
	Unit       string `json:"unit"`
}

// every is the time between two automatic rotations, or 0 when there are none or the unit is
// not known. A month counts as 31 days.
func (r rule) every() time.Duration {
	const day = 24 * time.Hour
	unit := map[string]time.Duration{"day": day, "month": 31 * day}[r.Unit]
	if !r.AutoRotate {
		return 0
	}
	return time.Duration(min(max(0, r.Interval), 1000)) * unit
}

// checkReadMakesNoKey returns an error if reading the secret would make a new key: with
// reuse_api_key false each read of an iam_credentials secret makes a key and deletes the one
// before. It reads the secret's metadata, for which an identity needs secret-metadata.read, or
// secrets.list if the secret is given by name. Without that permission the check is left out,
// and the secret is read as in a rotation.
func (s *SecretsManager) checkReadMakesNoKey(ctx context.Context, ref rotation.KeyRef) error {
	if deadline, ok := ctx.Deadline(); ok { // the read itself needs time too
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	switch {
	case ref.ID != "":
		if seen, err := s.metadata(ctx, ref.ID, nil); err == nil && seen.Type == typeIAMCredentials {
			return seen.checkCredentials()
		}
	case ref.Type == typeIAMCredentials:
		page, err := s.ask(ctx, operation{limit: largeAnswer}, func(ctx context.Context) {
			_, _, _ = s.sdk.ListSecretsWithContext(ctx, &sm.ListSecretsOptions{Search: &ref.Name, SecretTypes: []string{ref.Type}})
		})
		if err != nil {
			return nil
		}
		for _, seen := range page.Secrets {
			if seen.Type == ref.Type && seen.Name == ref.Name { // names are unique for each type
				return seen.checkCredentials()
			}
		}
	}
	return nil
}

// checkCredentials rejects an iam_credentials secret that gives another key, or a key of
// another owner, from time to time.
func (r *reply) checkCredentials() error {
	switch {
	case !r.ReuseAPIKey:
		return misconfigured("the key secret is of type iam_credentials with reuse_api_key false: every read makes a new key and deletes the last, so tokens of others break",
			"create it with reuse_api_key true and a fixed service_id")
	case r.StaticServiceID != nil && !*r.StaticServiceID, len(r.AccessGroups) > 0:
		return misconfigured("the key secret is of type iam_credentials and made by access groups (service_id_is_static false): its service id, and so the token's identity, is another one after each rotation and lease",
			"create it with a fixed service_id, which has the job's permissions, and reuse_api_key true")
	}
	return nil
}

// key returns the API key from the field in which a secret of this type has it.
func (r *reply) key(field string) (iamtoken.Secret, error) {
	var none iamtoken.Secret
	lease := "" // what a message adds to "its lease has ended"
	if !r.ExpirationDate.IsZero() {
		lease = " (lease: until " + r.ExpirationDate.UTC().Format(time.RFC3339) + ")"
	}
	switch {
	case r.Type != typeKV && field != "":
		return none, misconfigured("api_key_field is set, but the key secret is not of type kv", "remove one or change the other")
	case r.Type == typeKV && field == "":
		return none, misconfigured("the key secret is of type kv", "name the entry that holds the key in api_key_field")
	case r.Type == typeKV:
		var value *iamtoken.Secret
		if json.Unmarshal(r.Data[field], &value) != nil || value == nil {
			// The field is not repeated: it may be the key itself.
			return none, misconfigured("the key secret has no text entry of the name in api_key_field", "correct one of them")
		}
		return *value, nil
	case r.Type == typeServiceCredentials && r.Credentials.APIKey.IsZero():
		return none, misconfigured("the key secret is of type service_credentials, and its credentials have no apikey"+lease,
			"name one whose service has IAM API keys, or an arbitrary secret with the key; one whose lease has ended: create it again")
	case r.Type == typeServiceCredentials:
		return r.Credentials.APIKey, nil
	case r.Type == typeIAMCredentials:
		if err := r.checkCredentials(); err != nil {
			return none, err
		}
		if r.APIKey.IsZero() {
			return none, misconfigured("the key secret is of type iam_credentials, and gives no API key any more: its lease has ended"+lease,
				"delete it, and create it again under the same name; a rotation of its own before the lease ends prevents this")
		}
		return r.APIKey, nil
	}
	return r.Payload, nil
}

// maxKey is the greatest length of an API key, in bytes. IAM's have 44 characters. A limit is
// needed because each key is sent, and searched for in the answer.
const maxKey = 8192

// trimKey trims the white space that editors and echo leave behind, and rejects a value that
// cannot be an API key.
func trimKey(value iamtoken.Secret) (iamtoken.Secret, error) {
	key := strings.TrimSpace(value.Reveal())
	wrong := ""
	switch err := iamtoken.CheckAPIKey(key); {
	case key == "":
		wrong = "the key secret holds no API key: it is empty or was destroyed"
	case len(key) > maxKey:
		wrong = "the key secret holds more than an API key"
	case err != nil:
		wrong = "what the key secret holds " + err.Error()
	default:
		return iamtoken.NewSecret(key), nil
	}
	return iamtoken.Secret{}, misconfigured(wrong, "store the bare key")
}

// keySecrets are the secrets that rotations read keys from. There may be thousands, and every
// save looks one up.
type keySecrets struct {
	mu    sync.Mutex
	ids   map[string]bool                        // the ids that are known, in lower case
	names map[typedName]map[rotation.KeyRef]bool // the secrets that the configuration gives by name, in one group or several: whether ids has its id
}

// typedName names a secret: names are unique for each type.
type typedName struct{ kind, name string }

// add records a secret, and its id unless that is "". It does not forget an id.
func (k *keySecrets) add(ref rotation.KeyRef, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ids == nil {
		k.ids, k.names = map[string]bool{}, map[typedName]map[rotation.KeyRef]bool{}
	}
	if id != "" {
		k.ids[strings.ToLower(id)] = true
	}
	if name := (typedName{ref.Type, ref.Name}); ref.ID == "" {
		if k.names[name] == nil {
			k.names[name] = map[rotation.KeyRef]bool{}
		}
		k.names[name][ref] = k.names[name][ref] || id != ""
	}
}

// has reports whether the secret with this name, or with one of these ids, is a key secret.
// Both are needed, because the configuration may give one secret by name and by id.
func (k *keySecrets) has(name typedName, ids ...string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, named := k.names[name]
	return named || slices.ContainsFunc(ids, func(id string) bool { return k.ids[strings.ToLower(id)] })
}

// withoutID returns the secrets of a type whose ids are not known.
func (k *keySecrets) withoutID(kind string) (refs []rotation.KeyRef) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, named := range k.names {
		for ref, idKnown := range named {
			if name.kind == kind && !idKnown {
				refs = append(refs, ref)
			}
		}
	}
	return refs
}

// checkNotKeySecret returns an error if a rotation reads its key from the token secret. If
// the service does not report the token secret's name, the key secrets are read for their
// ids. A key secret that cannot be read is no danger: nobody gets a key from it.
func (s *SecretsManager) checkNotKeySecret(ctx context.Context, ref rotation.TokenRef, version *reply) error {
	if version.SecretName == "" {
		for _, key := range s.keys.withoutID(version.Type) {
			if _, err := s.readSecret(ctx, key, readingKey); err != nil && rotation.ErrorOf(err).Retry != rotation.Never {
				return err
			}
		}
	}
	if s.keys.has(typedName{version.Type, version.SecretName}, ref.ID, version.SecretID) {
		return errIsKeySecret()
	}
	return nil
}

func errIsKeySecret() error {
	return misconfigured("TOKEN_SECRET (or token_secret) is a secret that a rotation reads its API key from, which the token would replace", "name another")
}
