//go:build !awslambda

package awscloud

import (
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/smithy-go/logging"
)

// Errors of the configuration for AWS's programs. They replace the SDK's text, which has paths
// and parts of lines.
var (
	errNoProfile = errors.New("AWS_PROFILE names a profile that is not in ~/.aws/config or ~/.aws/credentials, nor where AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE point")
	errWantsMFA  = errors.New("the profile's role asks for an MFA code, which a program cannot type: export credentials, with " + export)
	errBadConfig = errors.New("the configuration for AWS's programs cannot be used (AWS_PROFILE, ~/.aws, AWS_ROLE_ARN with AWS_WEB_IDENTITY_TOKEN_FILE): " +
		"aws sts get-caller-identity shows why. A profile's ca_bundle is not used here: name the authorities in SSL_CERT_FILE")
	errOwnBundle = errors.New("AWS_CA_BUNDLE is not used here: unset it for this program, and name the authorities in SSL_CERT_FILE")
)

// The SDK's chain has the clients of four services: a sixth of the binary and a millisecond of
// its start. The zip's binary does without it, because Lambda sets variables.
func init() { defaultChain = loadDefaultConfig }

// loadDefaultConfig returns the source of credentials that every AWS program would choose. It
// reads files and opens no connection. region is for STS, if no other is set.
func loadDefaultConfig(ctx context.Context, client *http.Client, region string) (aws.CredentialsProvider, error) {
	loaded, err := config.LoadDefaultConfig(ctx, config.WithDefaultRegion(region), config.WithHTTPClient(client),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }), config.WithLogger(logging.Nop{}),
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = client })) // otherwise the SDK makes one
	var missing config.SharedConfigProfileNotExistError
	var wantsMFA config.AssumeRoleTokenProviderNotSetError
	switch {
	case errors.As(err, &missing):
		return nil, errNoProfile
	case errors.As(err, &wantsMFA):
		return nil, errWantsMFA
	case err != nil && os.Getenv("AWS_CA_BUNDLE") != "": // the SDK can set it only in its own client
		return nil, errOwnBundle
	case err != nil:
		return nil, errBadConfig
	}
	return loaded.Credentials, nil
}
