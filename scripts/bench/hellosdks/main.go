// Command hellosdks is hello with the function's SDKs linked in but never called.
// Its cold start is the shortest that is possible with these libraries.
package main

import (
	"context"
	"errors"
	"os"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

func main() {
	lambda.Start(func(ctx context.Context) (string, error) {
		if os.Getenv("NEVER_SET") != "" { // never true, which the linker cannot know: it keeps the SDKs
			return "", useSDKs(ctx)
		}
		return "hello", nil
	})
}

// useSDKs refers to every operation that the function calls, so that the linker
// keeps them.
func useSDKs(ctx context.Context) error {
	aws := secretsmanager.New(secretsmanager.Options{})
	_, readErr := aws.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{})
	_, describeErr := aws.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{})
	_, putErr := aws.PutSecretValue(ctx, &secretsmanager.PutSecretValueInput{})
	authenticator, err := core.NewIamAuthenticatorBuilder().SetApiKey("none").Build()
	if err != nil {
		return err
	}
	container, err := core.NewContainerAuthenticatorBuilder().SetIAMProfileID("none").Build()
	if err != nil {
		return err
	}
	_, tokenErr := container.RequestToken()
	ibm, err := sm.NewSecretsManagerV2(&sm.SecretsManagerV2Options{Authenticator: authenticator})
	if err != nil {
		return err
	}
	_, _, getErr := ibm.GetSecretWithContext(ctx, &sm.GetSecretOptions{})
	_, _, nameErr := ibm.GetSecretByNameTypeWithContext(ctx, &sm.GetSecretByNameTypeOptions{})
	_, _, versionErr := ibm.GetSecretVersionMetadataWithContext(ctx, &sm.GetSecretVersionMetadataOptions{})
	_, _, metadataErr := ibm.GetSecretMetadataWithContext(ctx, &sm.GetSecretMetadataOptions{})
	_, _, listErr := ibm.ListSecretsWithContext(ctx, &sm.ListSecretsOptions{})
	_, _, locksErr := ibm.ListSecretVersionLocksWithContext(ctx, &sm.ListSecretVersionLocksOptions{})
	_, _, createErr := ibm.CreateSecretVersionWithContext(ctx, &sm.CreateSecretVersionOptions{})
	return errors.Join(readErr, describeErr, putErr, tokenErr, getErr, nameErr, versionErr, metadataErr, listErr, locksErr, createErr)
}
