package simulation

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sort"
	"sync"
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

// weather is what lies between the processes and IBM Cloud: the network faults
// of the moment, and the services' own troubles.
type weather struct {
	mu     sync.Mutex
	storms []*storm
}

// forward passes a request on.
type forward func(*http.Request) (*http.Response, error)

// storm is one fault of the network or of a service.
type storm struct {
	ops []string // the requests that it meets; empty means all
	// play answers in its own way or passes the request on. throw is the
	// request's own random number.
	play func(throw uint64, req *http.Request, onward forward) (*http.Response, error)
}

// add begins a storm; call what it returns to end it.
func (w *weather) add(s *storm) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storms = append(slices.Clone(w.storms), s)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.storms = slices.DeleteFunc(slices.Clone(w.storms), func(other *storm) bool { return other == s })
	}
}

// answer takes a request through all the storms that it meets, the oldest first.
func (w *weather) answer(op string, throw uint64, req *http.Request, arrive forward) (*http.Response, error) {
	w.mu.Lock()
	storms := w.storms
	w.mu.Unlock()
	onward := arrive
	for _, s := range slices.Backward(storms) {
		if len(s.ops) > 0 && !slices.Contains(s.ops, op) {
			continue
		}
		next := onward
		onward = func(req *http.Request) (*http.Response, error) { return s.play(throw, req, next) }
	}
	return onward(req)
}

// answerWith is an answer that nobody at IBM meant.
func answerWith(req *http.Request, status int, contentType, body string, headers ...string) *http.Response {
	header := http.Header{"Content-Type": {contentType}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
	for i := 0; i+1 < len(headers); i += 2 {
		header.Set(headers[i], headers[i+1])
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader([]byte(body))), ContentLength: int64(len(body)), Request: req,
	}
}

// always is a storm that gives every request the same treatment.
func always(treat func(req *http.Request) (*http.Response, error)) func(uint64, *http.Request, forward) (*http.Response, error) {
	return func(_ uint64, req *http.Request, _ forward) (*http.Response, error) { return treat(req) }
}

// answering gives every request the same answer.
func answering(status int, contentType, body string) func(*http.Request) (*http.Response, error) {
	return func(req *http.Request) (*http.Response, error) {
		return answerWith(req, status, contentType, body), nil
	}
}

// hang answers when the caller has given up.
func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// truncated passes the request on and cuts the answer in half.
func truncated(_ uint64, req *http.Request, onward forward) (*http.Response, error) {
	response, err := onward(req)
	if err != nil {
		return nil, err
	}
	body, _ := io.ReadAll(response.Body)
	body = body[:len(body)/2]
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return response, nil
}

// dice are seeded: the same seed and name give the same throws.
type dice struct{ *rand.Rand }

func newDice(seed uint64, name string) dice {
	return dice{rand.New(rand.NewPCG(seed, hash(name)))}
}

func (d dice) chance(p float64) bool { return d.Float64() < p }

// between is uniform from least up to most.
func (d dice) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Float64()*float64(most-least))
}

// anyScale is log-uniform: a second is as likely to be doubled as an hour.
func (d dice) anyScale(least, most time.Duration) time.Duration {
	return time.Duration(float64(least) * math.Pow(float64(most)/float64(least), d.Float64()))
}

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

