package ibmcloud

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
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
	host      string
	wire      recorder
	now       func() time.Time
	keys      *signingKeys
	bootstrap *Bootstrap // of the identity that opens Secrets Manager; nil if none does
}

// NewIAM returns a client for the IAM endpoint at origin. If now is nil, it is
// time.Now.
func NewIAM(origin string, transport http.RoundTripper, now func() time.Time) *IAM {
	if now == nil {
		now = time.Now
	}
	i := &IAM{url: origin, host: hostOf(origin), wire: newRecorder(transport, now), now: now}
	i.keys = &signingKeys{fetch: i.fetchKeys, now: now}
	return i
}

// Exchange asks IAM for a new token of the API key's owner. It needs no
// permission. A rejected key (400, 401) is retried once, because IAM knows a new
// key only after about 2 seconds.
//
// The token has the form of one, is neither a credential of ours nor holds one and, if
// it is a JWT, is signed by IAM, unless IAM's keys are unavailable; then, and if it is
// opaque, the response says so.
func (i *IAM) Exchange(ctx context.Context, key iamtoken.Secret) (rotation.TokenResponse, error) {
	const named = "the API key in the key secret"
	op := operation{doing: "exchanging the API key for a token", host: i.host, credential: named, rejected: rejectedKey(named)}
	response, sent, err := i.request(ctx, op, apiKeyGrant{key})
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
	if errors.Is(err, errNoKeys) {
		response.Unverified, err = err.Error(), nil
	}
	if err != nil {
		return rotation.TokenResponse{}, op.badToken(err, response.TransactionID)
	}
	return response, nil
}

// leastSecret is the least length of a secret that is searched for within others: a
// shorter one may be there by chance.
const leastSecret = 16

// repeatsAny reports whether token is one of the secrets or holds one, or one holds it.
// An answer may hold a secret encoded, or in a JWT's claims: the claims go into
// reports, and readers get the whole token.
func repeatsAny(token string, secrets []iamtoken.Secret) bool {
	folded := fold(token)
	for _, secret := range secrets {
		value := strings.TrimSpace(secret.Reveal())
		if value == token {
			return true
		}
		if len(value) < leastSecret {
			continue
		}
		if strings.Contains(value, token) || slices.ContainsFunc(encodings(value, len(token)), func(form string) bool { return strings.Contains(folded, fold(form)) }) {
			return true
		}
	}
	return false
}

// encodings are value and the forms that it takes in other text of length characters: in
// hexadecimal or base64, and those in base64, as claims are in a JWT.
func encodings(value string, length int) []string {
	forms := []string{value}
	if base64.RawURLEncoding.EncodedLen(len(value)) <= length+2 { // its ends may be lost
		forms = append(forms, hex.EncodeToString([]byte(value)))
		forms = append(forms, withinBase64(value)...)
		for _, form := range slices.Clone(forms) {
			forms = append(forms, withinBase64(form)...)
		}
	}
	return forms
}

// withinBase64 returns what base64, in the alphabet for URLs, makes of value somewhere
// in a text: it depends on where in a group of three bytes value begins.
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

// fold makes the letters' cases and the two alphabets of base64 one.
func fold(text string) string { return strings.ToLower(oneAlphabet.Replace(text)) }

// badToken is the error for a success with something that must not be published.
func (o operation) badToken(what error, transaction string) *rotation.Error {
	return &rotation.Error{Step: rotation.StepCheck, Kind: rotation.InvalidToken, Retry: rotation.Later, TransactionID: transaction,
		Message: o.doing + ": " + o.host + " answered with " + what.Error() + ": is there a proxy in between, or is IAM_URL wrong?"}
}

// grant makes the SDK's authenticator for one token request.
type grant interface {
	authenticator(url string, client *http.Client, headers map[string]string) (requester, error)
}

// requester is an SDK authenticator. Of its methods only RequestToken is used:
// GetToken returns cached tokens, in the last fifth of their lifetime too.
type requester interface {
	RequestToken() (*core.IamTokenServerResponse, error)
}

