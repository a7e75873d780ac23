package network

import (
	"io"
	"net/http"
)

const (
	// SmallAnswer is enough, in bytes, for every answer without a secret's value. The largest,
	// a secret's metadata, has 10 KB written by users, and JSON may need 6 bytes for each.
	SmallAnswer = 96 << 10
	// errorLimit is how many bytes of an error's body are read: the code is among the first.
	errorLimit = 16 << 10
	// maxValues and maxDepth limit the memory that decoding takes: for an answer of nothing
	// but commas it would be many times the answer's size.
	maxValues = 10_000
	maxDepth  = 64
)

// ReadBody reads an answer's whole body and closes it. It returns errTooLarge for a success of
// more than limit bytes, or of more values than any answer has. Of an error it returns only the
// beginning.
func ReadBody(response *http.Response, limit int) ([]byte, error) {
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return io.ReadAll(io.LimitReader(response.Body, errorLimit))
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(limit)+1))
	if err == nil && (len(body) > limit || !decodable(body)) {
		err = errTooLarge
	}
	return body, err
}

// decodable reports whether body, if it is JSON, stays within maxValues and maxDepth.
func decodable(body []byte) bool {
	values, depth, inString := 0, 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == ',':
			values++
		case c == '[', c == '{':
			values++
			depth++
		case c == ']', c == '}':
			depth--
		}
		if values > maxValues || depth > maxDepth {
			return false
		}
	}
	return true
}
