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

// parameter is a SecureString of SSM Parameter Store. Its metadata is read with
// ssm:DescribeParameters, which never returns a value. The permission for GetParameter or
// GetParameterHistory would also allow to decrypt the value, under AWS's own key (aws/ssm).
type parameter struct {
	connection[parameterCalls]
	described atomic.Pointer[types.ParameterMetadata] // by the last describe, for the next put; nil after it
}

type parameterCalls struct {
	describe call[ssm.DescribeParametersInput, ssm.Options, ssm.DescribeParametersOutput]
	put      call[ssm.PutParameterInput, ssm.Options, ssm.PutParameterOutput]
}

const (
	maxStandard = 4 << 10 // bytes of a value, by AWS's documentation of PutParameter
	maxAdvanced = 8 << 10
	maxPages    = 10 // AWS may return empty pages before the one with the parameter
	maxPuts     = 3
)

func newParameter(arn string, source *credentialSource) *parameter {
	return &parameter{connection: connection[parameterCalls]{resource: resource{arn, mirrorParameter, source}, build: func(cfg aws.Config) parameterCalls {
		client := ssm.NewFromConfig(cfg)
		return parameterCalls{client.DescribeParameters, client.PutParameter}
	}}}
}

// description describes a parameter that holds the token of an IBM version. AWS keeps the
// description when somebody else overwrites the value without one, so it also names the
// parameter's own version.
func description(ibmVersion string, version int64) string {
	return fmt.Sprintf("%s%s, version %d here", descriptionStart, ibmVersion, version)
}

const descriptionStart = "Written by iam-token-rotator: version at IBM "

// ibmVersionOf returns the id of the IBM version in the description, or "" if somebody else
// has written to the parameter since.
func ibmVersionOf(found *types.ParameterMetadata) string {
	id, ours := strings.CutPrefix(aws.ToString(found.Description), descriptionStart)
	id, current := strings.CutSuffix(id, strings.TrimPrefix(description("", found.Version), descriptionStart))
	if !ours || !current {
		return ""
	}
	return id
}

// names returns the names that a parameter of this ARN may have: the parameters a and /a
// have the same ARN.
func (p *parameter) names() []string {
	_, name, _ := strings.Cut(p.arn, ":parameter/")
	if strings.Contains(name, "/") {
		return []string{"/" + name}
	}
	return []string{name, "/" + name}
}

// describe implements mirror, and keeps the metadata for the next put.
func (p *parameter) describe(ctx context.Context) (rotation.MirrorDescription, error) {
	found, err := p.readMetadata(ctx)
	if err != nil {
		return rotation.MirrorDescription{}, err
	}
	p.described.Store(found)
	return rotation.MirrorDescription{VersionID: ibmVersionOf(found), ChangedAt: aws.ToTime(found.LastModifiedDate)}, nil
}

// readMetadata reads the parameter's metadata, and checks that it is a SecureString of this
// account: a put names the parameter without an account.
func (p *parameter) readMetadata(ctx context.Context) (*types.ParameterMetadata, error) {
	calls, err := p.ready(ctx)
	if err != nil {
		return nil, err
	}
	found, err := p.find(ctx, calls)
	if err == nil && found.Type != types.ParameterTypeSecureString {
		return nil, p.causeError(otherType)
	}
	return found, err
}

func (p *parameter) find(ctx context.Context, calls parameterCalls) (found *types.ParameterMetadata, err error) {
	input := &ssm.DescribeParametersInput{ParameterFilters: []types.ParameterStringFilter{{Key: aws.String("Name"), Option: aws.String("Equals"), Values: p.names()}}}
	others := 0
	for range maxPages {
		answer, err := calls.describe(ctx, input)
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
		input.NextToken = answer.NextToken
	}
	switch {
	case found != nil:
		return found, nil
	case others > 0:
		return nil, p.misconfigured("AWS shows another ARN for the parameter of this name: give the whole ARN in mirror, as AWS shows it, " +
			"of the function's own account")
	}
	return nil, p.causeError(missing)
}

// replace implements mirror. The description must name the version that the put makes, which
// AWS numbers only afterwards. If the number turns out to be another one, because somebody
// else has written to the parameter or its metadata was old, the token is put once more.
func (p *parameter) replace(ctx context.Context, versionID string, payload iamtoken.Secret) error {
	calls, err := p.ready(ctx)
	if err != nil {
		return err
	}
	before := p.described.Swap(nil)
	if before == nil {
		if before, err = p.readMetadata(ctx); err != nil {
			return err
		}
	}
	if err := p.checkSize(before, payload); err != nil {
		return err
	}
	next := before.Version + 1
	for range maxPuts {
		if err := p.inTime(ctx); err != nil {
			return err
		}
		// KeyId and Tier stay as they are: without them AWS would use its own key and the
		// account's default tier.
		answer, err := calls.put(ctx, &ssm.PutParameterInput{
			Name: before.Name, Value: aws.String(payload.Reveal()), Type: types.ParameterTypeSecureString, Overwrite: aws.Bool(true),
			KeyId: before.KeyId, Tier: before.Tier, Description: aws.String(description(versionID, next)),
		})
		if err != nil {
			return p.failure(err)
		}
		if answer.Version == next {
			return nil
		}
		next = answer.Version + 1
	}
	return p.newError(rotation.Unavailable, rotation.Later, "something else writes to the parameter at the same time: find what does "+
		"(CloudTrail: PutParameter)")
}

// checkSize returns an error if the payload is longer than the parameter's tier allows.
func (p *parameter) checkSize(found *types.ParameterMetadata, payload iamtoken.Secret) error {
	limit, advice := maxAdvanced, "make tokens shorter (format raw), or mirror them in a secret"
	if found.Tier == types.ParameterTierStandard {
		limit, advice = maxStandard, "make the parameter an advanced one (aws ssm put-parameter --tier Advanced, for 0.05 dollars a "+
			"month), or mirror them in a secret"
	}
	if size := len(payload.Reveal()); size > limit {
		return p.misconfigured(fmt.Sprintf("the token has %d bytes and the parameter holds %d: %s", size, limit, advice))
	}
	return nil
}
