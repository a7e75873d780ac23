package awscloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/infra/aws/awstest"
)

const (
	testARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rotator/bootstrap-Ab12Cd"
	// canary is in place of a key: it must not turn up in any error.
	canary = "canary-key-0123456789"
)

// awsEnvironment points the SDK at endpoint, in another region than the secrets'.
func awsEnvironment(t *testing.T, endpoint string) {
	t.Helper()
	awstest.Setenv(t, "")
	t.Setenv("AWS_REGION", "us-west-2")
	t.Setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", endpoint)
	t.Setenv("AWS_ENDPOINT_URL_SSM", endpoint)
	t.Setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", endpoint)
}

// answering gives one answer to every request of the SDK, and keeps the requests.
func answering(t *testing.T, status int, body string) (requests *[]*http.Request) {
	t.Helper()
	requests = new([]*http.Request)
	awsEnvironment(t, serving(t, func(r *http.Request) (int, string) {
		asked, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(asked)))
		*requests = append(*requests, r)
		return status, body
	}))
	return requests
}

// serving answers with what handle returns: 0 is a 404.
func serving(t *testing.T, handle func(r *http.Request) (status int, body string)) (origin string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, body := handle(r)
		w.Header().Set("Content-Type", awsJSON)
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		w.WriteHeader(cmp.Or(status, http.StatusNotFound))
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// readKey reads the bootstrap key from the secret testARN.
func readKey(t *testing.T) (iamtoken.Secret, error) {
	t.Helper()
	return NewKeyStore(testARN, http.DefaultTransport).Key(t.Context())
}

// asked notes the hosts that requests go to, and answers none.
type asked struct{ hosts []string }

func (a *asked) RoundTrip(req *http.Request) (*http.Response, error) {
	a.hosts = append(a.hosts, req.URL.Host)
	return nil, errors.New("nobody is there")
}

const awsJSON = "application/x-amz-json-1.1"

func secretValue(field, value string) string {
	body, _ := json.Marshal(map[string]string{"ARN": testARN, "Name": "rotator/bootstrap", field: value})
	return string(body)
}

func TestKeyIsReadFromItsRegionAndTrimmed(t *testing.T) {
	requests := answering(t, 200, secretValue("SecretString", " "+canary+"\r\n"))
	read := NewKeyStore(testARN, http.DefaultTransport).Key
	for range 2 { // every call reads afresh: the key may have been replaced
		key, err := read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if key.Reveal() != canary {
			t.Errorf("got a key of %d characters, want the stored one, trimmed", len(key.Reveal()))
		}
	}
	if len(*requests) != 2 {
		t.Fatalf("got %d requests, want 2", len(*requests))
	}
	if asked := wantOperation(t, (*requests)[0], "GetSecretValue"); len(asked) != 1 || asked["SecretId"] != testARN {
		t.Errorf("asked for %d fields, want SecretId %s alone", len(asked), testARN)
	}
}

// wantOperation checks what a request calls, and where, and returns what it asks for.
func wantOperation(t *testing.T, request *http.Request, operation string) (asked map[string]any) {
	t.Helper()
	if got, want := request.Header.Get("X-Amz-Target"), "secretsmanager."+operation; got != want {
		t.Errorf("got target %q, want %q", got, want)
	}
	if got, want := request.Header.Get("Authorization"), "/eu-central-1/secretsmanager/"; !strings.Contains(got, want) {
		t.Errorf("signed as %q, want the ARN's region (%s), not the machine's", got, want)
	}
	if err := json.NewDecoder(request.Body).Decode(&asked); err != nil {
		t.Fatal(err)
	}
	return asked
}

// TestAnOddDateIsNotLogged: the AWS SDK writes a Date header that it cannot read to
// stderr, whatever stands there.
func TestAnOddDateIsNotLogged(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", canary)
		w.Header().Set("Content-Type", awsJSON)
		_, _ = io.WriteString(w, secretValue("SecretString", canary))
	}))
	t.Cleanup(server.Close)
	awsEnvironment(t, server.URL)

	stderr := os.Stderr
	t.Cleanup(func() { os.Stderr = stderr })
	file, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	os.Stderr = file
	if _, err := readKey(t); err != nil {
		t.Fatal(err)
	}
	logged, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(logged), canary) {
		t.Error("the SDK logged what stood in the Date header")
	}
}

