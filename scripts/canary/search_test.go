package canary

import (
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"crypto/rand"
	"encoding/ascii85"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// subject is what must come out nowhere but where the table of rules says.
type subject struct{ name, value string }

// How many characters of a subject are a leak: as they are, and when case and all but letters and digits are left out. They
// are as few as they can be without accidental hits among the millions of characters of a hunt.
const exactLength, foldedLength = 8, 10

// index finds parts of subjects, forwards and backwards.
type index struct{ exact, folded, steps parts }

// parts are all parts of one length, with the subject of each.
type parts struct {
	length int
	names  map[string]string
	ends   *[1 << 18]bool // by slot: of the ends of all parts. It spares nearly all looks into names
}

func newParts(length int) parts {
	return parts{length, make(map[string]string, 1<<14), new([1 << 18]bool)}
}

// each calls do for each part of a text, with its slot, which depends on the part's last eight characters.
func (p parts) each(text string, do func(part string, slot uint64)) {
	var last uint64
	for i := range len(text) {
		last = last<<8 | uint64(text[i])
		if i+1 >= p.length {
			do(text[i+1-p.length:i+1], last*0x9e3779b97f4a7c15>>(64-18))
		}
	}
}

func (p parts) add(text, name string) {
	p.each(text, func(part string, slot uint64) { p.names[part], p.ends[slot] = name, true })
}

// in calls found with the subject of each part that is in the text.
func (p parts) in(text string, found func(name string)) {
	p.each(text, func(part string, slot uint64) {
		if p.ends[slot] && p.names[part] != "" {
			found(p.names[part])
		}
	})
}

func newIndex(subjects []subject) index {
	x := index{newParts(exactLength), newParts(foldedLength), newParts(foldedLength)}
	for _, s := range subjects {
		value := s.value
		if strings.HasPrefix(value, "eyJ") { // the header of a JWT is the same in all of an issuer's
			_, value, _ = strings.Cut(value, ".")
		}
		for _, text := range []string{value, reversed(value), strings.Map(rot13, value)} {
			x.exact.add(text, s.name)
			x.folded.add(fold(text), s.name)
			for _, masked := range steps(text) {
				x.steps.each(masked, func(part string, slot uint64) {
					kinds := 0
					for i := range len(part) {
						if strings.IndexByte(part, part[i]) == i {
							kinds++
						}
					}
					if kinds > foldedLength/2 { // not a mere "aaaa…"
						x.steps.names[part], x.steps.ends[slot] = s.name, true
					}
				})
			}
		}
	}
	return x
}

// steps are what is from each character to the next, by XOR and by addition: alike whatever one byte all are masked with.
func steps(text string) [2]string {
	var masked [2][]byte
	for i := 1; i < len(text); i++ {
		masked[0], masked[1] = append(masked[0], text[i]^text[i-1]), append(masked[1], text[i]-text[i-1])
	}
	return [2]string{"^" + string(masked[0]), "+" + string(masked[1])}
}

func rot13(r rune) rune {
	switch c := r | 0x20; {
	case 'a' <= c && c <= 'm':
		return r + 13
	case 'n' <= c && c <= 'z':
		return r - 13
	}
	return r
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
	found := map[string]string{}
	for len(text) > searchedAtOnce+overlap {
		x.search(text[:searchedAtOnce+overlap], found)
		text = text[searchedAtOnce:]
	}
	x.search(text, found)
	return slices.Sorted(maps.Values(found))
}

// search notes what the text holds, by the subject's name.
func (x index) search(text string, found map[string]string) {
	seen := map[string]bool{}
	var look func(text, how string, nesting int)
	look = func(text, how string, nesting int) {
		if len(text) < exactLength || seen[text] {
			return
		}
		seen[text] = true
		note := func(name string, how string) {
			if found[name] == "" {
				found[name] = fmt.Sprintf("%s (%s)", name, how)
			}
		}
		x.exact.in(text, func(name string) { note(name, cmp.Or(how, "as it is")) })
		x.folded.in(fold(text), func(name string) { note(name, cmp.Or(how, "without separators or case")) })
		if nesting < 2 {
			for _, masked := range steps(text) {
				x.steps.in(masked, func(name string) { note(name, strings.TrimPrefix(how+", masked", ", ")) })
			}
		}
		if nesting == maxNesting || how != "" && !worthwhile(text) {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(decoders)) {
			for _, decoded := range decoders[name](text) {
				look(decoded, strings.TrimPrefix(how+", "+name, ", "), nesting+1)
			}
		}
	}
	look(text, "", 0)
}

// worthwhile is whether a decoded text is more than noise, in which nothing more can be decoded.
func worthwhile(text string) bool {
	if strings.HasPrefix(text, "\x1f\x8b") || strings.HasPrefix(text, "x\x9c") || strings.HasPrefix(text, "x\x01") || strings.HasPrefix(text, "x\xda") {
		return true
	}
	graphic := strings.Count(strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsGraphic(r) || unicode.IsSpace(r)) {
			return '.'
		}
		return -1
	}, text), ".")
	return graphic*10 > len(text)*7
}

