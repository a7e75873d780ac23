package awscloud

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/smithy-go/logging"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// Mirrors puts the tokens to AWS too. It creates nothing, and needs no permission to read a
// value. A secret of AWS Secrets Manager needs secretsmanager:DescribeSecret and
// PutSecretValue, and under a KMS key of your own kms:GenerateDataKey and Decrypt. A parameter
// of SSM Parameter Store needs ssm:DescribeParameters and PutParameter, and under a KMS key of
// your own kms:Encrypt, or GenerateDataKey if it is an advanced parameter. Errors are
// *rotation.Error.
type Mirrors struct {
	source *credentialSource // shared by all mirrors
	byARN  sync.Map          // of mirror
}

type mirror interface {
	describe(ctx context.Context) (rotation.MirrorDescription, error)
	// replace makes payload the mirror's value. Repeating it does no harm.
	replace(ctx context.Context, versionID string, payload iamtoken.Secret) error
}

// NewMirrors returns the mirrors that are reached through transport.
func NewMirrors(transport http.RoundTripper) *Mirrors {
	return &Mirrors{source: newCredentialSource(transport)}
}

// Describe implements rotation.Mirrors.
func (m *Mirrors) Describe(ctx context.Context, arn string) (rotation.MirrorDescription, error) {
	return m.mirror(arn).describe(ctx)
}

// Put implements rotation.Mirrors. versionID is the id of the version at IBM.
func (m *Mirrors) Put(ctx context.Context, arn, versionID string, payload iamtoken.Secret) error {
	return m.mirror(arn).replace(ctx, versionID, payload)
}

func (m *Mirrors) mirror(arn string) mirror {
	var one mirror = newSecret(arn, mirrorSecret, m.source)
	if rotation.IsParameter(arn) {
		one = newParameter(arn, m.source)
	}
	known, _ := m.byARN.LoadOrStore(arn, one)
	return known.(mirror)
}

// call is one operation of an SDK client. The linker keeps every method of a client that is
// in a field, because reflection may reach it; SSM's alone are 1 MB of the zip.
type call[Input, Options, Output any] func(context.Context, *Input, ...func(*Options)) (*Output, error)

// connection connects to an AWS service for one resource. Calls are the operations used.
type connection[Calls any] struct {
	resource
	region string // of a bus; other resources have it in their ARN
	build  func(aws.Config) Calls

	mu        sync.Mutex
	connected bool
	calls     Calls // not set before connected is
}

// ready returns the calls of a client that has credentials. It obtains them before the
// request, because the SDK's error of a request does not show that there are none.
func (c *connection[Calls]) ready(ctx context.Context) (calls Calls, err error) {
	calls, err = c.connect()
	if err != nil {
		return calls, err
	}
	if _, err := c.source.Retrieve(ctx); err != nil {
		return calls, c.noCredentials(ctx, err)
	}
	return calls, nil
}

// connect builds the client when it is first needed. The SDK's retries are off, since the
// whole pass is retried.
func (c *connection[Calls]) connect() (Calls, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connected {
		return c.calls, nil
	}
	region := c.region
	if c.purpose != eventBus {
		parsed, err := arn.Parse(c.arn)
		if err != nil {
			return c.calls, c.misconfigured("it is not the ARN of an AWS secret: check SECRETS_MANAGER_APIKEY_ARN")
		}
		region = parsed.Region // not the one of the machine
	}
	if wrong := network.CheckEnvironment(os.Environ()); len(wrong) > 0 {
		return c.calls, c.misconfigured(wrong[0].Name + " " + wrong[0].Problem)
	}
	c.source.setRegion(region)
	c.calls, c.connected = c.build(aws.Config{
		Region:       region,
		BaseEndpoint: c.endpoint(),
		Credentials:  c.source,
		HTTPClient:   c.source.client,
		Retryer:      func() aws.Retryer { return aws.NopRetryer{} },
		Logger:       logging.Nop{}, // it repeats headers that it cannot read
	}), true
	return c.calls, nil
}

// endpoint is the URL that replaces the region's own, in tests and for private endpoints; nil
// if there is none.
func (s *resource) endpoint() *string {
	_, variable, _ := s.names()
	if url := cmp.Or(os.Getenv(variable), os.Getenv("AWS_ENDPOINT_URL")); url != "" {
		return &url
	}
	return nil
}

// inTime returns an error if the token is too old to be put, by the wall clock.
func (s *resource) inTime(ctx context.Context) error {
	if latest, ok := rotation.WallDeadline(ctx); ok && time.Now().Round(0).After(latest) {
		return s.newError(rotation.Timeout, rotation.Never, "the process was suspended before the token was mirrored: it is too old to mirror")
	}
	return nil
}