const versionID = "7cf9d6e1-2919-432f-9883-d5040bfcd326"

func TestPutNamesTheVersionThatItMirrors(t *testing.T) {
	requests := answering(t, 200, `{"ARN":"`+testARN+`","VersionId":"`+versionID+`"}`)
	mirrors := NewMirrors(http.DefaultTransport)
	for range 2 {
		if err := mirrors.Put(t.Context(), testARN, versionID, iamtoken.NewSecret(canary)); err != nil {
			t.Fatal(err)
		}
	}
	if len(*requests) != 3 {
		t.Fatalf("got %d requests, want 3: the description is read before the first write alone", len(*requests))
	}
	wantOperation(t, (*requests)[0], "DescribeSecret")
	asked := wantOperation(t, (*requests)[1], "PutSecretValue")
	if asked["SecretId"] != testARN || asked["ClientRequestToken"] != versionID || asked["SecretString"] != canary || len(asked) != 3 {
		t.Errorf("got the fields %d, want SecretId, ClientRequestToken (the version's id) and SecretString alone", len(asked))
	}
}

func TestCurrentIsTheVersionThatReadersGet(t *testing.T) {
	for name, test := range map[string]struct {
		stages, want string
		others       []string
	}{
		"current and previous": {`{"` + versionID + `":["AWSCURRENT"],"old":["AWSPREVIOUS"],"bare":[]}`, versionID, []string{"old"}},
		"pending":              {`{"new":["AWSPENDING"],"` + versionID + `":["x","AWSCURRENT"]}`, versionID, []string{"new"}},
		"no version":           {`{}`, "", nil},
		"no stages":            {`null`, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			answering(t, 200, `{"ARN":"`+testARN+`","CreatedDate":1577836800.0,"LastChangedDate":1577836860.5,"VersionIdsToStages":`+test.stages+`}`)
			got, err := NewMirrors(http.DefaultTransport).Describe(t.Context(), testARN)
			if got.VersionID != test.want || !slices.Equal(got.Others, test.others) || err != nil {
				t.Errorf("got %+v, %v; want %q and %q", got, err, test.want, test.others)
			}
			if got.ChangedAt.Unix() != 1577836860 {
				t.Errorf("got %s, want AWS's LastChangedDate", got.ChangedAt)
			}
		})
	}
}

// AWS resolves a part of an ARN, which may be that of another secret.
func TestASecretOfAnotherARNIsNotWritten(t *testing.T) {
	requests := answering(t, 200, `{"ARN":"`+testARN+`"}`)
	_, err := NewKeyStore("rotator/bootstrap", http.DefaultTransport).Key(t.Context())
	checkFailure(t, err, rotation.Misconfigured, rotation.Never, "SECRETS_MANAGER_APIKEY_ARN")
	if len(*requests) > 0 {
		t.Error("a secret was asked for by its name")
	}
	for _, partial := range []string{strings.TrimSuffix(testARN, "-Ab12Cd"), testARN[:len(testARN)-1]} {
		*requests = nil
		mirrors := NewMirrors(http.DefaultTransport)
		_, err = mirrors.Describe(t.Context(), partial)
		checkFailure(t, err, rotation.Misconfigured, rotation.Never, "the whole ARN")
		err = mirrors.Put(t.Context(), partial, versionID, iamtoken.NewSecret(canary))
		checkFailure(t, err, rotation.Misconfigured, rotation.Never, "the whole ARN")
		for _, request := range *requests {
			wantOperation(t, request, "DescribeSecret")
		}
	}
}

// A function that was frozen before the write must not write an old token on thawing.
func TestNothingIsPutAfterTheWallDeadline(t *testing.T) {
	requests := answering(t, 200, `{"ARN":"`+testARN+`"}`)
	ctx := rotation.WithWallDeadline(t.Context(), time.Now().Add(-time.Second))
	err := NewMirrors(http.DefaultTransport).Put(ctx, testARN, versionID, iamtoken.NewSecret(canary))
	checkFailure(t, err, rotation.Timeout, rotation.Never, "suspended")
	for _, request := range *requests {
		wantOperation(t, request, "DescribeSecret")
	}
}

