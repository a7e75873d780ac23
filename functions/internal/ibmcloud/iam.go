package ibmcloud

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// IAM exchanges credentials for access tokens.
type IAM struct {
	url       string // origin without a path
	wire      wire
	now       func() time.Time
	keys      *signingKeys
	bootstrap *Bootstrap // nil if no identity opens Secrets Manager
}

// NewIAM returns a client for the IAM endpoint at origin. If now is nil, it is
// time.Now.
func NewIAM(origin string, transport http.RoundTripper, now func() time.Time) *IAM {
	if now == nil {
		now = time.Now
	}
	i := &IAM{url: origin, wire: newWire(transport, now), now: now}
	i.keys = &signingKeys{fetch: i.fetchKeys, now: now}
	return i
}

// exchangeOf is the operation of exchanging an API key, which errors call credential.
func exchangeOf(doing, credential string) operation {
	return operation{doing: doing, credential: credential,
		rejected: credential + " is not known to IAM, disabled or expired: replace it with a valid key"}
}

// Exchange asks IAM for a new token of the API key's owner. It needs no permission. The error
// for a rejected key (400, 401) allows one retry, because IAM knows a new key only after about
// 2 seconds.
//
// The token has the form of one, contains none of the credentials that the function uses and,
// if it is a JWT, is signed by IAM. Unverified says why the signature could not be verified:
// the token is opaque, or IAM's keys are unavailable.
func (i *IAM) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	op := exchangeOf("exchanging the API key for a token", "the API key in the key secret")
	response, sent, err := i.request(ctx, op, byKey(key))
	if err != nil {
		return rotation.TokenResponse{}, err
	}
	value := response.Token.Value.Reveal()
	own := []iamtoken.Secret{key, sent}
	if i.bootstrap != nil {
		own = append(own, i.bootstrap.credentials()...)
	}
	switch {
	case repeatsAny(value, own):
		err = errors.New("a key or token that was sent to it")
	case !iamtoken.IsJWT(value):
		response.Unverified = "the token is opaque"
	default:
		err = i.keys.verify(ctx, value)
	}
	if errors.Is(err, errKeysUnavailable) {
		response.Unverified, err = err.Error(), nil
	}
	if err != nil {
		return rotation.TokenResponse{}, i.badToken(op, err, response.TransactionID)
	}
	return response, nil
}

// badToken is the error for a success that brings what must not be saved as a token.
func (i *IAM) badToken(op operation, what error, transaction string) *rotation.Error {
	return &rotation.Error{Step: rotation.StepCheck, Kind: rotation.InvalidToken, Retry: rotation.Later, TransactionID: transaction,
		Message: op.doing + ": " + hostOf(i.url) + " answered with " + what.Error() + ": is there a proxy in between, or is IAM_URL wrong?"}
}

// minSearched is the length of the shortest secret that is searched for inside a token: a
// shorter one may occur there by chance.
const minSearched = 16

// repeatsAny reports whether token equals, contains or is part of one of the secrets. A
// secret may be in it as text, encoded, or in the claims of a JWT. Claims go into reports,
// and readers get the whole token.
func repeatsAny(token string, secrets []iamtoken.Secret) bool {
	folded := fold(token)
	return slices.ContainsFunc(secrets, func(secret iamtoken.Secret) bool {
		value := strings.TrimSpace(secret.Reveal())
		if value == token || len(value) < minSearched {
			return value == token
		}
		inToken := func(form string) bool { return strings.Contains(folded, fold(form)) }
		return strings.Contains(value, token) || slices.ContainsFunc(encodings(value, len(token)), inToken)
	})
}

// encodings returns the forms in which a text of length characters can contain value: as it
// is, in hexadecimal, in base64, and each of these in base64 again, as claims are in a JWT.
func encodings(value string, length int) []string {
	forms := []string{value}
	if base64.RawURLEncoding.EncodedLen(len(value)) <= length+2 { // withinBase64 cuts the ends off
		forms = append(forms, hex.EncodeToString([]byte(value)))
		forms = append(forms, withinBase64(value)...)
		for _, form := range slices.Clone(forms) {
			forms = append(forms, withinBase64(form)...)
		}
	}
	return forms
}

