package awscloud

import (
	"context"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"iam-token-rotator/functions/iamtoken"
)

// KeyStore is the AWS secret with the bootstrap key, see BootstrapKey. Only Put needs
// more than to read it: secretsmanager:PutSecretValue, and on a KMS key of one's own
// also kms:GenerateDataKey.
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

// Previous reads the key before the current one.
func (k *KeyStore) Previous(ctx context.Context) (iamtoken.Secret, error) {
	key, _, err := k.secret.read(ctx, aws.String("AWSPREVIOUS"))
	return key, err
}

// Put makes key the current one, of a version with this id, of 32 to 64 characters. AWS
// changes nothing if it has a version of that id with the same key, which may be an
// older one.
func (k *KeyStore) Put(ctx context.Context, key iamtoken.Secret, versionID string) error {
	client, err := k.secret.ready(ctx)
	if err != nil {
		return err
	}
	if err := k.secret.put(ctx, client, versionID, key); err != nil {
		failure := k.secret.failure(err)
		failure.Message = strings.Replace(failure.Message, k.secret.doing(), "storing the new bootstrap key in the AWS secret "+k.secret.arn, 1)
		if refused, _ := refusalOf(err); refused.cause == denied || refused.cause == deniedByKMS {
			const advice = "let the function's role call secretsmanager:PutSecretValue on it, and kms:GenerateDataKey with a KMS key of your own (BootstrapKeySecret allows both)"
			failure.Message, failure.Advice = strings.TrimSuffix(failure.Message, failure.Advice)+advice, advice
		}
		return failure
	}
	return nil
}
