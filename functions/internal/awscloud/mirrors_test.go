package awscloud

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

const versionID = "7cf9d6e1-2919-432f-9883-d5040bfcd326"

func TestPutNamesTheVersionThatItCopies(t *testing.T) {
	endpoint, requests := answering(t, 200, awsJSON, `{"ARN":"`+testARN+`","VersionId":"`+versionID+`"}`)
	awsEnvironment(t, endpoint)
	if err := NewMirrors(http.DefaultTransport).Put(t.Context(), testARN, versionID, iamtoken.NewSecret(canary)); err != nil {
		t.Fatal(err)
	}
	if len(*requests) != 1 {
		t.Fatalf("got %d requests, want 1", len(*requests))
	}
	asked := wantOperation(t, (*requests)[0], "PutSecretValue")
	if asked["SecretId"] != testARN || asked["ClientRequestToken"] != versionID || asked["SecretString"] != canary || len(asked) != 3 {
		t.Errorf("got the fields %d, want SecretId, ClientRequestToken (the version's id) and SecretString alone", len(asked))
	}
}

func TestCurrentIsTheVersionThatReadersGet(t *testing.T) {
	for name, test := range map[string]struct{ stages, want string }{
		"current and previous": {`{"` + versionID + `":["AWSCURRENT"],"old":["AWSPREVIOUS"]}`, versionID},
		"pending":              {`{"new":["AWSPENDING"],"` + versionID + `":["x","AWSCURRENT"]}`, versionID},
		"no version":           {`{}`, ""},
		"no stages":            {`null`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, _ := answering(t, 200, awsJSON, `{"ARN":"`+testARN+`","VersionIdsToStages":`+test.stages+`}`)
			awsEnvironment(t, endpoint)
			got, err := NewMirrors(http.DefaultTransport).Current(t.Context(), testARN)
			if got != test.want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

// The advice is about the copy, not about the bootstrap key, and repeats nothing
// that was answered.
func TestMirrorFailures(t *testing.T) {
	awsError := func(code string) string { return `{"__type":"` + code + `","message":"` + canary + `"}` }
	for name, test := range map[string]struct {
		status int
		body   string
		kind   rotation.Kind
		retry  rotation.Retry
		advice string
	}{
		"missing":      {400, awsError("ResourceNotFoundException"), rotation.NotFound, rotation.Never, "the function creates none"},
		"denied":       {400, awsError("AccessDeniedException"), rotation.Denied, rotation.Never, "MirrorSecretArns"},
		"deleted":      {400, awsError("InvalidRequestException"), rotation.NotFound, rotation.Never, "restore-secret"},
		"the KMS key":  {400, awsError("EncryptionFailure"), rotation.Misconfigured, rotation.Never, "KMS key"},
		"too often":    {400, awsError("ThrottlingException"), rotation.RateLimited, rotation.Later, "too often"},
		"quota":        {400, awsError("LimitExceededException"), rotation.RateLimited, rotation.Later, "too often"},
		"trouble":      {500, awsError("InternalServiceError"), rotation.Unavailable, rotation.Later, "trouble"},
		"another text": {400, awsError("ResourceExistsException"), rotation.Misconfigured, rotation.Never, "mirror"},
		"a web page":   {200, "<html>" + canary, rotation.Unavailable, rotation.Later, "proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, _ := answering(t, test.status, awsJSON, test.body)
			awsEnvironment(t, endpoint)
			mirrors := NewMirrors(http.DefaultTransport)
			_, err := mirrors.Current(t.Context(), testARN)
			checkFailure(t, err, test.kind, test.retry, test.advice)
			err = mirrors.Put(t.Context(), testARN, versionID, iamtoken.NewSecret(canary))
			checkFailure(t, err, test.kind, test.retry, test.advice)
			if strings.Contains(err.Error(), "put-bootstrap-key") || !strings.Contains(err.Error(), testARN) {
				t.Errorf("got %q, want it to name the copy", err)
			}
		})
	}
}

// A function that was frozen before the copy must not write an old token on thawing.
func TestNothingIsPutAfterTheWallDeadline(t *testing.T) {
	frozen := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		t.Errorf("got a request of %d bytes, want none", len(body))
	}))
	t.Cleanup(frozen.Close)
	awsEnvironment(t, frozen.URL)
	ctx := rotation.WithWallDeadline(t.Context(), time.Now().Add(-time.Second))
	err := NewMirrors(http.DefaultTransport).Put(ctx, testARN, versionID, iamtoken.NewSecret(canary))
	checkFailure(t, err, rotation.Timeout, rotation.Never, "suspended")
}
