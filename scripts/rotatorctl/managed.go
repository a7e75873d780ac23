package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/IBM/platform-services-go-sdk/iamidentityv1"

	"iam-token-rotator/functions/iamtoken"
)

// A managedKey is a secret by which IBM makes, rotates and deletes the keys of a service id. Terraform would write the
// key into its state, so it is made here. A key works for 45 days and has a successor after 15: its rule is set once,
// since a change of it may rotate at once.
type managedKey struct {
	secret    string // its id; empty until found or created
	rotations int    // versions after the first
	ended     bool   // its key is past its lease, or of a deleted service id: such a secret is of no use any more
	keyID     string
	value     iamtoken.Secret
}

const (
	managedTTL  = "1080h"
	managedDays = 15
	fixedDays   = 30 // of the bootstrap key that AWS keeps as its previous version
	destroyed   = 5  // the state of a secret whose value is gone for good
	trialTries  = 30 // of the new key after a rotation, two seconds apart
	refusedMint = "Secrets Manager may not make keys of this service id, or it has 20 already. Terraform makes the authorization on iam-identity (managed_keys = true); a new one takes minutes to reach everywhere."
)

// managed are the service ids whose keys IBM makes.
func (s *setup) managed() []*serviceID {
	return slices.DeleteFunc([]*serviceID{s.workload, s.bootstrap}, func(id *serviceID) bool { return id == nil || id.managed == nil })
}

// planManaged leaves the keys of the workload, and of the bootstrap if it is at AWS, to IBM.
func (s *setup) planManaged() {
	s.workload.managed = &managedKey{}
	if s.bootstrap != nil && s.bootstrapFile == "" {
		s.bootstrap.managed = &managedKey{}
	}
	if s.rotateKeys {
		s.say("note: IBM rotates the keys that it makes: --rotate-keys leaves them as they are")
	}
}

// makeManaged makes what is missing of the managed keys. Each is tried before the first is switched to.
func (s *setup) makeManaged(ctx context.Context) error {
	if s.workload.managed == nil {
		return nil
	}
	defer func() { s.apiKeySecret = s.workload.managed.secret }()
	for _, id := range s.managed() {
		if err := s.ensureManaged(ctx, id); err != nil {
			return err
		}
	}
	if s.bootstrap != nil && s.bootstrap.managed != nil {
		if err := s.switchBootstrap(ctx); err != nil {
			return err
		}
	}
	return s.reportFixed(ctx)
}

// managedName is the name of the secret that makes the keys of a service id.
func (s *setup) managedName(id *serviceID) string {
	if id == s.workload {
		return s.name + "-api-key"
	}
	return s.name + "-bootstrap-key"
}

// findManaged finds the secret of a service id, and checks that it fits.
func (s *setup) findManaged(ctx context.Context, id *serviceID) (err error) {
	m := id.managed
	if m.secret, err = s.findSecret(ctx, s.managedName(id), s.keyGroup, "iam_credentials"); err != nil || m.secret == "" {
		return err
	}
	var found struct {
		ServiceID  string    `json:"service_id"`
		Reuse      bool      `json:"reuse_api_key"`
		Static     bool      `json:"service_id_is_static"`
		Expires    time.Time `json:"expiration_date"`
		Versions   int       `json:"versions_total"`
		LocksTotal int       `json:"locks_total"`
		State      int       `json:"state"`
		Rotation   struct {
			On bool `json:"auto_rotate"`
		} `json:"rotation"`
	}
	doing := "reading the metadata of the secret " + s.managedName(id)
	if err := s.cloud.send(ctx, doing, http.MethodGet, "secrets/"+m.secret+"/metadata", http.StatusOK, nil, &found); err != nil {
		return err
	}
	m.rotations, m.ended = found.Versions-1, found.State == destroyed || !found.Expires.IsZero() && !found.Expires.After(s.ibmTime())
	switch {
	case m.ended:
		return nil
	case !found.Static || found.ServiceID != strings.TrimPrefix(id.iamID, "iam-"):
		if m.ended, err = s.isOrphan(ctx, id, found.ServiceID); err != nil || m.ended {
			return err
		}
		return fmt.Errorf("the secret %s makes keys of another service id than the %s's: use another --name, or delete it", m.secret, id.role)
	case !found.Reuse:
		return fmt.Errorf("the secret %s makes a new key at each reading (reuse_api_key false): use another --name, or delete it", m.secret)
	case !found.Rotation.On:
		s.say("note: nobody rotates the secret %s: its rule of rotation is off. Switch it on in IBM's console: each %d days", m.secret, managedDays)
	case found.LocksTotal > 0:
		s.say("note: the secret %s has locks: IBM does not rotate it while its previous version is locked. Remove them", m.secret)
	}
	return nil
}

