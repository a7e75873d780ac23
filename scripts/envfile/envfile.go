// Package envfile passes the environment of a sandbox to the programs that use it: in a file of
// NAME='value' lines for sh, which is written atomically once the sandbox listens.
package envfile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Lines renders variables, each a name and a value, as NAME='value' lines for sh.
func Lines(variables [][2]string) (text string) {
	for _, v := range variables {
		text += v[0] + "='" + strings.ReplaceAll(v[1], "'", `'\''`) + "'\n"
	}
	return text
}

// Write writes lines to a file of mode 0600, to stdout if file is "-", or nowhere if file is empty.
func Write(file, lines string, stdout io.Writer) error {
	switch file {
	case "":
		return nil
	case "-":
		_, err := io.WriteString(stdout, lines)
		return err
	default:
		return WriteWhole(file, []byte(lines), 0o600)
	}
}

// Offer is Write for a running sandbox. The sandbox calls remove when it ends: that deletes the file, unless
// another sandbox has written it meanwhile. If the file exists already, Offer says so on stderr.
func Offer(sandbox, file, lines string, stdout, stderr io.Writer) (remove func(), err error) {
	_, missing := os.Lstat(file)
	if err := Write(file, lines, stdout); err != nil {
		return func() {}, err
	}
	if missing == nil && file != "-" {
		_, _ = fmt.Fprintf(stderr, "%s: %s existed, from another sandbox or one that was killed: it now describes this one\n", sandbox, file)
	}
	return func() { Remove(file, lines) }, nil
}

// Remove deletes a file if it still has this content.
func Remove(file, content string) {
	if found, err := os.ReadFile(file); err == nil && string(found) == content {
		_ = os.Remove(file)
	}
}

// WriteWhole writes a file atomically, by renaming: a reader sees the old or the new content, never a part. It
// refuses to replace a device, which root could do, or a pipe.
func WriteWhole(path string, content []byte, mode os.FileMode) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("writing a file: %s is there, and is not a regular file", path)
	}
	temp, err := WriteTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*", content, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("putting a file in place: %w", err)
	}
	return nil
}

// WriteTemp writes a new file in dir, by default the system's folder for temporary files, and returns its path.
func WriteTemp(dir, pattern string, content []byte, mode os.FileMode) (string, error) {
	file, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return "", fmt.Errorf("making a file: %w", err)
	}
	_, err = file.Write(content)
	// Sync: the file may be a new API key, which IAM shows only once, and a crash must not lose it.
	if err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close()); err != nil {
		_ = os.Remove(file.Name())
		return "", fmt.Errorf("writing a file: %w", err)
	}
	return file.Name(), nil
}

// Await waits for a file to appear, at most for patience, and returns its variables.
func Await(ctx context.Context, file string, patience time.Duration) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if variables, err := Read(file); err == nil {
			return variables, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("the sandbox did not start: waiting for %s: %w", filepath.Base(file), ctx.Err())
		}
	}
}

// Read returns the variables of a file of NAME='value' lines.
func Read(file string) (map[string]string, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	variables := map[string]string{}
	for line := range strings.Lines(string(content)) {
		name, value, found := strings.Cut(strings.TrimSuffix(line, "\n"), "='")
		if found {
			variables[name] = strings.ReplaceAll(strings.TrimSuffix(value, "'"), `'\''`, "'")
		}
	}
	return variables, nil
}
