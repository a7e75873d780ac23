package canary

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// door is a program in the form in which people and AWS Lambda run it.
type door struct {
	name     string
	kind     string // function, reader or operator: what it may send to whom
	program  string // what is built for it
	needs    []string
	command  func(tools) []string
	env      func(*stage) map[string]string
	stdin    func(*stage) string
	prints   func(*stage) []string // the secrets that it is there to print on stdout
	terminal bool                  // stderr is one
	stride   int                   // it meets every n-th fault
}

// path is one way through a door.
type path struct {
	door      door
	sort, by  string // what kind of path, and what is special about it
	env       func(*stage) map[string]string
	args      func(*stage) []string
	stdin     func(*stage) string
	event     string // %s is the bootstrap key
	faults    []ibmcloudtest.Fault
	awsCall   string // the call to AWS that aws answers
	aws       *ibmcloudtest.Fault
	http1     bool
	before    []string // a command that runs the program
	signal    syscall.Signal
	misplaced string // the variable that has a secret against all advice
	patient   bool   // nothing goes wrong: it has the time it needs
}

// family is the program and the command of a door, in whichever form.
func (d door) family() string {
	words := strings.Fields(strings.ReplaceAll(d.name, ",", ""))
	if d.kind == "operator" {
		return words[0] + " " + words[1]
	}
	return words[0]
}

func (p path) String() string { return p.door.name + ": " + p.sort + ": " + p.by }

// works is whether the program must do what it is for.
func (p path) works() bool {
	return p.by == "no more arguments" && p.door.name != "iam-token by profile"
}

// waits is how long the program may try again, most of it asleep.
func (p path) waits() time.Duration {
	isUnknownKey := slices.ContainsFunc(p.faults, func(f ibmcloudtest.Fault) bool { return f.Case == "key_repeated" })
	isReplacement := p.door.name == "rotatorctl replace-identity"
	switch {
	case isReplacement && isUnknownKey:
		return time.Minute
	case isReplacement, strings.HasPrefix(p.door.name, "rotatorctl setup"), p.sort == "HTTPS_PROXY":
		return 15 * time.Second
	}
	return 0
}

// repeats is whether a service repeats what it was sent.
func (p path) repeats() bool { return len(p.faults) > 0 || p.aws != nil }

func built(name string, args ...string) func(tools) []string {
	return func(t tools) []string { return append([]string{filepath.Join(t.bin, name)}, args...) }
}

func script(args ...string) func(tools) []string {
	return func(t tools) []string {
		return append(slices.Clone(args), filepath.Join(t.scripts, "iam-token"))
	}
}

// hurry and readersHurry are how long the function and the Go reader have where something goes wrong: they try again until then.
const hurry, readersHurry = "800ms", "1500ms"

