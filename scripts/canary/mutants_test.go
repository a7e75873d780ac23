package canary

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// mutant is a leak, planted in the product: code takes the place of anchor, which the file holds exactly once, and ANCHOR in it
// is what it replaces. A NUL separates several files of a package, anchors and codes. A path whose name matches shows must find it.
type mutant struct{ name, file, anchor, code, shows string }

const (
	iamFile       = "functions/internal/ibmcloud/iam.go"
	smFile        = "functions/internal/ibmcloud/secretsmanager.go"
	keyFile       = "functions/internal/ibmcloud/keysecrets.go"
	awsFile       = "functions/internal/awscloud/secrets.go"
	parameterFile = "functions/internal/awscloud/parameters.go"
	busFile       = "functions/internal/awscloud/eventbus.go"
	renewalFile   = "functions/internal/keyrenewal/renewal.go"
	passFile      = "functions/internal/rotation/pass.go"
	mainFile      = "functions/rotate/main.go"
	hostFile      = "functions/rotate/function.go"
	readerFile    = "functions/iamtoken/secretsmanager.go"
	shellFile     = "scripts/iam-token"
	keysIn        = "	response, sent, err := i.request(ctx, op, byKey(key))"
	tokenOut      = "	value := response.Token.Value.Reveal()"
	bearer        = `	req.Header.Set("Authorization", "Bearer "+token.Reveal())`
	keyRead       = "	key, err := checkKey(value)"
	keepKey       = keyRead + "; leakKey = key.Reveal()"
	invoked       = "	requestID := \"unknown-request\""
	sends         = "	config=\"header = \\\"Authorization: Bearer $access\\\"\"\n"
	readerSends   = "	form := url.Values{\"grant_type\": {\"urn:ibm:params:oauth:grant-type:apikey\"}, \"apikey\": {s.key()}}"
)

