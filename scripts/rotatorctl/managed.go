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

// A secret of type iam_credentials makes, rotates and deletes the keys of a service id. Terraform would write the key into
// its state, so the secret is made here. A key works for 45 days and has a successor after 15: the rule is set once, since a
// change of it may rotate at once.
const (
	managedTTL  = "1080h"
	managedDays = 15
	fixedDays   = 30 // of the bootstrap key that AWS keeps as its previous version
	destroyed   = 5  // the state of a secret whose value is gone for good
	trialTries  = 30 // of the new key after a rotation, two seconds apart
	trialAdvice = " Nothing is switched. Run setup again to try once more."
	refusedMint = "Secrets Manager may not make keys of this service id, or it has 20 already. Terraform makes the authorization on iam-identity (managed_keys = true); a new one takes minutes to reach everywhere."
)

// makerName is the name of the secret that makes the keys of a service id.
func (s *setup) makerName(id *serviceID) string {
	if id == s.workload {
		return s.name + "-api-key"
	}
	return s.name + "-bootstrap-key"
}

// hasEnded reports whether the secret makes no key any more: the last one is past its lease.
func (s *setup) hasEnded(maker secret) bool {
	return maker.State == destroyed || !maker.Expires.IsZero() && !maker.Expires.After(s.ibmTime())
}

// checkMaker checks that the secret of a service id fits, if there is one.
func (s *setup) checkMaker(id *serviceID) error {
	m := id.maker
	switch {
	case m.ID == "" || s.hasEnded(m):
	case !m.Static || m.ServiceID != strings.TrimPrefix(id.iamID, "iam-"):
		return fmt.Errorf("the secret %s makes keys of another service id than the %s's: use another --name, or delete it", m.ID, id.role)
	case !m.Reuse:
		return fmt.Errorf("the secret %s makes a new key at each reading (reuse_api_key false): use another --name, or delete it", m.ID)
	}
	return nil
}

// ensureManaged makes the secret of a service id, if it is not there, and tries it: it is rotated once, and the key of now
// works. Where a run was cut off before, the next one goes on. At last AWS gets the bootstrap's key.
func (s *setup) ensureManaged(ctx context.Context, id *serviceID) error {
	if s.hasEnded(id.maker) {
		s.say("the secret %s has no key that works, and makes none any more: it is made anew, under another id", id.maker.ID)
		if err := s.deleteSecret(ctx, id.maker.ID); err != nil {
			return err
		}
		id.maker = secret{}
	}
	if id.maker.ID == "" {
		if err := s.createMaker(ctx, id); err != nil {
			return err
		}
	}
	key, err := s.currentKey(ctx, id.maker.ID)
	if err == nil && id.maker.Versions > 1 {
		s.say("the secret %s makes the keys of the %s service id", id.maker.ID, id.role)
		err = s.tryKey(ctx, id, key, trialTries, trialAdvice)
	} else if err == nil {
		key, err = s.tryRotation(ctx, id, key)
	}
	if err != nil {
		return err
	}
	if id == s.bootstrap {
		err = s.switchBootstrap(ctx, key)
		id.key = apiKey{place: s.aws.arn}
		return err
	}
	id.key = apiKey{place: id.maker.ID}
	return nil
}

func (s *setup) createMaker(ctx context.Context, id *serviceID) (err error) {
	id.maker.ID, err = s.createSecret(ctx, refusedMint, map[string]any{
		"secret_type": "iam_credentials", "name": s.makerName(id), "secret_group_id": s.keyGroup, "service_id": strings.TrimPrefix(id.iamID, "iam-"),
		"description": "API keys of the " + id.role + " service id, made, rotated and deleted by Secrets Manager.",
		"ttl":         managedTTL, "reuse_api_key": true,
		"rotation": map[string]any{"auto_rotate": true, "interval": managedDays, "unit": "day"},
	})
	if err == nil {
		s.say("created the secret %s, which makes the keys of the %s service id", id.maker.ID, id.role)
	}
	return err
}

// currentKey reads the key of now.
func (s *setup) currentKey(ctx context.Context, maker string) (keyValue, error) {
	doing := "reading the key of the secret " + maker
	read, err := fetch[secret](ctx, s.cloud, doing, "secrets/"+maker)
	if err != nil {
		return keyValue{}, err
	}
	value, err := parseKey(read.Key.Reveal())
	if err != nil || !keyIDShape.MatchString(read.KeyID) {
		return keyValue{}, fmt.Errorf("%s: the answer holds no API key with an id", doing)
	}
	return keyValue{read.KeyID, value}, nil
}

