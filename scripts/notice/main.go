// Command notice writes the notice of third parties: which modules are in a built binary, in which version, and under what
// licence, with its text. What is in the binary is read from the binary; the texts come from the module cache, which go.sum
// vouches for.
package main

import (
	"debug/buildinfo"
	"flag"
	"fmt"
	"os"
)

func main() {
	out := flag.String("o", "", "the notice to write")
	flag.Parse()
	if *out == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: notice -o FILE BINARY")
		os.Exit(2)
	}
	if err := write(*out, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "notice:", err)
		os.Exit(1)
	}
}

// write writes the notice for the binary, whole or not at all.
func write(out, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("reading what %s is made of: %w", binary, err)
	}
	parts, err := thirdParties(info)
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".tmp", render(parts), 0o644); err != nil { // #nosec G306 -- it is for everybody to read
		return fmt.Errorf("writing the notice: %w", err)
	}
	if err := os.Rename(out+".tmp", out); err != nil {
		return fmt.Errorf("writing the notice: %w", err)
	}
	fmt.Printf("%s: %d modules\n", out, len(parts))
	return nil
}
