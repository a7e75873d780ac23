package canary

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// cloud stands before the emulated IBM Cloud, and answers as AWS Secrets Manager. It records what it is sent, and writes into
// the answers of faults what the request held, where they say $AUTHORIZATION, $KEY, $TOKEN, $BODY, $BASE64 or $JWT: a service
// that repeats what it was sent.
type cloud struct {
	*ibmcloudtest.Cloud
	bootstrap, workload string // their keys
	old                 string // the token in the mirror

	mu        sync.Mutex
	awsCall   string              // the call to AWS that aws answers
	aws       *ibmcloudtest.Fault // nil: none
	requests  []request
	issued    map[string]string // the key or other credential by the token that it was exchanged for
	uploaded  string            // hash of the function's code
	published int               // versions of it
	deleted   bool              // the stack is
	made      []string          // keys that IAM made
	process   int               // of the program; 0 before it is started
	waiting   chan struct{}     // gets a value when a request is held
	held      chan struct{}     // closed to let it go on
}

// request is what a program sent: to which service, and each part of it by its place.
type request struct {
	service string
	parts   map[string]string
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	c.record(serviceOf(r), r, body)
	c.holdBack(r)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	if meantFor(r) == "AWS" {
		c.answerAsAWS(answer, r, string(body))
	} else {
		c.Cloud.ServeHTTP(answer, r) // a dropped connection is a panic, and goes through
	}
	fill := c.repeat(r, body)
	text := fill.Replace(answer.Body.String())
	c.note(body, []byte(text))
	if raw := answer.Header().Get(rawHeader); raw != "" && writeRaw(w, fill.Replace(raw)) {
		return
	}
	answer.Header().Del(rawHeader)
	answer.Header().Del("Content-Length") // the replaced body has another
	for name, values := range answer.Header() {
		for _, value := range values {
			w.Header().Add(name, fill.Replace(value))
		}
	}
	w.WriteHeader(answer.Code)
	_, _ = io.WriteString(w, text)
}

// addressOf is the key of a request's context for the service whose address it was sent to.
type addressOf struct{}

// at is the cloud at the address of one of its services: what is meant for another one is sent to the wrong host there.
func (c *cloud) at(service string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), addressOf{}, service)))
	})
}

// serviceOf is which service a request is for. Logs Routing has no address of its own.
func serviceOf(r *http.Request) string {
	service := meantFor(r)
	if at := r.Context().Value(addressOf{}); at != nil && at != service && service != "Logs Routing" {
		return fmt.Sprintf("%s, in place of %s", at, service)
	}
	return service
}

func meantFor(r *http.Request) string {
	for _, service := range []struct{ prefix, name string }{
		{"/identity/", "IAM"}, {"/v1/apikeys", "IAM"}, {"/v1/serviceids", "IAM"}, {"/api/v2/", "Secrets Manager"}, {"/v3/", "Logs Routing"}, {"/2018-06-01/runtime/", "Lambda"},
	} {
		if strings.HasPrefix(r.URL.Path, service.prefix) {
			return service.name
		}
	}
	if r.Header.Get("X-Amz-Target") != "" || strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-") {
		return "AWS"
	}
	return "a service that nobody knows"
}

// partsOf takes a request apart: its URL, each header, each field of a form or of a JSON object.
func partsOf(r *http.Request, body []byte) map[string]string {
	parts := map[string]string{"the URL": r.Method + " " + r.Host + " " + r.RequestURI}
	for name, values := range r.Header {
		parts["the header "+name] = name + ": " + strings.Join(values, "\n")
	}
	for name, values := range r.Trailer {
		parts["the trailer "+name] = strings.Join(values, "\n")
	}
	if form, err := url.ParseQuery(string(body)); err == nil && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		for name, values := range form {
			parts["the field "+name] = strings.Join(append(values, name), "\n")
		}
	} else if json.Valid(body) && bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		decoder := json.NewDecoder(bytes.NewReader(body))
		_, _ = decoder.Token() // valid JSON is read without an error
		for decoder.More() {   // a field may be there twice
			name, _ := decoder.Token()
			var value json.RawMessage
			_ = decoder.Decode(&value)
			var text string
			if json.Unmarshal(value, &text) != nil {
				text = string(value)
			}
			parts[fmt.Sprint("the field ", name)] += fmt.Sprint(text, "\n", name, "\n")
		}
	} else {
		parts["the body"] = string(body)
	}
	return parts
}

