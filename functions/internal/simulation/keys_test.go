package simulation

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/keyrenewal"
	"iam-token-rotator/functions/internal/mirrortest"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// The managed keys: 45 days each, a new one every 15.
const (
	day          = 24 * time.Hour
	keyLifetime  = 45 * day
	keyInterval  = 15 * day
	keyLeeway    = keyLifetime - keyInterval
	bootstrapARN = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:bootstrap-Ab12Cd"

	opManaged   = "managed"   // Secrets Manager: the managed bootstrap key
	opCandidate = "candidate" // IAM: a token by the key that is to be stored
	opPrevious  = "previous"  // IAM: a token by the key before the one in AWS
	opStored    = "stored"    // AWS: the current key, or the one before

	restored, rotatedByHand, ruleChanged = "an older version restored", "rotated by hand", "the rule of rotation changed"
	theSecret, noFunction, fixedWorkload = "the AWS secret", "no function runs", "the workload's key made by a person"
	rotationFails, unauthorized, groups  = "IBM's rotation fails", "the authorization removed", "an authorization on access groups required"
	tokenExpired                         = "the token secret past its expiration date"
)

// keySettings choose among the answers that IBM leaves open. TestOpenQuestions plays the difference that each of them makes.
var keySettings = []ibmcloudtest.Undocumented{
	{},
	{KeyAfterAutomaticRotation: "at_once", UnknownKey: 401, EndedKeySecret: 404, OwnKeys: "policy", Destroyed: 404},
	{OlderKey: "deleted", KeyAuthorization: "service_ids", EndedKeySecret: 410, OwnKeys: "none", Destroyed: 410},
	{KeyAfterManualRotation: "at_once", RuleChange: "rotates", Destroyed: 412},
}

// faultSettings are the answers during the faults of these names.
var faultSettings = map[string]ibmcloudtest.Undocumented{
	rotationFails: {AutomaticRotation: "fails"}, unauthorized: {KeyAuthorization: "none"}, groups: {GroupsAuthorization: "required"},
}

// keys is the part of a simulation with managed keys: the secrets at IBM, the alarms, and the person who answers them. The bootstrap
// key in AWS is shared by two functions. simulation.mu guards it.
type keys struct {
	settings ibmcloudtest.Undocumented
	managed  string // BOOTSTRAP_KEY_SECRET
	own      string // the secret with the bootstrap's keys; a person may have named another
	workload string // the secret with the workload's keys
	stopped  int    // faults that keep the functions from running
	alarms   map[*function]*keyAlarms

	remakeAt  time.Time            // when a person will replace keys that were lost; zero if none were
	remade    time.Time            // when a person last did
	answerAt  time.Time            // when a person will answer key-renewal
	byHand    time.Time            // when a person last stored a key in AWS
	fixed     []string             // the keys of the bootstrap that a person has made
	alarmed   time.Time            // when key-renewal fired first since a fixed key was last AWSPREVIOUS
	expiring  time.Time            // since when key-expiry fires for a managed key; zero when it does not
	fixedEnds time.Time            // when the workload's key by a person expires; zero without one
	made      map[string]time.Time // IBM's keys of the bootstrap, and when it made them
	behind    time.Time            // since when AWS's key is not IBM's
	lost      time.Time            // since when neither AWS's key nor the one before works; zero while one does

	renewals, byPrevious, losses int
	longestBehind                time.Duration
	notice                       time.Duration // the shortest time from an alarm to a loss while a function ran; 0 without one
}

// keyAlarms are the metrics of one function's renewals in the last day.
type keyAlarms struct {
	*simulation
	renewals series
	rejected bool // IAM has rejected AWS's key or the one before, at any time
}

// Write implements io.Writer for the lines of the embedded metric format.
func (a *keyAlarms) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if failure, known := value(line, "KeyRenewalFailure"); known {
		a.renewals, a.rejected = append(a.renewals, point{time.Now(), time.Now(), failure}), a.rejected || failure >= 2
	}
	return len(line), nil
}

// fires is the alarm key-renewal of infra/aws/template.yaml.
func (a *keyAlarms) fires(now time.Time) bool {
	a.renewals = a.renewals.since(now.Add(-day))
	least, most := 2.0, 0.0
	for _, p := range a.renewals {
		least, most = min(least, p.value), max(most, p.value)
	}
	return least >= 1 && len(a.renewals) >= 20 || most >= 2
}

