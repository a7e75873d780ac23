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

// IAM gives a key's value once, so a key counts only when its description says where it is stored. One that an
// interrupted run left before that is replaced, and then deleted, by the next run. Each place has keys of its
// own: an AWS secret, a file, the key secret. The descriptions name an earlier program, which still runs from
// older checkouts and deletes keys that are described otherwise.
const notStored = "not stored yet by set-up-secrets"

var (
	storedShape = regexp.MustCompile(`^stored in ([^\s;]{1,700});at=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) by set-up-secrets$`)
	fileShape   = regexp.MustCompile(`^file:[0-9a-f-]{1,32}$`)
)

// serviceID is an identity, with its keys of setup's making.
type serviceID struct {
	role, iamID string
	file        string
	place       string // of its key: the key secret's id, the AWS secret's name, or a hash of the file; empty until there is one
	// store stores a key there. It is nil where there is to be no key.
	store    func(ctx context.Context, key keyValue) (place string, err error)
	keys     []apiKey // oldest first
	key      apiKey   // the one that is stored
	outdated bool     // it does not do
	probes   bool     // a key is not stored before it can read the token secret's metadata
	managed  bool     // IBM makes its key
	maker    secret   // which makes its keys, or did
}

// apiKey is a key at IAM with the name of a service id's.
type apiKey struct {
	id       string
	place    string // where its value is; empty unless it is known
	at       string // when it was stored there
	lost     bool   // made by a run that did not come to note where it stored the value
	disabled bool
	created  time.Time
	expires  time.Time // zero for never
	tag      string
}

// keyValue is a key that can be used.
type keyValue struct {
	id    string
	value iamtoken.Secret
}

// loadKeys lists the keys with our name. IAM gives a key's age to the minute, so of two made in one minute
// the one that was stored later is the newer.
func (s *setup) loadKeys(ctx context.Context, id *serviceID) error {
	id.keys, id.key = nil, apiKey{}
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
					id.key = key
				}
			}
			return nil
		}
	}
	return fmt.Errorf("%s: IAM's list does not end", doing)
}

func (s *setup) keyName(id *serviceID) string { return s.name + "-" + id.role }

