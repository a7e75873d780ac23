package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxPayload is the largest response of a synchronous invocation, in bytes: 6 MB and 100 bytes, as Lambda's own message
// has it.
const maxPayload = 6*1024*1024 + 100

// What a function says of an error: in a header when it posts one, in trailers when a response breaks off midway.
const (
	errorTypeHeader = "Lambda-Runtime-Function-Error-Type"
	errorBodyHeader = "Lambda-Runtime-Function-Error-Body" // base64 of the error's JSON
)

// answer is the end of an invocation, successful or not.
type answer struct {
	line     []byte // JSON without a line break: the response, or {"errorMessage", "errorType", …}
	failed   bool
	tooLarge bool      // failed, since the response exceeded maxPayload
	at       time.Time // when it was complete
}

// functionError is Lambda's form of an error, to the function and from it.
type functionError struct {
	Message string `json:"errorMessage"`
	Type    string `json:"errorType"`
}

// failure is an answer in place of one that the function did not give.
func failure(errorType, format string, args ...any) answer {
	line, err := json.Marshal(functionError{Message: fmt.Sprintf(format, args...), Type: errorType})
	if err != nil {
		panic(err) // two strings always marshal
	}
	return answer{line: line, failed: true, at: time.Now()}
}

// readResponse reads a response, chunked or not, to its end. An error is in reading it: the request was cut short.
func readResponse(r *http.Request) (answer, error) {
	body, size, err := readPayload(r.Body)
	if err != nil {
		return answer{}, err
	}
	// Trailers exist once the body has been read.
	if errorType, errorBody := r.Trailer.Get(errorTypeHeader), r.Trailer.Get(errorBodyHeader); errorType != "" || errorBody != "" {
		decoded, err := base64.StdEncoding.DecodeString(errorBody)
		if err != nil || len(decoded) == 0 {
			decoded = []byte("the response broke off")
		}
		return errorAnswer(decoded, errorType), nil
	}
	if size > maxPayload {
		a := failure("Function.ResponseSizeTooLarge",
			"Response payload size (%d bytes) exceeded maximum allowed payload size (%d bytes).", size, maxPayload)
		a.tooLarge = true
		return a, nil
	}
	return answer{line: oneLine(body), at: time.Now()}, nil
}

// readError reads an error that the function posts. It is passed on as it is, stack trace and all; a body that is not a
// JSON object becomes the message of one.
func readError(r *http.Request) (answer, error) {
	body, _, err := readPayload(r.Body)
	if err != nil {
		return answer{}, err
	}
	return errorAnswer(body, r.Header.Get(errorTypeHeader)), nil
}

func errorAnswer(body []byte, errorType string) answer {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil || object == nil {
		return failure(cmp.Or(errorType, "Runtime.Unknown"), "%s", body)
	}
	return answer{line: oneLine(body), failed: true, at: time.Now()}
}

// readPayload reads body to its end, since the function sends all of it before it looks at the status, and keeps no more
// than maxPayload bytes. size is all that there was.
func readPayload(body io.Reader) (kept []byte, size int64, err error) {
	kept, err = io.ReadAll(io.LimitReader(body, maxPayload))
	if err != nil {
		return nil, 0, err
	}
	rest, err := io.Copy(io.Discard, body)
	return kept, int64(len(kept)) + rest, err
}

// oneLine returns JSON as one line, no bytes as null, and anything else as a JSON string.
func oneLine(body []byte) []byte {
	if len(body) == 0 {
		return []byte("null")
	}
	var line bytes.Buffer
	if json.Compact(&line, body) == nil {
		return line.Bytes()
	}
	quoted, err := json.Marshal(string(body))
	if err != nil {
		panic(err) // a string always marshals
	}
	return quoted
}