// hash names a throw that must not depend on the order in which goroutines ask:
// what happens to the nth request of a kind within an invocation, say.
func hash(words ...string) uint64 {
	h := fnv.New64a()
	for _, word := range words {
		_, _ = h.Write([]byte(word))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

// share turns a hash into a number from 0 up to 1.
func share(h uint64) float64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd // FNV alone leaves neighbours close together
	h ^= h >> 33
	return float64(h>>11) / (1 << 53)
}

// fate is what an invocation will meet.
type fate struct {
	kill      moment        // the process is killed then
	killAfter time.Duration // or so long after its start; 0 means not
	freezeAt  rotation.Step // after which step it is frozen (before a save goes out)
	freezeFor time.Duration // 0 means not
	stale     bool          // the first connection to each host is stale
	cold      bool          // no warm process is left
}

// moment is before or after the nth request of a kind.
type moment struct {
	op    string
	nth   int
	after bool
}

func (w *world) drawFate(d dice, e event) fate {
	var f fate
	if d.chance(w.danger(kill)) {
		if d.chance(0.5) {
			f.kill = moment{pick(d, opBootstrap, opLook, opReadKey, opExchange, opSave, opPut(healthyMirror)), pick(d, 1, 1, 1, 2), d.chance(0.5)}
		} else {
			f.killAfter = d.anyScale(10*time.Millisecond, 110*time.Second)
		}
	}
	frozen := w.danger(freeze)
	if e.mode == rotation.ModeRotate {
		frozen = min(1, 3*frozen) // of an ensure little more than the read of the metadata is worth freezing
	}
	if d.chance(frozen) {
		f.freezeAt = pick(d, rotation.StepLook, rotation.StepReadKey, rotation.StepExchange, rotation.StepSave, rotation.StepSave)
		f.freezeFor = d.anyScale(time.Second, 70*time.Minute)
		w.note(e.scheduled)
		f.cold = true // so that no other invocation meets its standing clock
	}
	if d.chance(w.danger(stale)) {
		f.stale = true
		w.note(e.scheduled)
	}
	if d.chance(w.danger(cold)) {
		f.cold = true
	}
	return f
}

// kind is a kind of fault.
type kind struct {
	name string
	// excuse is zero for a fault during which no reader may meet an expired
	// token. Else publishing is impossible while it lasts; readers may meet one
	// once the remaining lifetime is used up, and until excuse after its end.
	excuse time.Duration
	// span draws how long it lasts.
	span func(d dice) time.Duration
	// begin begins it and returns what ends it. w.now() is its start.
	begin func(w *world, d dice, until time.Time) (end func())
	// region is set for the loss of a region of two.
	region bool
	// mirror is the ARN of the mirror whose fault this is, if it is none of IBM's secret.
	mirror string
	// apart names kinds that it never meets, for a reason said where it is set.
	apart []string
}

const (
	// promised is how long after an outage of IAM or Secrets Manager a reader
	// may still meet an expired token (promise 1).
	promised = 60 * time.Second
	// nextEnsure is the same where no run is under way that could try again,
	// since runs end at once or do not begin: two ensure runs begin up to 120 s
	// apart (every minute, up to 60 s late) and take up to 10 s.
	nextEnsure = 130 * time.Second
)

// kinds are all there are.
func kinds(expectSet bool) []kind {
	all := slices.Concat(outages(), answers(), secrets(expectSet), host(), delivery(), mirrorFaults(faultyMirror), regions())
	for _, k := range all {
		for _, other := range k.apart {
			if !slices.ContainsFunc(all, func(k kind) bool { return k.name == other }) {
				panic("no kind of fault is called " + other)
			}
		}
	}
	return all
}

// upTo3h is how long outages last: 1 s to 3 h, short ones as likely as long ones.
func upTo3h(d dice) time.Duration { return d.anyScale(time.Second, 3*time.Hour) }

func minutes(least, most int) func(d dice) time.Duration {
	return func(d dice) time.Duration {
		return d.anyScale(time.Duration(least)*time.Minute, time.Duration(most)*time.Minute)
	}
}

// network is a fault that is a storm and nothing else.
func network(name string, excuse time.Duration, span func(dice) time.Duration, draw func(w *world, d dice) *storm) kind {
	return kind{name: name, excuse: excuse, span: span, begin: func(w *world, d dice, _ time.Time) func() {
		return w.weather.add(draw(w, d))
	}}
}

// window is one fault of the story.
type window struct {
	kind
	from, to time.Time
}

// plan draws the faults of a story: one every few hours, and every third brings
// others with it that begin while it lasts. A kind does not overlap itself.
func plan(d dice, all []kind, start, end time.Time, mean time.Duration) []window {
	var story []window
	add := func(at time.Time) (window, bool) {
		k := pick(d, all...)
		w := window{k, at, at.Add(k.span(d))}
		if w.to.After(end) || slices.ContainsFunc(story, w.clashes) {
			return window{}, false
		}
		story = append(story, w)
		return w, true
	}
	for at := start; at.Before(end); at = at.Add(time.Duration(d.ExpFloat64() * float64(mean))) {
		w, ok := add(at)
		for ok && d.chance(1.0/3) {
			_, ok = add(w.from.Add(d.between(0, w.to.Sub(w.from)+time.Minute)))
		}
	}
	slices.SortFunc(story, func(a, b window) int { return a.from.Compare(b.from) })
	return story
}

// clashes reports whether two faults overlap, or nearly, that must not.
func (w window) clashes(other window) bool {
	const near = 2 * time.Hour // what one leaves in the stored version stays there
	if w.from.After(other.to.Add(near)) || other.from.After(w.to.Add(near)) {
		return false
	}
	if slices.Contains(w.apart, other.name) || slices.Contains(other.apart, w.name) {
		return true
	}
	return w.name == other.name && !w.from.After(other.to) && !other.from.After(w.to)
}

// schedule puts the faults of a story on the agenda.
func (w *world) schedule(story []window) {
	for i, fault := range story {
		d := newDice(w.seed, "fault "+time.Duration(i).String())
		if fault.region {
			w.twoRegions(later(w.start, fault.from.Add(-time.Hour)), fault.to.Add(healed))
		}
		w.agenda.at(fault.from, func() {
			end := fault.begin(w, d, fault.to)
			w.agenda.at(fault.to, end)
		})
	}
}

var (
	iamOps            = []string{opBootstrap, opExchange, opKeys}
	secretsManagerOps = []string{opLook, opReadKey, opSave}
)

// outages are the faults of which promise 1 speaks: no answer, or none of use.
func outages() []kind {
	return []kind{
		network("IAM down", promised, upTo3h, func(_ *world, d dice) *storm { return down(d, iamOps) }),
		network("Secrets Manager down", promised, upTo3h, func(_ *world, d dice) *storm { return down(d, secretsManagerOps) }),
		network("IAM and Secrets Manager down", promised, upTo3h, func(_ *world, d dice) *storm { return down(d, nil) }),
		network("one operation down", promised, upTo3h, func(_ *world, d dice) *storm {
			return down(d, []string{pick(d, opBootstrap, opExchange, opLook, opReadKey, opSave)})
		}),
		network("429 with a wild Retry-After", promised, upTo3h, func(_ *world, d dice) *storm {
			return &storm{ops: pick(d, iamOps, secretsManagerOps, nil), play: tooMany}
		}),
		network("answers slow up to the deadline", promised, upTo3h, func(_ *world, d dice) *storm {
			return slow(pick(d, iamOps, secretsManagerOps, nil), d.between(2*time.Second, 2*time.Minute))
		}),
		network("200 without use", promised, upTo3h, func(_ *world, d dice) *storm {
			return &storm{ops: pick(d, iamOps, secretsManagerOps, nil), play: useless(d)}
		}),
		network("200 with an old token", promised, upTo3h, oldToken),
		network("IAM's public keys out of reach", 0, upTo3h, func(_ *world, d dice) *storm {
			return pick(d, down(d, []string{opKeys}), &storm{ops: []string{opKeys}, play: useless(d)})
		}),
		network("connections lost before a save", promised, minutes(1, 60), func(*world, dice) *storm {
			return &storm{ops: []string{opSave}, play: always(func(*http.Request) (*http.Response, error) { return nil, reset() })}
		}),
	}
}

// down answers nothing, or with a status that passes.
func down(d dice, ops []string) *storm {
	status := pick(d, 500, 502, 503, 504)
	treat := pick(d, answering(status, "application/json", `{}`), answering(status, "text/html", "<html><h1>Service Unavailable</h1></html>"), answering(status, "", ""),
		func(*http.Request) (*http.Response, error) { return nil, reset() },
		func(req *http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: req.URL.Host, IsNotFound: true}}
		},
		hang,
	)
	return &storm{ops: ops, play: always(treat)}
}

