package network

import (
	"io"
	"net/http"
)

const (
	// SmallAnswer is enough for all answers except a secret's value: the largest of the others,
	// a secret's metadata, has 10 KB of the user's, which JSON may write in up to 6
	// bytes each.
	SmallAnswer = 96 << 10
	// errorLimit is what is read of an error's body: the rest holds no code.
	errorLimit = 16 << 10
	// maxValues and maxDepth bound what a decoder builds out of an answer: many
	// times the answer's size, if it is all commas.
	maxValues = 10_000
	maxDepth  = 64
)

// ReadBody reads an answer whole and closes it. It fails with errTooLarge for a
// success of more than limit bytes, or of more values than any answer has; the body
// of an error is cut off instead.
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

// decodable reports whether body, if it is JSON, has few enough values and levels.
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
