package awscloud

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// parameter is a SecureString of SSM Parameter Store. It is described by
// ssm:DescribeParameters, which never has a value. GetParameter and GetParameterHistory
// would show the same, and with AWS's own key (aws/ssm) decrypt for whoever may call them.
type parameter struct {
	connection[parameterCalls]
	seen atomic.Pointer[types.ParameterMetadata] // by the last describe; its version is of one put
}

type parameterCalls struct {
	describe call[ssm.DescribeParametersInput, ssm.Options, ssm.DescribeParametersOutput]
	put      call[ssm.PutParameterInput, ssm.Options, ssm.PutParameterOutput]
}

const (
	maxStandard = 4 << 10 // bytes of a value, by AWS's documentation of PutParameter
	maxAdvanced = 8 << 10
	maxPages    = 10 // AWS may answer with empty pages before the one with the parameter
	maxPuts     = 3
)

func newParameter(arn string, source *credentialSource) *parameter {
	return &parameter{connection: connection[parameterCalls]{resource: resource{arn, mirrorParameter, source}, build: func(cfg aws.Config) parameterCalls {
		client := ssm.NewFromConfig(cfg)
		return parameterCalls{client.DescribeParameters, client.PutParameter}
	}}}
}

// description is a parameter's that has the token of an IBM version. AWS keeps a
// description when somebody else overwrites the value without one: so it is of that
// version of the parameter alone.
func description(ibmVersion string, version int64) string {
	return fmt.Sprintf("%s%s, version %d here", written, ibmVersion, version)
}

const written = "Written by iam-token-rotator: version at IBM "

// mirrored is the id of the IBM version that the description shows, "" if somebody else
// has written to the parameter.
func mirrored(found *types.ParameterMetadata) string {
	id, ours := strings.CutPrefix(aws.ToString(found.Description), written)
	id, current := strings.CutSuffix(id, strings.TrimPrefix(description("", found.Version), written))
	if !ours || !current {
		return ""
	}
	return id
}

// names are those that a parameter of this ARN may have: AWS shows those of a and /a in
// the same way.
func (p *parameter) names() []string {
	_, name, _ := strings.Cut(p.arn, ":parameter/")
	if strings.Contains(name, "/") {
		return []string{"/" + name}
	}
	return []string{name, "/" + name}
}

// describe returns what AWS shows, which the next put relies on.
func (p *parameter) describe(ctx context.Context) (rotation.MirrorDescription, error) {
	found, err := p.look(ctx)
	if err != nil {
		return rotation.MirrorDescription{}, err
	}
	p.seen.Store(found)
	return rotation.MirrorDescription{VersionID: mirrored(found), ChangedAt: aws.ToTime(found.LastModifiedDate)}, nil
}

// look also checks that the parameter encrypts its value, and that it is this
// account's: AWS takes no ARN where it is written to.
func (p *parameter) look(ctx context.Context) (*types.ParameterMetadata, error) {
	calls, err := p.ready(ctx)
	if err != nil {
		return nil, err
	}
	found, err := p.find(ctx, calls)
	if err == nil && found.Type != types.ParameterTypeSecureString {
		return nil, p.because(otherType)
	}
	return found, err
}

func (p *parameter) find(ctx context.Context, calls parameterCalls) (found *types.ParameterMetadata, err error) {
	ask := &ssm.DescribeParametersInput{ParameterFilters: []types.ParameterStringFilter{{Key: aws.String("Name"), Option: aws.String("Equals"), Values: p.names()}}}
	others := 0
	for range maxPages {
		answer, err := calls.describe(ctx, ask)
		if err != nil {
			return nil, p.failure(err)
		}
		for i := range answer.Parameters {
			switch one := &answer.Parameters[i]; {
			case one.ARN != nil && *one.ARN != p.arn || !slices.Contains(p.names(), aws.ToString(one.Name)): // old answers have no ARN
				others++
			case found != nil:
				return nil, p.misconfigured("there are two parameters of this ARN, with a / before the name and without: delete one, or " +
					"name another in mirror")
			default:
				found = one
			}
		}
		if aws.ToString(answer.NextToken) == "" {
			break
		}
		ask.NextToken = answer.NextToken
	}
	switch {
	case found != nil:
		return found, nil
	case others > 0:
		return nil, p.misconfigured("AWS knows the parameter of this name by another ARN: give the whole ARN in mirror, as AWS shows it, " +
			"of the function's own account")
	}
	return nil, p.because(missing)
}

// replace makes payload the parameter's value. AWS numbers its versions: the one that the
// description names is not the one that was made if somebody else has written to it in
// between, or if it was described as it was before. Then it is written once more.
func (p *parameter) replace(ctx context.Context, versionID string, payload iamtoken.Secret) error {
	calls, err := p.ready(ctx)
	if err != nil {
		return err
	}
	seen := p.seen.Swap(nil)
	if seen == nil {
		if seen, err = p.look(ctx); err != nil {
			return err
		}
	}
	if err := p.fits(seen, payload); err != nil {
		return err
	}
	next := seen.Version + 1
	for range maxPuts {
		if err := p.inTime(ctx); err != nil {
			return err
		}
		// Without a key AWS takes its own, without a tier the account's default.
		answer, err := calls.put(ctx, &ssm.PutParameterInput{
			Name: seen.Name, Value: aws.String(payload.Reveal()), Type: types.ParameterTypeSecureString, Overwrite: aws.Bool(true),
			KeyId: seen.KeyId, Tier: seen.Tier, Description: aws.String(description(versionID, next)),
		})
		if err != nil {
			return p.failure(err)
		}
		if answer.Version == next {
			return nil
		}
		next = answer.Version + 1
	}
	return p.fail(rotation.Unavailable, rotation.Later, "something else writes to the parameter at the same time: find what does "+
		"(CloudTrail: PutParameter)")
}

func (p *parameter) fits(seen *types.ParameterMetadata, payload iamtoken.Secret) error {
	size, limit := len(payload.Reveal()), maxAdvanced
	advice := "make tokens shorter (format raw), or mirror them in a secret"
	if seen.Tier == types.ParameterTierStandard {
		limit, advice = maxStandard, "make the parameter an advanced one (aws ssm put-parameter --tier Advanced, for 0.05 dollars a "+
			"month), or mirror them in a secret"
	}
	if size <= limit {
		return nil
	}
	return p.misconfigured(fmt.Sprintf("the token has %d bytes and the parameter holds %d: %s", size, limit, advice))
}