// doors are all of them. The first of a program meets all faults, the others some.
func doors() []door {
	function := func(name, program string, env func(*stage) map[string]string, stride int, command func(tools) []string) door {
		return door{name: name, kind: "function", program: program, env: env, stride: stride, command: command}
	}
	var all []door
	for name, env := range inOrder(map[string]func(*stage) map[string]string{"": functionEnv, " on AWS": onAWS, " mirrored": mirrored, " renewed": renewed, " for two": fleet, " by profile": byProfile, " by token": byToken}) {
		stride := 12
		if name == "" {
			stride = 1
		}
		all = append(all,
			function("command"+name, "rotate", env, stride, built("rotate", "-timeout", hurry)),
			function("lambda"+name, "rotate", env, stride*2, built("rotate")),
			function("doctor"+name, "rotate", env, stride*4, built("rotate", "doctor", "-timeout", hurry)))
	}
	reader := func(name, program string, env func(*stage) map[string]string, stride int, command func(tools) []string, needs ...string) door {
		return door{name: name, kind: "reader", program: program, env: env, stride: stride, command: command, needs: needs,
			prints: func(s *stage) []string { return []string{s.keys.old} }}
	}
	operator := func(name string, stdin func(*stage) string, stride int, command func(tools) []string) door {
		return door{name: name, kind: "operator", program: "rotatorctl", env: operatorEnv, stdin: stdin, stride: stride, command: command}
	}
	key := func(s *stage) string { return s.keys.bootstrap }
	atTerminal := function("command at a terminal", "rotate", functionEnv, 24, built("rotate", "-timeout", hurry))
	atTerminal.terminal = true
	byKey := operator("rotatorctl setup by key", nil, 24, built("rotatorctl", "setup", "--aws-secret", "bootstrap"))
	byKey.env = func(s *stage) map[string]string {
		return without(operatorEnv(s), []string{"IAM_TOKEN"}, map[string]string{"IBMCLOUD_API_KEY": s.keys.admin})
	}
	deploy := operator("rotatorctl deploy", nil, 6, built("rotatorctl", "deploy"))
	deploy.env = deployEnv
	replace := operator("rotatorctl replace-identity", nil, 12, built("rotatorctl", "replace-identity", "--workload", "--no-deploy", "--yes", "--no-bootstrap-key", "--env", "../out/env"))
	replace.env = replaceEnv
	goReader := reader("Go reader", "reader", readerEnv, 2, built("reader", readersHurry))
	goReader.prints = nil
	readerBy := func(variable string, value func(*stage) string) func(*stage) map[string]string {
		return func(s *stage) map[string]string {
			return without(readerEnv(s), []string{"READER_APIKEY"}, map[string]string{variable: value(s)})
		}
	}
	return append(all, atTerminal, goReader,
		reader("iam-token by file", "", readerBy("READER_APIKEY_FILE", func(s *stage) string { return s.in("reader.key", s.keys.reader) }), 24, script("sh"), "sh", "curl", "jq"),
		reader("iam-token by token", "", readerBy("READER_IAM_TOKEN", func(s *stage) string { return s.keys.readers }), 24, script("sh"), "sh", "curl", "jq"),
		reader("iam-token by profile", "", byReadersProfile, 24, script("sh"), "sh", "curl", "jq"),
		byKey,
		reader("iam-token", "", readerEnv, 4, script("sh"), "sh", "curl", "jq"),
		reader("iam-token under bash", "", readerEnv, 16, script("bash"), "bash", "curl", "jq"),
		reader("iam-token from AWS", "", readerOnAWS, 24, script("sh"), "sh", "curl", "jq", "aws"),
		operator("rotatorctl setup", nil, 4, built("rotatorctl", "setup", "--aws-secret", "bootstrap", "--reader-key-file", "../out/reader.key")),
		operator("rotatorctl setup, keys in files", nil, 16, built("rotatorctl", "setup", "--reader-key-file", "../out/reader.key", "--bootstrap-key-file", "../out/bootstrap.key", "--env", "../out/env")),
		operator("rotatorctl put-key", key, 1, built("rotatorctl", "put-key", "--name", "bootstrap")),
		operator("rotatorctl status", nil, 3, built("rotatorctl", "status")),
		operator("rotatorctl logs", nil, 6, built("rotatorctl", "logs")),
		operator("rotatorctl invoke", nil, 6, built("rotatorctl", "invoke", "--mode", "rotate")),
		operator("rotatorctl doctor", nil, 12, built("rotatorctl", "doctor")),
		deploy,
		replace,
		operator("rotatorctl rollback", nil, 12, built("rotatorctl", "rollback")),
		operator("rotatorctl destroy", nil, 12, built("rotatorctl", "destroy", "--yes")))
}

// functionEnv is the environment of the function: one rotation, and AWS credentials as Lambda has them.
func functionEnv(s *stage) map[string]string {
	env := awsEnv(s)
	maps.Copy(env, map[string]string{"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.iam.URL, "SECRETS_MANAGER_APIKEY": s.keys.bootstrap,
		"API_KEY_SECRET": s.rotation.APIKeySecret, "TOKEN_SECRET": s.rotation.TokenSecret, "LOG_LEVEL": "debug"})
	return env
}

