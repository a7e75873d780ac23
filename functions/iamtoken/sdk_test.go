package iamtoken_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/logsrouterv3"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
)

// A Reader is an authenticator of IBM's Go SDKs, without importing them.
var _ core.Authenticator = (*iamtoken.Reader)(nil)

// logsRouting is IBM's own client, with a Reader as its authenticator.
func logsRouting(t *testing.T, cloud *ibmcloudtest.Cloud) (*logsrouterv3.LogsRouterV3, *iamtoken.Reader) {
	t.Helper()
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	reader := &iamtoken.Reader{Store: &iamtoken.SecretsManager{
		URL: server.URL, IAMURL: server.URL, SecretID: cloud.Rotations()[0].TokenSecret,
		APIKey: iamtoken.NewSecret(cloud.ReaderAPIKey()),
	}}
	service, err := logsrouterv3.NewLogsRouterV3(&logsrouterv3.LogsRouterV3Options{URL: server.URL + "/v3", Authenticator: reader})
	if err != nil {
		t.Fatal(err)
	}
	return service, reader
}

func publish(cloud *ibmcloudtest.Cloud, ttl time.Duration) {
	rotation := cloud.Rotations()[0]
	cloud.MustPutVersion(rotation.TokenSecret, cloud.MustMintToken(rotation.APIKey, ttl), map[string]any{"expiration": time.Now().Add(ttl).Unix()})
}

func TestIBMsLogsRoutingClientGetsPastA401(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	publish(cloud, time.Hour)
	service, reader := logsRouting(t, cloud)
	service.Service.SetHTTPClient(&http.Client{Transport: reader.Transport(nil)})
	if _, _, err := service.ListTargets(service.NewListTargetsOptions()); err != nil {
		t.Fatal(err)
	}
	publish(cloud, time.Hour-time.Minute)
	cloud.MustAddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpTargetsList, Status: http.StatusUnauthorized, Times: 1})
	if _, response, err := service.ListTargets(service.NewListTargetsOptions()); err != nil {
		t.Errorf("got %v (%v), want 200 with the new token", err, response)
	}
}
