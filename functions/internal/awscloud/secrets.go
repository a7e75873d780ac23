// Package awscloud reads the bootstrap API key from AWS Secrets Manager, for a
// function that runs on AWS and must not carry a key in its environment, and
// mirrors the tokens there, for jobs on AWS that have no IBM identity.
package awscloud

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/smithy-go/logging"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// BootstrapKey returns a source of the API key in the AWS Secrets Manager secret
// secretARN. It needs secretsmanager:GetSecretValue on that secret, and
// kms:Decrypt on its key if that is not AWS's own. Every call reads the secret
// afresh; white space around the key is trimmed. Errors are *rotation.Error.
//
// Credentials come from where AWS's programs take them, see credentialSource. They are
// obtained on the first call.
func BootstrapKey(secretARN string, transport http.RoundTripper) func(context.Context) (iamtoken.Secret, error) {
	return NewKeyStore(secretARN, transport).Key
}

// secret is one AWS secret and how it is reached.
type secret struct {
	arn    string
	source *credentialSource
	mirror bool // it holds a token, not the bootstrap key

	mu       sync.Mutex
	client   *secretsmanager.Client // nil before the first use
	verified bool                   // AWS knows the secret by this very ARN
}

// read reads the version with a staging label; nil means AWSCURRENT.
func (s *secret) read(ctx context.Context, label *string) (iamtoken.Secret, string, error) {
	client, err := s.ready(ctx)
	if err != nil {
		return iamtoken.Secret{}, "", err
	}
	answer, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.arn, VersionStage: label})
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

// ready returns a client with credentials. They are obtained beforehand, because the
// SDK hides their absence in the error of the request.
func (s *secret) ready(ctx context.Context) (*secretsmanager.Client, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	if _, err := s.source.Retrieve(ctx); err != nil {
		return nil, s.noCredentials(ctx, err)
	}
	return client, nil
}

// connect builds the client on the first call, and again after a failure. The
// SDK's retries are off: the one retry layer is around the whole pass.
func (s *secret) connect() (*secretsmanager.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	parsed, err := arn.Parse(s.arn)
	if err != nil {
		return nil, s.misconfigured("it is not the ARN of an AWS secret: check SECRETS_MANAGER_APIKEY_ARN")
	}
	if wrong := network.CheckEnvironment(os.Environ()); len(wrong) > 0 {
		return nil, s.misconfigured(wrong[0].Name + " " + wrong[0].Problem)
	}
	s.source.prefer(parsed.Region)
	s.client = secretsmanager.NewFromConfig(aws.Config{
		Region:       parsed.Region, // the secret's, wherever this runs
		BaseEndpoint: endpoint(),
		Credentials:  s.source,
		HTTPClient:   s.source.client,
		Retryer:      func() aws.Retryer { return aws.NopRetryer{} },
		Logger:       logging.Nop{}, // it repeats headers that it cannot read
	})
	return s.client, nil
}

// endpoint is where AWS Secrets Manager is when it is not where the region says:
// in tests, and behind a private name.
func endpoint() *string {
	url := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_SECRETS_MANAGER"), os.Getenv("AWS_ENDPOINT_URL"))
	if url == "" {
		return nil
	}
	return &url
}

// Mirrors keeps the tokens in AWS Secrets Manager as well. It needs
// secretsmanager:DescribeSecret and PutSecretValue on each secret, and no right to
// read one; on a KMS key of one's own also kms:GenerateDataKey and Decrypt. It
// creates no secret. Its errors are *rotation.Error.
type Mirrors struct {
	source *credentialSource // of all secrets

	mu      sync.Mutex
	secrets map[string]*secret // by ARN
}

// NewMirrors returns the mirrors that are reached through transport.
func NewMirrors(transport http.RoundTripper) *Mirrors {
	return &Mirrors{source: newCredentialSource(transport), secrets: map[string]*secret{}}
}

// Describe implements rotation.Mirrors.
func (m *Mirrors) Describe(ctx context.Context, secretARN string) (rotation.MirrorSecret, error) {
	s := m.secret(secretARN)
	client, err := s.ready(ctx)
	if err != nil {
		return rotation.MirrorSecret{}, err
	}
	return s.describe(ctx, client)
}

// describe also checks that the secret can be written, and that its ARN is the one
// configured: AWS takes a part of an ARN as well, and the rest of its name may be
// another secret's.
func (s *secret) describe(ctx context.Context, client *secretsmanager.Client) (rotation.MirrorSecret, error) {
	answer, err := client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &s.arn})
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

// Put saves payload as the version versionID, the id of the IBM version that it
// mirrors. A second time it changes nothing. Before the first write to a secret it
// reads the secret's description.
func (m *Mirrors) Put(ctx context.Context, secretARN, versionID string, payload iamtoken.Secret) error {
	s := m.secret(secretARN)
	client, err := s.ready(ctx)
	if err != nil {
		return err
	}
	if err := s.verify(ctx, client); err != nil {
		return err
	}
	if latest, ok := rotation.WallDeadline(ctx); ok && time.Now().Round(0).After(latest) {
		return s.because(rotation.Timeout, rotation.Never, "the process was suspended before the token was mirrored: it is too old to mirror")
	}
	if err := s.put(ctx, client, versionID, payload); err != nil {
		return s.failure(err)
	}
	return nil
}

func (s *secret) put(ctx context.Context, client *secretsmanager.Client, versionID string, payload iamtoken.Secret) error {
	_, err := client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &s.arn, ClientRequestToken: &versionID, SecretString: aws.String(payload.Reveal()),
	})
	return err
}

func (s *secret) verify(ctx context.Context, client *secretsmanager.Client) error {
	s.mu.Lock()
	verified := s.verified
	s.mu.Unlock()
	if verified {
		return nil
	}
	_, err := s.describe(ctx, client)
	return err
}

func (m *Mirrors) secret(secretARN string) *secret {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.secrets[secretARN] == nil {
		m.secrets[secretARN] = &secret{arn: secretARN, source: m.source, mirror: true}
	}
	return m.secrets[secretARN]
}
