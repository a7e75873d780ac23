package main

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// path is one way through a program that is tried.
type path struct {
	subject subject
	how     string // what is special about it
	env     func(*stage) map[string]string
	args    func(*stage) []string
	stdin   func(*stage) string
	faults  []ibmcloudtest.Fault
	awsOp   string // the call to AWS Secrets Manager that aws answers
	aws     *ibmcloudtest.Fault
	http1   bool
	before  []string // a command that runs the program: sh -x, say
	signal  syscall.Signal
}

func (p path) name() string { return p.subject.name + ": " + p.how }

// environment is that of the program and nothing else of ours.
func (p path) environment(s *stage, t tools) []string {
	set := map[string]string{
		"PATH": t.noting + ":/usr/local/bin:/usr/bin:/bin", "HOME": s.home(), "TMPDIR": s.home(),
		"SSL_CERT_FILE": s.authority(), "CANARY_LOG": s.log(),
	}
	for _, more := range []func(*stage) map[string]string{p.subject.env, p.env} {
		if more == nil {
			continue
		}
		for name, value := range more(s) {
			set[name] = value
		}
	}
	var environ []string
	for name, value := range set {
		environ = append(environ, name+"="+value)
	}
	return environ
}

func (p path) commandLine(s *stage, t tools) []string {
	line := append(append([]string(nil), p.before...), p.subject.command(t)...)
	if p.args != nil {
		line = append(line, p.args(s)...)
	}
	return line
}

func (p path) input(s *stage) string {
	switch {
	case p.stdin != nil:
		return p.stdin(s)
	case p.subject.stdin != nil:
		return p.subject.stdin(s)
	default:
		return ""
	}
}

// prepare puts the faults of the path in place.
func (p path) prepare(s *stage) error {
	for _, fault := range p.faults {
		if err := s.cloud.AddFault(fault); err != nil {
			return err
		}
	}
	s.door.failAWS(p.awsOp, p.aws)
	return nil
}

// fill writes a secret for %s and the server's address for SERVER.
func fill(shape, secret, server string) string {
	return strings.ReplaceAll(fmt.Sprintf(shape, secret), "SERVER", server)
}

// writeOrPanic writes a file of the stage, which is a new folder of ours.
func writeOrPanic(file, text string) {
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// wrongArguments give a secret on the command line. It is everybody's to read there, but a program that repeats it writes
// it into a log as well; so here the arguments of the program itself are not searched.
func wrongArguments() []path {
	var all []path
	for _, sub := range []subject{command, iamToken, putBootstrapKey, setUpSecrets} {
		for _, shape := range []string{"%s", "-%s", "--apikey=%s", "-mode=%s", "-timeout=%s", "-rotation=%s", "-run-id=%s!", "-json=%s", "--format=%s", "--name=%s"} {
			all = append(all, path{subject: given(sub), how: "with the argument " + shape, args: func(s *stage) []string {
				return []string{fmt.Sprintf(shape, s.cloud.BootstrapAPIKey())}
			}})
		}
		for _, option := range []string{"--format", "--min-ttl", "--wait", "--expires-in", "--terraform", "-mode", "-rotation", "-timeout"} {
			all = append(all, path{subject: given(sub), how: "with a key for " + option, args: func(s *stage) []string {
				return []string{option, s.cloud.BootstrapAPIKey()}
			}})
		}
	}
	return all
}

// given marks a program that is given a secret as an argument.
func given(sub subject) subject {
	sub.given = true
	return sub
}

// events are invocations that bear a key where none belongs.
func events() []path {
	var all []path
	for how, shape := range inOrder(eventShapes) {
		sub := lambda
		sub.command = func(t tools) []string {
			return []string{t.built("invoke"), "-timeout", "1s", "-event", "-", "--", t.built("bootstrap")}
		}
		all = append(all, path{subject: sub, how: "event: " + how, stdin: func(s *stage) string { return fmt.Sprintf(shape, s.cloud.BootstrapAPIKey()) }})
	}
	return all
}

// inputs are what put-bootstrap-key may be given, and what the aws program may say to it.
func inputs() []path {
	var all []path
	for how, shape := range inOrder(inputShapes) {
		all = append(all, path{subject: putBootstrapKey, how: "given " + how, stdin: func(s *stage) string { return fmt.Sprintf(shape, s.cloud.BootstrapAPIKey()) }})
	}
	for _, does := range []string{"found", "denied", "repeat"} {
		env := func(*stage) map[string]string { return map[string]string{"CANARY_AWS": does} }
		all = append(all, setting(putBootstrapKey, "aws: "+does, env), setting(setUpSecrets, "aws: "+does, env))
	}
	return all
}

// kills end the programs in the middle of an operation.
func kills() []path {
	limit := []string{"sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh"} // so that a core would be dumped
	var all []path
	for _, sub := range []subject{command, lambda, command.named("on AWS", functionOnAWS), iamToken, setUpSecrets} {
		for _, signal := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGKILL} {
			if sub.name == setUpSecrets.name && (signal == syscall.SIGKILL || signal == syscall.SIGSEGV) {
				continue // no shell can clear up after these; the folder is private (0700)
			}
			for _, level := range []string{"none", "single", "all", "system", "crash"} {
				if level != "crash" && scripted(sub) {
					continue // GOTRACEBACK means nothing to a shell
				}
				all = append(all, path{subject: sub, how: fmt.Sprintf("killed by %s with GOTRACEBACK=%s", signal, level), before: limit, signal: signal,
					env: func(*stage) map[string]string { return map[string]string{"GOTRACEBACK": level} }})
			}
		}
	}
	return all
}

