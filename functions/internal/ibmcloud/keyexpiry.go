package ibmcloud

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// KeyExpiry asks IAM when an API key expires, with a token of somebody who may
// see the key: its owner may. The zero time means never.
//
// GET /v1/apikeys/details takes the key in a header (IAM Identity Services API,
// GetAPIKeysDetails). Nothing but a diagnosis depends on it.
func (i *IAM) KeyExpiry(ctx context.Context, key, token iamtoken.Secret) (time.Time, error) {
	op := operation{
		doing: "asking when the API key expires", host: i.host,
		refused: "the token is not taken", denied: "the identity may not see its own key",
	}
	ctx, got := withAnswer(ctx)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.url+"/v1/apikeys/details", nil)
	if err != nil {
		return time.Time{}, misconfigured("IAM_URL cannot be used: it is an origin such as https://iam.cloud.ibm.com")
	}
	request.Header.Set("Authorization", "Bearer "+token.Reveal())
	request.Header.Set("IAM-ApiKey", key.Reveal())
	request.Header.Set("Accept", "application/json")
	response, err := i.wire.client().Do(request)
	if err != nil {
		return time.Time{}, op.unanswered(got.err)
	}
	_ = response.Body.Close()
	if got.status != http.StatusOK {
		return time.Time{}, op.failure(got, i.now())
	}
	return got.keyExpiry(op)
}

// keyExpiry reads the answer. That it names the key's id tells it from a page of
// something in IAM's place.
func (a *answer) keyExpiry(op operation) (time.Time, error) {
	var body struct {
		ID        string `json:"id"`
		ExpiresAt string `json:"expires_at"`
	}
	if json.Unmarshal(a.body, &body) != nil || body.ID == "" {
		return time.Time{}, op.unusable(a)
	}
	if body.ExpiresAt == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{"2006-01-02T15:04-0700", "2006-01-02T15:04:05-0700", time.RFC3339} {
		if at, err := time.Parse(layout, body.ExpiresAt); err == nil {
			return at, nil
		}
	}
	return time.Time{}, op.unusable(a)
}

// Identify authenticates and returns the token with whose it is, which is empty
// when the token does not tell.
func (b *Bootstrap) Identify(ctx context.Context) (iamtoken.Token, error) {
	value, err := b.Token(ctx)
	if err != nil {
		return iamtoken.Token{}, err
	}
	token, err := complete(iamtoken.Token{Value: value}, b.now())
	if err != nil {
		return iamtoken.Token{Value: value}, nil // opaque
	}
	return token, nil
}

// KeyExpiry asks IAM when the bootstrap key expires; the zero time means never.
func (b *Bootstrap) KeyExpiry(ctx context.Context) (time.Time, error) {
	credential, ok := b.credential.(*keyCredential)
	if !ok {
		return time.Time{}, &rotation.Error{Step: rotation.StepBootstrap, Kind: rotation.NotFound, Message: "the bootstrap identity has no API key"}
	}
	token, err := b.Token(ctx)
	if err != nil {
		return time.Time{}, err
	}
	key, err := credential.current(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return credential.iam.KeyExpiry(ctx, key, token)
}
