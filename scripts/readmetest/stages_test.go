package readmetest

import (
	"maps"
	"slices"
	"sync"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// A stage is a world in which the blocks that name it are run, in one shell, in a copy of the
// repository.
type stage struct {
	needs   []string // programs beside sh, go and make
	prepare func(w *world)
	dir     string // in the copy; its top if empty
}

// forAWS is what AWS's side of a stage needs.
var forAWS = []string{"moto_server", "aws", "jq"}

var stages = map[string]stage{
	// The first screen, and what a contributor does.
	"first":      {},
	"contribute": {needs: []string{"curl", "jq"}},
	"simulate":   {},
	// The sandboxes of make, each a process of its own.
	"sandbox":   {needs: []string{"curl"}},
	"sandboxes": {needs: forAWS},
	// IBM Cloud and AWS in memory, and stand-ins for ibmcloud and terraform.
	"deploy":      {needs: append(forAWS, "curl"), prepare: func(w *world) { w.serveIBM(); w.serveAWS() }},
	"ibm":         {needs: append(forAWS, "curl"), prepare: func(w *world) { w.serveIBM(); w.serveAWS() }},
	"further":     {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.exportOutputs() }},
	"code-engine": {needs: []string{"curl", "jq"}, prepare: (*world).serveIBM},
	// AWS, where infra/ibm has been set up before.
	"aws":   {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.writeEnv() }},
	"fleet": {needs: forAWS, prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.writeEnv(); w.writeFleet() }},
	// Jobs, with a token to read.
	"job":             {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.publish(); w.giveReaderKey() }},
	"laptop":          {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.publish(); w.leaveReaderKey() }},
	"code-engine-job": {needs: []string{"curl", "jq"}, prepare: func(w *world) { w.serveIBM(); w.publish(); w.giveComputeToken() }, dir: "scripts"},
	"aws-job":         {needs: append(forAWS, "curl"), prepare: func(w *world) { w.serveIBM(); w.serveAWS(); w.publish(); w.copyToAWS() }, dir: "scripts"},
}

func stageNames() []string { return slices.Sorted(maps.Keys(stages)) }

// ready is the file by which one can tell that a server is.
var ready = map[string]string{
	"make sandbox":     "build/sandbox.env",
	"make aws-sandbox": "build/aws.env",
}

// atATime is how many stages run side by side: more than processors, since they mostly wait, for
// CloudFormation above all.
const atATime = 4

// TestEveryCommandRuns runs the pages.
func TestEveryCommandRuns(t *testing.T) {
	t.Parallel()
	_ = programsFolder(t) // once, before the clock of any stage runs
	slots := make(chan struct{}, atATime)
	var all sync.WaitGroup
	for _, name := range longestFirst() {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.Run(name, func(t *testing.T) { run(t, name) })
		})
	}
	all.Wait()
}

func run(t *testing.T, name string) {
	stage := stages[name]
	programs.Need(t, append([]string{"sh", "go", "make"}, stage.needs...)...)
	w := newWorld(t)
	if stage.prepare != nil {
		stage.prepare(w)
	}
	blocks := blocksOf(t, name)
	if name == "aws-job" {
		blocks = append(blocks, workflowRuns(t)...)
	}
	w.play(blocks, stage.dir)
	w.checkSamples()
}

// longestFirst are the stages with those first that wait most.
func longestFirst() []string {
	long := []string{"deploy", "aws", "sandboxes", "contribute"}
	return append(long, slices.DeleteFunc(stageNames(), func(name string) bool { return slices.Contains(long, name) })...)
}
