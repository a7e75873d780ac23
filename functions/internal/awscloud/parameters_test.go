package awscloud

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/infra/aws/awstest"
)

const (
	parameterARN = "arn:aws:ssm:eu-central-1:123456789012:parameter/tokens/logs"
	otherVersion = "11111111-2919-432f-9883-d5040bfcd326"
)

func parameterStore(t *testing.T) *ssm.Client {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(context.Background(), config.WithRegion("eu-central-1"))
	if err != nil {
		t.Fatal(err)
	}
	return ssm.NewFromConfig(cfg)
}

// putByHand puts a parameter as a person does, and returns its ARN.
func putByHand(t *testing.T, client *ssm.Client, in ssm.PutParameterInput) (arn string) {
	t.Helper()
	in.Value = aws.String("by hand")
	if _, err := client.PutParameter(t.Context(), &in); err != nil {
		t.Fatal(err)
	}
	return "arn:aws:ssm:eu-central-1:123456789012:parameter/" + strings.TrimPrefix(*in.Name, "/")
}

func secureByHand(t *testing.T, client *ssm.Client, name string) (arn string) {
	t.Helper()
	return putByHand(t, client, ssm.PutParameterInput{Name: &name, Type: types.ParameterTypeSecureString})
}

// The token is put under the key and the tier that the parameter has, readers get it, and
// what a person writes there is no token of ours, though AWS keeps our description.
func parametersInMoto(t *testing.T, _ *awstest.Moto) {
	client := parameterStore(t)
	for _, name := range []string{"/tokens/logs", "flat", "/slash"} {
		arn := putByHand(t, client, ssm.PutParameterInput{Name: &name, Type: types.ParameterTypeSecureString, KeyId: aws.String("alias/mine"), Tier: types.ParameterTierAdvanced})
		mirrors := NewMirrors(http.DefaultTransport)
		if found, err := mirrors.Describe(t.Context(), arn); found.VersionID != "" || found.ChangedAt.IsZero() || err != nil {
			t.Errorf("%s, by hand: got %+v, %v; want no version", name, found, err)
		}
		for i, id := range []string{otherVersion, otherVersion, versionID} {
			payload := fmt.Sprint(`{"iam_token":"`, i, `"}`)
			if err := mirrors.Put(t.Context(), arn, id, iamtoken.NewSecret(payload)); err != nil {
				t.Fatal(err)
			}
			if found, err := mirrors.Describe(t.Context(), arn); found.VersionID != id || err != nil {
				t.Errorf("%s: got %+v, %v; want version %s", name, found, err, id)
			}
			value, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &arn, WithDecryption: aws.Bool(true)})
			if err != nil || *value.Parameter.Value != payload || value.Parameter.Type != types.ParameterTypeSecureString {
				t.Errorf("%s: a reader got %v, want what was put", name, err)
			}
		}
		shown, err := client.DescribeParameters(t.Context(), &ssm.DescribeParametersInput{ParameterFilters: []types.ParameterStringFilter{{Key: aws.String("Name"), Values: []string{name}}}})
		if err != nil || len(shown.Parameters) != 1 || aws.ToString(shown.Parameters[0].KeyId) != "alias/mine" || shown.Parameters[0].Tier != types.ParameterTierAdvanced {
			t.Errorf("%s: got %v, want the key and the tier as they were", name, err)
		}
		putByHand(t, client, ssm.PutParameterInput{Name: &name, Overwrite: aws.Bool(true)})
		if found, err := mirrors.Describe(t.Context(), arn); found.VersionID != "" || err != nil {
			t.Errorf("%s, overwritten by hand: got %q, %v; want no version", name, found.VersionID, err)
		}
	}
	mirrors := NewMirrors(http.DefaultTransport)
	missing := strings.Replace(parameterARN, "logs", "no-such", 1)
	_, err := mirrors.Describe(t.Context(), missing)
	checkFailure(t, err, rotation.NotFound, rotation.Never, "the function creates none")
	checkFailure(t, mirrors.Put(t.Context(), missing, versionID, iamtoken.NewSecret(canary)), rotation.NotFound, rotation.Never, "the function creates none")
}

