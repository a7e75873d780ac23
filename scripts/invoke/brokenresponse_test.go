package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestResponseThatBreaksOff has the forms of the trailers that aws-lambda-go alone does not produce.
func TestResponseThatBreaksOff(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, errorType, errorBody string
		want                       string
	}{
		{"type and body", "E", "eyJlcnJvck1lc3NhZ2UiOiJtIn0=", `{"errorMessage":"m"}`},
		{"body alone", "", "eyJlcnJvck1lc3NhZ2UiOiJtIn0=", `{"errorMessage":"m"}`},
		{"type alone", "E", "", `{"errorMessage":"the response broke off","errorType":"E"}`},
		{"body not base64", "E", "{}", `{"errorMessage":"the response broke off","errorType":"E"}`},
		{"body null", "E", "bnVsbA==", `{"errorMessage":"null","errorType":"E"}`},
		{"body not JSON", "", "b29wcw==", `{"errorMessage":"oops","errorType":"Runtime.Unknown"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{"half`))
			request.Trailer = http.Header{errorTypeHeader: {tt.errorType}, errorBodyHeader: {tt.errorBody}}
			got, err := readResponse(request)
			if err != nil {
				t.Fatal(err)
			}
			if string(got.line) != tt.want || !got.failed {
				t.Errorf("got %s (failed: %t), want %s, failed", got.line, got.failed, tt.want)
			}
		})
	}
}