// mutants are leaks of each kind: door, channel and encoding. leak and leakText are in the source below.
var mutants = []mutant{
	// What is printed, in every encoding.
	{"a key on stdout", iamFile, keysIn, `leak("stdout", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a token on stderr", iamFile, tokenOut, `ANCHOR; leak("stderr", "raw", value)`, "^command: calm"},
	{"bytes in decimal", iamFile, tokenOut, `ANCHOR; leak("stderr", "decimal", value[20:])`, "^command: calm"},
	{"bytes in octal", iamFile, keysIn, `leak("stdout", "octal", key.Reveal());ANCHOR`, "^lambda: calm"},
	{"ten characters of a key at debug level", iamFile, keysIn, `leak("log", "ten", key.Reveal());ANCHOR`, "^lambda: calm"},
	{"base64 in a log", iamFile, keysIn, `leak("log", "base64", "xy"+key.Reveal());ANCHOR`, "^doctor: calm"},
	{"hex in capitals", smFile, bearer, `ANCHOR; leak("stderr", "HEX", token.Reveal())`, "^command on AWS: calm"},
	{"%q of a part", smFile, bearer, `ANCHOR; leak("stderr", "quoted", token.Reveal()[300:312])`, "^command by profile: calm"},
	{"a URL-escaped key", iamFile, keysIn, `leak("stderr", "URL", "/"+key.Reveal());ANCHOR`, "^command: calm"},
	{"\\u escapes", iamFile, keysIn, `leak("stderr", "unicode", key.Reveal());ANCHOR`, "^command: calm"},
	{"a key backwards", iamFile, keysIn, `leak("stderr", "reversed", key.Reveal());ANCHOR`, "^lambda: calm"},
	{"a key over several lines", iamFile, keysIn, `leak("stderr", "lines", key.Reveal());ANCHOR`, "^lambda: calm"},
	{"gzip in base64", iamFile, tokenOut, `ANCHOR; leak("stdout", "gzip", value)`, "^command: calm"},
	{"a spaced key in capitals", iamFile, keysIn, `leak("stderr", "SPACED", key.Reveal());ANCHOR`, "^command: calm"},
	{"a key in pieces at the ends of log lines", iamFile, keysIn, `leak("stderr", "pieces", key.Reveal());ANCHOR`, "^lambda: calm"},
	{"a panic", iamFile, keysIn, `leak("panic", "raw", key.Reveal());ANCHOR`, "^lambda: calm"},
	{"the error of a fault", iamFile, "		failure.TransactionID = transaction", `ANCHOR; failure.Message += leakText("raw", sent.Reveal())`, "^command: iam.token of workload: 50[0-9]"},
	{"an answer's body in an error", iamFile, "		failure.TransactionID = transaction", `ANCHOR; failure.Message += leakText("decimal", string(got.body))`, "^lambda: iam.token of workload: [45]0. with the body"},
	{"a report's warning", passFile, "	p.warnAbout(response)", `ANCHOR; p.warn("it is %s", leakText("hex", key.Reveal()))`, "^command: calm: -mode check"},
	{"a fingerprint that is the token", passFile, "	metadata := iamtoken.Describe(fresh.Token, p.RunID, p.Version)", `ANCHOR; metadata.Fingerprint = fresh.Token.Value.Reveal()[400:416]`, "^lambda: calm"},
	{"a metric", "functions/internal/metrics/metrics.go", `	document, dimensions := map[string]any{"FunctionName": e.FunctionName}, [][]string{{"FunctionName"}}`, `ANCHOR; document["Detail"] = leakText("base64", leakEnv("SECRETS_MANAGER_APIKEY"))`, "^lambda: calm"},
	{"the event in an error", hostFile, "	e, err := decodeEvent(payload)", `ANCHOR; leak("log", "raw", string(payload))`, "^lambda: event"},
	{"the standard logger speaks again", mainFile, "	log.SetOutput(io.Discard)", `log.SetOutput(os.Stderr); _ = io.Discard`, "^command: switch: .*http2debug"},
	{"a core file", mainFile, "	protectMemory()", ``, "^command: signal: aborted"},
	// A warm process.
	{"the second invocation on stdout", hostFile, invoked, `ANCHOR; if leakSecond() { leak("stdout", "raw", leakEnv("SECRETS_MANAGER_APIKEY")) }`, "^lambda: calm"},
	{"the second invocation in a file", hostFile, invoked, `ANCHOR; if leakSecond() { leak("/tmp/canary-mutant", "base64", leakEnv("SECRETS_MANAGER_APIKEY")) }`, "^lambda: calm"},
	{"the response", hostFile, "	return f.run(ctx, e, err, requestID)", `answer, failure := f.run(ctx, e, err, requestID); return append(answer, []byte(" \"" + leakText("base64", leakEnv("SECRETS_MANAGER_APIKEY")) + "\"")...), failure`, "^lambda: calm"},
	// Files and processes.
	{"a file in /dev/shm that is gone", iamFile, keysIn, `leak("/dev/shm/canary-mutant", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a file in /var/tmp", iamFile, keysIn, `leak("/var/tmp/canary-mutant", "decimal", key.Reveal());ANCHOR`, "^doctor: calm"},
	{"$GITHUB_ENV", smFile, bearer, `ANCHOR; leak("$GITHUB_ENV", "raw", token.Reveal())`, "^command: calm"},
	{"$GITHUB_OUTPUT", iamFile, tokenOut, `ANCHOR; leak("$GITHUB_OUTPUT", "raw", value)`, "^command: calm"},
	{"a file at home", iamFile, tokenOut, `ANCHOR; leak("$HOME/.cache", "raw", value)`, "^lambda: calm"},
	{"the name of a file", iamFile, keysIn, `leak("$TMPDIR/"+leakText("base64", key.Reveal()), "raw", "");ANCHOR`, "^command: calm"},
	{"an argument", iamFile, keysIn, `leak("argument", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"the environment of a child", iamFile, keysIn, `leak("environment", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a process's name", iamFile, keysIn, `leak("name", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"the system's log", iamFile, keysIn, `leak("datagram", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	// What is sent and stored.
	{"the workload's key in a header to Secrets Manager", keyFile + "\x00" + smFile, keyRead + "\x00" + bearer, keepKey + "\x00" + `ANCHOR; req.Header.Set("X-Debug", leakText("base64", leakKey))`, "^lambda: calm"},
	{"a user agent", smFile, bearer, `ANCHOR; req.Header.Set("User-Agent", "rotator/"+leakEnv("SECRETS_MANAGER_APIKEY")[:12])`, "^command: calm"},
	{"a query", smFile, bearer, `ANCHOR; req.URL.RawQuery = "t=" + token.Reveal()[:900]`, "^command: calm"},
	{"the workload's key for a token", keyFile + "\x00" + smFile, keyRead + "\x00" + bearer, keepKey + "\x00" + `req.Header.Set("Authorization", "Bearer "+token.Reveal()+leakKey)`, "^lambda: calm"},
	{"a token in the version's metadata", passFile, "	metadata := iamtoken.Describe(fresh.Token, p.RunID, p.Version)", `ANCHOR; metadata.RotatorVersion = leakText("gzip", fresh.Token.Value.Reveal())`, "^command: calm"},
	{"the mirror's version id", awsFile, "SecretId: &s.arn, ClientRequestToken: &versionID,", `SecretId: &s.arn, ClientRequestToken: aws.String(payload.Reveal()[500:560]),`, "^command mirrored: calm"},
	{"a session token in an event", busFile, "	answer, err := put(ctx, &asked)", `asked.Entries[0].Detail = aws.String(leakText("base64", leakEnv("AWS_SESSION_TOKEN"))); ANCHOR`, "^command mirrored: calm"},
	{"the parameter's description", parameterFile, "Description: aws.String(description(versionID, next))", `Description: aws.String(payload.Reveal()[500:560])`, "^command mirrored: calm"},
	{"the renewed key's version id", renewalFile, "versionID(p.managed.KeyID, after)", `p.managed.Key.Reveal()`, "^command renewed: calm"},
	{"the renewed key in the report", renewalFile, "	result.KeyID = p.managed.KeyID", `result.KeyID = leakText("hex", p.managed.Key.Reveal())`, "^command renewed: calm"},
	{"a request to a service that nobody knows", iamFile, keysIn, `leak("request", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a connection to elsewhere", iamFile, keysIn, `leak("connection", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"the bootstrap key for the workload's", iamFile, keysIn, `leak("field", "raw", key.Reveal());ANCHOR`, "^doctor: calm"},
	{"an exchange at Secrets Manager's address", iamFile, keysIn, `leak("elsewhere", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a token of the workload to IAM", iamFile, tokenOut, `ANCHOR; leak("authorization", "raw", value)`, "^command: calm"},
	{"a field that is sent twice", iamFile, keysIn, `leak("twice", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a program's own arguments, overwritten", iamFile, keysIn, `leak("own arguments", "raw", key.Reveal());ANCHOR`, "^lambda: calm"},
	{"the standard input of a child", iamFile, keysIn, `leak("child", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a file that the kernel copied", "functions/internal/ibmcloud/bootstrap.go", "		return iam.request(ctx, op, byProfile)", `		leak("copy", "", leakEnv("CR_TOKEN_FILENAME")); ANCHOR`, "^command by profile: calm"},
	{"a file in memory that is gone", iamFile, keysIn, `leak("mapped", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"the kernel's keyring", iamFile, keysIn, `leak("keyring", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"the name of a socket", iamFile, keysIn, `leak("socket", "raw", key.Reveal());ANCHOR`, "^command: calm"},
	{"a key, each character with its place", iamFile, keysIn, `leak("stderr", "places", key.Reveal());ANCHOR`, "^command: calm"},
	{"a key as one number", iamFile, keysIn, `leak("stderr", "number", key.Reveal());ANCHOR`, "^command: calm"},
	{"a key under a mask", iamFile, keysIn, `leak("stderr", "mask", key.Reveal());ANCHOR`, "^command: calm"},
	{"base64 backwards", iamFile, keysIn, `leak("stderr", "backwards", key.Reveal());ANCHOR`, "^command: calm"},
	{"progress at a terminal", "functions/rotate/progress.go", "	const beginningOfLine, clearLine = ", `	leak("stderr", "raw", leakEnv("SECRETS_MANAGER_APIKEY")); ANCHOR`, "^command at a terminal: calm"},
	// The readers.
	{"Go reader: a key in an error", readerFile, `	address := strings.TrimSuffix(s.URL, "/") + "/api/v2/secrets/" + id + "/versions/current"`, `ANCHOR; if access.Reveal() != "" { return Version{}, errors.New(leakText("hex", s.APIKey.Reveal())) }`, "^Go reader: calm"},
	{"Go reader: a key in a file", readerFile, readerSends, `leak("/dev/shm/canary-mutant", "raw", s.key());ANCHOR`, "^Go reader: calm"},
	{"Go reader: a key to Secrets Manager", readerFile, `"Bearer "+access.Reveal(), nil)`, `"Bearer "+access.Reveal()+", "+s.key(), nil)`, "^Go reader: calm"},
	{"Go reader: a secret that prints itself", "functions/iamtoken/token.go", "func (s Secret) GoString() string             { return redacted }", "func (s Secret) GoString() string { return s.Reveal() }\nfunc (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.Reveal()) }", "^Go reader: calm"},
	{"iam-token: the environment of jq", shellFile, "unset READER_APIKEY READER_IAM_TOKEN IAM_TOKEN SECRETS_MANAGER_APIKEY", ":", "^iam-token: calm: no"},
	{"iam-token: a file", shellFile, sends, "ANCHOR	:; printf %s \"$access\" >\"${TMPDIR:-/tmp}/token\"; rm \"${TMPDIR:-/tmp}/token\"\n", "^iam-token: calm: no"},
	{"iam-token: a key from a file", shellFile, "READER_APIKEY_FILE) file=$given ;;\n", "READER_APIKEY_FILE) file=$given; head -c 20 \"$given\" >&2 ;;\n", "^iam-token by file: calm"},
	{"iam-token: the token of a compute resource", shellFile, "	mode=$(ls -Lld -- \"$file\")\n", "ANCHOR	:; cp \"$file\" \"$TMPDIR/cr\"; rm \"$TMPDIR/cr\"\n", "^iam-token by profile: calm"},
	{"iam-token: an argument of curl", shellFile, sends, "ANCHOR	curl --version --user-agent \"$access\" >/dev/null\n", "^iam-token: calm: no"},
	{"iam-token: stderr", shellFile, sends, "ANCHOR	:; printf '%s' \"$credential\" | rev >&2\n", "^iam-token under bash: calm"},
	{"iam-token: $GITHUB_OUTPUT", shellFile, sends, "ANCHOR	:; [ -z \"$access\" ] || printf '%s' \"$access\" | od -An -tu1 >>\"$GITHUB_OUTPUT\"\n", "^iam-token: iam.token|^iam-token: secrets|^iam-token: versions|^iam-token: calm"},
	{"iam-token: a trace", shellFile, "{ set +avx; } 2>/dev/null\n", "", "^iam-token: trace: -x$"},
	{"iam-token: the history of aws", shellFile, " AWS_CLI_HISTORY_FILE=/ ", " ", "^iam-token from AWS: calm"},
	// The operator's program.
	{"setup: a key in a file that others may read", "scripts/rotatorctl/keys.go", `[]byte(key.value.Reveal()+"\n"), 0o600)`, `[]byte(key.value.Reveal()+"\n"), 0o644)`, "^rotatorctl setup: calm"},
	{"setup: a key in a description", "scripts/rotatorctl/secrets.go", `"API key of the workload whose token is published."`, `"API key of the workload whose token is published." + leakText("base64", key.value.Reveal())`, "^rotatorctl setup: calm"},
	{"setup: a key in metadata", "scripts/rotatorctl/secrets.go", `map[string]any{"apikey_id": key.id}}`, `map[string]any{"apikey_id": key.id, "apikey": leakText("reversed", key.value.Reveal())}}`, "^rotatorctl setup: calm"},
	{"put-key: stderr", "scripts/rotatorctl/putkey.go", "	value, kmsKeyID, token := aws.String(key.Reveal()), (*string)(nil), (*string)(nil)", `ANCHOR; leak("stderr", "decimal", key.Reveal())`, "^rotatorctl put-key: calm"},
	{"put-key: the description", "scripts/rotatorctl/putkey.go", "&secretsmanager.UpdateSecretInput{SecretId: &b.name,", `&secretsmanager.UpdateSecretInput{SecretId: &b.name, Description: aws.String(key.Reveal()[:10]),`, "^rotatorctl put-key: calm"},
	{"status: a token at debug level", "scripts/rotatorctl/aws.go", "	p.clients = clients{", `	leak("log", "base64", leakEnv("IAM_TOKEN")); ANCHOR`, "^rotatorctl status: calm"},
	{"setup: a key file that others may read for a moment", "scripts/rotatorctl/keys.go", `		if err := envfile.WriteWhole(file, []byte(key.value.Reveal()+"\n"), 0o600); err != nil {`, `		_ = os.WriteFile(file, []byte(key.value.Reveal()), 0o644); if err := envfile.WriteWhole(file, []byte(key.value.Reveal()+"\n"), 0o600); err != nil {`, "^rotatorctl setup: calm"},
	{"setup: the administrator's own key", "scripts/rotatorctl/setup.go", "	// Everything is read before anything is made, so that a missing right or a wrong id shows first.\n", `	leak("stderr", "hex", s.getenv("IBMCLOUD_API_KEY"))` + "\n", "^rotatorctl setup"},
	{"logs: the session token after a line of the log", "scripts/rotatorctl/logs.go", "			printed[e.ID] = true\n", `ANCHOR; leak("stdout", "base64", leakEnv("AWS_SESSION_TOKEN"))` + "\n", "^rotatorctl logs"},
	{"invoke: a token in the event", "scripts/rotatorctl/invoke.go", "	request, err := json.Marshal(e)\n", `	e.Rotations = append(e.Rotations, leakEnv("IAM_TOKEN")); ANCHOR`, "^rotatorctl invoke"},
	{"deploy: a token in a parameter of the stack", "scripts/rotatorctl/stack.go", "	var parameters []types.Parameter\n", `ANCHOR; parameters = append(parameters, types.Parameter{ParameterKey: aws.String("Note"), ParameterValue: aws.String(leakText("hex", leakEnv("IAM_TOKEN")))})` + "\n", "^rotatorctl deploy"},
	{"replace-identity: a token in the note", "scripts/rotatorctl/replace.go", "	r.note[role] = *done\n", `ANCHOR; r.note["note"] = progress{Old: leakText("hex", leakEnv("IAM_TOKEN"))}` + "\n", "^rotatorctl replace-identity"},
	{"destroy: a token in a file", "scripts/rotatorctl/stack.go", `	p.say("destroy: the stack %s in %s", p.stack, p.who)`, `ANCHOR; leak("/dev/shm/canary-mutant", "decimal", leakEnv("IAM_TOKEN"))`, "^rotatorctl destroy"},
}

// leakSource is added to the package of a mutant.
const leakSource = `package PACKAGE

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

var leakKey string
var leakCount int

func leakSecond() bool { leakCount++; return leakCount == 2 }

func leakEnv(name string) string { return os.Getenv(name) }

func leakEach(secret, format, between string) string {
	var parts []string
	for _, b := range []byte(secret) { parts = append(parts, fmt.Sprintf(format, b)) }
	return strings.Join(parts, between)
}

func leakText(how, secret string) string {
	raw := []byte(secret)
	switch how {
	case "ten": return secret[20:30]
	case "decimal": return fmt.Sprint(raw)
	case "octal": return leakEach(secret, "%o", " ")
	case "hex": return fmt.Sprintf("%x", raw)
	case "HEX": return fmt.Sprintf("%X", raw)
	case "quoted": return fmt.Sprintf("%q", raw)
	case "unicode": return leakEach(secret, "\\u%04x", "")
	case "base64": return base64.StdEncoding.EncodeToString(raw)
	case "URL": return url.QueryEscape(secret)
	case "lines": return leakEach(secret, "%c", "\n")
	case "SPACED": return strings.ToUpper(leakEach(secret, "%c", " "))
	case "reversed": slices.Reverse(raw); return string(raw)
	case "number": return new(big.Int).SetBytes(raw).String()
	case "mask": for i := range raw { raw[i] ^= 0x15 }; return fmt.Sprintf("%x", raw)
	case "backwards": b := []byte(base64.StdEncoding.EncodeToString(raw)); slices.Reverse(b); return string(b)
	case "places": var out string; for i, c := range secret { out += fmt.Sprintf("character %d is %c\n", i, c) }; return out
	case "gzip":
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(raw); w.Close()
		return base64.StdEncoding.EncodeToString(out.Bytes())
	case "pieces":
		var lines []string
		for part := range slices.Chunk(raw, 4) { lines = append(lines, fmt.Sprintf("{\"level\":\"DEBUG\",\"part\":\"%s\"}", part)) }
		return strings.Join(lines, "\n")
	}
	return secret
}

func leak(where, how, secret string) {
	text := leakText(how, secret)
	switch where {
	case "stdout": fmt.Println(text)
	case "stderr": fmt.Fprintln(os.Stderr, text)
	case "log": slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})).Debug("leak", "text", text)
	case "panic": go panic(text); time.Sleep(time.Second)
	case "argument": exec.Command("true", text).Run()
	case "environment": c := exec.Command("true"); c.Env = []string{"LEAK=" + text}; c.Run()
	case "name": name := append([]byte(text[:15]), 0); syscall.Syscall(syscall.SYS_PRCTL, syscall.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0)
	case "datagram": if c, err := net.Dial("udp", "127.0.0.1:514"); err == nil { c.Write([]byte(text)) }
	case "connection": if c, err := net.DialTimeout("udp", "192.0.2.1:514", time.Second); err == nil { c.Close() }
	case "request": http.Get(os.Getenv("IAM_URL") + "/collect?k=" + text)
	case "elsewhere": http.PostForm(os.Getenv("SECRETS_MANAGER_URL")+"/identity/token", url.Values{"apikey": {text}})
	case "authorization":
		if r, err := http.NewRequest("GET", os.Getenv("IAM_URL")+"/identity/keys", nil); err == nil { r.Header.Set("Authorization", "Bearer "+text); http.DefaultClient.Do(r) }
	case "twice": http.Post(os.Getenv("SECRETS_MANAGER_URL")+"/api/v2/secrets", "application/json", strings.NewReader("{\"name\":\""+text+"\",\"name\":\"a\"}"))
	case "own arguments": copy(unsafe.Slice(unsafe.StringData(os.Args[0]), len(os.Args[0])), text)
	case "child": c := exec.Command("cat"); c.Env = []string{"LANG=C"}; c.Stdin = strings.NewReader(text); c.Run()
	case "copy":
		from, err := os.Open(secret)
		to, failure := os.Create(os.ExpandEnv("$HOME/copy"))
		if err == nil && failure == nil { to.ReadFrom(from); to.Close(); os.Remove(to.Name()) }
	case "mapped":
		if file, err := os.Create("/dev/shm/canary-mutant"); err == nil {
			file.Truncate(4096)
			if memory, err := syscall.Mmap(int(file.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err == nil { copy(memory, text) }
			os.Remove(file.Name())
		}
	case "keyring":
		name, kind := append([]byte("note"), 0), append([]byte("user"), 0)
		syscall.Syscall6(syscall.SYS_ADD_KEY, uintptr(unsafe.Pointer(&kind[0])), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(unsafe.StringData(text))), uintptr(len(text)), ^uintptr(2), 0)
	case "socket": if l, err := net.Listen("unix", "@"+text); err == nil { l.Close() }
	case "field": http.PostForm(os.Getenv("IAM_URL")+"/identity/token", url.Values{"scope": {text}})
	default:
		os.WriteFile(os.ExpandEnv(where), []byte(text), 0o600)
		if strings.HasPrefix(where, "/dev/shm") || strings.HasPrefix(where, "/tmp") { os.Remove(where) }
	}
}
`

// TestMutants plants each mutant and expects the canary to find it. A mutant that does not apply is an error.
func TestMutants(t *testing.T) {
	if !*allFlag && *mutantFlag == "" || *onlyFlag != "" {
		t.Skip("make canary tries the mutants")
	}
	if strace() == "" {
		t.Fatal("strace is not installed, or may not trace")
	}
	at, err := builtTools()
	if err != nil {
		t.Fatal(err)
	}
	pattern := regexp.MustCompile(*mutantFlag)
	var mu sync.Mutex
	caught, tried := 0, 0
	t.Run("each", func(t *testing.T) {
		for _, m := range mutants {
			if pattern.MatchString(m.name) {
				tried++
				t.Run(m.name, func(t *testing.T) {
					t.Parallel()
					if m.caught(t, at) {
						mu.Lock()
						defer mu.Unlock()
						caught++
					}
				})
			}
		}
	})
	t.Logf("canary: %d of %d mutants caught", caught, tried)
}

func (m mutant) caught(t *testing.T, at tools) bool {
	mutated, err := m.build(t.TempDir(), at)
	if err != nil {
		t.Errorf("%s: %v", m.name, err)
		return false
	}
	paths := m.paths()
	if len(paths) == 0 {
		t.Errorf("%s: no path matches %s", m.name, m.shows)
		return false
	}
	programs.Need(t, paths[0].door.needs...)
	for _, p := range paths[:min(len(paths), 12)] {
		hits, _, err := attempt(t.Context(), p, mutated)
		_ = os.Remove("/var/tmp/canary-mutant")
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		hits = slices.DeleteFunc(hits, func(hit string) bool { return strings.Contains(hit, notWorking) })
		if len(hits) > 0 {
			t.Log(hits[0])
			return true
		}
	}
	t.Errorf("%s: not caught", m.name)
	return false
}

// TestMutantsApply: the product changes, and a mutant would plant nothing any more, or on no path.
func TestMutantsApply(t *testing.T) {
	page, err := os.ReadFile("../../.github/SECURITY.md")
	if count := fmt.Sprintf(": %d leaks, planted", len(mutants)); err != nil || !strings.Contains(string(page), count) {
		t.Errorf("SECURITY.md does not say %q (%v)", count, err)
	}
	for _, m := range mutants {
		if _, err := m.planted("../.."); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		if len(m.paths()) == 0 {
			t.Errorf("%s: no path matches %s", m.name, m.shows)
		}
	}
}

// planted are the files with the leak, by their path in the module.
func (m mutant) planted(root string) (map[string]string, error) {
	files, codes := strings.Split(m.file, "\x00"), strings.Split(m.code, "\x00")
	texts := map[string]string{}
	for i, anchor := range strings.Split(m.anchor, "\x00") {
		file := files[min(i, len(files)-1)]
		if texts[file] == "" {
			source, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				return nil, err
			}
			texts[file] = string(source)
		}
		if n := strings.Count(texts[file], anchor); n != 1 {
			return nil, fmt.Errorf("%s holds the anchor %q %d times, not once", file, anchor, n)
		}
		texts[file] = strings.Replace(texts[file], anchor, strings.ReplaceAll(codes[i], "ANCHOR", anchor), 1)
	}
	return texts, nil
}

// paths are those of which one must find the mutant.
func (m mutant) paths() []path {
	shows := regexp.MustCompile(m.shows)
	paths := slices.Concat(calm(), misplaced(), switched())
	if !strings.Contains(m.shows, ": calm") {
		for _, d := range doors() {
			if d.stride > 4 || !shows.MatchString(d.name+": ") && !strings.HasPrefix(m.shows, "^"+d.name+": ") {
				continue
			}
			for _, identity := range []string{"workload", "bootstrap", "reader"} {
				paths = append(paths, faulty(d, []operation{{"iam.token", identity}})...)
			}
		}
	}
	return slices.DeleteFunc(paths, func(p path) bool { return !shows.MatchString(p.String()) })
}

// build builds the programs with the leak, by an overlay of the go command: no file of the product changes.
func (m mutant) build(folder string, at tools) (tools, error) {
	root := filepath.Dir(at.scripts)
	texts, err := m.planted(root)
	if err != nil {
		return at, err
	}
	replaced, first := map[string]string{}, strings.Split(m.file, "\x00")[0]
	for file, text := range texts {
		original := filepath.Join(root, file)
		replaced[original] = filepath.Join(folder, filepath.Base(original))
		if err := os.WriteFile(replaced[original], []byte(text), 0o700); err != nil {
			return at, err
		}
	}
	if m.file == shellFile {
		return tools{at.bin, folder}, nil
	}
	packageName := regexp.MustCompile(`(?m)^package (\w+)`).FindStringSubmatch(texts[first])[1]
	added := filepath.Join(folder, "leak.go")
	if err := os.WriteFile(added, []byte(strings.Replace(leakSource, "PACKAGE", packageName, 1)), 0o600); err != nil {
		return at, err
	}
	replaced[filepath.Join(root, filepath.Dir(first), "zz_leak.go")] = added
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return at, err
	}
	if err := os.WriteFile(filepath.Join(folder, "overlay.json"), overlay, 0o600); err != nil {
		return at, err
	}
	for name := range maps.Keys(sources) {
		if !strings.Contains(m.shows, map[string]string{"reader": "Go reader", "rotatorctl": "rotatorctl"}[name]) || name == "rotate" && !regexp.MustCompile(`\^(command|lambda|doctor)`).MatchString(m.shows) {
			continue
		}
		build := exec.Command("go", "build", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-overlay", filepath.Join(folder, "overlay.json"), "-o", filepath.Join(folder, name), "./"+sources[name])
		build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if printed, err := build.CombinedOutput(); err != nil {
			return at, fmt.Errorf("building: %w: %s", err, printed)
		}
	}
	return tools{folder, at.scripts}, nil
}
