package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"iam-token-rotator/functions/ibmcloudtest"
)

// hunter says what is searched, and how thoroughly.
type hunter struct {
	bin, scripts string         // folders of the built programs and of the shell scripts
	only         *regexp.Regexp // the paths to try, by name
	every        int            // try one path in so many; those without a fault are always tried
	workers      int            // paths at a time
}

// result is what a hunt came to.
type result struct {
	tried int
	hits  []string // sorted, each once
}

func (r *result) add(more result) {
	r.tried += more.tried
	r.hits = append(r.hits, more.hits...)
	slices.Sort(r.hits)
	r.hits = slices.Compact(r.hits)
}

// tryAll tries the paths without faults first, which tells the operations that faults can meet, and then the others.
func (h hunter) tryAll(ctx context.Context, noting string) (result, error) {
	t := tools{noting: noting}
	var err error
	if t.bin, err = filepath.Abs(h.bin); err != nil {
		return result{}, err
	}
	if t.scripts, err = filepath.Abs(h.scripts); err != nil {
		return result{}, err
	}
	var total result
	made := map[string][]operation{}
	for _, p := range calm() {
		hits, operations, err := attempt(ctx, p, t)
		if err != nil {
			return total, err
		}
		made[p.subject.name] = operations
		total.add(result{1, hits})
	}
	paths := slices.Concat(misplaced(), storedOddly(), switchedOn(), traced(), proxied(), filed(),
		wrongArguments(), events(), inputs(), kills(), awsPaths())
	for _, sub := range subjects() {
		paths = append(paths, faultPaths(sub, made[sub.name])...)
	}
	others, err := h.try(ctx, t, h.chosen(paths))
	total.add(others)
	return total, err
}

func (h hunter) chosen(paths []path) []path {
	var chosen []path
	for i, p := range paths {
		if i%h.every == 0 && h.only.MatchString(p.name()) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// try tries paths, some at a time.
func (h hunter) try(ctx context.Context, t tools, paths []path) (result, error) {
	var mu sync.Mutex
	var total result
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(h.workers)
	for _, p := range paths {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			hits, _, err := attempt(ctx, p, t)
			mu.Lock()
			defer mu.Unlock()
			total.add(result{1, hits})
			return err
		})
	}
	err := group.Wait()
	return total, err
}

// patience is how long a program may take; none needs a tenth of it.
const patience = 60 * time.Second

// Streams that are more than what a program prints.
const (
	processArguments   = "a process's arguments" // as /proc shows them
	programArguments   = "a program's arguments" // as the program notes them
	networkEnvironment = "the environment of curl or aws"
)

// stream is something that came out of a program.
type stream struct {
	name    string
	content []byte
}

// attempt tries a path and returns what was found in everything that came out, as lines for a person, and which operations
// the program made, so that the next faults meet it there.
func attempt(ctx context.Context, p path, t tools) (hits []string, made []operation, err error) {
	s, err := newStage(p.http1)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	if err := os.WriteFile(filepath.Join(s.out(), "cr-token"), []byte(s.cr), 0o600); err != nil {
		return nil, nil, err
	}
	if err := p.prepare(s); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.name(), err)
	}
	streams, err := run(ctx, p, s, t)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.name(), err)
	}
	allowed := map[string]bool{}
	everything := s.search(allowed)
	if p.subject.prints != nil {
		for _, secret := range p.subject.prints(s) {
			allowed[secret] = true
		}
	}
	butPrinted := s.search(allowed)
	for _, out := range streams {
		if p.subject.given && (out.name == processArguments || out.name == programArguments) {
			continue
		}
		search := everything
		if out.name == "stdout" {
			search = butPrinted
		}
		if out.name == networkEnvironment {
			search = s.search(map[string]bool{s.aws.secretKey: true, s.aws.sessionToken: true, s.proxy: true}) // they need these
		}
		for _, hit := range search.in(out.content) {
			hits = append(hits, fmt.Sprintf("%s: %s is in %s (%s)", p.name(), hit.canary, out.name, hit.form))
		}
	}
	return hits, operations(s.cloud.Requests()), nil
}

