package ibmcloud

import (
	"context"
	"strings"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// ReadKey reads an API key from an arbitrary, kv, service_credentials or
// iam_credentials secret. The bootstrap identity needs secret.read on its group.
func (s *SecretsManager) ReadKey(ctx context.Context, ref rotation.KeyRef) (iamtoken.Secret, error) {
	secret, err := s.readSecret(ctx, ref)
	if err != nil {
		return iamtoken.Secret{}, err
	}
	s.keySecrets.Store(idOf(secret), true)
	return keyOf(secret, ref)
}

func (s *SecretsManager) readSecret(ctx context.Context, ref rotation.KeyRef) (sm.SecretIntf, error) {
	return call(ctx, s, operation{
		doing:    "reading the API key",
		refused:  "the bootstrap identity's token is not taken: was the identity deleted, or the token revoked?",
		denied:   "give the bootstrap identity a role with secret.read on the key's secret group, if it is the right identity and API_KEY_SECRET the right secret; a new policy takes minutes to reach everywhere",
		notFound: "there is no such secret: check API_KEY_SECRET (or api_key_secret)",
		locked:   "the key secret is locked: remove its locks",
	}, func(ctx context.Context) (sm.SecretIntf, *core.DetailedResponse, error) {
		if ref.ID != "" {
			return s.sdk.GetSecretWithContext(ctx, &sm.GetSecretOptions{ID: &ref.ID})
		}
		return s.sdk.GetSecretByNameTypeWithContext(ctx, &sm.GetSecretByNameTypeOptions{
			SecretGroupName: &ref.Group, SecretType: &ref.Type, Name: &ref.Name,
		})
	})
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

func errKeyNotReused() error {
	return misconfigured("the key secret is of type iam_credentials with reuse_api_key false: every read makes a new key " +
		"and deletes the last, so tokens of others break; create it with reuse_api_key true")
}

// idOf is the id of a secret that may hold a key, empty for others.
func idOf(secret sm.SecretIntf) string {
	switch secret := secret.(type) {
	case *sm.ArbitrarySecret:
		return deref(secret.ID)
	case *sm.KVSecret:
		return deref(secret.ID)
	case *sm.ServiceCredentialsSecret:
		return deref(secret.ID)
	case *sm.IAMCredentialsSecret:
		return deref(secret.ID)
	default:
		return ""
	}
}

// isKeySecret reports whether a key was read from the secret: the configuration
// may name the same secret by name and by id.
func (s *SecretsManager) isKeySecret(id string) bool {
	_, ok := s.keySecrets.Load(id)
	return ok
}

func kvKey(data map[string]any, field string) (string, error) {
	if field == "" {
		return "", misconfigured("the key secret is of type kv: name the entry that holds the key in api_key_field")
	}
	value, ok := data[field].(string)
	if !ok {
		// The field is not repeated: somebody will put the key itself there.
		return "", misconfigured("the key secret has no text entry of the name in api_key_field: correct one of them")
	}
	return value, nil
}

// checkKey trims the white space that editors and echo leave behind, and refuses
// what cannot be an API key.
func checkKey(value string) (iamtoken.Secret, error) {
	key := strings.TrimSpace(value)
	switch {
	case key == "":
		return iamtoken.Secret{}, misconfigured("the key secret holds no API key: it is empty or was destroyed")
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return iamtoken.Secret{}, misconfigured("the key secret holds something other than one API key: store the bare key")
	}
	return iamtoken.NewSecret(key), nil
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