// One moto, which emulates AWS, serves all tests that need it: to start it takes seconds.
func TestInMoto(t *testing.T) {
	moto := awstest.Start(t)
	for name, test := range map[string]func(*testing.T, *awstest.Moto){
		"mirrors": mirrorsInMoto, "writes that AWS refuses": writesThatAWSRefuses, "events": eventsInMoto,
		"parameters": parametersInMoto, "puts at the same time": putsAtTheSameTime, "a parameter in the clear": aParameterInTheClearIsNotWritten,
		"any number of versions": aParameterTakesAnyNumberOfVersions, "a job reads a parameter": aJobReadsAParameterThroughAReader,
	} {
		t.Run(name, func(t *testing.T) {
			awsEnvironment(t, moto.URL())
			test(t, moto)
		})
	}
}

// A mirror, as AWS keeps it: one version for each version at IBM, however often it is
// put, and readers get the newest.
func mirrorsInMoto(t *testing.T, _ *awstest.Moto) {
	aws := reader(t)
	secretARN := createSecret(t, aws, "iam-token")
	mirrors := NewMirrors(http.DefaultTransport)
	if current, err := mirrors.Describe(t.Context(), secretARN); current.VersionID != "" || err != nil {
		t.Errorf("a secret without a version: got %q, %v; want none", current, err)
	}
	const older, newer = "11111111-2919-432f-9883-d5040bfcd326", versionID
	for _, put := range []struct{ id, payload string }{{older, "Bearer one"}, {older, "Bearer one"}, {newer, `{"iam_token":"two"}`}, {newer, `{"iam_token":"two"}`}} {
		if err := mirrors.Put(t.Context(), secretARN, put.id, iamtoken.NewSecret(put.payload)); err != nil {
			t.Fatal(err)
		}
		if current, err := mirrors.Describe(t.Context(), secretARN); current.VersionID != put.id || err != nil {
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
	_, err = mirrors.Describe(t.Context(), missing)
	checkFailure(t, err, rotation.NotFound, rotation.Never, "the function creates none")
	err = mirrors.Put(t.Context(), missing, newer, iamtoken.NewSecret(canary))
	checkFailure(t, err, rotation.NotFound, rotation.Never, "the function creates none")
}

// What AWS refuses to write: the 101st version within a day, a replica, a secret that is being deleted.
func writesThatAWSRefuses(t *testing.T, moto *awstest.Moto) {
	client := reader(t)
	secretARN := createSecret(t, client, "refused")
	mirrors := NewMirrors(http.DefaultTransport)
	put := func(n int) error {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", n)
		return mirrors.Put(t.Context(), secretARN, id, iamtoken.NewSecret(canary))
	}
	for n := range 100 {
		if err := put(n); err != nil {
			t.Fatalf("version %d: %v", n, err)
		}
	}
	checkFailure(t, put(100), rotation.RateLimited, rotation.Never, "answered 400 LimitExceededException: ", "100 versions")
	if err := put(50); err != nil {
		t.Errorf("a version that is there: %v", err)
	}
	moto.Advance(23 * time.Hour)
	checkFailure(t, put(100), rotation.RateLimited, rotation.Never, "100 versions")
	moto.Advance(time.Hour)
	if err := put(100); err != nil {
		t.Errorf("a day later: %v", err)
	}

	replicate := &secretsmanager.ReplicateSecretToRegionsInput{SecretId: &secretARN, AddReplicaRegions: []types.ReplicaRegionType{{Region: aws.String("us-east-1")}}}
	if _, err := client.ReplicateSecretToRegions(t.Context(), replicate); err != nil {
		t.Fatal(err)
	}
	replica := strings.Replace(secretARN, "eu-central-1", "us-east-1", 1)
	err := mirrors.Put(t.Context(), replica, versionID, iamtoken.NewSecret(canary))
	checkFailure(t, err, rotation.Misconfigured, rotation.Never, "is a replica")
	_, err = client.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &replica, SecretString: aws.String("x")},
		func(o *secretsmanager.Options) { o.Region = "us-east-1" })
	checkFailure(t, mirrors.mirror(replica).(*secret).failure(err), rotation.Misconfigured, rotation.Never, "answered 400 InvalidParameterException: the secret is a replica")

	being := createSecret(t, client, "being-deleted")
	if err := mirrors.Put(t.Context(), being, versionID, iamtoken.NewSecret(canary)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &being}); err != nil {
		t.Fatal(err)
	}
	err = mirrors.Put(t.Context(), being, "11111111-2919-432f-9883-d5040bfcd326", iamtoken.NewSecret(canary))
	checkFailure(t, err, rotation.NotFound, rotation.Never, "answered 400 InvalidRequestException: the secret is scheduled for deletion")
	_, err = mirrors.Describe(t.Context(), being)
	checkFailure(t, err, rotation.NotFound, rotation.Never, "to the AWS secret "+being+": the secret is scheduled for deletion")
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