// decoders return what a text may mean.
var decoders = map[string]func(string) []string{
	"escaped": func(text string) []string { return []string{unescape(text)} },
	"joined":  func(text string) []string { return []string{blank.Replace(text)} },
	"hex": func(text string) (all []string) {
		for _, run := range hexRun.in(hexMarks.Replace(text)) {
			for start := range 2 {
				bytes, _ := hex.DecodeString(run[start : start+(len(run)-start)/2*2])
				all = append(all, string(bytes))
			}
		}
		return append(all, numbers(wordRun.in(text), 16, "0x", "x")...)
	},
	"decimal": func(text string) []string { return numbers(digitRun.in(text), 10) },
	"octal":   func(text string) []string { return numbers(wordRun.in(text), 8, "0o", "0") },
	"binary": func(text string) []string {
		var eights []string
		for _, run := range bitRun.in(text) {
			for bits := range slices.Chunk([]byte(run), 8) {
				eights = append(eights, string(bits))
			}
		}
		return numbers(eights, 2)
	},
	"base64": func(text string) (all []string) {
		for _, run := range base64Run.in(text) {
			run = strings.NewReplacer("-", "+", "_", "/").Replace(run)
			for start := range 4 {
				for _, run := range []string{run, reversed(run)} {
					bytes, _ := base64.RawStdEncoding.DecodeString(run[start : start+(len(run)-start)/4*4])
					all = append(all, string(bytes))
				}
			}
		}
		return all
	},
	"a number": func(text string) (all []string) {
		for _, run := range digitRun.in(text) {
			if len(run) < 24 || len(run) > 900 {
				continue
			}
			if number, ok := new(big.Int).SetString(run, 10); ok {
				all = append(all, string(number.Bytes()))
			}
		}
		return all
	},
	"base32": func(text string) (all []string) {
		for _, run := range base32Run.in(strings.ToUpper(text)) {
			for start := range 8 {
				bytes, _ := base32.StdEncoding.DecodeString(run[start : start+(len(run)-start)/8*8])
				all = append(all, string(bytes))
			}
		}
		return all
	},
	"ascii85": func(text string) (all []string) {
		for _, run := range ascii85Run.in(text) {
			bytes := make([]byte, 4*len(run))
			n, _, _ := ascii85.Decode(bytes, []byte(run), true)
			all = append(all, string(bytes[:n]))
		}
		return all
	},
	"compressed": inflate,
	// A secret that is split over the lines of a log: in a field of JSON, in a column, or after the same name.
	"over lines": func(text string) []string {
		columns := map[string]string{}
		for line := range strings.Lines(text) {
			var object map[string]any
			if json.Unmarshal([]byte(line), &object) == nil {
				flatten("", object, columns)
				continue
			}
			words := strings.Fields(line)
			for i, word := range words {
				_, value, found := strings.Cut(word, "=")
				if !found {
					value = word
				}
				columns[strconv.Itoa(i)] += value
				columns[strconv.Itoa(i-len(words))] += value
			}
		}
		return slices.Collect(maps.Values(columns))
	},
}

// flatten adds the values of an object to columns, by their way through it.
func flatten(way string, value any, columns map[string]string) {
	if object, ok := value.(map[string]any); ok {
		for name, value := range object {
			flatten(way+"/"+name, value, columns)
		}
		return
	}
	columns[way] += fmt.Sprint(value)
}

var (
	escape   = regexp.MustCompile(`(?i)^(?:(?:%|=|\\x|\\u00|&#x)[0-9a-f]{2};?|&#\d{2,3};|\\[0-7]{3}|\\/|=\r?\n)`)
	blank    = removing(" ", "\t", "\n", "\f", "\r", `\n`, `\r`, `\t`)
	hexMarks = removing("0x", `\x`, `\u00`, "%", " ", "\t", "\n", "\f", "\r", ",", ";", ":", "=", "'", `"`, "-", `\n`)
)