// Of two runs that saw the same version the last one's token is there, and is known to be.
func putsAtTheSameTime(t *testing.T, _ *awstest.Moto) {
	client := parameterStore(t)
	arn := secureByHand(t, client, "/at-once")
	runs := []*Mirrors{NewMirrors(http.DefaultTransport), NewMirrors(http.DefaultTransport)}
	for _, run := range runs {
		if _, err := run.Describe(t.Context(), arn); err != nil {
			t.Fatal(err)
		}
	}
	for i, id := range []string{otherVersion, versionID} {
		if err := runs[i].Put(t.Context(), arn, id, iamtoken.NewSecret(id)); err != nil {
			t.Fatal(err)
		}
		found, err := runs[i].Describe(t.Context(), arn)
		value, readErr := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &arn, WithDecryption: aws.Bool(true)})
		if err != nil || readErr != nil || found.VersionID != id || *value.Parameter.Value != id {
			t.Errorf("run %d: got %q (%v, %v), want its own version and token", i, found.VersionID, err, readErr)
		}
	}
}

// A parameter of another type would hold the token in the clear.
func aParameterInTheClearIsNotWritten(t *testing.T, _ *awstest.Moto) {
	client := parameterStore(t)
	mirrors := NewMirrors(http.DefaultTransport)
	for _, kind := range []types.ParameterType{types.ParameterTypeString, types.ParameterTypeStringList} {
		name := "/" + string(kind)
		arn := putByHand(t, client, ssm.PutParameterInput{Name: &name, Type: kind})
		_, err := mirrors.Describe(t.Context(), arn)
		checkFailure(t, err, rotation.Misconfigured, rotation.Never, "the AWS parameter "+arn+": it is not a SecureString")
		checkFailure(t, mirrors.Put(t.Context(), arn, versionID, iamtoken.NewSecret(canary)), rotation.Misconfigured, rotation.Never, "SecureString")
		if value, err := client.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name}); err != nil || *value.Parameter.Value != "by hand" {
			t.Errorf("%s was written to (%v)", kind, err)
		}
	}
}

// AWS keeps 100 versions and removes the oldest for a new one, unless it has a label.
func aParameterTakesAnyNumberOfVersions(t *testing.T, _ *awstest.Moto) {
	client := parameterStore(t)
	arn := secureByHand(t, client, "/many")
	mirrors := NewMirrors(http.DefaultTransport)
	put := func(n int) error {
		return mirrors.Put(t.Context(), arn, fmt.Sprintf("00000000-0000-4000-8000-%012d", n), iamtoken.NewSecret(canary))
	}
	for n := range 110 {
		if err := put(n); err != nil {
			t.Fatalf("version %d: %v", n, err)
		}
	}
	if _, err := client.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String("/many"), ParameterVersion: aws.Int64(12), Labels: []string{"mine"}}); err != nil {
		t.Fatal(err)
	}
	checkFailure(t, put(110), rotation.Misconfigured, rotation.Never, "answered 400 ParameterMaxVersionLimitExceeded: ", "unlabel-parameter-version")
}

// store answers DescribeParameters with described and PutParameter with the versions, one
// after another. It refuses every other operation: none may be needed.
func store(t *testing.T, described string, versions ...int) (puts *[]map[string]any) {
	t.Helper()
	puts = new([]map[string]any)
	awsEnvironment(t, serving(t, func(r *http.Request) (int, string) {
		switch r.Header.Get("X-Amz-Target") {
		case "AmazonSSM.DescribeParameters":
			return 200, described
		case "AmazonSSM.PutParameter":
			put := map[string]any{}
			if err := json.NewDecoder(r.Body).Decode(&put); err != nil || len(*puts) >= len(versions) {
				t.Errorf("a put too many, or not JSON: %v", err)
			}
			*puts = append(*puts, put)
			return 200, fmt.Sprintf(`{"Version":%d,"Tier":"Standard"}`, versions[min(len(*puts), len(versions))-1])
		}
		t.Errorf("got the operation %s", r.Header.Get("X-Amz-Target"))
		return 400, ""
	}))
	return puts
}

func shown(more string) string {
	return `{"Parameters":[{"ARN":"` + parameterARN + `","Name":"/tokens/logs","Type":"SecureString","Tier":"Standard","KeyId":"alias/aws/ssm","LastModifiedDate":1577836860,"Version":7` + more + `}]}`
}

