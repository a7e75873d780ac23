package canary

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// subject is a secret: it must come out nowhere but where the table of rules says.
type subject struct{ name, value string }

// How many characters of a subject are a leak: as they are, and when case and all but letters and digits are left out. They
// are as few as they can be without accidental hits among the millions of characters of a hunt.
const exactLength, foldedLength = 8, 10

// fragments are all parts of one length of the subjects.
type fragments struct {
	length int
	of     map[string]string // the subject's name by the fragment
	ends   *[1 << 18]bool    // by slot: of the ends of all fragments. It spares nearly all lookups
}

func newFragments(length int) fragments {
	return fragments{length, make(map[string]string, 1<<14), new([1 << 18]bool)}
}

// each calls do for each part of a text that is as long as a fragment, with its slot, which depends on its last eight characters.
func (f fragments) each(text string, do func(part string, slot uint64)) {
	var last uint64
	for i := range len(text) {
		last = last<<8 | uint64(text[i])
		if i+1 >= f.length {
			do(text[i+1-f.length:i+1], last*0x9e3779b97f4a7c15>>(64-18))
		}
	}
}

// add adds the fragments of a text that has few repetitions: not those of a mere "aaaa…".
func (f fragments) add(text, name string) {
	f.each(text, func(part string, slot uint64) {
		kinds := 0
		for i := range len(part) {
			if strings.IndexByte(part, part[i]) == i {
				kinds++
			}
		}
		if kinds > f.length/2 {
			f.of[part], f.ends[slot] = name, true
		}
	})
}

// in calls found with the subject of each fragment that is in the text.
func (f fragments) in(text string, found func(name string)) {
	f.each(text, func(part string, slot uint64) {
		if f.ends[slot] && f.of[part] != "" {
			found(f.of[part])
		}
	})
}

// index finds parts of subjects, forwards and backwards: as they are, folded, and under a mask.
type index struct{ exact, folded, masked fragments }

func newIndex(subjects []subject) index {
	x := index{newFragments(exactLength), newFragments(foldedLength), newFragments(foldedLength)}
	for _, s := range subjects {
		value := s.value
		if strings.HasPrefix(value, "eyJ") { // the header of a JWT is the same in all of an issuer's
			_, value, _ = strings.Cut(value, ".")
		}
		for _, text := range []string{value, reversed(value)} {
			x.exact.add(text, s.name)
			x.folded.add(fold(text), s.name)
			x.masked.add(steps(text), s.name)
		}
	}
	return x
}

// steps are the differences from each character to the next: alike whatever one byte all are masked with.
func steps(text string) string {
	var all []byte
	for i := 1; i < len(text); i++ {
		all = append(all, text[i]^text[i-1])
	}
	return string(all)
}

func reversed(text string) string {
	letters := []byte(text)
	slices.Reverse(letters)
	return string(letters)
}

// fold leaves letters and digits, in lower case: what is spaced, split over lines, quoted or in capitals becomes the same.
func fold(text string) string {
	out := make([]byte, 0, len(text))
	for i := range len(text) {
		switch c := text[i]; {
		case 'A' <= c && c <= 'Z':
			out = append(out, c|0x20)
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			out = append(out, c)
		}
	}
	return string(out)
}

// maxNesting is how many encodings inside each other are undone: base64 of gzip of JSON, say.
const maxNesting = 3

// A long text is searched in parts, which overlap by more than a secret is long.
const searchedAtOnce, overlap = 128 << 10, 8 << 10

// in returns the names of the subjects that the text holds a part of, in any encoding, with the encoding.
func (x index) in(text string) []string {
	found, seen := map[string]string{}, map[string]bool{}
	for len(text) > searchedAtOnce+overlap {
		x.search(text[:searchedAtOnce+overlap], "", 0, found, seen)
		text = text[searchedAtOnce:]
	}
	x.search(text, "", 0, found, seen)
	return slices.Sorted(maps.Values(found))
}

// search notes what the text holds, by the subject's name. How it was decoded is empty for a text as it came out.
func (x index) search(text, how string, nesting int, found map[string]string, seen map[string]bool) {
	if len(text) < exactLength || seen[text] {
		return
	}
	seen[text] = true
	note := func(how string) func(string) {
		return func(name string) { found[name] = cmp.Or(found[name], fmt.Sprintf("%s (%s)", name, how)) }
	}
	x.exact.in(text, note(cmp.Or(how, "as it is")))
	x.folded.in(fold(text), note(cmp.Or(how, "without separators or case")))
	if nesting < 2 {
		x.masked.in(steps(text), note(how+" under a mask"))
	}
	if nesting == maxNesting || how != "" && !worthwhile(text) {
		return
	}
	for _, d := range decoders {
		for _, decoded := range d.decode(text) {
			x.search(decoded, strings.TrimPrefix(how+", "+d.name, ", "), nesting+1, found, seen)
		}
	}
}

