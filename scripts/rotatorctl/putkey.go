package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/smithy-go"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"iam-token-rotator/functions/iamtoken"
)

const defaultAWSSecret = "iam-token-rotator/bootstrap"

func (p *program) putKeyCommand() *cobra.Command {
	var name, kmsKeyID string
	command := &cobra.Command{
		Use:   "put-key",
		Short: "Store the bootstrap API key, read from standard input, in AWS Secrets Manager",
		Long: `Stores the bootstrap API key in AWS Secrets Manager and prints the secret's ARN. It reads the key from standard
input, never from an argument. On a terminal it asks for the key, and does not show what you type.`,
		Example: "  pbpaste | rotatorctl put-key\n  jq -er .apikey key.json | rotatorctl put-key --name team/rotator --kms-key-id alias/rotator",
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := p.readKey(cmd.Context())
			if err != nil {
				return usagef("standard input %v", err)
			}
			secret, err := p.openBootstrapSecret(cmd.Context(), name, kmsKeyID)
			if err != nil {
				return err
			}
			arn, err := secret.put(cmd.Context(), key, "")
			if err == nil {
				_, err = fmt.Fprintln(p.stdout, arn)
			}
			return err
		},
	}
	command.Flags().StringVar(&name, "name", defaultAWSSecret, "the AWS secret to create or update")
	command.Flags().StringVar(&kmsKeyID, "kms-key-id", "", "encrypt the secret with this KMS key of yours instead of AWS's own")
	return command
}

// readKey reads a key from standard input. On a terminal it asks for it.
func (p *program) readKey(ctx context.Context) (iamtoken.Secret, error) {
	if file, ok := p.stdin.(*os.File); ok && p.isTerminal(file) {
		terminal := int(file.Fd())
		if state, err := term.GetState(terminal); err == nil {
			defer context.AfterFunc(ctx, func() { // on Ctrl-C, which ReadPassword does not return for
				_ = term.Restore(terminal, state)
				os.Exit(1)
			})()
		}
		fmt.Fprint(p.stderr, "Bootstrap API key: ")
		typed, err := term.ReadPassword(terminal)
		p.say("")
		if err != nil {
			return iamtoken.Secret{}, errors.New("cannot be read")
		}
		return parseKey(string(typed))
	}
	text, err := io.ReadAll(io.LimitReader(p.stdin, 4096))
	if err != nil {
		return iamtoken.Secret{}, errors.New("cannot be read")
	}
	return parseKey(string(text))
}

// parseKey removes white space around a key, which editors and copying leave there, and nothing else. IBM's keys have 44
// characters; the wider limits only reject what is no key.
func parseKey(text string) (iamtoken.Secret, error) {
	key := strings.TrimSpace(text)
	fault := iamtoken.CheckAPIKey(key)
	switch {
	case key == "":
		fault = errors.New("holds no key: it is empty")
	case fault != nil:
	case len(key) < 8:
		fault = errors.New("is too short for an API key, which has 44 characters: give the whole key")
	case len(key) > 512:
		fault = errors.New("is too long for an API key: give the bare key alone")
	}
	return iamtoken.NewSecret(key), fault
}

// bootstrapSecret is the AWS secret that holds the bootstrap key.
type bootstrapSecret struct {
	client         *secretsmanager.Client
	name, kmsKeyID string
	exists         bool
	arn, version   string // of the current version; empty before the first
}

var errDeleted = errors.New("the AWS secret is scheduled for deletion")