func removing(texts ...string) *strings.Replacer {
	var pairs []string
	for _, text := range texts {
		pairs = append(pairs, text, "")
	}
	return strings.NewReplacer(pairs...)
}

// run is so many characters or more of a kind, one after another. A regular expression takes ten times as long.
type run struct {
	least int
	isOf  [256]bool
}

// newRun takes ranges of characters, each its first and its last.
func newRun(least int, ranges ...string) run {
	r := run{least: least}
	for _, ends := range ranges {
		for c := int(ends[0]); c <= int(ends[1]); c++ {
			r.isOf[c] = true
		}
	}
	return r
}

var (
	wordRun    = newRun(1, "09", "az", "AZ", "__")
	digitRun   = newRun(1, "09")
	bitRun     = newRun(7, "01")
	hexRun     = newRun(16, "09", "af", "AF")
	base64Run  = newRun(12, "AZ", "az", "09", "++", "//", "__", "--")
	base32Run  = newRun(16, "AZ", "27")
	ascii85Run = newRun(15, "!u")
)

func (r *run) in(text string) (all []string) {
	start := 0
	for i := range len(text) + 1 {
		if i < len(text) && r.isOf[text[i]] {
			continue
		}
		if i-start >= r.least {
			all = append(all, text[start:i])
		}
		start = i + 1
	}
	return all
}

// unescape replaces the codes of a text. A regular expression looks only where one may begin.
func unescape(text string) string {
	var plain strings.Builder
	for {
		next := strings.IndexAny(text, `%=\&`)
		if next < 0 {
			return plain.String() + text
		}
		plain.WriteString(text[:next])
		text = text[next:]
		length := max(1, len(escape.FindString(text[:min(len(text), len(`\u0000;`))])))
		plain.WriteString(meaning(text[:length]))
		text = text[length:]
	}
}

// meaning is the character of a code, or the text itself if it is none.
func meaning(code string) string {
	digits, base := strings.TrimSuffix(strings.TrimLeft(code, `%=\xXuU&#`), ";"), 16
	switch {
	case code == `\/`:
		return "/"
	case strings.TrimSpace(code) == "=":
		return ""
	case len(code) == 1:
		return code
	case strings.HasPrefix(code, "&#") && code[2]|0x20 != 'x':
		base = 10
	case len(code) == 4 && code[0] == '\\' && code[1]|0x20 != 'x':
		base = 8
	}
	value, err := strconv.ParseUint(digits, base, 16)
	if err != nil || value > 255 {
		return code
	}
	return string([]byte{byte(value)})
}

// numbers reads a list of bytes, whatever stands between them, and every second number of it alone: the others may count. Words
// that are no numbers of the base stand between; a larger number is 0.
func numbers(words []string, base int, prefixes ...string) []string {
	var all [3][]byte
	i := 0
	for _, word := range words {
		for _, prefix := range prefixes {
			if found, ok := strings.CutPrefix(word, prefix); ok && len(found) > 1 {
				word = found
				break
			}
		}
		value, err := strconv.ParseUint(word, base, 64)
		switch {
		case base == 16 && len(word) != 2, base == 8 && (len(word) < 2 || len(word) > 3), errors.Is(err, strconv.ErrSyntax):
			continue
		case err != nil || value > 255:
			value = 0
		}
		all[0], all[1+i%2] = append(all[0], byte(value)), append(all[1+i%2], byte(value))
		i++
	}
	return []string{string(all[0]), string(all[1]), string(all[2])}
}

// inflate undoes gzip and zlib anywhere, and bare deflate at the beginning.
func inflate(text string) (all []string) {
	read := func(reader io.Reader, err error) {
		if err == nil {
			plain, _ := io.ReadAll(io.LimitReader(reader, 1<<20))
			all = append(all, string(plain))
		}
	}
	for i := 0; i+2 < len(text); i++ {
		switch text[i : i+2] {
		case "\x1f\x8b":
			reader, err := gzip.NewReader(strings.NewReader(text[i:]))
			read(reader, err)
		case "x\x9c", "x\x01", "x\xda", "x\x5e":
			reader, err := zlib.NewReader(strings.NewReader(text[i:]))
			read(reader, err)
		}
	}
	read(flate.NewReader(strings.NewReader(text)), nil)
	return all
}

