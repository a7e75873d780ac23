package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/iamidentityv1"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/scripts/envfile"
)

// A key that setup makes goes through four states, see makeKey. IAM gives the value of a key once, so no run can continue with a
// key that an interrupted run made.
//
//	made     IAM has the key, with the description notStored
//	tried    it was exchanged for a token of the service id
//	stored   its value is in its place: an AWS secret, a file, or the key secret
//	noted    its description names that place; only now setup counts it as a stored key
//
// A key that did not become noted is lost: the next run stores a new key in its place, and then deletes the lost one.
// The descriptions name an earlier program, which still runs from older checkouts and deletes keys with other descriptions.
const notStored = "not stored yet by set-up-secrets"

var (
	storedShape = regexp.MustCompile(`^stored in ([^\s;]{1,700});at=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) by set-up-secrets$`)
	fileShape   = regexp.MustCompile(`^file:[0-9a-f-]{1,32}$`)
)

// serviceID is one of the three identities, with the keys that setup made for it.
type serviceID struct {
	role, iamID string // the role is workload, bootstrap or reader
	file        string // for its key; empty to store the key elsewhere
	place       string // where its key is stored: the key secret's id, the AWS secret's name, or a hash of the file's path; empty until then
	// store stores a key and returns its place. It is nil if this service id gets no key.
	store          func(ctx context.Context, key keyValue) (place string, err error)
	keys           []apiKey // oldest first
	stored         apiKey   // the one of keys that is in place
	mustReplace    bool     // the stored key must be replaced by another one
	mayWait        bool     // its policies may be new: tryKey waits until they are in force
	managed        bool     // IBM makes its keys
	iamCredentials secret   // the secret of type iam_credentials that makes its keys, or made them until managed became false
}

// apiKey is what IAM lists of a key. That does not include the value.
type apiKey struct {
	id       string
	place    string // where its value is stored; empty if that is not known
	at       string // when it was stored there
	lost     bool   // an interrupted run made it: see notStored
	disabled bool
	created  time.Time
	expires  time.Time // zero for never
	etag     string
}

// keyValue is a key with its value.
type keyValue struct {
	id    string
	value iamtoken.Secret
}

// loadKeys lists the service id's keys with setup's name for them, oldest first. IAM gives the minute of a key's creation, so of
// two keys of one minute the one that was stored later is the newer one.
func (s *setup) loadKeys(ctx context.Context, id *serviceID) error {
	id.keys, id.stored = nil, apiKey{}
	doing, token := "listing the API keys of the "+id.role+" service id", (*string)(nil)
	for range pagesLimit {
		page, err := askIAM(ctx, s.cloud, doing, "Operator", s.cloud.apiKeys.ListAPIKeysWithContext, &iamidentityv1.ListAPIKeysOptions{
			AccountID: &s.account, IamID: &id.iamID, Pagesize: new(int64(100)), Pagetoken: token,
		})
		if err != nil {
			return err
		}
		for _, listed := range page.Apikeys {
			if core.StringNilMapper(listed.Name) != s.keyName(id) {
				continue
			}
			key, err := s.checkKey(id, &listed)
			if err != nil {
				return fmt.Errorf("%s: %w", doing, err)
			}
			id.keys = append(id.keys, key)
		}
		token, err = core.GetQueryParam(page.Next, "pagetoken")
		if err != nil || core.StringNilMapper(token) == "" {
			slices.SortStableFunc(id.keys, func(a, b apiKey) int {
				return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.at, b.at))
			})
			for _, key := range id.keys {
				if key.place != "" && cmp.Or(arnName(key.place), key.place) == id.place {
					id.stored = key
				}
			}
			return nil
		}
	}
	return fmt.Errorf("%s: IAM's list does not end", doing)
}

func (s *setup) keyName(id *serviceID) string { return s.name + "-" + id.role }

// checkKey returns the key in IAM's answer. It is an error if the key's id has another shape or the key another owner.
func (s *setup) checkKey(id *serviceID, answer *iamidentityv1.APIKey) (apiKey, error) {
	key := apiKey{id: core.StringNilMapper(answer.ID), etag: core.StringNilMapper(answer.EntityTag)}
	key.disabled = answer.Disabled != nil && *answer.Disabled
	switch {
	case !keyIDShape.MatchString(key.id):
		return key, errors.New("IAM's answer has a key id of unknown form")
	case core.StringNilMapper(answer.IamID) != id.iamID || core.StringNilMapper(answer.AccountID) != s.account:
		return key, fmt.Errorf("IAM's answer says that %s is another identity's or account's", key.id)
	}
	if answer.CreatedAt != nil {
		key.created = time.Time(*answer.CreatedAt)
	}
	for _, layout := range []string{"2006-01-02T15:04-0700", "2006-01-02T15:04:05-0700", time.RFC3339} {
		if at, err := time.Parse(layout, core.StringNilMapper(answer.ExpiresAt)); err == nil {
			key.expires = at.UTC()
		}
	}
	description := core.StringNilMapper(answer.Description)
	key.lost = description == notStored
	if found := storedShape.FindStringSubmatch(description); found != nil &&
		(idShape.MatchString(found[1]) || fileShape.MatchString(found[1]) || arnShape.MatchString(found[1])) {
		key.place, key.at = found[1], found[2]
	}
	return key, nil
}