// newKeySimulation is a deployment in two regions that share the AWS secret, with keys that IBM makes. AWS has a fixed key at first,
// as the set-up command leaves it.
func newKeySimulation(seed uint64, days int, settings ibmcloudtest.Undocumented) *simulation {
	sim := newSimulation(standard, seed, days, true)
	k := &keys{settings: settings, alarms: map[*function]*keyAlarms{}, made: map[string]time.Time{}}
	sim.keys, sim.rotation.Mirror, sim.everyday = k, nil, dangers{cold: 0.05}
	sim.cloud.Set(k.settings)
	sim.makeKeySecrets()
	sim.aws.OnPut = func(_ string, version mirrortest.Version) {
		sim.bootstrapKeys = append(sim.bootstrapKeys, version.Payload)
	}
	_ = sim.aws.Write(bootstrapARN, "fixed", sim.bootstrapKeys[0])
	sim.mirrors[bootstrapARN] = &mirror{}
	for _, fn := range sim.functions {
		k.alarms[fn] = &keyAlarms{simulation: sim}
	}
	return sim
}

// makeKeySecrets makes both secrets, as the set-up command does.
func (sim *simulation) makeKeySecrets() {
	sim.keys.own, sim.keys.workload = sim.makeKeySecret(sim.cloud.BootstrapIAMID()), sim.makeKeySecret(sim.workload)
	sim.rotation.APIKey.ID, sim.keys.managed = sim.keys.workload, sim.keys.own
}

func (sim *simulation) makeKeySecret(iamID string) string {
	return sim.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: iamID, ReuseAPIKey: true, TTL: keyLifetime.String(), RotateDays: int(keyInterval / day)})
}

// playKeys plays the faults that plan returns, once for each of keySettings.
func playKeys(t *testing.T, seed uint64, days int, plan func(sim *simulation) []window) (sims []*simulation) {
	t.Helper()
	sims = make([]*simulation, len(keySettings))
	t.Run("keys", func(t *testing.T) {
		for i, settings := range keySettings {
			t.Run(fmt.Sprint("settings ", i+1), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(*testing.T) {
					sim := newKeySimulation(seed*uint64(len(keySettings))+uint64(i), days, settings)
					sim.story = plan(sim)
					sim.schedule(sim.story)
					sim.scheduleKeys()
					sim.agenda.work(sim.end)
					sim.running.Wait()
					sims[i] = sim
				})
			})
		}
	})
	return sims
}

// anyKeyFaults begin every 20 days.
func anyKeyFaults(sim *simulation) []window {
	return plan(newDice(sim.seed, "keys"), keyKinds(), sim.start.Add(time.Hour), sim.end, 20*day)
}

// scheduleKeys has both functions rotate every 50 minutes, and run ensure every nine, so that a warm process often has a token of a
// key that has ended.
func (sim *simulation) scheduleKeys() {
	d := newDice(sim.seed, "schedule")
	apart := pick(d, 0, d.between(0, rotateEvery)) // with 0 both begin at the same second
	for i, fn := range sim.functions {
		first := sim.start.Add(newDice(sim.seed, "first").between(time.Minute, rotateEvery)).Add(apart * time.Duration(i))
		serial := 0
		sim.agenda.every(rotateEvery, first, sim.end, func(at time.Time) {
			if serial++; serial%calmRuns > 0 && !sim.mustPlay(at) {
				return
			}
			late := newDice(sim.seed, at.String()).between(0, lateness)
			for mode, after := rotation.ModeRotate, time.Duration(0); after < rotateEvery; mode, after = rotation.ModeEnsure, after+9*time.Minute {
				scheduled := at.Add(after)
				sim.agenda.at(scheduled.Add(late), func() {
					if sim.keys.stopped == 0 {
						fn.invoke(newEvent(mode, scheduled))
					}
				})
			}
		})
	}
	sim.agenda.every(time.Hour, sim.start.Add(time.Hour), sim.end, func(at time.Time) {
		sim.alarms.evaluate(at)
		sim.operateKeys(at)
	})
}

// calmRuns: while nothing happens to the keys, one scheduled run in 15 is played, since all of them find the same keys.
const calmRuns = 15

// mustPlay reports whether a key is about to be made, or something has happened to the keys in the last 26 hours: key-renewal counts
// the runs of a day.
func (sim *simulation) mustPlay(at time.Time) bool {
	const alarmed, soon = 26 * time.Hour, 100 * time.Minute
	for _, secret := range sim.keys.secrets() {
		if age := at.Sub(sim.cloud.MustCurrent(secret).CreatedAt); age < 4*time.Hour || age > keyInterval-soon && age < keyInterval+2*time.Hour {
			return true
		}
	}
	return slices.ContainsFunc(sim.story, func(f window) bool {
		from, to := at.Sub(f.from), at.Sub(f.to)
		return from > -soon && from < alarmed || to > 0 && to < alarmed
	})
}

