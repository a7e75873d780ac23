package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sfn"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
)

// loadAWS finds region and credentials in the same way as AWS's own programs.
func loadAWS(ctx context.Context) (aws.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithLogger(logging.Nop{})) // else it logs text of services unescaped
	if err != nil {
		return cfg, fmt.Errorf("the AWS configuration cannot be read: %s", withoutSecrets(err.Error()))
	}
	if cfg.Region == "" {
		return cfg, usagef("no AWS region is set: set AWS_REGION, or AWS_PROFILE to a profile that has one")
	}
	cfg.RetryMaxAttempts = cmp.Or(cfg.RetryMaxAttempts, 8) // AWS_MAX_ATTEMPTS, or that of the profile
	return cfg, nil
}

// clients are the AWS clients, and the identity of their credentials.
type clients struct {
	who    identity
	stacks *cloudformation.Client
	lambda *lambda.Client
	logs   *cloudwatchlogs.Client
	s3     *s3.Client
	states *sfn.Client
}

// connect makes the clients, and asks AWS which account the credentials belong to.
func (p *program) connect(ctx context.Context) error {
	cfg, err := p.loadAWS(ctx)
	if err != nil {
		return err
	}
	caller, err := sts.NewFromConfig(cfg).GetCallerIdentity(ctx, nil)
	if err != nil {
		return fmt.Errorf("AWS did not identify the account: %w", awsError(err))
	}
	p.clients = clients{
		who:    identity{printable(aws.ToString(caller.Account)), printable(cfg.Region)},
		stacks: cloudformation.NewFromConfig(cfg),
		lambda: lambda.NewFromConfig(cfg),
		logs:   cloudwatchlogs.NewFromConfig(cfg),
		states: sfn.NewFromConfig(cfg),
		// A custom endpoint has no host name for each bucket.
		s3: s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = o.BaseEndpoint != nil }),
	}
	return nil
}

// identity is the account and region in which the program works.
type identity struct{ account, region string }

func (i identity) String() string { return "account " + i.account + ", region " + i.region }

// prefix begins the keys of the stack's objects in the bucket. The kind is rotate (zips), release or names.
func (p *program) prefix(kind string) string {
	return "iam-token-rotator/" + p.stack + "/" + kind + "-"
}

func (p *program) put(ctx context.Context, bucket, key string, content []byte) error {
	_, err := p.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader(content)})
	if err != nil {
		return fmt.Errorf("storing s3://%s/%s: %w", printable(bucket), key, awsError(err))
	}
	return nil
}

// lostError means that an object is missing, or is not what was stored.
type lostError struct{ error }

// get reads an object.
func (p *program) get(ctx context.Context, bucket, key string) (content []byte, err error) {
	object, err := p.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err == nil {
		content, err = io.ReadAll(io.LimitReader(object.Body, 1<<20))
		_ = object.Body.Close()
	}
	if err == nil {
		return content, nil
	}
	failure := fmt.Errorf("reading s3://%s/%s: %w", printable(bucket), printable(key), awsError(err))
	if answer, ok := errors.AsType[smithy.APIError](err); ok && answer.ErrorCode() == "NoSuchKey" {
		failure = lostError{failure}
	}
	return nil, failure
}

// deleteObjects deletes the stack's objects of a kind, except the keys in but.
func (p *program) deleteObjects(ctx context.Context, bucket, kind string, but ...string) error {
	pages := s3.NewListObjectsV2Paginator(p.s3, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: aws.String(p.prefix(kind))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("s3://%s/%s* cannot be listed: %w", printable(bucket), p.prefix(kind), awsError(err))
		}
		for _, object := range page.Contents {
			if key := aws.ToString(object.Key); slices.Contains(but, key) || !strings.HasSuffix(key, ".zip") && !strings.HasSuffix(key, ".json") {
				continue
			}
			if _, err := p.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &bucket, Key: object.Key}); err != nil {
				return fmt.Errorf("%s cannot be deleted: %w", printable(aws.ToString(object.Key)), awsError(err))
			}
		}
	}
	return nil
}

// functionError is the error of a request to Lambda about the stack's function.
func (p *program) functionError(err error) error {
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		return fmt.Errorf("there is no function %s in %s: check STACK and AWS_REGION, or deploy", p.stack, p.who)
	}
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted: the function continues by itself, and rotatorctl logs shows how the run ended")
	}
	return fmt.Errorf("the function %s: %w", p.stack, awsError(err))
}

// awsError is a short form of an AWS client's error: AWS's code and message, or why no answer came.
func awsError(err error) error {
	if answer, ok := errors.AsType[smithy.APIError](err); ok {
		message := withoutSecrets(answer.ErrorCode()) + ": " + withoutSecrets(answer.ErrorMessage())
		if advice := commonAdvice(answer.ErrorCode()); advice != "" {
			message += " (" + advice + ")"
		}
		return errors.New(message)
	}
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if _, why, found := strings.Cut(err.Error(), "get credentials: "); found {
		return usagef("no AWS credentials: set AWS_PROFILE, run aws sso login, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (%s)", withoutSecrets(why))
	}
	if noAnswer, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("AWS cannot be reached: %s", printable(noAnswer.Error()))
	}
	return errors.New(withoutSecrets(err.Error()))
}

// commonAdvice says what to do about an error code that any AWS service may return; it is empty for other codes.
func commonAdvice(code string) string {
	switch {
	case strings.HasPrefix(code, "ExpiredToken"), code == "RequestExpired":
		return "the credentials have expired: sign in again"
	case code == "InvalidClientTokenId", code == "UnrecognizedClientException":
		return "AWS does not know these credentials: check AWS_PROFILE"
	case code == "SignatureDoesNotMatch", code == "InvalidSignatureException":
		return "AWS rejects the credentials: check them, and this machine's clock"
	case strings.Contains(code, "Throttl"), code == "TooManyRequestsException", code == "RequestLimitExceeded":
		return "AWS limits the rate of requests: try again in a minute"
	}
	return ""
}
