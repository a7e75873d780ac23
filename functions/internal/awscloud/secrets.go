// Package awscloud reads the bootstrap API key from AWS Secrets Manager, so that a function
// on AWS needs no key in its environment. For jobs on AWS that have no IBM identity it
// mirrors the tokens in AWS Secrets Manager and SSM Parameter Store. It also puts events on
// an EventBridge bus.
package awscloud

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// secret is an AWS secret and its connection.
type secret struct {
	connection[secretCalls]
	verified atomic.Bool // describe has succeeded: AWS has the secret under this ARN
}

type secretCalls struct {
	get      call[secretsmanager.GetSecretValueInput, secretsmanager.Options, secretsmanager.GetSecretValueOutput]
	describe call[secretsmanager.DescribeSecretInput, secretsmanager.Options, secretsmanager.DescribeSecretOutput]
	put      call[secretsmanager.PutSecretValueInput, secretsmanager.Options, secretsmanager.PutSecretValueOutput]
}

func newSecret(arn string, of purpose, source *credentialSource) *secret {
	return &secret{connection: connection[secretCalls]{resource: resource{arn, of, source}, build: func(cfg aws.Config) secretCalls {
		client := secretsmanager.NewFromConfig(cfg)
		return secretCalls{client.GetSecretValue, client.DescribeSecret, client.PutSecretValue}
	}}}
}

// KeyStore is the AWS secret with the bootstrap key. Reading needs
// secretsmanager:GetSecretValue, and kms:Decrypt if the secret has a KMS key of your own; Put
// needs secretsmanager:PutSecretValue, and then kms:GenerateDataKey. Every call reads the
// secret again, and trims white space around the key. Errors are *rotation.Error.
//
// Its AWS credentials are those of credentialSource.
type KeyStore struct{ *secret }

// NewKeyStore opens no connection.
func NewKeyStore(secretARN string, transport http.RoundTripper) *KeyStore {
	return &KeyStore{newSecret(secretARN, keyRead, newCredentialSource(transport))}
}

// Key reads the key.
func (k *KeyStore) Key(ctx context.Context) (iamtoken.Secret, error) {
	key, _, err := k.Current(ctx)
	return key, err
}

// PreviousKey reads the key before the current one.
func (k *KeyStore) PreviousKey(ctx context.Context) (iamtoken.Secret, error) {
	key, _, err := k.Previous(ctx)
	return key, err
}

// Current reads the key and the id of its version.
func (k *KeyStore) Current(ctx context.Context) (key iamtoken.Secret, versionID string, err error) {
	return k.read(ctx, nil)
}

// Previous reads the key before the current one and the id of its version.
func (k *KeyStore) Previous(ctx context.Context) (key iamtoken.Secret, versionID string, err error) {
	return k.read(ctx, aws.String("AWSPREVIOUS"))
}

// read reads the version with a staging label; nil means AWSCURRENT.
func (k *KeyStore) read(ctx context.Context, label *string) (key iamtoken.Secret, versionID string, err error) {
	calls, err := k.ready(ctx)
	if err != nil {
		return key, "", err
	}
	answer, err := calls.get(ctx, &secretsmanager.GetSecretValueInput{SecretId: &k.arn, VersionStage: label})
	if err != nil {
		return key, "", k.failure(err)
	}
	value := strings.TrimSpace(aws.ToString(answer.SecretString))
	switch err := iamtoken.CheckAPIKey(value); {
	case answer.SecretString == nil && answer.SecretBinary != nil:
		return key, "", k.misconfigured("the secret is binary: store the key as text with rotatorctl put-key")
	case value == "":
		return key, "", k.misconfigured("the secret is empty: store the bootstrap API key with rotatorctl put-key")
	case err != nil:
		return key, "", k.misconfigured("what the secret holds " + err.Error() + ": store the bare key with rotatorctl put-key")
	}
	return iamtoken.NewSecret(value), aws.ToString(answer.VersionId), nil
}

// Put stores key as the current version. versionID, of 32 to 64 characters, is the new
// version's id. If AWS has a version of this id with the same key already, it changes nothing,
// even if that version is not the current one.
func (k *KeyStore) Put(ctx context.Context, key iamtoken.Secret, versionID string) error {
	calls, err := k.ready(ctx)
	if err != nil {
		return err
	}
	if err := k.put(ctx, calls, versionID, key); err != nil {
		return (&resource{k.arn, keyWrite, k.source}).failure(err)
	}
	return nil
}

func (s *secret) put(ctx context.Context, calls secretCalls, versionID string, payload iamtoken.Secret) error {
	_, err := calls.put(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &s.arn, ClientRequestToken: &versionID, SecretString: aws.String(payload.Reveal()),
	})
	return err
}

// describe reads the secret's metadata. It checks that the secret can be written, and that it
// has the configured ARN: AWS also accepts a part of an ARN, which may find another secret.
func (s *secret) describe(ctx context.Context) (rotation.MirrorDescription, error) {
	calls, err := s.ready(ctx)
	if err != nil {
		return rotation.MirrorDescription{}, err
	}
	answer, err := calls.describe(ctx, &secretsmanager.DescribeSecretInput{SecretId: &s.arn})
	if err != nil {
		return rotation.MirrorDescription{}, s.failure(err)
	}
	switch region := strings.Split(s.arn, ":")[3]; { // ready has parsed it
	case aws.ToString(answer.ARN) != s.arn:
		return rotation.MirrorDescription{}, s.misconfigured("AWS shows another ARN for the secret that it finds: give the whole ARN in mirror, as AWS shows it")
	case answer.DeletedDate != nil:
		return rotation.MirrorDescription{}, s.causeError(deleted)
	case answer.PrimaryRegion != nil && *answer.PrimaryRegion != region:
		return rotation.MirrorDescription{}, s.causeError(replica)
	case aws.ToString(answer.OwningService) != "":
		return rotation.MirrorDescription{}, s.causeError(managed)
	}
	s.verified.Store(true)
	found := rotation.MirrorDescription{ChangedAt: aws.ToTime(answer.LastChangedDate)}
	for id, labels := range answer.VersionIdsToStages {
		if slices.Contains(labels, "AWSCURRENT") {
			found.VersionID = id
		} else if len(labels) > 0 {
			found.Others = append(found.Others, id)
		}
	}
	return found, nil
}

// replace implements mirror. Before the first write it checks the secret with describe.
func (s *secret) replace(ctx context.Context, versionID string, payload iamtoken.Secret) error {
	calls, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if !s.verified.Load() {
		if _, err := s.describe(ctx); err != nil {
			return err
		}
	}
	if err := s.inTime(ctx); err != nil {
		return err
	}
	if err := s.put(ctx, calls, versionID, payload); err != nil {
		return s.failure(err)
	}
	return nil
}
