package awscloud

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"iam-token-rotator/functions/internal/events"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// EventBus puts events on a bus of Amazon EventBridge, which takes events:PutEvents on it.
//
// It signs the one request that it needs by the SDK's signer. The SDK's client of the
// service would add 0.1 MB to the zip and 0.5 ms to each start, its last release that
// builds no schemas then 0.15 ms.
type EventBus struct {
	resource
	name   string // or ARN
	region string
}

// maxEntries is the most of one request.
const maxEntries = 10

// NewEventBus opens no connection. The bus is named by its name or its ARN.
func NewEventBus(name, region string, transport http.RoundTripper) *EventBus {
	b := &EventBus{name: name, region: region, resource: resource{source: newCredentialSource(transport), bus: true}}
	b.source.prefer(region)
	return b
}

// Put implements events.Bus. Its errors are *rotation.Error. The first request that is not
// answered well is the last one.
func (b *EventBus) Put(ctx context.Context, all []events.Event) []error {
	errs := make([]error, 0, len(all))
	for batch := range slices.Chunk(all, maxEntries) {
		refused, err := b.putBatch(ctx, batch)
		if err != nil {
			for len(errs) < len(all) {
				errs = append(errs, err)
			}
			return errs
		}
		errs = append(errs, refused...)
	}
	return errs
}

// putEventsAnswer is the API's, of an entry for each that was sent.
type putEventsAnswer struct {
	FailedEntryCount int
	Entries          []struct{ EventID, ErrorCode, ErrorMessage string }
}

// putBatch returns an error for each event that EventBridge has not taken, or one for all.
func (b *EventBus) putBatch(ctx context.Context, batch []events.Event) ([]error, error) {
	request, err := b.request(ctx, batch)
	if err != nil {
		return nil, err
	}
	response, err := b.source.client.Do(request)
	if err != nil {
		return nil, b.failure(err)
	}
	body, err := io.ReadAll(response.Body) // guarded has read it
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return nil, b.failure(err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, b.refusedBy(refused(response.StatusCode, errorOf(response.Header, body)))
	}
	var answer putEventsAnswer
	if json.Unmarshal(body, &answer) != nil || len(answer.Entries) != len(batch) {
		return nil, b.refusedBy(refused(response.StatusCode, apiError{}))
	}
	errs, failed := make([]error, len(batch)), 0
	for i, entry := range answer.Entries {
		if entry.ErrorCode != "" || entry.EventID == "" {
			errs[i] = b.refusedBy(refused(response.StatusCode, apiError{entry.ErrorCode, entry.ErrorMessage}))
			failed++
		}
	}
	if failed == 0 && answer.FailedEntryCount != 0 { // nobody knows which
		return nil, b.refusedBy(refused(response.StatusCode, apiError{}))
	}
	return errs, nil
}

// request is a signed call of PutEvents.
func (b *EventBus) request(ctx context.Context, batch []events.Event) (*http.Request, error) {
	if wrong := network.CheckEnvironment(os.Environ()); len(wrong) > 0 {
		return nil, b.misconfigured(wrong[0].Name + " " + wrong[0].Problem)
	}
	type entry struct{ Source, DetailType, Detail, EventBusName string }
	var asked struct{ Entries []entry }
	for _, event := range batch {
		asked.Entries = append(asked.Entries, entry{events.Source, string(event.Type), event.Detail, b.name})
	}
	body, _ := json.Marshal(asked) // of texts alone
	credentials, err := b.source.Retrieve(ctx)
	if err != nil {
		return nil, b.noCredentials(ctx, err)
	}
	url, err := b.url(ctx)
	if err != nil {
		return nil, b.misconfigured("EVENT_BUS_NAME or AWS_REGION has a region that AWS does not know")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, b.misconfigured("AWS_ENDPOINT_URL is not a URL")
	}
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", "AWSEvents.PutEvents")
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, credentials, request, hex.EncodeToString(sum[:]), "events", b.region, time.Now()); err != nil {
		return nil, b.misconfigured("the request cannot be signed")
	}
	return request, nil
}

// url is where EventBridge is. The SDK knows the domain of each region by another service,
// whose client is linked in any case.
func (b *EventBus) url(ctx context.Context) (string, error) {
	if override := b.endpoint(); override != nil {
		return strings.TrimSuffix(*override, "/") + "/", nil
	}
	found, err := secretsmanager.NewDefaultEndpointResolverV2().ResolveEndpoint(ctx, secretsmanager.EndpointParameters{Region: &b.region})
	if err != nil {
		return "", err
	}
	return "https://events." + strings.TrimPrefix(found.URI.Host, "secretsmanager.") + "/", nil
}

// errorOf reads an answer (AWS JSON 1.1). The code may have a name space before
// it and an address behind.
func errorOf(header http.Header, body []byte) apiError {
	var answer struct {
		Type    string `json:"__type"`
		Message string
	}
	_ = json.Unmarshal(body, &answer) // what is no JSON has no code
	code := answer.Type
	if code == "" {
		code = header.Get("X-Amzn-ErrorType")
	}
	code, _, _ = strings.Cut(code, ":")
	return apiError{code[strings.LastIndex(code, "#")+1:], answer.Message}
}

// explainBus has what is different for a bus; no kind where nothing is.
func explainBus(c cause) (rotation.Kind, string) {
	switch c {
	case denied, deniedWithoutCode, deniedByPolicy, deniedByKMS, expired, wrongClock, unknownKey, badSignature, throttled, trouble, unusable, redirected:
		return "", ""
	case missing:
		return rotation.NotFound, "there is no such bus in that account and region: create it, or correct EVENT_BUS_NAME"
	}
	return rotation.Misconfigured, "the request is rejected: check EVENT_BUS_NAME and AWS_ENDPOINT_URL"
}