func awsEnv(s *stage) map[string]string {
	return map[string]string{"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": s.keys.aws, "AWS_SESSION_TOKEN": s.keys.session,
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": s.aws.URL, "AWS_CA_BUNDLE": s.authority(), "AWS_MAX_ATTEMPTS": "2"}
}

// without returns env without some variables and with others.
func without(env map[string]string, names []string, more map[string]string) map[string]string {
	for _, name := range names {
		delete(env, name)
	}
	maps.Copy(env, more)
	return env
}

func onAWS(s *stage) map[string]string {
	return without(functionEnv(s), []string{"SECRETS_MANAGER_APIKEY"}, map[string]string{"SECRETS_MANAGER_APIKEY_ARN": bootstrapARN})
}

func mirrored(s *stage) map[string]string {
	return without(onAWS(s), []string{"API_KEY_SECRET", "TOKEN_SECRET"}, map[string]string{"EVENT_BUS_NAME": "tokens", "ROTATIONS": fmt.Sprintf(
		`[{"name":"mirrored","api_key_secret":%q,"token_secret":%q,"format":"json","mirror":[%q,%q]}]`, s.rotation.APIKeySecret, s.rotation.TokenSecret, mirrorARN, parameterARN)})
}

func renewed(s *stage) map[string]string {
	return without(onAWS(s), nil, map[string]string{"BOOTSTRAP_KEY_SECRET": s.managed})
}

func fleet(s *stage) map[string]string {
	return without(functionEnv(s), []string{"API_KEY_SECRET", "TOKEN_SECRET"}, map[string]string{"ROTATIONS": s.fleet})
}

func byProfile(s *stage) map[string]string {
	return without(functionEnv(s), []string{"SECRETS_MANAGER_APIKEY"}, map[string]string{"IAM_PROFILE_NAME": "rotator-bootstrap", "CR_TOKEN_FILENAME": s.in("cr-token", s.keys.cr)})
}

func byToken(s *stage) map[string]string {
	return without(functionEnv(s), []string{"SECRETS_MANAGER_APIKEY"}, map[string]string{"IAM_TOKEN": "Bearer " + s.keys.given})
}

func readerEnv(s *stage) map[string]string {
	return map[string]string{"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.iam.URL, "READER_APIKEY": s.keys.reader, "TOKEN_SECRET": s.rotation.TokenSecret}
}

// byReadersProfile has the emulator's one profile, which may not read the token.
func byReadersProfile(s *stage) map[string]string {
	return without(readerEnv(s), []string{"READER_APIKEY"}, map[string]string{"IAM_PROFILE_NAME": "rotator-bootstrap", "CR_TOKEN_FILENAME": s.in("cr-token", s.keys.cr)})
}

// deployEnv has a repository above the working directory, and programs in place of make and go that make what deploy needs.
func deployEnv(s *stage) map[string]string {
	template, err := os.ReadFile("../../infra/aws/template.yaml")
	if err != nil {
		panic(err)
	}
	for name, content := range map[string]string{
		"go.mod": "module iam-token-rotator\n", "infra/aws/template.yaml": string(template),
		"in/bin/make": "#!/bin/sh\n: >\"$DEPLOY_BINARY\"\n", "in/bin/go": "#!/bin/sh\necho zip >\"$4\"\n",
	} {
		file := filepath.Join(s.folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o700)); err != nil {
			panic(err)
		}
	}
	return without(operatorEnv(s), nil, map[string]string{"BUCKET": "bucket", "BOOTSTRAP_SECRET_ARN": bootstrapARN, "SECRETS_MANAGER_URL": "https://instance.example.com",
		"API_KEY_SECRET": s.rotation.APIKeySecret, "TOKEN_SECRET": s.rotation.TokenSecret, "PATH": filepath.Join(s.folder, "in", "bin") + ":" + os.Getenv("PATH")})
}

// readerOnAWS has the real aws program, which keeps a history if its user wants one.
func readerOnAWS(s *stage) map[string]string {
	return without(awsEnv(s), nil, map[string]string{"TOKEN_SECRET_ARN": mirrorARN, "AWS_CONFIG_FILE": s.in("aws-config", "[default]\ncli_history = enabled\n")})
}

func operatorEnv(s *stage) map[string]string {
	return without(awsEnv(s), nil, map[string]string{
		"SECRETS_MANAGER_URL": s.server.URL, "IAM_URL": s.iam.URL, "IAM_TOKEN": s.keys.given, "ACCOUNT_ID": s.cloud.AccountID(),
		"KEY_GROUP_ID": s.cloud.KeyGroupID(), "TOKEN_GROUP_ID": s.cloud.TokenGroupID(), "WORKLOAD_IAM_ID": s.rotation.IAMID,
		"BOOTSTRAP_IAM_ID": s.cloud.BootstrapIAMID(), "READER_IAM_ID": s.cloud.ReaderIAMID(),
	})
}

// replaceEnv is that of a replacement which has made the new service id; another is to be deleted.
func replaceEnv(s *stage) map[string]string {
	for name, content := range map[string]string{"env": "", "env.replacing": "OLD_WORKLOAD_IAM_ID='" + s.cloud.MustCopyServiceID(s.rotation.IAMID) + "'\n"} {
		if err := os.WriteFile(filepath.Join(s.folder, "out", name), []byte(content), 0o600); err != nil {
			panic(err) // a new folder of ours
		}
	}
	return without(operatorEnv(s), nil, map[string]string{"MANAGED_KEYS": "true"})
}

// calm are the doors with nothing wrong, in each mode.
func calm() (all []path) {
	for _, d := range doors() {
		all = append(all, path{door: d, sort: "calm", by: "no more arguments", patient: true})
		more := map[string][][]string{
			"command": {{"-mode", "ensure"}, {"-mode", "check", "-json"}, {"-force", "-run-id", "a-run-of-mine"}, {"config"}, {"-h"}}, "doctor": {{"-json"}},
			"iam-token": {{"--check"}, {"--format", "json"}, {"--format", "env"}, {"--format", "token.json"}, {"--min-ttl", "1h"}}, "rotatorctl setup": {{"-o", "json"}},
		}[d.name]
		for _, args := range more {
			d := d
			if args[0] == "config" || args[0] == "-h" {
				d.command = built(d.program)
			}
			all = append(all, path{door: d, sort: "calm", by: strings.Join(args, " "), patient: true, args: func(*stage) []string { return args }})
		}
		for _, event := range map[string][]string{"lambda": {`{"mode":"ensure"}`, `{"mode":"check"}`, `{"mode":"doctor"}`, `{"force":true}`}}[d.name] {
			all = append(all, path{door: d, sort: "calm", by: event, event: event, patient: true})
		}
		for _, format := range []string{"bearer", "json"} {
			if d.name == "command" || d.name == "lambda" {
				all = append(all, path{door: d, sort: "calm", by: format, patient: true, env: func(*stage) map[string]string { return map[string]string{"TOKEN_FORMAT": format} }})
			}
		}
	}
	return all
}

// faulty are the paths on which a service fails, at the operations that the door was seen to make.
func faulty(d door, made []operation) (all []path) {
	for n, at := range made {
		if d.program == "reader" && at.op == ibmcloudtest.OpTargetsList {
			continue // what a job is answered is the job's own
		}
		for i, named := range faultMatrix() {
			if (i+n)%d.stride != 0 || named.fault.Delay > 0 && d.kind != "function" || named.fault.Op != "" && at.op != named.fault.Op {
				continue
			}
			fault := named.fault
			p := path{door: d, sort: at.op + " of " + at.identity, by: named.name, http1: named.http1}
			if strings.HasPrefix(at.op, "AWS ") {
				if fault.Status == 0 || fault.Headers[rawHeader] != "" && !p.http1 {
					continue
				}
				p.awsCall, p.aws = strings.TrimPrefix(at.op, "AWS "), &fault
			} else {
				fault.Op, fault.Identity = at.op, at.identity
				p.faults = []ibmcloudtest.Fault{fault}
			}
			all = append(all, p)
		}
	}
	return all
}

type operation struct{ op, identity string }

// mixed is a body that repeats all that the request held, in a form that many a parser looks into.
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
	"token of a key": `{"access_token":"$JWT","refresh_token":"$KEY","token_type":"Bearer","expires_in":3600,"expiration":4102444800,"scope":"$KEY"}`,
	"secret": `{"id":"$TOKEN","secret_type":"arbitrary","name":"$KEY","payload":"two words: $KEY","created_at":"2026-01-01T00:00:00Z",` +
		`"version_custom_metadata":{"fingerprint":"$TOKEN","run_id":"$TOKEN","iam_id":"$KEY","account":"$KEY","expiration":4102444800},` +
		`"apikey":"$KEY","entity_tag":"$KEY","apikeys":[{"name":"$KEY","id":"$KEY","description":"$TOKEN"}],"total_count":1,"secrets":[{"id":"$KEY","name":"$KEY"}]}`,
	"AWS events": `{"FailedEntryCount":1,"Entries":[{"EventId":"$KEY","ErrorCode":"$KEY","ErrorMessage":"$BODY $TOKEN"}]}`,
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
	"location":      `HTTP/1.1 302 Found\r\nLocation: http://%zz$KEY\r\nContent-Length: 0\r\n\r\n`,
	"chunk":         `HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n$KEY\r\n`,
	"cut":           `HTTP/1.1 400 Bad Request\r\nContent-Length: 4000\r\n\r\n{"errorMessage":"$KEY $TOKEN`,
	"informational": `HTTP/1.1 103 $KEY\r\nLink: $TOKEN\r\n\r\nHTTP/1.1 500 $KEY\r\n\r\n$TOKEN`,
}