// manageKeys sets up a process as functions/rotate does if BOOTSTRAP_KEY_SECRET is set.
func (p *process) manageKeys(sim *simulation, iam *ibmcloud.IAM, now func() time.Time) *ibmcloud.Bootstrap {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	p.rotation, p.patience = sim.rotation, 2*time.Hour // there is an ensure run every minute
	store := keyStore{mirrorLine{p.line, now}}
	bootstrap := ibmcloud.BootstrapByRenewedKey(iam, keyOnly(store.Current), keyOnly(store.Previous))
	p.renewer = &keyrenewal.Renewer{
		Secret: rotation.KeyRef{ID: sim.keys.managed}, Bootstrap: bootstrap, Store: store, Now: now,
		Candidate: func(key iamtoken.Secret) (keyrenewal.Candidate, error) {
			identity := ibmcloud.BootstrapByKey(ibmcloud.NewIAM("https://iam.test", p.line, now), ibmcloud.FixedKey(key))
			return candidate{identity, newSecretsManager(p.line, identity, now)}, nil
		},
	}
	return bootstrap
}

type candidate struct {
	*ibmcloud.Bootstrap
	*ibmcloud.SecretsManager
}

// runWithKeys does a run with a renewal, as functions/rotate does.
func (p *process) runWithKeys(ctx context.Context, inv *invocation) report.Report {
	_, budget := rotation.Budget(ctx)
	ending, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	seen := p.watch.Begin(ending)
	rotator := p.rotator
	rotator.Keys, rotator.IAM = seen, seen
	ran := rotator.Run(ctx, inv.Request, inv.rotations)
	if p.renewer.Due(inv.Mode) {
		renewal := p.renewer.Run(ending, inv.rotations[0].Token)
		ran.KeyRenewal = &renewal
	}
	seen.End(inv.rotations, ran.Results, ran.KeyRenewal)
	return ran
}

// keyStore is the connection of one process to the AWS secret.
type keyStore struct{ mirrorLine }

func (s keyStore) Current(ctx context.Context) (iamtoken.Secret, string, error) {
	return s.read(ctx, func() mirrortest.Version { return s.aws.Current(bootstrapARN) })
}

func (s keyStore) Previous(ctx context.Context) (iamtoken.Secret, string, error) {
	key, versionID, err := s.read(ctx, s.awsPrevious)
	if s.inv.did(opManaged) { // else the bootstrap identity asks for it
		s.inv.once(opPrevious + key.Reveal())
	}
	return key, versionID, err
}

func (s keyStore) read(ctx context.Context, version func() mirrortest.Version) (key iamtoken.Secret, versionID string, err error) {
	err = s.request(ctx, opStored, bootstrapARN, false, func() error {
		found := version()
		if key, versionID = iamtoken.NewSecret(found.Payload), found.ID; versionID == "" {
			return &rotation.Error{Kind: rotation.NotFound, Message: "AWS has no such version"}
		}
		return nil
	})
	return key, versionID, err
}

// keyOnly leaves out the version's id.
func keyOnly(read func(context.Context) (iamtoken.Secret, string, error)) ibmcloud.KeySource {
	return func(ctx context.Context) (iamtoken.Secret, error) {
		key, _, err := read(ctx)
		return key, err
	}
}

// awsPrevious is the version AWSPREVIOUS, zero if there is none.
func (sim *simulation) awsPrevious() mirrortest.Version {
	kept, _ := sim.aws.Versions(bootstrapARN)
	if len(kept) < 2 {
		return mirrortest.Version{}
	}
	return kept[len(kept)-2]
}

// Put checks that a run stores one key, which is the bootstrap identity's and which it has tried.
func (s keyStore) Put(ctx context.Context, key iamtoken.Secret, versionID string) error {
	return s.request(ctx, opPut(bootstrapARN), bootstrapARN, true, func() error {
		sim := s.simulation
		sim.mu.Lock()
		defer sim.mu.Unlock()
		before, now, inv := sim.aws.Current(bootstrapARN), time.Now(), s.inv
		_ = sim.aws.Write(bootstrapARN, versionID, key.Reveal())
		inv.puts++
		sim.playRotations()
		sim.violatedIf(inv.puts > 1, now, "%s put %d times", inv.id, inv.puts)
		sim.violatedIf(sim.keys.made[key.Reveal()].IsZero(), now, "%s stored a key that is none of the bootstrap's secret", inv.id)
		sim.violatedIf(!inv.did(candidateServed), now, "%s stored a key that it had not tried at IAM and Secrets Manager", inv.id)
		sim.violatedIf(before.Payload == key.Reveal() && before.ID != sim.aws.Current(bootstrapARN).ID,
			now, "%s stored the key that was stored already", inv.id)
		return nil
	})
}