func (c *cloud) record(service string, r *http.Request, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := partsOf(r, body)
	if c.process != 0 { // nothing, once it is gone
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.process))
		parts[shown] = string(command)
	}
	c.requests = append(c.requests, request{service, parts})
}

// shown is the place of what ps shows of a program while it sends a request: it can write over its own arguments.
const shown = "the arguments that it shows"

// note remembers the tokens and keys of an answer, and for what a token was given.
func (c *cloud) note(body, answer []byte) {
	var object map[string]any
	if json.Unmarshal(answer, &object) != nil {
		return
	}
	form, _ := url.ParseQuery(string(body))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range []string{"access_token", "refresh_token", "apikey", "api_key"} {
		switch secret, _ := object[name].(string); {
		case len(secret) < 20:
		case name == "apikey", name == "api_key": // the latter of a secret that makes keys
			c.made = append(c.made, secret)
		default:
			c.issued[secret] = form.Get("apikey") + form.Get("cr_token")
		}
	}
}

// tokensOf are the tokens that were given for one of the credentials.
func (c *cloud) tokensOf(credentials ...string) (tokens []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for token, credential := range c.issued {
		if slices.Contains(credentials, credential) {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// hold keeps back the next request, so that a signal arrives in the middle of something.
func (c *cloud) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = make(chan struct{})
}

func (c *cloud) holdBack(r *http.Request) {
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	if held == nil {
		return
	}
	select {
	case c.waiting <- struct{}{}:
	default:
	}
	select {
	case <-held:
	case <-r.Context().Done():
	}
}

func (c *cloud) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil {
		close(c.held)
		c.held = nil
	}
}

// repeat knows what the request held; a key where it held none is the workload's.
func (c *cloud) repeat(r *http.Request, body []byte) *strings.Replacer {
	key := c.workload
	if form, err := url.ParseQuery(string(body)); err == nil && form.Get("apikey") != "" {
		key = form.Get("apikey")
	}
	if token := r.Header.Get("X-Amz-Security-Token"); token != "" {
		key = token
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		authorization = "Basic " + key
	}
	inJSON, _ := json.Marshal(string(body)) // a string always marshals
	return strings.NewReplacer("$AUTHORIZATION", authorization, "$KEY", key, "$TOKEN", strings.TrimPrefix(authorization, "Bearer "), "$JWT", jwtOf(key),
		"$BASE64", base64.StdEncoding.EncodeToString([]byte("apikey:"+key)), "$BODY", strings.Trim(string(inJSON), `"`))
}

// jwtOf is a token that names the key as whose it is, in all that a report might repeat.
func jwtOf(key string) string {
	claims := fmt.Sprintf(`{"iam_id":%q,"id":%q,"sub":%q,"account":{"bss":%q},"iat":%d,"exp":%d}`, key, key, key, key, time.Now().Unix(), time.Now().Add(time.Hour).Unix())
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("no signature at all"))
}

// rawHeader makes the answer raw bytes, which need not be HTTP. Its value has \r\n for line breaks, which a header cannot have.
const rawHeader = "Canary-Raw"

// writeRaw reports whether it could: HTTP/2 has no raw answers.
func writeRaw(w http.ResponseWriter, literal string) bool {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return false
	}
	connection, _, err := hijacker.Hijack()
	if err != nil {
		return false
	}
	_, _ = io.WriteString(connection, strings.ReplaceAll(literal, `\r\n`, "\r\n"))
	_ = connection.Close()
	return true
}