// stored are keys in forms that they must not have, as Secrets Manager would hold them.
var stored = map[string]string{
	"JSON": `{\"apikey\":\"$KEY\"}`, "two lines": `$KEY\n$KEY`, "white space": ` \n$KEY \n`, "quotes": `\"$KEY\"`, "a brace": `{$KEY`, "nothing": ``, "a control code": `$KEY\u0007`,
}

// namedFault is a way in which an operation fails.
type namedFault struct {
	name  string
	fault ibmcloudtest.Fault
	http1 bool // it needs a connection of HTTP/1.1
}

// faultMatrix is every way in which an operation is made to fail, always in the same order.
func faultMatrix() (all []namedFault) {
	add := func(http1 bool, f ibmcloudtest.Fault, format string, args ...any) {
		all = append(all, namedFault{fmt.Sprintf(format, args...), f, http1 || len(all)%2 == 1})
	}
	for name, body := range inOrder(bodies) {
		for _, status := range []int{200, 400, 401, 403, 500} {
			add(false, ibmcloudtest.Fault{Status: status, Body: body}, "%d with the body %q", status, name)
		}
	}
	for _, status := range []int{201, 202, 204, 301, 302, 307, 308, 402, 404, 405, 408, 409, 410, 412, 413, 415, 422, 425, 429, 451, 501, 502, 503, 504, 599} {
		add(false, ibmcloudtest.Fault{Status: status, Body: mixed, Headers: headers}, "%d", status)
	}
	for name := range inOrder(headers) {
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
	for name, answer := range inOrder(raw) {
		add(true, ibmcloudtest.Fault{Status: http.StatusOK, Headers: map[string]string{rawHeader: answer}}, "no proper HTTP: %s", name)
	}
	for _, drop := range []string{ibmcloudtest.DropBefore, ibmcloudtest.DropAfter} {
		add(false, ibmcloudtest.Fault{Drop: drop}, "a connection dropped %s the work", drop)
		add(true, ibmcloudtest.Fault{Drop: drop, Times: 1}, "a connection dropped once %s the work", drop)
	}
	add(false, ibmcloudtest.Fault{Delay: time.Hour}, "no answer at all")
	add(false, ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Case: "key_repeated"}, "IAM's error that repeats the key")
	for name, shape := range inOrder(stored) {
		body := `{"secret_type":"arbitrary","payload":"` + shape + `"}`
		add(false, ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 200, Body: body}, "a stored secret as %s", name)
	}
	return all
}

