package main

import (
	"strings"
	"testing"
)

func TestRelay(t *testing.T) {
	const events = `{"Action":"build-output","ImportPath":"p","Output":"p.go:1: undefined\n"}
{"Action":"output","Package":"p","Test":"TestGood","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestSkipped","Output":"    a_test.go:7: curl is not installed\n"}
{"Action":"output","Package":"p","Test":"TestSkipped","Output":"--- SKIP: TestSkipped (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestSkipped"}
{"Action":"output","Package":"p","Test":"TestBad","Output":"    a_test.go:9: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestBad"}
{"Action":"output","Package":"p","Test":"TestHung","Output":"panic: test timed out\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
{"Action":"output","Package":"q","Output":"PASS\n"}
{"Action":"output","Package":"q","Output":"ok  \tq\t0.2s\n"}
{"Action":"skip","Package":"r"}
`
	var out strings.Builder
	r := results{out: &out, skipped: map[string]int{}}
	if got := r.summary(); got != "skipped: no test" {
		t.Errorf("got %q", got)
	}
	r.relay(strings.NewReader(events))
	const want = "p.go:1: undefined\n    a_test.go:9: wrong\nFAIL\tp\t0.1s\npanic: test timed out\nok  \tq\t0.2s\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	if got := r.summary(); got != "skipped: 1 tests: curl is not installed (1)" {
		t.Errorf("got %q", got)
	}
}

func TestEveryGroupIsRun(t *testing.T) {
	for command, failed := range map[string]bool{"echo": false, "false": true, "no-such-program": true} {
		var out strings.Builder
		r := results{out: &out}
		t.Setenv("GO", command)
		r.run([]string{"-race", "a", "--", "b"})
		if r.failed != failed || !failed && !(strings.Contains(out.String(), "test -json -race a\n") && strings.Contains(out.String(), "test -json b\n")) {
			t.Errorf("%s: got failed %t and %q", command, r.failed, out.String())
		}
	}
}
