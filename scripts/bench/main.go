// Command bench measures time, memory and round trips of a rotation, compares them with a minimal Lambda
// function and with what people use today, and prints one table. The figures are medians of several runs.
// A ratio compares figures of the same run of bench, because machines differ and are noisy.
//
// One folder must hold bench itself and the programs iam-token-rotator, bootstrap, invoke, hello,
// hellosdks and plainsdk; curl and jq must be on the PATH.
package main

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/serving"
)

func main() {
	if len(os.Args) > 3 && os.Args[1] == "measure" {
		os.Exit(measureChild(os.Args[2], os.Args[3:]))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	bin := flags.String("bin", "build/local", "`folder` with the built programs")
	runs := flags.Int("runs", 5, "runs of each; the median counts")
	var roundTrip time.Duration
	serving.DurationVar(flags, &roundTrip, "rtt", 200*time.Millisecond, "a round trip to IBM Cloud, a `duration`")
	many := flags.Int("many", 1000, "rotations in the row for many")
	zip := flags.String("zip", "build/rotate.zip", "the packed function, a `file`")
	err := serving.Parse(flags, args, "Measures what a rotation costs (make bench).\n", "", stdout, func() error {
		if *runs < 1 || roundTrip <= 0 || *many < 2 {
			return errors.New("-runs must be 1 or more, -rtt more than 0, -many 2 or more")
		}
		return nil
	})
	if err == nil {
		table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
		err = bencher{bin: *bin, runs: *runs, table: table}.bench(roundTrip, *zip, *many)
		_ = table.Flush()
	}
	return serving.End(stderr, "bench", err)
}

// bencher takes the measurements in turn and prints a row for each.
type bencher struct {
	bin   string
	runs  int
	table io.Writer
}

func (b bencher) bench(roundTrip time.Duration, zip string, many int) (err error) {
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	b.row("what", "round trips", "wall", "CPU", "memory", "ratio")
	if err := b.oneRotation(roundTrip); err != nil {
		return err
	}
	if err := b.coldStart(zip); err != nil {
		return err
	}
	return b.manyRotations(many, 40*time.Millisecond, 16)
}

func (b bencher) row(cells ...any) {
	for _, cell := range cells {
		_, _ = fmt.Fprintf(b.table, "%v\t", cell)
	}
	_, _ = fmt.Fprintln(b.table)
}

func (b bencher) program(name string) string { return filepath.Join(b.bin, name) }

// oneRotation compares ways to do one rotation when a round trip to IBM Cloud takes roundTrip. Wall time
// counts from the start of the process.
func (b bencher) oneRotation(roundTrip time.Duration) error {
	cloud, err := newCloud(1, roundTrip)
	if err != nil {
		return err
	}
	defer cloud.close()
	var cold time.Duration
	for _, way := range []struct {
		name    string
		measure func() (usage, error)
	}{
		{"this function, cold (init included)", func() (usage, error) { return b.invoked(cloud, 1, b.program("bootstrap")) }},
		{"this function, warm", func() (usage, error) { return b.invoked(cloud, 2, b.program("bootstrap")) }},
		{"this function, as a command", func() (usage, error) { return b.measured(cloud, b.program("iam-token-rotator")) }},
		{"plain IBM SDKs", func() (usage, error) { return b.measured(cloud, b.program("plainsdk")) }},
		{"curl and jq", func() (usage, error) { return b.measured(cloud, "scripts/bench/curl-jq") }},
	} {
		used, err := b.median(b.runs, way.measure)
		if err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
		wall := used.Wall
		if cold == 0 {
			wall += used.Init
			cold = wall
		}
		cpu, memory := "", ""
		if used.MaxRSS > 0 {
			cpu, memory = used.CPU.Round(time.Millisecond).String(), used.memory()
		}
		b.row(way.name, fmt.Sprintf("%.1f", wall.Seconds()/roundTrip.Seconds()), wall.Round(time.Millisecond),
			cpu, memory, fmt.Sprintf("%.2f of cold", wall.Seconds()/cold.Seconds()))
	}
	return nil
}

// coldStart compares the function with two hello-world functions, one plain and one with the same SDKs linked.
// Init is the time from the start of the process to its first poll of the Runtime API; memory and CPU are
// those used when one event has been answered.
func (b bencher) coldStart(zip string) error {
	// Without a delay, the processor time of the TLS handshakes, on both ends, would count as init.
	cloud, err := newCloud(1, 10*time.Millisecond)
	if err != nil {
		return err
	}
	defer cloud.close()
	programs := []string{"hello", "hellosdks", "bootstrap"}
	inits, answered := map[string][]usage{}, map[string][]usage{}
	// An init is short, so noise weighs more: there are five times as many runs. The programs take turns, so
	// that noise affects all of them alike.
	for i := range 5*b.runs + 1 {
		for _, program := range programs {
			all, measure := inits, b.invoked
			if i < b.runs {
				all, measure = answered, b.answered
			}
			used, err := measure(cloud, 1, b.program(program))
			if err != nil {
				return err
			}
			all[program] = append(all[program], used)
		}
	}
	floor := medians(answered["hellosdks"])
	floor.Init = medians(inits["hellosdks"]).Init
	for i, what := range []string{"hello-world Lambda", "hello-world with the SDKs linked", "this function"} {
		used, init := medians(answered[programs[i]]), medians(inits[programs[i]]).Init
		b.row(what+": init, memory", "", init.Round(10*time.Microsecond), used.CPU.Round(time.Millisecond), used.memory(),
			fmt.Sprintf("init %.2f, memory %.2f of the SDKs'", init.Seconds()/floor.Init.Seconds(), float64(used.MaxRSS)/float64(floor.MaxRSS)))
	}
	if packed, err := os.Stat(zip); err == nil {
		b.row("this function: zip", "", "", "", fmt.Sprintf("%.1f MB", float64(packed.Size())/1e6), "")
	}
	return nil
}

// manyRotations compares a run of many rotations with the ideal: three round trips for each, with as many
// rotations at a time as the concurrency allows.
func (b bencher) manyRotations(many int, roundTrip time.Duration, concurrency int) error {
	cloud, err := newCloud(many, roundTrip)
	if err != nil {
		return err
	}
	defer cloud.close()
	cloud.env = append(cloud.env, "SECRETS_MANAGER_MAX_RPS=0", fmt.Sprintf("CONCURRENCY=%d", concurrency), "LOG_LEVEL=error")
	command := []string{b.program("iam-token-rotator"), "-timeout", "15m", "-json"}
	one, err := b.median(b.runs, func() (usage, error) { return b.measured(cloud, append(command, "-rotation", "rotation-00001")...) })
	if err != nil {
		return err
	}
	all, err := b.measured(cloud, command...)
	if err != nil {
		return err
	}
	ideal := time.Duration(many) * 3 * roundTrip / time.Duration(concurrency)
	b.row(fmt.Sprintf("%d rotations at %s a round trip, %d at a time", many, roundTrip, concurrency), "",
		all.Wall.Round(time.Millisecond), all.CPU.Round(time.Millisecond), all.memory(),
		fmt.Sprintf("%.2f of the ideal %s; %.1f KB a rotation",
			all.Wall.Seconds()/ideal.Seconds(), ideal, float64(all.MaxRSS-one.MaxRSS)/float64(many)/1024))
	return nil
}

// cloud is the sandbox of IBM Cloud, with a delaying proxy in front of each of its two hosts.
type cloud struct {
	server  *httptest.Server
	proxies []*ibmcloudtest.SlowProxy
	folder  string
	env     []string // for a program that uses it
}

func newCloud(rotations int, roundTrip time.Duration) (*cloud, error) {
	emulated := ibmcloudtest.New(ibmcloudtest.Options{Rotations: rotations})
	folder, err := os.MkdirTemp("", "iam-token-rotator-bench-")
	c := &cloud{folder: folder, server: httptest.NewUnstartedServer(emulated)}
	c.server.EnableHTTP2 = true
	c.server.StartTLS()
	var list []map[string]string
	for _, r := range emulated.Rotations() {
		list = append(list, map[string]string{"name": r.Name, "api_key_secret": r.APIKeySecret, "token_secret": r.TokenSecret})
	}
	encoded, failure := json.Marshal(list)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.server.Certificate().Raw})
	rotationsFile, ca := filepath.Join(folder, "rotations.json"), filepath.Join(folder, "ca.pem")
	err = errors.Join(err, failure, os.WriteFile(rotationsFile, encoded, 0o600), os.WriteFile(ca, authority, 0o600))
	c.env = []string{"PATH=" + os.Getenv("PATH"), "SSL_CERT_FILE=" + ca, "SECRETS_MANAGER_APIKEY=" + emulated.BootstrapAPIKey()}
	if rotations == 1 {
		c.env = append(c.env, "API_KEY_SECRET="+list[0]["api_key_secret"], "TOKEN_SECRET="+list[0]["token_secret"])
	} else {
		c.env = append(c.env, "ROTATIONS_FILE="+rotationsFile)
	}
	for _, variable := range []string{"IAM_URL", "SECRETS_MANAGER_URL"} {
		proxy, failure := ibmcloudtest.NewSlowProxy(c.server.Listener.Addr().String(), roundTrip)
		if err = errors.Join(err, failure); failure == nil {
			c.proxies = append(c.proxies, proxy)
			c.env = append(c.env, variable+"=https://"+proxy.Addr())
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *cloud) close() {
	for _, proxy := range c.proxies {
		_ = proxy.Close()
	}
	c.server.Close()
	_ = os.RemoveAll(c.folder)
}
