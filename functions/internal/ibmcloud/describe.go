package ibmcloud

import (
	"context"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"

	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/rotation"
)

// stateDestroyed is the state of a secret whose expiration date has come.
const stateDestroyed = 5

// ReadKeySecret reads an API key and what its secret tells beside it. The
// bootstrap identity needs secret.read on its group.
//
// Reading an iam_credentials secret with reuse_api_key false makes a new key and
// deletes the last, so the metadata is looked at first. An identity that may not
// look (secret-metadata.read, or secrets.list where the secret is given by name)
// reads all the same, as a rotation does.
func (s *SecretsManager) ReadKeySecret(ctx context.Context, ref rotation.KeyRef) (doctor.KeySecret, error) {
	if reuse := s.reusesKey(ctx, ref); reuse != nil && !*reuse {
		return doctor.KeySecret{}, errKeyNotReused()
	}
	secret, err := s.readSecret(ctx, ref)
	if err != nil {
		return doctor.KeySecret{}, err
	}
	key, err := keyOf(secret, ref)
	if err != nil {
		return doctor.KeySecret{}, err
	}
	return doctor.KeySecret{Secret: describe(secret), Key: key}, nil
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
	page, err := call(ctx, s, operation{doing: "looking for the key secret"}, func(ctx context.Context) (*sm.SecretMetadataPaginatedCollection, *core.DetailedResponse, error) {
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

// Describe returns the metadata of the token secret, never its value. The
// bootstrap identity needs secret-metadata.read on its group, and only for this.
func (s *SecretsManager) Describe(ctx context.Context, id string) (doctor.Secret, error) {
	metadata, err := s.metadata(ctx, id)
	if err != nil {
		return doctor.Secret{}, err
	}
	return describe(metadata), nil
}

func (s *SecretsManager) metadata(ctx context.Context, id string) (sm.SecretMetadataIntf, error) {
	return call(ctx, s, operation{
		doing:    "looking at the secret's metadata",
		refused:  "the bootstrap identity's token is not taken: was the identity deleted, or the token revoked?",
		denied:   "give the bootstrap identity a role with secret-metadata.read on the token's secret group, which doctor alone needs",
		notFound: "there is no such secret: check TOKEN_SECRET (or token_secret); the function never creates it",
		locked:   "the token secret is locked: remove its locks",
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
		refused:  "the bootstrap identity's token is not taken: was the identity deleted, or the token revoked?",
		denied:   "give the bootstrap identity a role with secret-version-locks.list on the token's secret group, which doctor alone needs",
		notFound: "there is no such version: check TOKEN_SECRET (or token_secret)",
		locked:   "the token secret is locked: remove its locks",
	}, func(ctx context.Context) (*sm.SecretVersionLocksPaginatedCollection, *core.DetailedResponse, error) {
		return s.sdk.ListSecretVersionLocksWithContext(ctx, &sm.ListSecretVersionLocksOptions{SecretID: &id, ID: &version})
	})
	if err != nil {
		return 0, err
	}
	if page.TotalCount == nil {
		return 0, &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later,
			Message: "counting the locks of the " + version + " version: the answer does not tell how many there are"}
	}
	return max(int(*page.TotalCount), len(page.Locks)), nil
}

// describe takes what doctor needs out of a secret or its metadata.
func describe(secret any) doctor.Secret {
	switch s := secret.(type) {
	case *sm.ArbitrarySecret:
		return secretOf(s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, time.Time(deref(s.ExpirationDate)))
	case *sm.ArbitrarySecretMetadata:
		return secretOf(s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, time.Time(deref(s.ExpirationDate)))
	case *sm.KVSecret:
		return secretOf(s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, time.Time{})
	case *sm.KVSecretMetadata:
		return secretOf(s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, time.Time{})
	case *sm.ServiceCredentialsSecret:
		return secretOf(s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, time.Time(deref(s.ExpirationDate)))
	case *sm.IAMCredentialsSecret:
		return secretOf(s.SecretType, s.SecretGroupID, s.State, s.VersionsTotal, time.Time(deref(s.ExpirationDate)))
	default:
		return doctor.Secret{}
	}
}

func secretOf(kind, group *string, state, versions *int64, expires time.Time) doctor.Secret {
	return doctor.Secret{
		Type: deref(kind), GroupID: deref(group), Destroyed: deref(state) == stateDestroyed,
		ExpiresAt: expires, Versions: int(deref(versions)),
	}
}
