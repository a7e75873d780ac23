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
	"syscall"
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

// Offer is Write for a running sandbox. The sandbox calls remove when it ends: that deletes the file, unless it has
// changed. Until then the file is locked, and it is an error to offer it again. The lock of a killed sandbox ends with
// it: then Offer takes the file over, and says so on stderr.
func Offer(sandbox, file, lines string, stdout, stderr io.Writer) (remove func(), err error) {
	if file == "" || file == "-" {
		return func() {}, Write(file, lines, stdout)
	}
	before, err := lock(file)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s belongs to a sandbox that still runs: stop that one first, or give this one another file: build/local/%s -env FILE", file, sandbox)
	}
	defer func() { _ = before.Close() }()
	if err := Write(file, lines, stdout); err != nil {
		return nil, err
	}
	if before != nil {
		_, _ = fmt.Fprintf(stderr, "%s: %s existed, from a sandbox that was killed: it now describes this one\n", sandbox, file)
	}
	held, _ := lock(file)
	return func() {
		if found, err := os.ReadFile(file); err == nil && string(found) == lines {
			_ = os.Remove(file)
		}
		_ = held.Close()
	}, nil
}

// Explain prints how to use a file that is offered; format has one %s, for what sh sources.
func Explain(stdout io.Writer, format, file string) {
	if file == "" || file == "-" {
		return
	}
	if !strings.Contains(file, "/") {
		file = "./" + file
	}
	_, _ = fmt.Fprintf(stdout, format, file)
}

// lock locks a file, and returns nil if there is none. It does not wait, not even for the writer of a pipe.
func lock(file string) (*os.File, error) {
	opened, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(opened.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		_ = opened.Close()
		return nil, err
	}
	return opened, nil // also on a file system without locks
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
