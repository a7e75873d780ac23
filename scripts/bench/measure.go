package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

// usage is what a process took, by the operating system's own account.
type usage struct {
	Wall   time.Duration
	CPU    time.Duration // user and system, of the process and its children
	MaxRSS int64         // bytes, of the largest single process
}

func (u usage) memory() string { return fmt.Sprintf("%.1f MB", float64(u.MaxRSS)/1e6) }

func usageOf(wall time.Duration, state *os.ProcessState) usage {
	u := usage{Wall: wall, CPU: state.UserTime() + state.SystemTime()}
	if resources, ok := state.SysUsage().(*syscall.Rusage); ok {
		u.MaxRSS = resources.Maxrss * 1024
	}
	return u
}

type bencher struct {
	bin  string
	runs int
}

// median runs a command several times and returns the median of each figure.
func (b bencher) median(env, command []string) (usage, error) {
	var all []usage
	for range b.runs {
		process := exec.Command(command[0], command[1:]...)
		process.Env = env
		var complaint bytes.Buffer
		process.Stderr = &complaint
		began := time.Now()
		if err := process.Run(); err != nil {
			return usage{}, fmt.Errorf("%s: %w: %.300s", filepath.Base(command[0]), err, complaint.String())
		}
		all = append(all, usageOf(time.Since(began), process.ProcessState))
	}
	return usage{
		Wall:   middle(all, func(u usage) time.Duration { return u.Wall }),
		CPU:    middle(all, func(u usage) time.Duration { return u.CPU }),
		MaxRSS: middle(all, func(u usage) int64 { return u.MaxRSS }),
	}, nil
}

func middle[T any, N time.Duration | int64](all []T, figure func(T) N) N {
	var figures []N
	for _, one := range all {
		figures = append(figures, figure(one))
	}
	slices.Sort(figures)
	return figures[len(figures)/2]
}

// invocation is a line of scripts/invoke's report.
type invocation struct {
	Init     float64 `json:"init_ms"`
	Duration float64 `json:"duration_ms"`
	Failed   bool    `json:"failed"`
}

// invoke delivers n events to one process of a Lambda function.
func (b bencher) invoke(s *stage, n int, command ...string) ([]invocation, error) {
	file := filepath.Join(s.folder, "report")
	process := exec.Command(filepath.Join(b.bin, "invoke"), append([]string{"-n", fmt.Sprint(n), "-report", file, "--"}, command...)...)
	process.Env = s.env
	if out, err := process.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("invoke: %w: %.300s", err, out)
	}
	report, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = report.Close() }()
	var all []invocation
	for lines := bufio.NewScanner(report); lines.Scan(); {
		var one invocation
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, nil
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// passes returns the median of a cold pass, init included, and of a warm one.
func (b bencher) passes(s *stage) (cold, warm time.Duration, err error) {
	var first, second []time.Duration
	for range b.runs {
		both, err := b.invoke(s, 2, filepath.Join(b.bin, "iam-token-rotator"))
		if err != nil {
			return 0, 0, err
		}
		first = append(first, milliseconds(both[0].Init+both[0].Duration))
		second = append(second, milliseconds(both[1].Duration))
	}
	same := func(d time.Duration) time.Duration { return d }
	return middle(first, same), middle(second, same), nil
}

// initTimes are the medians from process start to first poll. The programs take
// turns, so that a slow moment of the machine meets all of them.
func (b bencher) initTimes(s *stage, programs ...string) (map[string]time.Duration, error) {
	all := map[string][]time.Duration{}
	for range 4*b.runs + 1 { // they are short, so noise weighs more
		for _, program := range programs {
			one, err := b.invoke(s, 1, filepath.Join(b.bin, program))
			if err != nil {
				return nil, err
			}
			all[program] = append(all[program], milliseconds(one[0].Init))
		}
	}
	medians := map[string]time.Duration{}
	for program, times := range all {
		medians[program] = middle(times, func(d time.Duration) time.Duration { return d })
	}
	return medians, nil
}

// invoked is what a Lambda function used that has answered one event: bench
// itself stands between, to read the account of its child.
func (b bencher) invoked(s *stage, name string) (usage, error) {
	self, err := os.Executable()
	if err != nil {
		return usage{}, err
	}
	var all []usage
	for range b.runs {
		file := filepath.Join(s.folder, "usage")
		if _, err := b.invoke(s, 1, self, "measure", file, filepath.Join(b.bin, name)); err != nil {
			return usage{}, err
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return usage{}, err
		}
		var one usage
		if err := json.Unmarshal(content, &one); err != nil {
			return usage{}, err
		}
		all = append(all, one)
	}
	return usage{
		CPU:    middle(all, func(u usage) time.Duration { return u.CPU }),
		MaxRSS: middle(all, func(u usage) int64 { return u.MaxRSS }),
	}, nil
}

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
		{"this function, as a command", []string{filepath.Join(b.bin, "iam-token-rotator")}},
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
		{"hello", "hello-world Lambda"}, {"hellosdks", "hello-world with the SDKs linked"}, {"iam-token-rotator", "this function"},
	}
	inits, err := b.initTimes(stage, "hello", "hellosdks", "iam-token-rotator")
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
	command := []string{filepath.Join(b.bin, "iam-token-rotator"), "-timeout", "15m", "-json"}
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