// withinBase64 returns the three forms of value inside a longer text in base64, in the
// alphabet for URLs: the form depends on where in a group of three bytes value begins.
func withinBase64(value string) []string {
	var forms []string
	for before, shared := range []int{0, 2, 3} { // characters that also depend on what precedes
		encoded := base64.RawURLEncoding.EncodeToString(append(make([]byte, before), value...))
		if (before+len(value))%3 != 0 {
			encoded = encoded[:len(encoded)-1] // it also depends on what follows
		}
		forms = append(forms, encoded[shared:])
	}
	return forms
}

var oneAlphabet = strings.NewReplacer("+", "-", "/", "_")

// fold makes texts comparable that differ in case or in the alphabet of base64.
func fold(text string) string { return strings.ToLower(oneAlphabet.Replace(text)) }

// requester is an SDK authenticator. Only RequestToken is used: GetToken returns cached
// tokens, even in the last fifth of their lifetime.
type requester interface {
	RequestToken() (*core.IamTokenServerResponse, error)
}

// grant makes the SDK's authenticator for one token request.
type grant func(url string, client *http.Client, headers map[string]string) (requester, error)

func byKey(key iamtoken.Secret) grant {
	return func(url string, client *http.Client, headers map[string]string) (requester, error) {
		authenticator, err := core.NewIamAuthenticatorBuilder().
			SetApiKey(key.Reveal()).SetURL(url).SetClient(client).SetHeaders(headers).Build()
		if err != nil {
			return nil, misconfigured("IBM's SDK rejects the API key: it is empty or begins or ends with a brace or a quote", "store the bare key")
		}
		return authenticator, nil
	}
}

// tokenReply is IAM's answer to a grant.
type tokenReply struct {
	AccessToken iamtoken.Secret `json:"access_token"`
	TokenType   string          `json:"token_type"`
	ExpiresIn   int64           `json:"expires_in"` // seconds
	Expiration  int64           `json:"expiration"` // epoch seconds
}

// roundTripper is a function as http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// request makes one token request, without retries or a cache. sent is the credential in it.
func (i *IAM) request(ctx context.Context, op operation, g grant) (response rotation.TokenResponse, sent iamtoken.Secret, err error) {
	op.host = hostOf(i.url)
	// The transaction's id is made here, so that logs never repeat one that an answer has
	// made up.
	transaction := rand.Text()
	var reply tokenReply
	got := ask(ctx, 0, &reply, func(ctx context.Context) {
		client := &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			sent = credentialIn(req)
			return i.wire.RoundTrip(req.WithContext(ctx)) // the SDK takes no context
		})}
		var authenticator requester
		if authenticator, err = g(i.url, client, map[string]string{"Transaction-Id": transaction}); err == nil {
			_, _ = authenticator.RequestToken()
		}
	})
	switch {
	case err != nil:
		return rotation.TokenResponse{}, sent, err
	case got.notSent(): // the SDK could not read the compute resource token's file
		return rotation.TokenResponse{}, sent, misconfigured(op.doing+": there is no compute resource token: its file is missing, unreadable or empty",
			"on Code Engine, enable the trusted profile on the job (--trusted-profiles-enabled, in Terraform run_compute_resource_token_enabled); elsewhere, name the token's file in CR_TOKEN_FILENAME")
	case !got.succeeded():
		failure := op.failure(got, i.now())
		failure.TransactionID = transaction
		return rotation.TokenResponse{}, sent, failure
	}
	token, err := i.token(reply, got)
	if err != nil {
		return rotation.TokenResponse{}, sent, i.badToken(op, err, transaction)
	}
	return rotation.TokenResponse{Token: token, TransactionID: transaction, Clock: got.clock}, sent, nil
}

// credentialIn returns the API key or the compute resource token in a request's body.
func credentialIn(req *http.Request) iamtoken.Secret {
	if req.GetBody == nil {
		return iamtoken.Secret{}
	}
	body, err := req.GetBody()
	if err != nil {
		return iamtoken.Secret{}
	}
	encoded, _ := io.ReadAll(body)
	form, _ := url.ParseQuery(string(encoded))
	return iamtoken.NewSecret(form.Get("apikey") + form.Get("cr_token"))
}