func TestASignedRequestIsNotRedirected(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var elsewhere atomic.Int32
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
		t.Cleanup(other.Close)
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, status) }))
		t.Cleanup(origin.Close)
		awsEnvironment(t, origin.URL)
		_, err := readKey(t)
		checkFailure(t, err, rotation.Misconfigured, rotation.Never)
		if err := NewMirrors(http.DefaultTransport).Put(t.Context(), testARN, versionID, iamtoken.NewSecret(canary)); err == nil {
			t.Errorf("%d on a mirror: got no error", status)
		}
		if elsewhere.Load() > 0 {
			t.Errorf("%d: the request was sent on to another host", status)
		}
	}
}

func TestAnEndlessAnswerIsCutOff(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", awsJSON)
		chunk := []byte(`{"SecretString":"` + strings.Repeat("x", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	awsEnvironment(t, server.URL)
	_, err := readKey(t)
	checkFailure(t, err, rotation.Unavailable, rotation.Later)
}

func TestTheKeyBeforeAndANewKey(t *testing.T) {
	requests := answering(t, 200, strings.Replace(secretValue("SecretString", canary), "{", `{"VersionId":"the-version",`, 1))
	store := NewKeyStore(testARN, http.DefaultTransport)
	if key, id, err := store.Current(t.Context()); err != nil || key.Reveal() != canary || id != "the-version" {
		t.Errorf("got version %q, %v", id, err)
	}
	if key, err := store.PreviousKey(t.Context()); err != nil || key.Reveal() != canary {
		t.Errorf("got %v, want a key", err)
	}
	if err := store.Put(t.Context(), iamtoken.NewSecret("a-new-key"), "its-version"); err != nil {
		t.Error(err)
	}
	if len(*requests) != 3 {
		t.Fatalf("got %d requests, want 3", len(*requests))
	}
	if asked := wantOperation(t, (*requests)[1], "GetSecretValue"); asked["SecretId"] != testARN || asked["VersionStage"] != "AWSPREVIOUS" {
		t.Error("the key before was not asked for by AWSPREVIOUS")
	}
	if asked := wantOperation(t, (*requests)[2], "PutSecretValue"); len(asked) != 3 || asked["SecretId"] != testARN || asked["ClientRequestToken"] != "its-version" || asked["SecretString"] != "a-new-key" {
		t.Errorf("put %d fields, want the secret, the version's id and the key", len(asked))
	}
}

func TestARefusedNewKey(t *testing.T) {
	for code, says := range map[string]string{
		"":                          "denied: storing the new bootstrap key in the AWS secret " + testARN + ": AWS Secrets Manager answered 403: the answer has no error code of AWS's: a proxy in between may refuse (HTTPS_PROXY, AWS_ENDPOINT_URL), or let the function's role call secretsmanager:PutSecretValue",
		"AccessDeniedException":     "denied: storing the new bootstrap key in the AWS secret " + testARN + ": AWS Secrets Manager answered 400 AccessDeniedException: let the function's role call secretsmanager:PutSecretValue",
		"ExpiredTokenException":     "denied: storing the new bootstrap key in the AWS secret " + testARN + ": AWS Secrets Manager answered 400 ExpiredTokenException: the AWS credentials have expired",
		"ResourceNotFoundException": "not_found: storing the new bootstrap key",
	} {
		answering(t, map[bool]int{true: 403, false: 400}[code == ""], `{"__type":"`+code+`","message":"`+canary+`"}`)
		err := NewKeyStore(testARN, http.DefaultTransport).Put(t.Context(), iamtoken.NewSecret(canary), "its-version")
		var failure *rotation.Error
		if !errors.As(err, &failure) || !strings.HasPrefix(string(failure.Kind)+": "+failure.Message, says) || strings.Contains(failure.Message, canary) {
			t.Errorf("%s: got %v", code, err)
		}
	}
}
