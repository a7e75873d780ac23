package ibmcloudtest_test

import (
	"net/url"
	"slices"
	"testing"

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