// openBootstrapSecret finds credentials and reads the metadata of the secret, by name or ARN, before there is a key to store in it.
func (p *program) openBootstrapSecret(ctx context.Context, name, kmsKeyID string) (*bootstrapSecret, error) {
	cfg, err := p.loadAWS(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := cfg.Credentials.Retrieve(ctx); err != nil { // its text may hold what a credential process printed
		return nil, errors.New("no usable AWS credentials: check AWS_PROFILE, or log in (aws sso login)")
	}
	b := &bootstrapSecret{name: name, kmsKeyID: kmsKeyID}
	if arnName(name) != "" {
		cfg.Region = strings.Split(name, ":")[3]
	}
	b.client = secretsmanager.NewFromConfig(cfg)
	if endpoint := b.client.Options().BaseEndpoint; endpoint != nil {
		if address, err := url.Parse(*endpoint); err != nil || !iamtoken.IsConfidential(address) {
			return nil, errors.New("AWS_ENDPOINT_URL must be https, or http on this machine")
		}
	}
	found, err := b.client.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &name})
	if _, missing := errors.AsType[*types.ResourceNotFoundException](err); missing {
		return b, nil
	}
	switch {
	case err != nil:
		return nil, b.failure("reading the metadata of", err)
	case found.DeletedDate != nil:
		return nil, fmt.Errorf("%w; bring it back first: aws secretsmanager restore-secret --secret-id %s", errDeleted, b.shown())
	}
	b.exists, b.arn = true, aws.ToString(found.ARN)
	for version, stages := range found.VersionIdsToStages {
		if slices.Contains(stages, "AWSCURRENT") {
			b.version = version
		}
	}
	return b, nil
}

// put stores the key as a new version and returns the secret's ARN. version is the version's id; if empty, the SDK makes one.
func (b *bootstrapSecret) put(ctx context.Context, key iamtoken.Secret, version string) (arn string, err error) {
	value, kmsKeyID, token := aws.String(key.Reveal()), (*string)(nil), (*string)(nil)
	if b.kmsKeyID != "" {
		kmsKeyID = &b.kmsKeyID
	}
	if version != "" {
		token = &version
	}
	created, updated := &secretsmanager.CreateSecretOutput{}, &secretsmanager.UpdateSecretOutput{}
	if b.exists {
		updated, err = b.client.UpdateSecret(ctx, &secretsmanager.UpdateSecretInput{SecretId: &b.name, SecretString: value, KmsKeyId: kmsKeyID, ClientRequestToken: token})
	} else {
		created, err = b.client.CreateSecret(ctx, &secretsmanager.CreateSecretInput{Name: &b.name, SecretString: value, KmsKeyId: kmsKeyID,
			Description: aws.String("IBM Cloud API key with which iam-token-rotator opens Secrets Manager")})
	}
	if err != nil {
		return "", b.failure("storing the bootstrap key in", err)
	}
	if arn = aws.ToString(cmp.Or(created.ARN, updated.ARN)); arnName(arn) != b.name {
		return "", errors.New("storing the bootstrap key: AWS's answer lacks the ARN of the secret")
	}
	b.exists, b.arn, b.version = true, arn, aws.ToString(cmp.Or(created.VersionId, updated.VersionId))
	return arn, nil
}

// arnName is the name in a secret's ARN; empty if arn is no such ARN.
func arnName(arn string) string {
	if found := arnShape.FindStringSubmatch(arn); found != nil {
		return found[1]
	}
	return ""
}

// advice is by the error codes of AWS Secrets Manager. AWS's own text is not repeated: it may contain the key that was sent.
var advice = map[string]string{
	"AccessDeniedException":     "you need secretsmanager:DescribeSecret, CreateSecret and UpdateSecret on it, and the use of its KMS key",
	"ResourceExistsException":   "another program created it meanwhile: run this again",
	"InvalidRequestException":   "AWS cannot change it now: is it a replica, or scheduled for deletion?",
	"InvalidParameterException": "AWS rejects its name or its KMS key",
	"ValidationException":       "AWS rejects its name or its KMS key",
	"ResourceNotFoundException": "another program deleted it meanwhile: run this again",
	"EncryptionFailure":         "AWS cannot encrypt with its KMS key: is it enabled?",
	"LimitExceededException":    "the account's limit of secrets or versions is reached",
	"InternalServiceError":      "AWS has an internal error: run this again later",
}

func (b *bootstrapSecret) failure(doing string, err error) error {
	says := "no answer: check AWS_REGION, AWS_ENDPOINT_URL and the network"
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		says = cmp.Or(advice[api.ErrorCode()], commonAdvice(api.ErrorCode()), "AWS rejects it with an unknown code")
	}
	return fmt.Errorf("%s the AWS secret %s: %s", doing, b.shown(), says)
}

// shown is the secret's name in quotes, or its ARN.
func (b *bootstrapSecret) shown() string {
	if arnName(b.name) != "" {
		return b.name
	}
	return quote(b.name)
}