// argumentWatch reads, while a program runs, the command lines of it and of all its children from /proc, where everybody on
// the machine can read them.
type argumentWatch struct {
	stop chan struct{}
	done chan []byte
}

func watchArguments(pid int) argumentWatch {
	w := argumentWatch{make(chan struct{}), make(chan []byte, 1)}
	go func() {
		seen := map[string]bool{}
		tick := time.NewTicker(3 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, member := range family(pid) {
				if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", member)); err == nil {
					seen[string(line)] = true
				}
			}
			select {
			case <-tick.C:
			case <-w.stop:
				var all bytes.Buffer
				for line := range seen {
					all.WriteString(line + "\n")
				}
				w.done <- all.Bytes()
				return
			}
		}
	}()
	return w
}

// end returns the command lines, one a line.
func (w argumentWatch) end() []byte {
	close(w.stop)
	return <-w.done
}

// family is the process and its descendants. Where the kernel does not tell children it is the process alone.
func family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", all[i], all[i]))
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(children)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// signalAll sends a signal to the program and its children, as a terminal does.
func signalAll(pid int, signal syscall.Signal) {
	for _, member := range family(pid) {
		_ = syscall.Kill(member, signal)
	}
}

// subjects are the programs that every fault is put before. bare is what a program needs to get to all its operations.
func subjects() []subject {
	return []subject{
		command, lambda,
		command.with("ensure", nil, "-mode", "ensure", "-json"),
		command.named("by profile", functionByProfile),
		command.with("doctor", nil, "doctor"),
		iamToken, iamToken.with("--check", nil, "--check"),
		setUpSecrets,
	}
}

// calm runs every program without a fault.
func calm() []path {
	var all []path
	for _, sub := range append(subjects(), putBootstrapKey, command.named("on AWS", functionOnAWS), command.named("mirrored", functionMirrored)) {
		all = append(all, path{subject: sub, how: "without a fault"})
	}
	return all
}

// scripted tells the shell scripts apart: they wait 20 seconds for an answer, and start some thirty programs each.
func scripted(sub subject) bool {
	return sub.command(tools{})[0] != command.command(tools{})[0] && sub.name != lambda.name
}

// faultPaths put every fault before every operation that the program was seen to make.
func faultPaths(sub subject, made []operation) []path {
	var all []path
	for _, at := range made {
		for i, named := range faultMatrix() {
			if scripted(sub) && named.fault.Delay > 0 || i%stride(sub) != 0 {
				continue
			}
			fault := named.fault
			fault.Op, fault.Identity = at.op, at.identity
			p := path{subject: sub, faults: []ibmcloudtest.Fault{fault}, http1: named.http1}
			p.how = fmt.Sprintf("%s of %s meets %s", at.op, at.identity, named.name)
			all = append(all, p)
		}
	}
	return all
}

// stride is which faults of the matrix a program meets: the command and the Lambda function all, the others, which take
// long or do the same in part, every third.
func stride(sub subject) int {
	if sub.name == command.name || sub.name == lambda.name {
		return 1
	}
	return 3
}

