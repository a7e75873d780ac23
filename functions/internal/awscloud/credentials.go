package awscloud

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
)

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
