// Command bench measures what a rotation costs, against the floor and against
// what people use today, and prints one table. Every ratio is of figures taken
// in the same run, since machines differ and are noisy; medians of several runs.
//
// It expects the programs bootstrap, invoke, sandbox, hello, hellosdks and plainsdk in
// one folder, and curl and jq on the PATH.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/envfile"
)

func main() {
	if len(os.Args) > 3 && os.Args[1] == "measure" {
		os.Exit(measureChild(os.Args[2], os.Args[3:]))
	}
	bin := flag.String("bin", "build/local", "folder with the built programs")
	runs := flag.Int("runs", 5, "runs of each; the median counts")
	roundTrip := flag.Duration("rtt", 200*time.Millisecond, "a round trip to IBM Cloud")
	many := flag.Int("many", 1000, "rotations in the row for many")
	zip := flag.String("zip", "build/rotate.zip", "the packed function")
	flag.Parse()
	if err := bench(*bin, *zip, *runs, *many, *roundTrip); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench takes the measurements in turn and prints a row for each.
func bench(bin, zip string, runs, many int, roundTrip time.Duration) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	b := bencher{bin: bin, runs: runs}
	table := newTable(os.Stdout)
	if err := b.oneRotation(table, roundTrip); err != nil {
		return err
	}
	if err := b.coldStart(table, zip); err != nil {
		return err
	}
	if err := b.manyRotations(table, many, 40*time.Millisecond, 16); err != nil {
		return err
	}
	return table.Flush()
}

// measureChild runs a command and writes what it used to file. It passes SIGTERM
// on, with which the Lambda host ends a process.
func measureChild(file string, command []string) int {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	process := exec.Command(command[0], command[1:]...)
	process.Stdin, process.Stdout, process.Stderr = os.Stdin, os.Stdout, os.Stderr
	began := time.Now()
	if err := process.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 2
	}
	go func() {
		<-terminated
		_ = process.Process.Signal(syscall.SIGTERM)
	}()
	_ = process.Wait()
	content, err := json.Marshal(usageOf(time.Since(began), process.ProcessState))
	if err != nil || os.WriteFile(file, content, 0o600) != nil {
		fmt.Fprintln(os.Stderr, "bench: writing what the command used failed")
		return 1
	}
	return 0
}

// stage is a running sandbox behind a proxy for each host, a round trip away.
type stage struct {
	sandbox *exec.Cmd
	proxies []*ibmcloudtest.SlowProxy
	folder  string
	env     []string
}

func (b bencher) newStage(rotations int, roundTrip time.Duration) (*stage, error) {
	folder, err := os.MkdirTemp("", "iam-token-rotator-bench-")
	if err != nil {
		return nil, err
	}
	s := &stage{folder: folder}
	file := filepath.Join(folder, "sandbox.env")
	s.sandbox = exec.Command(filepath.Join(b.bin, "sandbox"), "-addr", "127.0.0.1:0", "-tls-dir", folder, "-env", file, "-rotations", fmt.Sprint(rotations))
	if err := s.sandbox.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the sandbox: %w", err), os.RemoveAll(folder))
	}
	if err := s.furnish(file, roundTrip); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// furnish takes the sandbox's environment, with the hosts behind proxies.
func (s *stage) furnish(file string, roundTrip time.Duration) error {
	env, err := envfile.Await(context.Background(), file, 20*time.Second)
	if err != nil {
		return err
	}
	s.env = []string{"PATH=" + os.Getenv("PATH"), "SSL_CERT_FILE=" + filepath.Join(s.folder, "ca.pem")}
	for name, value := range env {
		if name == "IAM_URL" || name == "SECRETS_MANAGER_URL" {
			if value, err = s.behindProxy(value, roundTrip); err != nil {
				return err
			}
		}
		s.env = append(s.env, name+"="+value)
	}
	return nil
}

func (s *stage) behindProxy(origin string, roundTrip time.Duration) (string, error) {
	target, err := url.Parse(origin)
	if err != nil {
		return "", err
	}
	proxy, err := ibmcloudtest.NewSlowProxy(target.Host, roundTrip)
	if err != nil {
		return "", err
	}
	s.proxies = append(s.proxies, proxy)
	return "https://" + proxy.Addr(), nil
}

func (s *stage) stop() {
	_ = s.sandbox.Process.Signal(syscall.SIGTERM)
	_ = s.sandbox.Wait()
	for _, proxy := range s.proxies {
		_ = proxy.Close()
	}
	_ = os.RemoveAll(s.folder)
}