// The AWS secrets of the bootstrap key and of the token's mirror, and its other mirror.
const (
	bootstrapARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:bootstrap-AbCdEf"
	mirrorARN    = "arn:aws:secretsmanager:us-east-1:123456789012:secret:mirror-AbCdEf"
	parameterARN = "arn:aws:ssm:us-east-1:123456789012:parameter/mirror"
)

// awsAnswers are what AWS's services answer; %q is the bootstrap key or the token, %d the time.
var awsAnswers = map[string]string{
	"secretsmanager.GetSecretValue": `{"ARN":"` + bootstrapARN + `","Name":"bootstrap","SecretString":%q,"CreatedDate":%d}`,
	"secretsmanager.DescribeSecret": `{"ARN":"` + mirrorARN + `","Name":"mirror","VersionIdsToStages":{}}`,
	"secretsmanager.PutSecretValue": `{"ARN":"` + mirrorARN + `","Name":"mirror","VersionStages":["AWSCURRENT"]}`,
	"AmazonSSM.DescribeParameters":  `{"Parameters":[{"ARN":"` + parameterARN + `","Name":"mirror","Type":"SecureString","Tier":"Standard","KeyId":"alias/aws/ssm","Version":1}]}`,
	"AmazonSSM.PutParameter":        `{"Version":2,"Tier":"Standard"}`,
	"AWSEvents.PutEvents":           `{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`,
	"secretsmanager.UpdateSecret":   `{"ARN":"` + bootstrapARN + `","Name":"bootstrap"}`,
	"secretsmanager.CreateSecret":   `{"ARN":"` + bootstrapARN + `","Name":"bootstrap"}`,
}

// release is what an earlier version was deployed with.
const release = `{"template":"Resources: {}","parameters":{"CodeBucket":"bucket","AliasVersion":"1"}}`

// awsQueries are what CloudFormation and STS answer, by action. The stack is there, and becomes what is asked for.
var awsQueries = map[string]string{
	"GetCallerIdentity":   `<Account>123456789012</Account>`,
	"DescribeStacks":      `<Stacks><member><StackName>iam-token-rotator</StackName><StackId>` + stackID + `</StackId><StackStatus>%s</StackStatus><Parameters><member><ParameterKey>CodeBucket</ParameterKey><ParameterValue>bucket</ParameterValue></member><member><ParameterKey>AliasVersion</ParameterKey><ParameterValue>2</ParameterValue></member><member><ParameterKey>Releases</ParameterKey><ParameterValue>1:` + fmt.Sprintf("%.16x", sha256.Sum256([]byte(release))) + `</ParameterValue></member></Parameters></member></Stacks>`,
	"DescribeStackEvents": `<StackEvents><member><EventId>%s</EventId><StackName>iam-token-rotator</StackName><LogicalResourceId>iam-token-rotator</LogicalResourceId><ResourceStatus>UPDATE_COMPLETE</ResourceStatus><Timestamp>2026-01-01T00:00:00Z</Timestamp></member></StackEvents>`,
	"GetTemplate":         `<TemplateBody>Resources: {}</TemplateBody>`,
	"UpdateStack":         `<StackId>` + stackID + `</StackId>`,
	"DeleteStack":         ``,
}

const stackID = "arn:aws:cloudformation:us-east-1:123456789012:stack/iam-token-rotator/1"

// ran is a report of the function's.
const ran = `{"run_id":"a-run-of-mine","mode":"rotate","results":[{"rotation":"default","outcome":"rotated","version_id":"1","expires_at":"2999-01-01T00:00:00Z","fingerprint":"0123456789abcdef","attempts":1,"warnings":[]}]}`