// isOrphan reports whether IAM knows neither the service id of the secret nor its key. A secret with a key that works is
// somebody's.
func (s *setup) isOrphan(ctx context.Context, id *serviceID, serviceID string) (bool, error) {
	if !iamIDShape.MatchString("iam-" + serviceID) {
		return false, nil
	}
	_, err := askIAM(ctx, s.cloud, "looking for the service id "+serviceID, "Viewer", http.StatusOK, s.cloud.apiKeys.GetServiceIDWithContext,
		&iamidentityv1.GetServiceIDOptions{ID: &serviceID})
	if f, ok := errors.AsType[*failure](err); !ok || f.status != http.StatusNotFound {
		return false, err
	}
	if err := s.readManaged(ctx, id); err != nil {
		return false, err
	}
	_, err = s.cloud.exchange(ctx, id.managed.value, "trying the key of the secret "+id.managed.secret, "")
	if f, ok := errors.AsType[*failure](err); ok && f.isUnknownKey() {
		return true, nil
	}
	return false, err
}

// ensureManaged makes the secret of a service id, if it is not there, and tries it: it is rotated once, and the key of now
// works. Where a run was cut off before, the next one goes on.
func (s *setup) ensureManaged(ctx context.Context, id *serviceID) error {
	m := id.managed
	if m.ended {
		s.say("the secret %s has no key that works, and makes none any more: it is made anew, under another id", m.secret)
		if err := s.deleteManaged(ctx, id); err != nil {
			return err
		}
	}
	if m.secret == "" {
		if err := s.createManaged(ctx, id); err != nil {
			return err
		}
	}
	if err := s.readManaged(ctx, id); err != nil {
		return err
	}
	if m.rotations > 0 {
		s.say("the secret %s makes the keys of the %s service id", m.secret, id.role)
		return s.tryKey(ctx, id, m.keyID, m.value, trialTries, trialAdvice)
	}
	return s.tryRotation(ctx, id)
}

const trialAdvice = " Nothing is switched. Run setup again to try once more."

func (s *setup) deleteManaged(ctx context.Context, id *serviceID) error {
	doing := "deleting the secret " + id.managed.secret
	f := &failure{doing: doing, needed: managerNeeded}
	err := s.cloud.ask(ctx, f, http.StatusNoContent, func(ctx context.Context) error {
		return s.cloud.do(ctx, http.MethodDelete, s.cloud.secretsURL+"/api/v2/secrets/"+id.managed.secret, "", "", nil)
	})
	if err == nil || f.status == http.StatusNotFound {
		*id.managed = managedKey{}
		return nil
	}
	return err
}

func (s *setup) createManaged(ctx context.Context, id *serviceID) (err error) {
	body := map[string]any{
		"secret_type": "iam_credentials", "name": s.managedName(id), "secret_group_id": s.keyGroup, "service_id": strings.TrimPrefix(id.iamID, "iam-"),
		"description": "API keys of the " + id.role + " service id, made, rotated and deleted by Secrets Manager.",
		"ttl":         managedTTL, "reuse_api_key": true,
		"rotation": map[string]any{"auto_rotate": true, "interval": managedDays, "unit": "day"},
	}
	m := id.managed
	if m.secret, err = s.createSecret(ctx, body, refusedMint); err != nil {
		return err
	}
	s.say("created the secret %s, which makes the keys of the %s service id", m.secret, id.role)
	return nil
}

// readManaged reads the key of now.
func (s *setup) readManaged(ctx context.Context, id *serviceID) error {
	m := id.managed
	var read struct {
		Key   string `json:"api_key"`
		KeyID string `json:"api_key_id"`
	}
	doing := "reading the key of the secret " + m.secret
	if err := s.cloud.send(ctx, doing, http.MethodGet, "secrets/"+m.secret, http.StatusOK, nil, &read); err != nil {
		return err
	}
	value, err := parseKey(read.Key)
	if err != nil || !keyIDShape.MatchString(read.KeyID) {
		return fmt.Errorf("%s: the answer holds no API key with an id", doing)
	}
	m.keyID, m.value = read.KeyID, value
	return nil
}

// tryRotation rotates the secret by hand. The new key must work; whether the one before still does is reported.
func (s *setup) tryRotation(ctx context.Context, id *serviceID) error {
	m := id.managed
	before := *m
	f := &failure{doing: "rotating the secret " + m.secret, needed: managerNeeded, refused: refusedMint}
	if err := s.cloud.sendAs(ctx, f, http.MethodPost, "secrets/"+m.secret+"/versions", http.StatusCreated, struct{}{}, &struct{}{}); err != nil {
		return err
	}
	if err := s.readManaged(ctx, id); err != nil {
		return err
	}
	if m.keyID == before.keyID {
		return fmt.Errorf("the secret %s has the same key after a rotation.%s", m.secret, trialAdvice)
	}
	if err := s.tryKey(ctx, id, m.keyID, m.value, trialTries, trialAdvice); err != nil {
		return err
	}
	_, err := s.cloud.exchange(ctx, before.value, "trying the key before", "")
	f, refused := errors.AsType[*failure](err)
	switch {
	case err == nil:
		s.say("rotated it once by hand: the new key %s works, and the one before still does", m.keyID)
	case refused && f.isUnknownKey():
		s.say("rotated it once by hand: the new key %s works. Note: IBM has ended the one before at once", m.keyID)
	default:
		s.say("rotated it once by hand: the new key %s works. Whether the one before does is not known: %v", m.keyID, err)
	}
	return nil
}

