package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// A secret of type iam_credentials makes, rotates and deletes the keys of a service id. setup creates it, because Terraform
// would write the key into its state. A key works for 45 days, and IBM makes the next one after 15. setup sets this rule at
// creation only: a change of the rule may rotate at once.
const (
	keyTTL         = "1080h"
	rotationDays   = 15
	fixedKeyDays   = 30 // of the fixed bootstrap key before the first managed one
	destroyed      = 5  // the state of a secret whose value is gone for good
	newKeyTries    = 30 // to exchange a new key, two seconds apart
	trialAdvice    = " The keys in use are unchanged. Run setup again to try once more."
	cannotMakeKeys = "Secrets Manager may not make keys of this service id, or it has 20 already. Terraform makes the authorization on iam-identity (managed_keys = true); a new one takes minutes to reach everywhere."
)

// keySecretName is the name of the secret in the key group that has, or makes, a service id's keys.
func (s *setup) keySecretName(id *serviceID) string {
	if id == s.workload {
		return s.name + "-api-key"
	}
	return s.name + "-bootstrap-key"
}

// leaseHasEnded reports whether the secret's last key has expired. Then it makes no more keys.
func (s *setup) leaseHasEnded(found secret) bool {
	return found.State == destroyed || !found.Expires.IsZero() && !found.Expires.After(s.ibmTime())
}

// checkIAMCredentials returns an error if the secret with the service id's name makes other keys than setup needs.
func (s *setup) checkIAMCredentials(id *serviceID) error {
	found := id.iamCredentials
	switch {
	case found.ID == "" || s.leaseHasEnded(found):
	case !found.Static || found.ServiceID != strings.TrimPrefix(id.iamID, "iam-"):
		return fmt.Errorf("the secret %s makes keys of another service id than the %s's: use another --name, or delete it", found.ID, id.role)
	case !found.Reuse:
		return fmt.Errorf("the secret %s makes a new key at each reading (reuse_api_key false): use another --name, or delete it", found.ID)
	}
	return nil
}

// ensureManaged takes the iam_credentials secret of a service id through its states; an interrupted run is continued from the
// state that IBM shows.
//
//	missing, or its lease has ended   it is created
//	one version                       it is rotated once, as a trial: the new key must work
//	more versions                     its current key must work
//
// Only then AWS gets the key, if it is the bootstrap's.
func (s *setup) ensureManaged(ctx context.Context, id *serviceID) error {
	if s.leaseHasEnded(id.iamCredentials) {
		s.say("the lease of the secret %s has ended, so it makes no more keys: creating another one, with another id", id.iamCredentials.ID)
		if err := s.deleteSecret(ctx, id.iamCredentials.ID); err != nil {
			return err
		}
		id.iamCredentials = secret{}
	}
	if id.iamCredentials.ID == "" {
		if err := s.createIAMCredentials(ctx, id); err != nil {
			return err
		}
	}
	key, err := s.currentKey(ctx, id.iamCredentials.ID)
	switch {
	case err != nil:
	case id.iamCredentials.Versions > 1:
		s.say("the secret %s makes the keys of the %s service id", id.iamCredentials.ID, id.role)
		err = s.tryKey(ctx, id, key, newKeyTries, trialAdvice)
	default:
		key, err = s.tryRotation(ctx, id, key)
	}
	place := id.iamCredentials.ID
	if err == nil && id == s.bootstrap { // id.stored still is the fixed key, which AWS may have
		err = s.storeManagedKey(ctx, key)
		place = s.aws.arn
	}
	id.stored = apiKey{place: place}
	return err
}

func (s *setup) createIAMCredentials(ctx context.Context, id *serviceID) (err error) {
	id.iamCredentials.ID, err = s.createSecret(ctx, cannotMakeKeys, map[string]any{
		"secret_type": "iam_credentials", "name": s.keySecretName(id), "secret_group_id": s.keyGroup, "service_id": strings.TrimPrefix(id.iamID, "iam-"),
		"description": "API keys of the " + id.role + " service id, made, rotated and deleted by Secrets Manager.",
		"ttl":         keyTTL, "reuse_api_key": true,
		"rotation": map[string]any{"auto_rotate": true, "interval": rotationDays, "unit": "day"},
	})
	if err == nil {
		s.say("created the secret %s, which makes the keys of the %s service id", id.iamCredentials.ID, id.role)
	}
	return err
}