// renewalOp is what a request is for, if it is part of a renewal; else op.
func (sim *simulation) renewalOp(op string, inv *invocation, req *http.Request) string {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	switch {
	case op == opReadKey && strings.HasSuffix(req.URL.Path, sim.keys.managed):
		return opManaged
	case (op == opExchange || op == opBootstrap) && inv.did(opManaged):
		switch key := keyOf(req); {
		case key == sim.aws.Current(bootstrapARN).Payload:
		case inv.did(opPrevious + key):
			return opPrevious
		default:
			return opCandidate
		}
	}
	return op
}

// What an invocation has got with the key that it is about to store.
const candidateAccepted, candidateServed = "the new key's token", "the metadata by the new key's token"

// tried records an answer to the key that is about to be stored.
func (inv *invocation) tried(op string, status int) {
	switch {
	case status != http.StatusOK:
	case op == opCandidate:
		inv.once(candidateAccepted)
	case op == opLook && inv.did(candidateAccepted):
		inv.once(candidateServed)
	}
}

func keyOf(req *http.Request) string {
	form, _ := io.ReadAll(req.Body)
	req.Body = io.NopCloser(bytes.NewReader(form))
	values, _ := url.ParseQuery(string(form))
	return values.Get("apikey")
}

// killAtRenewal kills two in five of the processes that have a new key to store.
func (sim *simulation) killAtRenewal(d dice, f *mishaps) {
	if d.chance(0.4) && sim.aws.Current(bootstrapARN).Payload != sim.cloud.MustCurrent(sim.keys.own).Payload {
		f.kill = moment{pick(d, opManaged, opStored, opCandidate, opLook, opPut(bootstrapARN), opPrevious), pick(d, 1, 1, 2), d.chance(0.5)}
	}
}

// keyKinds are the kinds of faults of managed keys. If excuse is set, nothing is renewed while the fault lasts and for so long after
// it: IBM tries a rotation again a day later.
func keyKinds() []kind {
	days := func(least, most int) func(dice) time.Duration { return minutes(least*24*60, most*24*60) }
	blocking := func(name string, begin begin) kind {
		return kind{name: name, excuse: day + 2*time.Hour, lasts: days(1, 40), begin: begin}
	}
	// During an openAnswer IBM answers as in faultSettings, and after it as usual.
	openAnswer := func(name string, usual ibmcloudtest.Undocumented) kind {
		return blocking(name, during(func(sim *simulation) { sim.cloud.Set(faultSettings[name]) }, func(sim *simulation) {
			if usual.KeyAuthorization != "" {
				usual.KeyAuthorization = cmp.Or(sim.keys.settings.KeyAuthorization, usual.KeyAuthorization)
			}
			sim.cloud.Set(usual)
		}))
	}
	all := []kind{
		blocking(noFunction, during(func(sim *simulation) { sim.keys.stopped++ }, func(sim *simulation) { sim.keys.stopped-- })),
		openAnswer(rotationFails, ibmcloudtest.Undocumented{AutomaticRotation: "works"}),
		blocking("the previous versions locked", during(eachKeySecret(func(sim *simulation, secret string) {
			if len(sim.cloud.MustVersions(secret)) > 1 {
				sim.cloud.MustLock(secret, "previous", "held")
			}
		}), eachKeySecret(func(sim *simulation, secret string) { sim.cloud.MustUnlock(secret) }))),
		openAnswer(unauthorized, ibmcloudtest.Undocumented{KeyAuthorization: "account"}),
		openAnswer(groups, ibmcloudtest.Undocumented{GroupsAuthorization: "not_required"}),
		{name: "IAM slow with new keys", lasts: days(1, 20), begin: slowWithNewKeys},
		{name: "IAM and Secrets Manager down", lasts: upTo3h, begin: network(func(d dice) networkFault { return down(d, nil) })},
		{name: restored, begin: byHand(http.MethodPost, "versions", `{"restore_from_version":"previous"}`)},
		{name: rotatedByHand, begin: byHand(http.MethodPost, "versions", `{}`)},
		{name: ruleChanged, begin: byHand(http.MethodPatch, "metadata", `{"rotation":{"auto_rotate":true,"interval":15,"unit":"day"}}`)},
		{name: tokenExpired, lasts: minutes(60, 3*24*60), begin: expireTokenSecret},
		{name: fixedWorkload, lasts: days(1, 15), begin: fixWorkload},
		{name: "a fixed key stored by hand", begin: once(func(sim *simulation, _ dice) { sim.storeFixedKey() })},
		{name: "another identity's secret named", lasts: minutes(60, 3*24*60), begin: nameAnother},
	}
	for _, k := range mirrorFaults(bootstrapARN) {
		if k.lasts != nil { // not those of a moment
			all = append(all, blocking(theSecret+strings.TrimPrefix(k.name, "a mirror"), k.begin))
		}
	}
	return all
}

