// Package awscloud reads the bootstrap API key from AWS Secrets Manager, for a
// function that runs on AWS and must not carry a key in its environment, and
// mirrors the tokens there and in SSM Parameter Store, for jobs on AWS that have no
// IBM identity.
package awscloud

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// secret is one AWS secret and how it is reached.
type secret struct {
	connection[secretCalls]
	verified bool // AWS knows the secret by this very ARN; guarded by mu
}

type secretCalls struct {
	get      call[secretsmanager.GetSecretValueInput, secretsmanager.Options, secretsmanager.GetSecretValueOutput]
	describe call[secretsmanager.DescribeSecretInput, secretsmanager.Options, secretsmanager.DescribeSecretOutput]
	put      call[secretsmanager.PutSecretValueInput, secretsmanager.Options, secretsmanager.PutSecretValueOutput]
}

func newSecret(arn string, source *credentialSource, mirror bool) *secret {
	s := &secret{}
	s.resource = resource{arn: arn, source: source, mirror: mirror}
	s.build = func(cfg aws.Config) secretCalls {
		client := secretsmanager.NewFromConfig(cfg)
		return secretCalls{client.GetSecretValue, client.DescribeSecret, client.PutSecretValue}
	}
	return s
}

// read reads the version with a staging label; nil means AWSCURRENT.
func (s *secret) read(ctx context.Context, label *string) (iamtoken.Secret, string, error) {
	calls, err := s.ready(ctx)
	if err != nil {
		return iamtoken.Secret{}, "", err
	}
	answer, err := calls.get(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.arn, VersionStage: label})
	if err != nil {
		return iamtoken.Secret{}, "", s.failure(err)
	}
	key := strings.TrimSpace(aws.ToString(answer.SecretString))
	switch {
	case answer.SecretString == nil && answer.SecretBinary != nil:
		return iamtoken.Secret{}, "", s.misconfigured("the secret is binary: store the key as text with rotatorctl put-key")
	case key == "":
		return iamtoken.Secret{}, "", s.misconfigured("the secret is empty: store the bootstrap API key with rotatorctl put-key")
	case iamtoken.CheckAPIKey(key) != nil:
		return iamtoken.Secret{}, "", s.misconfigured("what the secret holds " + iamtoken.CheckAPIKey(key).Error() + ": store the bare key with rotatorctl put-key")
	}
	return iamtoken.NewSecret(key), aws.ToString(answer.VersionId), nil
}

// describe also checks that the secret can be written, and that its ARN is the one
// configured: AWS takes a part of an ARN as well, and the rest of its name may be
// another secret's.
func (s *secret) describe(ctx context.Context) (rotation.MirrorSecret, error) {
	calls, err := s.ready(ctx)
	if err != nil {
		return rotation.MirrorSecret{}, err
	}
	answer, err := calls.describe(ctx, &secretsmanager.DescribeSecretInput{SecretId: &s.arn})
	if err != nil {
		return rotation.MirrorSecret{}, s.failure(err)
	}
	if aws.ToString(answer.ARN) != s.arn {
		return rotation.MirrorSecret{}, s.misconfigured("AWS knows the secret that this finds by another ARN: give the whole ARN in mirror, as AWS shows it")
	}
	if err := s.writable(answer); err != nil {
		return rotation.MirrorSecret{}, err
	}
	s.mu.Lock()
	s.verified = true
	s.mu.Unlock()
	found := rotation.MirrorSecret{ChangedAt: aws.ToTime(answer.LastChangedDate)}
	for id, labels := range answer.VersionIdsToStages {
		if slices.Contains(labels, "AWSCURRENT") {
			found.VersionID = id
		} else if len(labels) > 0 {
			found.Others = append(found.Others, id)
		}
	}
	return found, nil
}

// writable returns an error for a secret that AWS would let nobody write to. It is
// found before a token is saved anywhere.
func (s *secret) writable(answer *secretsmanager.DescribeSecretOutput) error {
	state := badRequest
	region := strings.Split(s.arn, ":")[3] // connect has parsed it
	switch {
	case answer.DeletedDate != nil:
		state = deleted
	case answer.PrimaryRegion != nil && *answer.PrimaryRegion != region:
		state = replica
	case aws.ToString(answer.OwningService) != "":
		state = managed
	default:
		return nil
	}
	return s.because(s.explain(state))
}

// replace puts payload. A second time it changes nothing. Before the first write to a
// secret it reads the secret's description.
func (s *secret) replace(ctx context.Context, versionID string, payload iamtoken.Secret) error {
	calls, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	if err := s.inTime(ctx); err != nil {
		return err
	}
	if err := s.put(ctx, calls, versionID, payload); err != nil {
		return s.failure(err)
	}
	return nil
}

func (s *secret) put(ctx context.Context, calls secretCalls, versionID string, payload iamtoken.Secret) error {
	_, err := calls.put(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &s.arn, ClientRequestToken: &versionID, SecretString: aws.String(payload.Reveal()),
	})
	return err
}

func (s *secret) verify(ctx context.Context) error {
	s.mu.Lock()
	verified := s.verified
	s.mu.Unlock()
	if verified {
		return nil
	}
	_, err := s.describe(ctx)
	return err
}