// worthwhile is whether a decoded text is more than noise, in which nothing more can be decoded.
func worthwhile(text string) bool {
	graphic := 0
	for i := range len(text) {
		if r := rune(text[i]); r < unicode.MaxASCII && (unicode.IsGraphic(r) || unicode.IsSpace(r)) {
			graphic++
		}
	}
	return graphic*10 > len(text)*7 || strings.HasPrefix(text, gzipMagic)
}

// decoders return what a text may mean. What several decode alike is searched once, so the plainest come first.
var decoders = []struct {
	name   string
	decode func(string) []string
}{
	{"hex", func(text string) (all []string) {
		for _, run := range runs(text, 16, digits+"abcdefABCDEF") {
			for start := range 2 {
				decoded, _ := hex.DecodeString(run[start : start+(len(run)-start)/2*2])
				all = append(all, string(decoded))
			}
		}
		return all
	}},
	{"base64", func(text string) (all []string) {
		for _, run := range runs(text, 12, digits+letters+"+/-_") {
			for _, run := range []string{standard.Replace(run), reversed(standard.Replace(run))} {
				for start := range 4 {
					decoded, _ := base64.RawStdEncoding.DecodeString(run[start : start+(len(run)-start)/4*4])
					all = append(all, string(decoded))
				}
			}
		}
		return all
	}},
	{"numbers", func(text string) (all []string) {
		words := runs(text, 1, digits+letters+"_")
		for _, base := range []int{8, 10, 16} {
			all = append(all, numbers(words, base)...)
		}
		return all
	}},
	{"one number", func(text string) (all []string) {
		for _, run := range runs(text, 24, digits) {
			if number, ok := new(big.Int).SetString(run, 10); ok && len(run) < 900 {
				all = append(all, string(number.Bytes()))
			}
		}
		return all
	}},
	{"gzip", unzip},
	{"over lines", columns},
	{"joined", func(text string) []string { return []string{blank.Replace(text)} }},
}

var (
	standard = strings.NewReplacer("-", "+", "_", "/") // base64, of that for URLs
	blank    = strings.NewReplacer(" ", "", "\t", "", "\n", "", "\f", "", "\r", "", `\n`, "", `\r`, "", `\t`, "")
)

const digits, letters = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// runs are so many characters of an alphabet or more, one after another. A regular expression takes ten times as long.
func runs(text string, least int, alphabet string) []string {
	var isIn [256]bool
	for i := range len(alphabet) {
		isIn[alphabet[i]] = true
	}
	all := strings.FieldsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !isIn[r] })
	return slices.DeleteFunc(all, func(run string) bool { return len(run) < least })
}

// prefixes of a byte in a base, as in 0x58, \x58, \u0058 and 0o130.
var prefixes = map[int][]string{16: {"0x", "x", "u00"}, 8: {"0o", "0"}}

// numbers reads a list of bytes, whatever stands between them, and every second number of it alone: the others may count. Words
// that are no numbers of the base stand between; a larger number is 0.
func numbers(words []string, base int) []string {
	var all [3][]byte
	i := 0
	for _, word := range words {
		for _, prefix := range prefixes[base] {
			if digits, ok := strings.CutPrefix(word, prefix); ok && len(digits) > 1 {
				word = digits
				break
			}
		}
		if word[0] > '9' && base < 16 || base == 16 && len(word) != 2 || base == 8 && (len(word) < 2 || len(word) > 3) {
			continue
		}
		value, err := strconv.ParseUint(word, base, 64)
		if err != nil && value == 0 { // it is no number
			continue
		}
		if value > 255 {
			value = 0
		}
		all[0], all[1+i%2] = append(all[0], byte(value)), append(all[1+i%2], byte(value))
		i++
	}
	return []string{string(all[0]), string(all[1]), string(all[2])}
}

const gzipMagic = "\x1f\x8b"

// unzip undoes gzip anywhere.
func unzip(text string) (all []string) {
	for _, zipped, found := strings.Cut(text, gzipMagic); found; _, zipped, found = strings.Cut(zipped, gzipMagic) {
		if reader, err := gzip.NewReader(strings.NewReader(gzipMagic + zipped)); err == nil {
			plain, _ := io.ReadAll(io.LimitReader(reader, 1<<20))
			all = append(all, string(plain))
		}
	}
	return all
}

