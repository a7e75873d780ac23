package awscloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"iam-token-rotator/functions/internal/events"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/scripts/awstest"
)

func someEvents(n int) (all []events.Event) {
	for i := range n {
		all = append(all, events.Event{Type: events.TokenRotated, Detail: fmt.Sprintf(`{"rotation":"r-%d","fingerprint":"7fca81ad1553a659"}`, i)})
	}
	return all
}

// A rule of the bus gets every event, put by name or by ARN, in one request or several. A missing bus gets none.
func eventsInMoto(t *testing.T, moto *awstest.Moto) {
	const bus = "arn:aws:events:" + awstest.Region + ":123456789012:event-bus/tokens"
	moto.MustCall(t, "events", "AWSEvents.CreateEventBus", map[string]any{"Name": "tokens"})
	moto.MustCall(t, "events", "AWSEvents.PutRule", map[string]any{"Name": "rotated", "EventBusName": "tokens",
		"EventPattern": `{"source":["iam-token-rotator"],"detail-type":["Token Rotated"],"detail":{"rotation":[{"exists":true}]}}`})
	moto.MustCall(t, "sqs", "AmazonSQS.CreateQueue", map[string]any{"QueueName": "rotated"})
	moto.MustCall(t, "events", "AWSEvents.PutTargets", map[string]any{"Rule": "rotated", "EventBusName": "tokens",
		"Targets": []any{map[string]any{"Id": "queue", "Arn": "arn:aws:sqs:" + awstest.Region + ":123456789012:rotated"}}})
	all := someEvents(12)
	for name, some := range map[string][]events.Event{"tokens": all[:1], bus: all[1:]} {
		for i, err := range NewEventBus(name, awstest.Region, http.DefaultTransport).Put(t.Context(), some) {
			if err != nil {
				t.Fatalf("event %d to %s: %v", i, name, err)
			}
		}
	}
	queue := moto.MustCall(t, "sqs", "AmazonSQS.GetQueueUrl", map[string]any{"QueueName": "rotated"})["QueueUrl"]
	seen := map[string]int{}
	for {
		received, _ := moto.MustCall(t, "sqs", "AmazonSQS.ReceiveMessage", map[string]any{"QueueUrl": queue, "MaxNumberOfMessages": 10})["Messages"].([]any)
		for _, message := range received {
			body, _ := message.(map[string]any)["Body"].(string)
			var event struct {
				Source string
				Type   string `json:"detail-type"`
				Detail json.RawMessage
			}
			if err := json.Unmarshal([]byte(body), &event); err != nil || event.Source != "iam-token-rotator" || event.Type != "Token Rotated" {
				t.Fatalf("got %s (%v)", body, err)
			}
			seen[strings.ReplaceAll(string(event.Detail), " ", "")]++
		}
		if len(received) == 0 {
			break
		}
	}
	for _, event := range all {
		if seen[event.Detail] != 1 {
			t.Errorf("%s came %d times, want once", event.Detail, seen[event.Detail])
		}
	}
	for _, err := range NewEventBus("no-such-bus", awstest.Region, http.DefaultTransport).Put(t.Context(), all) {
		checkFailure(t, err, rotation.NotFound, rotation.Never, "there is no such bus", "EVENT_BUS_NAME")
	}
}

// Each event is signed, for its own service and the bus's region.
func TestTheRequestForEvents(t *testing.T) {
	requests := answering(t, 200, `{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`)
	t.Setenv("AWS_SESSION_TOKEN", "session")
	if errs := NewEventBus("tokens", "eu-central-1", http.DefaultTransport).Put(t.Context(), someEvents(1)); errs[0] != nil {
		t.Fatal(errs)
	}
	wantRequests(t, *requests, `PutEvents {"Entries":[{"Detail":"{\"rotation\":\"r-0\",\"fingerprint\":\"7fca81ad1553a659\"}","DetailType":"Token Rotated","EventBusName":"tokens","Source":"iam-token-rotator"}]}`)
	if asked := (*requests)[0]; !strings.Contains(asked.signed, "/events/aws4_request") || !strings.Contains(asked.signed, "x-amz-security-token;x-amz-target") || asked.header.Get("X-Amz-Security-Token") != "session" {
		t.Errorf("got the headers %v", asked.header)
	}
	t.Setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", "")
	for region, want := range map[string]string{"us-east-1": "events.us-east-1.amazonaws.com", "us-gov-west-1": "events.us-gov-west-1.amazonaws.com",
		"cn-north-1": "events.cn-north-1.amazonaws.com.cn", "us-iso-east-1": "events.us-iso-east-1.c2s.ic.gov", "eusc-de-east-1": "events.eusc-de-east-1.amazonaws.eu"} {
		transport := &hosts{}
		NewEventBus("tokens", region, transport).Put(t.Context(), someEvents(1))
		if len(transport.asked) != 1 || transport.asked[0] != want {
			t.Errorf("got requests to %q, want one to %s", transport.asked, want)
		}
	}
}