func (c *cloud) answerAsAWS(w *httptest.ResponseRecorder, r *http.Request, body string) {
	call := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "Logs_20140328.")
	form, _ := url.ParseQuery(body)
	call += form.Get("Action")
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if fault := c.aws; fault != nil && c.awsCall == call {
		w.Header().Set("Content-Type", fault.ContentType)
		for name, value := range fault.Headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(fault.Status)
		_, _ = io.WriteString(w, fault.Body)
		return
	}
	answer, known := awsAnswers[call]
	query, isQuery := awsQueries[call]
	switch {
	case isQuery:
		c.deleted = c.deleted || call == "DeleteStack"
		status := map[bool]string{true: "DELETE_COMPLETE", false: "UPDATE_COMPLETE"}[c.deleted]
		answer = fmt.Sprintf("<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>", call, strings.ReplaceAll(query, "%s", status))
	case call == "FilterLogEvents":
		line, _ := json.Marshal(`{"level":"INFO","msg":"report","report":` + ran + `}`)
		answer = fmt.Sprintf(`{"events":[{"eventId":"1","logStreamName":"2026/01/01/iam-token-rotator[2]0","timestamp":%d,"message":%s}]}`, time.Now().Add(-time.Minute).UnixMilli(), line)
	case call == "" && strings.HasSuffix(r.URL.Path, "/invocations"):
		if answer = ran; strings.Contains(body, "doctor") {
			answer = `{"ok":true,"checks":[{"check":"configuration","status":"ok","detail":"sound"}]}`
		}
	case call == "" && strings.HasSuffix(r.URL.Path, "/configuration"):
		answer = `{"FunctionName":"iam-token-rotator","State":"Active"}`
	case call == "" && strings.HasSuffix(r.URL.Path, "/versions") && r.Method == http.MethodGet:
		answer = `{"Versions":[{"Version":"$LATEST"},{"Version":"1"},{"Version":"2"}]}`
	case call == "" && strings.HasSuffix(r.URL.Path, "/versions"):
		c.published++
		w.WriteHeader(http.StatusCreated)
		answer = fmt.Sprintf(`{"Version":"%d","CodeSha256":%q}`, 2+c.published, c.uploaded)
	case call == "" && strings.Contains(r.URL.Path, "release-1-") && r.Method == http.MethodGet:
		answer = release
	case call == "" && strings.HasSuffix(r.URL.Path, ".json") && r.Method == http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
		answer = `<Error><Code>NoSuchKey</Code></Error>`
	case call == "" && r.URL.Path == "/bucket" && r.Method == http.MethodGet:
		answer = `<ListBucketResult><Contents><Key>iam-token-rotator/iam-token-rotator/rotate-1.zip</Key></Contents><Contents><Key>iam-token-rotator/iam-token-rotator/release-0-0.json</Key></Contents></ListBucketResult>`
	case call == "" && strings.HasPrefix(r.URL.Path, "/bucket"):
		if sum := sha256.Sum256([]byte("zip\n")); r.Method == http.MethodPut {
			c.uploaded = base64.StdEncoding.EncodeToString(sum[:])
		}
		answer = ""
	case !known:
		w.WriteHeader(http.StatusBadRequest)
		answer = mixed
	case strings.HasSuffix(call, "GetSecretValue"):
		secret := c.bootstrap
		if strings.Contains(body, mirrorARN) {
			secret = c.old
		}
		answer = fmt.Sprintf(answer, secret, time.Now().Unix())
	}
	_, _ = io.WriteString(w, answer)
}

// lambda is the Runtime API of AWS Lambda. It hands out the event twice: to a cold and to a warm process.
type lambda struct {
	event   string
	seconds float64 // the function's timeout
	cloud   *cloud  // records what the function answers

	mu    sync.Mutex
	asked int
	done  chan struct{}
}

func (l *lambda) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	l.cloud.record("Lambda", r, body)
	if !strings.HasSuffix(r.URL.Path, "/next") {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	l.mu.Lock()
	l.asked++
	asked := l.asked
	l.mu.Unlock()
	if asked > 2 {
		if asked > 3 {
			return
		}
		close(l.done)
		<-r.Context().Done()
		return
	}
	w.Header().Set("Lambda-Runtime-Aws-Request-Id", "00000000-0000-0000-0000-00000000000"+strconv.Itoa(asked))
	w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(time.Duration(l.seconds*float64(time.Second))).UnixMilli(), 10))
	w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:rotate")
	_, _ = io.WriteString(w, l.event)
}