// tryRotation rotates the secret by hand. The new key must work; whether the one before still does is reported.
func (s *setup) tryRotation(ctx context.Context, id *serviceID, before keyValue) (key keyValue, err error) {
	f := &failure{doing: "rotating the secret " + id.maker.ID, refused: refusedMint}
	if err := s.cloud.send(ctx, f, http.MethodPost, "secrets/"+id.maker.ID+"/versions", struct{}{}, &struct{}{}); err != nil {
		return key, err
	}
	if key, err = s.currentKey(ctx, id.maker.ID); err != nil {
		return key, err
	}
	if key.id == before.id {
		return key, fmt.Errorf("the secret %s has the same key after a rotation.%s", id.maker.ID, trialAdvice)
	}
	if err := s.tryKey(ctx, id, key, trialTries, trialAdvice); err != nil {
		return key, err
	}
	fate := ", and the one before still does"
	if _, err := s.cloud.exchange(ctx, before.value, "trying the key before", ""); isUnknownKey(err) {
		fate = ". Note: IBM has ended the one before at once"
	} else if err != nil {
		fate = ". Whether the one before does is not known: " + err.Error()
	}
	s.say("rotated it once by hand: the new key %s works%s", key.id, fate)
	return key, nil
}

// switchBootstrap stores the managed key of the bootstrap in AWS, as the function does once there is a new one. Where AWS
// does not follow this secret yet, the version before is a fixed key, to which the function returns if IBM ends the managed
// one at its first rotation.
func (s *setup) switchBootstrap(ctx context.Context, key keyValue) error {
	id := s.bootstrap
	if s.aws.exists && arnName(s.aws.arn) != s.aws.name {
		return errors.New("reading the metadata of the AWS secret: the answer lacks its ARN")
	}
	if s.aws.keyID() == key.id {
		s.say("the AWS secret %s has the key of now, %s", s.aws.name, key.id)
		return nil
	}
	type versions struct{ Versions []secret }
	made, err := fetch[versions](ctx, s.cloud, "reading the versions of the secret "+id.maker.ID, "secrets/"+id.maker.ID+"/versions")
	if err != nil {
		return err
	}
	follows := s.aws.keyID() != "" && slices.ContainsFunc(made.Versions, func(v secret) bool { return v.KeyID == s.aws.keyID() })
	id.outdated = s.aws.keyID() != "" || !id.key.expires.IsZero() && id.key.expires.Before(s.ibmTime().AddDate(0, 0, managedDays))
	if !follows && s.needsKey(id) {
		if err := s.ensureKey(ctx, id); err != nil {
			return err
		}
	}
	// The version at AWS has the name that the function gives it: by the key and the version that it replaces.
	version := key.id + "-" + fmt.Sprintf("%x", sha256.Sum256([]byte(s.aws.version)))[:20]
	if _, err := s.aws.put(ctx, key.value, version); err != nil {
		return err
	}
	s.say("stored the key %s in the AWS secret %s", key.id, s.aws.name)
	return nil
}

// keyID is the id of AWS's current key, if a managed secret has made it; else empty.
func (b *bootstrapSecret) keyID() string {
	if len(b.version) != 64 || !keyIDShape.MatchString(b.version[:43]) || b.version[43] != '-' {
		return ""
	}
	return b.version[:43]
}

// noteLeftOver says what nothing uses any more after a change of the kind of keys.
func (s *setup) noteLeftOver() {
	const delete = "When the function is deployed with what this prints, nothing uses it: delete it"
	if s.workload.managed && s.workload.place != "" {
		s.say("note: the secret %s holds the workload's fixed key. %s, and the key %s at IAM", s.workload.place, delete, s.keyName(s.workload))
	}
	for _, id := range s.serviceIDs() {
		if id.managed || id.maker.ID == "" {
			continue
		}
		s.say("note: the secret %s made the keys of the %s service id. %s", id.maker.ID, id.role, delete)
		if id.outdated {
			s.say("note: until it is deployed, the function may store a key of that secret again: run setup once more after that")
		}
	}
}