// switchBootstrap stores the managed key of the bootstrap in AWS, as the function does once there is a new one. Where AWS
// does not follow this secret yet, the version before is a fixed key, to which the function returns if IBM ends the managed
// one at its first rotation.
func (s *setup) switchBootstrap(ctx context.Context) error {
	id, m := s.bootstrap, s.bootstrap.managed
	if s.aws.exists && arnName(s.aws.arn) != s.aws.name {
		return errors.New("reading the metadata of the AWS secret: the answer lacks its ARN")
	}
	if s.aws.keyID() == m.keyID {
		s.say("the AWS secret %s has the key of now, %s", s.aws.name, m.keyID)
		return nil
	}
	follows, err := s.hasMade(ctx, id, s.aws.keyID())
	if err != nil {
		return err
	}
	if !follows {
		fixed, _ := id.newest(id.isPlace)
		id.outdated = s.aws.keyID() != "" || !fixed.expires.IsZero() && fixed.expires.Before(s.ibmTime().AddDate(0, 0, managedDays))
		if s.needsKey(id) {
			if _, err := s.ensureKey(ctx, id); err != nil {
				return err
			}
		}
	}
	if _, err := s.aws.put(ctx, m.value, m.versionID(s.aws.version)); err != nil {
		return err
	}
	s.say("stored the key %s in the AWS secret %s", m.keyID, s.aws.name)
	return nil
}

// hasMade reports whether a version of the secret that is still readable has that key.
func (s *setup) hasMade(ctx context.Context, id *serviceID, keyID string) (bool, error) {
	var list struct {
		Versions []struct {
			KeyID string `json:"api_key_id"`
		} `json:"versions"`
	}
	doing := "reading the versions of the secret " + id.managed.secret
	if err := s.cloud.send(ctx, doing, http.MethodGet, "secrets/"+id.managed.secret+"/versions", http.StatusOK, nil, &list); err != nil {
		return false, err
	}
	for _, version := range list.Versions {
		if keyID != "" && version.KeyID == keyID {
			return true, nil
		}
	}
	return false, nil
}

// versionID names the version at AWS that holds the key, as the function does: by the key and the version that it
// replaces. It is the same at each repeat.
func (m *managedKey) versionID(replaced string) string {
	return m.keyID + "-" + fmt.Sprintf("%x", sha256.Sum256([]byte(replaced)))[:20]
}

// keyID is the id of AWS's current key, if a managed secret has made it; else empty.
func (b *bootstrapSecret) keyID() string {
	if len(b.version) != 64 || !keyIDShape.MatchString(b.version[:43]) || b.version[43] != '-' {
		return ""
	}
	return b.version[:43]
}

// reportFixed says what is left of the fixed key of the workload.
func (s *setup) reportFixed(ctx context.Context) error {
	fixed, err := s.findSecret(ctx, s.name+"-api-key", s.keyGroup, "arbitrary")
	if err == nil && fixed != "" {
		s.say("note: the secret %s holds the workload's fixed key. When the function is deployed with what this prints, nothing uses it: delete it, and the key %s-workload at IAM", fixed, s.name)
	}
	return err
}

// findFormer says which secrets made the keys before a person has to. AWS may have the bootstrap key of one.
func (s *setup) findFormer(ctx context.Context) error {
	for _, id := range s.serviceIDs() {
		if id == s.reader || id == s.bootstrap && s.bootstrapFile != "" {
			continue
		}
		former, err := s.findSecret(ctx, s.managedName(id), s.keyGroup, "iam_credentials")
		if err != nil {
			return err
		}
		if former == "" {
			continue
		}
		s.say("note: the secret %s made the keys of the %s service id. When the function is deployed with what this prints, nothing uses it: delete it", former, id.role)
		if id != s.bootstrap {
			continue
		}
		if s.aws, err = s.openBootstrapSecret(ctx, s.awsSecret, s.kmsKeyID); err != nil {
			return err
		}
		if id.outdated = s.aws.keyID() != ""; id.outdated {
			s.say("note: until it is deployed, the function may store a key of that secret again: run setup once more after that")
		}
	}
	return nil
}
