package awscloud

import (
	"context"
	"net/http"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge/types"

	"iam-token-rotator/functions/internal/events"
)

// EventBus puts events on a bus of Amazon EventBridge. It needs events:PutEvents on the bus.
type EventBus struct {
	connection[putEvents]
	name string // or ARN
}

type putEvents = call[eventbridge.PutEventsInput, eventbridge.Options, eventbridge.PutEventsOutput]

// maxEntries is how many events one request may have.
const maxEntries = 10

// NewEventBus opens no connection. The bus is named by its name or its ARN.
func NewEventBus(name, region string, transport http.RoundTripper) *EventBus {
	return &EventBus{name: name, connection: connection[putEvents]{
		resource: resource{purpose: eventBus, source: newCredentialSource(transport)}, region: region,
		build: func(cfg aws.Config) putEvents { return eventbridge.NewFromConfig(cfg).PutEvents },
	}}
}

// Put implements events.Bus. Errors are *rotation.Error. After a request that fails as a whole
// it sends no further one.
func (b *EventBus) Put(ctx context.Context, all []events.Event) []error {
	errs := make([]error, 0, len(all))
	for batch := range slices.Chunk(all, maxEntries) {
		refused, err := b.putBatch(ctx, batch)
		if err != nil {
			return append(errs, slices.Repeat([]error{err}, len(all)-len(errs))...)
		}
		errs = append(errs, refused...)
	}
	return errs
}

// putBatch returns an error or nil for each event, or else one error for all of them.
func (b *EventBus) putBatch(ctx context.Context, batch []events.Event) ([]error, error) {
	put, err := b.ready(ctx)
	if err != nil {
		return nil, err
	}
	var input eventbridge.PutEventsInput
	for _, event := range batch {
		input.Entries = append(input.Entries, types.PutEventsRequestEntry{
			Source: aws.String(events.Source), DetailType: aws.String(string(event.Type)), Detail: aws.String(event.Detail), EventBusName: &b.name,
		})
	}
	answer, err := put(ctx, &input)
	if err != nil {
		return nil, b.failure(err)
	}
	errs, failed := make([]error, len(batch)), 0
	for i, entry := range answer.Entries {
		if code := aws.ToString(entry.ErrorCode); i < len(errs) && (code != "" || aws.ToString(entry.EventId) == "") {
			errs[i] = b.refusalError(newRefusal(http.StatusOK, code, aws.ToString(entry.ErrorMessage)))
			failed++
		}
	}
	if len(answer.Entries) != len(batch) || failed == 0 && answer.FailedEntryCount != 0 { // which ones failed is not known
		return nil, b.refusalError(newRefusal(http.StatusOK, "", ""))
	}
	return errs, nil
}
