package awscloud

import (
	"context"
	"fmt"
	"io"
	"net/http"
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
	"iam-token-rotator/scripts/awstest"
)

// Every call reads the secret again: the key may have been replaced.
func TestTheBootstrapKey(t *testing.T) {
	requests := answering(t, 200, strings.Replace(secretValue("SecretString", " "+canary+"\r\n"), "{", `{"VersionId":"the-version",`, 1))
	store := NewKeyStore(testARN, http.DefaultTransport)
	for range 2 {
		if key, id, err := store.Current(t.Context()); err != nil || key.Reveal() != canary || id != "the-version" {
			t.Errorf("got version %q, %v; want the key, trimmed", id, err)
		}
	}
	if key, err := store.PreviousKey(t.Context()); err != nil || key.Reveal() != canary {
		t.Errorf("got %v, want a key", err)
	}
	if err := store.Put(t.Context(), iamtoken.NewSecret("a-new-key"), "its-version"); err != nil {
		t.Error(err)
	}
	wantRequests(t, *requests, `GetSecretValue {"SecretId":"`+testARN+`"}`, `GetSecretValue`,
		`GetSecretValue {"SecretId":"`+testARN+`","VersionStage":"AWSPREVIOUS"}`,
		`PutSecretValue {"ClientRequestToken":"its-version","SecretId":"`+testARN+`","SecretString":"a-new-key"}`)
}

// The secret's metadata is read only before the first write.
func TestPutNamesTheVersionThatItMirrors(t *testing.T) {
	requests := answering(t, 200, `{"ARN":"`+testARN+`","VersionId":"`+versionID+`"}`)
	mirrors := NewMirrors(http.DefaultTransport)
	for range 2 {
		if err := mirrors.Put(t.Context(), testARN, versionID, iamtoken.NewSecret("token")); err != nil {
			t.Fatal(err)
		}
	}
	put := `PutSecretValue {"ClientRequestToken":"` + versionID + `","SecretId":"` + testARN + `","SecretString":"token"}`
	wantRequests(t, *requests, "DescribeSecret", put, put)
}

func TestCurrentIsTheVersionThatReadersGet(t *testing.T) {
	secret := func(stages string) string {
		return `{"ARN":"` + testARN + `","CreatedDate":1577836800.0,"LastChangedDate":1577836860.5,"VersionIdsToStages":` + stages + `}`
	}
	parameter := func(description string) string { return shown(`,"Description":"` + description + `"`) }
	ours := description(versionID, 7)
	for _, tt := range []struct {
		arn, described, current string
		others                  []string
	}{
		{testARN, secret(`{"` + versionID + `":["AWSCURRENT"],"old":["AWSPREVIOUS"],"bare":[]}`), versionID, []string{"old"}},
		{testARN, secret(`{"new":["AWSPENDING"],"` + versionID + `":["x","AWSCURRENT"]}`), versionID, []string{"new"}},
		{testARN, secret(`{}`), "", nil},
		{testARN, secret(`null`), "", nil},
		{parameterARN, parameter(ours), versionID, nil},
		{parameterARN, parameter(description(versionID, 6)), "", nil}, // AWS keeps the description when somebody else writes a value
		{parameterARN, parameter(description(versionID, 77)), "", nil},
		{parameterARN, parameter(""), "", nil},
		{parameterARN, parameter(versionID), "", nil},
		{parameterARN, parameter(ours + " "), "", nil},
		{parameterARN, parameter("x" + ours), "", nil},
		{parameterARN, parameter(strings.Replace(ours, versionID, "", 1)), "", nil},
	} {
		answering(t, 200, tt.described)
		got, err := NewMirrors(http.DefaultTransport).Describe(t.Context(), tt.arn)
		if got.VersionID != tt.current || !slices.Equal(got.Others, tt.others) || got.ChangedAt.Unix() != 1577836860 || err != nil {
			t.Errorf("%s: got %+v, %v; want %q and %q, changed when AWS says", tt.described, got, err, tt.current, tt.others)
		}
	}
}

