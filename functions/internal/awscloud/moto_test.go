package awscloud

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/infra/aws/awstest"
)

// startMoto starts a stand-in for AWS that ends with the test, and points the SDK at it.
func startMoto(t *testing.T) {
	t.Helper()
	awsEnvironment(t, awstest.Start(t).URL())
}

// A copy, as AWS keeps it: one version for each version at IBM, however often it is
// put, and readers get the newest.
func TestCopiesInMoto(t *testing.T) {
	startMoto(t)
	aws := reader(t)
	secretARN := createSecret(t, aws, "iam-token")
	mirrors := NewMirrors(http.DefaultTransport)
	if current, err := mirrors.Current(t.Context(), secretARN); current != "" || err != nil {
		t.Errorf("a secret without a version: got %q, %v; want none", current, err)
	}
	const older, newer = "11111111-2919-432f-9883-d5040bfcd326", versionID
	for _, put := range []struct{ id, payload string }{{older, "Bearer one"}, {older, "Bearer one"}, {newer, `{"iam_token":"two"}`}, {newer, `{"iam_token":"two"}`}} {
		if err := mirrors.Put(t.Context(), secretARN, put.id, iamtoken.NewSecret(put.payload)); err != nil {
			t.Fatal(err)
		}
		if current, err := mirrors.Current(t.Context(), secretARN); current != put.id || err != nil {
			t.Errorf("got the current version %q, %v; want %s", current, err, put.id)
		}
		value, err := aws.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &secretARN})
		if err != nil || *value.SecretString != put.payload || *value.VersionId != put.id {
			t.Errorf("a reader got %v, want version %s", err, put.id)
		}
	}
	described, err := aws.DescribeSecret(t.Context(), &secretsmanager.DescribeSecretInput{SecretId: &secretARN})
	if err != nil || len(described.VersionIdsToStages) != 2 {
		t.Errorf("got %d versions (%v), want 2: a second put of a version writes nothing", len(described.VersionIdsToStages), err)
	}
	missing := strings.Replace(secretARN, "iam-token", "no-such-token", 1)
	_, err = mirrors.Current(t.Context(), missing)
	checkFailure(t, err, rotation.NotFound, rotation.Never, "the function creates none")
	err = mirrors.Put(t.Context(), missing, newer, iamtoken.NewSecret(canary))
	checkFailure(t, err, rotation.NotFound, rotation.Never, "the function creates none")
}

// reader is a job on AWS, or a person.
func reader(t *testing.T) *secretsmanager.Client {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(context.Background(), config.WithRegion("eu-central-1"))
	if err != nil {
		t.Fatal(err)
	}
	return secretsmanager.NewFromConfig(cfg)
}

func createSecret(t *testing.T, client *secretsmanager.Client, name string) (arn string) {
	t.Helper()
	created, err := client.CreateSecret(context.Background(), &secretsmanager.CreateSecretInput{Name: aws.String(name)})
	if err != nil {
		t.Fatal(err)
	}
	return *created.ARN
}

// The Reader of iamtoken reads a copy with a job's own role.
func TestAJobReadsTheCopyThroughAReader(t *testing.T) {
	startMoto(t)
	client := reader(t)
	secretARN := createSecret(t, client, "iam-token")
	payload, err := json.Marshal(map[string]any{"access_token": "opaque", "expiration": 4102444800})
	if err != nil {
		t.Fatal(err)
	}
	if err := NewMirrors(http.DefaultTransport).Put(t.Context(), secretARN, versionID, iamtoken.NewSecret(string(payload))); err != nil {
		t.Fatal(err)
	}
	job := &iamtoken.Reader{Store: iamtoken.StoreFunc(func(ctx context.Context) (iamtoken.Version, error) {
		value, err := client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &secretARN})
		if err != nil {
			return iamtoken.Version{}, err
		}
		return iamtoken.Version{Payload: iamtoken.NewSecret(*value.SecretString), CreatedAt: *value.CreatedDate}, nil
	})}
	token, err := job.Token(t.Context())
	if err != nil || token.Value.Reveal() != "opaque" {
		t.Errorf("got %v, want the copied token", err)
	}
}