func (k *keys) secrets() []string { return []string{k.own, k.workload} }

// eachKeySecret does something with both secrets.
func eachKeySecret(do func(sim *simulation, secret string)) func(*simulation) {
	return func(sim *simulation) {
		for _, secret := range sim.keys.secrets() {
			do(sim, secret)
		}
	}
}

// slowWithNewKeys rejects keys until they are seconds to hours old, in every request or in half of them.
func slowWithNewKeys(sim *simulation, d dice, _ time.Time) func() {
	until, share := d.anyScale(3*time.Second, 5*time.Hour), pick(d, 1, 2)
	return sim.networkFaults.add(networkFault{[]string{opBootstrap, opExchange, opCandidate, opPrevious}, func(random uint64, req *http.Request, onward forward) (*http.Response, error) {
		key := keyOf(req)
		for _, secret := range sim.keys.secrets() {
			if current := sim.cloud.MustCurrent(secret); current.Payload == key && time.Since(current.CreatedAt) < until && random%uint64(share) == 0 {
				return answerWith(req, http.StatusBadRequest, "application/json", `{"errorCode":"BXNIM0415E","errorMessage":"Provided API key could not be found."}`), nil
			}
		}
		return onward(req)
	}})
}

// byHand changes the two secrets, if IBM allows it.
func byHand(method, of, body string) begin {
	return during(eachKeySecret(func(sim *simulation, secret string) {
		sim.asAdmin(method, "https://instance.test/api/v2/secrets/"+secret+"/"+of, body)
	}), func(*simulation) {})
}

// asAdmin returns the answer to a request of a person.
func (sim *simulation) asAdmin(method, address, body string) (answer map[string]any) {
	sim.ask(method, address, sim.cloud.MustMintToken(sim.cloud.AdminAPIKey(), time.Hour), body, &answer)
	return answer
}

// expireTokenSecret lets the token secret expire. The person who sees the alarm makes another.
func expireTokenSecret(sim *simulation, _ dice, _ time.Time) func() {
	sim.asAdmin(http.MethodPatch, "https://instance.test/api/v2/secrets/"+sim.tokenSecret+"/metadata", fmt.Sprintf(`{"expiration_date":%q}`, time.Now().Add(time.Second).UTC().Format(time.RFC3339)))
	return sim.configure(func() {
		sim.tokenSecret = sim.cloud.MustCreateSecret(ibmcloudtest.SecretSpec{Group: sim.cloud.TokenGroupName(), Payload: "no token yet"})
		sim.rotation.Token.ID = sim.tokenSecret
	})
}

// fixWorkload deploys API_KEY_SECRET with a key of 20 days that a person makes. key-expiry fires two weeks before its end, if IAM
// shows a key's dates to its owner.
func fixWorkload(sim *simulation, _ dice, _ time.Time) func() {
	ends := time.Now().Add(20 * day)
	made := sim.asAdmin(http.MethodPost, "https://iam.test/v1/apikeys", fmt.Sprintf(`{"name":"by hand","iam_id":%q,"expires_at":%q}`, sim.workload, ends.UTC().Format("2006-01-02T15:04-0700")))
	sim.cloud.MustPutVersion(sim.keySecret, made["apikey"].(string), nil)
	sim.configure(func() { sim.rotation.APIKey.ID, sim.keys.fixedEnds = sim.keySecret, ends })()
	return sim.configure(func() { sim.rotation.APIKey.ID, sim.keys.fixedEnds = sim.keys.workload, time.Time{} })
}

// nameAnother deploys BOOTSTRAP_KEY_SECRET with a secret of another identity, one that may do everything.
func nameAnother(sim *simulation, _ dice, _ time.Time) func() {
	admin, _, _ := sim.cloud.Validate(sim.cloud.MustMintToken(sim.cloud.AdminAPIKey(), time.Hour))
	secret := sim.makeKeySecret(admin)
	sim.configure(func() { sim.keys.managed = secret })()
	return sim.configure(func() { sim.keys.managed = sim.keys.own })
}

// configure returns what deploys both functions with a change.
func (sim *simulation) configure(change func()) (deploy func()) {
	return func() {
		sim.locked(change)
		for _, fn := range sim.functions {
			fn.deploy(false)
		}
	}
}

// playRotations has the sandbox rotate what is due, records the bootstrap keys that IBM has made, and returns the current one: empty if
// the secret has ended. sim.mu is held.
func (sim *simulation) playRotations() (current string) {
	sim.cloud.Set(ibmcloudtest.Undocumented{}) // plays what is due
	for _, version := range sim.cloud.MustVersions(sim.keys.own) {
		if _, known := sim.keys.made[version.Payload]; !known && version.Payload != "" {
			sim.keys.made[version.Payload] = version.CreatedAt
		}
		current = version.Payload
	}
	return current
}

