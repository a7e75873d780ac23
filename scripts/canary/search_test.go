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
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"
)

// subject is a secret: it must come out nowhere but where the table of rules says.
type subject struct{ name, value string }

// How many characters of a subject are a leak: unchanged, and when case and everything but letters and digits are left out. They
// are as few as they can be without accidental hits among the millions of characters of a run.
const exactLength, foldedLength = 8, 10

// fragments are all parts of one length of the subjects.
type fragments struct {
	length int
	of     map[string]string // the subject's name by the fragment
	ends   *[1 << 18]bool    // by slot: whether a fragment ends so. It spares nearly all lookups
}

func newFragments(length int) fragments {
	return fragments{length, make(map[string]string, 1<<14), new([1 << 18]bool)}
}

// each calls do for each part of a text that is as long as a fragment, with its slot: a hash of its last eight characters.
func (f fragments) each(text string, do func(part string, slot uint64)) {
	var last uint64
	for i := range len(text) {
		last = last<<8 | uint64(text[i])
		if i+1 >= f.length {
			do(text[i+1-f.length:i+1], last*0x9e3779b97f4a7c15>>(64-18))
		}
	}
}

// add adds the fragments of a text, except those with few different characters, for example "aaaaaaab".
func (f fragments) add(text, name string) {
	f.each(text, func(part string, slot uint64) {
		different := 0
		for i := range len(part) {
			if strings.IndexByte(part, part[i]) == i {
				different++
			}
		}
		if different > f.length/2 {
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

// index finds parts of subjects, forwards and backwards: unchanged, folded, and masked.
type index struct{ exact, folded, masked fragments }

func newIndex(subjects []subject) index {
	x := index{newFragments(exactLength), newFragments(foldedLength), newFragments(foldedLength)}
	for _, s := range subjects {
		value := s.value
		if strings.HasPrefix(value, "eyJ") { // the header of a JWT is the same in all of an issuer's
			_, value, _ = strings.Cut(value, ".")
		}
		for _, text := range []string{value, reversed(value), strings.Map(rot13, value)} {
			x.exact.add(text, s.name)
			x.folded.add(fold(text), s.name)
		}
		for _, differences := range slices.Concat(steps(value), steps(reversed(value))) {
			x.masked.add(differences, s.name)
		}
	}
	return x
}

// steps are the differences from each character to the next, by XOR and by subtraction. They do not change when one byte is
// XORed with all characters, or added to all.
func steps(text string) []string {
	var xored, subtracted []byte
	for i := 1; i < len(text); i++ {
		xored, subtracted = append(xored, text[i]^text[i-1]), append(subtracted, text[i]-text[i-1])
	}
	return []string{string(xored), string(subtracted)}
}

func reversed(text string) string {
	characters := []byte(text)
	slices.Reverse(characters)
	return string(characters)
}

func rot13(r rune) rune {
	if c := r | 0x20; 'a' <= c && c <= 'z' {
		return r - c + 'a' + (c-'a'+13)%26
	}
	return r
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

// decoded is a text with the encodings that were undone to get it; none for a text as it came out.
type decoded struct{ text, how string }

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

// search adds to found what the text holds, by the subject's name. It undoes one encoding after another in breadth: what can be
// decoded in several ways is searched once, where most encodings can still be undone.
func (x index) search(text string, found map[string]string) {
	seen := map[string]bool{}
	for level, nesting := []decoded{{text, ""}}, 0; nesting <= maxNesting; nesting++ {
		var next []decoded
		for _, d := range level {
			if len(d.text) < exactLength || seen[d.text] {
				continue
			}
			seen[d.text] = true
			x.inPlain(d, nesting, found)
			if nesting < maxNesting {
				next = append(next, d.decode()...)
			}
		}
		level = next
	}
}

// inPlain is search without decoding. Masks are undone in what is decoded once at most.
func (x index) inPlain(d decoded, nesting int, found map[string]string) {
	note := func(how string) func(string) {
		return func(name string) { found[name] = cmp.Or(found[name], fmt.Sprintf("%s (%s)", name, how)) }
	}
	x.exact.in(d.text, note(cmp.Or(d.how, "unchanged")))
	x.folded.in(fold(d.text), note(cmp.Or(d.how, "without separators or case")))
	if nesting < 2 {
		for _, differences := range steps(d.text) {
			x.masked.in(differences, note(strings.TrimPrefix(d.how+", masked", ", ")))
		}
	}
}

// decode undoes each encoding. Only decompression makes sense of decoded bytes that are no text.
func (d decoded) decode() (all []decoded) {
	for i, decoder := range decoders {
		if i > 0 && d.how != "" && !isReadable(d.text) {
			break
		}
		how := strings.TrimPrefix(d.how+", "+decoder.name, ", ")
		for _, text := range decoder.decode(d.text) {
			all = append(all, decoded{text, how})
		}
	}
	return all
}

// isReadable is whether most of a text is printable ASCII.
func isReadable(text string) bool {
	printable := 0
	for i := range len(text) {
		if c := text[i]; ' ' <= c && c <= '~' || '\t' <= c && c <= '\r' {
			printable++
		}
	}
	return printable*10 > len(text)*7
}

// decoders return what a text may mean. Decompression is the first: see decode.
var decoders = []struct {
	name   string
	decode func(string) []string
}{
	{"compressed", decompressed},
	{"hex", func(text string) []string {
		return grouped(separators.Replace(text), 16, digits+"abcdefABCDEF", 2, hex.DecodeString)
	}},
	{"base64", func(text string) []string {
		return grouped(standard.Replace(text), 12, digits+capitals+letters+"+/", 4, base64.RawStdEncoding.DecodeString)
	}},
	{"base32", func(text string) []string {
		text = strings.ToUpper(text)
		return append(grouped(text, 16, capitals+"234567", 8, base32.StdEncoding.DecodeString), grouped(text, 16, digits+capitals[:22], 8, base32.HexEncoding.DecodeString)...)
	}},
	{"ascii85", func(text string) []string {
		text = strings.ReplaceAll(text, "z", "!!!!!") // an abbreviation
		return grouped(text, 15, ascii85Alphabet, 5, func(run string) ([]byte, error) {
			decoded := make([]byte, len(run))
			n, _, err := ascii85.Decode(decoded, []byte(run), true)
			return decoded[:n], err
		})
	}},
	{"numbers", func(text string) []string {
		words := runs(text, 1, digits+capitals+letters+"_")
		all := numbers(runs(text, 1, digits), 10, 1, 20)
		all = append(all, numbers(words, 16, 2, 2, "0x", "x", "u00")...)
		all = append(all, numbers(words, 8, 2, 3, "0o", "0")...)
		return append(all, numbers(words, 2, 6, 8, "0b")...)
	}},
	{"numbers without separators", func(text string) []string {
		return slices.Concat(unseparated(text, 8, 2), unseparated(text, 3, 8), unseparated(text, 3, 10))
	}},
	{"one number", func(text string) (all []string) {
		for _, run := range runs(text, 24, digits) {
			if number, ok := new(big.Int).SetString(run, 10); ok && len(run) < 10000 {
				all = append(all, string(number.Bytes()))
			}
		}
		return all
	}},
	{"escaped", func(text string) []string { return []string{escapes.Replace(text)} }},
	{"over lines", columns},
	{"joined", func(text string) []string { return []string{blank.Replace(text)} }},
}

const digits, capitals, letters = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"

var ascii85Alphabet = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`" + digits + capitals + letters[:21]

var (
	standard   = strings.NewReplacer("-", "+", "_", "/") // base64, of that for URLs
	blank      = strings.NewReplacer(" ", "", "\t", "", "\n", "", "\f", "", "\r", "", `\n`, "", `\r`, "", `\t`, "")
	separators = strings.NewReplacer("0x", "", `\x`, "", `\u00`, "", "%", "", " ", "", "\t", "", "\n", "", "\f", "", "\r", "", ",", "", ";", "", ":", "", "=", "", "'", "", `"`, "", "-", "", `\n`, "")
	escapes    = strings.NewReplacer(escapeCodes()...)
)

// escapeCodes are the escapes of URLs, JSON, HTML, Go, C and quoted-printable, each followed by what it means.
func escapeCodes() []string {
	pairs := []string{`\/`, "/", `\"`, `"`, `\\`, `\`}
	for c := range 256 {
		for _, format := range []string{"%%%02x", "%%%02X", "=%02X", `\x%02x`, `\x%02X`, `\u%04x`, `\u%04X`, `\%03o`, "&#%d;", "&#%03d;", "&#x%x;", "&#x%X;"} {
			pairs = append(pairs, fmt.Sprintf(format, c), string([]byte{byte(c)}))
		}
	}
	return pairs
}

// runs are so many characters of an alphabet or more, one after another. A regular expression takes ten times as long.
func runs(text string, least int, alphabet string) []string {
	var isIn [256]bool
	for i := range len(alphabet) {
		isIn[alphabet[i]] = true
	}
	all := strings.FieldsFunc(text, func(r rune) bool { return r > unicode.MaxASCII || !isIn[r] })
	return slices.DeleteFunc(all, func(run string) bool { return len(run) < least })
}

// grouped decodes the runs of an alphabet in which each group of size characters stands for one byte or more. A run may begin in
// the middle of a group, and be written backwards.
func grouped(text string, least int, alphabet string, size int, decode func(string) ([]byte, error)) (all []string) {
	for _, run := range runs(text, least, alphabet) {
		for _, run := range []string{run, reversed(run)} {
			for start := range size {
				decoded, _ := decode(run[start : start+(len(run)-start)/size*size])
				all = append(all, string(decoded))
			}
		}
	}
	return all
}

// unseparated reads bytes that are written one after another in a base, all in the same width.
func unseparated(text string, width, base int) []string {
	return grouped(text, exactLength*width, digits[:base], width, func(run string) (all []byte, _ error) {
		for word := range slices.Chunk([]byte(run), width) {
			value, _ := strconv.ParseUint(string(word), base, 8)
			all = append(all, byte(value))
		}
		return all, nil
	})
}

// numbers reads a list of bytes, whatever stands between them, and every second number of it alone: the others may count. Words
// that are no numbers of the base, or too short or too long, stand between. A number above 255 is 0.
func numbers(words []string, base, shortest, longest int, prefixes ...string) []string {
	var all [3][]byte
	i := 0
	for _, word := range words {
		for _, prefix := range prefixes { // as in 0x58, \x58, \u0058, 0o130 and 0b1011000
			if digits, ok := strings.CutPrefix(word, prefix); ok && len(digits) > 1 {
				word = digits
				break
			}
		}
		if len(word) < shortest || len(word) > longest || word[0] > '9' && base < 16 {
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

// deflateReaders are kept: a new one takes 40 kB.
var deflateReaders = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// decompressed undoes gzip and zlib anywhere, and deflate, which nothing marks, at the beginning of each line.
func decompressed(text string) (all []string) {
	read := func(reader io.Reader) {
		plain, _ := io.ReadAll(io.LimitReader(reader, 1<<20))
		all = append(all, string(plain))
	}
	deflate := deflateReaders.Get()
	defer deflateReaders.Put(deflate)
	for i := range len(text) {
		rest := text[i:]
		if strings.HasPrefix(rest, "\x1f\x8b") {
			if reader, err := gzip.NewReader(strings.NewReader(rest)); err == nil {
				read(reader)
			}
		}
		if len(rest) > 2 && rest[0] == 'x' && strings.IndexByte("\x01\x5e\x9c\xda", rest[1]) >= 0 {
			if reader, err := zlib.NewReader(strings.NewReader(rest)); err == nil {
				read(reader)
			}
		}
		if i == 0 || text[i-1] == '\n' {
			_ = deflate.(flate.Resetter).Reset(strings.NewReader(rest), nil)
			read(deflate.(io.Reader))
		}
	}
	return all
}

// columns join words of all lines: those that follow the same word, and those at the same place, counted from the beginning or
// from the end of the line. A secret in pieces becomes one.
func columns(text string) (joined []string) {
	all := map[any][]string{}
	for line := range strings.Lines(text) {
		words := strings.FieldsFunc(line, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`"',:={}[]()`, r) })
		for i, word := range words {
			all[i], all[i-len(words)] = append(all[i], word), append(all[i-len(words)], word)
			if i > 0 {
				all[words[i-1]] = append(all[words[i-1]], word)
			}
		}
	}
	for _, words := range all {
		if len(words) > 1 {
			joined = append(joined, strings.Join(words, ""))
		}
	}
	return joined
}

// forms are texts that a key of 44 characters, or a part of it, is in, by the form that it has there.
func forms(key string) map[string]string {
	raw := []byte(key)
	each := func(format, between string) string {
		var parts []string
		for _, b := range raw {
			parts = append(parts, fmt.Sprintf(format, b))
		}
		return strings.Join(parts, between)
	}
	pieces := func(text string, size int, between ...string) (all string) {
		for start := 0; start < len(text); start += size {
			if start > 0 {
				all += between[start/size%len(between)]
			}
			all += text[start:min(start+size, len(text))]
		}
		return all
	}
	masked := func(mask func(byte) byte) (all []byte) {
		for _, b := range raw {
			all = append(all, mask(b))
		}
		return all
	}
	compressed := func(open func(io.Writer) io.WriteCloser) []byte {
		var out bytes.Buffer
		w := open(&out)
		_, _ = io.WriteString(w, `{"apikey":"`+key+`"}`)
		_ = w.Close()
		return out.Bytes()
	}
	deflate := func(w io.Writer) io.WriteCloser { writer, _ := flate.NewWriter(w, 9); return writer }
	fastZlib := func(w io.Writer) io.WriteCloser { writer, _ := zlib.NewWriterLevel(w, 1); return writer }
	zipped := compressed(func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	zlibbed, deflated := compressed(func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }), compressed(deflate)
	base16, base64s, base32s := hex.EncodeToString, base64.StdEncoding.EncodeToString, base32.StdEncoding.EncodeToString
	base85 := func(b []byte) string {
		out := make([]byte, ascii85.MaxEncodedLen(len(b)))
		return string(out[:ascii85.Encode(out, b)])
	}
	inJSON, _ := json.Marshal(base85(zipped))
	all := map[string]string{
		"whole": key, "8 characters": key[17:25], "reversed": reversed(key), "capitals": strings.ToUpper(key[:12]), "reversed in capitals": strings.ToUpper(reversed(key)), "rot13": strings.Map(rot13, key),
		"spaced": each("%c", " "), "a line each": each("%c", "\n"), "dotted": each("%c", "."), "quoted": each("%q", ", "), "UTF-16": each("%c", "\x00"), "soft breaks": pieces(key, 5, "=\r\n"),
		"base64": base64s(raw), "base64, 1 before": base64s([]byte(":" + key)), "base64, 2 before": base64.URLEncoding.EncodeToString([]byte("u:" + key)), "base64 with - for +": base64.URLEncoding.EncodeToString([]byte(pieces(key, 8, ">??>"))),
		`base64 with \/`: strings.ReplaceAll(base64s([]byte(pieces(key, 8, "????"))), "/", `\/`), "base64 in lines": pieces(base64s(raw), 9, "\r\n"), `base64 in lines in JSON`: pieces(base64s(raw), 9, `\n`), "base64 in words": pieces(base64s(raw), 7, " "), "base64 twice": base64s([]byte(base64s(raw))),
		"a part in base64": base64.RawStdEncoding.EncodeToString(raw[5:20]), "base64 backwards": reversed(base64s(raw)), "rot13 in base64": base64s([]byte(strings.Map(rot13, key))),
		"base32": base32s(raw), "base32, 3 before": base32s([]byte("abc" + key)), "base32 in small letters": strings.ToLower(base32s(raw)), "base32hex": base32.HexEncoding.EncodeToString(raw), "base32 in words": pieces(base32s(raw), 11, " "),
		"ascii85": base85(raw), "ascii85, 2 before": base85([]byte("ab" + key)), "ascii85 in a log": `{"time":1,"text":"` + base85(raw) + `"}`, "ascii85 in words": pieces(base85(raw), 11, " "),
		"hex": base16(raw), "HEX": strings.ToUpper(base16(raw[3:])), "% x": fmt.Sprintf("% x", raw), "%# x": fmt.Sprintf("%# x", raw), "%#v": fmt.Sprintf("%#v", raw), "colons": each("%02x", ":"), "hex between other characters": each("%#x", "!"),
		"hex backwards": reversed(base16(raw)), "a UUID": pieces(base16(raw[:16]), 8, "-"), "32-bit words": "0x" + pieces(base16(raw), 8, ", 0x"), "a word of a stack trace": "main.f(0x" + base16([]byte(reversed(key[8:16]))) + ", 0x2c)",
		"%v": fmt.Sprint(raw), "decimal, a line each": each("%d", "\n"), "decimal between letters": each("b%d", ""), "numbered": each("\nbyte: %d", "; n 3 "), "JSON numbers": each("%d.0", ", "),
		"octal": each("%o", " "), `\ooo`: each(`\%03o`, ""), "0o": each("%O", " "), "binary": each("%08b", " "), "binary of 6 and 7 digits": each("%b", ","), "0b": each("%#b", " "),
		"binary without separators": each("%08b", ""), "octal without separators": each("%03o", ""), "decimal without separators": each("%03d", ""),
		"a number": new(big.Int).SetBytes(raw).String(), "a number of 3,000 digits": new(big.Int).SetBytes(bytes.Repeat(raw, 30)).String(), "a binary number": new(big.Int).SetBytes(raw).Text(2),
		`\x`: each(`\x%02x`, ""), `\u`: each(`\u%04x`, ""), "entities": each("&#%d;", ""), "hex entities": each("&#x%x;", ""), "%": each("%%%02X", ""), "quoted-printable": each("=%02X", ""), "% twice": each("%%25%02X", ""),
		"gzip": string(zipped), "gzip in base64": base64s(zipped), "gzip in hex": base16(zipped), "gzip behind other bytes in base64": base64s(append([]byte("u:"), zipped...)), "gzip in base64 in hex": base16([]byte(base64s(zipped))),
		"gzip in ascii85 in JSON": `{"text":` + string(inJSON) + `}`, "zlib": string(zlibbed), "zlib at its fastest": string(compressed(fastZlib)), "zlib in base64": base64s(zlibbed),
		"deflate": "\n" + string(deflated), "deflate in base64": base64s(deflated), "deflate in hex": base16(deflated), "deflate in base32": base32s(deflated),
		"a log": "\n" + pieces(key, 4, "\"}\n{\"time\":\"2026-01-01T00:00:00Z\",\"part\":\""), "a field of a log": "\n" + pieces(key, 4, "\"}\n{\"msg\":\"one word\",\"n\":\"a b\"}\n{\"msg\":\"more than two\",\"part\":\"") + `"}`,
		"columns": pieces(key, 4, " of 11\nINFO part="), "beginnings of lines": "\n" + pieces(key, 4, " a\n", " a b\n"), "ends of lines": "\n" + pieces(key, 4, "\na ", "\nb c ") + "\n",
		"each byte ^ 0x15": base64s(masked(func(b byte) byte { return b ^ 0x15 })), "each byte ^ 0xff": string(masked(func(b byte) byte { return ^b })), "each byte + 1": string(masked(func(b byte) byte { return b + 1 })),
		"each byte + 200": base16(masked(func(b byte) byte { return b + 200 })), "each byte - 3": base32s(masked(func(b byte) byte { return b - 3 })),
	}
	for _, slash := range []string{"%2f", "%2F", "=2F", `\x2f`, `\x2F`, `\u002f`, `\u002F`, `\057`, "&#47;", "&#047;", "&#x2f;", "&#x2F;"} {
		all["pieces with "+slash] = pieces(key, 4, slash)
	}
	return all
}

// TestTheSearchFinds: a search that finds nothing would pass every other test.
func TestTheSearchFinds(t *testing.T) {
	const key = "Xq7-kV2_mPz0_Lr4tGw8-Hs1dNf6yBc3eJa9uKo5iQvT"
	x := newIndex([]subject{{"planted", key}, {"not planted", rand.Text() + rand.Text()}})
	for name, leak := range forms(key) {
		if hits := x.in("some text: " + leak + " and more"); len(hits) != 1 || !strings.HasPrefix(hits[0], "planted (") {
			t.Errorf("%s: got %q, want the planted key alone, in %q", name, hits, leak)
		}
	}
	harmless := forms("Ab1-cD3_eFg4_Hi5jKl6-Mn7oPq8rSt9uVw0xYz2aBcD") // another key
	harmless["7 characters"] = key[:7] + " " + key[30:37]
	harmless["noise"] = rand.Text() + strings.Repeat(rand.Text(), 1000)
	harmless["a log"] = strings.Repeat("the token expires 2026-01-01T00:00:00Z, fingerprint 1f3a5b7c9d0e2f4a; ", 100)
	for _, file := range []string{"README.md", "go.sum", "scripts/iam-token"} {
		content, err := os.ReadFile(filepath.Join("../..", file))
		if err != nil {
			t.Fatal(err)
		}
		harmless[file] = string(content)
	}
	for name, text := range harmless {
		if hits := x.in(text); len(hits) != 0 {
			t.Errorf("%s: got %q, want nothing", name, hits)
		}
	}
}