type apiKeyGrant struct{ key iamtoken.Secret }

func (g apiKeyGrant) authenticator(url string, client *http.Client, headers map[string]string) (requester, error) {
	authenticator, err := core.NewIamAuthenticatorBuilder().
		SetApiKey(g.key.Reveal()).SetURL(url).SetClient(client).SetHeaders(headers).Build()
	if err != nil {
		return nil, misconfigured("IBM's SDK rejects the API key: it is empty or begins or ends with a brace or a quote", "store the bare key")
	}
	return authenticator, nil
}

// rejectedKey is the advice when IAM rejects a key and does not say why.
func rejectedKey(key string) string {
	return key + " is not known to IAM, disabled or expired: replace it by a valid key"
}

// request makes one token request: no retries, no cache. It also returns the
// credential that was sent.
func (i *IAM) request(ctx context.Context, op operation, g grant) (rotation.TokenResponse, iamtoken.Secret, error) {
	// The request names its own transaction, so that the id in our log is ours
	// and never something that an answer has put there.
	transaction := rand.Text()
	ctx, got := withResponse(ctx)
	client := i.wire.client()
	sent := &tokenRequest{ctx: ctx, base: client.Transport}
	client.Transport = sent
	authenticator, err := g.authenticator(i.url, client, map[string]string{"Transaction-Id": transaction})
	if err != nil {
		return rotation.TokenResponse{}, iamtoken.Secret{}, err
	}
	response, err := guard(authenticator.RequestToken)
	switch {
	case got.status == 0 && got.err == nil:
		// Nothing was sent: the cr-token grant could not read its file.
		return rotation.TokenResponse{}, iamtoken.Secret{}, misconfigured(op.doing+": there is no compute resource token: its file is missing, unreadable or empty",
			"on Code Engine, enable the trusted profile on the job (--trusted-profiles-enabled, in Terraform run_compute_resource_token_enabled); elsewhere, name the token's file in CR_TOKEN_FILENAME")
	case got.status < 200 || got.status > 299:
		failure := op.failure(got, i.now())
		failure.TransactionID = transaction
		return rotation.TokenResponse{}, iamtoken.Secret{}, failure
	case err != nil || response == nil:
		response = &core.IamTokenServerResponse{}
	}
	token, err := i.token(response, got)
	if err != nil {
		return rotation.TokenResponse{}, iamtoken.Secret{}, op.badToken(err, transaction)
	}
	return rotation.TokenResponse{Token: token, TransactionID: transaction, Clock: got.clock}, sent.credential, nil
}

// tokenRequest sends one token request: under a context, which the SDK does not take
// for it, and noting which credential it has.
type tokenRequest struct {
	ctx        context.Context
	base       http.RoundTripper
	credential iamtoken.Secret
}

func (t *tokenRequest) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.GetBody != nil {
		if body, err := req.GetBody(); err == nil {
			encoded, _ := io.ReadAll(body)
			form, _ := url.ParseQuery(string(encoded))
			t.credential = iamtoken.NewSecret(form.Get("apikey") + form.Get("cr_token"))
		}
	}
	return t.base.RoundTrip(req.WithContext(t.ctx))
}