// storeFixedKey stores a key as a person does. It is AWSPREVIOUS after the next renewal. An identity can have 20 keys, so the person
// deletes those that AWS does not have any more.
func (sim *simulation) storeFixedKey() {
	sim.mu.Lock()
	defer sim.mu.Unlock()
	key := sim.cloud.MustCreateAPIKey(sim.bootstrapID)
	_ = sim.aws.Write(bootstrapARN, fmt.Sprintf("by-hand-%x", key), key)
	kept := []string{key, sim.awsPrevious().Payload}
	sim.keys.fixed = slices.DeleteFunc(append(sim.keys.fixed, key), func(old string) bool {
		if slices.Contains(kept, old) {
			return false
		}
		sim.cloud.MustDeleteAPIKey(old)
		return true
	})
	sim.keys.alarmed, sim.keys.answerAt, sim.keys.byHand = time.Time{}, time.Time{}, time.Now()
	for _, alarms := range sim.keys.alarms {
		alarms.renewals = nil // the person has answered them
	}
}

// endsKeys reports whether IBM may end the key in use when it rotates.
func (k *keys) endsKeys() bool {
	return k.settings.KeyAfterAutomaticRotation == "at_once" || k.settings.KeyAfterManualRotation == "at_once"
}

// warned is since when an alarm for the keys fires; zero if none does.
func (k *keys) warned() time.Time {
	if k.expiring.IsZero() || !k.alarmed.IsZero() && k.alarmed.Before(k.expiring) {
		return k.alarmed
	}
	return k.expiring
}

// since sets from to the time since when something has been so; zero if it is not so.
func since(from *time.Time, so bool, at time.Time) {
	if !so {
		*from = time.Time{}
	} else if from.IsZero() {
		*from = at
	}
}

// operateKeys evaluates the alarms every hour, and plays the person who answers them.
func (sim *simulation) operateKeys(at time.Time) {
	sim.mu.Lock()
	k, d := sim.keys, newDice(sim.seed, at.String())
	current, stored := sim.playRotations(), sim.aws.Current(bootstrapARN).Payload
	if current == "" && k.remakeAt.IsZero() { // only AWS has keys
		k.remakeAt = at.Add(day)
		_, functionRan := sim.blocked(at)
		sim.violatedIf(k.warned().IsZero() && functionRan, at, "IBM's secret has ended, and no alarm fired before")
	}
	since(&k.lost, stored != current && !sim.works(stored) && !sim.works(sim.awsPrevious().Payload), at)
	since(&k.behind, stored != current, at)
	if !k.behind.IsZero() && k.remakeAt.IsZero() {
		behind := at.Sub(later(k.behind, sim.lastFault(at)))
		k.longestBehind = max(k.longestBehind, behind)
		sim.violatedIf(behind > 12*time.Hour, at, "AWS's key is not IBM's for %s, without any fault", behind)
	}
	for _, alarms := range k.alarms {
		if alarms.fires(at) && k.alarmed.IsZero() {
			if k.alarmed = at; k.endsKeys() {
				k.answerAt = at.Add(d.between(day, 10*day))
			}
		}
	}
	refill, remake := !k.answerAt.IsZero() && !at.Before(k.answerAt), !k.remakeAt.IsZero() && !at.Before(k.remakeAt)
	sim.mu.Unlock()
	if remake { // the keys have ended: the person makes the secrets anew
		sim.configure(func() {
			k.remade, k.remakeAt = at, time.Time{}
			sim.makeKeySecrets()
		})()
	}
	if remake || refill {
		sim.storeFixedKey()
	}
}

// lastFault is when the effects of the last fault ended; at, if they last.
func (sim *simulation) lastFault(at time.Time) (end time.Time) {
	for _, f := range sim.story {
		if !f.from.After(at) {
			end = later(end, earlier(at, f.to.Add(max(f.excuse, 6*time.Hour))))
		}
	}
	return end
}

// blocked is for how long faults have prevented a renewal, and whether a function ran in that time.
func (sim *simulation) blocked(at time.Time) (length time.Duration, ran bool) {
	var from, to time.Time
	ran = true
	for _, f := range sim.story {
		if f.excuse == 0 || f.from.After(at) {
			continue
		}
		if f.from.After(to) {
			from, ran = f.from, true
		}
		ran = ran && f.name != noFunction
		to = later(to, f.to.Add(f.excuse))
	}
	if at.After(to) {
		return 0, true
	}
	return at.Sub(from), ran
}