func TestAPutNamesAllThatMustStayAsItIs(t *testing.T) {
	puts := store(t, shown(""), 8)
	if err := NewMirrors(http.DefaultTransport).Put(t.Context(), parameterARN, versionID, iamtoken.NewSecret(canary)); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"Name": "/tokens/logs", "Type": "SecureString", "Tier": "Standard", "KeyId": "alias/aws/ssm", "Overwrite": true,
		"Description": "Written by iam-token-rotator: version at IBM " + versionID + ", version 8 here", "Value": canary}
	if fmt.Sprint((*puts)[0]) != fmt.Sprint(want) { // the value is no secret here
		t.Errorf("got %v, want %v", (*puts)[0], want)
	}
}

// Another writer, or a description that AWS has not updated yet, makes the version another
// than the description names: the token is put once more.
func TestADescriptionNamesTheVersionThatWasMade(t *testing.T) {
	for name, test := range map[string]struct {
		versions []int
		fails    bool
	}{"alone": {[]int{8}, false}, "after another": {[]int{9, 10}, false}, "twice": {[]int{9, 11, 12}, false}, "always": {[]int{9, 11, 13}, true}} {
		t.Run(name, func(t *testing.T) {
			puts := store(t, shown(""), test.versions...)
			err := NewMirrors(http.DefaultTransport).Put(t.Context(), parameterARN, versionID, iamtoken.NewSecret(canary))
			if test.fails {
				checkFailure(t, err, rotation.Unavailable, rotation.Later, "something else writes")
			} else if err != nil {
				t.Error(err)
			}
			last := test.versions[len(test.versions)-1]
			if got := (*puts)[len(*puts)-1]["Description"]; len(*puts) != len(test.versions) || !test.fails && !strings.HasSuffix(got.(string), fmt.Sprint(" version ", last, " here")) {
				t.Errorf("got %d puts, the last with %q, want the version %d", len(*puts), got, last)
			}
		})
	}
}

func TestDescriptionsOfParameters(t *testing.T) {
	ours := description(versionID, 7)
	for text, want := range map[string]string{
		ours: versionID, description(versionID, 6): "", description(versionID, 77): "", "": "", versionID: "", ours + " ": "", "x" + ours: "",
		strings.Replace(ours, versionID, "", 1): "",
	} {
		store(t, shown(`,"Description":"`+text+`"`))
		if found, err := NewMirrors(http.DefaultTransport).Describe(t.Context(), parameterARN); found.VersionID != want || err != nil {
			t.Errorf("%q: got %+v, %v; want %q", text, found, err, want)
		}
	}
}

// What AWS shows is checked before anything is written.
func TestParametersThatAreNotWritten(t *testing.T) {
	double := strings.TrimSuffix(shown(""), "]}") + "," + strings.TrimPrefix(shown(""), `{"Parameters":[`)
	late := rotation.WithWallDeadline(t.Context(), time.Now().Add(-time.Second))
	for name, test := range map[string]struct {
		ctx       context.Context
		described string
		size      int
		kind      rotation.Kind
		says      string
	}{
		"two of the ARN":            {t.Context(), double, 9, rotation.Misconfigured, "there are two parameters"},
		"another account's":         {t.Context(), strings.Replace(shown(""), "123456789012", "999999999999", 1), 9, rotation.Misconfigured, "the function's own account"},
		"another's name":            {t.Context(), strings.Replace(shown(""), `"/tokens/logs"`, `"/tokens/else"`, 1), 9, rotation.Misconfigured, "the function's own account"},
		"endless empty pages":       {t.Context(), `{"Parameters":[],"NextToken":"more"}`, 9, rotation.NotFound, "no such parameter"},
		"too long for a standard":   {t.Context(), shown(""), 4097, rotation.Misconfigured, "has 4097 bytes and the parameter holds 4096: make the parameter an advanced one"},
		"too long for an advanced":  {t.Context(), strings.Replace(shown(""), "Standard", "Advanced", 1), 8193, rotation.Misconfigured, "holds 8192"},
		"past the wall deadline":    {late, shown(""), 9, rotation.Timeout, "suspended"},
		"a parameter in plain text": {t.Context(), strings.Replace(shown(""), "SecureString", "String", 1), 9, rotation.Misconfigured, "SecureString"},
		"a type that is not shown":  {t.Context(), strings.Replace(shown(""), `"Type":"SecureString",`, "", 1), 9, rotation.Misconfigured, "SecureString"},
	} {
		t.Run(name, func(t *testing.T) {
			puts := store(t, test.described)
			err := NewMirrors(http.DefaultTransport).Put(test.ctx, parameterARN, versionID, iamtoken.NewSecret(strings.Repeat("x", test.size)))
			checkFailure(t, err, test.kind, rotation.Never, test.says)
			if len(*puts) > 0 {
				t.Error("it was written")
			}
		})
	}
}