// shapes hold a secret, %[1]s, where people put one by mistake, by what they set: a variable, or an event, or an input.
// %[2]s and %[3]s are the ids of the key secret and the token secret.
var shapes = map[string][]string{
	"SECRETS_MANAGER_URL": {"%s", "https://user:%s@127.0.0.1", "https://127.0.0.1/%s", "https://127.0.0.1?apikey=%s", "https://127.0.0.1#%s", "https://127.0.0.1:%s", "%s://127.0.0.1",
		"https://127.0.0.1/%%zz%s", "http://10.0.0.1/%s", "https://127.0.0.1/\x01%s"},
	"SECRETS_MANAGER_APIKEY": {`{"apikey":"%s"}`, `"%s"`, "%[1]s\n%[1]s", "{%s}", "Bearer Bearer %s", "\x7f%s"},
	"IAM_TOKEN":              {`{"iam_token":"%s"}`, `"%s"`, "%[1]s\n%[1]s", "{%s}", "Bearer Bearer %s", "\x7f%s"},
	"ROTATIONS": {`%s`, `"%s"`, `["%s"]`, `[{"name":"a","api_key_secret":"%s`, `[{"name":"a","api_key_secret":"%s"`, `[{"%s":"a"}]`, `[{"apikey":"%s"}]`,
		`[{"name":"a","api_key_secret":"%s","token_secret":"%[3]s"}]`, `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[1]s"}]`, `[{"name":"a","api_key_secret":"group/%[1]s/name/more","token_secret":"%[3]s"}]`,
		`[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","format":"%[1]s"}]`, `[{"name":"a","api_key_secret":"%[2]s","api_key_field":"%[1]s","token_secret":"%[3]s"}]`,
		`[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","token_field":"%[1]s"}]`, `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":{"account":"%[1]s"}}]`,
		`[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","expect":"%[1]s"}]`, `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s","mirror":["%[1]s"]}]`,
		`[{"name":"%[1]s %[1]s","api_key_secret":"%[2]s","token_secret":"%[3]s"}]`, `[{"name":1,"api_key_secret":"%[1]s"}]`, `[{"name":"a","api_key_secret":"%[2]s","token_secret":"%[3]s"}] %[1]s`, `[{"name":"a\q%[1]s"}]`},
	"event": {`%s`, `"%s"`, `{"%s":true}`, `{"mode":"%s"}`, `{"rotations":["%s"]}`, `{"rotations":"%s"}`, `{"force":"%s"}`, `{"run_id":"%s !"}`, `["%s"]`, `{"mode":"%s`, `{"api_key_secret":"%s"}`},
	"stdin": {`{"apikey":"%s"}`, "%[1]s\n%[1]s", "my key %s", "%s" + strings.Repeat("x", 600), " \n %s\n\n", "%.0s"},
	"AWS_CONFIG_FILE": {"[default]\naws_access_key_id=AKIAEXAMPLE\naws_secret_access_key=%s\n", "[default\naws_secret_access_key=%s\n", "[default]\n%s\n", "[default]\nregion=%s\n",
		"[default]\nrole_arn=arn:aws:iam::123456789012:role/r\nsource_profile=%s\n", "[default]\nmax_attempts=%s\n"},
	"HTTPS_PROXY": {"http://user:%s@127.0.0.1:9", "ftp://user:%s@127.0.0.1:9", "https://user:%s@SERVER", "http://user:%s@[::1", "http://127.0.0.1:%s"},
}

