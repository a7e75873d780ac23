package main

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, file, content string, mode os.FileMode) {
	t.Helper()
	_ = os.Remove(file)
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// twice calls a function two times, checks that it writes the same bytes to out, and returns them.
func twice(t *testing.T, do func(time int, out string) error) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	var written [2][]byte
	for i := range written {
		err := do(i, out)
		if err == nil {
			written[i], err = os.ReadFile(out)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(written[0], written[1]) {
		t.Error("got other bytes the second time")
	}
	return written[0]
}

func TestTheSameFilesGiveTheSameBytes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bootstrap")
	packed := twice(t, func(i int, out string) error {
		write(t, file, strings.Repeat("binary", 1000), []os.FileMode{0o600, 0o777}[i])
		when := time.Unix(int64(1e9*(i+1)), 0)
		if err := os.Chtimes(file, when, when); err != nil {
			return err
		}
		return pack(out, []string{file})
	})
	archive, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	if got := archive.File[0]; got.Name != "bootstrap" || got.Mode() != 0o755 {
		t.Errorf("got %s %s, want an executable bootstrap", got.Mode(), got.Name)
	}
}

func TestAMissingFileLeavesTheOldZip(t *testing.T) {
	out := filepath.Join(t.TempDir(), "rotate.zip")
	write(t, out, "old", 0o600)
	err := pack(out, []string{"no-such-file"})
	if content, _ := os.ReadFile(out); err == nil || string(content) != "old" {
		t.Errorf("got %v, and in the old zip %q", err, content)
	}
}

// The binary is that of this test.
func TestTheNoticeNamesWhatIsInABinary(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	notice := string(twice(t, func(_ int, out string) error { return writeNotice(out, binary) }))
	for _, want := range []string{"Go standard library and runtime go1.", "Redistributions in binary form must reproduce"} {
		if !strings.Contains(notice, want) {
			t.Errorf("got no %q in the notice", want)
		}
	}
}

func TestASharedTextStandsOnce(t *testing.T) {
	const licence = "Apache License\n"
	got := string(render([]party{
		{Path: "a", Version: "v1.0.0", texts: []text{{"LICENSE", licence}, {"NOTICE.txt", "Copyright A\n"}}},
		{Path: "b", Version: "v2.0.0", texts: []text{{"LICENSE.txt", licence}}},
	}))
	for want, times := range map[string]int{
		licence: 1, "Copyright A": 1, "a v1.0.0 (LICENSE, NOTICE.txt)\n": 1, "b v2.0.0 (LICENSE.txt)\n": 1, "a: LICENSE\nb: LICENSE.txt\n": 1,
	} {
		if n := strings.Count(got, want); n != times {
			t.Errorf("got %q %d times, want %d", want, n, times)
		}
	}
}

func TestWhatHasNoLicenceIsAnError(t *testing.T) {
	folder := t.TempDir()
	for name, is := range map[string]bool{
		"README.md": false, "noticeboard.txt": false, "LICENSE": true, "License.txt": true, "LICENCE": true, "COPYING": true, "NOTICE.md": true, "LICENSE-MIT": true, "PATENTS": true,
	} {
		write(t, filepath.Join(folder, name), "a text", 0o600)
		texts, err := licences(folder)
		if (err == nil) != is || is && (len(texts) != 1 || texts[0] != (text{name, "a text\n"})) {
			t.Errorf("%s alone: got %v, %v; want a licence: %t", name, texts, err, is)
		}
		_ = os.Remove(filepath.Join(folder, name))
	}
}
