package canary

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// program is a program with one of its configurations, as people or AWS Lambda run it. Its command, environment (NAME=VALUE…),
// standard input and files are templates: $name is a value of the fixture, see newFixture.
type program struct {
	name, kind string // kind is function, reader or operator: what it may send differs
	command    string
	env, stdin string
	files      map[string]string // by their path; @FILE is a copy of the repository's
	prints     string            // the name of the secret that it must print
	needs      []string          // programs that must be installed
	terminal   bool              // whether stderr is a terminal
	stride     int               // n, if the program runs with every n-th fault
}

// path is one run of a program: with which faults, variables, arguments, signal.
type path struct {
	program       program
	class, detail string // class is the kind of path
	env           map[string]string
	args          string
	event         string
	faults        []ibmcloudtest.Fault
	awsCall       string // the call that aws, a fault, answers
	aws           *ibmcloudtest.Fault
	http1         bool
	signal        syscall.Signal
	misplaced     string // the variable, or other place, into which the secret $X is put by mistake
	patient       bool   // whether the program has time enough to succeed
}

// family is the name without the configuration: the program, and its command if it is rotatorctl.
func (prog program) family() string {
	words := strings.Fields(strings.ReplaceAll(prog.name, ",", ""))
	if prog.kind == "operator" {
		return words[0] + " " + words[1]
	}
	return words[0]
}

func (prog program) is(kind, names string) bool {
	return prog.kind == kind && strings.HasPrefix(prog.name, names)
}

func (p path) String() string { return p.program.name + ": " + p.class + ": " + p.detail }

// group is the class, but the same for all operations of a service, and for all variables with the same secret.
func (p path) group() string {
	switch {
	case p.repeats():
		return "faults of " + strings.Split(p.class, " ")[0][:3]
	case p.misplaced != "":
		return "misplaced " + misplacedSecrets[p.misplaced]
	}
	return p.class
}

// works is whether the program must succeed.
func (p path) works() bool {
	return p.detail == "no more arguments" && p.program.name != "iam-token by profile"
}

// waits is how long the program may retry.
func (p path) waits() time.Duration {
	isUnknownKey := slices.ContainsFunc(p.faults, func(f ibmcloudtest.Fault) bool { return f.Case == "key_repeated" })
	isReplacement := p.program.name == "rotatorctl replace-identity"
	switch {
	case isReplacement && isUnknownKey:
		return time.Minute
	case isReplacement, p.program.is("operator", "rotatorctl setup"), p.class == "HTTPS_PROXY" && p.program.kind != "function":
		return 15 * time.Second
	}
	return 0
}

// repeats is whether a service may repeat what it was sent.
func (p path) repeats() bool { return len(p.faults) > 0 || p.aws != nil }

// The environments. A variable without a value is not set.
const (
	awsEnv = " AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=AKIAEXAMPLE AWS_SECRET_ACCESS_KEY=$aws AWS_SESSION_TOKEN=$session" +
		" AWS_EC2_METADATA_DISABLED=true AWS_ENDPOINT_URL=$AWS AWS_CA_BUNDLE=$ca AWS_MAX_ATTEMPTS=2"
	functionEnv = awsEnv + " SECRETS_MANAGER_URL=$SM IAM_URL=$IAM SECRETS_MANAGER_APIKEY=$bootstrap API_KEY_SECRET=$keySecret TOKEN_SECRET=$tokenSecret LOG_LEVEL=debug"
	onAWS       = functionEnv + " SECRETS_MANAGER_APIKEY= SECRETS_MANAGER_APIKEY_ARN=" + bootstrapARN
	fleet       = functionEnv + " API_KEY_SECRET= TOKEN_SECRET= ROTATIONS="
	readerEnv   = " SECRETS_MANAGER_URL=$SM IAM_URL=$IAM READER_APIKEY=$reader TOKEN_SECRET=$tokenSecret"
	operatorEnv = awsEnv + " SECRETS_MANAGER_URL=$SM IAM_URL=$IAM IAM_TOKEN=$given ACCOUNT_ID=$account KEY_GROUP_ID=$keyGroup TOKEN_GROUP_ID=$tokenGroup" +
		" WORKLOAD_IAM_ID=$workloadID BOOTSTRAP_IAM_ID=$bootstrapID READER_IAM_ID=$readerID"
)