// run starts the program and returns all that came out of it.
func run(ctx context.Context, p path, s *stage, t tools) ([]stream, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	line := p.commandLine(s, t)
	program := exec.CommandContext(ctx, line[0], line[1:]...)
	program.Env, program.Dir = p.environment(s, t), s.home()
	program.Stdin = strings.NewReader(p.input(s))
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	program.Cancel = func() error { return syscall.Kill(-program.Process.Pid, syscall.SIGKILL) }
	program.WaitDelay = time.Second
	var waiting <-chan struct{}
	if p.signal != 0 {
		waiting = s.door.hold()
	}
	if err := program.Start(); err != nil {
		return nil, err
	}
	watch := watchArguments(program.Process.Pid)
	if waiting != nil {
		select {
		case <-waiting:
			signalAll(program.Process.Pid, p.signal)
		case <-ctx.Done():
		}
	}
	err := program.Wait()
	s.door.release()
	arguments := watch.end()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, err
	}
	streams := []stream{{"stdout", stdout.Bytes()}, {"stderr", stderr.Bytes()}, {processArguments, arguments}}
	if exit != nil && exit.Sys().(syscall.WaitStatus).CoreDump() {
		streams = append(streams, stream{"a core dump", []byte(s.cloud.BootstrapAPIKey())})
	}
	return append(streams, leftFiles(s)...), nil
}

// leftFiles are the files that the program has made, and what is noted of the programs that it called.
func leftFiles(s *stage) []stream {
	var streams []stream
	names := map[string]string{"arguments": programArguments, "environment": networkEnvironment}
	for _, folder := range []string{s.home(), s.log()} {
		_ = filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return nil // a file that is gone is no leak
			}
			content, err := os.ReadFile(file)
			if err != nil {
				return nil
			}
			name, known := names[entry.Name()]
			if !known || folder != s.log() {
				name = "the file " + entry.Name()
			}
			streams = append(streams, stream{name, append(content, []byte("\n"+file)...)})
			return nil
		})
	}
	return streams
}

// subject is a program in the form in which people run it.
type subject struct {
	name    string
	command func(tools) []string
	// env holds the variables that the program needs, some of them secrets.
	env func(*stage) map[string]string
	// stdin is what it reads.
	stdin func(*stage) string
	// prints are the secrets that it is there to print, on stdout alone.
	prints func(*stage) []string
	// given is whether it is given a secret as an argument, against all advice.
	given bool
}

// tools are where the programs are.
type tools struct {
	bin     string // the built programs
	scripts string // the shell scripts
	noting  string // stands before PATH: programs that note how they were called
}

func (t tools) built(name string) string  { return filepath.Join(t.bin, name) }
func (t tools) script(name string) string { return filepath.Join(t.scripts, name) }

// with returns the same program in another environment, with more arguments.
func (sub subject) with(name string, more map[string]string, args ...string) subject {
	command, env := sub.command, sub.env
	sub.name += ", " + name
	sub.command = func(t tools) []string { return append(command(t), args...) }
	sub.env = func(s *stage) map[string]string {
		set := env(s)
		maps.Copy(set, more)
		return set
	}
	return sub
}

// function is the environment of the function: one rotation, and AWS credentials as Lambda has them.
func function(s *stage) map[string]string {
	only := s.cloud.Rotations()[0]
	return map[string]string{
		"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.server.URL, "SECRETS_MANAGER_APIKEY": s.cloud.BootstrapAPIKey(),
		"API_KEY_SECRET": only.APIKeySecret, "TOKEN_SECRET": only.TokenSecret, "LOG_LEVEL": "debug",
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": s.aws.secretKey, "AWS_SESSION_TOKEN": s.aws.sessionToken,
		"AWS_EC2_METADATA_DISABLED": "true",
	}
}

// functionOnAWS finds the bootstrap key in AWS Secrets Manager.
func functionOnAWS(s *stage) map[string]string {
	env := function(s)
	delete(env, "SECRETS_MANAGER_APIKEY")
	env["SECRETS_MANAGER_APIKEY_ARN"], env["AWS_ENDPOINT_URL_SECRETS_MANAGER"] = bootstrapARN, s.server.URL
	return env
}

// functionMirrored copies the token to an AWS secret.
func functionMirrored(s *stage) map[string]string {
	env, only := functionOnAWS(s), s.cloud.Rotations()[0]
	delete(env, "API_KEY_SECRET")
	delete(env, "TOKEN_SECRET")
	env["ROTATIONS"] = fmt.Sprintf(`[{"name":"mirrored","api_key_secret":%q,"token_secret":%q,"mirror":[%q]}]`, only.APIKeySecret, only.TokenSecret, mirrorARN)
	return env
}