// A mirror that must not be written to is recognized before anything is put. AWS also accepts a
// part of an ARN, which may find another secret.
func TestMirrorsThatAreNotWritten(t *testing.T) {
	const wrong = rotation.Misconfigured
	secret := func(state string) string { return `{"ARN":"` + testARN + `",` + state + `}` }
	parameter := func(old, by string) string { return strings.Replace(shown(""), old, by, 1) }
	double := strings.TrimSuffix(shown(""), "]}") + "," + strings.TrimPrefix(shown(""), `{"Parameters":[`)
	for _, tt := range []struct {
		arn, described string
		size           int
		late           bool // the process was suspended meanwhile
		kind           rotation.Kind
		says           string
	}{
		{testARN, secret(`"DeletedDate":1767225600`), 9, false, rotation.NotFound, "to the AWS secret " + testARN + ": the secret is scheduled for deletion: restore it with aws secretsmanager restore-secret"},
		{testARN, secret(`"PrimaryRegion":"us-east-1"`), 9, false, wrong, "primary secret"},
		{testARN, secret(`"OwningService":"` + canary + `"`), 9, false, wrong, "another AWS service"},
		{strings.TrimSuffix(testARN, "-Ab12Cd"), secret(`"Name":""`), 9, false, wrong, "the whole ARN"},
		{testARN[:len(testARN)-1], secret(`"Name":""`), 9, false, wrong, "the whole ARN"},
		{testARN, secret(`"PrimaryRegion":"eu-central-1","OwningService":""`), 9, true, rotation.Timeout, "suspended"},
		{parameterARN, double, 9, false, wrong, "there are two parameters"},
		{parameterARN, parameter("123456789012", "999999999999"), 9, false, wrong, "the function's own account"},
		{parameterARN, parameter(`"/tokens/logs"`, `"/tokens/else"`), 9, false, wrong, "the function's own account"},
		{parameterARN, `{"Parameters":[],"NextToken":"more"}`, 9, false, rotation.NotFound, "no such parameter"}, // endless empty pages
		{parameterARN, shown(""), 4097, false, wrong, "has 4097 bytes and the parameter holds 4096: make the parameter an advanced one"},
		{parameterARN, parameter("Standard", "Advanced"), 8193, false, wrong, "holds 8192"},
		{parameterARN, shown(""), 9, true, rotation.Timeout, "suspended"},
		{parameterARN, parameter("SecureString", "String"), 9, false, wrong, "SecureString"}, // the token would be there in the clear
		{parameterARN, parameter(`"Type":"SecureString",`, ""), 9, false, wrong, "SecureString"},
	} {
		requests, ctx := answering(t, 200, tt.described), t.Context()
		if tt.late {
			ctx = rotation.WithWallDeadline(ctx, time.Now().Add(-time.Second))
		}
		mirrors := NewMirrors(http.DefaultTransport)
		err := mirrors.Put(ctx, tt.arn, versionID, iamtoken.NewSecret(strings.Repeat("x", tt.size)))
		checkFailure(t, err, tt.kind, rotation.Never, tt.says)
		if _, err := mirrors.Describe(ctx, tt.arn); !tt.late && tt.size == 9 {
			checkFailure(t, err, tt.kind, rotation.Never, tt.says)
		}
		if slices.ContainsFunc(*requests, func(r request) bool { return !strings.HasPrefix(r.operation, "Describe") }) {
			t.Errorf("%s of %s: it was written", tt.described, tt.arn)
		}
	}
	requests := answering(t, 200, secretValue("SecretString", canary))
	_, err := NewKeyStore("rotator/bootstrap", http.DefaultTransport).Key(t.Context())
	checkFailure(t, err, rotation.Misconfigured, rotation.Never, "SECRETS_MANAGER_APIKEY_ARN")
	wantRequests(t, *requests)
}

func TestSecretsThatHoldNoKey(t *testing.T) {
	for body, says := range map[string]string{
		secretValue("SecretString", ""):                        "empty",
		secretValue("SecretString", " \n"):                     "empty",
		secretValue("SecretString", `{"apikey":"`+canary+`"}`): "bare key",
		secretValue("SecretString", canary+"\n"+canary):        "bare key",
		secretValue("SecretString", "'"+canary+"'"):            "is in quotes",
		secretValue("SecretString", "\ufeff"+canary):           "begins with a byte-order mark",
		secretValue("SecretBinary", "Y2FuYXJ5"):                "binary",
	} {
		answering(t, 200, body)
		key, err := readKey(t)
		if !key.IsZero() {
			t.Errorf("%s: got a key, want none", says)
		}
		checkFailure(t, err, rotation.Misconfigured, rotation.Never, says)
	}
}

