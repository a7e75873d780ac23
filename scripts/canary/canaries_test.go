package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"testing"
)

const planted = "Xq7/kV2+mPz0_Lr4tGw8-Hs1dNf6yBc3eJa9uKo5iQvT"

// TestTheSearchFindsAPlantedLeak: a search that finds nothing anywhere would pass every other test.
func TestTheSearchFindsAPlantedLeak(t *testing.T) {
	search := newPieces(canary{"planted", planted})
	percent := "%" + spaced(planted, "%")
	for name, leak := range map[string]string{
		"whole":                   planted,
		"the first 12 characters": planted[:12],
		"12 in the middle":        planted[17:29],
		"the last 12":             planted[len(planted)-12:],
		"in JSON":                 fmt.Sprintf(`{"error":%q}`, planted),
		"base64":                  base64.StdEncoding.EncodeToString([]byte(planted)),
		"base64, one before":      base64.StdEncoding.EncodeToString([]byte(":" + planted)),
		"base64, two before":      base64.StdEncoding.EncodeToString([]byte("u:" + planted)),
		"base64url":               base64.URLEncoding.EncodeToString([]byte("apikey=" + planted)),
		"base64 of a part":        base64.StdEncoding.EncodeToString([]byte(planted[5:22])),
		"Basic authorization":     base64.StdEncoding.EncodeToString([]byte("user:" + planted)),
		"hex":                     hex.EncodeToString([]byte(planted)),
		"upper-case hex":          strings.ToUpper(hex.EncodeToString([]byte(planted[20:33]))),
		"a byte slice with %x":    fmt.Sprintf("% x", []byte(planted)),
		"URL-encoded":             url.QueryEscape(planted),
		"every byte encoded":      percent,
		"in upper case":           strings.ToUpper(percent),
		"an argument in a trace":  fmt.Sprintf("main.f(0x%x, 0x2c)", littleEndian(planted[8:16])),
		"a word of memory":        hex.EncodeToString([]byte(planted[3:11])),
	} {
		if hits := search.in([]byte("some text " + leak + " more text")); len(hits) == 0 {
			t.Errorf("%s: got no hit, want one", name)
		}
	}
	for name, text := range map[string]string{
		"nothing":       "",
		"11 characters": planted[:11] + " " + planted[30:41],
		"other text":    strings.Repeat("the token expires 2026-01-01T00:00:00Z, fingerprint 1f3a5b7c9d0e2f4a; ", 100),
	} {
		if hits := search.in([]byte(text)); len(hits) != 0 {
			t.Errorf("%s: got hits of form %q, want none", name, hits[0].form)
		}
	}
}

func littleEndian(eight string) uint64 {
	var word uint64
	for i := range len(eight) {
		word |= uint64(eight[i]) << (8 * i)
	}
	return word
}
