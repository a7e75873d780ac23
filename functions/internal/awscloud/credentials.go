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
	"github.com/aws/aws-sdk-go-v2/credentials"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// defaultChain is the SDK's chain of sources, see chain.go; nil in the binary built for Lambda.
var defaultChain func(ctx context.Context, client *http.Client, region string) (aws.CredentialsProvider, error)

const export = `eval "$(aws configure export-credentials --format env)"`

// credentialSource is an aws.CredentialsProvider. It obtains the credentials that sign
// requests at the first use, and again when they expire:
//
//   - from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as Lambda sets them. The binary
//     built for Lambda has no chain and uses these only;
//   - otherwise from the SDK's chain: a web identity (EKS), a profile of ~/.aws (keys,
//     single sign-on, a role, a program), the endpoint of a container (ECS, EKS Pod
//     Identity), the metadata of an EC2 instance.
type credentialSource struct {
	client *http.Client
	region string // of STS, if nothing else names one

	mu    sync.Mutex
	found aws.CredentialsProvider // nil before the first use
}

// requestLimit ends a request for credentials. The SDK lets a request go on after its caller
// has given up, and the next caller waits for it. An attempt takes no longer than this.
const requestLimit = 10 * time.Second

func newCredentialSource(transport http.RoundTripper) *credentialSource {
	// A signed request stays at the host that it is meant for.
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &credentialSource{client: &http.Client{Transport: guarded{transport}, CheckRedirect: noRedirect, Timeout: requestLimit}}
}

// setRegion names the region of STS, unless one is set.
func (c *credentialSource) setRegion(region string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.region = cmp.Or(c.region, region)
}

// Retrieve implements aws.CredentialsProvider.
func (c *credentialSource) Retrieve(ctx context.Context) (aws.Credentials, error) {
	provider, err := c.provider(ctx)
	if err != nil {
		return aws.Credentials{}, err
	}
	found, err := provider.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, &retrieveError{sourceOf(provider), err}
	}
	return found, nil
}

func (c *credentialSource) provider(ctx context.Context) (found aws.CredentialsProvider, err error) {
	if defaultChain == nil || inEnvironment() {
		return environment, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.found == nil {
		c.found, err = defaultChain(ctx, c.client, c.region)
	}
	return c.found, err
}

// forget makes the next request obtain the credentials again. It reports whether they can
// change: those in the environment cannot.
func (c *credentialSource) forget() (canChange bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = nil
	return !inEnvironment()
}

func inEnvironment() bool {
	return os.Getenv("AWS_ACCESS_KEY_ID") != "" && os.Getenv("AWS_SECRET_ACCESS_KEY") != ""
}

// environment returns the credentials in the AWS_* variables that Lambda sets.
var environment = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
	return credentials.NewStaticCredentialsProvider(
		os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")).Retrieve(ctx)
})

// metadataLimit limits one request to an address that answers only on AWS. A laptop makes two
// such requests, and only if there are no credentials elsewhere.
const metadataLimit = time.Second

// guarded sends requests only over TLS, to this machine, or to the addresses at which AWS
// gives credentials without TLS, whatever a variable or a profile says. It reads each answer
// whole, up to the limit of a small one, before the SDK decodes it.
type guarded struct{ base http.RoundTripper }

var errInTheClear = errors.New("the endpoint is not https")

// RoundTrip implements http.RoundTripper.
func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if host := req.URL.Hostname(); network.IsMetadataHost(host) {
		ctx, cancel := context.WithTimeout(req.Context(), metadataLimit)
		defer cancel()
		req = req.WithContext(ctx)
	} else if !iamtoken.IsConfidential(req.URL) {
		return nil, errInTheClear
	}
	response, err := g.base.RoundTrip(req)
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

// retrieveError is an SDK error, whose text is not shown, and the source that gave no
// credentials.
type retrieveError struct {
	source aws.CredentialSource
	err    error
}

func (e *retrieveError) Error() string { return "the AWS credentials cannot be obtained" }
func (e *retrieveError) Unwrap() error { return e.err }

// sourceOf returns the first source of a chain that is not only a profile's name.
func sourceOf(provider aws.CredentialsProvider) aws.CredentialSource {
	if described, ok := provider.(aws.CredentialProviderSource); ok {
		for _, source := range described.ProviderSources() {
			if source != aws.CredentialSourceProfileSourceProfile && source != aws.CredentialSourceProfileNamedProvider {
				return source
			}
		}
	}
	return aws.CredentialSourceUndefined
}

