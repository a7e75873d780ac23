package awscloud

import (
	"context"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"

	"iam-token-rotator/functions/iamtoken"
)

// KeyStore is the AWS secret with the bootstrap key. To read it takes
// secretsmanager:GetSecretValue, and kms:Decrypt on its key if that is not AWS's own; Put
// takes secretsmanager:PutSecretValue and kms:GenerateDataKey. Every call reads the secret
// afresh; white space around the key is trimmed. Errors are *rotation.Error.
//
// Credentials come from where AWS's programs take them, see credentialSource.
type KeyStore struct{ secret *secret }

// NewKeyStore opens no connection.
func NewKeyStore(secretARN string, transport http.RoundTripper) *KeyStore {
	return &KeyStore{newSecret(secretARN, newCredentialSource(transport), false)}
}

// Key reads the key.
func (k *KeyStore) Key(ctx context.Context) (iamtoken.Secret, error) {
	key, _, err := k.Current(ctx)
	return key, err
}

// Current reads the key and the id of its version.
func (k *KeyStore) Current(ctx context.Context) (key iamtoken.Secret, versionID string, err error) {
	return k.secret.read(ctx, nil)
}

// Previous reads the key before the current one and the id of its version.
func (k *KeyStore) Previous(ctx context.Context) (key iamtoken.Secret, versionID string, err error) {
	return k.secret.read(ctx, aws.String("AWSPREVIOUS"))
}

// PreviousKey reads the key before the current one.
func (k *KeyStore) PreviousKey(ctx context.Context) (iamtoken.Secret, error) {
	key, _, err := k.Previous(ctx)
	return key, err
}

// Put makes key the current one, of a version with this id, of 32 to 64 characters. AWS
// changes nothing if it has a version of that id with the same key, which may be an
// older one.
func (k *KeyStore) Put(ctx context.Context, key iamtoken.Secret, versionID string) error {
	calls, err := k.secret.ready(ctx)
	if err != nil {
		return err
	}
	if err := k.secret.put(ctx, calls, versionID, key); err != nil {
		storing := k.secret.resource
		storing.written = true
		return storing.failure(err)
	}
	return nil
}
