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
	"sync/atomic"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
)

// naive is what people do instead: every 50 minutes read the key, call GetToken of IBM's SDK and save the token. It retries nothing
// and checks nothing. It also runs on Lambda: a warm process keeps the SDK's authenticator, with its cache and its background
// refresh.
type naive struct {
	*simulation

	mu      sync.Mutex // held by a run
	serial  int
	line    *line // of its process
	secrets *sm.SecretsManagerV2
	key     string
	tokens  *core.IamAuthenticator // of the workload
	ends    time.Time              // until when the process stays warm
	calls   atomic.Int64
}

func (n *naive) schedule(first time.Time) {
	d := newDice(n.seed, "naive")
	n.agenda.every(rotateEvery, first, n.end, func(at time.Time) {
		late := d.between(0, lateness)
		if d.chance(max(n.danger(lose), n.danger(throttled))) {
			return
		}
		n.agenda.at(at.Add(late), func() {
			patience, isCold, killAfter := d.between(5*time.Minute, time.Hour), d.chance(n.danger(cold)), time.Duration(0)
			if d.chance(n.danger(kill)) {
				killAfter = d.between(0, 2*time.Second)
			}
			n.running.Go(func() { n.run(patience, isCold, killAfter) })
		})
	})
}

// run is one run, with the same timeout of two minutes. Afterwards Lambda keeps its process for patience. Two runs never overlap:
// the SDK holds a global lock while it waits for a token.
func (n *naive) run(patience time.Duration, isCold bool, killAfter time.Duration) {
	if !n.mu.TryLock() {
		return
	}
	defer n.mu.Unlock()
	if isCold || time.Now().After(n.ends) {
		n.start()
	}
	n.serial++
	n.line.begin(&invocation{id: fmt.Sprint("naive ", n.serial)})
	ctx, cancel := context.WithTimeout(context.Background(), functionTimeout)
	defer cancel()
	n.ends = time.Now().Add(patience)
	if killAfter > 0 {
		defer time.AfterFunc(killAfter, func() { n.line.dead.Store(true); cancel() }).Stop()
		n.ends = time.Time{}
	}
	_ = n.rotate(ctx) // a failure shows in the timeline
}

// start starts a cold process.
func (n *naive) start() {
	n.line, n.tokens = &line{simulation: n.simulation, calls: &n.calls, saved: n.saved}, nil
	secrets, err := sm.NewSecretsManagerV2(&sm.SecretsManagerV2Options{URL: "https://instance.test", Authenticator: n.authenticator(n.bootstrapKey())})
	if err != nil {
		panic(err)
	}
	n.secrets = secrets
	n.secrets.Service.Client = n.client()
}

func (n *naive) client() *http.Client {
	return &http.Client{Transport: n.line, Timeout: 30 * time.Second}
}

func (n *naive) authenticator(key string) *core.IamAuthenticator {
	tokens, err := core.NewIamAuthenticatorBuilder().SetApiKey(key).SetURL("https://iam.test").SetClient(n.client()).Build()
	if err != nil {
		panic(err)
	}
	return tokens
}

// rotate is the whole of the naive way.
func (n *naive) rotate(ctx context.Context) error {
	secret, _, err := n.secrets.GetSecretWithContext(ctx, &sm.GetSecretOptions{ID: &n.keySecret})
	if err != nil {
		return err
	}
	key, ok := secret.(*sm.ArbitrarySecret)
	if !ok || key.Payload == nil {
		return errors.New("no key")
	}
	if n.tokens == nil || n.key != *key.Payload {
		n.key, n.tokens = *key.Payload, n.authenticator(*key.Payload)
	}
	token, err := n.tokens.GetToken()
	if err != nil {
		return err
	}
	_, _, err = n.secrets.CreateSecretVersionWithContext(ctx, &sm.CreateSecretVersionOptions{
		SecretID: &n.naiveSecret, SecretVersionPrototype: &sm.ArbitrarySecretVersionPrototype{Payload: &token},
	})
	return err
}

// saved records what readers of the naive way's secret see from now on.
func (n *naive) saved(*invocation) {
	iamID, expires, err := n.cloud.Validate(n.cloud.MustCurrent(n.naiveSecret).Payload)
	now := time.Now()
	if err != nil || iamID != n.workload {
		expires = now // of no use to a reader
	}
	n.locked(func() { n.naiveTokens.publish(published{at: now, expires: expires}) })
}

// reader is a job that uses the token. Most of the time what it would see is computed from the timeline. During faults it also
// reads the secret, and the two are compared.
type reader struct {
	*simulation
	token string // its own, to open the token secret
	until time.Time
}

// schedule has it read every few minutes during each fault and after it.
func (r *reader) schedule() {
	d := newDice(r.seed, "reader")
	for _, f := range r.story {
		last := earlier(f.to.Add(10*time.Minute), r.end)
		for at := f.from; at.Before(last); at = at.Add(d.between(time.Minute, 9*time.Minute)) {
			r.agenda.at(at, r.read)
		}
	}
}

// read reads the token secret with the reader's identity and uses the token at Logs Routing, as a job would: that works
// exactly while the timeline says so.
func (r *reader) read() {
	if time.Now().After(r.until) {
		token, lifetime := r.exchange(r.cloud.ReaderAPIKey())
		r.token, r.until = token, time.Now().Add(lifetime/2)
	}
	var secret struct{ Payload string }
	r.ask(http.MethodGet, "https://instance.test/api/v2/secrets/"+r.tokenSecret, r.token, "", &secret)
	status, want := r.ask(http.MethodGet, "https://logs-routing.test/v3/targets", secret.Payload, "", nil), http.StatusUnauthorized
	r.locked(func() {
		r.counts.reads++
		now := time.Now()
		if r.tokens.current(now).expires.After(now) {
			want = http.StatusOK
		}
		r.violatedIf(status != want, now, "Logs Routing answered a reader %d, the timeline says %d", status, want)
	})
}

// exchange returns a token for a key and its lifetime, and no token if IAM does not know the key. No fault concerns it.
func (sim *simulation) exchange(key string) (token string, lifetime time.Duration) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key}}
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	sim.ask(http.MethodPost, "https://iam.test/identity/token", "", form.Encode(), &answer)
	return answer.AccessToken, time.Duration(answer.ExpiresIn) * time.Second
}

// ask is a request of a reader or a person, which no fault concerns. The answer is decoded into out, unless that is nil.
func (sim *simulation) ask(method, address, bearer, body string, out any) (status int) {
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
	response, err := sim.cloud.Transport().RoundTrip(request)
	if err == nil && out != nil {
		err = json.NewDecoder(response.Body).Decode(out)
	}
	if err != nil {
		panic(err)
	}
	return response.StatusCode
}