// leeway is for how long the keys work without a renewal.
func (sim *simulation) leeway(at time.Time) time.Duration {
	left := keyLeeway
	if sim.keys.settings.OlderKey == "deleted" {
		left = keyInterval
	}
	for _, f := range sim.story { // each may bring back a key that is one generation older, or delay the next one
		if (f.name == restored || f.name == rotatedByHand || f.name == ruleChanged) && !f.from.After(at) && at.Sub(f.from) < keyLifetime {
			left -= keyInterval
		}
	}
	return max(0, left)
}

// checkKeys checks a run's renewal, what it reports of the keys' end, and whether it failed because no key works. sim.mu is held.
func (sim *simulation) checkKeys(inv *invocation, ran report.Report) {
	k, now, result := sim.keys, time.Now(), ran.Results[0]
	if ran.KeyRenewal != nil {
		sim.checkRenewal(now, inv, ran.KeyRenewal)
	}
	isFixed := inv.rotations[0].APIKey.ID == sim.keySecret
	expiring := k.settings.OwnKeys != "none" || ran.KeyRenewal != nil && ran.KeyRenewal.Expiring
	sim.violatedIf(isFixed && result.Outcome == report.Rotated && k.fixedEnds.Sub(now) < 13*day && result.KeyExpiring != expiring && !sim.mayFail(now),
		now, "%s uses a key that ends in %s, and reports of its end: %v", inv.id, k.fixedEnds.Sub(now), result.KeyExpiring)
	switch {
	case isFixed && !k.fixedEnds.IsZero() && result.KeyExpiring: // the managed keys may be good
	case result.KeyExpiring, result.KeyDaysLeft != nil:
		since(&k.expiring, result.KeyExpiring, now)
	}
	if result.Outcome != report.Failed || !k.remakeAt.IsZero() || now.Sub(k.remade) < 2*time.Hour || sim.mayFail(now) {
		return
	}
	// A loss during a fault that makes runs fail is noticed after it, but it counts from when the keys were lost.
	lost := cmp.Or(k.lost, now)
	blocked, functionRan := sim.blocked(lost)
	k.remakeAt = now.Add(time.Duration(hash(inv.id)%24) * time.Hour)
	k.losses++
	if announced := k.endsKeys() && !k.alarmed.IsZero() && k.alarmed.Before(now); !announced {
		early := blocked < sim.leeway(lost) || blocked == 0
		sim.violatedIf(early, now, "%s had no working key, and nothing was renewed for %s only: %v", inv.id, blocked, result.Error)
		sim.violatedIf(!early && k.warned().IsZero() && functionRan, now, "%s had no working key, and no alarm fired before: %v", inv.id, result.Error)
	}
	if notice := now.Sub(k.warned()); !k.warned().IsZero() && functionRan && (k.notice == 0 || notice < k.notice) {
		k.notice = notice
	}
}

// checkRenewal checks the report of a renewal.
func (sim *simulation) checkRenewal(now time.Time, inv *invocation, renewal *report.KeyRenewal) {
	k, p := sim.keys, inv.process
	text, stored, current := fmt.Sprint(*renewal, renewal.Error, renewal.Text()), sim.aws.Current(bootstrapARN), sim.cloud.MustCurrent(k.own)
	for _, key := range []string{stored.Payload, current.Payload} {
		sim.violatedIf(key != "" && strings.Contains(text, key), now, "%s showed a key", inv.id)
	}
	if renewal.Outcome == report.KeyRenewed {
		k.renewals++
	}
	if renewal.ByPreviousKey {
		k.byPrevious++
	}
	if renewal.Error != nil {
		return
	}
	left := k.made[current.Payload].Add(keyLifetime).Sub(now)
	if off := left - (keyLeeway - 3*day); off.Abs() > time.Minute {
		sim.violatedIf(renewal.Expiring != (off < 0), now, "%s: the key ends in %s, and the renewal reports of its end: %v", inv.id, left, renewal.Expiring)
	}
	// Also if the process that stored the current key died before its report.
	before := sim.awsPrevious()
	sim.violatedIf(k.endsKeys() && stored.Payload == current.Payload && now.Sub(current.CreatedAt) < keyInterval &&
		k.made[before.Payload] != (time.Time{}) && !sim.works(before.Payload) && !k.alarms[inv.fn].fires(now) && !sim.mayFail(now),
		now, "%s left an ended key as AWSPREVIOUS, and key-renewal does not fire", inv.id)
	sim.violatedIf(p.renewed == renewal.KeyID && p.renewedAt.After(k.byHand) && inv.did(candidateAccepted) && !renewal.ByPreviousKey,
		now, "%s tried a key anew that its process had made its own", inv.id)
	p.renewed, p.renewedAt = renewal.KeyID, now
}

