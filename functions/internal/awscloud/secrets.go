// Package awscloud reads the bootstrap API key from AWS Secrets Manager, for a
// function that runs on AWS and must not carry a key in its environment, and
// mirrors the tokens there, for jobs on AWS that have no IBM identity.
package awscloud

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
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
// AWS credentials and endpoints come from the standard AWS_* variables, see
// credentialsProvider. They are obtained on the first call.
func BootstrapKey(secretARN string, transport http.RoundTripper) func(context.Context) (iamtoken.Secret, error) {
	return (&secret{arn: secretARN, transport: transport}).read
}

// secret is one AWS secret and how it is reached.
type secret struct {
	arn       string
	transport http.RoundTripper
	mirror    bool // it holds a token, not the bootstrap key

	mu       sync.Mutex
	client   *secretsmanager.Client // nil before the first use
	verified bool                   // AWS knows the secret by this very ARN
}

func (s *secret) read(ctx context.Context) (iamtoken.Secret, error) {
	client, err := s.ready(ctx)
	if err != nil {
		return iamtoken.Secret{}, err
	}
	answer, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.arn})
	if err != nil {
		return iamtoken.Secret{}, s.failure(err)
	}
	key := strings.TrimSpace(aws.ToString(answer.SecretString))
	switch {
	case answer.SecretString == nil && answer.SecretBinary != nil:
		return iamtoken.Secret{}, s.misconfigured("the secret is binary: store the key as text with rotatorctl put-key")
	case key == "":
		return iamtoken.Secret{}, s.misconfigured("the secret is empty: store the bootstrap API key with rotatorctl put-key")
	case iamtoken.CheckAPIKey(key) != nil:
		return iamtoken.Secret{}, s.misconfigured("what the secret holds " + iamtoken.CheckAPIKey(key).Error() + ": store the bare key with rotatorctl put-key")
	}
	return iamtoken.NewSecret(key), nil
}

// ready returns a client with credentials. They are obtained beforehand, because the
// SDK hides their absence in the error of the request.
func (s *secret) ready(ctx context.Context) (*secretsmanager.Client, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	_, err = client.Options().Credentials.Retrieve(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, s.because(rotation.Timeout, rotation.Later, "looking for AWS credentials took longer than an attempt may")
	case err != nil:
		return nil, s.because(rotation.Misconfigured, rotation.Once, "there are no usable AWS credentials: "+
			"on AWS give the function a role; elsewhere export some, with eval \"$(aws configure export-credentials --format env)\" for example")
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
	client := &http.Client{Transport: bounded{s.transport}, CheckRedirect: rejectRedirect}
	s.client = secretsmanager.NewFromConfig(aws.Config{
		Region:       parsed.Region, // the secret's, wherever this runs
		BaseEndpoint: endpoint(),
		Credentials:  credentialsProvider(client),
		HTTPClient:   client,
		Retryer:      func() aws.Retryer { return aws.NopRetryer{} },
		Logger:       logging.Nop{}, // it repeats headers that it cannot read
	})
	return s.client, nil
}

// bounded reads each answer whole before the SDK decodes it. A key or a description
// of a secret is far smaller than a small answer.
type bounded struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := b.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := network.ReadBody(response, network.SmallAnswer)
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	return response, nil
}

// rejectRedirect keeps signed requests at the host they were meant for.
func rejectRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// credentialsProvider takes credentials from the AWS_* variables that Lambda sets,
// or else from the endpoint that ECS and EKS name in them. The SDK's own chain
// would add profiles, single sign-on and EC2's metadata, with the clients of four
// services: a sixth of the binary and a millisecond of every cold start, for the
// laptop of a person who can export credentials instead.
func credentialsProvider(client *http.Client) aws.CredentialsProvider {
	relative, full := os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
	switch {
	case os.Getenv("AWS_ACCESS_KEY_ID") != "":
	case relative != "":
		return fromContainer("http://"+network.ContainerHost+relative, client)
	case full != "":
		return fromContainer(full, client)
	}
	return aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		return credentials.NewStaticCredentialsProvider(
			os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")).Retrieve(ctx)
	})
}

func fromContainer(url string, client *http.Client) aws.CredentialsProvider {
	return aws.NewCredentialsCache(endpointcreds.New(url, func(o *endpointcreds.Options) {
		o.HTTPClient = client
		o.Retryer = aws.NopRetryer{}
		o.AuthorizationToken = os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
		if file := os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
			o.AuthorizationTokenProvider = endpointcreds.TokenProviderFunc(func() (string, error) {
				token, err := os.ReadFile(file) // #nosec G304 G703 -- AWS itself names the file
				if err != nil {
					return "", errors.New("reading the container's authorization token failed")
				}
				return string(token), nil
			})
		}
	}))
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
	transport http.RoundTripper

	mu      sync.Mutex
	secrets map[string]*secret // by ARN
}

// NewMirrors returns the mirrors that are reached through transport.
func NewMirrors(transport http.RoundTripper) *Mirrors {
	return &Mirrors{transport: transport, secrets: map[string]*secret{}}
}

// Current returns the id of the version that readers get: the one that was given to
// Put. It is empty when the secret has no version yet.
func (m *Mirrors) Current(ctx context.Context, secretARN string) (versionID string, err error) {
	s := m.secret(secretARN)
	client, err := s.ready(ctx)
	if err != nil {
		return "", err
	}
	return s.describe(ctx, client)
}

// describe also checks that the secret can be written, and that its ARN is the one
// configured: AWS takes a part of an ARN as well, and the rest of its name may be
// another secret's.
func (s *secret) describe(ctx context.Context, client *secretsmanager.Client) (current string, err error) {
	answer, err := client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &s.arn})
	if err != nil {
		return "", s.failure(err)
	}
	if aws.ToString(answer.ARN) != s.arn {
		return "", s.misconfigured("AWS knows the secret that this finds by another ARN: give the whole ARN in mirror, as AWS shows it")
	}
	if err := s.writable(answer); err != nil {
		return "", err
	}
	s.mu.Lock()
	s.verified = true
	s.mu.Unlock()
	for id, labels := range answer.VersionIdsToStages {
		if slices.Contains(labels, "AWSCURRENT") {
			return id, nil
		}
	}
	return "", nil
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
	_, err = client.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{
		SecretId: &s.arn, ClientRequestToken: &versionID, SecretString: aws.String(payload.Reveal()),
	})
	if err != nil {
		return s.failure(err)
	}
	return nil
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
		m.secrets[secretARN] = &secret{arn: secretARN, transport: m.transport, mirror: true}
	}
	return m.secrets[secretARN]
}
