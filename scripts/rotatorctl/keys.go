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

func storedIn(place string, at time.Time) string {
	return fmt.Sprintf("stored in %s;at=%s by set-up-secrets", place, at.UTC().Format("2006-01-02T15:04:05.000Z"))
}

var (
	storedShape = regexp.MustCompile(`^stored in ([^\s;]{1,700});at=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) by set-up-secrets$`)
	fileShape   = regexp.MustCompile(`^file:[0-9a-f-]{1,32}$`)
)

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

// serviceID is one of the identities that need a key.
type serviceID struct {
	role, iamID string
	isPlace     func(place string) bool // whether its key belongs there
	store       func(ctx context.Context, value iamtoken.Secret, keyID string) (place string, err error)
	keys        []apiKey    // oldest first
	managed     *managedKey // nil where its key is made here
	outdated    bool        // the key that is stored does not do
	probes      bool        // a key is not stored before its service id may read the token secret's metadata
}

// loadKeys lists the keys with our name. IAM gives a key's age to the minute, so of two made in one minute
// the one that was stored later is the newer.
func (s *setup) loadKeys(ctx context.Context, id *serviceID) error {
	id.keys = nil
	doing, token := "listing the API keys of the "+id.role+" service id", (*string)(nil)
	for range pagesLimit {
		page, err := askIAM(ctx, s.cloud, doing, "Operator", http.StatusOK, s.cloud.apiKeys.ListAPIKeysWithContext, &iamidentityv1.ListAPIKeysOptions{
			AccountID: &s.account, IamID: &id.iamID, Pagesize: core.Int64Ptr(100), Pagetoken: token,
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
		next, err := core.GetQueryParam(page.Next, "pagetoken")
		if err != nil || core.StringNilMapper(next) == "" {
			slices.SortStableFunc(id.keys, func(a, b apiKey) int {
				return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.at, b.at))
			})
			return nil
		}
		token = next
	}
	return fmt.Errorf("%s: IAM's list does not end", doing)
}

