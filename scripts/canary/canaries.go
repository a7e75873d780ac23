package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// pieceLength is how much of a secret counts as the secret: 12 of an API key's 44 characters.
const pieceLength = 12

// canary is a secret that must come out nowhere.
type canary struct{ name, value string }

// pieces are the parts of canaries in every form that is looked for, by their length: a window over a text needs one
// look-up for each length.
type pieces map[int]map[string]found

// found says what a text held. It never holds the secret itself.
type found struct{ canary, form string }

// newPieces cuts the canaries up.
func newPieces(canaries ...canary) pieces {
	p := pieces{}
	for _, c := range canaries {
		p.add(c)
	}
	return p
}

// add cuts up one more canary.
func (p pieces) add(c canary) {
	if c.value == "" {
		return
	}
	p.slide(c, "whole or in part", c.value, pieceLength)
	p.slide(c, "base64", base64Core(c.value, base64.RawStdEncoding), pieceLength/3*4)
	p.slide(c, "base64url", base64Core(c.value, base64.RawURLEncoding), pieceLength/3*4)
	for shift := 1; shift < 3 && len(c.value) > shift; shift++ {
		p.slide(c, "base64", base64Core(c.value[shift:], base64.RawStdEncoding), pieceLength/3*4)
		p.slide(c, "base64url", base64Core(c.value[shift:], base64.RawURLEncoding), pieceLength/3*4)
	}
	inHex := hex.EncodeToString([]byte(c.value))
	p.slide(c, "hex", inHex, 2*pieceLength)
	p.slide(c, "hex", strings.ToUpper(inHex), 2*pieceLength)
	p.slide(c, "hex, one byte a word", spaced(c.value, " "), 3*pieceLength-1)
	p.slide(c, "percent", spaced(c.value, "%"), 3*pieceLength-1)
	p.slide(c, "percent", strings.ToUpper(spaced(c.value, "%")), 3*pieceLength-1)
	p.slide(c, "URL-encoded", url.QueryEscape(c.value), pieceLength)
	p.words(c)
}

// base64Core is base64 of whole groups of three bytes: what stands in the encoding of a longer text that has value at
// this alignment, whatever is beside it.
func base64Core(value string, encoding *base64.Encoding) string {
	return encoding.EncodeToString([]byte(value[:len(value)/3*3]))
}

// spaced writes the bytes in hex with a separator between them.
func spaced(value, separator string) string {
	var text strings.Builder
	for i := range len(value) {
		if i > 0 {
			text.WriteString(separator)
		}
		fmt.Fprintf(&text, "%02x", value[i])
	}
	return text.String()
}

// words are eight bytes of the secret as a stack trace shows an argument, and as a debugger shows memory.
func (p pieces) words(c canary) {
	for i := 0; i+8 <= len(c.value); i++ {
		eight := []byte(c.value[i : i+8])
		p.put(c, "a machine word", hex.EncodeToString(eight))
		slices.Reverse(eight)
		p.put(c, "a machine word", hex.EncodeToString(eight))
	}
}

func (p pieces) slide(c canary, form, text string, length int) {
	if len(text) < length {
		return
	}
	for i := 0; i+length <= len(text); i++ {
		p.put(c, form, text[i:i+length])
	}
}

// without drops the pieces that an allowed text has too: the tokens of one issuer begin alike.
func (p pieces) without(allowed string) {
	for length, byPiece := range p {
		for i := 0; i+length <= len(allowed); i++ {
			delete(byPiece, allowed[i:i+length])
		}
	}
}

func (p pieces) put(c canary, form, piece string) {
	byPiece := p[len(piece)]
	if byPiece == nil {
		byPiece = map[string]found{}
		p[len(piece)] = byPiece
	}
	if _, known := byPiece[piece]; !known {
		byPiece[piece] = found{c.name, form}
	}
}

// in returns what the text holds, each kind once, in no order.
func (p pieces) in(text []byte) []found {
	seen := map[found]bool{}
	for length, byPiece := range p {
		for i := 0; i+length <= len(text); i++ {
			if hit, ok := byPiece[string(text[i:i+length])]; ok {
				seen[hit] = true
			}
		}
	}
	all := make([]found, 0, len(seen))
	for hit := range seen {
		all = append(all, hit)
	}
	return all
}
