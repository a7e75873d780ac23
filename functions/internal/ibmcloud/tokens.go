package ibmcloud

import (
	"context"
	"regexp"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

const (
	typeArbitrary = "arbitrary"
	typeKV        = "kv"
)

// Look reads the metadata of the current version. The bootstrap identity needs
// secret-version-metadata.read on the token's group.
func (s *SecretsManager) Look(ctx context.Context, ref rotation.TokenRef) (rotation.Stored, error) {
	current := "current"
	ctx, got := withAnswer(ctx)
	metadata, err := call(ctx, s, operation{
		doing:    "looking at the stored token's metadata",
		refused:  "the bootstrap identity's token is not taken: was the identity deleted, or the token revoked?",
		denied:   "give the bootstrap identity a role with secret-version-metadata.read on the token's secret group, if it is the right identity and TOKEN_SECRET the right secret; a new policy takes minutes to reach everywhere",
		notFound: "there is no such secret: check TOKEN_SECRET (or token_secret); the function never creates it",
		locked:   "the token secret is locked: remove its locks",
	}, func(ctx context.Context) (sm.SecretVersionMetadataIntf, *core.DetailedResponse, error) {
		return s.sdk.GetSecretVersionMetadataWithContext(ctx, &sm.GetSecretVersionMetadataOptions{SecretID: &ref.ID, ID: &current})
	})
	if err != nil {
		return rotation.Stored{}, err
	}
	switch version := metadata.(type) {
	case *sm.ArbitrarySecretVersionMetadata:
		if ref.Field != "" {
			return rotation.Stored{}, misconfigured("token_field is set, but the token secret is of type arbitrary: remove one or change the other")
		}
		return got.stored(typeArbitrary, version.ID, time.Time(deref(version.CreatedAt)), version.VersionCustomMetadata)
	case *sm.KVSecretVersionMetadata:
		return got.stored(typeKV, version.ID, time.Time(deref(version.CreatedAt)), version.VersionCustomMetadata)
	default:
		return rotation.Stored{}, misconfigured("the token secret's type cannot hold a token: use arbitrary or kv")
	}
}

// stored reads a version. Metadata that cannot be read counts as none, which
// counts as expired: others may have edited it.
func (a *answer) stored(secretType string, id *string, createdAt time.Time, fields map[string]any) (rotation.Stored, error) {
	if !isID(id) {
		return rotation.Stored{}, &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later,
			Message: "looking at the stored token's metadata: the answer does not name the version"}
	}
	metadata, err := iamtoken.ParseMetadata(fields)
	if err != nil {
		metadata = iamtoken.Metadata{}
	}
	return rotation.Stored{VersionID: *id, SecretType: secretType, CreatedAt: createdAt, Metadata: metadata, ClockSkew: a.skew}, nil
}

// idShape is a version's id. It is repeated in logs and reports, so nothing else
// may pass for one.
var idShape = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func isID(id *string) bool { return id != nil && idShape.MatchString(*id) }

// Save publishes token as a new version. The bootstrap identity needs
// secret-version.create on the token's group. A new version of a kv secret holds
// the token's entry and no other.
func (s *SecretsManager) Save(ctx context.Context, ref rotation.TokenRef, before rotation.Stored, token iamtoken.Token, metadata iamtoken.Metadata) (rotation.Saved, error) {
	if s.isKeySecret(ref.ID) {
		return rotation.Saved{}, misconfigured("TOKEN_SECRET (or token_secret) is the secret that holds the API key: the token would replace it; name another")
	}
	payload := ref.Format.Payload(token).Reveal()
	op := operation{
		doing:    "saving the token",
		refused:  "the bootstrap identity's token is not taken: was the identity deleted, or the token revoked?",
		denied:   "give the bootstrap identity a role with secret-version.create on the token's secret group; a new policy takes minutes to reach everywhere",
		notFound: "there is no such secret: check TOKEN_SECRET (or token_secret); the function never creates it",
		locked:   "the previous version is locked: remove its locks (a lock on the current version moves there with the next save)",
	}
	version, err := call(ctx, s, op, func(ctx context.Context) (sm.SecretVersionIntf, *core.DetailedResponse, error) {
		var prototype sm.SecretVersionPrototypeIntf = &sm.ArbitrarySecretVersionPrototype{Payload: &payload, VersionCustomMetadata: metadata.Map()}
		if before.SecretType == typeKV {
			field := ref.Field
			if field == "" {
				field = iamtoken.DefaultField
			}
			prototype = &sm.KVSecretVersionPrototype{Data: map[string]any{field: payload}, VersionCustomMetadata: metadata.Map()}
		}
		return s.sdk.CreateSecretVersionWithContext(ctx, &sm.CreateSecretVersionOptions{SecretID: &ref.ID, SecretVersionPrototype: prototype})
	})
	if err != nil {
		return rotation.Saved{}, err
	}
	switch version := version.(type) {
	case *sm.ArbitrarySecretVersion:
		return saved(op, version.ID, time.Time(deref(version.CreatedAt)))
	case *sm.KVSecretVersion:
		return saved(op, version.ID, time.Time(deref(version.CreatedAt)))
	default:
		return saved(op, nil, time.Time{})
	}
}

// saved reads the answer to a save. Without a version id it settles nothing, so
// the next attempt looks whether the version is there.
func saved(op operation, id *string, createdAt time.Time) (rotation.Saved, error) {
	if !isID(id) {
		return rotation.Saved{}, &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Message: op.doing + ": the answer does not name the new version"}
	}
	return rotation.Saved{VersionID: *id, CreatedAt: createdAt}, nil
}
