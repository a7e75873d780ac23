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

// Mirrors keeps the tokens in AWS as well, with no right to read them. It creates
// nothing. A secret of AWS Secrets Manager takes secretsmanager:DescribeSecret and
// PutSecretValue, on a KMS key of one's own also kms:GenerateDataKey and Decrypt; a
// parameter of SSM Parameter Store takes ssm:DescribeParameters and PutParameter, on a
// KMS key of one's own also kms:Encrypt, or GenerateDataKey if it is an advanced one.
// Its errors are *rotation.Error.
type Mirrors struct {
	source *credentialSource // of all
	byARN  sync.Map          // mirror by ARN
}

type mirror interface {
	describe(ctx context.Context) (rotation.MirrorDescription, error)
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

// Put saves payload as the version versionID, the id of the IBM version that it mirrors.
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

// call is an operation of one of the SDK's clients. With a client in a field all of its
// operations would be linked, those of SSM alone 1 MB of the zip: the linker keeps each
// method that reflection may reach.
type call[Input, Options, Output any] func(context.Context, *Input, ...func(*Options)) (*Output, error)

// connection is a client of one of AWS's services for one resource, as the calls of it.
type connection[Calls any] struct {
	resource
	region string // of a bus; that of others is in the ARN
	build  func(aws.Config) Calls

	mu        sync.Mutex
	connected bool
	calls     Calls // none before the first use
}

// ready returns the calls of a client with credentials. They are obtained beforehand,
// because the SDK hides their absence in the error of the request.
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

// connect builds the client on the first call, and again after a failure. The
// SDK's retries are off: the one retry layer is around the whole pass.
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
		region = parsed.Region // wherever this runs
	}
	if wrong := network.CheckEnvironment(os.Environ()); len(wrong) > 0 {
		return c.calls, c.misconfigured(wrong[0].Name + " " + wrong[0].Problem)
	}
	c.source.prefer(region)
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

// endpoint is where the service is when it is not where the region says: in tests, and
// behind a private name.
func (s *resource) endpoint() *string {
	_, variable, _ := s.names()
	if url := cmp.Or(os.Getenv(variable), os.Getenv("AWS_ENDPOINT_URL")); url != "" {
		return &url
	}
	return nil
}

// inTime returns an error if a token may not be put any more.
func (s *resource) inTime(ctx context.Context) error {
	if latest, ok := rotation.WallDeadline(ctx); ok && time.Now().Round(0).After(latest) {
		return s.fail(rotation.Timeout, rotation.Never, "the process was suspended before the token was mirrored: it is too old to mirror")
	}
	return nil
}