// awsPaths put the faults before AWS Secrets Manager.
func awsPaths() []path {
	subjects := []subject{
		command.named("on AWS", functionOnAWS), lambda.named("on AWS", functionOnAWS),
		command.named("mirrored", functionMirrored), lambda.named("mirrored", functionMirrored),
	}
	var all []path
	for i, named := range faultMatrix() {
		if named.fault.Status == 0 {
			continue // the stand-in for AWS can only answer
		}
		for j, sub := range subjects[i%2*2 : i%2*2+2] {
			for op := range inOrder(awsAnswers) {
				p := path{subject: sub, how: op + " meets " + named.name, awsOp: op, aws: &named.fault, http1: named.http1 != (j == 1)}
				if p.fits() {
					all = append(all, p)
				}
			}
		}
	}
	return all
}

// fits is whether the program makes the call to AWS that is to fail, and over a connection that can fail so.
func (p path) fits() bool {
	mirrored := strings.Contains(p.subject.name, "mirrored")
	return (mirrored || p.awsOp == awsRead) && (p.http1 || p.aws.Headers[rawHeader] == "")
}

// mixed is a body that repeats all that the request bore, in a form that many a parser looks into.
const mixed = `{"errorCode":"BXNIM0415E $KEY","errorMessage":"$BODY $BASE64","errorDetails":"$AUTHORIZATION",` +
	`"context":{"requestId":"$KEY"},"errors":[{"code":"secrets-manager.Error07012 $TOKEN","message":"$BODY","more_info":"https://h/$KEY",` +
	`"target":{"name":"$AUTHORIZATION"}}],"trace":"$TOKEN","status_code":"$KEY","message":"$KEY","__type":"$KEY"}`

// bodies repeat the secrets of the request where programs look for other things.
var bodies = map[string]string{
	"empty":          "",
	"text":           "no such key: $KEY ($AUTHORIZATION, $BODY, $BASE64)",
	"web page":       "<html><title>502 $TOKEN</title><body>$AUTHORIZATION $KEY</body></html>",
	"error":          mixed,
	"error code":     `{"errorCode":"$KEY","errors":[{"code":"$KEY","message":"$TOKEN"}],"__type":"$KEY","Message":"$TOKEN"}`,
	"broken JSON":    `{"access_token":"$JWT`,
	"wrong types":    `{"access_token":["$KEY"],"expires_in":"$KEY","expiration":"$TOKEN","errors":"$KEY","created_at":["$KEY"],"secret_type":["$KEY"],"apikeys":"$KEY","total_count":"$KEY","secrets":"$KEY"}`,
	"opaque token":   `{"access_token":"$KEY","token_type":"Bearer","expires_in":3600,"expiration":4102444800,"scope":"$KEY"}`,
	"no Bearer":      `{"access_token":"$JWT","token_type":"$KEY","expires_in":3600,"expiration":4102444800}`,
	"two words":      `{"access_token":"$KEY $KEY","token_type":"Bearer","expires_in":3600}`,
	"token of a key": `{"access_token":"$JWT","refresh_token":"$KEY","token_type":"Bearer","expires_in":3600,"expiration":4102444800,"scope":"$KEY"}`,
	"secret": `{"id":"$TOKEN","secret_type":"arbitrary","name":"$KEY","payload":"two words: $KEY","created_at":"2026-01-01T00:00:00Z",` +
		`"version_custom_metadata":{"fingerprint":"$TOKEN","run_id":"$TOKEN","iam_id":"$KEY","account":"$KEY","expiration":4102444800},` +
		`"apikey":"$KEY","entity_tag":"$KEY","apikeys":[{"name":"$KEY","id":"$KEY","description":"$TOKEN"}],"total_count":1,"secrets":[{"id":"$KEY","name":"$KEY"}]}`,
	"odd secret": `{"id":"$KEY","secret_type":"$TOKEN","created_at":"$TOKEN","payload":["$KEY"],"data":{"$KEY":"$TOKEN"}}`,
	"AWS secret": `{"ARN":"$KEY","Name":"$KEY","SecretString":"{\"apikey\":\"$KEY\"}","SecretBinary":"$KEY","CreatedDate":"$KEY"}`,
}

// headers repeat the secrets of the request.
var headers = map[string]string{
	"Location": "https://elsewhere.example.com/$KEY?token=$TOKEN", "Www-Authenticate": `Bearer error="$AUTHORIZATION"`,
	"Transaction-Id": "$KEY", "X-Request-Id": "$TOKEN", "X-Amzn-Requestid": "$KEY", "X-Amzn-Errortype": "$KEY",
	"X-Correlation-Id": "$TOKEN", "Retry-After": "$KEY", "Date": "$KEY", "Set-Cookie": "key=$KEY; token=$TOKEN", "Warning": `199 - "$KEY"`,
}

