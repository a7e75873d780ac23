// Command package packs files into a zip for AWS Lambda, or writes the licences of the modules in a binary. The
// same files give the same bytes: entries have the files' base names, a fixed time, and modes set here.
package main

import (
	"archive/zip"
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"iam-token-rotator/scripts/envfile"
)

func main() {
	out := flag.String("o", "", "write the `ZIP`")
	notice := flag.String("notice", "", "write the licences of the modules in a binary to `FILE`")
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

// pack writes a zip of the files, in this order. It writes out atomically.
func pack(out string, files []string) error {
	var packed bytes.Buffer
	archive := zip.NewWriter(&packed)
	for _, file := range files {
		const earliest = 1980 // the first year that a zip can hold
		header := &zip.FileHeader{Name: filepath.Base(file), Method: zip.Deflate, Modified: time.Date(earliest, 1, 1, 0, 0, 0, 0, time.UTC)}
		header.SetMode(0o644)
		if header.Name == "bootstrap" {
			header.SetMode(0o755) // Lambda runs it
		}
		content, err := os.ReadFile(file)
		if err == nil {
			entry, failure := archive.CreateHeader(header)
			if err = failure; err == nil {
				_, err = entry.Write(content)
			}
		}
		if err != nil {
			return fmt.Errorf("packing %s: %w", file, err)
		}
	}
	err := archive.Close()
	if err == nil {
		err = envfile.WriteWhole(out, packed.Bytes(), 0o644)
	}
	if err == nil {
		fmt.Printf("%s: %d bytes\n", out, packed.Len())
	}
	return err
}

// party is a module, with the texts that its licence requires to pass on.
type party struct {
	Path, Version string
	Dir           string // in the module cache, whose content go.sum verifies
	texts         []text
}

// text is a file of a module: LICENSE, NOTICE, …
type text struct{ name, content string }

// licenceNames matches the names of files that must be passed on.
var licenceNames = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-._].*)?$`)

// writeNotice lists the modules in a binary with their versions and the texts of their licences. Go's own library
// and runtime, which are in every binary, come first; the modules follow in the binary's order.
func writeNotice(out, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("reading the modules in %s: %w", binary, err)
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	parties := []party{{Path: "Go standard library and runtime", Version: info.GoVersion, Dir: strings.TrimSpace(string(root))}}
	arguments := []string{"mod", "download", "-json"}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		arguments = append(arguments, module.Path+"@"+module.Version)
	}
	var listed []byte
	if len(info.Deps) > 0 { // without arguments, go would list all dependencies of this module
		listed, err = exec.Command("go", arguments...).Output() // #nosec G204 -- names from our own binary
	}
	for decoder := json.NewDecoder(bytes.NewReader(listed)); err == nil && decoder.More(); {
		var p party
		err = decoder.Decode(&p)
		parties = append(parties, p)
	}
	if err != nil || len(parties) != len(info.Deps)+1 {
		return fmt.Errorf("downloading the modules: %w", errors.Join(err, errors.New("go mod download did not list all of them")))
	}
	for i := range parties {
		if parties[i].texts, err = licences(parties[i].Dir); err != nil {
			return fmt.Errorf("%s: %w", parties[i].Path, err)
		}
	}
	if err = envfile.WriteWhole(out, render(parties), 0o644); err == nil {
		fmt.Printf("%s: %d modules\n", out, len(parties))
	}
	return err
}

// licences reads the texts of a folder. It is an error if there is none, because the module may not be passed on then.
func licences(folder string) ([]text, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var texts []text
	for _, entry := range entries {
		if entry.IsDir() || !licenceNames.MatchString(entry.Name()) {
			continue
		}
		content, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		texts = append(texts, text{entry.Name(), strings.TrimRight(strings.ReplaceAll(string(content), "\r\n", "\n"), "\n") + "\n"})
	}
	if len(texts) == 0 {
		return nil, errors.New("it has no licence file")
	}
	return texts, nil
}

// render writes the list and the texts: the same bytes for the same modules.
func render(parties []party) []byte {
	var out, texts bytes.Buffer
	out.WriteString("Third parties in iam-token-rotator\n\nThe binary contains the software listed here, each part under its own licence. The\n" +
		"texts follow the list; a text that several parts share is printed once.\n\n")
	sharers := map[string]string{}
	var order []string // the texts, in the order of their first occurrence
	for _, p := range parties {
		var names []string
		for _, t := range p.texts {
			names = append(names, t.name)
			if !slices.Contains(order, t.content) {
				order = append(order, t.content)
			}
			sharers[t.content] += p.Path + ": " + t.name + "\n"
		}
		fmt.Fprintf(&out, "%s %s (%s)\n", p.Path, p.Version, strings.Join(names, ", "))
	}
	rule := strings.Repeat("=", 80) + "\n"
	for _, content := range order {
		texts.WriteString("\n" + rule + sharers[content] + rule + "\n" + content)
	}
	return append(out.Bytes(), texts.Bytes()...)
}
