package ibmcloud

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/golang-jwt/jwt/v5"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// IAM exchanges credentials for access tokens.
type IAM struct {
	url  string // origin without a path
	host string
	wire recorder
	now  func() time.Time
}

// NewIAM returns a client for the IAM endpoint at origin. If now is nil, it is
// time.Now.
func NewIAM(origin string, transport http.RoundTripper, now func() time.Time) *IAM {
	if now == nil {
		now = time.Now
	}
	return &IAM{url: origin, host: hostOf(origin), wire: newRecorder(transport, now), now: now}
}

// Exchange asks IAM for a new token of the API key's owner. It needs no
// permission. A refused key (400, 401) is worth one more try, since a key just
// made takes about 2 seconds until IAM knows it.
func (i *IAM) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	return i.request(ctx, operation{
		doing:   "exchanging the API key for a token",
		host:    i.host,
		refused: "the API key in the key secret is not known, disabled or expired: store a valid one",
		denied:  "the API key may not be used: is it locked, or is this address not among the account's allowed ones?",
	}, apiKeyGrant{key})
}

// grant makes the SDK's authenticator for one token request.
type grant interface {
	authenticator(url string, client *http.Client, headers map[string]string) (requester, error)
}

// requester is an SDK authenticator. Of its methods only RequestToken is used:
// GetToken hands out cached tokens, in the last fifth of their life too.
type requester interface {
	RequestToken() (*core.IamTokenServerResponse, error)
}

type apiKeyGrant struct{ key iamtoken.Secret }

func (g apiKeyGrant) authenticator(url string, client *http.Client, headers map[string]string) (requester, error) {
	authenticator, err := core.NewIamAuthenticatorBuilder().
		SetApiKey(g.key.Reveal()).SetURL(url).SetClient(client).SetHeaders(headers).Build()
	if err != nil {
		return nil, misconfigured("IBM's SDK does not take the API key: it is empty or begins or ends with a brace or a quote; store the bare key")
	}
	return authenticator, nil
}

// request makes one token request: no retries, no cache.
func (i *IAM) request(ctx context.Context, op operation, g grant) (rotation.TokenResponse, error) {
	// The request names its own transaction, so that the id in our log is ours
	// and never something that an answer has put there.
	transaction := rand.Text()
	ctx, got := withAnswer(ctx)
	authenticator, err := g.authenticator(i.url, i.wire.boundClient(ctx), map[string]string{"Transaction-Id": transaction})
	if err != nil {
		return rotation.TokenResponse{}, err
	}
	response, err := guard(authenticator.RequestToken)
	switch {
	case got.status == 0 && got.err == nil:
		// Nothing was sent: the cr-token grant could not read its file.
		return rotation.TokenResponse{}, misconfigured("no token request could be made: is CR_TOKEN_FILENAME readable?")
	case got.status < 200 || got.status > 299:
		failure := op.failure(got, i.now())
		if got.status == http.StatusBadRequest {
			failure = op.because(rotation.Denied, rotation.Once, got, op.refused)
		}
		failure.TransactionID = transaction
		return rotation.TokenResponse{}, failure
	case err != nil || response == nil:
		response = &core.IamTokenServerResponse{}
	}
	token, err := i.token(response)
	if err != nil {
		return rotation.TokenResponse{}, &rotation.Error{Step: rotation.StepCheck, Kind: rotation.InvalidToken, Retry: rotation.Later,
			Message: op.doing + ": " + i.host + " answered " + strconv.Itoa(got.status) + " " + err.Error(), TransactionID: transaction}
	}
	return rotation.TokenResponse{Token: token, TransactionID: transaction, ClockSkew: got.skew}, nil
}

// token reads the answer. Where the body and the JWT disagree on the expiration
// the earlier one counts; a token that is no JWT is valid but opaque.
func (i *IAM) token(response *core.IamTokenServerResponse) (iamtoken.Token, error) {
	value := response.AccessToken
	switch {
	case value == "":
		return iamtoken.Token{}, fmt.Errorf("without a token: is there a proxy in between, or is IAM_URL wrong?")
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		return iamtoken.Token{}, fmt.Errorf("with a token that holds white space or control characters")
	case !strings.EqualFold(response.TokenType, "Bearer"):
		return iamtoken.Token{}, fmt.Errorf("with a token that is no Bearer token")
	}
	token := iamtoken.Token{
		Value:      iamtoken.NewSecret(value),
		Expiration: time.Unix(response.Expiration, 0),
		ExpiresIn:  time.Duration(response.ExpiresIn) * time.Second,
	}
	return complete(token, i.now())
}

func hostOf(origin string) string {
	parsed, err := url.Parse(origin)
	if err != nil {
		return ""
	}
	return parsed.Host
}

func misconfigured(message string) *rotation.Error {
	return &rotation.Error{Kind: rotation.Misconfigured, Message: message}
}

// claims are the parts of an IAM token's JWT that tell whose it is and until when.
type claims struct {
	jwt.RegisteredClaims
	IAMID   string `json:"iam_id"`
	Account struct {
		BSS string `json:"bss"`
	} `json:"account"`
}

// maxLife is well above the 60 minutes that IAM gives a token, whatever the
// clocks: an expiration beyond it is in another unit, or forged.
const maxLife = 24 * time.Hour

// complete adds to token what its JWT tells. The signature is not checked: the
// token came from IAM itself over TLS, and services check it when it is used.
// Where IAM's answer and the JWT disagree the earlier expiration counts.
func complete(token iamtoken.Token, now time.Time) (iamtoken.Token, error) {
	token.IssuedAt = now.Truncate(time.Second)
	var told claims
	_, _, err := jwt.NewParser().ParseUnverified(token.Value.Reveal(), &told)
	if err == nil || errors.Is(err, jwt.ErrTokenUnverifiable) { // an algorithm that the library does not know
		token.IAMID, token.Account = iamtoken.Identity(told.IAMID, told.Account.BSS)
		if told.IssuedAt != nil {
			token.IssuedAt = told.IssuedAt.Time
		}
		if told.ExpiresAt != nil && (token.Expiration.Unix() <= 0 || told.ExpiresAt.Before(token.Expiration)) {
			token.Expiration = told.ExpiresAt.Time
		}
	}
	if token.Expiration.Unix() <= 0 || token.Expiration.Sub(token.IssuedAt) > maxLife {
		return iamtoken.Token{}, errors.New("with a token that has no expiration, or one that no token can have")
	}
	// Of an old token IAM may tell what is left of it, not how long it was made for.
	token.ExpiresIn = max(token.ExpiresIn, token.Expiration.Sub(token.IssuedAt))
	return token, nil
}

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