// needsKey reports whether setup makes a key. If a key is lost, the interrupted run may have stored it or not: which key is in
// place is unknown, so a new one replaces it.
func (s *setup) needsKey(id *serviceID) bool {
	return s.rotateKeys || id.mustReplace || id.stored.id == "" || slices.ContainsFunc(id.keys, func(k apiKey) bool { return k.lost })
}

// ensureKey makes and stores a key, unless one is stored. Then it deletes the lost keys.
func (s *setup) ensureKey(ctx context.Context, id *serviceID) error {
	if s.needsKey(id) {
		made, err := s.makeKey(ctx, id)
		if err != nil {
			return err
		}
		if id.stored.id != made {
			return fmt.Errorf("IAM does not list the new key %s of the %s service id: run it again", made, id.role)
		}
		s.say("made the key %s of the %s service id, tried it and stored it", made, id.role)
	} else {
		s.say("the %s service id has its key, %s", id.role, id.stored.id)
		s.warnOfKey(id)
	}
	return s.deleteLostKeys(ctx, id)
}

// makeKey takes a new key through all states, and lists the keys again.
func (s *setup) makeKey(ctx context.Context, id *serviceID) (keyID string, err error) {
	options := &iamidentityv1.CreateAPIKeyOptions{
		Name: new(s.keyName(id)), IamID: &id.iamID, AccountID: &s.account, Description: new(notStored),
		StoreValue: new(false), ActionWhenLeaked: new("disable"),
	}
	days := s.days
	if id.managed {
		days = fixedKeyDays
	}
	if days > 0 {
		options.ExpiresAt = new(s.ibmTime().UTC().AddDate(0, 0, days).Format("2006-01-02T15:04-0700"))
	}
	doing := "making an API key for the " + id.role + " service id"
	answer, err := askIAM(ctx, s.cloud, doing, "Administrator", s.cloud.apiKeys.CreateAPIKeyWithContext, options)
	if err != nil {
		return "", err
	}
	key, err := s.checkKey(id, answer)
	if err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	value, err := parseKey(core.StringNilMapper(answer.Apikey))
	if err != nil {
		return "", fmt.Errorf("%s: IAM's answer holds no API key", doing)
	}
	made := keyValue{key.id, value}
	if err := s.tryKey(ctx, id, made, 6, " Run setup again: it makes another key in place of this one."); err != nil {
		return "", err
	}
	place, err := id.store(ctx, made)
	if err != nil {
		return "", err
	}
	id.place = cmp.Or(arnName(place), place)
	stored := fmt.Sprintf("stored in %s;at=%s by set-up-secrets", place, s.now().UTC().Format("2006-01-02T15:04:05.000Z"))
	update := &iamidentityv1.UpdateAPIKeyOptions{ID: &key.id, IfMatch: new(cmp.Or(key.etag, "*")), Description: &stored}
	doing = "noting at IAM that " + key.id + " is stored"
	if _, err := askIAM(ctx, s.cloud, doing, "Administrator", s.cloud.apiKeys.UpdateAPIKeyWithContext, update); err != nil {
		return "", err
	}
	return key.id, s.loadKeys(ctx, id)
}

// tryKey exchanges a key for a token, which must belong to the service id. It tries every two seconds, since IAM needs about
// that long to know a new key. next ends the advice of its error.
func (s *setup) tryKey(ctx context.Context, id *serviceID, key keyValue, tries int, next string) error {
	doing := "trying the new key " + key.id + " of the " + id.role + " service id"
	var token iamtoken.Secret
	err := s.retryWhile(ctx, isUnknownKey, tries, 2*time.Second, func() (err error) {
		token, err = s.cloud.exchange(ctx, key.value, doing, next)
		return err
	})
	switch {
	case err != nil:
		return err
	case !iamtoken.IsJWT(token.Reveal()):
		s.say("note: the token of the key %s is opaque: it does not show its identity", key.id)
		return nil
	}
	if claims, err := iamtoken.ReadClaims(token.Reveal()); err != nil || claims.IAMID != id.iamID || claims.Account != s.account {
		return fmt.Errorf("%s: its token is another identity's or account's: it is not stored", doing)
	}
	if id.mayWait {
		return s.waitForPolicies(ctx, id, token)
	}
	return nil
}

