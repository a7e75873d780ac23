package main

import (
	"bytes"
	"cmp"
	"context"
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

// Values of services must have these shapes, because they are printed, and written to files that a shell reads.
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
	tokenShape   = regexp.MustCompile(`^[A-Za-z0-9._~+/=-]+$`)
)

const (
	requestLimit = 30 * time.Second // for one try
	answerLimit  = 8 << 20          // bytes: 200 secrets with all their metadata
	tries        = 5                // of one request
	pagesLimit   = 100              // of a listing
)

// ibmCloud makes requests to IAM and Secrets Manager with the token of the person who runs setup.
type ibmCloud struct {
	iamURL, secretsURL string
	token              iamtoken.Secret
	login              string // the variable that the token came from
	http               *http.Client
	apiKeys            *iamidentityv1.IamIdentityV1
	sleep              func(context.Context, time.Duration) error
	at                 time.Time // of the last answer, by IBM's clock
}

// newIBMCloud sends no request. logIn sets the token.
func newIBMCloud(iamURL, secretsURL string, sleep func(context.Context, time.Duration) error) *ibmCloud {
	return &ibmCloud{iamURL: iamURL, secretsURL: secretsURL, sleep: sleep, http: &http.Client{
		Transport: recorder{http.DefaultTransport}, Timeout: requestLimit,
		// No other host gets keys or tokens.
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

// parseToken finds the token in what `ibmcloud iam oauth-tokens` prints, with or without --output json, or in a part of that.
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

// exchange returns a token for an API key. The advice of its errors is about that key, not about the login, and ends with next.
func (c *ibmCloud) exchange(ctx context.Context, key iamtoken.Secret, doing, next string) (iamtoken.Secret, error) {
	form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {key.Reveal()}}
	var body struct {
		Token string `json:"access_token"`
	}
	err := c.callWithRetry(ctx, &failure{doing: doing, exchangesKey: true, next: next, success: http.StatusOK}, func(ctx context.Context) error {
		err := c.do(ctx, http.MethodPost, c.iamURL+"/identity/token", form, &body)
		return cmp.Or(err, iamtoken.CheckForm(body.Token))
	})
	return iamtoken.NewSecret(body.Token), err
}

// send sends in to Secrets Manager, and decodes the answer into out. Both may be nil.
func (c *ibmCloud) send(ctx context.Context, f *failure, method, path string, in, out any) error {
	f.needed = cmp.Or(f.needed, "Manager on the Secrets Manager instance")
	return c.callWithRetry(ctx, f, func(ctx context.Context) error { return c.do(ctx, method, c.secretsURL+"/api/v2/"+path, in, out) })
}

// fetch reads from Secrets Manager.
func fetch[Out any](ctx context.Context, c *ibmCloud, doing, path string) (out Out, err error) {
	err = c.send(ctx, &failure{doing: doing}, http.MethodGet, path, nil, &out)
	return out, err
}

func (c *ibmCloud) do(ctx context.Context, method, address string, in, out any) error {
	body, contentType := []byte{}, "application/json"
	switch in := in.(type) {
	case nil:
	case url.Values:
		body, contentType = []byte(in.Encode()), "application/x-www-form-urlencoded"
	default:
		body, _ = json.Marshal(in) // cannot fail: strings, numbers and truth values
	}
	if method == http.MethodPatch {
		contentType = "application/merge-patch+json"
	}
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
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

// askIAM makes a call of IBM's SDK about a service id or its keys, for which the person needs the role.
func askIAM[In, Out any](ctx context.Context, c *ibmCloud, doing, role string,
	call func(context.Context, In) (*Out, *core.DetailedResponse, error), in In) (out *Out, err error) {
	err = c.callWithRetry(ctx, ofServiceID(doing, role), func(ctx context.Context) (err error) {
		if out, _, err = call(ctx, in); err == nil && out == nil {
			err = errors.New("an empty answer")
		}
		return err
	})
	return out, err
}

// deleteAtIAM makes a call of IBM's SDK that deletes. If IAM does not find the object, that is no error.
func deleteAtIAM[In any](ctx context.Context, c *ibmCloud, doing string,
	call func(context.Context, In) (*core.DetailedResponse, error), in In) error {
	return unlessGone(c.callWithRetry(ctx, ofServiceID(doing, "Administrator"), func(ctx context.Context) error {
		_, err := call(ctx, in)
		return err
	}))
}

func ofServiceID(doing, role string) *failure {
	return &failure{doing: doing, needed: role + " on the service id"}
}

// callWithRetry makes a call, and repeats it after 429 and 5xx: what it then creates twice, setup finds by its name or
// description. It repeats a call without an answer only if that reads or deletes. An error never contains text of an SDK or a
// service, which may repeat a key.
func (c *ibmCloud) callWithRetry(ctx context.Context, f *failure, call func(context.Context) error) error {
	f.login = c.login
	var err error
	for try := 1; ; try++ {
		f.answer = answer{wait: time.Second << (try - 1)}
		err = call(context.WithValue(ctx, failureContextKey{}, f))
		if !f.retryable || try == tries || c.sleep(ctx, f.wait) != nil {
			break
		}
	}
	if !f.at.IsZero() {
		c.at = f.at
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: interrupted. Run it again to continue", f.doing)
	}
	if err == nil && f.status == cmp.Or(f.success, successes[f.method]) {
		return nil
	}
	return f
}

// successes are the statuses of IBM's answers to successful requests.
var successes = map[string]int{http.MethodGet: http.StatusOK, http.MethodPut: http.StatusOK, http.MethodPatch: http.StatusOK,
	http.MethodPost: http.StatusCreated, http.MethodDelete: http.StatusNoContent}

// failure is the error of a call. Its first fields describe the call, the answer is recorded below the SDK.
type failure struct {
	doing        string // what the call does, as in "creating the secret x"
	needed       string // the right that it needs
	ifRejected   string // the advice for a 4xx that has no other
	login        string // the variable with which the person has logged in
	exchangesKey bool   // the call exchanges an API key, so the login is not the cause
	next         string // the end of the advice about that key
	success      int    // the status of success, if it is not the one in successes
	answer
}

// answer is what the last try got.
type answer struct {
	method    string
	status    int       // 0 if no answer came
	at        time.Time // when the service answered, by its own clock
	code      string    // IBM's error code, if it has the shape of one
	retryable bool      // another try may help, after the wait
	wait      time.Duration
}

type failureContextKey struct{}

// statusOf is the HTTP status of a failed call; 0 for any other error.
func statusOf(err error) int {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status
	}
	return 0
}

// isUnknownKey reports whether IAM does not know the key. It is false for one that is disabled or restricted to other addresses.
func isUnknownKey(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.code == "BXNIM0415E"
}

func unlessGone(err error) error {
	if status := statusOf(err); status == http.StatusNotFound || status == http.StatusGone {
		return nil
	}
	return err
}

// Error says what came back and what to do.
func (f *failure) Error() string {
	what := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", f.status, f.code))
	if f.status == 0 {
		what = "no answer"
	}
	return f.doing + ": " + what + ". " + f.advice() + f.next
}

// The advice by status, 0 for no answer: callAdvice is for calls of the person who has logged in, keyAdvice for the exchange of a key.
var (
	callAdvice = map[int]string{
		0:                              "Check the URL and the network. A Secrets Manager instance that is private-only answers inside IBM's network alone: allow public-and-private.",
		http.StatusNotFound:            "Check the ids: is the terraform output of this account, and applied?",
		http.StatusConflict:            "The name is taken: use another --name, or delete what has it.",
		http.StatusPreconditionFailed:  "A version of the secret is locked: remove its locks.",
		http.StatusInternalServerError: "Try again later: what is done stays done.", // and all other 5xx
	}
	keyAdvice = map[int]string{
		0:                              "Check IAM_URL and the network.",
		http.StatusBadRequest:          "IAM rejects the key.",
		http.StatusUnauthorized:        "IAM rejects the key.",
		http.StatusForbidden:           "The key may not be used from this address: see the context-based restrictions of the account, and your network's proxy.",
		http.StatusInternalServerError: callAdvice[http.StatusInternalServerError],
	}
)

// advice is by IAM's code if that says more than the status, else by the status.
func (f *failure) advice() string {
	status := f.status
	if status > 500 || status == http.StatusTooManyRequests {
		status = http.StatusInternalServerError
	}
	cause, help := iamtoken.Refusal(f.code, "the key", "")
	switch {
	case f.exchangesKey && cause != "":
		if f.next == "" {
			cause += ": " + help
		}
		return strings.ToUpper(cause[:1]) + cause[1:] + "."
	case f.exchangesKey:
		return cmp.Or(keyAdvice[status], "The answer is not IAM's: check IAM_URL.")
	case status == http.StatusUnauthorized && f.login == "IAM_TOKEN":
		return "IAM_TOKEN expires after an hour at most: fetch a new one."
	case status == http.StatusUnauthorized:
		return "The token that IAM gave for " + f.login + " is rejected: is the key of this account?"
	case status == http.StatusForbidden:
		return "Needed: " + f.needed + ". A new policy takes minutes to reach everywhere; or a context-based restriction keeps this network out."
	case status == http.StatusConflict && strings.HasSuffix(f.needed, "service id"):
		return "Is the key locked, or was it changed meanwhile? Unlock it, or run it again."
	case status > 0 && status < 400:
		return "The answer is not the expected JSON: check the URL."
	}
	return cmp.Or(callAdvice[status], f.ifRejected, "Check the ids and options.")
}

// recorder reads whole answers, through a limit, and records them in the failure of callWithRetry.
type recorder struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	f := request.Context().Value(failureContextKey{}).(*failure)
	f.method = request.Method
	f.retryable = request.Method == http.MethodGet || request.Method == http.MethodDelete
	response, err := t.RoundTripper.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(http.MaxBytesReader(nil, response.Body, answerLimit))
	if err != nil {
		return nil, err
	}
	f.status = response.StatusCode
	f.retryable = f.status == http.StatusTooManyRequests || f.status >= 500
	f.at, _ = http.ParseTime(response.Header.Get("Date"))
	if found := codeShape.FindSubmatch(read); found != nil && f.status >= 400 {
		f.code = string(found[1])
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds >= 0 {
		f.wait = time.Duration(min(seconds, 30)) * time.Second
	}
	response.Body = io.NopCloser(bytes.NewReader(read))
	return response, nil
}
