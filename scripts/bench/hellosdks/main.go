// Command hellosdks is hello with the SDKs that the function needs linked in and
// never called: the floor for cold starts that these libraries leave.
package main

import (
	"context"
	"os"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

func main() {
	lambda.Start(func(ctx context.Context) (string, error) {
		if os.Getenv("NEVER_SET") != "" { // the linker cannot know
			return "", useSDKs(ctx)
		}
		return "hello", nil
	})
}

// useSDKs refers to the operations that the function calls, so that the linker
// keeps them.
func useSDKs(ctx context.Context) error {
	aws := secretsmanager.New(secretsmanager.Options{})
	if _, err := aws.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{}); err != nil {
		return err
	}
	if _, err := aws.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{}); err != nil {
		return err
	}
	authenticator, err := core.NewIamAuthenticatorBuilder().SetApiKey("none").Build()
	if err != nil {
		return err
	}
	ibm, err := secretsmanagerv2.NewSecretsManagerV2(&secretsmanagerv2.SecretsManagerV2Options{Authenticator: authenticator})
	if err != nil {
		return err
	}
	if _, _, err = ibm.GetSecretWithContext(ctx, ibm.NewGetSecretOptions("none")); err != nil {
		return err
	}
	_, _, err = ibm.CreateSecretVersionWithContext(ctx, ibm.NewCreateSecretVersionOptions("none", nil))
	return err
}
