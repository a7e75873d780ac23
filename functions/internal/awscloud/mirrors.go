package awscloud

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// Mirrors keeps copies of the tokens in AWS Secrets Manager. It needs
// secretsmanager:DescribeSecret and PutSecretValue on each secret, and no right to
// read one; on a KMS key of one's own also kms:GenerateDataKey and Decrypt. It
// creates no secret. Its errors are *rotation.Error.
type Mirrors struct {
	transport http.RoundTripper

	mu      sync.Mutex
	secrets map[string]*source // by ARN
}

// NewMirrors returns the copies that are reached through transport.
func NewMirrors(transport http.RoundTripper) *Mirrors {
	return &Mirrors{transport: transport, secrets: map[string]*source{}}
}

// Current returns the id of the version that readers get: the one that was given to
// Put. It is empty when the secret has no version yet.
func (m *Mirrors) Current(ctx context.Context, secretARN string) (versionID string, err error) {
	s := m.secret(secretARN)
	client, err := s.ready(ctx)
	if err != nil {
		return "", err
	}
	answer, err := client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &s.arn})
	if err != nil {
		return "", s.failure(err)
	}
	for id, stages := range answer.VersionIdsToStages {
		if slices.Contains(stages, "AWSCURRENT") {
			return id, nil
		}
	}
	return "", nil
}

// Put saves payload as the version versionID, the id of the IBM version that it is
// a copy of. A second time it changes nothing.
func (m *Mirrors) Put(ctx context.Context, secretARN, versionID string, payload iamtoken.Secret) error {
	s := m.secret(secretARN)
	client, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if latest, ok := rotation.WallDeadline(ctx); ok && time.Now().Round(0).After(latest) {
		return s.because(rotation.Timeout, rotation.Never, "the process was suspended before the copy was made: the token is too old to publish")
	}
	_, err = client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &s.arn, ClientRequestToken: &versionID, SecretString: aws.String(payload.Reveal()),
	})
	if err != nil {
		return s.failure(err)
	}
	return nil
}

func (m *Mirrors) secret(secretARN string) *source {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.secrets[secretARN] == nil {
		m.secrets[secretARN] = &source{arn: secretARN, transport: m.transport, doing: "copying the token to", advise: adviseOnMirror}
	}
	return m.secrets[secretARN]
}

// adviseOnMirror replaces the advice that is about reading the bootstrap key.
func adviseOnMirror(v verdict) verdict {
	switch v {
	case denied:
		v.advice = "the function's role needs secretsmanager:DescribeSecret and PutSecretValue on it: name it in MirrorSecretArns; new permissions take minutes"
	case deniedByKMS:
		v.advice = "the function's role may not use the secret's KMS key: let it call kms:GenerateDataKey and kms:Decrypt with that key"
	case missing:
		v.advice = "there is no such secret: create it (the function creates none), and give its whole ARN in mirror"
	case undecipherable:
		v.advice = "AWS cannot use the secret's KMS key: is it enabled and not scheduled for deletion?"
	case refused:
		v.advice = "AWS Secrets Manager does not take the request: check the ARN in mirror and AWS_ENDPOINT_URL"
	}
	return v
}