// variants has the function's configurations, by the end of the program's name.
var variants = map[string]string{
	"":            functionEnv,
	" on AWS":     onAWS,
	" renewed":    onAWS + " BOOTSTRAP_KEY_SECRET=$managed",
	" by token":   functionEnv + " SECRETS_MANAGER_APIKEY= IAM_TOKEN=$given",
	" by profile": functionEnv + " SECRETS_MANAGER_APIKEY= IAM_PROFILE_NAME=rotator-bootstrap CR_TOKEN_FILENAME=$in/cr-token",
	" for two": fleet + `[{"name":"first","api_key_secret":"$keySecret","token_secret":"$tokenSecret"},` +
		`{"name":"second","api_key_secret":"$kvKeySecret","api_key_field":"apikey","token_secret":"$kvTokenSecret"}]`,
	" mirrored": fleet + `[{"name":"mirrored","api_key_secret":"$keySecret","token_secret":"$tokenSecret","format":"json","mirror":["` + mirrorARN + `","` + parameterARN + `"]}]` +
		" SECRETS_MANAGER_APIKEY= SECRETS_MANAGER_APIKEY_ARN=" + bootstrapARN + " EVENT_BUS_NAME=tokens",
}

// allPrograms has every program in every configuration. The default configuration meets all faults, the others meet some.
var allPrograms = func() (all []program) {
	crToken := map[string]string{"in/cr-token": "$cr"}
	for name, env := range inOrder(variants) {
		stride := 12
		if name == "" {
			stride = 1
		}
		all = append(all,
			program{name: "command" + name, kind: "function", command: "$bin/rotate -timeout $limit", env: env, files: crToken, stride: stride},
			program{name: "lambda" + name, kind: "function", command: "$bin/rotate", env: env, files: crToken, stride: stride * 2},
			program{name: "doctor" + name, kind: "function", command: "$bin/rotate doctor -timeout $limit", env: env, files: crToken, stride: stride * 4})
	}
	all = append(all, program{name: "command at a terminal", kind: "function", command: "$bin/rotate -timeout $limit", env: functionEnv, stride: 24, terminal: true},
		program{name: "Go reader", kind: "reader", command: "$bin/reader $limit", env: readerEnv, stride: 2})
	const byNoKey = readerEnv + " READER_APIKEY="
	for name, prog := range inOrder(map[string]program{
		"":            {env: readerEnv, stride: 4},
		" by file":    {env: byNoKey + " READER_APIKEY_FILE=$in/reader.key", files: map[string]string{"in/reader.key": "$reader"}},
		" by token":   {env: byNoKey + " READER_IAM_TOKEN=$readers"},
		" by profile": {env: byNoKey + " IAM_PROFILE_NAME=rotator-bootstrap CR_TOKEN_FILENAME=$in/cr-token", files: crToken}, // the emulator's only profile, which has no access to the token
		" under bash": {env: readerEnv, command: "bash $scripts/iam-token", stride: 16},
		" from AWS":   {env: awsEnv + " TOKEN_SECRET_ARN=" + mirrorARN + " AWS_CONFIG_FILE=$in/aws-config", files: map[string]string{"in/aws-config": "[default]\ncli_history = enabled\n"}},
	}) {
		prog.name, prog.kind, prog.prints, prog.command, prog.stride = "iam-token"+name, "reader", "old", cmp.Or(prog.command, "sh $scripts/iam-token"), cmp.Or(prog.stride, 24)
		prog.needs = []string{strings.Fields(prog.command)[0], "curl", "jq"}
		if name == " from AWS" {
			prog.needs = append(prog.needs, "aws")
		}
		all = append(all, prog)
	}
	for name, prog := range inOrder(map[string]program{
		"deploy": {stride: 6, env: " BUCKET=bucket BOOTSTRAP_SECRET_ARN=" + bootstrapARN + " SECRETS_MANAGER_URL=https://instance.example.com API_KEY_SECRET=$keySecret TOKEN_SECRET=$tokenSecret PATH=$in/bin:$PATH",
			// The parent of the working directory is a repository. Scripts replace make and go: they make what deploy needs.
			files: map[string]string{"go.mod": "module iam-token-rotator\n", "infra/aws/template.yaml": "@infra/aws/template.yaml",
				"in/bin/make": "#!/bin/sh\n: >\"$DEPLOY_BINARY\"\n", "in/bin/go": "#!/bin/sh\necho zip >\"$4\"\n"}},
		"destroy": {command: "destroy --yes"},
		"doctor":  {},
		"invoke":  {command: "invoke --mode rotate", stride: 6},
		"logs":    {stride: 6},
		"put-key": {command: "put-key --name bootstrap", stdin: "$bootstrap", stride: 1},
		// A replacement was interrupted: the new service id exists, the old one is to be deleted.
		"replace-identity": {command: "replace-identity --workload --no-deploy --yes --no-bootstrap-key --env ../out/env", env: " MANAGED_KEYS=true",
			files: map[string]string{"out/env": "", "out/env.replacing": `{"workload":{"deleted_iam_id":"$copyID"}}`}},
		"rollback":             {},
		"setup":                {command: "setup --aws-secret bootstrap --reader-key-file ../out/reader.key", stride: 4},
		"setup by key":         {command: "setup --aws-secret bootstrap", env: " IAM_TOKEN= IBMCLOUD_API_KEY=$admin", stride: 24},
		"setup, keys in files": {command: "setup --reader-key-file ../out/reader.key --bootstrap-key-file ../out/bootstrap.key --env ../out/env", stride: 16},
		"status":               {stride: 3},
	}) {
		prog.name, prog.kind, prog.command, prog.env, prog.stride = "rotatorctl "+name, "operator", "$bin/rotatorctl "+cmp.Or(prog.command, name), operatorEnv+prog.env, cmp.Or(prog.stride, 12)
		all = append(all, prog)
	}
	return all
}()

