// Command package packs files into a zip for AWS Lambda. The same files give the
// same bytes: names are bare, times fixed and modes set here, not taken from disk.
package main

import (
	"archive/zip"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

func main() {
	out := flag.String("o", "", "the zip to write")
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: package -o FILE.zip FILE…")
		os.Exit(2)
	}
	if err := pack(*out, flag.Args()); err != nil {
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
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("finishing %s: %w", out, err)
	}
	if err := os.WriteFile(out+".tmp", packed.Bytes(), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	if err := os.Rename(out+".tmp", out); err != nil {
		return fmt.Errorf("writing %s: %w", out, err)
	}
	fmt.Printf("%s: %d bytes\n", out, packed.Len())
	return nil
}

func add(archive *zip.Writer, file string) error {
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
	if err != nil {
		return fmt.Errorf("packing %s: %w", file, err)
	}
	content, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	defer func() { _ = content.Close() }()
	if _, err := io.Copy(entry, content); err != nil {
		return fmt.Errorf("packing %s: %w", file, err)
	}
	return nil
}