// misread are variables that a kind of program reads and that hold no secret.
var misread = map[string][]string{
	"function": {"IAM_URL", "SECRETS_MANAGER_APIKEY_ARN", "API_KEY_SECRET", "TOKEN_SECRET", "ROTATIONS_FILE", "TOKEN_FORMAT", "MIN_REMAINING", "ROTATION_INTERVAL", "SECRETS_MANAGER_MAX_RPS", "CONCURRENCY",
		"LOG_LEVEL", "EVENT_BUS_NAME", "BOOTSTRAP_EXPIRES_AT", "EXPECT_ACCOUNT", "IAM_PROFILE_NAME", "IAM_PROFILE_ID", "CR_TOKEN_FILENAME", "AWS_PROFILE", "AWS_ENDPOINT_URL", "SSL_CERT_FILE"},
	"reader":   {"IAM_URL", "TOKEN_SECRET", "TOKEN_SECRET_ARN", "READER_APIKEY_FILE", "IAM_PROFILE_NAME", "IAM_PROFILE_ID", "CR_TOKEN_FILENAME", "SSL_CERT_FILE"},
	"operator": {"IAM_URL", "ACCOUNT_ID", "KEY_GROUP_ID", "WORKLOAD_IAM_ID", "IAM_PROFILE_ID", "BOOTSTRAP_SECRET_ARN", "STACK", "BUCKET", "PARAMS", "ARCH", "API_KEY_SECRET", "TOKEN_SECRET", "EXPECT_ACCOUNT", "EXPECT_IAM_ID", "ROTATIONS_FILE", "BOOTSTRAP_EXPIRES_AT", "MODE", "ROTATION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "SSL_CERT_FILE"},
}

// misplaced puts secrets into variables, events, inputs and arguments that are for something else.
func misplaced() (all []path) {
	for _, d := range doors() {
		if strings.Count(d.name, " ") > 1 && d.kind != "operator" || d.program == "reader" || strings.Contains(d.name, " by ") {
			continue // these are the same programs, and a job in Go prints what it was given if it wants to
		}
		set := func(sort, variable, by, shape string) {
			fill := func(s *stage) string { return s.fill(shape, variable) }
			all = append(all, path{door: d, sort: sort, by: by, misplaced: variable, env: func(s *stage) map[string]string { return s.environmentWith(variable, fill(s)) }})
		}
		for _, variable := range misread[d.kind] {
			set("variable", variable, variable, "%s")
		}
		for what, list := range inOrder(shapes) {
			for i, shape := range list {
				by := fmt.Sprint("shape ", i+1)
				switch {
				case what == "event" && d.name == "lambda":
					all = append(all, path{door: d, sort: what, by: by, event: shape})
				case what == "stdin" && d.stdin != nil:
					all = append(all, path{door: d, sort: what, by: by, stdin: func(s *stage) string { return s.fill(shape, what) }})
				case what != "event" && what != "stdin" && (d.kind == "function" || what == "SECRETS_MANAGER_URL" || what == "HTTPS_PROXY" || what == "IAM_TOKEN" && d.kind == "operator" || what == "AWS_CONFIG_FILE" && d.kind == "operator"):
					set(what, what, by, shape)
				}
			}
		}
		if !strings.HasPrefix(d.name, "lambda") {
			for _, shape := range []string{"%s", "-%s", "--apikey=%s", "-mode=%s", "-timeout=%s", "-rotation=%s", "-run-id=%s!", "--format=%s", "--stack=%s",
				"--format %s", "--min-ttl %s", "--wait %s", "--expires-in %s", "--terraform %s", "-mode %s", "-timeout %s", "--output %s"} {
				all = append(all, path{door: d, sort: "argument", by: shape, args: func(s *stage) []string { return strings.Fields(fmt.Sprintf(shape, s.keys.bootstrap)) }})
			}
		}
	}
	return all
}

// fill writes into a shape the secret that belongs elsewhere, the ids of the two secrets, and the server's address for SERVER.
func (s *stage) fill(shape, what string) string {
	text := fmt.Sprintf(shape+"%.0[2]s%.0[3]s", s.misplaced(what), s.rotation.APIKeySecret, s.rotation.TokenSecret)
	return strings.ReplaceAll(text, "SERVER", s.server.Listener.Addr().String())
}

// switches are variables with which somebody may hope to see more.
var switches = []map[string]string{
	{"LOG_LEVEL": "info"}, {"LOG_LEVEL": "warn"}, {"LOG_LEVEL": "error"}, {"LOG_LEVEL": "loud"}, {"LOG_LEVEL": ""},
	{"GODEBUG": "http2debug=1"}, {"GODEBUG": "http2debug=2,http2client=1"}, {"GODEBUG": "http2client=0"}, {"GODEBUG": "netdns=2,inittrace=1"}, {"GODEBUG": "gctrace=1,schedtrace=10,scheddetail=1"},
	{"GOTRACEBACK": "all"}, {"GOTRACEBACK": "crash"},
	{"DEBUG": "1", "TRACE": "1", "VERBOSE": "1", "IBMCLOUD_TRACE": "true", "BLUEMIX_TRACE": "true", "IBM_CLOUD_DEBUG": "true", "IBMCLOUD_LOG_LEVEL": "debug", "IBMCLOUD_SDK_LOG_LEVEL": "4", "IC_DEBUG": "1"},
	{"AWS_DEBUG": "1", "AWS_SDK_LOG_LEVEL": "debug", "AWS_LOG_LEVEL": "debug", "AWS_CLIENT_LOG_MODE": "request,response_with_body", "AWS_LAMBDA_LOG_LEVEL": "TRACE", "AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_XRAY_DEBUG_MODE": "TRUE"},
	{"IBM_CREDENTIALS_FILE": "ibm-credentials.env", "VCAP_SERVICES": "{}"}, {"OTEL_LOG_LEVEL": "debug", "OTEL_TRACES_EXPORTER": "console", "GRPC_GO_LOG_SEVERITY_LEVEL": "info", "GRPC_TRACE": "all"},
	{"SSLKEYLOGFILE": "keys.log"}, {"CURL_HOME": ".", "CURL_VERBOSE": "1"}, {"SHELLOPTS": "xtrace"}, {"SHELLOPTS": "verbose:xtrace", "PS4": "+ $READER_APIKEY $IAM_TOKEN $key "},
	{"SHELLOPTS": "allexport"}, {"JQ_COLORS": "1", "POSIXLY_CORRECT": "1"}, {"ENV": "in/rc", "BASH_ENV": "in/rc"},
}

// switched runs every program under every switch and trace, well and badly, and ends it in the middle of a request.
func switched() (all []path) {
	badly := []ibmcloudtest.Fault{{Op: ibmcloudtest.OpAny, Skip: 2, Status: 401, Body: mixed, Headers: headers}}
	limit := []string{"sh", "-c", `ulimit -c unlimited; exec "$@"`, "sh"} // so that a core would be dumped
	for _, d := range doors() {
		if d.program == "reader" || strings.Contains(d.name, " by ") || d.terminal || strings.Contains(d.name, " mirrored") || strings.HasPrefix(d.name, "doctor ") {
			continue
		}
		for _, set := range switches {
			by := fmt.Sprint(set)
			env := func(*stage) map[string]string { return set }
			all = append(all, path{door: d, sort: "switch", by: by, env: env, patient: true}, path{door: d, sort: "switch", by: "failing with " + by, env: env, faults: badly})
		}
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGUSR1, syscall.SIGPIPE} {
			for _, trace := range []string{"single", "crash"} {
				all = append(all, path{door: d, sort: "signal", by: signal.String() + " with GOTRACEBACK=" + trace, before: limit, signal: signal,
					env: func(*stage) map[string]string { return map[string]string{"GOTRACEBACK": trace} }})
			}
		}
	}
	for _, d := range doors() {
		for _, option := range [][]string{{"-x"}, {"-v"}, {"-xv"}, {"-a"}} {
			if strings.HasPrefix(d.name, "iam-token") {
				d.command = script(append([]string{d.command(tools{})[0]}, option...)...)
				all = append(all, path{door: d, sort: "trace", by: option[0], patient: true})
			}
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

// in writes a file that a program is given, and returns its name.
func (s *stage) in(name, content string) string {
	file := filepath.Join(s.folder, "in", name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		panic(err) // a new folder of ours
	}
	return file
}
