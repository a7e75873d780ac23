// Package awscloud reads the bootstrap API key from AWS Secrets Manager, for a
// function that runs on AWS and must not carry a key in its environment, and keeps
// copies of the tokens there, for jobs on AWS that have no IBM identity.
package awscloud

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
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