// columns are what stands at the same place of all lines, counted from the beginning and from the end: a secret in pieces.
func columns(text string) []string {
	all := map[int]string{}
	for line := range strings.Lines(text) {
		words := strings.FieldsFunc(line, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`"',:={}[]()`, r) })
		for i, word := range words {
			all[i] += word
			all[i-len(words)] += word
		}
	}
	return slices.Collect(maps.Values(all))
}

// TestTheSearchFinds: a search that finds nothing would pass every other test.
func TestTheSearchFinds(t *testing.T) {
	const key = "Xq7-kV2_mPz0_Lr4tGw8-Hs1dNf6yBc3eJa9uKo5iQvT"
	raw := []byte(key)
	x := newIndex([]subject{{"planted", key}})
	each := func(format, between string) string {
		var parts []string
		for _, b := range raw {
			parts = append(parts, fmt.Sprintf(format, b))
		}
		return strings.Join(parts, between)
	}
	pieces := func(text string, size int, between string) string {
		var parts []string
		for part := range slices.Chunk([]byte(text), size) {
			parts = append(parts, string(part))
		}
		return strings.Join(parts, between)
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(`{"apikey":"` + key + `"}`))
	_ = w.Close()
	encoded := base64.StdEncoding.EncodeToString
	for name, leak := range map[string]string{
		"whole": key, "8 characters": key[17:25], "reversed": reversed(key), "capitals": strings.ToUpper(key[:12]), "reversed in capitals": strings.ToUpper(reversed(key)),
		"spaced": each("%c", " "), "a line each": each("%c", "\n"), "quoted": each("%q", ", "), "UTF-16": each("%c", "\x00"), "soft breaks": pieces(key, 5, "=\r\n"),
		"base64": encoded(raw), "base64, 1 before": encoded([]byte(":" + key)), "base64, 2 before": base64.URLEncoding.EncodeToString([]byte("u:" + key)),
		"base64 in lines": pieces(encoded(raw), 9, "\r\n"), "base64 twice": encoded([]byte(encoded(raw))), "a part in base64": base64.RawStdEncoding.EncodeToString(raw[5:20]),
		"hex": hex.EncodeToString(raw), "HEX": strings.ToUpper(hex.EncodeToString(raw[3:])), "% x": fmt.Sprintf("% x", raw), "%#v": fmt.Sprintf("%#v", raw), "colons": each("%02x", ":"),
		"%v": fmt.Sprint(raw), "decimal, a line each": each("%d", "\n"), "numbered": each("\nbyte: %d", "; n 3 "), "octal": each("%o", " "), `\ooo`: each(`\%03o`, ""), "0o": each("%O", " "),
		"JSON numbers": each("%d.0", ", "), `\x`: each(`\x%02x`, ""), `\u`: each(`\u%04x`, ""), "entities": each("&#%d;", ""), "hex entities": each("&#x%x;", ""), "%": each("%%%02X", ""),
		"gzip": "\n" + zipped.String(), "gzip in base64": encoded(zipped.Bytes()), "gzip in hex": hex.EncodeToString(zipped.Bytes()),
		"a log": "\n" + pieces(key, 4, "\"}\n{\"time\":\"2026-01-01T00:00:00Z\",\"part\":\""), "columns": pieces(key, 4, " of 11\nINFO part="),
		"base64 backwards": reversed(encoded(raw)), "a number": new(big.Int).SetBytes(raw).String(), "a word of a stack trace": "main.f(0x" + hex.EncodeToString([]byte(reversed(key[8:16]))) + ", 0x2c)",
		"masked": hex.EncodeToString(bytes.Map(func(r rune) rune { return r ^ 0x15 }, raw)),
	} {
		if len(x.in("some text: "+leak+" and more")) == 0 {
			t.Errorf("%s: not found in %q", name, leak)
		}
	}
	for name, text := range map[string]string{
		"nothing": "", "7 characters": key[:7] + " " + key[30:37], "noise": rand.Text() + strings.Repeat(rand.Text(), 1000),
		"a log": strings.Repeat("the token expires 2026-01-01T00:00:00Z, fingerprint 1f3a5b7c9d0e2f4a; ", 100),
	} {
		if hits := x.in(text); len(hits) != 0 {
			t.Errorf("%s: got %q, want nothing", name, hits)
		}
	}
}