// works reports whether IAM accepts a key. No fault concerns it.
func (sim *simulation) works(key string) bool {
	token, _ := sim.exchange(key)
	return token != ""
}

// mayFail reports whether a run may fail now for another reason than a key that has ended.
func (sim *simulation) mayFail(at time.Time) bool {
	return slices.ContainsFunc(sim.story, func(f window) bool {
		stops := f.name == tokenExpired || strings.HasPrefix(f.name, "IAM ") || strings.HasPrefix(f.name, theSecret) && !strings.Contains(f.name, "puts")
		return stops && !f.from.After(at) && at.Before(f.to.Add(time.Hour))
	})
}

// keyFigures writes the numbers of the managed keys.
func (y year) keyFigures(say func(format string, args ...any)) {
	var sum keys
	made, notice := 0, ""
	for _, sim := range y.keys {
		k := sim.keys
		made, sum.renewals, sum.byPrevious, sum.losses = made+len(k.made), sum.renewals+k.renewals, sum.byPrevious+k.byPrevious, sum.losses+k.losses
		sum.longestBehind = max(sum.longestBehind, k.longestBehind)
		if k.notice > 0 && (sum.notice == 0 || k.notice < sum.notice) {
			sum.notice = k.notice
			notice = fmt.Sprintf("; where a function ran, an alarm had fired %s before or more", short(k.notice))
		}
	}
	say("managed keys, as long in each of %d settings of IBM's: %d keys made for the bootstrap, %d renewals, the previous key used in %d runs; AWS's was an older one for %s at most without a fault",
		len(y.keys), made, sum.renewals, sum.byPrevious, short(sum.longestBehind))
	say("no working key was left %d times, each within the bound%s", sum.losses, notice)
}

func TestManagedKeys(t *testing.T) {
	t.Parallel()
	const days = 30
	hold(t, year{setting: standard, seed: 1, days: days, keys: playKeys(t, 1, days, anyKeyFaults)})
}

// The story has a fault for each setting of keySettings that shows the setting's effect.
func TestOpenQuestions(t *testing.T) {
	t.Parallel()
	const days = 96
	sims := playKeys(t, 1, days, func(sim *simulation) (story []window) {
		for _, f := range []struct {
			name     string
			from, to float64 // days
		}{
			{ruleChanged, 1, 1}, {tokenExpired, 1.3, 1.6}, {rotatedByHand, 2, 2}, {fixedWorkload, 2.2, 10.5},
			{unauthorized, 16.5, 17.4}, {groups, 17.5, 18.4}, // the next keys are due, and are tried again a day later
			{noFunction, 31, 50},    // the key in AWS has successors when it is over
			{rotationFails, 55, 94}, // the keys reach their end
		} {
			story = append(story, sim.fault(named(keyKinds(), f.name), time.Duration(f.from*float64(day)), time.Duration((f.to-f.from)*float64(day))))
		}
		return story
	})
	hold(t, year{setting: standard, seed: 1, days: days, keys: sims})
	for _, sim := range sims {
		rotated := slices.ContainsFunc(slices.Collect(maps.Values(sim.keys.made)), func(at time.Time) bool { return at.Sub(sim.start).Truncate(time.Minute) == day })
		if want := sim.keys.settings.RuleChange == "rotates"; rotated != want {
			t.Errorf("%+v: a key was made when the rule changed: %v", sim.keys.settings, rotated)
		}
		if refused := sim.keys.alarms[sim.functions[0]].rejected; refused != sim.keys.endsKeys() && sim.keys.settings.OlderKey == "" {
			t.Errorf("%+v: IAM refused a key: %v", sim.keys.settings, refused)
		}
		if sim.keys.remade.IsZero() {
			t.Errorf("%+v: no key ended", sim.keys.settings)
		}
	}
}

// Each answer that the sandbox can give to an open question is played. The first one of a setting is the default.
func TestEachOpenAnswerIsPlayed(t *testing.T) {
	elsewhere := []string{
		"Duplicate", // the function creates nothing with a name; rotatorctl's setup does
		"TooLarge",  // a token has 8,192 characters at most, and IBM takes 1,000,000
	}
	played := fmt.Sprintf("%+v", slices.AppendSeq(slices.Clone(keySettings), maps.Values(faultSettings)))
	for _, setting := range reflect.VisibleFields(reflect.TypeFor[ibmcloudtest.Undocumented]()) {
		for _, answer := range strings.Split(setting.Tag.Get("allowed"), ",")[1:] {
			if !slices.Contains(elsewhere, setting.Name) && !strings.Contains(played, setting.Name+":"+answer) {
				t.Errorf("%s: %s is not played", setting.Name, answer)
			}
		}
	}
}
