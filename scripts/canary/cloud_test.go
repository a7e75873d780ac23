package canary

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// cloud is a proxy in front of the emulated IBM Cloud, and emulates AWS. It records each request. Where an answer says
// $AUTHORIZATION, $KEY, $TOKEN, $BODY, $BASE64 or $JWT, it puts what the request held, as a service that repeats its input.
type cloud struct {
	*ibmcloudtest.Cloud
	fixture *fixture

	mu         sync.Mutex
	requests   []request
	issued     map[string]string // by token: the key or other credential that it was issued for
	uploaded   string            // hash of the function's code
	published  int               // number of versions of the function that were published
	status     string            // of the stack
	parameters string            // of the stack, after an update
	made       []string          // keys that IAM made
	process    int               // of the program; 0 before it starts and after it ends
	interrupt  func()            // called at each request
}

// request is what a program sent to a service; parts has each part of it by its place, for example "the header Authorization".
type request struct {
	service string
	call    string // of AWS
	parts   map[string]string
}

// serve answers a request at the address of a service, whichever service it is for.
func (c *cloud) serve(at string, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	call := callOf(r, body)
	service := serviceOf(r)
	if service == at || service == "Logs Routing" { // which has no address of its own
		c.record(service, call, r, body)
	} else {
		c.record(at+", in place of "+service, call, r, body)
	}
	c.interrupt()
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	if service == "AWS" {
		c.answerAsAWS(answer, call, string(body))
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

// services has the services by the beginning of their URLs' paths.
var services = map[string]string{"/identity/": "IAM", "/v1/apikeys": "IAM", "/v1/serviceids": "IAM", "/api/v2/": "Secrets Manager", "/v3/": "Logs Routing", "/2018-06-01/runtime/": "Lambda"}

const unknownService = "an unknown service"

func serviceOf(r *http.Request) string {
	for prefix, service := range services {
		if strings.HasPrefix(r.URL.Path, prefix) {
			return service
		}
	}
	if r.Header.Get("X-Amz-Target") != "" || strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-") {
		return "AWS"
	}
	return unknownService
}

// callOf is the call to AWS: the operation, or the method and the path.
func callOf(r *http.Request, body []byte) string {
	form, _ := url.ParseQuery(string(body))
	return cmp.Or(strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "Logs_20140328.")+form.Get("Action"), r.Method+" "+r.URL.Path)
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

func (c *cloud) record(service, call string, r *http.Request, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := partsOf(r, body)
	if c.process != 0 {
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.process))
		parts[shown] = string(command)
	}
	c.requests = append(c.requests, request{service, call, parts})
}

// shown is the place of the arguments as ps shows them during a request: a program can overwrite its own.
const shown = "the arguments that it shows"

// note stores the tokens and keys of an answer, and the credential that a token was issued for.
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

// repeat returns the replacer that puts what a request held into its answer. The key is the workload's if the request had none.
func (c *cloud) repeat(r *http.Request, body []byte) *strings.Replacer {
	key := c.fixture.secrets["workload"]
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

// jwtOf is a token with the key in each claim that a report might repeat.
func jwtOf(key string) string {
	claims := fmt.Sprintf(`{"iam_id":%q,"id":%q,"sub":%q,"account":{"bss":%q},"iat":%d,"exp":%d}`, key, key, key, key, time.Now().Unix(), time.Now().Add(time.Hour).Unix())
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("no signature at all"))
}

// rawHeader makes the answer raw bytes, which need not be HTTP. Its value has \r\n for line breaks, which a header cannot have.
const rawHeader = "Canary-Raw"

// writeRaw writes a raw answer. It returns false over HTTP/2, which has none.
func writeRaw(w http.ResponseWriter, literal string) bool {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	_, _ = io.WriteString(connection, strings.ReplaceAll(literal, `\r\n`, "\r\n"))
	_ = connection.Close()
	return true
}

// The AWS secrets of the bootstrap key and of the token's mirror, the parameter that is its other mirror, and the stack.
const (
	inAWS        = "arn:aws:secretsmanager:us-east-1:123456789012:secret:"
	bootstrapARN = inAWS + "bootstrap-AbCdEf"
	mirrorARN    = inAWS + "mirror-AbCdEf"
	parameterARN = "arn:aws:ssm:us-east-1:123456789012:parameter/mirror"
	stackID      = "arn:aws:cloudformation:us-east-1:123456789012:stack/iam-token-rotator/1"
)

