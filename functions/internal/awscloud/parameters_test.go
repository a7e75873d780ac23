package awscloud

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/scripts/awstest"
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

// A put keeps the parameter's key and tier, and readers get the token. A value that a person
// writes is recognized, although AWS keeps the description.
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
	missing := strings.Replace(parameterARN, "logs", "no-such", 1)
	err := NewMirrors(http.DefaultTransport).Put(t.Context(), missing, versionID, iamtoken.NewSecret(canary))
	checkFailure(t, err, rotation.NotFound, rotation.Never, "the function creates none")
}

// store answers DescribeParameters with described, and each PutParameter with the next version.
func store(t *testing.T, described string, versions ...int) *[]request {
	t.Helper()
	return emulating(t, func(operation string) (int, string) {
		if operation == "DescribeParameters" {
			return 200, described
		}
		if operation != "PutParameter" || len(versions) == 0 {
			t.Errorf("got %s, or a put too many", operation)
			return 400, ""
		}
		version := versions[0]
		versions = versions[1:]
		return 200, fmt.Sprintf(`{"Version":%d,"Tier":"Standard"}`, version)
	})
}

func shown(more string) string {
	return `{"Parameters":[{"ARN":"` + parameterARN + `","Name":"/tokens/logs","Type":"SecureString","Tier":"Standard","KeyId":"alias/aws/ssm","LastModifiedDate":1577836860,"Version":7` + more + `}]}`
}

// A put names the key and the tier, which must stay, and the version that it makes. If that turns
// out to be another one, because of another writer or old metadata, the token is put once more.
func TestAPutOfAParameter(t *testing.T) {
	put := func(version int) string {
		return fmt.Sprintf(`PutParameter {"Description":"Written by iam-token-rotator: version at IBM %s, version %d here","KeyId":"alias/aws/ssm",`+
			`"Name":"/tokens/logs","Overwrite":true,"Tier":"Standard","Type":"SecureString","Value":"token"}`, versionID, version)
	}
	for name, test := range map[string]struct {
		made, named []int
		fails       bool
	}{
		"alone": {[]int{8}, []int{8}, false}, "after another": {[]int{9, 10}, []int{8, 10}, false},
		"twice": {[]int{9, 11, 12}, []int{8, 10, 12}, false}, "always": {[]int{9, 11, 13}, []int{8, 10, 12}, true},
	} {
		requests := store(t, shown(""), test.made...)
		err := NewMirrors(http.DefaultTransport).Put(t.Context(), parameterARN, versionID, iamtoken.NewSecret("token"))
		if test.fails {
			checkFailure(t, err, rotation.Unavailable, rotation.Later, "something else writes")
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := []string{"DescribeParameters"}
		for _, version := range test.named {
			want = append(want, put(version))
		}
		wantRequests(t, *requests, want...)
	}
}

// The lines that functions/iamtoken/README.md shows.
func aJobReadsAParameterThroughAReader(t *testing.T, _ *awstest.Moto) {
	client := parameterStore(t)
	arn := putByHand(t, client, ssm.PutParameterInput{Name: aws.String("/of-a-job"), Type: types.ParameterTypeSecureString})
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
