package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"
)

func newTable(w io.Writer) *tabwriter.Writer {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row(table, "what", "round trips", "wall", "CPU", "memory", "ratio")
	return table
}

func row(table io.Writer, cells ...any) {
	for _, cell := range cells {
		_, _ = fmt.Fprintf(table, "%v\t", cell)
	}
	_, _ = fmt.Fprintln(table)
}

// oneRotation compares ways to do one rotation with a round trip between here
// and IBM Cloud. Wall time counts from the start of the process.
func (b bencher) oneRotation(table io.Writer, roundTrip time.Duration) error {
	stage, err := b.newStage(1, roundTrip)
	if err != nil {
		return err
	}
	defer stage.stop()
	cold, warm, err := b.passes(stage)
	if err != nil {
		return err
	}
	ways := []struct {
		name    string
		command []string
	}{
		{"this function, as a command", []string{filepath.Join(b.bin, "bootstrap")}},
		{"plain IBM SDKs", []string{filepath.Join(b.bin, "plainsdk")}},
		{"curl and jq", []string{"scripts/bench/curl-jq"}},
	}
	trips := func(wall time.Duration) string { return fmt.Sprintf("%.1f", wall.Seconds()/roundTrip.Seconds()) }
	ratio := func(wall time.Duration) string { return fmt.Sprintf("%.2f of cold", wall.Seconds()/cold.Seconds()) }
	row(table, "this function, cold (init included)", trips(cold), cold.Round(time.Millisecond), "", "", ratio(cold))
	row(table, "this function, warm", trips(warm), warm.Round(time.Millisecond), "", "", ratio(warm))
	for _, way := range ways {
		used, err := b.median(stage.env, way.command)
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		row(table, way.name, trips(used.Wall), used.Wall.Round(time.Millisecond), used.CPU.Round(time.Millisecond), used.memory(), ratio(used.Wall))
	}
	return nil
}

// coldStart compares the function with the least a Lambda function can be, and
// with the least that its SDKs leave: from the start of the process to its first
// poll of the Runtime API, and the memory used when one event has been answered.
func (b bencher) coldStart(table io.Writer, zip string) error {
	stage, err := b.newStage(1, 0)
	if err != nil {
		return err
	}
	defer stage.stop()
	ways := []struct{ program, what string }{
		{"hello", "hello-world Lambda"}, {"hellosdks", "hello-world with the SDKs linked"}, {"bootstrap", "this function"},
	}
	inits, err := b.initTimes(stage, "hello", "hellosdks", "bootstrap")
	if err != nil {
		return err
	}
	var floor usage
	for _, way := range ways {
		used, err := b.invoked(stage, way.program)
		if err != nil {
			return err
		}
		if way.program == "hello" {
			floor = used
		}
		row(table, way.what+": init, memory", "", inits[way.program].Round(10*time.Microsecond), used.CPU.Round(time.Millisecond), used.memory(),
			fmt.Sprintf("init %.2f, memory %.2f", inits[way.program].Seconds()/inits["hello"].Seconds(), float64(used.MaxRSS)/float64(floor.MaxRSS)))
	}
	if packed, err := os.Stat(zip); err == nil {
		row(table, "this function: zip", "", "", "", fmt.Sprintf("%.1f MB", float64(packed.Size())/1e6), "")
	}
	return nil
}

// manyRotations compares a run over many rotations with the ideal: three round
// trips for each, as many at a time as the concurrency allows.
func (b bencher) manyRotations(table io.Writer, many int, roundTrip time.Duration, concurrency int) error {
	stage, err := b.newStage(many, roundTrip)
	if err != nil {
		return err
	}
	defer stage.stop()
	stage.env = append(stage.env, "SECRETS_MANAGER_MAX_RPS=0", fmt.Sprintf("CONCURRENCY=%d", concurrency), "LOG_LEVEL=error")
	command := []string{filepath.Join(b.bin, "bootstrap"), "-timeout", "15m", "-json"}
	one, err := b.median(stage.env, append(command, "-rotation", "rotation-00001"))
	if err != nil {
		return err
	}
	b.runs = 1
	all, err := b.median(stage.env, command)
	if err != nil {
		return err
	}
	ideal := time.Duration(many) * 3 * roundTrip / time.Duration(concurrency)
	row(table, fmt.Sprintf("%d rotations at %s a round trip, %d at a time", many, roundTrip, concurrency), "",
		all.Wall.Round(time.Millisecond), all.CPU.Round(time.Millisecond), all.memory(),
		fmt.Sprintf("%.2f of the ideal %s; %.1f KB a rotation", all.Wall.Seconds()/ideal.Seconds(), ideal, float64(all.MaxRSS-one.MaxRSS)/float64(many)/1024))
	return nil
}
