package aws_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Ten thousand rotations, in the batches and with the events that the state
// machines make of their names, through the built function and the Lambda Runtime
// API. Only the politeness is left out.
func TestFleetOfTenThousand(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes half a minute of two processors")
	}
	tmpl := fleet(t)
	const rotations = 10_000
	timeout := time.Duration(properties(t, tmpl, "Function")["Timeout"].(int)) * time.Second
	stage := newFleetStage(t, "10000", timeout)
	want(t, "names", len(stage.names), rotations)

	rotate, _ := mapOf(t, tmpl, "RotateMachine", "30")
	const execution = "6a1d2c34-7e5f-4a0b-9c8d-0e1f2a3b4c5d"
	batches := slices.Collect(slices.Chunk(stage.names, rotate.ItemBatcher.MaxItemsPerBatch))
	rotated := stage.runMap(rotate, execution, batches)
	want(t, "outcomes of the first map", rotated, map[string]int{"rotated": rotations})
	asked := stage.requests()
	for _, op := range []string{"versions.metadata", "secrets.get", "versions.create"} { // rotateRequests of them
		want(t, "requests "+op, asked[op], rotations)
	}
	want(t, "exchanges", asked["iam.token"], rotations+len(batches)) // each process opens Secrets Manager once

	stage.redeliver(rotate.event(t, execution, batches[0]))
	stage.failOne(rotate.event(t, "another-execution", batches[1]), batches[1][50])

	ensure, _ := mapOf(t, tmpl, "EnsureMachine", "30")
	before := stage.requests()
	fresh := stage.invoke(ensure.event(t, "one-more-execution", batches[2]))
	want(t, "outcomes of ensure", outcomes(fresh), map[string]int{"fresh": len(batches[2])})
	after := stage.requests()
	want(t, "looks of ensure", after["versions.metadata"]-before["versions.metadata"], len(batches[2]))
	want(t, "keys read by ensure", after["secrets.get"]-before["secrets.get"], 0)
}

// runMap invokes the function for each batch, as many at a time as the map
// allows, and counts the outcomes of distinct rotations.
func (s *fleetStage) runMap(m batchMap, execution string, batches [][]string) map[string]int {
	s.t.Helper()
	queue := make(chan []string)
	var mu sync.Mutex
	ended := map[string]string{}
	var all sync.WaitGroup
	for range m.MaxConcurrency {
		all.Go(func() {
			for batch := range queue {
				event := m.event(s.t, execution, batch)
				report := s.invoke(event)
				want(s.t, "run_id", report.RunID, event["run_id"])
				mu.Lock()
				for _, result := range report.Results {
					ended[result.Rotation] = result.Outcome
				}
				mu.Unlock()
			}
		})
	}
	for _, batch := range batches {
		queue <- batch
	}
	close(queue)
	all.Wait()
	count := map[string]int{}
	for _, outcome := range ended {
		count[outcome]++
	}
	return count
}

func outcomes(report batchReport) map[string]int {
	count := map[string]int{}
	for _, result := range report.Results {
		count[result.Outcome]++
	}
	return count
}

// redeliver sends a batch a second time: it must find its work done.
func (s *fleetStage) redeliver(event object) {
	s.t.Helper()
	before := s.requests()
	again := s.invoke(event)
	want(s.t, "outcomes of a batch delivered twice", outcomes(again), map[string]int{"already_done": len(event["rotations"].([]string))})
	after := s.requests()
	want(s.t, "versions made by a batch delivered twice", after["versions.create"]-before["versions.create"], 0)
	// Look and key side by side, as the template reckons a retry.
	want(s.t, "looks", after["versions.metadata"]-before["versions.metadata"], len(again.Results))
	// The key is read beside the look; where that tells first, the read may not set out.
	if got := after["secrets.get"] - before["secrets.get"]; got > len(again.Results) {
		s.t.Errorf("keys read: got %d, want at most %d", got, len(again.Results))
	}
}

// failOne runs a batch of which one rotation cannot succeed, and retries it as
// the map does: that one is named, and nothing but it is worked on again.
func (s *fleetStage) failOne(event object, broken string) {
	s.t.Helper()
	s.deleteToken(broken)
	for attempt, newVersions := range []int{len(event["rotations"].([]string)) - 1, 0} {
		before := s.requests()["versions.create"]
		report := s.invoke(event)
		want(s.t, "error", report.ErrorType, "RotationError")
		if !strings.HasPrefix(report.ErrorMessage, "1 of 100 rotations failed; "+broken+": look: not_found: ") {
			s.t.Errorf("attempt %d: got %q, want the failure of %s alone", attempt+1, report.ErrorMessage, broken)
		}
		want(s.t, "versions made", s.requests()["versions.create"]-before, newVersions)
	}
}