// hosts records the hosts that requests go to, and answers none.
type hosts struct{ asked []string }

func (h *hosts) RoundTrip(req *http.Request) (*http.Response, error) {
	h.asked = append(h.asked, req.URL.Host)
	return nil, errors.New("nobody is there")
}

// Answers of EventBridge, or of something in its place, for two events. Only an event with an id counts as put.
func TestEventsThatAreNotTaken(t *testing.T) {
	const taken = `{"EventId":"11710aed-b79e-4468-a20b-bb3c0c3b4860"}`
	const unusable = "the response cannot be used"
	entry := func(code string) string { return `{"ErrorCode":"` + code + `","ErrorMessage":"` + canary + `"}` }
	both := func(first, second string) string {
		return `{"FailedEntryCount":1,"Entries":[` + first + `,` + second + `]}`
	}
	refusal := func(code string) string { return `{"__type":"` + code + `","message":"` + canary + `"}` }
	for _, tt := range []struct {
		status      int
		body        string
		kind        rotation.Kind
		says, first string // of the errors of the second and the first event; "" for no error
	}{
		{200, `{"FailedEntryCount":0,"Entries":[` + taken + `,` + taken + `]}`, "", "", ""},
		{200, both(taken, entry("InternalFailure")), rotation.Unavailable, "200 InternalFailure: the service is having trouble", ""},
		{200, both(taken, entry("InternalException")), rotation.Unavailable, "trouble", ""},
		{200, both(taken, entry("ThrottlingException")), rotation.RateLimited, "too many requests", ""},
		{200, both(taken, entry("AccessDeniedException")), rotation.Denied, "events:PutEvents", ""},
		{200, both(taken, entry("NotAuthorizedForSourceException")), rotation.Denied, "EventBusName", ""},
		{200, both(taken, entry("MalformedDetail")), rotation.Misconfigured, "200 MalformedDetail: the request is rejected", ""},
		{200, both(taken, entry(canary)), rotation.Unavailable, unusable, ""},
		{200, both(taken, `{}`), rotation.Unavailable, unusable, ""},
		{200, both(taken, `null`), rotation.Unavailable, unusable, ""},
		{200, both(entry("ThrottlingException"), entry("ThrottlingException")), rotation.RateLimited, "too many", "too many"},
		{200, both(taken, taken), rotation.Unavailable, unusable, unusable}, // one has failed, without saying which
		{200, `{"FailedEntryCount":0,"Entries":[` + taken + `]}`, rotation.Unavailable, unusable, unusable},
		{200, `{"FailedEntryCount":0}`, rotation.Unavailable, unusable, unusable},
		{200, `{"FailedEntryCount":"2","Entries":[` + taken + `,` + taken + `]}`, rotation.Unavailable, unusable, unusable},
		{200, `[]`, rotation.Unavailable, unusable, unusable},
		{200, `<html>` + canary, rotation.Unavailable, unusable, unusable},
		{200, ``, rotation.Unavailable, unusable, unusable},
		{200, `{"Entries":[` + strings.Repeat(taken+",", 1<<17) + taken + `]}`, rotation.Unavailable, "larger", "larger"},
		{204, ``, rotation.Unavailable, unusable, unusable},
		{400, refusal("ResourceNotFoundException:http://" + canary), rotation.NotFound, "400 ResourceNotFoundException: there is no such bus", "no such bus"},
	} {
		requests := answering(t, tt.status, tt.body)
		errs := NewEventBus("tokens", "eu-central-1", http.DefaultTransport).Put(t.Context(), someEvents(2))
		if len(errs) != 2 || len(*requests) != 1 {
			t.Fatalf("%d %.99s: got %d errors and %d requests, want 2 and 1", tt.status, tt.body, len(errs), len(*requests))
		}
		for i, want := range []string{tt.first, tt.says} {
			if want == "" {
				if errs[i] != nil {
					t.Errorf("%d %.99s: event %d: got %v", tt.status, tt.body, i, errs[i])
				}
				continue
			}
			failure, _ := errs[i].(*rotation.Error)
			if failure == nil {
				t.Errorf("%d %.99s: event %d was taken for put", tt.status, tt.body, i)
				continue
			}
			checkFailure(t, errs[i], tt.kind, failure.Retry, want)
			checkPurpose(t, eventBus, errs[i])
		}
	}
}
