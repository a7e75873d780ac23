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

func TestTheSameFilesGiveTheSameBytes(t *testing.T) {
	dir := t.TempDir()
	var packed [][]byte
	for i, mode := range []os.FileMode{0o600, 0o777} {
		file := filepath.Join(dir, "bootstrap")
		_ = os.Remove(file)
		if err := os.WriteFile(file, bytes.Repeat([]byte("binary"), 1000), mode); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1e9*(i+1)), 0)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, "rotate.zip")
		if err := pack(out, []string{file}); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		packed = append(packed, content)
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("got other bytes for the same content")
	}
	archive, err := zip.NewReader(bytes.NewReader(packed[0]), int64(len(packed[0])))
	if err != nil {
		t.Fatal(err)
	}
	if got := archive.File[0]; got.Name != "bootstrap" || got.Mode() != 0o755 {
		t.Errorf("got %s %s, want an executable bootstrap", got.Mode(), got.Name)
	}
}

func TestAMissingFileLeavesTheOldZip(t *testing.T) {
	out := filepath.Join(t.TempDir(), "rotate.zip")
	if err := os.WriteFile(out, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pack(out, []string{"no-such-file"}); err == nil {
		t.Error("got no error")
	}
	if content, _ := os.ReadFile(out); string(content) != "old" {
		t.Error("the old zip was overwritten")
	}
}

// TestTheNoticeNamesWhatIsInABinary: this test binary is one.
func TestTheNoticeNamesWhatIsInABinary(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var notices [][]byte
	for range 2 {
		out := filepath.Join(t.TempDir(), "THIRD-PARTY.txt")
		if err := writeNotice(out, binary); err != nil {
			t.Fatal(err)
		}
		notice, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		notices = append(notices, notice)
	}
	if !bytes.Equal(notices[0], notices[1]) {
		t.Error("got other bytes for the same binary")
	}
	for _, want := range []string{"Go standard library and runtime go1.", "Redistributions in binary form must reproduce"} {
		if !strings.Contains(string(notices[0]), want) {
			t.Errorf("got no %q in the notice", want)
		}
	}
}

func TestASharedTextStandsOnce(t *testing.T) {
	const licence = "Apache License\n"
	got := string(render([]party{
		{"a", "v1.0.0", []text{{"LICENSE", licence}, {"NOTICE.txt", "Copyright A\n"}}},
		{"b", "v2.0.0", []text{{"LICENSE.txt", licence}}},
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
	if err := os.WriteFile(filepath.Join(folder, "README"), []byte("no licence"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := licences(folder); err == nil {
		t.Error("got no error for a module without a licence")
	}
	for _, name := range []string{"LICENSE", "License.txt", "LICENCE", "COPYING", "NOTICE.md", "LICENSE-MIT", "PATENTS"} {
		if !licenceNames.MatchString(name) {
			t.Errorf("%s does not count as a licence", name)
		}
	}
	for _, name := range []string{"README.md", "noticeboard.txt"} {
		if licenceNames.MatchString(name) {
			t.Errorf("%s counts as a licence", name)
		}
	}
}
