package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
)

// naive is what people do instead: every 50 minutes read the key, GetToken with
// IBM's SDK, save what it gave. It retries nothing, checks nothing, and reads
// nothing in between. It too runs on Lambda: a process that is still warm keeps
// the SDK's authenticator, with its cache and its refresh in the background.
type naive struct {
	w *world

	mu      sync.Mutex // held by a run
	serial  int
	process *naiveProcess
	ends    time.Time // until when the process stays warm
}

// naiveFate is what a run of it will meet.
type naiveFate struct {
	cold     bool
	kill     time.Duration // so long after its start; 0 means not
	patience time.Duration // how long its process is kept warm
}

type naiveProcess struct {
	line    *line
	secrets *sm.SecretsManagerV2
	key     string
	tokens  *core.IamAuthenticator // of the workload
}

func newNaive(w *world) *naive { return &naive{w: w} }

func (n *naive) schedule(first time.Time) {
	d := newDice(n.w.seed, "naive")
	n.w.agenda.every(first, rotateEvery, func(at time.Time) bool {
		late := d.between(0, lateness)
		if !d.chance(max(n.w.danger(lose), n.w.danger(throttled))) {
			n.w.agenda.at(at.Add(late), func() { n.begin(d) })
		}
		return true
	})
}

func (n *naive) begin(d dice) {
	fate := naiveFate{patience: d.between(5*time.Minute, time.Hour)}
	fate.cold = d.chance(n.w.danger(cold))
	if d.chance(n.w.danger(kill)) {
		fate.kill = d.between(0, 2*time.Second)
	}
	n.w.running.Go(func() { n.run(fate) })
}

// run is one run, with the two minutes that ours has. Two never meet: the SDK
// holds a lock of the whole program while it waits for a token.
func (n *naive) run(fate naiveFate) {
	if !n.mu.TryLock() {
		return
	}
	defer n.mu.Unlock()
	if n.process == nil || time.Now().After(n.ends) || fate.cold {
		n.process = n.w.newNaiveProcess()
	}
	n.serial++
	n.process.line.begin(&invocation{id: fmt.Sprint("naive ", n.serial), met: map[string]bool{}})
	ctx, cancel := context.WithTimeout(context.Background(), functionTimeout)
	defer cancel()
	n.ends = time.Now().Add(fate.patience)
	if fate.kill > 0 {
		defer time.AfterFunc(fate.kill, func() { n.process.line.die(); cancel() }).Stop()
		n.ends = time.Time{}
	}
	_ = n.process.rotate(ctx, n.w) // what it fails to do shows in the timeline
}

func (w *world) newNaiveProcess() *naiveProcess {
	l := &line{w: w, inv: &invocation{}, count: map[string]int{}}
	bootstrap, err := core.NewIamAuthenticatorBuilder().SetApiKey(w.bootstrapKey()).SetURL("https://iam.test").SetClient(httpClient(l)).Build()
	if err != nil {
		panic(err)
	}
	secrets, err := sm.NewSecretsManagerV2(&sm.SecretsManagerV2Options{URL: "https://instance.test", Authenticator: bootstrap})
	if err != nil {
		panic(err)
	}
	secrets.Service.Client = httpClient(l)
	return &naiveProcess{line: l, secrets: secrets}
}

func httpClient(l *line) *http.Client { return &http.Client{Transport: l, Timeout: 30 * time.Second} }

// rotate is the whole of the naive way.
func (p *naiveProcess) rotate(ctx context.Context, w *world) error {
	secret, _, err := p.secrets.GetSecretWithContext(ctx, &sm.GetSecretOptions{ID: &w.keySecret})
	if err != nil {
		return err
	}
	key, ok := secret.(*sm.ArbitrarySecret)
	if !ok || key.Payload == nil {
		return errors.New("no key")
	}
	if p.tokens == nil || p.key != *key.Payload {
		p.key = *key.Payload
		p.tokens, err = core.NewIamAuthenticatorBuilder().SetApiKey(p.key).SetURL("https://iam.test").SetClient(httpClient(p.line)).Build()
		if err != nil {
			return err
		}
	}
	token, err := p.tokens.GetToken()
	if err != nil {
		return err
	}
	_, _, err = p.secrets.CreateSecretVersionWithContext(ctx, &sm.CreateSecretVersionOptions{
		SecretID: &w.naiveSecret, SecretVersionPrototype: &sm.ArbitrarySecretVersionPrototype{Payload: &token},
	})
	return err
}