// raw are answers that are no HTTP, or not quite.
var raw = map[string]string{
	"status line":   `HTTP/1.1 $KEY $TOKEN\r\n\r\n`,
	"no HTTP":       `$AUTHORIZATION $KEY\r\n\r\n`,
	"header":        `HTTP/1.1 200 OK\r\n$KEY $TOKEN\r\n\r\n`,
	"length":        `HTTP/1.1 200 OK\r\nContent-Length: $KEY\r\n\r\n$TOKEN`,
	"transfer":      `HTTP/1.1 200 OK\r\nTransfer-Encoding: $KEY\r\n\r\n$TOKEN`,
	"chunk":         `HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n$KEY\r\n`,
	"cut":           `HTTP/1.1 400 Bad Request\r\nContent-Length: 4000\r\n\r\n{"errorMessage":"$KEY $TOKEN`,
	"informational": `HTTP/1.1 103 $KEY\r\nLink: $TOKEN\r\n\r\nHTTP/1.1 500 $KEY\r\n\r\n$TOKEN`,
}

// namedFault is a way in which an operation fails.
type namedFault struct {
	name  string
	fault ibmcloudtest.Fault
	http1 bool // it needs a connection of HTTP/1.1
}

// faultMatrix is every way in which an operation is made to fail, always in the same order.
func faultMatrix() []namedFault {
	var all []namedFault
	add := func(http1 bool, f ibmcloudtest.Fault, format string, args ...any) {
		all = append(all, namedFault{fmt.Sprintf(format, args...), f, http1 || len(all)%2 == 1})
	}
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		for _, status := range []int{200, 400, 401, 403, 500} {
			add(false, ibmcloudtest.Fault{Status: status, Body: bodies[name]}, "%d with the body %q", status, name)
		}
	}
	for _, status := range []int{201, 202, 204, 301, 302, 307, 308, 402, 404, 405, 408, 409, 410, 412, 413, 415, 422, 425, 429, 451, 501, 502, 503, 504, 599} {
		add(false, ibmcloudtest.Fault{Status: status, Body: mixed, Headers: headers}, "%d", status)
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		one := map[string]string{name: headers[name]}
		add(false, ibmcloudtest.Fault{Headers: one}, "the header %s on a success", name)
		add(false, ibmcloudtest.Fault{Status: 302, Headers: one}, "302 with the header %s", name)
	}
	for _, contentType := range []string{"text/html", "text/plain; charset=$KEY", "application/x-www-form-urlencoded", "$TOKEN", "application/octet-stream"} {
		for _, status := range []int{200, 401} {
			add(false, ibmcloudtest.Fault{Status: status, Body: mixed, ContentType: contentType}, "%d of type %s", status, contentType)
		}
	}
	add(false, ibmcloudtest.Fault{Status: 200, Body: mixed, Headers: map[string]string{"Content-Encoding": "gzip"}}, "a body that is no gzip")
	add(true, ibmcloudtest.Fault{Status: 200, Body: mixed, Headers: map[string]string{"Content-Encoding": "$KEY"}}, "an unknown encoding")
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		add(true, ibmcloudtest.Fault{Status: http.StatusOK, Headers: map[string]string{rawHeader: raw[name]}}, "no proper HTTP: %s", name)
	}
	for _, drop := range []string{ibmcloudtest.DropBefore, ibmcloudtest.DropAfter} {
		add(false, ibmcloudtest.Fault{Drop: drop}, "a connection dropped %s the work", drop)
		add(true, ibmcloudtest.Fault{Drop: drop, Times: 1}, "a connection dropped once %s the work", drop)
	}
	add(false, ibmcloudtest.Fault{Delay: time.Hour}, "no answer at all")
	return all
}

// setting is a path that differs from a good one in some variables.
func setting(sub subject, how string, env func(*stage) map[string]string) path {
	return path{subject: sub, how: how, env: env}
}