var retryAfters = []string{"0", "-5", "1", "7", "1.5", "30", "86400", "99999999999999999999", "soon", "",
	"Fri, 31 Dec 1999 23:59:59 GMT", "Wed, 01 Jan 2200 00:00:00 GMT"}

func tooMany(throw uint64, req *http.Request, _ forward) (*http.Response, error) {
	return answerWith(req, http.StatusTooManyRequests, "application/json", `{}`, "Retry-After", retryAfters[throw%uint64(len(retryAfters))]), nil
}

// slow does the work, before or after a delay of up to most.
func slow(ops []string, most time.Duration) *storm {
	return &storm{ops: ops, play: func(throw uint64, req *http.Request, onward forward) (*http.Response, error) {
		wait := time.Duration(share(throw^1) * float64(most))
		if throw%2 == 0 {
			if err := pause(req.Context(), wait); err != nil {
				return nil, err
			}
			return onward(req)
		}
		response, err := onward(req)
		if err := errors.Join(err, pause(req.Context(), wait)); err != nil {
			return nil, err
		}
		return response, nil
	}}
}

// useless answers 200 or 201 with something that is not the service's.
func useless(d dice) func(uint64, *http.Request, forward) (*http.Response, error) {
	status := pick(d, 200, 201)
	body := pick(d, "", "null", "[]", "{}", `{"errors":[]}`, `{"access_token":""}`, `{"access_token":"eyJraWQiOi`, `{"id":"","secret_type":"arbitrary"}`)
	return pick(d, always(answering(status, "application/json", body)), always(answering(status, "text/html", "<html><body>Please log in</body></html>")), truncated)
}