// checkKey takes a key from IAM's answer, if all of it has the expected shape and belongs to the service id.
func (s *setup) checkKey(id *serviceID, answer *iamidentityv1.APIKey) (apiKey, error) {
	key := apiKey{id: core.StringNilMapper(answer.ID), disabled: answer.Disabled != nil && *answer.Disabled, tag: core.StringNilMapper(answer.EntityTag)}
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

// askIAM makes a call of IBM's SDK.
func askIAM[In, Out any](ctx context.Context, c *ibmCloud, doing, role string, want int,
	call func(context.Context, In) (*Out, *core.DetailedResponse, error), in In) (out *Out, err error) {
	err = c.ask(ctx, &failure{doing: doing, needed: role + " on the service id"}, want, func(ctx context.Context) (err error) {
		if out, _, err = call(ctx, in); err == nil && out == nil {
			err = errors.New("an empty answer")
		}
		return err
	})
	return out, err
}

func (s *setup) keyName(id *serviceID) string { return s.name + "-" + id.role }

// newest returns the newest key that is stored in one of the places.
func (id *serviceID) newest(isPlace func(string) bool) (apiKey, bool) {
	for _, key := range slices.Backward(id.keys) {
		if key.place != "" && isPlace(key.place) {
			return key, true
		}
	}
	return apiKey{}, false
}

func (id *serviceID) interrupted() bool {
	return slices.ContainsFunc(id.keys, func(k apiKey) bool { return k.lost })
}

// needsKey reports whether a key will be made. One that was lost may have been stored all the same: which one is
// in use is then unknown, and a new one is stored over it.
func (s *setup) needsKey(id *serviceID) bool {
	_, found := id.newest(id.isPlace)
	return s.rotateKeys || !found || id.interrupted() || id.outdated
}

// ensureKey returns a stored key.
func (s *setup) ensureKey(ctx context.Context, id *serviceID) (apiKey, error) {
	key, _ := id.newest(id.isPlace)
	if s.needsKey(id) {
		made, err := s.makeKey(ctx, id)
		if err != nil {
			return apiKey{}, err
		}
		at := slices.IndexFunc(id.keys, func(k apiKey) bool { return k.id == made && k.place != "" })
		if at < 0 {
			return apiKey{}, fmt.Errorf("IAM does not list the new key %s of the %s service id: run it again", made, id.role)
		}
		key = id.keys[at]
		s.say("made the key %s of the %s service id, tried it and stored it", key.id, id.role)
	} else {
		s.say("the %s service id has its key, %s", id.role, key.id)
		s.warnOfKey(key)
	}
	return key, s.deleteOthers(ctx, id, key)
}

// makeKey makes a key, tries it, stores it, notes that at IAM, and lists the keys again.
func (s *setup) makeKey(ctx context.Context, id *serviceID) (keyID string, err error) {
	options := &iamidentityv1.CreateAPIKeyOptions{
		Name: core.StringPtr(s.keyName(id)), IamID: &id.iamID, AccountID: &s.account, Description: core.StringPtr(notStored),
		StoreValue: core.BoolPtr(false), ActionWhenLeaked: core.StringPtr("disable"),
	}
	days := s.days
	if id.managed != nil {
		days = fixedDays
	}
	if days > 0 {
		options.ExpiresAt = core.StringPtr(s.ibmTime().UTC().AddDate(0, 0, days).Format("2006-01-02T15:04-0700"))
	}
	doing := "making an API key for the " + id.role + " service id"
	answer, err := askIAM(ctx, s.cloud, doing, "Administrator", http.StatusCreated, s.cloud.apiKeys.CreateAPIKeyWithContext, options)
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
	if err := s.tryKey(ctx, id, key.id, value, 6, " Run setup again: it makes another key in place of this one."); err != nil {
		return "", err
	}
	place, err := id.store(ctx, value, key.id)
	if err != nil {
		return "", err
	}
	update := &iamidentityv1.UpdateAPIKeyOptions{ID: &key.id, IfMatch: core.StringPtr(cmp.Or(key.tag, "*")), Description: core.StringPtr(storedIn(place, s.now()))}
	if _, err := askIAM(ctx, s.cloud, "noting at IAM that "+key.id+" is stored", "Administrator", http.StatusOK, s.cloud.apiKeys.UpdateAPIKeyWithContext, update); err != nil {
		return "", err
	}
	return key.id, s.loadKeys(ctx, id)
}

// tryKey exchanges a new key for a token, which must be of the service id. IAM needs about two seconds to know
// a new key.
func (s *setup) tryKey(ctx context.Context, id *serviceID, keyID string, value iamtoken.Secret, tries int, next string) error {
	doing := "trying the new key " + keyID + " of the " + id.role + " service id"
	var token iamtoken.Secret
	for try := 1; ; try++ {
		var err error
		if token, err = s.cloud.exchange(ctx, value, doing, next); err == nil {
			break
		}
		if f, ok := errors.AsType[*failure](err); !ok || !f.isUnknownKey() || try == tries || s.sleep(ctx, 2*time.Second) != nil {
			return err
		}
	}
	if !iamtoken.IsJWT(token.Reveal()) {
		s.say("note: the token of the key %s is opaque: it does not show its identity", keyID)
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

const (
	probeTries = 31
	probePause = 10 * time.Second
)

// probe does what the function does first with a token. New policies take minutes to reach everywhere.
func (s *setup) probe(ctx context.Context, id *serviceID, token iamtoken.Secret) error {
	as := *s.cloud
	as.token = token
	f := &failure{doing: "reading the token secret's metadata as the " + id.role + " service id", needed: "the policies that infra/ibm gives it"}
	for try := 1; ; try++ {
		err := as.sendAs(ctx, f, http.MethodGet, "secrets/"+s.tokenSecret+"/versions/current/metadata", http.StatusOK, nil, &struct{}{})
		if err == nil || f.status != http.StatusForbidden || try == probeTries {
			return err
		}
		if try == 1 {
			s.say("the policies of the new %s service id do not count yet: trying again for five minutes", id.role)
		}
		if err := s.sleep(ctx, probePause); err != nil {
			return err
		}
	}
}

// deleteOthers deletes the keys that interrupted runs have lost, and reports the others.
func (s *setup) deleteOthers(ctx context.Context, id *serviceID, current apiKey) error {
	for _, key := range id.keys {
		switch {
		case key.id == current.id:
			continue
		case key.lost:
		case key.place == current.place && id.managed != nil: // it expires soon, or has
			continue
		case key.place != "":
			s.say("note: the other key %s of the %s service id, stored in %s, still works. When nothing uses it: ibmcloud iam service-api-key-delete %s %s",
				key.id, id.role, key.place, key.id, strings.TrimPrefix(id.iamID, "iam-"))
			continue
		default:
			s.say("note: the key %s is also named %s and not of setup's making: it is left alone", key.id, s.keyName(id))
			continue
		}
		deleting := &failure{doing: "deleting the key " + key.id + " of the " + id.role + " service id", needed: "Administrator on the service id"}
		err := s.cloud.ask(ctx, deleting, http.StatusNoContent, func(ctx context.Context) error {
			_, err := s.cloud.apiKeys.DeleteAPIKeyWithContext(ctx, &iamidentityv1.DeleteAPIKeyOptions{ID: &key.id})
			return err
		})
		if f, ok := errors.AsType[*failure](err); err != nil && !(ok && f.status == http.StatusNotFound) {
			return err
		}
		s.say("deleted the old key %s of the %s service id", key.id, id.role)
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

// warnOfKey reports a key that is disabled, or expires within 14 days.
func (s *setup) warnOfKey(key apiKey) {
	fate := ""
	switch {
	case key.disabled:
		fate = "is disabled"
	case key.expires.IsZero() || key.expires.Sub(s.ibmTime()) > 14*24*time.Hour:
		return
	case key.expires.After(s.ibmTime()):
		fate = "expires on " + key.expires.Format(time.DateOnly)
	default:
		fate = "has expired on " + key.expires.Format(time.DateOnly)
	}
	s.say("note: this key %s. Run setup again with --rotate-keys.", fate)
}

func writeKeyFile(file string, value iamtoken.Secret) error {
	if err := envfile.WriteWhole(file, []byte(value.Reveal()+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing %s failed: is its folder writable, and has it room?", printable(file))
	}
	return nil
}

// filePlace names a file by a hash of its path: a path may hold anything, and IAM need not see it.
func filePlace(file string) (string, error) {
	folder, err := filepath.Abs(filepath.Dir(file))
	if err == nil {
		folder, err = filepath.EvalSymlinks(folder)
	}
	if info, statErr := os.Stat(file); err != nil || statErr == nil && info.IsDir() {
		return "", usagef("%s cannot be written: it is a folder, or its folder is not there", printable(file))
	}
	return fmt.Sprintf("file:%x", sha256.Sum256([]byte(filepath.Join(folder, filepath.Base(file)))))[:len("file:")+16], nil
}

// checkFile checks that a key can be written there, before one is made, and returns the file as a place.
func checkFile(file string) (string, error) {
	place, err := filePlace(file)
	if err != nil {
		return "", err
	}
	probe, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return "", usagef("%s cannot be written: its folder accepts no new files", printable(file))
	}
	return place, errors.Join(probe.Close(), os.Remove(probe.Name()))
}