// waitForPolicies reads the token secret's metadata, as the function does first, until the service id may. New policies take
// minutes to be in force everywhere.
func (s *setup) waitForPolicies(ctx context.Context, id *serviceID, token iamtoken.Secret) error {
	asServiceID, waiting := *s.cloud, false
	asServiceID.token = token
	isForbidden := func(err error) bool {
		forbidden := statusOf(err) == http.StatusForbidden
		if forbidden && !waiting {
			s.say("the policies of the new %s service id are not in force yet: trying again for five minutes", id.role)
		}
		waiting = waiting || forbidden
		return forbidden
	}
	return s.retryWhile(ctx, isForbidden, 31, 10*time.Second, func() error {
		f := &failure{doing: "reading the token secret's metadata as the " + id.role + " service id", needed: "the policies that infra/ibm gives it"}
		return asServiceID.send(ctx, f, http.MethodGet, "secrets/"+s.tokenSecret+"/versions/current/metadata", nil, &struct{}{})
	})
}

// retryWhile makes a call, again while it fails with a temporary error, and returns the last error.
func (s *setup) retryWhile(ctx context.Context, isTemporary func(error) bool, tries int, pause time.Duration, call func() error) error {
	for try := 1; ; try++ {
		if err := call(); err == nil || !isTemporary(err) || try == tries || s.sleep(ctx, pause) != nil {
			return err
		}
	}
}

// deleteLostKeys deletes the lost keys, and reports every other key that is not the stored one.
func (s *setup) deleteLostKeys(ctx context.Context, id *serviceID) error {
	for _, key := range id.keys {
		switch {
		case key.id == id.stored.id:
		case key.lost:
			doing := "deleting the key " + key.id + " of the " + id.role + " service id"
			options := &iamidentityv1.DeleteAPIKeyOptions{ID: &key.id}
			if err := deleteAtIAM(ctx, s.cloud, doing, s.cloud.apiKeys.DeleteAPIKeyWithContext, options); err != nil {
				return err
			}
			s.say("deleted the old key %s of the %s service id", key.id, id.role)
		case key.place == "":
			s.say("note: setup did not make the key %s, which is also named %s, and leaves it as it is", key.id, s.keyName(id))
		case key.place != id.stored.place || !id.managed: // else it is a fixed key from before the managed ones
			s.say("note: the other key %s of the %s service id, stored in %s, still works. Once nothing uses it, delete it: ibmcloud iam service-api-key-delete %s %s",
				key.id, id.role, key.place, key.id, strings.TrimPrefix(id.iamID, "iam-"))
		}
	}
	return nil
}

// ibmTime is the time by IBM's clock: keys expire by it, and this machine's may be wrong.
func (s *setup) ibmTime() time.Time {
	if s.cloud.at.IsZero() {
		return s.now()
	}
	return s.cloud.at
}

// warnOfKey warns if the file of the stored key is gone, if the key is disabled, or if it expires within 14 days.
func (s *setup) warnOfKey(id *serviceID) {
	if _, err := os.Lstat(id.file); id.file != "" && err != nil {
		s.say("note: %s is not there, and is not written again. If the key is lost, --rotate-keys makes another.", printable(id.file))
	}
	state, left := "expires on "+id.stored.expires.Format(time.DateOnly), id.stored.expires.Sub(s.ibmTime())
	switch {
	case id.stored.disabled:
		state = "is disabled"
	case id.stored.expires.IsZero() || left > 14*24*time.Hour:
		return
	case left <= 0:
		state = "expired on " + id.stored.expires.Format(time.DateOnly)
	}
	s.say("note: this key %s. Run setup again with --rotate-keys.", state)
}

// placeOf is the place of a key in a file: a hash of the file's path, since IAM shows the place and the path may contain anything.
func placeOf(file string) (string, error) {
	folder, err := filepath.Abs(filepath.Dir(file))
	if err == nil {
		folder, err = filepath.EvalSymlinks(folder)
	}
	return fmt.Sprintf("file:%x", sha256.Sum256([]byte(filepath.Join(folder, filepath.Base(file)))))[:len("file:")+16], err
}

// keepInFile makes a file the place of the service id's key, after a check that it can be written.
func (id *serviceID) keepInFile(file string) error {
	if id.iamID == "" {
		return usagef("%s_IAM_ID is empty, so there is no key to write to %s", strings.ToUpper(id.role), printable(file))
	}
	place, err := placeOf(file)
	if info, statErr := os.Stat(file); err != nil || statErr == nil && !info.Mode().IsRegular() {
		return usagef("%s cannot be written: it is a folder or a device, or its folder is not there", printable(file))
	}
	probe, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil || errors.Join(probe.Close(), os.Remove(probe.Name())) != nil {
		return usagef("%s cannot be written: its folder accepts no new files", printable(file))
	}
	id.file, id.place = file, place
	id.store = func(_ context.Context, key keyValue) (string, error) {
		if err := envfile.WriteWhole(file, []byte(key.value.Reveal()+"\n"), 0o600); err != nil {
			return "", fmt.Errorf("writing %s failed: is its folder writable, and has it room?", printable(file))
		}
		return id.place, nil
	}
	return nil
}