// currentKey reads the current key of an iam_credentials secret.
func (s *setup) currentKey(ctx context.Context, secretID string) (keyValue, error) {
	doing := "reading the key of the secret " + secretID
	read, err := fetch[secret](ctx, s.cloud, doing, "secrets/"+secretID)
	if err != nil {
		return keyValue{}, err
	}
	value, err := parseKey(read.Key.Reveal())
	if err != nil || !keyIDShape.MatchString(read.KeyID) {
		return keyValue{}, fmt.Errorf("%s: the answer holds no API key with an id", doing)
	}
	return keyValue{read.KeyID, value}, nil
}

// tryRotation rotates the secret by hand, and returns the new key, which works. It reports whether the key before still does.
func (s *setup) tryRotation(ctx context.Context, id *serviceID, before keyValue) (key keyValue, err error) {
	f := &failure{doing: "rotating the secret " + id.iamCredentials.ID, ifRejected: cannotMakeKeys}
	if err := s.cloud.send(ctx, f, http.MethodPost, "secrets/"+id.iamCredentials.ID+"/versions", struct{}{}, &struct{}{}); err != nil {
		return key, err
	}
	if key, err = s.currentKey(ctx, id.iamCredentials.ID); err != nil {
		return key, err
	}
	if key.id == before.id {
		return key, fmt.Errorf("the secret %s has the same key after a rotation.%s", id.iamCredentials.ID, trialAdvice)
	}
	if err := s.tryKey(ctx, id, key, newKeyTries, trialAdvice); err != nil {
		return key, err
	}
	keyBefore := ", and the one before still does"
	if _, err := s.cloud.exchange(ctx, before.value, "trying the key before", ""); isUnknownKey(err) {
		keyBefore = ". Note: IBM has ended the one before at once"
	} else if err != nil {
		keyBefore = ". Whether the one before still does is not known: " + err.Error()
	}
	s.say("rotated it once by hand: the new key %s works%s", key.id, keyBefore)
	return key, nil
}

// storeManagedKey stores the bootstrap's managed key in AWS, as the function does with later ones. Before the first managed key
// of a secret it stores a fixed key, which becomes AWSPREVIOUS: the function returns to that one if IBM ends the managed key at
// its first rotation.
func (s *setup) storeManagedKey(ctx context.Context, key keyValue) error {
	id := s.bootstrap
	if s.aws.exists && arnName(s.aws.arn) != s.aws.name {
		return errors.New("reading the metadata of the AWS secret: the answer lacks its ARN")
	}
	if s.aws.keyID() == key.id {
		s.say("the AWS secret %s has the current key, %s", s.aws.name, key.id)
		return nil
	}
	type versions struct{ Versions []secret }
	made, err := fetch[versions](ctx, s.cloud, "reading the versions of the secret "+id.iamCredentials.ID, "secrets/"+id.iamCredentials.ID+"/versions")
	if err != nil {
		return err
	}
	hasKeyOfSecret := s.aws.keyID() != "" && slices.ContainsFunc(made.Versions, func(v secret) bool { return v.KeyID == s.aws.keyID() })
	expiresSoon := !id.stored.expires.IsZero() && id.stored.expires.Before(s.ibmTime().AddDate(0, 0, rotationDays))
	id.mustReplace = s.aws.keyID() != "" || expiresSoon
	if !hasKeyOfSecret && s.needsKey(id) {
		if err := s.ensureKey(ctx, id); err != nil {
			return err
		}
	}
	// The function names versions in the same way: by the key, and by the version that is replaced.
	version := key.id + "-" + fmt.Sprintf("%x", sha256.Sum256([]byte(s.aws.version)))[:20]
	if _, err := s.aws.put(ctx, key.value, version); err != nil {
		return err
	}
	s.say("stored the key %s in the AWS secret %s", key.id, s.aws.name)
	return nil
}

// keyID is the id of the current key in AWS if that is a managed one, else empty: see the name that storeManagedKey gives.
func (b *bootstrapSecret) keyID() string {
	if len(b.version) != 64 || !keyIDShape.MatchString(b.version[:43]) || b.version[43] != '-' {
		return ""
	}
	return b.version[:43]
}

// reportUnused names the secrets that nothing uses any more after a change between fixed and managed keys.
func (s *setup) reportUnused() {
	const delete = "Deploy the function with what this prints; then nothing uses the secret: delete it"
	if s.workload.managed && s.workload.place != "" {
		s.say("note: the secret %s holds the workload's fixed key. %s, and the key %s at IAM", s.workload.place, delete, s.keyName(s.workload))
	}
	for _, id := range s.serviceIDs() {
		if id.managed || id.iamCredentials.ID == "" {
			continue
		}
		s.say("note: the secret %s made the keys of the %s service id. %s", id.iamCredentials.ID, id.role, delete)
		if id.mustReplace {
			s.say("note: until that deployment, the function may store a key of that secret again: run setup once more after it")
		}
	}
}
