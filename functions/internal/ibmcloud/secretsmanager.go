package ibmcloud

import (
	"context"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	sm "github.com/IBM/secrets-manager-go-sdk/v2/secretsmanagerv2"
	"golang.org/x/time/rate"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// SecretsManager reads keys from and publishes tokens to one instance.
type SecretsManager struct {
	sdk       *sm.SecretsManagerV2
	host      string
	bootstrap *Bootstrap
	limiter   *rate.Limiter
	now       func() time.Time

	keySecrets sync.Map // ids of the secrets that keys were read from
}

// SecretsManagerOptions says which instance, as whom and how politely.
type SecretsManagerOptions struct {
	URL       string // origin without a path
	Bootstrap *Bootstrap
	Transport http.RoundTripper
	MaxRPS    int              // requests in any second, retries included; 0 means no limit
	Now       func() time.Time // if nil, time.Now
}

// NewSecretsManager returns a client for one instance.
func NewSecretsManager(o SecretsManagerOptions) (*SecretsManager, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	sdk, err := sm.NewSecretsManagerV2(&sm.SecretsManagerV2Options{URL: o.URL, Authenticator: contextToken{}})
	if err != nil {
		return nil, misconfigured("IBM's SDK does not take SECRETS_MANAGER_URL: it is the instance's origin, https://….secrets-manager.appdomain.cloud")
	}
	sdk.Service.Client = recorder{o.Transport, o.Now}.client()
	return &SecretsManager{sdk: sdk, host: hostOf(o.URL), bootstrap: o.Bootstrap, limiter: newLimiter(o.MaxRPS), now: o.Now}, nil
}

// newLimiter allows at most maxRPS requests in any second: a token bucket lets
// its burst and its rate through in the first, so the two share the limit. A
// twentieth is left for requests that set out late and arrive closer together.
func newLimiter(maxRPS int) *rate.Limiter {
	if maxRPS == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	burst := max(1, min(3, maxRPS/4)) // one rotation's requests at once
	return rate.NewLimiter(rate.Limit(0.95*float64(maxRPS-burst+1)), burst)
}

// call makes one request as the bootstrap identity. Its errors are
// *rotation.Error; the SDK's own are not passed on, see answer.
func call[T any](ctx context.Context, s *SecretsManager, op operation, request func(context.Context) (T, *core.DetailedResponse, error)) (T, error) {
	var none T
	op.host, op.instance = s.host, true
	token, err := s.bootstrap.Token(ctx)
	if err != nil {
		return none, err
	}
	if err := s.limiter.Wait(ctx); err != nil {
		return none, &rotation.Error{Kind: rotation.Timeout, Retry: rotation.Later,
			Message: op.doing + ": its turn under SECRETS_MANAGER_MAX_RPS did not come in time"}
	}
	ctx, got := withAnswer(context.WithValue(ctx, tokenKey{}, token))
	result, err := guard(func() (T, error) {
		result, _, err := request(ctx)
		return result, err
	})
	switch {
	case got.status == 0 && got.err == nil:
		return none, misconfigured(op.doing + ": IBM's SDK does not take the request: check the secret's id or name")
	case got.status < 200 || got.status > 299:
		switch got.status {
		case http.StatusUnauthorized:
			s.bootstrap.refuse(token)
		case http.StatusForbidden:
			s.bootstrap.doubt()
		}
		return none, op.failure(got, s.now())
	case err != nil || isNil(result):
		return none, op.unusable(got)
	}
	return result, nil
}

// isNil reports whether an SDK returned nothing: a nil interface, or a pointer to
// nothing for a body that was empty or null.
func isNil(result any) bool {
	value := reflect.ValueOf(result)
	return !value.IsValid() || value.Kind() == reflect.Pointer && value.IsNil()
}

type tokenKey struct{}

// contextToken authenticates a request with the token in its context. The token
// is obtained before the SDK is called, so that a failure of IAM is never taken
// for one of Secrets Manager.
type contextToken struct{}

func (contextToken) AuthenticationType() string { return core.AUTHTYPE_BEARER_TOKEN }
func (contextToken) Validate() error            { return nil }

func (contextToken) Authenticate(req *http.Request) error {
	token, _ := req.Context().Value(tokenKey{}).(iamtoken.Secret)
	req.Header.Set("Authorization", "Bearer "+token.Reveal())
	return nil
}