// calm are the paths on which nothing fails: each program in each mode.
func calm() (all []path) {
	more := map[string][]string{
		"command": {"-mode ensure", "-mode check -json", "-force -run-id a-run-of-mine", "config", "-h"}, "doctor": {"-json"}, "rotatorctl setup": {"-o json"},
		"iam-token": {"--check", "--format json", "--format env", "--format token.json", "--min-ttl 1h"},
	}
	for _, prog := range allPrograms {
		all = append(all, path{program: prog, class: "calm", detail: "no more arguments", patient: true})
		for _, args := range more[prog.name] {
			prog := prog
			if args == "config" || args == "-h" {
				prog.command = "$bin/rotate"
			}
			all = append(all, path{program: prog, class: "calm", detail: args, patient: true, args: args})
		}
		if prog.name == "lambda" {
			for _, event := range []string{`{"mode":"ensure"}`, `{"mode":"check"}`, `{"mode":"doctor"}`, `{"force":true}`} {
				all = append(all, path{program: prog, class: "calm", detail: event, event: event, patient: true})
			}
		}
		for _, format := range []string{"bearer", "json"} {
			if prog.name == "command" || prog.name == "lambda" {
				all = append(all, path{program: prog, class: "calm", detail: format, patient: true, env: map[string]string{"TOKEN_FORMAT": format}})
			}
		}
	}
	return all
}

// faulty are the paths on which a service fails, at the operations that the program called on its calm paths.
func faulty(prog program, made []operation) (all []path) {
	for n, at := range made {
		if prog.name == "Go reader" && at.op == ibmcloudtest.OpTargetsList {
			continue // the job prints what it is answered
		}
		for i, p := range faultMatrix() {
			fault := p.faults[0]
			if (i+n)%prog.stride != 0 || fault.Delay > 0 && prog.kind != "function" || fault.Op != "" && at.op != fault.Op {
				continue
			}
			p.program, p.class = prog, at.op+" of "+at.identity
			call, isAWS := strings.CutPrefix(at.op, "AWS ")
			switch {
			case !isAWS:
				fault.Op, fault.Identity = at.op, at.identity
				p.faults = []ibmcloudtest.Fault{fault}
			case fault.Status == 0 || fault.Headers[rawHeader] != "" && !p.http1:
				continue
			default:
				p.faults, p.awsCall, p.aws = nil, call, &fault
			}
			all = append(all, p)
		}
	}
	return all
}

type operation struct{ op, identity string }

// mixed is a body that repeats all that the request held, in the fields that programs read.
const mixed = `{"errorCode":"BXNIM0415E $KEY","errorMessage":"$BODY $BASE64","errorDetails":"$AUTHORIZATION",` +
	`"context":{"requestId":"$KEY"},"errors":[{"code":"secrets-manager.Error07012 $TOKEN","message":"$BODY","more_info":"https://h/$KEY",` +
	`"target":{"name":"$AUTHORIZATION"}}],"trace":"$TOKEN","status_code":"$KEY","message":"$KEY","__type":"$KEY"}`

// bodies repeat the secrets of the request in fields that are for something else.
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

