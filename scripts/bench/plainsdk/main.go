// Command plainsdk does the function's job as the documentation of IBM's SDKs
// shows it: an authenticator for each identity, a client, three calls. It takes
// the function's environment. It checks nothing, so do not use it for real.
package main

import (
	"log"
	"os"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
)

func main() {
	secretsManager, err := sm.NewSecretsManagerV2(&sm.SecretsManagerV2Options{
		URL:           os.Getenv("SECRETS_MANAGER_URL"),
		Authenticator: &core.IamAuthenticator{ApiKey: os.Getenv("SECRETS_MANAGER_APIKEY"), URL: os.Getenv("IAM_URL")},
	})
	check(err)
	secret, _, err := secretsManager.GetSecret(secretsManager.NewGetSecretOptions(os.Getenv("API_KEY_SECRET")))
	check(err)
	workload := &core.IamAuthenticator{ApiKey: *secret.(*sm.ArbitrarySecret).Payload, URL: os.Getenv("IAM_URL")}
	token, err := workload.GetToken()
	check(err)
	_, _, err = secretsManager.CreateSecretVersion(secretsManager.NewCreateSecretVersionOptions(
		os.Getenv("TOKEN_SECRET"), &sm.ArbitrarySecretVersionPrototype{Payload: &token}))
	check(err)
}

func check(err error) {
	if err != nil {
		log.Fatal("plainsdk: a call failed") // the error may repeat what was sent
	}
}