// functionByProfile has no bootstrap key.
func functionByProfile(s *stage) map[string]string {
	env := function(s)
	delete(env, "SECRETS_MANAGER_APIKEY")
	env["IAM_PROFILE_NAME"], env["CR_TOKEN_FILENAME"] = "rotator-bootstrap", filepath.Join(s.out(), "cr-token")
	return env
}

// The function as a command and as AWS Lambda runs it.
var (
	command = subject{name: "command", env: function, command: func(t tools) []string {
		return []string{t.built("bootstrap"), "-timeout", "700ms"}
	}}
	lambda = subject{name: "lambda", env: function, command: func(t tools) []string {
		return []string{t.built("invoke"), "-timeout", "1s", "-report", "report.jsonl", "--", t.built("bootstrap")}
	}}
)

// named is the subject under another environment.
func (sub subject) named(name string, env func(*stage) map[string]string) subject {
	sub.name, sub.env = sub.name+", "+name, env
	return sub
}

// The scripts. put-bootstrap-key calls a stand-in for the aws program.
var (
	iamToken = subject{name: "iam-token", command: func(t tools) []string { return []string{t.script("iam-token")} },
		env: func(s *stage) map[string]string {
			return map[string]string{"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.server.URL,
				"READER_APIKEY": s.cloud.ReaderAPIKey(), "TOKEN_SECRET": s.cloud.Rotations()[0].TokenSecret}
		},
		prints: func(s *stage) []string { return []string{s.old} },
	}
	putBootstrapKey = subject{name: "put-bootstrap-key", command: func(t tools) []string { return []string{t.script("put-bootstrap-key")} },
		env:   func(s *stage) map[string]string { return awsVariables(s) },
		stdin: func(s *stage) string { return s.cloud.BootstrapAPIKey() },
	}
	setUpSecrets = subject{name: "set-up-secrets", env: setUpVariables, command: func(t tools) []string {
		return []string{t.script("set-up-secrets"), "--reader-key-file", "../out/reader.key"}
	}}
)

func awsVariables(s *stage) map[string]string {
	return map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
		"AWS_SECRET_ACCESS_KEY": s.aws.secretKey, "AWS_SESSION_TOKEN": s.aws.sessionToken}
}

func setUpVariables(s *stage) map[string]string {
	env := awsVariables(s)
	maps.Copy(env, map[string]string{
		"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.server.URL, "IAM_TOKEN": s.admin, "ACCOUNT_ID": s.cloud.AccountID(),
		"KEY_GROUP_ID": s.cloud.KeyGroupID(), "TOKEN_GROUP_ID": s.cloud.TokenGroupID(), "WORKLOAD_IAM_ID": s.cloud.Rotations()[0].IAMID,
		"BOOTSTRAP_IAM_ID": s.cloud.BootstrapIAMID(), "READER_IAM_ID": s.cloud.ReaderIAMID(), "CURL_RETRIES": "0",
	})
	return env
}

// door stands before the cloud. It notes the tokens and keys that go out, and writes into the answers of faults what the
// request bore, where they say $AUTHORIZATION, $KEY, $TOKEN, $BODY, $BASE64 or $JWT: a service that repeats what it was sent.
type door struct {
	cloud                     *ibmcloudtest.Cloud
	bootstrapKey, workloadKey string

	mu      sync.Mutex
	awsOp   string              // the call to AWS Secrets Manager that aws answers
	aws     *ibmcloudtest.Fault // nil: none
	issued  []string
	waiting chan struct{} // gets a value when a request is held back
	held    chan struct{} // closed to let it go on
}

// ServeHTTP implements http.Handler.
func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	d.holdBack(r)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		d.answerAsAWS(answer, target)
	} else {
		d.cloud.ServeHTTP(answer, r) // a dropped connection is a panic, and goes through
	}
	d.note(answer.Body.Bytes())
	fill := d.repeat(r, body)
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
	_, _ = io.WriteString(w, fill.Replace(answer.Body.String()))
}

// rawHeader makes the answer raw bytes, which need not be HTTP. Its value is a Go string literal, since a header has no
// line breaks.
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