// raw are answers that are not valid HTTP.
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

// stored are payloads in which a key is not as it must be stored.
var stored = map[string]string{
	"JSON": `{\"apikey\":\"$KEY\"}`, "two lines": `$KEY\n$KEY`, "white space": ` \n$KEY \n`, "quotes": `\"$KEY\"`, "a brace": `{$KEY`, "nothing": ``, "a control code": `$KEY\u0007`,
}

// faultMatrix has every fault of an operation, always in the same order. Some need HTTP/1.1.
func faultMatrix() (all []path) {
	add := func(http1 bool, f ibmcloudtest.Fault, format string, args ...any) {
		all = append(all, path{detail: fmt.Sprintf(format, args...), faults: []ibmcloudtest.Fault{f}, http1: http1 || len(all)%2 == 1})
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

// shapes are values with a misplaced secret, $X, by the variable, "event" or "stdin" into which people put them.
var shapes = map[string][]string{
	"SECRETS_MANAGER_URL": {"$X", "https://user:$X@127.0.0.1", "https://127.0.0.1/$X", "https://127.0.0.1?apikey=$X", "https://127.0.0.1#$X", "https://127.0.0.1:$X", "$X://127.0.0.1",
		"https://127.0.0.1/%zz$X", "http://10.0.0.1/$X", "https://127.0.0.1/\x01$X"},
	"SECRETS_MANAGER_APIKEY": {`{"apikey":"$X"}`, `"$X"`, "$X\n$X", "{$X}", "Bearer Bearer $X", "\x7f$X"},
	"IAM_TOKEN":              {`{"iam_token":"$X"}`, `"$X"`, "$X\n$X", "{$X}", "Bearer Bearer $X", "\x7f$X"},
	"ROTATIONS": {`$X`, `"$X"`, `["$X"]`, `[{"name":"a","api_key_secret":"$X`, `[{"name":"a","api_key_secret":"$X"`, `[{"$X":"a"}]`, `[{"apikey":"$X"}]`,
		`[{"name":"a","api_key_secret":"$X","token_secret":"$tokenSecret"}]`, `[{"name":"a","api_key_secret":"$keySecret","token_secret":"$X"}]`, `[{"name":"a","api_key_secret":"group/$X/name/more","token_secret":"$tokenSecret"}]`,
		`[{"name":"a","api_key_secret":"$keySecret","token_secret":"$tokenSecret","format":"$X"}]`, `[{"name":"a","api_key_secret":"$keySecret","api_key_field":"$X","token_secret":"$tokenSecret"}]`,
		`[{"name":"a","api_key_secret":"$keySecret","token_secret":"$tokenSecret","token_field":"$X"}]`, `[{"name":"a","api_key_secret":"$keySecret","token_secret":"$tokenSecret","expect":{"account":"$X"}}]`,
		`[{"name":"a","api_key_secret":"$keySecret","token_secret":"$tokenSecret","expect":"$X"}]`, `[{"name":"a","api_key_secret":"$keySecret","token_secret":"$tokenSecret","mirror":["$X"]}]`,
		`[{"name":"$X $X","api_key_secret":"$keySecret","token_secret":"$tokenSecret"}]`, `[{"name":1,"api_key_secret":"$X"}]`, `[{"name":"a","api_key_secret":"$keySecret","token_secret":"$tokenSecret"}] $X`, `[{"name":"a\q$X"}]`},
	"event": {`$X`, `"$X"`, `{"$X":true}`, `{"mode":"$X"}`, `{"rotations":["$X"]}`, `{"rotations":"$X"}`, `{"force":"$X"}`, `{"run_id":"$X !"}`, `["$X"]`, `{"mode":"$X`, `{"api_key_secret":"$X"}`},
	"stdin": {`{"apikey":"$X"}`, "$X\n$X", "my key $X", "${X}" + strings.Repeat("x", 600), " \n $X\n\n", ""},
	"AWS_CONFIG_FILE": {"[default]\naws_access_key_id=AKIAEXAMPLE\naws_secret_access_key=$X\n", "[default\naws_secret_access_key=$X\n", "[default]\n$X\n", "[default]\nregion=$X\n",
		"[default]\nrole_arn=arn:aws:iam::123456789012:role/r\nsource_profile=$X\n", "[default]\nmax_attempts=$X\n"},
	"HTTPS_PROXY": {"http://user:$X@127.0.0.1:9", "ftp://user:$X@127.0.0.1:9", "https://user:$X@$SMHOST", "http://user:$X@[::1", "http://127.0.0.1:$X"},
}

// misread has the variables of each kind of program that are not for a secret.
var misread = map[string]string{
	"function": "IAM_URL SECRETS_MANAGER_APIKEY_ARN API_KEY_SECRET TOKEN_SECRET ROTATIONS_FILE TOKEN_FORMAT MIN_REMAINING ROTATION_INTERVAL SECRETS_MANAGER_MAX_RPS" +
		" CONCURRENCY LOG_LEVEL EVENT_BUS_NAME BOOTSTRAP_EXPIRES_AT EXPECT_ACCOUNT IAM_PROFILE_NAME IAM_PROFILE_ID CR_TOKEN_FILENAME AWS_PROFILE AWS_ENDPOINT_URL SSL_CERT_FILE",
	"reader": "IAM_URL TOKEN_SECRET TOKEN_SECRET_ARN READER_APIKEY_FILE IAM_PROFILE_NAME IAM_PROFILE_ID CR_TOKEN_FILENAME SSL_CERT_FILE",
	"operator": "IAM_URL ACCOUNT_ID KEY_GROUP_ID WORKLOAD_IAM_ID IAM_PROFILE_ID BOOTSTRAP_SECRET_ARN STACK BUCKET PARAMS ARCH" +
		" API_KEY_SECRET TOKEN_SECRET EXPECT_ACCOUNT EXPECT_IAM_ID ROTATIONS_FILE BOOTSTRAP_EXPIRES_AT MODE ROTATION AWS_PROFILE AWS_ENDPOINT_URL SSL_CERT_FILE",
}

// misplacedSecrets has the secret that $X is, by variable. Elsewhere it is the bootstrap key.
var misplacedSecrets = map[string]string{"IAM_TOKEN": "given", "TOKEN_FORMAT": "given", "READER_APIKEY_FILE": "given", "AWS_CONFIG_FILE": "aws", "HTTPS_PROXY": "proxy"}

// besides has the settings without which a variable is not read.
var besides = map[string]map[string]string{
	"AWS_CONFIG_FILE": {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_CONFIG_FILE": "$in/config", "AWS_SHARED_CREDENTIALS_FILE": "$in/config"},
	"HTTPS_PROXY":     {"NO_PROXY": "", "SECRETS_MANAGER_URL": "https://instance.example.com", "IAM_URL": "https://iam.example.com"}, // Go never takes a proxy to loopback
	"IAM_TOKEN":       {"SECRETS_MANAGER_APIKEY": ""},
	"ROTATIONS":       {"API_KEY_SECRET": "", "TOKEN_SECRET": ""},
}

// misplaced are the paths with a secret in a variable, event, input or argument that is for something else.
func misplaced() (all []path) {
	for _, prog := range allPrograms {
		if strings.Count(prog.name, " ") > 1 && prog.kind != "operator" || prog.name == "Go reader" || strings.Contains(prog.name, " by ") {
			continue // the configuration makes no difference, and the job in Go prints its own variables
		}
		set := func(class, variable, by, shape string) {
			p := path{program: prog, class: class, detail: by, misplaced: variable, env: map[string]string{variable: shape}}
			if variable == "HTTPS_PROXY" {
				p.env["https_proxy"] = shape
			}
			if variable == "AWS_CONFIG_FILE" {
				p.program.files = map[string]string{"in/config": shape}
				maps.Copy(p.program.files, prog.files)
			}
			maps.Copy(p.env, besides[variable])
			all = append(all, p)
		}
		for variable := range strings.FieldsSeq(misread[prog.kind]) {
			set("variable", variable, variable, "$X")
		}
		for what, list := range inOrder(shapes) {
			for i, shape := range list {
				by := fmt.Sprint("shape ", i+1)
				switch {
				case what == "event" && prog.name == "lambda":
					all = append(all, path{program: prog, class: what, detail: by, event: shape, misplaced: what})
				case what == "stdin" && prog.stdin != "":
					p := path{program: prog, class: what, detail: by, misplaced: what}
					p.program.stdin = shape
					all = append(all, p)
				case what == "event" || what == "stdin":
				case prog.kind == "function", what == "SECRETS_MANAGER_URL", what == "HTTPS_PROXY", prog.kind == "operator" && (what == "IAM_TOKEN" || what == "AWS_CONFIG_FILE"):
					set(what, what, by, shape)
				}
			}
		}
		for _, shape := range []string{"$X", "-$X", "--apikey=$X", "-mode=$X", "-timeout=$X", "-rotation=$X", "-run-id=$X!", "--format=$X", "--stack=$X",
			"--format $X", "--min-ttl $X", "--wait $X", "--expires-in $X", "--terraform $X", "-mode $X", "-timeout $X", "--output $X"} {
			if !prog.is("function", "lambda") {
				all = append(all, path{program: prog, class: "argument", detail: shape, args: shape, misplaced: "argument"})
			}
		}
	}
	return all
}

// switches are variables that people set to see more, or that change how programs log.
var switches = []map[string]string{
	{"LOG_LEVEL": "info"}, {"LOG_LEVEL": "warn"}, {"LOG_LEVEL": "error"}, {"LOG_LEVEL": "loud"}, {"LOG_LEVEL": ""},
	{"GODEBUG": "http2debug=1"}, {"GODEBUG": "http2debug=2,http2client=1"}, {"GODEBUG": "http2client=0"}, {"GODEBUG": "netdns=2,inittrace=1"}, {"GODEBUG": "gctrace=1,schedtrace=10,scheddetail=1"},
	{"GOTRACEBACK": "all"}, {"GOTRACEBACK": "crash"},
	{"DEBUG": "1", "TRACE": "1", "VERBOSE": "1", "IBMCLOUD_TRACE": "true", "BLUEMIX_TRACE": "true", "IBM_CLOUD_DEBUG": "true", "IBMCLOUD_LOG_LEVEL": "debug", "IBMCLOUD_SDK_LOG_LEVEL": "4", "IC_DEBUG": "1"},
	{"AWS_DEBUG": "1", "AWS_SDK_LOG_LEVEL": "debug", "AWS_LOG_LEVEL": "debug", "AWS_CLIENT_LOG_MODE": "request,response_with_body", "AWS_LAMBDA_LOG_LEVEL": "TRACE", "AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_XRAY_DEBUG_MODE": "TRUE"},
	{"IBM_CREDENTIALS_FILE": "ibm-credentials.env", "VCAP_SERVICES": "{}"}, {"OTEL_LOG_LEVEL": "debug", "OTEL_TRACES_EXPORTER": "console", "GRPC_GO_LOG_SEVERITY_LEVEL": "info", "GRPC_TRACE": "all"},
	{"SSLKEYLOGFILE": "keys.log"}, {"CURL_HOME": ".", "CURL_VERBOSE": "1"}, {"SHELLOPTS": "xtrace"}, {"SHELLOPTS": "verbose:xtrace", "PS4": "+ $READER_APIKEY $IAM_TOKEN $key "},
	{"SHELLOPTS": "allexport"}, {"JQ_COLORS": "1", "POSIXLY_CORRECT": "1"}, {"ENV": "$in/rc", "BASH_ENV": "$in/rc"},
}

// switched are the paths with a switch, with and without a fault, with a trace of the shell, and with a signal during a request.
func switched() (all []path) {
	badly := []ibmcloudtest.Fault{{Op: ibmcloudtest.OpAny, Skip: 2, Status: 401, Body: mixed, Headers: headers}}
	for _, prog := range allPrograms {
		for _, option := range []string{"-x", "-v", "-xv", "-a"} {
			if prog.is("reader", "iam-token") {
				traced := prog
				traced.command = strings.Replace(prog.command, " ", " "+option+" ", 1)
				all = append(all, path{program: traced, class: "trace", detail: option, patient: true})
			}
		}
		if prog.name == "Go reader" || strings.Contains(prog.name, " by ") || prog.terminal || strings.Contains(prog.name, " mirrored") || prog.is("function", "doctor ") {
			continue
		}
		for _, set := range switches {
			by := fmt.Sprint(set)
			all = append(all, path{program: prog, class: "switch", detail: by, env: set, patient: true}, path{program: prog, class: "switch", detail: "failing with " + by, env: set, faults: badly})
		}
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGUSR1, syscall.SIGPIPE} {
			for _, trace := range []string{"single", "crash"} {
				all = append(all, path{program: prog, class: "signal", detail: signal.String() + " with GOTRACEBACK=" + trace, signal: signal, env: map[string]string{"GOTRACEBACK": trace}})
			}
		}
	}
	return all
}

// inOrder ranges over a map in the order of its keys, so that every run has the same paths.
func inOrder[V any](all map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			if !yield(key, all[key]) {
				return
			}
		}
	}
}
