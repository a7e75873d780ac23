package awscloud

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/internal/events"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/infra/aws/awstest"
)

func someEvents(n int) (all []events.Event) {
	for i := range n {
		all = append(all, events.Event{Type: events.TokenRotated, Detail: fmt.Sprintf(`{"rotation":"r-%d","fingerprint":"7fca81ad1553a659"}`, i)})
	}
	return all
}

// A rule of the bus sees every event as it was put, more than a request holds, by the bus's name and its ARN; a bus that is not there takes none.
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
	if errs := NewEventBus("tokens", "eu-north-1", http.DefaultTransport).Put(t.Context(), someEvents(1)); errs[0] != nil {
		t.Fatal(errs)
	}
	request := (*requests)[0]
	body, err := io.ReadAll(request.Body)
	const want = `{"Entries":[{"Detail":"{\"rotation\":\"r-0\",\"fingerprint\":\"7fca81ad1553a659\"}","DetailType":"Token Rotated","EventBusName":"tokens","Source":"iam-token-rotator"}]}`
	if err != nil || string(body) != want {
		t.Errorf("got %s (%v), want %s", body, err, want)
	}
	if got := request.Header.Get("Authorization"); !strings.Contains(got, "/eu-north-1/events/aws4_request") || !strings.Contains(got, "x-amz-security-token;x-amz-target") ||
		request.Header.Get("X-Amz-Target") != "AWSEvents.PutEvents" || request.Header.Get("X-Amz-Security-Token") != "session" {
		t.Errorf("got the headers %v", request.Header)
	}
	t.Setenv("AWS_ENDPOINT_URL_EVENTBRIDGE", "")
	for region, want := range map[string]string{"us-east-1": "events.us-east-1.amazonaws.com", "us-gov-west-1": "events.us-gov-west-1.amazonaws.com",
		"cn-north-1": "events.cn-north-1.amazonaws.com.cn", "us-iso-east-1": "events.us-iso-east-1.c2s.ic.gov", "eusc-de-east-1": "events.eusc-de-east-1.amazonaws.eu"} {
		transport := &asked{}
		NewEventBus("tokens", region, transport).Put(t.Context(), someEvents(1))
		if len(transport.hosts) != 1 || transport.hosts[0] != want {
			t.Errorf("got requests to %q, want one to %s", transport.hosts, want)
		}
	}
}

// What EventBridge may answer for two events, and what else may stand in its place. Only an event with an id was taken.
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
		says, first string // first is what is wrong with the first event; nothing if empty
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
		{200, both(taken, taken), rotation.Unavailable, unusable, unusable}, // nobody knows which
		{200, `{"FailedEntryCount":0,"Entries":[` + taken + `]}`, rotation.Unavailable, unusable, unusable},
		{200, `{"FailedEntryCount":0}`, rotation.Unavailable, unusable, unusable},
		{200, `{"FailedEntryCount":"2","Entries":[` + taken + `,` + taken + `]}`, rotation.Unavailable, unusable, unusable},
		{200, `[]`, rotation.Unavailable, unusable, unusable},
		{200, `<html>` + canary, rotation.Unavailable, unusable, unusable},
		{200, ``, rotation.Unavailable, unusable, unusable},
		{200, `{"Entries":[` + strings.Repeat(taken+",", 1<<17) + taken + `]}`, rotation.Unavailable, "larger", "larger"},
		{204, ``, rotation.Unavailable, unusable, unusable},
		{302, ``, rotation.Misconfigured, "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL"},
		{400, refusal("com.amazonaws.events#ResourceNotFoundException"), rotation.NotFound, "400 ResourceNotFoundException: there is no such bus", "no such bus"},
		{400, refusal("ResourceNotFoundException:http://" + canary), rotation.NotFound, "400 ResourceNotFoundException: there is no such bus", "no such bus"},
		{400, refusal("AccessDeniedException"), rotation.Denied, "name it in EventBusName", "EventBusName"},
		{400, refusal("ValidationException"), rotation.Misconfigured, "check EVENT_BUS_NAME", "check EVENT_BUS_NAME"},
		{400, refusal("LimitExceededException"), rotation.Misconfigured, "check EVENT_BUS_NAME", "check EVENT_BUS_NAME"},
		{400, refusal(canary), rotation.Misconfigured, "answered 400: the request", "check EVENT_BUS_NAME"},
		{400, refusal("ExpiredTokenException"), rotation.Denied, "have expired", "have expired"},
		{400, refusal("UnrecognizedClientException"), rotation.Denied, "access key", "access key"},
		{403, `<html>` + canary, rotation.Denied, "no error code of AWS's", "no error code"},
		{500, refusal("InternalException"), rotation.Unavailable, "trouble", "trouble"},
		{503, canary, rotation.Unavailable, "trouble", "trouble"},
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
			if strings.Contains(failure.Message, "mirror") || strings.Contains(failure.Message, "secret") || strings.Contains(failure.Message, "tokens") {
				t.Errorf("got %q, which is about something else", failure.Message)
			}
		}
	}
}

func TestABusOutOfReach(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	for name, tt := range map[string]struct {
		set  map[string]string
		kind rotation.Kind
		says string
	}{
		"nothing listens":      {nil, rotation.Unavailable, "Amazon EventBridge refuses connections"},
		"it does not answer":   {map[string]string{"AWS_ENDPOINT_URL_EVENTBRIDGE": "", "AWS_ENDPOINT_URL": server.URL}, rotation.Timeout, "did not answer in time"},
		"in the clear":         {map[string]string{"AWS_ENDPOINT_URL_EVENTBRIDGE": "http://example.com"}, rotation.Misconfigured, "AWS_ENDPOINT_URL_EVENTBRIDGE must begin with https"},
		"not a URL":            {map[string]string{"AWS_ENDPOINT_URL_EVENTBRIDGE": "https://{host}"}, rotation.Misconfigured, "AWS_ENDPOINT_URL_EVENTBRIDGE"},
		"a key with a newline": {map[string]string{"AWS_SECRET_ACCESS_KEY": "a\nb"}, rotation.Misconfigured, "AWS_SECRET_ACCESS_KEY"},
	} {
		awsEnvironment(t, "http://127.0.0.1:1")
		for variable, value := range tt.set {
			t.Setenv(variable, value)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		for _, err := range NewEventBus("tokens", "eu-central-1", http.DefaultTransport).Put(ctx, someEvents(11)) {
			failure, _ := err.(*rotation.Error)
			if failure == nil {
				t.Fatalf("%s: got %v", name, err)
			}
			checkFailure(t, err, tt.kind, failure.Retry, tt.says, "putting it on the bus of EVENT_BUS_NAME")
		}
		cancel()
	}
}