// misplaced puts secrets into variables that are for something else.
func misplaced() []path {
	secrets := map[string]func(*stage) string{
		"an API key": func(s *stage) string { return s.cloud.BootstrapAPIKey() },
		"a token":    func(s *stage) string { return s.old },
	}
	var all []path
	for _, sub := range []subject{command, lambda} {
		for _, variable := range []string{
			"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY_ARN", "API_KEY_SECRET", "TOKEN_SECRET", "ROTATIONS", "ROTATIONS_FILE",
			"TOKEN_FORMAT", "MIN_REMAINING", "ROTATION_INTERVAL", "SECRETS_MANAGER_MAX_RPS", "CONCURRENCY", "LOG_LEVEL", "BOOTSTRAP_EXPIRES_AT",
			"IAM_PROFILE_NAME", "IAM_PROFILE_ID", "CR_TOKEN_FILENAME", "AWS_PROFILE", "AWS_CONFIG_FILE", "HTTPS_PROXY", "SSL_CERT_FILE",
		} {
			for what, secret := range inOrder(secrets) {
				all = append(all, setting(sub, what+" in "+variable, func(s *stage) map[string]string {
					return map[string]string{variable: secret(s)}
				}))
			}
		}
		for how, shape := range inOrder(urlShapes) {
			all = append(all, setting(sub, how, func(s *stage) map[string]string {
				return map[string]string{"SECRETS_MANAGER_URL": fmt.Sprintf(shape, s.cloud.BootstrapAPIKey())}
			}))
		}
		for how, shape := range inOrder(rotationShapes) {
			all = append(all, setting(sub, how, func(s *stage) map[string]string {
				only := s.cloud.Rotations()[0]
				return map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "",
					"ROTATIONS": fmt.Sprintf(shape, only.APIKey, only.APIKeySecret, only.TokenSecret)}
			}))
		}
		all = append(all, misshapenKeys(sub)...)
	}
	return all
}

// bootstraps are the ways in that are secrets, by variable.
var bootstraps = map[string]func(*stage) string{
	"SECRETS_MANAGER_APIKEY": func(s *stage) string { return s.cloud.BootstrapAPIKey() },
	"IAM_TOKEN":              func(s *stage) string { return s.admin },
}

// misshapenKeys have a bootstrap key or token in a form that it must not have.
func misshapenKeys(sub subject) []path {
	var all []path
	for how, shape := range inOrder(keyShapes) {
		for variable, secret := range inOrder(bootstraps) {
			all = append(all, setting(sub, variable+" as "+how, func(s *stage) map[string]string {
				return map[string]string{"SECRETS_MANAGER_APIKEY": "", variable: fmt.Sprintf(shape, secret(s))}
			}))
		}
	}
	return all
}

// storedOddly are keys that Secrets Manager holds in a form that they must not have.
func storedOddly() []path {
	var all []path
	for how, shape := range inOrder(storedShapes) {
		body := `{"id":"cb1e238c-d449-4fe7-bd68-04f0c5b59eb1","secret_type":"arbitrary","payload":"` + shape + `"}`
		for _, sub := range []subject{command, lambda} {
			all = append(all, path{subject: sub, how: "a stored key as " + how, faults: []ibmcloudtest.Fault{{Op: ibmcloudtest.OpSecretsGet, Status: 200, Body: body}}})
		}
	}
	return all
}

// switches are variables with which somebody may hope to see more.
var switches = []map[string]string{
	{"LOG_LEVEL": "debug"}, {"LOG_LEVEL": "info"}, {"LOG_LEVEL": "warn"}, {"LOG_LEVEL": "error"}, {"LOG_LEVEL": "loud"}, {"LOG_LEVEL": ""},
	{"GODEBUG": "http2debug=1"}, {"GODEBUG": "http2debug=2"}, {"GODEBUG": "http2debug=2,http2client=1"}, {"GODEBUG": "http2client=0"},
	{"GODEBUG": "netdns=2,inittrace=1"}, {"GODEBUG": "gctrace=1,schedtrace=10,scheddetail=1"}, {"GODEBUG": "tlsrsakex=1,x509usepolicies=1"},
	{"GOTRACEBACK": "all"}, {"GOTRACEBACK": "crash"},
	{"DEBUG": "1", "TRACE": "1", "VERBOSE": "1", "IBMCLOUD_TRACE": "true", "BLUEMIX_TRACE": "true", "IBM_CLOUD_DEBUG": "true", "IBMCLOUD_LOG_LEVEL": "debug", "IBMCLOUD_SDK_LOG_LEVEL": "4", "IC_DEBUG": "1"},
	{"AWS_DEBUG": "1", "AWS_SDK_LOG_LEVEL": "debug", "AWS_LOG_LEVEL": "debug", "AWS_CLIENT_LOG_MODE": "request,response_with_body", "AWS_SDK_GO_LOG_LEVEL": "debug", "AWS_LAMBDA_LOG_LEVEL": "TRACE", "AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_XRAY_DEBUG_MODE": "TRUE", "AWS_ENABLE_ENDPOINT_DISCOVERY": "true"},
	{"IBM_CREDENTIALS_FILE": "ibm-credentials.env", "VCAP_SERVICES": "{}"},
	{"OTEL_LOG_LEVEL": "debug", "OTEL_TRACES_EXPORTER": "console", "GRPC_GO_LOG_SEVERITY_LEVEL": "info", "GRPC_TRACE": "all"},
	{"SSLKEYLOGFILE": "keys.log"}, {"CURL_HOME": ".", "CURL_VERBOSE": "1"}, {"SHELLOPTS": "xtrace"}, {"SHELLOPTS": "verbose:xtrace", "PS4": "+ $READER_APIKEY $IAM_TOKEN $key "},
	{"JQ_COLORS": "1", "POSIXLY_CORRECT": "1"},
}

