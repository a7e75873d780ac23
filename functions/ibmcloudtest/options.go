package ibmcloudtest

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// maxTokenTTL is the longest life that IAM gives an access token.
const maxTokenTTL = time.Hour

// Options describes the cloud to build. The zero value is a cloud with one rotation, tokens of one
// hour and the machine's clock.
type Options struct {
	// Rotations is how many pairs of key secret and token secret are seeded, each with a workload
	// service id of its own. If 0, one.
	Rotations int

	// TokenTTL is the life of a new access token, in whole seconds. If 0, one hour.
	TokenTTL time.Duration

	// Now is the cloud's clock. If nil, time.Now.
	Now func() time.Time

	// KeyPropagation is how long IAM does not know a key that Secrets Manager has just minted for
	// an iam_credentials or service_credentials secret. If 0, two seconds, as IBM documents; if
	// negative, the key is known at once. Keys made by a Must… method are always known at once.
	KeyPropagation time.Duration

	// RequestLog is how many requests are remembered, the newest. If 0, 100,000; if negative, none.
	RequestLog int

	// Undocumented chooses among the answers that IBM leaves open.
	Undocumented Undocumented
}

// Undocumented holds the HTTP statuses that IBM's documentation leaves open. A zero field stands
// for its default. They can be changed over HTTP too: PATCH /_sandbox/settings.
type Undocumented struct {
	// UnknownKey answers an API key that IAM does not know: 400 (default) or 401.
	UnknownKey int `json:"unknown_key_status,omitempty"`

	// Duplicate answers a name that is taken: 409 (default) or 400.
	Duplicate int `json:"duplicate_status,omitempty"`

	// TooLarge answers a payload, data or metadata above its limit: 400 (default) or 413.
	TooLarge int `json:"too_large_status,omitempty"`

	// Destroyed answers a change to a secret past its expiration date: 400 (default), 404, 410 or 412.
	Destroyed int `json:"destroyed_status,omitempty"`
}

// validate refuses a status that its field does not list.
func (u *Undocumented) validate() error {
	for _, field := range []struct {
		name    string
		status  int
		allowed []int
	}{
		{"unknown_key_status", u.UnknownKey, []int{400, 401}},
		{"duplicate_status", u.Duplicate, []int{400, 409}},
		{"too_large_status", u.TooLarge, []int{400, 413}},
		{"destroyed_status", u.Destroyed, []int{400, 404, 410, 412}},
	} {
		if field.status != 0 && !slices.Contains(field.allowed, field.status) {
			return fmt.Errorf("%s must be one of %v", field.name, field.allowed)
		}
	}
	return nil
}

// settings are the options that can change while the cloud runs. Guarded by Cloud.mu.
type settings struct {
	tokenTTL time.Duration
	Undocumented
}

func (o Options) settings() settings {
	s := settings{tokenTTL: o.TokenTTL, Undocumented: Undocumented{
		UnknownKey: http.StatusBadRequest,
		Duplicate:  http.StatusConflict,
		TooLarge:   http.StatusBadRequest,
		Destroyed:  http.StatusBadRequest,
	}}
	if s.tokenTTL == 0 {
		s.tokenTTL = maxTokenTTL
	}
	s.apply(o.Undocumented)
	return s
}

// apply overwrites what u sets.
func (s *settings) apply(u Undocumented) {
	for _, change := range []struct {
		to *int
		by int
	}{
		{&s.UnknownKey, u.UnknownKey}, {&s.Duplicate, u.Duplicate},
		{&s.TooLarge, u.TooLarge}, {&s.Destroyed, u.Destroyed},
	} {
		if change.by != 0 {
			*change.to = change.by
		}
	}
}

func (o Options) keyPropagation() time.Duration {
	if o.KeyPropagation == 0 {
		return 2 * time.Second
	}
	return max(o.KeyPropagation, 0)
}

func (o Options) requestLog() int {
	if o.RequestLog == 0 {
		return 100_000
	}
	return max(o.RequestLog, 0)
}
