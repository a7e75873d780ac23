package readmetest

import (
	"regexp"
	"strings"
	"testing"
)

// masks replace what differs from run to run, in the sample as in what is printed.
var masks = []struct {
	shape *regexp.Regexp
	mask  string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`), "<time>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d`), "<day>"},
	{regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "<account>"},
	{regexp.MustCompile(`\b[0-9a-f]{16}\b`), "<fingerprint>"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<address>"},
	{regexp.MustCompile(`port \d+`), "<port>"},
	{regexp.MustCompile(`\d+ bytes`), "<bytes>"},
	{regexp.MustCompile(`https?://(…\S*|<address>)`), "<origin>"},
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+s\b`), "<while>"},
	{regexp.MustCompile(`(:secret:[\w/-]+)-\w{6}\b`), "$1-<random>"},
}

func masked(text string) string {
	for _, m := range masks {
		text = m.shape.ReplaceAllString(text, m.mask)
	}
	return text
}

// differs tells how a sample differs from what was printed, empty if it does not. In the sample, …
// stands for anything within a line; alone, for any lines.
func differs(sample, printed string) string {
	got := strings.Split(strings.TrimRight(masked(printed), "\n"), "\n")
	gap := false
	for _, line := range strings.Split(strings.TrimRight(masked(sample), "\n"), "\n") {
		if line == "…" {
			gap = true
			continue
		}
		shape := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "$")
		at := 0
		for gap && at < len(got) && !shape.MatchString(got[at]) {
			at++
		}
		if at >= len(got) || !shape.MatchString(got[at]) {
			return "it has the line\n  " + line + "\nwhere the command prints\n  " + strings.Join(got, "\n  ")
		}
		got, gap = got[at+1:], false
	}
	if len(got) > 0 && !gap {
		return "the command goes on to print\n  " + strings.Join(got, "\n  ")
	}
	return ""
}

// sampled is the block whose output a sample shows: the last commands before it on its page.
func sampled(sample *block) *block {
	var last *block
	for _, b := range sample.page.blocks {
		if b == sample {
			return last
		}
		if b.language == "sh" {
			last = b
		}
	}
	return nil
}

// checkSamples compares the samples of all blocks that this world has run.
func (w *world) checkSamples() {
	w.t.Helper()
	for _, b := range allBlocks(w.t) {
		if b.language != "text" || !b.is("output") {
			continue
		}
		printed, ran := w.printed[sampled(b)]
		if difference := differs(b.text, printed); ran && difference != "" {
			w.t.Errorf("%s: this sample is not what %s prints: %s", b.where(), sampled(b).where(), scrub(difference))
		}
	}
}

func TestEverySampleFollowsItsCommand(t *testing.T) {
	for _, b := range allBlocks(t) {
		if b.language == "text" && b.is("output") && (sampled(b) == nil || sampled(b).section != b.section) {
			t.Errorf("%s: no command stands above this output in its section", b.where())
		}
	}
}

func TestDiffers(t *testing.T) {
	for _, test := range []struct {
		sample, printed string
		same            bool
	}{
		{"a\nb", "a\nb\n", true},
		{"a\n…\nd", "a\nb\nc\nd\n", true},
		{"a\n…", "a\n", true},
		{"…\nb", "a\nb\nc\n", false},
		{"a…c", "abbc\n", true},
		{"a", "a\nb\n", false},
		{"a\nb", "a\n", false},
		{"a.c", "abc\n", false},
		{"in 59m59s at 2026-11-23T20:02:46Z", "in 1h0m0s at 2027-01-01T00:00:00.123Z\n", true},
		{"in 59m59s", "in time\n", false},
	} {
		if got := differs(test.sample, test.printed); (got == "") != test.same {
			t.Errorf("%q and %q: got %q, want them the same: %t", test.sample, test.printed, got, test.same)
		}
	}
}
