package main

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// What a pass costs is round trips; their number follows from the connections
// and the requests.
func TestTheBuiltFunctionMakesNoMoreRequestsAndConnectionsThanItMust(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	sandbox, err := url.Parse(s.env["IAM_URL"])
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]*ibmcloudtest.SlowProxy{"IAM_URL": nil, "SECRETS_MANAGER_URL": nil}
	behind := map[string]string{}
	for name := range hosts {
		proxy, err := ibmcloudtest.NewSlowProxy(sandbox.Host, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = proxy.Close() }()
		hosts[name], behind[name] = proxy, "https://"+proxy.Addr()
	}
	if _, stderr, exit := s.invoke(behind, "-n", "3"); exit != 0 {
		t.Fatal(stderr)
	}
	if got := hosts["IAM_URL"].Connections(); got != 1 {
		t.Errorf("got %d connections to IAM for three passes, want 1", got)
	}
	// Look and key read set out together; net/http may dial for each before it
	// learns that the first connection serves both.
	if got := hosts["SECRETS_MANAGER_URL"].Connections(); got > 2 {
		t.Errorf("got %d connections to Secrets Manager for three passes, want at most 2", got)
	}
	pass := []string{"iam.token", "secrets.get", "versions.create", "versions.metadata"}
	want := slices.Concat([]string{"iam.token"}, pass, pass, pass) // one more for the bootstrap identity
	slices.Sort(want)
	if got := s.requested(); !slices.Equal(got, want) {
		t.Errorf("got requests %v, want %v", got, want)
	}
}

// requested are the operations asked of the sandbox, sorted.
func (s *stage) requested() []string {
	s.t.Helper()
	response, err := s.client().Get(s.env["IAM_URL"] + "/_sandbox/requests")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var requests []struct{ Op, Identity string }
	if err := json.NewDecoder(response.Body).Decode(&requests); err != nil || response.StatusCode != http.StatusOK {
		s.t.Fatalf("reading the request log: %s, %v", response.Status, err)
	}
	var ops []string
	for _, request := range requests {
		if request.Identity != "admin" { // that is the test itself
			ops = append(ops, request.Op)
		}
	}
	slices.Sort(ops)
	return ops
}
