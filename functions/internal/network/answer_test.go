package network

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestReadBody(t *testing.T) {
	const limit = 100_000
	for name, test := range map[string]struct {
		status int
		body   string
		want   int // bytes; -1: errTooLarge
	}{
		"small":                       {200, `{"a":"b"}`, 9},
		"empty":                       {204, "", 0},
		"no JSON":                     {200, "<html>,,,</html>", 16},
		"as large as is allowed":      {200, strings.Repeat("x", limit), limit},
		"too large":                   {200, strings.Repeat("x", limit+1), -1},
		"many values":                 {200, "[" + strings.Repeat("0,", maxValues) + "0]", -1},
		"many empty objects":          {200, "[" + strings.Repeat("{},", maxValues/2) + "{}]", -1},
		"many commas in a text":       {200, `{"a":"` + strings.Repeat(`,[{\"`, maxValues) + `"}`, 6 + 5*maxValues + 2},
		"many levels":                 {200, strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1), -1},
		"a text that does not end":    {200, `{"a":"\`, 7},
		"an error":                    {404, `{"errors":[]}`, 13},
		"an error of any size":        {503, strings.Repeat("x", 10*limit), errorLimit},
		"a redirect with many levels": {302, strings.Repeat("[", 1000), 1000},
	} {
		body, err := ReadBody(&http.Response{StatusCode: test.status, Body: io.NopCloser(strings.NewReader(test.body))}, limit)
		switch {
		case test.want == -1 && !errors.Is(err, errTooLarge):
			t.Errorf("%s: got %d bytes, %v; want errTooLarge", name, len(body), err)
		case test.want >= 0 && (err != nil || len(body) != test.want):
			t.Errorf("%s: got %d bytes, %v; want %d", name, len(body), err, test.want)
		}
	}
}
