// Command bench measures what a rotation costs, against the floor and against
// what people use today, and prints one table. Every ratio is of figures taken
// in the same run, since machines differ and are noisy; medians of several runs.
//
// It expects the programs bootstrap, invoke, sandbox, hello, hellosdks and plainsdk in
// one folder, and curl and jq on the PATH.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
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