// oldToken is a cache between us and IAM that serves one token for ever.
func oldToken(w *world, d dice) *storm {
	left := d.between(-time.Hour, 59*time.Minute)
	token := w.cloud.MustMintToken(w.mintKey, left)
	expires := w.now().Add(left).Unix()
	return &storm{ops: []string{opExchange}, play: always(func(req *http.Request) (*http.Response, error) {
		body := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`, token, expires)
		return answerWith(req, http.StatusOK, "application/json", body), nil
	})}
}

// agenda is what will happen, in order of time; what is due at the same moment
// happens in the order in which it was added. One goroutine works through it.
type agenda struct {
	entries entries
	count   int
}

type entry struct {
	at    time.Time
	order int
	do    func()
}

func (a *agenda) at(t time.Time, do func()) {
	a.count++
	heap.Push(&a.entries, entry{t, a.count, do})
}

// every does do at first and then again after each period, until it says stop.
func (a *agenda) every(first time.Time, period time.Duration, do func(at time.Time) (goOn bool)) {
	a.at(first, func() {
		if do(first) {
			a.every(first.Add(period), period, do)
		}
	})
}

// work does what is due until end, sleeping in between.
func (a *agenda) work(end time.Time) {
	for len(a.entries) > 0 && !a.entries[0].at.After(end) {
		next := heap.Pop(&a.entries).(entry)
		time.Sleep(time.Until(next.at))
		next.do()
	}
	time.Sleep(time.Until(end))
}

type entries []entry

func (e entries) Len() int { return len(e) }
func (e entries) Less(i, j int) bool {
	if e[i].at.Equal(e[j].at) {
		return e[i].order < e[j].order
	}
	return e[i].at.Before(e[j].at)
}
func (e entries) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any)   { *e = append(*e, x.(entry)) }
func (e *entries) Pop() any {
	old := *e
	last := old[len(old)-1]
	old[len(old)-1] = entry{}
	*e = old[:len(old)-1]
	return last
}

const (
	rotateEvery = 50 * time.Minute
	ensureEvery = time.Minute
	// lateness is how late EventBridge Scheduler may be: it keeps to the minute.
	lateness = time.Minute
	// maxEventAge is how long an event is tried to be delivered, by EventBridge
	// Scheduler and by Lambda's queue.
	maxEventAge = 2 * time.Minute
)

// event is what a schedule asks for.
type event struct {
	mode      rotation.Mode
	runID     string
	scheduled time.Time
}

// startSchedules begins the two schedules of a stack; they end at until.
func (fn *function) startSchedules(first, until time.Time) {
	fn.startSchedule(rotation.ModeRotate, rotateEvery, first, until)
	fn.startSchedule(rotation.ModeEnsure, ensureEvery, first, until)
}

func (fn *function) startSchedule(mode rotation.Mode, period time.Duration, first, until time.Time) {
	name := fn.name
	if fn.w.inStep {
		name = ""
	}
	d := newDice(fn.w.seed, name+string(mode)+first.String())
	fn.w.agenda.every(first, period, func(at time.Time) bool {
		if at.After(until) {
			return false
		}
		fn.emit(d, event{mode: mode, runID: string(mode) + "-" + at.UTC().Format(time.RFC3339), scheduled: at})
		return true
	})
}

// emit is what EventBridge Scheduler does with an event: at least one delivery,
// late, perhaps several, or none after two minutes of trying.
func (fn *function) emit(d dice, e event) {
	w := fn.w
	if fn.lost {
		return
	}
	due := e.scheduled.Add(d.between(0, lateness))
	disordered, lost, duplicated := w.danger(disorder), w.danger(lose), w.danger(duplicate)
	if d.chance(disordered) {
		due = e.scheduled.Add(d.between(0, maxEventAge-time.Second))
		w.note(due)
	}
	if d.chance(lost) {
		w.lostRun(due)
		return
	}
	w.agenda.at(due, func() { fn.deliver(e, due, time.Second) })
	for more := 0; more < 3 && d.chance(duplicated); more++ {
		w.note(due)
		w.agenda.at(due.Add(d.between(0, 90*time.Second)), func() { fn.deliver(e, due, time.Second) })
	}
}

// deliver hands an event to the function. While it is throttled Lambda's queue
// tries again, after longer and longer waits, until the event is too old.
func (fn *function) deliver(e event, since time.Time, wait time.Duration) {
	w := fn.w
	if fn.lost {
		return
	}
	if w.danger(throttled) == 0 && fn.hasRoom() {
		fn.invoke(e)
		return
	}
	w.alarms.throttled(w.now())
	w.counts.throttles++
	again := w.now().Add(wait)
	if again.Sub(since) > maxEventAge {
		w.lostRun(since)
		return
	}
	w.agenda.at(again, func() { fn.deliver(e, since, 2*wait) })
}

// danger is how likely something is now.
func (w *world) danger(what string) float64 { return min(1, w.dangers[what]+w.everyday[what]) }

// timeline is what readers of a token secret see: which token from when on, and
// when that really expires.
type timeline struct {
	tokens []published
	gaps   []span // when readers had no token that works
}

type published struct {
	at      time.Time
	expires time.Time // the payload's own; at, if it is none that readers can use
	born    time.Time // issued
}

// publish puts a token before the readers.
func (t *timeline) publish(p published) {
	if len(t.tokens) > 0 {
		t.close(p.at)
	}
	t.tokens = append(t.tokens, p)
}

// close notes the gap that ends at a moment, if there is one; two that touch are one.
func (t *timeline) close(end time.Time) {
	last := t.current(end)
	from := later(last.expires, last.at)
	switch n := len(t.gaps); {
	case !from.Before(end):
	case n > 0 && t.gaps[n-1].to.Equal(from):
		t.gaps[n-1].to = end
	default:
		t.gaps = append(t.gaps, span{from, end})
	}
}

// current is the token that readers see at a moment; the zero value when none.
func (t *timeline) current(at time.Time) published {
	n := sort.Search(len(t.tokens), func(i int) bool { return t.tokens[i].at.After(at) })
	if n == 0 {
		return published{}
	}
	return t.tokens[n-1]
}

// lost is how long readers had no token in all.
func (t *timeline) lost() (sum time.Duration) {
	for _, g := range t.gaps {
		sum += g.length()
	}
	return sum
}

func (s span) length() time.Duration { return s.to.Sub(s.from) }

// common is how much of s lies in other.
func (s span) common(other span) time.Duration {
	return max(0, earlier(s.to, other.to).Sub(later(s.from, other.from)))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