// noCredentials is the error for missing credentials: which source should have given them,
// why it did not, and what to do.
func (s *resource) noCredentials(ctx context.Context, err error) *rotation.Error {
	if ctx.Err() != nil {
		return s.newError(rotation.Timeout, rotation.Later, "looking for AWS credentials took longer than an attempt may")
	}
	failed, ok := errors.AsType[*retrieveError](err)
	if !ok {
		return s.misconfigured(err.Error())
	}
	from, advice := explainSource(failed.source)
	refused, answered := refusalOf(err)
	var unsent *smithyhttp.RequestSendError
	switch {
	case answered:
		from += " answered " + refused.String()
	case errors.Is(err, errInTheClear):
		from, advice = from+" names an endpoint without TLS", "it must begin with https://"
	case failed.source != aws.CredentialSourceIMDS && errors.As(err, &unsent):
		variable := "AWS_REGION, AWS_ENDPOINT_URL_STS and AWS_ENDPOINT_URL_SSO"
		if failed.source == aws.CredentialSourceHTTP {
			variable = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
		}
		_, _, doing := s.names()
		return network.Peer{Host: "the service that gives AWS credentials", Variable: variable,
			IfUnreachable: "AWS STS, IAM Identity Center or the container's endpoint must be reachable"}.NoAnswer(doing+": no AWS credentials: "+from, err)
	case failed.source != aws.CredentialSourceUndefined:
		from += " gives none"
	}
	failure := s.newError(rotation.Misconfigured, rotation.Once, "no AWS credentials: "+from+": "+advice)
	failure.Advice = advice
	switch {
	case refused.cause == throttled, refused.cause == trouble:
		failure.Kind, failure.Retry = rotation.Unavailable, rotation.Later
	case refused.cause != badRequest:
		failure.Kind = rotation.Denied
	}
	return failure
}

// sources describes where credentials come from, and the advice when a source gives none. The
// last row is for sources that are not listed.
var sources = []struct {
	sdk          []aws.CredentialSource
	from, advice string
}{
	{[]aws.CredentialSource{aws.CredentialSourceEnvVarsSTSWebIDToken, aws.CredentialSourceProfileSTSWebIDToken},
		"the exchange of the web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN) at AWS STS",
		"the role's trust policy must name the cluster's OIDC provider and this service account, the token's file must be readable and " +
			"current, and STS reachable"},
	{[]aws.CredentialSource{aws.CredentialSourceProfileSSO, aws.CredentialSourceSSO, aws.CredentialSourceProfileSSOLegacy, aws.CredentialSourceSSOLegacy},
		"the profile's single sign-on", "log in: aws sso login"},
	{[]aws.CredentialSource{aws.CredentialSourceProfileLogin, aws.CredentialSourceLogin}, "the profile's login session", "log in: aws login"},
	{[]aws.CredentialSource{aws.CredentialSourceProfileProcess, aws.CredentialSourceProcess},
		"the profile's credential_process", "run that program by hand: it must print credentials as JSON"},
	{[]aws.CredentialSource{aws.CredentialSourceProfile}, "the profile", "aws sts get-caller-identity shows why: its keys, or the role " +
		"that it assumes (role_arn)"},
	{[]aws.CredentialSource{aws.CredentialSourceHTTP}, "the container's endpoint (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, _FULL_URI)",
		"does the ECS task, or the pod by EKS Pod Identity, have a role, and can its authorization token be read?"},
	{[]aws.CredentialSource{aws.CredentialSourceIMDS},
		"none in AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, AWS_PROFILE, ~/.aws or at a container's endpoint, and the metadata of an " +
			"EC2 instance",
		"on AWS give the instance, the task or the service account a role (in a container on EC2 the metadata's hop limit must be 2); " +
			"elsewhere log in (aws sso login), or export credentials, with " + export},
	{nil, "none in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and this binary, built for Lambda, looks nowhere else",
		"on AWS give the function a role; elsewhere export credentials, with " + export +
			", or use build/local/iam-token-rotator (make build-local), which takes profiles, single sign-on, web identities and the role " +
			"of a container or an EC2 instance"},
}

func explainSource(source aws.CredentialSource) (from, advice string) {
	found := sources[len(sources)-1]
	for _, one := range sources {
		if slices.Contains(one.sdk, source) {
			found = one
		}
	}
	if source == aws.CredentialSourceIMDS && strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		found.from += " (switched off by AWS_EC2_METADATA_DISABLED)"
	}
	return found.from, found.advice
}