// token checks what IAM answered and returns the token, completed from its JWT.
func (i *IAM) token(reply tokenReply, got *answer) (iamtoken.Token, error) {
	switch {
	case reply.AccessToken.IsZero():
		return iamtoken.Token{}, errors.New("no token")
	case !strings.EqualFold(reply.TokenType, "Bearer"):
		return iamtoken.Token{}, errors.New("a token that is not a Bearer token")
	case reply.ExpiresIn < 0 || reply.ExpiresIn > int64(maxLifetime/time.Second):
		return iamtoken.Token{}, errImpossibleExpiry
	}
	expiresIn := time.Duration(reply.ExpiresIn) * time.Second
	token, err := complete(iamtoken.Token{
		Value:      reply.AccessToken,
		Expiration: time.Unix(reply.Expiration, 0),
		ExpiresIn:  expiresIn,
	}, i.now().Add(got.clock.Skew()))
	switch {
	case err != nil:
		return iamtoken.Token{}, err
	case got.dateBefore(token.IssuedAt):
		return iamtoken.Token{}, errors.New("a token that was issued after its own Date")
	case !got.date.IsZero() && !got.date.Before(token.Expiration):
		return iamtoken.Token{}, errors.New("a token that expired before its own Date")
	}
	// If Date plus expires_in is earlier than expiration by more than a delay explains, it counts.
	if byDate := got.date.Add(expiresIn); !got.date.IsZero() && expiresIn > 0 && token.Expiration.Sub(byDate) > rotation.MaxClocksApart {
		token.Expiration = byDate
	}
	return token, nil
}

// maxLifetime is far above the 60 minutes that IAM gives a token, so that wrong clocks do
// not matter: a longer lifetime is in another unit, or forged.
const maxLifetime = 24 * time.Hour

// jwtStart begins every JWT: its header begins with {", which is this in base64.
const jwtStart = "eyJ"

var errImpossibleExpiry = errors.New("a token that has no expiration, or one that no token can have")

// complete adds to token what its JWT states; now is by IAM's clock. Of IAM's expiration and
// the JWT's the earlier one counts. A token that is not a JWT is opaque. A JWT whose claims
// cannot be read is an error.
func complete(token iamtoken.Token, now time.Time) (iamtoken.Token, error) {
	value := token.Value.Reveal()
	if err := iamtoken.CheckForm(value); err != nil {
		return iamtoken.Token{}, fmt.Errorf("something that is not a token (%w)", err)
	}
	token.IssuedAt = now.Truncate(time.Second)
	if strings.HasPrefix(value, jwtStart) && !iamtoken.IsJWT(value) {
		return iamtoken.Token{}, errors.New("a JWT that has lost parts of it")
	}
	if iamtoken.IsJWT(value) {
		claims, err := iamtoken.ReadClaims(value)
		if err != nil {
			return iamtoken.Token{}, fmt.Errorf("a JWT that cannot be read (%s)", strings.ReplaceAll(err.Error(), "\n", ", "))
		}
		token.IAMID, token.Account = claims.IAMID, claims.Account
		if !claims.IssuedAt.IsZero() {
			token.IssuedAt = claims.IssuedAt
		}
		if !claims.ExpiresAt.IsZero() && (token.Expiration.Unix() <= 0 || claims.ExpiresAt.Before(token.Expiration)) {
			token.Expiration = claims.ExpiresAt
		}
	}
	if token.Expiration.Unix() <= 0 || token.Expiration.Sub(token.IssuedAt) > maxLifetime {
		return iamtoken.Token{}, errImpossibleExpiry
	}
	// For a token issued earlier, IAM may report the remaining lifetime.
	token.ExpiresIn = max(token.ExpiresIn, token.Expiration.Sub(token.IssuedAt))
	return token, nil
}

// KeyExpiry asks IAM when an API key expires; the zero time means never. token must be of an
// identity that may see the key, as the key's owner may. Only a diagnosis and a warning
// depend on the answer.
//
// GET /v1/apikeys/details takes the key in a header (IAM Identity Services API,
// GetAPIKeysDetails).
func (i *IAM) KeyExpiry(ctx context.Context, key, token iamtoken.Secret) (time.Time, error) {
	op := operation{doing: "asking when the API key expires", host: hostOf(i.url), rejected: "the token is rejected"}
	var details struct {
		ID        string    `json:"id"` // distinguishes the answer from a page of a proxy
		ExpiresAt timestamp `json:"expires_at"`
	}
	got := i.wire.get(ctx, i.url+"/v1/apikeys/details", http.Header{"Authorization": {"Bearer " + token.Reveal()}, "Iam-Apikey": {key.Reveal()}}, &details)
	switch {
	case got.status != http.StatusOK:
		return time.Time{}, op.failure(got, i.now())
	case got.decodeErr != nil || details.ID == "":
		return time.Time{}, op.unusable(got)
	}
	return details.ExpiresAt.Time, nil
}
