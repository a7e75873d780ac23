// Command package packs files into a zip for AWS Lambda, and writes the licences of what is in a binary. The same files give
// the same bytes: names are bare, times fixed and modes set here, not read from disk.
package main

import (
	"archive/zip"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"iam-token-rotator/scripts/envfile"
)

func main() {
	out := flag.String("o", "", "write the `ZIP`")
	notice := flag.String("notice", "", "write the licences of what is in a binary to `FILE`")
	flag.Parse()
	var err error
	switch {
	case *out != "" && *notice == "" && flag.NArg() > 0:
		err = pack(*out, flag.Args())
	case *notice != "" && *out == "" && flag.NArg() == 1:
		err = writeNotice(*notice, flag.Arg(0))
	default:
		fmt.Fprintln(os.Stderr, "usage: package -o ZIP FILE…\n       package -notice FILE BINARY")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

// pack writes the zip out with files in it, in that order, under their base
// names. Out appears whole or not at all.
func pack(out string, files []string) error {
	var packed bytes.Buffer
	archive := zip.NewWriter(&packed)
	for _, file := range files {
		if err := add(archive, file); err != nil {
			return fmt.Errorf("packing %s: %w", file, err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("finishing %s: %w", out, err)
	}
	err := envfile.WriteWhole(out, packed.Bytes(), 0o644)
	if err == nil {
		fmt.Printf("%s: %d bytes\n", out, packed.Len())
	}
	return err
}

func add(archive *zip.Writer, file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	header := &zip.FileHeader{
		Name:   filepath.Base(file),
		Method: zip.Deflate,
		// The earliest time that a zip can hold.
		Modified: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	header.SetMode(0o644)
	if header.Name == "bootstrap" {
		header.SetMode(0o755) // Lambda runs it
	}
	entry, err := archive.CreateHeader(header)
	if err == nil {
		_, err = entry.Write(content)
	}
	return err
}