// ran is a report of the function, release the stored release of an earlier version.
const (
	ran     = `{"run_id":"a-run-of-mine","mode":"rotate","results":[{"rotation":"default","outcome":"rotated","version_id":"1","expires_at":"2999-01-01T00:00:00Z","fingerprint":"0123456789abcdef","attempts":1,"warnings":[]}]}`
	release = `{"template":"Resources: {}","parameters":{"CodeBucket":"bucket","AliasVersion":"1"}}`
)

// stackParameters are the parameters of the stack before an update.
var stackParameters = parameter("CodeBucket", "bucket") + parameter("AliasVersion", "2") + parameter("Releases", fmt.Sprintf("1:%.16x", sha256.Sum256([]byte(release))))

func parameter(name, value string) string {
	return "<member><ParameterKey>" + name + "</ParameterKey><ParameterValue>" + value + "</ParameterValue></member>"
}

// awsAnswers are the answers of AWS: the first that matches the call. Words in capitals are replaced, see answerAsAWS: SECRET by the
// bootstrap key or the token, NOW by the time, STATUS by the stack's.
var awsAnswers = []awsAnswer{
	{matching("secretsmanager.GetSecretValue"), 200, `{"ARN":"` + bootstrapARN + `","Name":"bootstrap","SecretString":"SECRET","CreatedDate":NOW}`},
	{matching("secretsmanager.(UpdateSecret|CreateSecret)"), 200, `{"ARN":"` + bootstrapARN + `","Name":"bootstrap"}`},
	{matching("secretsmanager.(DescribeSecret|PutSecretValue)"), 200, `{"ARN":"` + mirrorARN + `","Name":"mirror","VersionIdsToStages":{},"VersionStages":["AWSCURRENT"]}`},
	{matching("AmazonSSM.DescribeParameters"), 200, `{"Parameters":[{"ARN":"` + parameterARN + `","Name":"mirror","Type":"SecureString","Tier":"Standard","KeyId":"alias/aws/ssm","Version":1}]}`},
	{matching("AmazonSSM.PutParameter"), 200, `{"Version":2,"Tier":"Standard"}`},
	{matching("AWSEvents.PutEvents"), 200, `{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`},
	{matching("FilterLogEvents"), 200, `{"events":[{"eventId":"1","logStreamName":"2026/01/01/iam-token-rotator[2]0","timestamp":NOW000,"message":` + strconv.Quote(`{"level":"INFO","msg":"report","report":`+ran+`}`) + `}]}`},
	{matching("GetCallerIdentity"), 200, `<Account>123456789012</Account>`},
	{matching("DescribeStacks"), 200, `<Stacks><member><StackName>iam-token-rotator</StackName><StackId>` + stackID + `</StackId><StackStatus>STATUS</StackStatus>` +
		`<Parameters>PARAMETERS</Parameters></member></Stacks>`},
	{matching("DescribeStackEvents"), 200, `<StackEvents><member><EventId>STATUS</EventId><StackName>iam-token-rotator</StackName><LogicalResourceId>iam-token-rotator</LogicalResourceId>` +
		`<ResourceStatus>UPDATE_COMPLETE</ResourceStatus><Timestamp>2026-01-01T00:00:00Z</Timestamp></member></StackEvents>`},
	{matching("GetTemplate"), 200, `<TemplateBody>Resources: {}</TemplateBody>`},
	{matching("UpdateStack|DeleteStack"), 200, `<StackId>` + stackID + `</StackId>`},
	{matching("POST .*/invocations"), 200, "INVOKED"},
	{matching(".* .*/configuration"), 200, `{"FunctionName":"iam-token-rotator","State":"Active"}`},
	{matching("GET .*/versions"), 200, `{"Versions":[{"Version":"$LATEST"},{"Version":"1"},{"Version":"2"}]}`},
	{matching("POST .*/versions"), 201, `{"Version":"VERSION","CodeSha256":"UPLOADED"}`},
	{matching("GET .*release-1-.*"), 200, release},
	{matching(`GET .*\.json`), 404, `<Error><Code>NoSuchKey</Code></Error>`},
	{matching("GET /bucket"), 200, `<ListBucketResult><Contents><Key>iam-token-rotator/iam-token-rotator/rotate-1.zip</Key></Contents><Contents><Key>iam-token-rotator/iam-token-rotator/release-0-0.json</Key></Contents></ListBucketResult>`},
	{matching(".* /bucket.*"), 200, ""},
	{matching(".*"), 400, mixed},
}

