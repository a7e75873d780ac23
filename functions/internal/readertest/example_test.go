package readertest

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/logsrouterv3"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

// A job's HTTP client that authorizes every request. The sandbox emulates IBM
// Cloud here; a job takes the values from where it keeps its settings.
func Example_transport() {
	sandbox, env := startSandbox()
	defer sandbox.Close()

	reader := &iamtoken.Reader{Store: &iamtoken.SecretsManager{
		URL:      env["SECRETS_MANAGER_URL"],
		IAMURL:   env["IAM_URL"],
		SecretID: env["TOKEN_SECRET"],
		APIKey:   iamtoken.NewSecret(env["READER_APIKEY"]),
	}}
	client := &http.Client{Transport: reader.Transport(nil), Timeout: 30 * time.Second}

	response, err := client.Get(env["LOGS_ROUTING_URL"] + "/v3/targets")
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	fmt.Println(response.Status)
	// Output: 200 OK
}

// IBM's own client for Logs Routing, with a Reader in place of an IamAuthenticator.
func Example_authenticator() {
	sandbox, env := startSandbox()
	defer sandbox.Close()

	reader := &iamtoken.Reader{Store: &iamtoken.SecretsManager{
		URL:      env["SECRETS_MANAGER_URL"],
		IAMURL:   env["IAM_URL"],
		SecretID: env["TOKEN_SECRET"],
		APIKey:   iamtoken.NewSecret(env["READER_APIKEY"]),
	}}
	service, err := logsrouterv3.NewLogsRouterV3(&logsrouterv3.LogsRouterV3Options{
		URL:           env["LOGS_ROUTING_URL"] + "/v3",
		Authenticator: reader,
	})
	if err != nil {
		log.Fatal(err)
	}
	targets, _, err := service.ListTargets(service.NewListTargetsOptions())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(*targets.Targets[0].Name)
	// Output: cloud-logs-target
}

// A store of one's own: the mirror in AWS Secrets Manager, which a job on AWS reads
// with its own role. getSecretValue emulates the call of the AWS SDK's client.
func Example_storeFunc() {
	getSecretValue := func(context.Context) (secretString string, createdDate time.Time, err error) {
		return `{"access_token":"an-opaque-token-of-40-characters-0123456","expiration":` + fmt.Sprint(time.Now().Add(time.Hour).Unix()) + `}`, time.Now(), nil
	}
	reader := &iamtoken.Reader{Store: iamtoken.StoreFunc(func(ctx context.Context) (iamtoken.Version, error) {
		secretString, createdDate, err := getSecretValue(ctx)
		return iamtoken.Version{Payload: iamtoken.NewSecret(secretString), CreatedAt: createdDate}, err
	})}

	token, err := reader.Token(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.Value, "with", time.Until(token.Expiration).Round(time.Minute), "left")
	// Output: [secret] with 1h0m0s left
}

// A Reader is an authenticator of IBM's Go SDKs, without importing them.
var _ core.Authenticator = (*iamtoken.Reader)(nil)

func TestIBMsLogsRoutingClientGetsPastA401(t *testing.T) {
	withFixture(t, func(fx *fixture) {
		fx.rotate(time.Hour)
		service, err := logsrouterv3.NewLogsRouterV3(&logsrouterv3.LogsRouterV3Options{URL: "https://logs.test/v3", Authenticator: fx.reader})
		if err != nil {
			t.Fatal(err)
		}
		service.Service.SetHTTPClient(fx.client())
		if _, _, err := service.ListTargets(service.NewListTargetsOptions()); err != nil {
			t.Fatal(err)
		}
		fx.rotate(time.Hour - time.Minute)
		fx.fault(ibmcloudtest.Fault{Op: ibmcloudtest.OpTargetsList, Status: http.StatusUnauthorized, Times: 1})
		if _, response, err := service.ListTargets(service.NewListTargetsOptions()); err != nil {
			t.Errorf("got %v (%v), want 200 with the new token", err, response)
		}
	})
}

func startSandbox() (*httptest.Server, map[string]string) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	rotation := cloud.Rotations()[0]
	cloud.MustPutVersion(rotation.TokenSecret, cloud.MustMintToken(rotation.APIKey, time.Hour), nil)
	server := httptest.NewServer(cloud)
	return server, map[string]string{
		"SECRETS_MANAGER_URL": server.URL, "IAM_URL": server.URL, "LOGS_ROUTING_URL": server.URL,
		"TOKEN_SECRET": rotation.TokenSecret, "READER_APIKEY": cloud.ReaderAPIKey(),
	}
}
