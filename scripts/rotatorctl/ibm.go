package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/go-sdk-core/v5/core"
	"github.com/IBM/platform-services-go-sdk/iamidentityv1"

	"iam-token-rotator/functions/iamtoken"
)

// What services answer is accepted only in these shapes: it is printed, and written to files that a shell reads.
const uuid = `[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}`

var (
	accountShape = regexp.MustCompile(`^[0-9a-f]{32}$`)
	iamIDShape   = regexp.MustCompile(`^iam-ServiceId-` + uuid + `$`)
	profileShape = regexp.MustCompile(`^Profile-` + uuid + `$`)
	keyIDShape   = regexp.MustCompile(`^ApiKey-` + uuid + `$`)
	idShape      = regexp.MustCompile(`^` + uuid + `$`)
	groupShape   = regexp.MustCompile(`^(?:default|` + uuid + `)$`)
	arnShape     = regexp.MustCompile(`^arn:aws[a-z-]{0,20}:secretsmanager:[a-z0-9-]{4,32}:[0-9]{12}:secret:([A-Za-z0-9/_+=.@-]{1,512})-[A-Za-z0-9]{6}$`)
	codeShape    = regexp.MustCompile(`"(?:errorCode|code)"\s*:\s*"(BXNIM[0-9]{4}E|secrets-manager\.Error[0-9]{5})"`)
)

const (
	requestLimit = 30 * time.Second // of one try
	answerLimit  = 8 << 20          // of an answer's bytes: 200 secrets with all their metadata
	tries        = 5                // of one request
	pagesLimit   = 100              // of a listing
)

// ibmCloud is IBM Cloud as one person sees it.
type ibmCloud struct {
	iamURL, secretsURL string
	token              iamtoken.Secret
	login              string // the variable that it came from
	http               *http.Client
	apiKeys            *iamidentityv1.IamIdentityV1
	at                 time.Time // of the last answer, by IBM's clock
}

// newIBMCloud sends no request. logIn sets the person's token.
func newIBMCloud(iamURL, secretsURL string, sleep func(context.Context, time.Duration) error) *ibmCloud {
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	return &ibmCloud{iamURL: iamURL, secretsURL: secretsURL, http: &http.Client{
		Transport: transport{base, sleep},
		// Keys and tokens stay with the host that they were meant for.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// logIn uses IAM_TOKEN, or else exchanges IBMCLOUD_API_KEY.
func (c *ibmCloud) logIn(ctx context.Context, tokenText, apiKey string) error {
	var err error
	c.login = "IAM_TOKEN"
	switch {
	case tokenText != "":
		if c.token, err = parseToken(tokenText); err != nil {
			return err
		}
	case apiKey != "":
		c.login = "IBMCLOUD_API_KEY"
		key, err := parseKey(apiKey)
		if err != nil {
			return usagef("%s %v", c.login, err)
		}
		if c.token, err = c.exchange(ctx, key, "logging in with "+c.login, ""); err != nil {
			return err
		}
	default:
		return usagef(`set IAM_TOKEN or IBMCLOUD_API_KEY: export IAM_TOKEN="$(ibmcloud iam oauth-tokens)"`)
	}
	c.apiKeys, err = iamidentityv1.NewIamIdentityV1(&iamidentityv1.IamIdentityV1Options{
		URL: c.iamURL, Authenticator: &core.BearerTokenAuthenticator{BearerToken: c.token.Reveal()},
	})
	if err != nil {
		return errors.New("IBM's SDK rejects IAM_URL or the token")
	}
	c.apiKeys.Service.SetHTTPClient(c.http)
	return nil
}

var tokenShape = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`)

// parseToken reads what `ibmcloud iam oauth-tokens` prints, with --output json or without, and parts of it.
func parseToken(text string) (iamtoken.Secret, error) {
	var document struct {
		Token string `json:"iam_token"`
	}
	if json.Unmarshal([]byte(text), &document) == nil {
		text = document.Token
	}
	token := iamtoken.TrimBearer(strings.Trim(strings.TrimSpace(text), `"`))
	if !tokenShape.MatchString(token) {
		return iamtoken.Secret{}, usagef("IAM_TOKEN is not a token: it must be what `ibmcloud iam oauth-tokens` prints, or the bare token")
	}
	return iamtoken.NewSecret(token), nil
}

// exchange returns a token for an API key. Its failures are about that key; next ends their advice.
func (c *ibmCloud) exchange(ctx context.Context, key iamtoken.Secret, doing, next string) (iamtoken.Secret, error) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key.Reveal()}}
	var body struct {
		Token string `json:"access_token"`
	}
	err := c.ask(ctx, &failure{doing: doing, ofKey: true, next: next}, http.StatusOK, func(ctx context.Context) error {
		err := c.do(ctx, http.MethodPost, c.iamURL+"/identity/token", "application/x-www-form-urlencoded", form.Encode(), &body)
		if err == nil {
			err = iamtoken.CheckForm(body.Token)
		}
		return err
	})
	return iamtoken.NewSecret(body.Token), err
}