// checkKey takes a key from IAM's answer, if all of it has the expected shape and belongs to the service id.
func (s *setup) checkKey(id *serviceID, answer *iamidentityv1.APIKey) (apiKey, error) {
	key := apiKey{id: core.StringNilMapper(answer.ID), tag: core.StringNilMapper(answer.EntityTag)}
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

// needsKey reports whether a key will be made. One that was lost may have been stored all the same: which one is
// in use is then unknown, and a new one is stored over it.
func (s *setup) needsKey(id *serviceID) bool {
	return s.rotateKeys || id.outdated || id.key.id == "" || slices.ContainsFunc(id.keys, func(k apiKey) bool { return k.lost })
}

// ensureKey sees to a stored key of setup's making.
func (s *setup) ensureKey(ctx context.Context, id *serviceID) error {
	if s.needsKey(id) {
		made, err := s.makeKey(ctx, id)
		if err != nil {
			return err
		}
		if id.key.id != made {
			return fmt.Errorf("IAM does not list the new key %s of the %s service id: run it again", made, id.role)
		}
		s.say("made the key %s of the %s service id, tried it and stored it", made, id.role)
	} else {
		s.say("the %s service id has its key, %s", id.role, id.key.id)
		s.warnOfKey(id)
	}
	return s.deleteLost(ctx, id)
}

// makeKey makes a key, tries it, stores it, notes that at IAM, and lists the keys again.
func (s *setup) makeKey(ctx context.Context, id *serviceID) (keyID string, err error) {
	options := &iamidentityv1.CreateAPIKeyOptions{
		Name: new(s.keyName(id)), IamID: &id.iamID, AccountID: &s.account, Description: new(notStored),
		StoreValue: new(false), ActionWhenLeaked: new("disable"),
	}
	days := s.days
	if id.managed {
		days = fixedDays
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
	update := &iamidentityv1.UpdateAPIKeyOptions{ID: &key.id, IfMatch: new(cmp.Or(key.tag, "*")), Description: &stored}
	doing = "noting at IAM that " + key.id + " is stored"
	if _, err := askIAM(ctx, s.cloud, doing, "Administrator", s.cloud.apiKeys.UpdateAPIKeyWithContext, update); err != nil {
		return "", err
	}
	return key.id, s.loadKeys(ctx, id)
}

// tryKey exchanges a key for a token, which must be of the service id. IAM needs about two seconds to know a new key.
func (s *setup) tryKey(ctx context.Context, id *serviceID, key keyValue, tries int, next string) error {
	doing := "trying the new key " + key.id + " of the " + id.role + " service id"
	var token iamtoken.Secret
	err := s.retry(ctx, tries, 2*time.Second, isUnknownKey, func() (err error) {
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
	if id.probes {
		return s.probe(ctx, id, token)
	}
	return nil
}

// probe does what the function does first with a token. New policies take minutes to reach everywhere.
func (s *setup) probe(ctx context.Context, id *serviceID, token iamtoken.Secret) error {
	as, waiting := *s.cloud, false
	as.token = token
	refused := func(err error) bool {
		if statusOf(err) != http.StatusForbidden {
			return false
		}
		if !waiting {
			s.say("the policies of the new %s service id do not count yet: trying again for five minutes", id.role)
		}
		waiting = true
		return true
	}
	return s.retry(ctx, 31, 10*time.Second, refused, func() error {
		f := &failure{doing: "reading the token secret's metadata as the " + id.role + " service id", needed: "the policies that infra/ibm gives it"}
		return as.send(ctx, f, http.MethodGet, "secrets/"+s.tokenSecret+"/versions/current/metadata", nil, &struct{}{})
	})
}

// retry repeats what fails for a while.
func (s *setup) retry(ctx context.Context, tries int, pause time.Duration, passes func(error) bool, call func() error) error {
	for try := 1; ; try++ {
		if err := call(); err == nil || !passes(err) || try == tries || s.sleep(ctx, pause) != nil {
			return err
		}
	}
}

// deleteLost deletes the keys that interrupted runs have lost, and reports the others.
func (s *setup) deleteLost(ctx context.Context, id *serviceID) error {
	for _, key := range id.keys {
		switch {
		case key.id == id.key.id:
		case key.lost:
			doing := "deleting the key " + key.id + " of the " + id.role + " service id"
			options := &iamidentityv1.DeleteAPIKeyOptions{ID: &key.id}
			if err := deleteAtIAM(ctx, s.cloud, doing, s.cloud.apiKeys.DeleteAPIKeyWithContext, options); err != nil {
				return err
			}
			s.say("deleted the old key %s of the %s service id", key.id, id.role)
		case key.place == "":
			s.say("note: the key %s is also named %s and not of setup's making: it is left alone", key.id, s.keyName(id))
		case key.place != id.key.place || !id.managed: // else it expires soon, or has
			s.say("note: the other key %s of the %s service id, stored in %s, still works. When nothing uses it: ibmcloud iam service-api-key-delete %s %s",
				key.id, id.role, key.place, key.id, strings.TrimPrefix(id.iamID, "iam-"))
		}
	}
	return nil
}

// ibmTime is the time by IBM's clock, by which keys expire. This machine's may be wrong.
func (s *setup) ibmTime() time.Time {
	if s.cloud.at.IsZero() {
		return s.now()
	}
	return s.cloud.at
}

// warnOfKey reports a key whose file is gone, that is disabled, or that expires within 14 days.
func (s *setup) warnOfKey(id *serviceID) {
	if _, err := os.Lstat(id.file); id.file != "" && err != nil {
		s.say("note: %s is not there, and is not written again. If this machine alone had it: --rotate-keys makes another key.", printable(id.file))
	}
	fate, left := "expires on "+id.key.expires.Format(time.DateOnly), id.key.expires.Sub(s.ibmTime())
	switch {
	case id.key.disabled:
		fate = "is disabled"
	case id.key.expires.IsZero() || left > 14*24*time.Hour:
		return
	case left <= 0:
		fate = "has expired on " + id.key.expires.Format(time.DateOnly)
	}
	s.say("note: this key %s. Run setup again with --rotate-keys.", fate)
}

// placeOf is what IAM is shown of a file: a hash of its path, which may hold anything.
func placeOf(file string) (string, error) {
	folder, err := filepath.Abs(filepath.Dir(file))
	if err == nil {
		folder, err = filepath.EvalSymlinks(folder)
	}
	return fmt.Sprintf("file:%x", sha256.Sum256([]byte(filepath.Join(folder, filepath.Base(file)))))[:len("file:")+16], err
}

// keepInFile has the key stored in a file. It checks that one can be written there, before a key is made.
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