// TestTheSearchFinds: a search that finds nothing would pass every other test.
func TestTheSearchFinds(t *testing.T) {
	const key = "Xq7-kV2_mPz0_Lr4tGw8-Hs1dNf6yBc3eJa9uKo5iQvT"
	raw := []byte(key)
	x := newIndex([]subject{{"planted", key}})
	compressed := func(open func(io.Writer) io.WriteCloser) string {
		var out bytes.Buffer
		w := open(&out)
		_, _ = w.Write([]byte(`{"apikey":"` + key + `"}`))
		_ = w.Close()
		return out.String()
	}
	each := func(format, between string) string {
		parts := make([]string, len(raw))
		for i, b := range raw {
			parts[i] = fmt.Sprintf(format, b)
		}
		return strings.Join(parts, between)
	}
	zipped := compressed(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	leaks := map[string]string{
		"whole": key, "8 characters": key[17:25], "reversed": reversed(key), "capitals": strings.ToUpper(key[:12]), "reversed in capitals": strings.ToUpper(reversed(key)),
		"spaced": each("%c", " "), "a line each": each("%c", "\n"), "dotted": each("%c", "."), "quoted": each("%q", ", "), "UTF-16": each("%c", "\x00"),
		"base64": base64.StdEncoding.EncodeToString(raw), "base64, 1 before": base64.StdEncoding.EncodeToString([]byte(":" + key)),
		"base64, 2 before": base64.URLEncoding.EncodeToString([]byte("u:" + key)), "base64 in lines": strings.Join(slices.Collect(chunks(base64.StdEncoding.EncodeToString(raw), 9)), "\r\n"),
		"base64 twice": base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(raw))), "base32": base32.StdEncoding.EncodeToString(raw), "a part in base64": base64.RawStdEncoding.EncodeToString(raw[5:20]),
		"hex": hex.EncodeToString(raw), "HEX": strings.ToUpper(hex.EncodeToString(raw[3:])), "% x": fmt.Sprintf("% x", raw), "%#v": fmt.Sprintf("%#v", raw), "%# x": fmt.Sprintf("%# x", raw), "hex with colons": each("%02x", ":"),
		"%v of bytes": fmt.Sprint(raw), "decimal with commas": each("%d", ","), "decimal, a line each": each("%d", "\n"), "numbered": each("byte: %d", "; n 3 "), "octal": each("%o", " "), `\ooo`: each(`\%03o`, ""), "0o": each("%O", " "), "binary": each("%08b", " "),
		"JSON numbers": each("%d.0", ", "), `\x`: each(`\x%02x`, ""), `\u`: each(`\u%04x`, ""), "entities": each("&#%d;", ""), "hex entities": each("&#x%x;", ""), "%": each("%%%02X", ""), "quoted-printable": each("=%02X", ""), "soft breaks": strings.Join(slices.Collect(chunks(key, 5)), "=\r\n"),
		"URL": url.QueryEscape("a/" + key + "=&"), "gzip": zipped, "gzip in base64": base64.StdEncoding.EncodeToString([]byte(zipped)), "gzip in hex": hex.EncodeToString([]byte(zipped)),
		"zlib": compressed(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }), "ascii85": string(ascii(raw)),
		"a log": strings.Join(slices.Collect(func(yield func(string) bool) {
			for part := range chunks(key, 4) {
				if !yield(`{"time":"2026-01-01T00:00:00Z","part":"` + part + `"}` + "\n") {
					return
				}
			}
		}), ""),
		"columns": strings.Join(slices.Collect(chunks(key, 4)), " of 11\nINFO part="), "rot13": strings.Map(rot13, key),
		"base64 backwards": reversed(base64.StdEncoding.EncodeToString(raw)), "a number": new(big.Int).SetBytes(raw).String(),
		"masked": hex.EncodeToString(bytes.Map(func(r rune) rune { return r ^ 0x15 }, raw)), "shifted": strings.Map(func(r rune) rune { return r + 1 }, key),
		"a word of a stack trace": "main.f(0x" + hex.EncodeToString([]byte(reversed(key[8:16]))) + ", 0x2c)",
	}
	for name, leak := range leaks {
		if name == "gzip" || name == "zlib" || name == "ascii85" || name == "numbered" || name == "a log" {
			leak = "\n" + leak + "\n"
		} else {
			leak = "some text: " + leak + " and more"
		}
		if len(x.in(leak)) == 0 {
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

func chunks(text string, size int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for len(text) > 0 {
			n := min(size, len(text))
			if !yield(text[:n]) {
				return
			}
			text = text[n:]
		}
	}
}

func ascii(raw []byte) []byte {
	out := make([]byte, ascii85.MaxEncodedLen(len(raw)))
	return out[:ascii85.Encode(out, raw)]
}
