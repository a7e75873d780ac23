package ibmcloud

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"

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
	return &IAM{url: origin, host: hostOf(origin), wire: recorder{transport, now}, now: now}
}

// Exchange asks IAM for a new token of the API key's owner. It needs no
// permission. A refused key (400, 401) is worth one more try, since a key just
// made takes about 2 seconds until IAM knows it.
func (i *IAM) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.Exchanged, error) {
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
func (i *IAM) request(ctx context.Context, op operation, g grant) (rotation.Exchanged, error) {
	// The request names its own transaction, so that the id in our log is ours
	// and never something that an answer has put there.
	transaction := rand.Text()
	ctx, got := withAnswer(ctx)
	authenticator, err := g.authenticator(i.url, i.wire.boundClient(ctx), map[string]string{"Transaction-Id": transaction})
	if err != nil {
		return rotation.Exchanged{}, err
	}
	response, err := guard(authenticator.RequestToken)
	switch {
	case got.status == 0 && got.err == nil:
		// Nothing was sent: the cr-token grant could not read its file.
		return rotation.Exchanged{}, misconfigured("no token request could be made: is CR_TOKEN_FILENAME readable?")
	case got.status < 200 || got.status > 299:
		failure := op.failure(got, i.now())
		if got.status == http.StatusBadRequest {
			failure = op.because(rotation.Denied, rotation.Once, got, op.refused)
		}
		failure.TransactionID = transaction
		return rotation.Exchanged{}, failure
	case err != nil || response == nil:
		response = &core.IamTokenServerResponse{}
	}
	token, err := i.token(response)
	if err != nil {
		return rotation.Exchanged{}, &rotation.Error{Step: rotation.StepCheck, Kind: rotation.InvalidToken, Retry: rotation.Later,
			Message: op.doing + ": " + i.host + " answered " + strconv.Itoa(got.status) + " " + err.Error(), TransactionID: transaction}
	}
	return rotation.Exchanged{Token: token, TransactionID: transaction, ClockSkew: got.skew}, nil
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