// repeat knows what the request bore; a key where it bore none is the workload's.
func (d *door) repeat(r *http.Request, body []byte) *strings.Replacer {
	key := d.workloadKey
	if form, err := url.ParseQuery(string(body)); err == nil && form.Get("apikey") != "" {
		key = form.Get("apikey")
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		authorization = "Basic " + key
	}
	token := strings.TrimPrefix(authorization, "Bearer ")
	inJSON, _ := json.Marshal(string(body)) // a string always marshals
	return strings.NewReplacer("$AUTHORIZATION", authorization, "$KEY", key, "$TOKEN", token, "$JWT", jwtOf(key),
		"$BASE64", base64.StdEncoding.EncodeToString([]byte("apikey:"+key)), "$BODY", strings.Trim(string(inJSON), `"`))
}

// note remembers the secrets of an answer.
func (d *door) note(body []byte) {
	var answer struct {
		AccessToken string `json:"access_token"`
		APIKey      string `json:"apikey"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, secret := range []string{answer.AccessToken, answer.APIKey} {
		if secret != "" && !strings.HasPrefix(secret, "$") {
			d.issued = append(d.issued, secret)
		}
	}
}

func (d *door) issuedSecrets() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.issued...)
}

// The AWS secrets of the bootstrap key and of the token's copy.
const (
	bootstrapARN = "arn:aws:secretsmanager:us-east-1:123456789012:secret:bootstrap-AbCdEf"
	mirrorARN    = "arn:aws:secretsmanager:us-east-1:123456789012:secret:mirror-AbCdEf"
)

// awsRead is the call that reads the bootstrap key.
const awsRead = "secretsmanager.GetSecretValue"

// awsAnswers are what AWS Secrets Manager answers; %q is the bootstrap key.
var awsAnswers = map[string]string{
	awsRead:                         `{"ARN":"` + bootstrapARN + `","Name":"bootstrap","SecretString":%q}`,
	"secretsmanager.DescribeSecret": `{"ARN":"` + mirrorARN + `","Name":"mirror","VersionIdsToStages":{}}`,
	"secretsmanager.PutSecretValue": `{"ARN":"` + mirrorARN + `","Name":"mirror","VersionStages":["AWSCURRENT"]}`,
}

// failAWS makes fault the answer to a call to AWS Secrets Manager.
func (d *door) failAWS(call string, fault *ibmcloudtest.Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.awsOp, d.aws = call, fault
}

// awsFault is what a call meets, nil if nothing.
func (d *door) awsFault(call string) *ibmcloudtest.Fault {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.awsOp != call {
		return nil
	}
	return d.aws
}

// answerAsAWS answers a call to AWS Secrets Manager, or fails as the path wants.
func (d *door) answerAsAWS(w *httptest.ResponseRecorder, call string) {
	fault := d.awsFault(call)
	if fault == nil {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		answer := awsAnswers[call]
		if call == awsRead {
			answer = fmt.Sprintf(answer, d.bootstrapKey)
		}
		_, _ = io.WriteString(w, answer)
		return
	}
	w.Header().Set("Content-Type", fault.ContentType)
	for name, value := range fault.Headers {
		w.Header().Set(name, value)
	}
	w.WriteHeader(fault.Status)
	_, _ = io.WriteString(w, fault.Body)
}

// The shapes are texts with a secret, %s, in places where people and programs put one by mistake.

// eventShapes are events.
var eventShapes = map[string]string{
	"a key for an event":  `%s`,
	"a quoted key":        `"%s"`,
	"a key as a field":    `{"%s":true}`,
	"a key as the mode":   `{"mode":"%s"}`,
	"a key as a rotation": `{"rotations":["%s"]}`,
	"a key for the list":  `{"rotations":"%s"}`,
	"a key for force":     `{"force":"%s"}`,
	"an odd run id":       `{"run_id":"%s !"}`,
	"a list":              `["%s"]`,
	"cut off":             `{"mode":"%s`,
	"a secret's name":     `{"api_key_secret":"%s"}`,
}

// inputShapes are what put-bootstrap-key reads.
var inputShapes = map[string]string{
	"JSON":        `{"apikey":"%s"}`,
	"two lines":   "%[1]s\n%[1]s",
	"two words":   "my key %s",
	"a long text": "%s" + strings.Repeat("x", 600),
	"white space": " \n %s\n\n",
	"nothing":     "%.0s",
}

// keyShapes are bootstrap keys and tokens in forms that they must not have.
var keyShapes = map[string]string{
	"JSON":           `{"apikey":"%s"}`,
	"quotes":         `"%s"`,
	"two lines":      "%[1]s\n%[1]s",
	"braces":         "{%s}",
	"two words":      "Bearer Bearer %s",
	"a control code": "\x7f%s",
}

// storedShapes are the same in Secrets Manager, in JSON; $KEY is the key.
var storedShapes = map[string]string{
	"JSON":           `{\"apikey\":\"$KEY\"}`,
	"two lines":      `$KEY\n$KEY`,
	"white space":    ` \n$KEY \n`,
	"quotes":         `\"$KEY\"`,
	"a brace":        `{$KEY`,
	"nothing":        ``,
	"a control code": `$KEY\u0007`,
}

// awsFileShapes are files of the AWS tools.
var awsFileShapes = map[string]string{
	"a profile":              "[default]\naws_access_key_id=AKIAEXAMPLE\naws_secret_access_key=%s\n",
	"a broken profile":       "[default\naws_secret_access_key=%s\n",
	"a key without a name":   "[default]\n%s\n",
	"a key as a region":      "[default]\nregion=%s\n",
	"a key as a source":      "[default]\nrole_arn=arn:aws:iam::123456789012:role/r\nsource_profile=%s\n",
	"a key as a retry count": "[default]\nmax_attempts=%s\n",
}

// urlShapes hold a key, %s, where a URL may hold one.
var urlShapes = map[string]string{
	"a URL with a password":     "https://user:%s@127.0.0.1",
	"a URL with a path":         "https://127.0.0.1/%s",
	"a URL with a query":        "https://127.0.0.1?apikey=%s",
	"a URL with a fragment":     "https://127.0.0.1#%s",
	"a URL with a bad port":     "https://127.0.0.1:%s",
	"a URL of another scheme":   "%s://127.0.0.1",
	"a URL with a bad escape":   "https://127.0.0.1/%%zz%s",
	"a URL without encryption":  "http://10.0.0.1/%s",
	"a URL with a control code": "https://127.0.0.1/\x01%s",
}

// rotationShapes hold a key, %[1]s, the key secret %[2]s and the token secret %[3]s.
var rotationShapes = map[string]string{
	"ROTATIONS: a key alone":           `%[1]s`,
	"ROTATIONS: a key in quotes":       `"%[1]s"`,
	"ROTATIONS: a list of keys":        `["%[1]s"]`,
	"ROTATIONS: cut off":               `[{"name":"a","api_key_secret":"%[1]s`,
	"ROTATIONS: not closed":            `[{"name":"a","api_key_secret":"%[1]s"`,
	"ROTATIONS: a key as a field":      `[{"%[1]s":"a"}]`,
	"ROTATIONS: a field of a key":      `[{"apikey":"%[1]s"}]`,
	"ROTATIONS: a key for the secret":  `[{"name":"a","api_key_secret":"%[1]s","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key for the token":   `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[1]s"}]`,
	"ROTATIONS: a key in its path":     `[{"name":"a","api_key_secret":"group/%[1]s/name/more","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key as the format":   `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","format":"%[1]s"}]`,
	"ROTATIONS: a key as key field":    `[{"name":"a","api_key_secret":"%[2]s","api_key_field":"%[1]s","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key as token field":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","token_field":"%[1]s"}]`,
	"ROTATIONS: a key as the account":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":{"account":"%[1]s"}}]`,
	"ROTATIONS: a key as the identity": `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":{"iam_id":"%[1]s"}}]`,
	"ROTATIONS: a key as expectation":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":"%[1]s"}]`,
	"ROTATIONS: a key as a mirror":     `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","mirror":["%[1]s"]}]`,
	"ROTATIONS: a key in an odd name":  `[{"name":"%[1]s %[1]s","api_key_secret":"%[2]s","token_secret":"%[3]s"}]`,
	"ROTATIONS: a key for a number":    `[{"name":1,"api_key_secret":"%[1]s"}]`,
	"ROTATIONS: a key after the list":  `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s"}] %[1]s`,
	"ROTATIONS: a key in an escape":    `[{"name":"a\q%[1]s"}]`,
}

// proxyShapes hold a password, %s, where a proxy's URL may hold one.
var proxyShapes = map[string]string{
	"a proxy that is not there": "http://user:%s@127.0.0.1:9",
	"a URL that is no proxy":    "ftp://user:%s@127.0.0.1:9",
	"a proxy that is no proxy":  "https://user:%s@SERVER",
	"a misshapen proxy":         "http://user:%s@[::1",
	"a proxy's bad port":        "http://127.0.0.1:%s",
}

// pieceLength is how much of a secret counts as the secret: 12 of an API key's 44 characters.
const pieceLength = 12

// canary is a secret that must come out nowhere.
type canary struct{ name, value string }

// pieces are the parts of canaries in every form that is looked for, by their length: a window over a text needs one
// look-up for each length.
type pieces map[int]map[string]found

// found says what a text held. It never holds the secret itself.
type found struct{ canary, form string }

// newPieces cuts the canaries up.
func newPieces(canaries ...canary) pieces {
	p := pieces{}
	for _, c := range canaries {
		p.add(c)
	}
	return p
}

// add cuts up one more canary.
func (p pieces) add(c canary) {
	if c.value == "" {
		return
	}
	p.slide(c, "whole or in part", c.value, pieceLength)
	p.slide(c, "base64", base64Core(c.value, base64.RawStdEncoding), pieceLength/3*4)
	p.slide(c, "base64url", base64Core(c.value, base64.RawURLEncoding), pieceLength/3*4)
	for shift := 1; shift < 3 && len(c.value) > shift; shift++ {
		p.slide(c, "base64", base64Core(c.value[shift:], base64.RawStdEncoding), pieceLength/3*4)
		p.slide(c, "base64url", base64Core(c.value[shift:], base64.RawURLEncoding), pieceLength/3*4)
	}
	inHex := hex.EncodeToString([]byte(c.value))
	p.slide(c, "hex", inHex, 2*pieceLength)
	p.slide(c, "hex", strings.ToUpper(inHex), 2*pieceLength)
	p.slide(c, "hex, one byte a word", spaced(c.value, " "), 3*pieceLength-1)
	p.slide(c, "percent", spaced(c.value, "%"), 3*pieceLength-1)
	p.slide(c, "percent", strings.ToUpper(spaced(c.value, "%")), 3*pieceLength-1)
	p.slide(c, "URL-encoded", url.QueryEscape(c.value), pieceLength)
	p.words(c)
}

// base64Core is base64 of whole groups of three bytes: what stands in the encoding of a longer text that has value at
// this alignment, whatever is beside it.
func base64Core(value string, encoding *base64.Encoding) string {
	return encoding.EncodeToString([]byte(value[:len(value)/3*3]))
}

// spaced writes the bytes in hex with a separator between them.
func spaced(value, separator string) string {
	var text strings.Builder
	for i := range len(value) {
		if i > 0 {
			text.WriteString(separator)
		}
		fmt.Fprintf(&text, "%02x", value[i])
	}
	return text.String()
}

// words are eight bytes of the secret as a stack trace shows an argument, and as a debugger shows memory.
func (p pieces) words(c canary) {
	for i := 0; i+8 <= len(c.value); i++ {
		eight := []byte(c.value[i : i+8])
		p.put(c, "a machine word", hex.EncodeToString(eight))
		slices.Reverse(eight)
		p.put(c, "a machine word", hex.EncodeToString(eight))
	}
}

func (p pieces) slide(c canary, form, text string, length int) {
	if len(text) < length {
		return
	}
	for i := 0; i+length <= len(text); i++ {
		p.put(c, form, text[i:i+length])
	}
}

// without drops the pieces that an allowed text has too: the tokens of one issuer begin alike.
func (p pieces) without(allowed string) {
	for length, byPiece := range p {
		for i := 0; i+length <= len(allowed); i++ {
			delete(byPiece, allowed[i:i+length])
		}
	}
}

func (p pieces) put(c canary, form, piece string) {
	byPiece := p[len(piece)]
	if byPiece == nil {
		byPiece = map[string]found{}
		p[len(piece)] = byPiece
	}
	if _, known := byPiece[piece]; !known {
		byPiece[piece] = found{c.name, form}
	}
}

// in returns what the text holds, each kind once, in no order.
func (p pieces) in(text []byte) []found {
	seen := map[found]bool{}
	for length, byPiece := range p {
		for i := 0; i+length <= len(text); i++ {
			if hit, ok := byPiece[string(text[i:i+length])]; ok {
				seen[hit] = true
			}
		}
	}
	all := make([]found, 0, len(seen))
	for hit := range seen {
		all = append(all, hit)
	}
	return all
}
