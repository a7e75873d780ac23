package simulation

import (
	"context"
	"fmt"
	"sync"
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

// functionTimeout is the deadline that Lambda gives an invocation.
const functionTimeout = 120 * time.Second

// function is a deployed copy of the function: its processes.
type function struct {
	w           *world
	name        string
	concurrency int // invocations at a time

	mu      sync.Mutex
	serial  int
	deploys int
	idle    []*process
	running map[*invocation]bool
}

// invocation is one event in one process.
type invocation struct {
	event
	id      string
	fn      *function
	process *process
	fate    fate
	began   time.Time
	cancel  context.CancelFunc

	mu       sync.Mutex
	met      map[string]bool
	versions int // made by it; guarded by world.mu
}

// invoke starts an event's run in a warm process if one is idle, else in a new one.
func (fn *function) invoke(e event) {
	fn.mu.Lock()
	defer fn.mu.Unlock()
	fn.serial++
	inv := &invocation{event: e, id: fmt.Sprintf("%s %s %d", fn.name, e.runID, fn.serial), fn: fn, began: fn.w.now(), met: map[string]bool{}}
	d := newDice(fn.w.seed, inv.id)
	inv.fate = fn.w.drawFate(d, e)
	var boot time.Duration
	if inv.process = fn.warm(); inv.process == nil || inv.fate.cold {
		inv.process = fn.w.newProcess(fn, fmt.Sprintf("%s %d", fn.name, fn.serial), d)
		boot = d.between(150*time.Millisecond, 900*time.Millisecond)
	}
	fn.running[inv] = true
	ctx, cancel := context.WithCancel(context.Background())
	inv.cancel = cancel
	fn.w.running.Go(func() {
		defer cancel()
		time.Sleep(boot)
		fn.run(ctx, inv)
	})
}

// run plays an invocation from its first to its last moment.
func (fn *function) run(ctx context.Context, inv *invocation) {
	inv.process.line.begin(inv)
	if inv.fate.killAfter > 0 {
		defer time.AfterFunc(inv.fate.killAfter, inv.die).Stop()
	}
	report, reported := inv.process.run(ctx, inv)
	fn.mu.Lock()
	delete(fn.running, inv)
	alive := !inv.process.isDead()
	if alive && reported && inv.process.deploy == fn.deploys {
		inv.process.idleSince = fn.w.now()
		fn.idle = append(fn.idle, inv.process)
	}
	fn.mu.Unlock()
	if !alive || !reported {
		fn.w.crashed(inv)
		return
	}
	fn.w.ended(inv, report)
}

// warm takes the process that was used last, if it has not been reclaimed.
func (fn *function) warm() *process {
	for len(fn.idle) > 0 {
		last := fn.idle[len(fn.idle)-1]
		fn.idle = fn.idle[:len(fn.idle)-1]
		if now := fn.w.now(); now.Sub(last.idleSince) < last.patience && now.Before(last.retires) {
			return last
		}
	}
	return nil
}

func (fn *function) hasRoom() bool {
	fn.mu.Lock()
	defer fn.mu.Unlock()
	return len(fn.running) < fn.concurrency
}

// deploy makes every later invocation start a new process.
func (fn *function) deploy(kill bool) {
	fn.mu.Lock()
	fn.deploys++
	fn.idle = nil
	var under []*invocation
	for inv := range fn.running {
		under = append(under, inv)
	}
	fn.mu.Unlock()
	for _, inv := range under {
		if kill {
			inv.die()
		}
	}
}

// die ends the process: whatever it has under way is cut off and reports nothing.
func (inv *invocation) die() {
	inv.process.line.die()
	inv.cancel()
}

// once is true the first time it is asked for what.
func (inv *invocation) once(what string) bool {
	inv.mu.Lock()
	defer inv.mu.Unlock()
	first := !inv.met[what]
	inv.met[what] = true
	return first
}

func (inv *invocation) request() rotation.Request {
	return rotation.Request{Mode: inv.mode, RunID: inv.runID}
}