func (i *IAM) token(response *core.IamTokenServerResponse, got *wireResponse) (iamtoken.Token, error) {
	value := response.AccessToken
	switch {
	case value == "":
		return iamtoken.Token{}, errors.New("no token")
	case !strings.EqualFold(response.TokenType, "Bearer"):
		return iamtoken.Token{}, errors.New("a token that is no Bearer token")
	case response.ExpiresIn < 0 || response.ExpiresIn > int64(maxLifetime/time.Second):
		return iamtoken.Token{}, errImpossibleExpiry
	}
	expiresIn := time.Duration(response.ExpiresIn) * time.Second
	token, err := complete(iamtoken.Token{
		Value:      iamtoken.NewSecret(value),
		Expiration: time.Unix(response.Expiration, 0),
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
	token.Expiration = got.earlier(token.Expiration, expiresIn)
	return token, nil
}

// earlier returns the expiration or, if that is sooner by more than a delay explains, the
// answer's Date plus its expires_in.
func (a *wireResponse) earlier(expiration time.Time, expiresIn time.Duration) time.Time {
	if byDate := a.date.Add(expiresIn); !a.date.IsZero() && expiresIn > 0 && expiration.Sub(byDate) > rotation.MaxClocksApart {
		return byDate
	}
	return expiration
}

func hostOf(origin string) string {
	parsed, err := url.Parse(origin)
	if err != nil {
		return ""
	}
	return parsed.Host
}

// misconfigured is the error for what only a person can correct.
func misconfigured(found, advice string) *rotation.Error {
	return &rotation.Error{Kind: rotation.Misconfigured, Message: found + ": " + advice, Advice: advice}
}

// unavailable is the error for an answer that cannot be used.
func unavailable(message string) *rotation.Error {
	return &rotation.Error{Kind: rotation.Unavailable, Retry: rotation.Later, Message: message}
}

// maxLifetime is well above the 60 minutes that IAM gives a token, whatever the
// clocks: an expiration beyond it is in another unit, or forged.
const maxLifetime = 24 * time.Hour

// jwtStart is how every JWT begins, and by chance hardly anything else: the base64 of
// {" with which its header does.
const jwtStart = "eyJ"

var errImpossibleExpiry = errors.New("a token that has no expiration, or one that no token can have")

// complete adds to token what its JWT says; now is by IAM's clock. Where IAM's answer
// and the JWT disagree the earlier expiration counts. A token that is no JWT is opaque;
// one that is, but whose own claims cannot be read, is an error.
func complete(token iamtoken.Token, now time.Time) (iamtoken.Token, error) {
	value := token.Value.Reveal()
	if err := iamtoken.CheckForm(value); err != nil {
		return iamtoken.Token{}, fmt.Errorf("something that is no token (%w)", err)
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
	// Of an old token IAM may report what is left of it, not how long it was made for.
	token.ExpiresIn = max(token.ExpiresIn, token.Expiration.Sub(token.IssuedAt))
	return token, nil
}

// KeyExpiry asks IAM when an API key expires, with a token of somebody who may
// see the key: its owner may. The zero time means never.
//
// GET /v1/apikeys/details takes the key in a header (IAM Identity Services API,
// GetAPIKeysDetails). Only a diagnosis depends on it.
func (i *IAM) KeyExpiry(ctx context.Context, key, token iamtoken.Secret) (time.Time, error) {
	op := operation{doing: "asking when the API key expires", host: i.host, rejected: "the token is rejected"}
	got := i.get(ctx, "/v1/apikeys/details", http.Header{"Authorization": {"Bearer " + token.Reveal()}, "Iam-Apikey": {key.Reveal()}})
	if got.status != http.StatusOK {
		return time.Time{}, op.failure(got, i.now())
	}
	return got.keyExpiry(op)
}

// get asks for what no SDK is used for.
func (i *IAM) get(ctx context.Context, path string, header http.Header) *wireResponse {
	got := &wireResponse{}
	request, err := http.NewRequestWithContext(context.WithValue(ctx, responseKey{}, got), http.MethodGet, i.url+path, nil)
	if err != nil {
		got.err = err
		return got
	}
	header.Set("Accept", "application/json")
	request.Header = header
	if response, err := i.wire.client().Do(request); err == nil {
		_ = response.Body.Close()
	}
	return got
}

// keyExpiry reads the answer. The key's id distinguishes it from a page of a proxy.
func (a *wireResponse) keyExpiry(op operation) (time.Time, error) {
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

// Identify authenticates and returns the token with its identity, which is empty
// when the token does not show it.
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
		return time.Time{}, errNoKey()
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