// By default the AWS SDK logs a Date header that it cannot read, whatever its text is.
func TestAnOddDateIsNotLogged(t *testing.T) {
	awsEnvironment(t, server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", canary)
		w.Header().Set("Content-Type", awsJSON)
		_, _ = io.WriteString(w, secretValue("SecretString", canary))
	}))
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
	if logged, err := os.ReadFile(file.Name()); err != nil || strings.Contains(string(logged), canary) {
		t.Errorf("the SDK logged the text of the Date header (%v)", err)
	}
}

func TestASignedRequestIsNotRedirected(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var elsewhere atomic.Int32
		other := server(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
		awsEnvironment(t, server(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other, status) }))
		_, err := readKey(t)
		checkFailure(t, err, rotation.Misconfigured, rotation.Never)
		err = NewMirrors(http.DefaultTransport).Put(t.Context(), testARN, versionID, iamtoken.NewSecret(canary))
		checkFailure(t, err, rotation.Misconfigured, rotation.Never)
		if elsewhere.Load() > 0 {
			t.Errorf("%d: the request was sent on to another host", status)
		}
	}
}

// inMoto has the tests that need moto, which emulates AWS. All share one moto, because it takes
// seconds to start.
var inMoto = map[string]func(*testing.T, *awstest.Moto){
	"secrets": secretsInMoto, "writes that AWS refuses": writesThatAWSRefuses, "events": eventsInMoto,
	"parameters": parametersInMoto, "a job reads a parameter": aJobReadsAParameterThroughAReader,
}

func TestInMoto(t *testing.T) {
	moto := awstest.Start(t)
	for name, test := range inMoto {
		t.Run(name, func(t *testing.T) {
			awsEnvironment(t, moto.URL())
			test(t, moto)
		})
	}
}

// AWS keeps one version for each version at IBM, however often it is put, and readers get the
// newest.
func secretsInMoto(t *testing.T, _ *awstest.Moto) {
	aws := reader(t)
	secretARN := createSecret(t, aws, "iam-token")
	mirrors := NewMirrors(http.DefaultTransport)
	if current, err := mirrors.Describe(t.Context(), secretARN); current.VersionID != "" || err != nil {
		t.Errorf("a secret without a version: got %q, %v; want none", current, err)
	}
	for _, put := range []struct{ id, payload string }{{otherVersion, "Bearer one"}, {otherVersion, "Bearer one"}, {versionID, `{"iam_token":"two"}`}, {versionID, `{"iam_token":"two"}`}} {
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
}

// AWS refuses the 101st version within a day, a replica, a secret that is being deleted, and one
// that does not exist.
func writesThatAWSRefuses(t *testing.T, moto *awstest.Moto) {
	client := reader(t)
	secretARN := createSecret(t, client, "refused")
	mirrors := NewMirrors(http.DefaultTransport)
	put := func(arn string, n int) error {
		return mirrors.Put(t.Context(), arn, fmt.Sprintf("00000000-0000-4000-8000-%012d", n), iamtoken.NewSecret(canary))
	}
	for n := range 100 {
		if err := put(secretARN, n); err != nil {
			t.Fatalf("version %d: %v", n, err)
		}
	}
	if err := put(secretARN, 50); err != nil {
		t.Errorf("a version that is there: %v", err)
	}
	moto.Advance(23 * time.Hour)
	checkFailure(t, put(secretARN, 100), rotation.RateLimited, rotation.Never, "answered 400 LimitExceededException: ", "100 versions")
	moto.Advance(time.Hour)
	if err := put(secretARN, 100); err != nil {
		t.Errorf("a day later: %v", err)
	}

	replicate := &secretsmanager.ReplicateSecretToRegionsInput{SecretId: &secretARN, AddReplicaRegions: []types.ReplicaRegionType{{Region: aws.String("us-east-1")}}}
	if _, err := client.ReplicateSecretToRegions(t.Context(), replicate); err != nil {
		t.Fatal(err)
	}
	checkFailure(t, put(strings.Replace(secretARN, "eu-central-1", "us-east-1", 1), 1), rotation.Misconfigured, rotation.Never, "is a replica")
	being := createSecret(t, client, "being-deleted")
	if err := put(being, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := client.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &being}); err != nil {
		t.Fatal(err)
	}
	checkFailure(t, put(being, 2), rotation.NotFound, rotation.Never, "answered 400 InvalidRequestException: the secret is scheduled for deletion")
	missing := strings.Replace(secretARN, "refused", "no-such-token", 1)
	checkFailure(t, put(missing, 1), rotation.NotFound, rotation.Never, "the function creates none")
}

// reader is the client of a job on AWS, or of a person.
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