type awsAnswer struct {
	call   *regexp.Regexp
	status int
	answer string
}

func matching(call string) *regexp.Regexp { return regexp.MustCompile("^(" + call + ")$") }

func (c *cloud) answerAsAWS(w *httptest.ResponseRecorder, call, body string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if fault := c.fixture.p.aws; fault != nil && c.fixture.p.awsCall == call {
		w.Header().Set("Content-Type", fault.ContentType)
		for name, value := range fault.Headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(fault.Status)
		_, _ = io.WriteString(w, fault.Body)
		return
	}
	secret, invoked := c.fixture.secrets["bootstrap"], ran
	if strings.Contains(body, mirrorARN) {
		secret = c.fixture.secrets["old"]
	}
	if strings.Contains(body, "doctor") {
		invoked = `{"ok":true,"checks":[{"check":"configuration","status":"ok","detail":"sound"}]}`
	}
	switch {
	case call == "DeleteStack":
		c.status = "DELETE_COMPLETE"
	case call == "UpdateStack":
		c.parameters = ""
		form, _ := url.ParseQuery(body)
		for i := 1; form.Has(fmt.Sprintf("Parameters.member.%d.ParameterKey", i)); i++ {
			c.parameters += parameter(form.Get(fmt.Sprintf("Parameters.member.%d.ParameterKey", i)), html.EscapeString(form.Get(fmt.Sprintf("Parameters.member.%d.ParameterValue", i))))
		}
	case strings.HasPrefix(call, "POST ") && strings.HasSuffix(call, "/versions"):
		c.published++
	case strings.HasPrefix(call, "PUT /bucket"):
		sum := sha256.Sum256([]byte("zip\n"))
		c.uploaded = base64.StdEncoding.EncodeToString(sum[:])
	}
	i := slices.IndexFunc(awsAnswers, func(a awsAnswer) bool { return a.call.MatchString(call) })
	answer := strings.NewReplacer("SECRET", secret, "NOW", strconv.FormatInt(time.Now().Add(-time.Minute).Unix(), 10), "STATUS", cmp.Or(c.status, "UPDATE_COMPLETE"), "PARAMETERS", cmp.Or(c.parameters, stackParameters), "INVOKED", invoked,
		"VERSION", strconv.Itoa(2+c.published), "UPLOADED", c.uploaded).Replace(awsAnswers[i].answer)
	if strings.HasPrefix(answer, "<") && !strings.Contains(call, " ") {
		answer = fmt.Sprintf("<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>", call, answer)
	}
	w.WriteHeader(awsAnswers[i].status)
	_, _ = io.WriteString(w, answer)
}

// lambda emulates the Runtime API of AWS Lambda. It gives the function the event twice: when it is cold, and when it is warm.
type lambda struct {
	event    string
	patience time.Duration // the function's timeout
	cloud    *cloud        // records what the function answers

	mu       sync.Mutex
	asked    int    // for events
	answered int    // events, without an error
	end      func() // kills the function
}

func (l *lambda) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	l.cloud.record("Lambda", "", r, body)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.HasSuffix(r.URL.Path, "/next") {
		l.answered += strings.Count(r.URL.Path, "/response")
		w.WriteHeader(http.StatusAccepted)
		return
	}
	l.asked++
	if l.asked > 2 {
		l.end()
		return
	}
	w.Header().Set("Lambda-Runtime-Aws-Request-Id", "00000000-0000-0000-0000-00000000000"+strconv.Itoa(l.asked))
	w.Header().Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(l.patience).UnixMilli(), 10))
	w.Header().Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:rotate")
	_, _ = io.WriteString(w, l.event)
}