// switchedOn runs every program under every switch, well and badly.
func switchedOn() []path {
	badly := []ibmcloudtest.Fault{{Op: ibmcloudtest.OpAny, Skip: 2, Status: 401, Body: mixed, Headers: headers}}
	everyProgram := []subject{command, lambda, command.named("on AWS", functionOnAWS), iamToken, putBootstrapKey, setUpSecrets}
	var all []path
	for _, sub := range everyProgram {
		for _, set := range switches {
			how := ""
			for _, name := range slices.Sorted(maps.Keys(set)) {
				how += " " + name + "=" + set[name]
			}
			env := func(*stage) map[string]string { return set }
			all = append(all, path{subject: sub, how: "with" + how, env: env},
				path{subject: sub, how: "failing with" + how, env: env, faults: badly})
		}
	}
	return all
}

// traced runs the scripts with the shell's own means of showing what they do.
func traced() []path {
	var all []path
	for _, sub := range []subject{iamToken, putBootstrapKey, setUpSecrets} {
		for _, shell := range [][]string{{"sh", "-x"}, {"sh", "-v"}, {"bash", "-x"}, {"bash", "--posix", "-xv"}} {
			all = append(all, path{subject: sub, how: "under " + shell[0] + " " + shell[len(shell)-1], before: shell})
		}
		all = append(all, path{subject: sub, how: "with SHELLOPTS under bash", before: []string{"env", "SHELLOPTS=xtrace", "bash"}})
	}
	return all
}

// proxied sends requests through a proxy whose URL bears a password.
func proxied() []path {
	var all []path
	for _, sub := range []subject{command, lambda, command.named("on AWS", functionOnAWS), iamToken, setUpSecrets} {
		for how, shape := range inOrder(proxyShapes) {
			all = append(all, setting(sub, how, func(s *stage) map[string]string {
				proxy := fill(shape, s.proxy, s.server.Listener.Addr().String())
				// Loopback is never proxied by Go; a name that stands for it is.
				return map[string]string{"HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": "",
					"SECRETS_MANAGER_URL": "https://instance.example.com", "IAM_URL": "https://iam.example.com"}
			}))
		}
	}
	return all
}

// filed puts secrets into the files of the AWS SDK, well and badly.
func filed() []path {
	var all []path
	for how, text := range inOrder(awsFileShapes) {
		all = append(all, path{subject: command.named("on AWS", functionOnAWS), how: "AWS files with " + how, env: func(s *stage) map[string]string {
			file := filepath.Join(s.out(), "config")
			writeOrPanic(file, fill(text, s.aws.secretKey, ""))
			return map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_CONFIG_FILE": file, "AWS_SHARED_CREDENTIALS_FILE": file}
		}})
	}
	return all
}

// operation is something that a program asked of the cloud, and as whom.
type operation struct{ op, identity string }

// operations are those of the requests, each once, in the order in which they were first made.
func operations(requests []ibmcloudtest.Request) []operation {
	var all []operation
	for _, request := range requests {
		o := operation{request.Op, request.Identity}
		if o.op != "" && !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	return all
}

// inOrder goes through a map in the order of its keys: the same paths in every hunt.
func inOrder[V any](all map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if !yield(key, all[key]) {
				return
			}
		}
	}
}