// naivePublished notes what readers of the naive way's secret see from now on.
func (w *world) naivePublished() {
	version := w.cloud.MustCurrent(w.naiveSecret)
	iamID, expires, err := w.cloud.Validate(version.Payload)
	now := w.now()
	if err != nil || iamID != w.workload {
		expires = now // of no use to a reader
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.naiveTokens.publish(published{at: now, expires: expires})
}

// reader is a downstream job. Most of the time what it would see is computed
// from the publications; during faults it goes and reads, and the two are held
// against each other.
type reader struct {
	w     *world
	token string // its own, to open the token secret
	until time.Time
}

// schedule has it read every few minutes during each fault and after it.
func (r *reader) schedule() {
	d := newDice(r.w.seed, "reader")
	for _, f := range r.w.story {
		last := earlier(f.to.Add(10*time.Minute), r.w.end)
		for at := f.from; at.Before(last); at = at.Add(d.between(time.Minute, 9*time.Minute)) {
			r.w.agenda.at(at, r.visit)
		}
	}
}

// visit reads the token secret with the reader's identity and uses the token at
// Logs Routing, as a job would: that works exactly while the timeline says so.
func (r *reader) visit() {
	status := r.w.ask(http.MethodGet, "https://logs-routing.test/v3/targets", r.read(), "", nil)
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.counts.visits++
	now := r.w.now()
	want := http.StatusUnauthorized
	if r.w.tokens.current(now).expires.After(now) {
		want = http.StatusOK
	}
	if status != want {
		r.w.violated(now, "Logs Routing answered a reader %d, the timeline says %d", status, want)
	}
}

func (r *reader) read() string {
	if time.Now().After(r.until) {
		token, lifetime := r.w.exchange(r.w.cloud.ReaderAPIKey())
		r.token, r.until = token, time.Now().Add(lifetime/2)
	}
	var secret struct {
		Payload string `json:"payload"`
	}
	r.w.ask(http.MethodGet, "https://instance.test/api/v2/secrets/"+r.w.tokenSecret, r.token, "", &secret)
	return secret.Payload
}

// exchange returns a token for a key, whatever the weather, and its lifetime; none if IAM does not know the key.
func (w *world) exchange(key string) (token string, lifetime time.Duration) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key}}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	w.ask(http.MethodPost, "https://iam.test/identity/token", "", form.Encode(), &answer)
	return answer.AccessToken, time.Duration(answer.ExpiresIn) * time.Second
}

