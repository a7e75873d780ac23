// Package awscloud reads the bootstrap API key from AWS Secrets Manager, for a
// function that runs on AWS and must not carry a key in its environment, and keeps
// copies of the tokens there, for jobs on AWS that have no IBM identity.
package awscloud

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
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
	"iam-token-rotator/functions/internal/rotation"
)

// bodyLimit bounds what is read of an answer: a secret is 65,536 bytes at most,
// which JSON may write in up to 6 bytes each.
const bodyLimit = 6*65536 + 64<<10

// BootstrapKey returns a source of the API key in the AWS Secrets Manager secret
// secretARN. It needs secretsmanager:GetSecretValue on that secret, and
// kms:Decrypt on its key if that is not AWS's own. Every call reads the secret
// afresh; white space around the key is trimmed. Errors are *rotation.Error.
//
// AWS credentials and endpoints come from the standard AWS_* variables, see
// credentialsProvider, looked up on the first call, so that nobody pays for this
// who does not use it.
func BootstrapKey(secretARN string, transport http.RoundTripper) func(context.Context) (iamtoken.Secret, error) {
	s := &source{arn: secretARN, transport: transport, doing: "reading the bootstrap key from"}
	return s.read
}

// source is one AWS secret and how it is reached.
type source struct {
	arn       string
	transport http.RoundTripper
	doing     string                // for errors: "reading the bootstrap key from"
	advise    func(verdict) verdict // another purpose's advice; nil for the bootstrap key's

	mu     sync.Mutex
	client *secretsmanager.Client // nil before the first read
}

func (s *source) read(ctx context.Context) (iamtoken.Secret, error) {
	client, err := s.ready(ctx)
	if err != nil {
		return iamtoken.Secret{}, err
	}
	answer, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &s.arn})
	if err != nil {
		return iamtoken.Secret{}, s.failure(err)
	}
	if answer.SecretString == nil && answer.SecretBinary != nil {
		return iamtoken.Secret{}, s.misconfigured("the secret is binary: store the key as text with scripts/put-bootstrap-key")
	}
	return s.key(aws.ToString(answer.SecretString))
}

// ready returns a client with credentials. They are asked for beforehand, so that a
// person who is not logged in is told so.
func (s *source) ready(ctx context.Context) (*secretsmanager.Client, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	if _, err := client.Options().Credentials.Retrieve(ctx); err != nil {
		return nil, s.noCredentials(ctx)
	}
	return client, nil
}

// connect builds the client on the first call, and again after a failure. The
// SDK's retries are off: the one retry layer is around the whole pass.
func (s *source) connect() (*secretsmanager.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	parsed, err := arn.Parse(s.arn)
	if err != nil {
		return nil, s.misconfigured("it is not the ARN of an AWS secret: check SECRETS_MANAGER_APIKEY_ARN")
	}
	client := &http.Client{Transport: limited{s.transport}, CheckRedirect: refuseRedirect}
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

// key checks the secret's value. It never guesses what part of a value is meant.
func (s *source) key(value string) (iamtoken.Secret, error) {
	key := strings.TrimSpace(value)
	switch {
	case key == "":
		return iamtoken.Secret{}, s.misconfigured("the secret is empty: store the bootstrap API key with scripts/put-bootstrap-key")
	case strings.HasPrefix(key, "{"):
		return iamtoken.Secret{}, s.misconfigured("the secret holds JSON: store the bare key with scripts/put-bootstrap-key")
	case strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return iamtoken.Secret{}, s.misconfigured("the secret holds something other than one API key: store the bare key with scripts/put-bootstrap-key")
	}
	return iamtoken.NewSecret(key), nil
}

func (s *source) noCredentials(ctx context.Context) *rotation.Error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(ctx.Err(), context.Canceled) {
		return s.because(rotation.Timeout, rotation.Later, "looking for AWS credentials took longer than an attempt may")
	}
	return s.because(rotation.Misconfigured, rotation.Once, "there are no usable AWS credentials: "+
		"on AWS give the function a role; elsewhere export some, with eval \"$(aws configure export-credentials --format env)\" say")
}

// limited reads bodies through a limit.
type limited struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	response, err := l.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, bodyLimit), response.Body}
	return response, nil
}

// refuseRedirect keeps signed requests at the host they were meant for.
func refuseRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// containerHosts serve the credentials of a container's role, without TLS, on ECS
// and EKS; the first is the one of AWS_CONTAINER_CREDENTIALS_RELATIVE_URI.
var containerHosts = []string{"169.254.170.2", "169.254.170.23", "fd00:ec2::23"}

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
		return fromContainer("http://"+containerHosts[0]+relative, client)
	case full != "" && mayServeCredentials(full):
		return fromContainer(full, client)
	}
	return aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		return credentials.NewStaticCredentialsProvider(
			os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")).Retrieve(ctx)
	})
}

// mayServeCredentials reports whether the authorization token may be sent there:
// over TLS, or to a host on this machine.
func mayServeCredentials(endpoint string) bool {
	parsed, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	host := parsed.Hostname()
	return parsed.Scheme == "https" || parsed.Scheme == "http" &&
		(slices.Contains(containerHosts, host) || host == "localhost" || net.ParseIP(host).IsLoopback())
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
	for _, name := range []string{"AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"} {
		if url := os.Getenv(name); url != "" {
			return &url
		}
	}
	return nil
}

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
