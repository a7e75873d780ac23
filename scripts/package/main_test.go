package main

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
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