// send sends JSON to Secrets Manager and decodes the answer into out.
func (c *ibmCloud) send(ctx context.Context, doing, method, path string, want int, in, out any) error {
	return c.sendAs(ctx, &failure{doing: doing, needed: managerNeeded}, method, path, want, in, out)
}

const managerNeeded = "Manager on the Secrets Manager instance"

// sendAs is send with a failure of its own advice.
func (c *ibmCloud) sendAs(ctx context.Context, f *failure, method, path string, want int, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s: the request cannot be encoded", f.doing)
	}
	return c.ask(ctx, f, want, func(ctx context.Context) error {
		return c.do(ctx, method, c.secretsURL+"/api/v2/"+path, "application/json", string(body), out)
	})
}

func (c *ibmCloud) do(ctx context.Context, method, url, contentType, body string, out any) error {
	if method == http.MethodGet {
		body = ""
	}
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	request.Header = http.Header{"Accept": {"application/json"}, "Content-Type": {contentType}}
	if !c.token.IsZero() {
		request.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if out == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// ask makes a call whose answer must have the status, or returns f. Its errors are made of our own words: those
// of an SDK or a service may repeat a key.
func (c *ibmCloud) ask(ctx context.Context, f *failure, want int, call func(context.Context) error) error {
	f.login = c.login
	err := call(context.WithValue(ctx, failureKey{}, f))
	if !f.at.IsZero() {
		c.at = f.at
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: interrupted. Run it again to continue", f.doing)
	}
	if err == nil && f.status == want {
		return nil
	}
	return f
}

// failure is a call that did not succeed. What came back is noted below the SDK.
type failure struct {
	doing, needed string
	refused       string    // the advice if the request itself is rejected
	login         string    // the variable with which the person has logged in
	ofKey         bool      // an API key was exchanged, so the person's token is not the cause
	next          string    // the end of the advice about that key
	status        int       // 0 if no answer came
	at            time.Time // when the service answered, by its own clock
	code          string    // IBM's code of an error, if it has the shape of one
}

type failureKey struct{}

// Error says what came back and what to do.
func (f *failure) Error() string {
	what := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", f.status, f.code))
	if f.status == 0 {
		what = "no answer"
	}
	advice := f.callAdvice
	if f.ofKey {
		advice = f.keyAdvice
	}
	return f.doing + ": " + what + ". " + advice() + f.next
}

const tryLater = "Try again later: what is done stays done."

// callAdvice is about a call as the person who has logged in.
func (f *failure) callAdvice() string {
	switch {
	case f.status == 0:
		return "Check the URL and the network. A Secrets Manager instance that is private-only answers inside IBM's network alone: allow public-and-private."
	case f.status < 400:
		return "The answer is not the expected JSON: check the URL."
	case f.status == http.StatusUnauthorized && f.login == "IAM_TOKEN":
		return "IAM_TOKEN expires after an hour at most: fetch a new one."
	case f.status == http.StatusUnauthorized:
		return "The token that IAM gave for " + f.login + " is rejected: is the key of this account?"
	case f.status == http.StatusForbidden:
		return "Needed: " + f.needed + ". A new policy takes minutes to reach everywhere; or a context-based restriction keeps this network out."
	case f.status == http.StatusNotFound:
		return "Check the ids: is the terraform output of this account, and applied?"
	case f.status == http.StatusConflict && strings.HasSuffix(f.needed, "service id"):
		return "Is the key locked, or was it changed meanwhile? Unlock it, or run it again."
	case f.status == http.StatusConflict:
		return "The name is taken: use another --name, or delete what has it."
	case f.status == http.StatusTooManyRequests || f.status >= 500:
		return tryLater
	case f.status == http.StatusPreconditionFailed:
		return "A version of the secret is locked: remove its locks."
	default:
		return cmp.Or(f.refused, "Check the ids and options.")
	}
}

// keyAdvice is about the exchange of an API key, by IAM's code where there is one that says more than the status.
func (f *failure) keyAdvice() string {
	if cause, help := iamtoken.Refusal(f.code, "the key", ""); cause != "" {
		if f.next == "" {
			cause += ": " + help
		}
		return strings.ToUpper(cause[:1]) + cause[1:] + "."
	}
	switch {
	case f.status == 0:
		return "Check IAM_URL and the network."
	case f.status == http.StatusForbidden:
		return "The key may not be used from this address: see the context-based restrictions of the account, and your network's proxy."
	case f.status == http.StatusBadRequest || f.status == http.StatusUnauthorized:
		return "IAM rejects the key."
	case f.status == http.StatusTooManyRequests || f.status >= 500:
		return tryLater
	default:
		return "The answer is not IAM's: check IAM_URL."
	}
}

// isUnknownKey reports that there is no such key: one that is disabled, or must not be used from here, is there.
func (f *failure) isUnknownKey() bool { return f.code == "BXNIM0415E" }

// transport reads answers whole, through a limit, and repeats requests: on 429 and 5xx all of them, since what
// they make twice is found by its description or name; where no answer came, those that read or delete.
type transport struct {
	base  http.RoundTripper
	sleep func(context.Context, time.Duration) error
}

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	f := request.Context().Value(failureKey{}).(*failure) // see ask
	var body []byte
	if request.Body != nil {
		var err error
		if body, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
	}
	for try := 1; ; try++ {
		f.status, f.code = 0, ""
		response, read, err := t.once(request, body)
		again, wait := err != nil && (request.Method == http.MethodGet || request.Method == http.MethodDelete), time.Second<<(try-1)
		if err == nil {
			f.at, _ = http.ParseTime(response.Header.Get("Date"))
			if f.status = response.StatusCode; f.status >= 400 {
				if found := codeShape.FindSubmatch(read); found != nil {
					f.code = string(found[1])
				}
			}
			again = f.status == http.StatusTooManyRequests || f.status >= 500
			if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds >= 0 {
				wait = time.Duration(min(seconds, 30)) * time.Second
			}
		}
		if !again || try == tries || t.sleep(request.Context(), wait) != nil {
			return response, err
		}
	}
}

// once sends a request once: without GetBody net/http does not repeat it.
func (t transport) once(request *http.Request, body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(request.Context(), requestLimit)
	defer cancel()
	request = request.Clone(ctx)
	request.Body, request.GetBody = io.NopCloser(bytes.NewReader(body)), nil
	if len(body) == 0 {
		request.Body = http.NoBody
	}
	response, err := t.base.RoundTrip(request)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(io.LimitReader(response.Body, answerLimit+1))
	if err == nil && len(read) > answerLimit {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return nil, nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(read))
	return response, read, nil
}
