//go:build !awslambda

package awscloud

import (
	"context"
	"errors"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/smithy-go/logging"
)

// The SDK's chain, with the clients of four services, is a sixth of a binary and
// a millisecond of its start. The zip's binary has no use for it: Lambda sets variables.
func init() { defaultChain = loadDefaultConfig }

// loadDefaultConfig decides where credentials come from as every AWS program does. It
// reads files and opens no connection. The region is that of STS, where none is set.
func loadDefaultConfig(ctx context.Context, client *http.Client, region string) (aws.CredentialsProvider, error) {
	loaded, err := config.LoadDefaultConfig(ctx, config.WithDefaultRegion(region), config.WithHTTPClient(client),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }), config.WithLogger(logging.Nop{}),
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = client })) // else it is the SDK's own
	var missing config.SharedConfigProfileNotExistError
	var wantsCode config.AssumeRoleTokenProviderNotSetError
	switch {
	case errors.As(err, &missing):
		return nil, errNoProfile
	case errors.As(err, &wantsCode):
		return nil, errWantsCode
	case err != nil:
		return nil, errBadConfig
	}
	return loaded.Credentials, nil
}