// What AWS refuses, by the codes of its SDK. No advice is about secrets.
func TestRefusalsOfParameters(t *testing.T) {
	const never, later = rotation.Never, rotation.Later
	for _, tt := range []struct {
		code, message string
		kind          rotation.Kind
		retry         rotation.Retry
		says          string
	}{
		{"AccessDeniedException", "User: x is not authorized to perform: ssm:PutParameter on resource: y", rotation.Denied, never, "MirrorParameterArns"},
		{"AccessDeniedException", "not authorized to perform: kms:Encrypt", rotation.Denied, never, "kms:Encrypt"},
		{"ParameterNotFound", "", rotation.NotFound, never, "the function creates none"},
		{"ParameterMaxVersionLimitExceeded", "", rotation.Misconfigured, never, "label"},
		{"HierarchyTypeMismatchException", "", rotation.Misconfigured, never, "--type SecureString"},
		{"UnsupportedParameterType", "", rotation.Misconfigured, never, "--type SecureString"},
		{"ParameterPatternMismatchException", "", rotation.Misconfigured, never, "AllowedPattern"},
		{"PoliciesLimitExceededException", "", rotation.Misconfigured, never, "policies"},
		{"InvalidKeyId", "", rotation.Misconfigured, never, "put-parameter --overwrite --key-id"},
		{"TooManyUpdates", "", rotation.RateLimited, later, "too many"},
		{"ThrottlingException", "Rate exceeded", rotation.RateLimited, later, "too many"},
		{"ValidationException", "", rotation.Misconfigured, never, "the ARN in mirror"},
	} {
		t.Run(tt.code+" "+tt.message, func(t *testing.T) {
			body, _ := json.Marshal(map[string]string{"__type": tt.code, "message": tt.message + " " + canary})
			requests := answering(t, 400, string(body))
			_, err := NewMirrors(http.DefaultTransport).Describe(t.Context(), parameterARN)
			checkFailure(t, err, tt.kind, tt.retry, "the AWS parameter "+parameterARN+": SSM Parameter Store answered 400 "+tt.code+": ", tt.says)
			if text := strings.ToLower(err.Error()); strings.Contains(text, "secret:") || strings.Contains(text, "secretsmanager") || strings.Contains(text, "the secret") {
				t.Errorf("got %q: that is about a secret", err)
			}
			if len(*requests) != 1 {
				t.Errorf("got %d requests, want 1: the SDK must not retry", len(*requests))
			}
		})
	}
}

// The lines that functions/iamtoken/README.md shows.
func aJobReadsAParameterThroughAReader(t *testing.T, _ *awstest.Moto) {
	client := parameterStore(t)
	arn := secureByHand(t, client, "/of-a-job")
	opaque := strings.Repeat("opaque-", 5)
	payload := fmt.Sprintf(`{"access_token":%q,"expiration":4102444800}`, opaque)
	if err := NewMirrors(http.DefaultTransport).Put(t.Context(), arn, versionID, iamtoken.NewSecret(payload)); err != nil {
		t.Fatal(err)
	}
	reader := &iamtoken.Reader{Store: iamtoken.StoreFunc(func(ctx context.Context) (iamtoken.Version, error) {
		got, err := client.GetParameter(ctx, &ssm.GetParameterInput{Name: &arn, WithDecryption: aws.Bool(true)})
		if err != nil {
			return iamtoken.Version{}, err
		}
		return iamtoken.Version{
			Payload:   iamtoken.NewSecret(aws.ToString(got.Parameter.Value)),
			CreatedAt: aws.ToTime(got.Parameter.LastModifiedDate),
		}, nil
	})}
	token, err := reader.Token(t.Context())
	if err != nil || token.Value.Reveal() != opaque {
		t.Errorf("got %v, want the mirrored token", err)
	}
	page, err := os.ReadFile("../../iamtoken/README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("parameters_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```go parameter\n")
	block, _, _ = strings.Cut(block, "```")
	for line := range strings.Lines(block) {
		if !strings.Contains(string(source), strings.TrimSpace(line)) {
			t.Errorf("the page has the line %q, which this test does not run", line)
		}
	}
}
