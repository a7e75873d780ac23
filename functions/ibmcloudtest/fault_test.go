package ibmcloudtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// targetStatuses calls Logs Routing n times and returns the statuses, 0 for no answer.
func targetStatuses(c client, token string, n int) []int {
	statuses := make([]int, n)
	for i := range statuses {
		response, err := c.http.Do(c.request("GET", "/v3/targets", "", "Authorization", "Bearer "+token))
		if err != nil {
			continue
		}
		statuses[i] = response.StatusCode
		response.Body.Close()
	}
	return statuses
}

func TestFaultCounts(t *testing.T) {
	const op = ibmcloudtest.OpTargetsList
	for _, test := range []struct {
		name   string
		faults []ibmcloudtest.Fault
		want   []int
	}{
		{"until cleared", []ibmcloudtest.Fault{{Op: op, Status: 503}}, []int{503, 503, 503, 503}},
		{"twice", []ibmcloudtest.Fault{{Op: op, Times: 2, Status: 503}}, []int{503, 503, 200, 200}},
		{"skip two", []ibmcloudtest.Fault{{Op: op, Skip: 2, Times: 1, Status: 503}}, []int{200, 200, 503, 200}},
		{"any operation", []ibmcloudtest.Fault{{Op: "*", Times: 1, Status: 500}}, []int{500, 200, 200, 200}},
		{"another operation", []ibmcloudtest.Fault{{Op: ibmcloudtest.OpSettingsGet, Status: 500}}, []int{200, 200, 200, 200}},
		{"the oldest wins", []ibmcloudtest.Fault{{Op: "*", Times: 2, Status: 500}, {Op: op, Times: 1, Status: 429}}, []int{500, 500, 429, 200}},
		{"a skipping one leaves it to the next", []ibmcloudtest.Fault{{Op: op, Skip: 2, Times: 1, Status: 500}, {Op: op, Times: 1, Status: 429}}, []int{429, 200, 500, 200}},
		{"its identity", []ibmcloudtest.Fault{{Op: op, Identity: "workload", Times: 1, Status: 500}}, []int{500, 200, 200, 200}},
		{"another identity", []ibmcloudtest.Fault{{Op: op, Identity: "reader", Times: 1, Status: 500}}, []int{200, 200, 200, 200}},
		{"dropped", []ibmcloudtest.Fault{{Op: op, Drop: "before", Times: 1}}, []int{0, 200, 200, 200}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cloud := ibmcloudtest.New(ibmcloudtest.Options{})
			c := inProcess(t, cloud)
			token := c.token(cloud.Rotations()[0].APIKey)
			for _, f := range test.faults {
				if err := cloud.AddFault(f); err != nil {
					t.Fatal(err)
				}
			}
			if got := targetStatuses(c, token, 4); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestUsedUpFaultsAreGone(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	token := c.token(cloud.Rotations()[0].APIKey)
	_ = cloud.AddFault(ibmcloudtest.Fault{Op: "*", Times: 1, Status: 500})
	_ = cloud.AddFault(ibmcloudtest.Fault{Op: "*", Skip: 1, Times: 3, Status: 502})
	targetStatuses(c, token, 3)
	if got := cloud.Faults(); len(got) != 1 || got[0].Status != 502 || got[0].Skip != 0 || got[0].Times != 2 {
		t.Errorf("got %+v, want the second with 2 times left", got)
	}
	cloud.ClearFaults()
	if got := cloud.Faults(); len(got) != 0 {
		t.Errorf("after ClearFaults: got %+v", got)
	}
}

// TestFaultsByKeyOwner: at IAM the identity is whose key or profile the request bears.
func TestFaultsByKeyOwner(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	if err := cloud.AddFault(ibmcloudtest.Fault{Op: "iam.token", Identity: "bootstrap", Status: 503}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		form url.Values
		want int
	}{
		"bootstrap": {url.Values{"grant_type": {apiKeyGrant}, "apikey": {cloud.BootstrapAPIKey()}}, 503},
		"profile":   {url.Values{"grant_type": {crTokenGrant}, "cr_token": {"x"}, "profile_name": {ibmcloudtest.ProfileName}}, 503},
		"workload":  {url.Values{"grant_type": {apiKeyGrant}, "apikey": {cloud.Rotations()[0].APIKey}}, 200},
		"unknown":   {url.Values{"grant_type": {apiKeyGrant}, "apikey": {"x"}}, 400},
	} {
		if got := c.grant(test.form); got.status != test.want {
			t.Errorf("%s: got %d, want %d", name, got.status, test.want)
		}
	}
}

func TestFaultAnswers(t *testing.T) {
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	c := inProcess(t, cloud)
	token := c.token(cloud.Rotations()[0].APIKey)
	for _, test := range []struct {
		fault       ibmcloudtest.Fault
		status      int
		body        string
		contentType string
		header      string // X-Test
	}{
		{ibmcloudtest.Fault{Status: 502, Body: "<html>", ContentType: "text/html"}, 502, "<html>", "text/html", ""},
		{ibmcloudtest.Fault{Status: 200, Body: "{}"}, 200, "{}", "application/json", ""},
		{ibmcloudtest.Fault{Status: 200, Headers: map[string]string{"x-test": "1"}}, 200, "", "", "1"},
		{ibmcloudtest.Fault{Headers: map[string]string{"x-test": "2"}}, 200, "targets", "application/json", "2"},
	} {
		test.fault.Op, test.fault.Times = "targets.list", 1
		if err := cloud.AddFault(test.fault); err != nil {
			t.Fatal(err)
		}
		got := c.do(token, "GET", "/v3/targets", "")
		isReal := test.body == "targets" && got.at("targets", 0, "target_type") == "cloud_logs"
		if got.status != test.status || got.raw != test.body && !isReal ||
			got.header.Get("Content-Type") != test.contentType || got.header.Get("X-Test") != test.header || got.header.Get("Date") == "" {
			t.Errorf("%+v: got %d %q %v", test.fault, got.status, got.raw, got.header)
		}
	}
}

// TestDrops: before, nothing is done; after, the work is done and its answer lost.
func TestDrops(t *testing.T) {
	for drop, wantVersions := range map[string]int{ibmcloudtest.DropBefore: 1, ibmcloudtest.DropAfter: 2} {
		cloud := ibmcloudtest.New(ibmcloudtest.Options{})
		c := inProcess(t, cloud)
		token := c.token(cloud.BootstrapAPIKey())
		id := cloud.Rotations()[0].TokenSecret
		if err := cloud.AddFault(ibmcloudtest.Fault{Op: "versions.create", Drop: drop}); err != nil {
			t.Fatal(err)
		}
		_, err := c.http.Do(c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"x"}`, "Authorization", "Bearer "+token))
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: got %v, want a reset connection", drop, err)
		}
		if got := len(cloud.MustVersions(id)); got != wantVersions {
			t.Errorf("%s: got %d versions, want %d", drop, got, wantVersions)
		}
		requests := cloud.Requests()
		if last := requests[len(requests)-1]; last.Status != 0 || last.Op != "versions.create" || last.Identity != "bootstrap" {
			t.Errorf("%s: logged %+v, want status 0", drop, last)
		}
	}
}

func TestDelays(t *testing.T) {
	for _, test := range []struct {
		fault        ibmcloudtest.Fault
		patience     time.Duration
		wantElapsed  time.Duration
		wantErr      error
		wantVersions int
	}{
		{ibmcloudtest.Fault{}, time.Hour, 30 * time.Second, nil, 2},
		{ibmcloudtest.Fault{}, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 1},
		{ibmcloudtest.Fault{Status: 503}, time.Hour, 30 * time.Second, nil, 1},
		{ibmcloudtest.Fault{Drop: "before"}, time.Hour, 30 * time.Second, syscall.ECONNRESET, 1},
		{ibmcloudtest.Fault{Drop: "after"}, time.Hour, 30 * time.Second, syscall.ECONNRESET, 2},
		{ibmcloudtest.Fault{Drop: "after"}, 10 * time.Second, 10 * time.Second, context.DeadlineExceeded, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			cloud := ibmcloudtest.New(ibmcloudtest.Options{})
			c := inProcess(t, cloud)
			token := c.token(cloud.BootstrapAPIKey())
			id := cloud.Rotations()[0].TokenSecret
			test.fault.Op, test.fault.Delay = "versions.create", 30*time.Second
			if err := cloud.AddFault(test.fault); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), test.patience)
			defer cancel()
			began := time.Now()
			response, err := c.http.Do(c.request("POST", "/api/v2/secrets/"+id+"/versions", `{"payload":"x"}`, "Authorization", "Bearer "+token).WithContext(ctx))
			if err == nil {
				response.Body.Close()
			}
			if elapsed := time.Since(began); elapsed != test.wantElapsed || !errors.Is(err, test.wantErr) {
				t.Errorf("%+v: got %s, %v; want %s, %v", test.fault, elapsed, err, test.wantElapsed, test.wantErr)
			}
			if got := len(cloud.MustVersions(id)); got != test.wantVersions {
				t.Errorf("%+v: got %d versions, want %d", test.fault, got, test.wantVersions)
			}
		})
	}
}

func TestEveryOperationHasItsName(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := cloud.Rotations()[0].TokenSecret
	routes := map[string][][2]string{
		"iam.token":         {{"POST", "/identity/token"}},
		"iam.keys":          {{"GET", "/identity/keys"}},
		"groups":            {{"POST", "/api/v2/secret_groups"}, {"GET", "/api/v2/secret_groups"}, {"GET", "/api/v2/secret_groups/x"}, {"PATCH", "/api/v2/secret_groups/x"}, {"DELETE", "/api/v2/secret_groups/x"}},
		"secrets.list":      {{"GET", "/api/v2/secrets"}},
		"secrets.create":    {{"POST", "/api/v2/secrets"}},
		"secrets.get":       {{"GET", "/api/v2/secrets/%s"}, {"GET", "/api/v2/secret_groups/g/secret_types/t/secrets/n"}},
		"secrets.delete":    {{"DELETE", "/api/v2/secrets/%s"}},
		"secrets.metadata":  {{"GET", "/api/v2/secrets/%s/metadata"}},
		"secrets.patch":     {{"PATCH", "/api/v2/secrets/%s/metadata"}},
		"versions.create":   {{"POST", "/api/v2/secrets/%s/versions"}},
		"versions.list":     {{"GET", "/api/v2/secrets/%s/versions"}},
		"versions.get":      {{"GET", "/api/v2/secrets/%s/versions/current"}},
		"versions.metadata": {{"GET", "/api/v2/secrets/%s/versions/current/metadata"}},
		"versions.patch":    {{"PATCH", "/api/v2/secrets/%s/versions/current/metadata"}},
		"locks": {{"POST", "/api/v2/secrets/%s/locks_bulk"}, {"DELETE", "/api/v2/secrets/%s/locks_bulk"}, {"GET", "/api/v2/secrets/%s/locks"},
			{"POST", "/api/v2/secrets/%s/versions/current/locks_bulk"}, {"DELETE", "/api/v2/secrets/%s/versions/current/locks_bulk"},
			{"GET", "/api/v2/secrets/%s/versions/current/locks"}, {"GET", "/api/v2/secrets_locks"}},
		"targets.list": {{"GET", "/v3/targets"}},
		"settings.get": {{"GET", "/v3/settings"}},
		"tenants.list": {{"GET", "/v1/tenants"}},
	}
	for name, requests := range routes {
		for _, request := range requests {
			if err := cloud.AddFault(ibmcloudtest.Fault{Op: name, Times: 1, Status: 418}); err != nil {
				t.Fatal(err)
			}
			path := request[1]
			if slices.Contains([]byte(path), '%') {
				path = fmt.Sprintf(path, id)
			}
			if got := c.do(admin, request[0], path, ""); got.status != 418 {
				t.Errorf("%s %s is not %s: got %d, want the fault", request[0], request[1], name, got.status)
			}
			cloud.ClearFaults()
		}
	}
}