// answered is whether the function has answered so many events without an error.
func (l *lambda) answered(times int) bool {
	n := 0
	for _, r := range l.cloud.requests {
		if strings.HasSuffix(r.parts["the URL"], "/response") {
			n++
		}
	}
	return n == times
}

// may says which secrets a kind of program may send, by service and place. All else that it sends is a leak.
func (s *stage) may(p path, service, place string) []string {
	k := s.keys
	switch p.door.kind + ": " + service + ", " + place {
	case "function: IAM, the field apikey":
		return []string{k.bootstrap, k.workload, k.second, k.renewed}
	case "function: IAM about a key, the header Iam-Apikey":
		return []string{k.bootstrap, k.workload, k.second}
	case "function: IAM about a key, the header Authorization": // a token of each
		return s.cloud.tokensOf(k.bootstrap, k.workload, k.second, k.cr)
	case "reader: IAM, the field apikey":
		return []string{k.reader}
	case "operator: IAM, the field apikey", "operator: IAM about a key, the header Iam-Apikey":
		return append([]string{k.bootstrap, k.workload, k.reader, k.admin}, s.cloud.made...)
	case "function: IAM, the field cr_token", "reader: IAM, the field cr_token":
		return []string{k.cr}
	case "function: Secrets Manager, the header Authorization":
		return append(s.cloud.tokensOf(k.bootstrap, k.cr, k.renewed), k.given)
	case "reader: Secrets Manager, the header Authorization":
		return append(s.cloud.tokensOf(k.reader, k.cr), k.readers)
	case "reader: Logs Routing, the header Authorization":
		return []string{k.old}
	case "operator: Secrets Manager, the header Authorization":
		return append(s.cloud.tokensOf(slices.Concat(s.cloud.made, []string{k.bootstrap, k.workload, k.reader, k.admin})...), k.given)
	case "operator: IAM, the header Authorization", "operator: IAM about a key, the header Authorization":
		return append(s.cloud.tokensOf(k.admin), k.given)
	case "function: Secrets Manager, the field payload", "function: AWS, the field SecretString", "function: AWS, the field Value":
		return s.cloud.tokensOf(k.workload)
	case "function: AWS for the bootstrap key, the field SecretString":
		return []string{k.renewed}
	case "function: Secrets Manager, the field data":
		return s.cloud.tokensOf(k.second)
	case "operator: Secrets Manager, the field payload", "operator: AWS, the field SecretString":
		return append([]string{k.bootstrap}, s.cloud.made...)
	}
	switch {
	case strings.HasPrefix(service, "AWS") && place == "the header X-Amz-Security-Token":
		return []string{k.session}
	case place == "the header Proxy-Authorization":
		return []string{k.proxy, base64.StdEncoding.EncodeToString([]byte("user:" + k.proxy))}
	}
	return nil
}

// sent are the parts of all requests without what may stand in them. An answer that repeated a secret as an id or a name put it
// into the URLs of later requests: there it says nothing that the service does not know.
func (s *stage) sent(p path) (parts []part) {
	s.cloud.mu.Lock()
	requests := slices.Clone(s.cloud.requests)
	s.cloud.mu.Unlock()
	for _, r := range requests {
		service := r.service
		switch {
		case service == "IAM" && strings.Contains(r.parts["the URL"], " /v1/apikeys/details"):
			service = "IAM about a key"
		case service == "AWS" && p.door.kind == "function" && strings.Contains(r.parts["the field SecretId"], bootstrapARN):
			service = "AWS for the bootstrap key"
		}
		for _, place := range slices.Sorted(maps.Keys(r.parts)) {
			if place == shown && p.sort == "argument" || place == "the URL" && p.repeats() && r.service != "a service that nobody knows" {
				continue
			}
			text := r.parts[place]
			for _, value := range s.may(p, service, place) {
				if value != "" {
					text = strings.ReplaceAll(text, value, "")
				}
			}
			parts = append(parts, part{place + " sent to " + r.service, text})
		}
	}
	return parts
}
