// Command package packs files into a zip for AWS Lambda, and writes the licences of what is in a binary. The same files give
// the same bytes: names are bare, times fixed and modes set here, not read from disk.
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
	"runtime/debug"
	"strings"
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

// writeNotice writes the notice of third parties: which modules are in a built binary, in which version, and under what
// licence, with its text. What is in the binary is read from the binary; the texts come from the module cache, which go.sum
// vouches for.
func writeNotice(out, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("reading what %s is made of: %w", binary, err)
	}
	parts, err := thirdParties(info)
	if err != nil {
		return err
	}
	if err = envfile.WriteWhole(out, render(parts), 0o644); err == nil {
		fmt.Printf("%s: %d modules\n", out, len(parts))
	}
	return err
}

// party is a module with what its licence asks to be handed on.
type party struct {
	module, version string
	texts           []text
}

// text is a file of a module: LICENSE, NOTICE, …
type text struct{ name, content string }

// licenceNames are the files that licences ask to hand on.
var licenceNames = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([-._].*)?$`)

// thirdParties are Go itself, whose library and runtime are in every binary, and the modules, in the binary's order.
func thirdParties(info *debug.BuildInfo) ([]party, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("asking go for its folder: %w", err)
	}
	texts, err := licences(strings.TrimSpace(string(root)))
	if err != nil {
		return nil, fmt.Errorf("the Go distribution: %w", err)
	}
	parties := []party{{"Go standard library and runtime", info.GoVersion, texts}}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		folder, err := moduleFolder(module.Path, module.Version)
		if err == nil {
			texts, err = licences(folder)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", module.Path, err)
		}
		parties = append(parties, party{module.Path, module.Version, texts})
	}
	return parties, nil
}

// moduleFolder is where the module cache has the module; it is downloaded if need be.
func moduleFolder(path, version string) (string, error) {
	answer, err := exec.Command("go", "mod", "download", "-json", path+"@"+version).Output() // #nosec G204 -- names from our own binary
	if err != nil {
		return "", fmt.Errorf("downloading: %w", err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(answer, &module); err != nil {
		return "", fmt.Errorf("reading its build information: %w", err)
	}
	return module.Dir, nil
}

// licences reads the texts of a folder. None is an error: what has no licence may not be handed on.
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
		content = bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n"))
		texts = append(texts, text{entry.Name(), strings.TrimRight(string(content), "\n") + "\n"})
	}
	if len(texts) == 0 {
		return nil, errors.New("it has no licence file")
	}
	return texts, nil
}

const heading = `Third parties in iam-token-rotator

The binary holds the software listed here, each under its own licence. The texts
follow the list; one that several share is listed once.

`

// rule precedes every text.
var rule = strings.Repeat("=", 80) + "\n"

// render writes the list and the texts: the same bytes for the same modules.
func render(parties []party) []byte {
	var out strings.Builder
	out.WriteString(heading)
	sharers := map[string][]string{}
	var order []string
	for _, p := range parties {
		names := make([]string, 0, len(p.texts))
		for _, t := range p.texts {
			names = append(names, t.name)
			if sharers[t.content] == nil {
				order = append(order, t.content)
			}
			sharers[t.content] = append(sharers[t.content], p.module+": "+t.name)
		}
		fmt.Fprintf(&out, "%s %s (%s)\n", p.module, p.version, strings.Join(names, ", "))
	}
	for _, content := range order {
		out.WriteString("\n" + rule)
		for _, sharer := range sharers[content] {
			out.WriteString(sharer + "\n")
		}
		out.WriteString(rule + "\n" + content)
	}
	return []byte(out.String())
}