// ask is a request of a reader or a person, whom nothing disturbs. The answer is decoded into out, if there is one.
func (w *world) ask(method, address, bearer, body string, out any) (status int) {
	request, _ := http.NewRequest(method, address, strings.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	} else {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	response, err := w.cloud.Transport().RoundTrip(request)
	if err == nil && out != nil {
		err = json.NewDecoder(response.Body).Decode(out)
	}
	if err != nil {
		panic(err)
	}
	return response.StatusCode
}

// answers are faults of the network that a pass must survive: no reader may
// meet an expired token because of them.
func answers() []kind {
	return []kind{
		network("connections lost after a save", 0, minutes(10, 180), func(*world, dice) *storm {
			return &storm{ops: []string{opSave}, play: lostAfter}
		}),
		network("the answer to a save cut off", 0, minutes(10, 180), func(*world, dice) *storm {
			return &storm{ops: []string{opSave}, play: truncated}
		}),
		network("a third of the connections lost", 0, minutes(10, 180), func(*world, dice) *storm {
			return third(2, always(func(*http.Request) (*http.Response, error) { return nil, reset() }), lostAfter)
		}),
		network("a third of the answers 5xx or 429", 0, minutes(10, 180), func(*world, dice) *storm {
			return third(3, always(answering(503, "text/html", "<html>")), tooMany)
		}),
		network("answers slow by a second", 0, minutes(10, 180), func(_ *world, d dice) *storm {
			return slow(nil, d.between(time.Second, 2*time.Second))
		}),
	}
}

// third treats a sixth of the requests in one way and a sixth in another.
func third(salt uint64, one, other func(uint64, *http.Request, forward) (*http.Response, error)) *storm {
	return &storm{play: func(throw uint64, req *http.Request, onward forward) (*http.Response, error) {
		switch s := share(throw ^ salt); {
		case s < 1.0/6:
			return one(throw, req, onward)
		case s < 1.0/3:
			return other(throw, req, onward)
		}
		return onward(req)
	}}
}

// lostAfter does the work and loses its answer.
func lostAfter(_ uint64, req *http.Request, onward forward) (*http.Response, error) {
	if _, err := onward(req); err != nil {
		return nil, err
	}
	return nil, reset()
}

// Names of kinds that others must not meet.
const (
	lifetimeCut     = "token lifetime cut to 15 minutes"
	clockOff        = "the function's clock 5 minutes off"
	metadataForged  = "metadata forged to a later expiry"
	metadataErased  = "metadata erased or unreadable"
	foreignKey      = "the API key of another account stored"
	keyDeleted      = "the API key deleted"
	keyReplaced     = "the API key replaced"
	bootstrapLate   = "the bootstrap key deleted before it is replaced"
	bootstrapSwap   = "the bootstrap key replaced"
	currentLocked   = "the current version locked"
	previousLocked  = "the previous version locked"
	metadataExpired = "metadata forged to an earlier expiry"
)

// secrets are the faults of people: keys, locks, metadata, settings of the account.
// A key of another identity is among them where `expect` is set: without it nothing is
// there to compare its tokens with once the stored one has expired.
func secrets(expectSet bool) []kind {
	keys := []string{keyDeleted, keyReplaced} // there is one API key secret
	if expectSet {
		keys = append(keys, foreignKey)
	}
	all := []kind{
		{name: keyDeleted, excuse: nextEnsure, span: minutes(5, 180), begin: deleteKey((*world).currentWorkloadKey, (*world).newWorkloadKey), apart: keys},
		{name: keyReplaced, span: instant, begin: replaceKey((*world).currentWorkloadKey, (*world).newWorkloadKey), apart: keys},
		{name: bootstrapLate, excuse: nextEnsure, span: minutes(5, 180), begin: deleteKey((*world).bootstrapKey, (*world).newBootstrapKey), apart: []string{bootstrapSwap}},
		{name: bootstrapSwap, span: instant, begin: replaceKey((*world).bootstrapKey, (*world).newBootstrapKey)},
		{name: currentLocked, excuse: nextEnsure, span: minutes(5, 180), begin: lock("current"), apart: []string{previousLocked}},
		{name: previousLocked, excuse: nextEnsure, span: minutes(5, 180), begin: lock("previous")},
		{name: lifetimeCut, span: minutes(30, 2*24*60), begin: cutLifetime},
		{name: clockOff, span: minutes(10, 360), begin: moveClock},
		{name: metadataErased, span: instant, begin: eraseMetadata},
		{name: metadataForged, span: instant, begin: forgeMetadata(4 * time.Hour)},
		{name: metadataExpired, span: instant, begin: forgeMetadata(-4 * time.Hour)},
	}
	if expectSet {
		all = append(all, kind{name: foreignKey, excuse: nextEnsure, span: minutes(5, 180), begin: storeForeignKey, apart: keys})
	}
	return all
}

func instant(dice) time.Duration { return 0 }

func nothing() {}

// storeForeignKey puts the key of another account into the key secret, until
// somebody puts the right one back.
func storeForeignKey(w *world, d dice, _ time.Time) func() {
	account := pick(d, "", strings.Repeat("1", 32))
	other := w.cloud.MustCreateAPIKey(w.cloud.MustCreateServiceID("somebody-else", account))
	w.cloud.MustPutVersion(w.keySecret, other, nil)
	return func() { w.cloud.MustPutVersion(w.keySecret, w.workloadKey, nil) }
}

// deleteKey deletes a key that another follows when the fault ends.
func deleteKey(key func(*world) string, replace func(*world)) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		w.cloud.MustDeleteAPIKey(key(w))
		return func() { replace(w) }
	}
}

// replaceKey stores a new key and deletes the old one.
func replaceKey(key func(*world) string, replace func(*world)) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		old := key(w)
		replace(w)
		w.cloud.MustDeleteAPIKey(old)
		return nothing
	}
}

func (w *world) currentWorkloadKey() string { return w.workloadKey }

func (w *world) newWorkloadKey() {
	key := w.cloud.MustCreateAPIKey(w.workload)
	w.cloud.MustPutVersion(w.keySecret, key, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.workloadKey = key
}

// lock holds a version of both token secrets.
func lock(version string) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		for _, secret := range w.tokenSecrets() {
			w.cloud.MustLock(secret, version, "held-for-an-audit")
		}
		return func() {
			for _, secret := range w.tokenSecrets() {
				w.cloud.MustUnlock(secret)
			}
		}
	}
}

func cutLifetime(w *world, _ dice, _ time.Time) func() {
	w.setLifetime(shortLifetime)
	return func() { w.setLifetime(w.lifetime) }
}

func moveClock(w *world, d dice, _ time.Time) func() {
	w.clockOff.Store(int64(pick(d, -5*time.Minute, 5*time.Minute)))
	return func() { w.clockOff.Store(0) }
}

func eraseMetadata(w *world, d dice, _ time.Time) func() {
	w.tamper(pick(d, nil, map[string]any{}, map[string]any{"expiration": "soon"}, map[string]any{"expiration": -1.5}, map[string]any{"run_id": 7}))
	return nothing
}

// forgeMetadata moves the expiration that the current version claims, and
// leaves the rest as it is.
func forgeMetadata(by time.Duration) func(*world, dice, time.Time) func() {
	return func(w *world, _ dice, _ time.Time) func() {
		forged := w.cloud.MustCurrent(w.tokenSecret).Metadata
		if forged == nil {
			return nothing
		}
		forged["expiration"] = w.now().Add(by).Unix()
		w.tamper(forged)
		return nothing
	}
}
