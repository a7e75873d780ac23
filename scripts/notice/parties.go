package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
)

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
		return "", fmt.Errorf("reading what go tells of it: %w", err)
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
