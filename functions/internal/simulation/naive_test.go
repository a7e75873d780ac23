package simulation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
)

// naive is what people do instead: every 50 minutes read the key, GetToken with
// IBM's SDK, save what it gave. It retries nothing, checks nothing, and looks at
// nothing in between. It too runs on Lambda: a process that is still warm keeps
// the SDK's authenticator, with its cache and its refresh in the background.
type naive struct {
	w *world

	mu      sync.Mutex // held by a run
	serial  int
	process *naiveProcess
	ends    time.Time // until when the process stays warm
	failed  int
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
		if !d.chance(n.w.danger(func(g dangers) float64 { return max(g.lose, g.throttled) })) {
			n.w.agenda.at(at.Add(late), func() { n.begin(d) })
		}
		return true
	})
}

func (n *naive) begin(d dice) {
	fate := naiveFate{patience: d.between(5*time.Minute, time.Hour)}
	fate.cold = d.chance(n.w.danger(func(g dangers) float64 { return g.cold }))
	if d.chance(n.w.danger(func(g dangers) float64 { return g.kill })) {
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
	if err := n.process.rotate(ctx, n.w); err != nil {
		n.failed++
	}
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
