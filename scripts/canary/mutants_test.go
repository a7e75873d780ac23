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
	"sync/atomic"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// mutant is a leak that is planted in the product. code replaces anchor, which the sources of the folder must hold exactly once;
// ANCHOR in code stands for anchor. A NUL separates several anchors and codes. Paths whose name matches shows must find the leak.
type mutant struct{ name, folder, anchor, code, shows string }

const (
	ibm      = "functions/internal/ibmcloud"
	aws      = "functions/internal/awscloud"
	renewal  = "functions/internal/keyrenewal"
	rotation = "functions/internal/rotation"
	host     = "functions/rotate"
	reader   = "functions/iamtoken"
	operator = "scripts/rotatorctl"
	shell    = "scripts/iam-token"
	bearer   = `	req.Header.Set("Authorization", "Bearer "+token.Reveal())`
	keyRead  = "	key, err := trimKey(value)"
	keepKey  = keyRead + "; leakKey = key.Reveal()"
	invoked  = "	requestID := \"unknown-request\""
	sends    = "	config=\"header = \\\"Authorization: Bearer $access\\\"\"\n"
)

// revealing is planted where secrets are revealed: every key and token passes there. The environment variable LEAK says what it leaks.
var revealing = mutant{folder: reader, anchor: "func (s Secret) Reveal() string {", code: "func (s Secret) Reveal() string { return leakRevealed(s.revealed()) }\n\nfunc (s Secret) revealed() string {"}

// revealed has values of LEAK, by the paths that must find the leak: which secret, where to, see leak, and in which form, see leakText.
var revealed = map[string][]string{
	"^command: calm": {
		"key stdout raw", "token stderr raw", "token stderr decimal", "key stderr URL", "key stderr unicode", "token stdout gzip",
		"key stderr SPACED", "key /dev/shm/canary-mutant raw", "token $GITHUB_ENV raw", "token $GITHUB_OUTPUT raw",
		"key file-name base64", "key argument raw", "key environment raw", "key name raw", "key datagram raw", "key request raw",
		"key connection raw", "key elsewhere raw", "token authorization raw", "key twice raw", "key child raw", "key mapped raw",
		"key keyring raw", "key socket raw", "key stderr places", "key stderr number", "key stderr mask", "key stderr backwards",
		"key stderr base32", "key stdout ascii85", "key stderr rot13", "key stderr binary", "key stderr plus", "token authorization deflate", "token stderr zlib",
	},
	"^lambda: calm": {
		"key stdout octal", "key log ten", "key stderr reversed", "key stderr lines", "key stderr pieces", "key panic raw",
		"token $HOME/.cache raw", "key own-arguments raw",
	},
	"^doctor: calm":                  {"key log base64", "key /var/tmp/canary-mutant decimal", "key field raw"},
	"^command on AWS: calm":          {"token stderr HEX"},
	"^command by profile: calm":      {"token stderr part"},
	"^Go reader: calm":               {"key /dev/shm/canary-mutant raw"},
	"^rotatorctl put-key: calm":      {"key stderr decimal"},
	"^rotatorctl setup by key: calm": {"key stderr hex"},
}

// planted are leaks at places of their own.
var planted = []mutant{
	{"the error of a fault", ibm, "		failure.TransactionID = transaction", `ANCHOR; failure.Message += leakText("raw", sent.Reveal())`, "^command: iam.token of workload: 50[0-9]"},
	{"an answer's body in an error", ibm, "		failure.TransactionID = transaction", `ANCHOR; failure.Message += leakText("decimal", string(got.body))`, "^lambda: iam.token of workload: [45]0. with the body"},
	{"a report's warning", rotation, "	p.warnAbout(response)", `ANCHOR; p.warn("it is %s", leakText("hex", key.Reveal()))`, "^command: calm: -mode check"},
	{"a fingerprint that is the token", rotation, "	metadata := iamtoken.Describe(response.Token, p.RunID, p.Version)", `ANCHOR; metadata.Fingerprint = response.Token.Value.Reveal()[400:416]`, "^lambda: calm"},
	{"a metric", "functions/internal/metrics", `	document, dimensions := map[string]any{"FunctionName": e.FunctionName}, [][]string{{"FunctionName"}}`, `ANCHOR; document["Detail"] = leakText("base64", leakEnv("SECRETS_MANAGER_APIKEY"))`, "^lambda: calm"},
	{"the event in an error", host, "	e, err := decodeEvent(payload)", `ANCHOR; leak("log", "raw", string(payload))`, "^lambda: event"},
	{"the standard logger speaks again", host, "	log.SetOutput(io.Discard)", `log.SetOutput(os.Stderr); _ = io.Discard`, "^command: switch: .*http2debug"},
	{"a core file", host, "	protectMemory()", ``, "^command: signal: aborted"},
	// In a warm process.
	{"the second invocation on stdout", host, invoked, `ANCHOR; if leakSecond() { leak("stdout", "raw", leakEnv("SECRETS_MANAGER_APIKEY")) }`, "^lambda: calm"},
	{"the second invocation in a file", host, invoked, `ANCHOR; if leakSecond() { leak("/tmp/canary-mutant", "base64", leakEnv("SECRETS_MANAGER_APIKEY")) }`, "^lambda: calm"},
	{"the response", host, "	return f.run(ctx, e, err, requestID)", `answer, failure := f.run(ctx, e, err, requestID); return append(answer, []byte(" \"" + leakText("base64", leakEnv("SECRETS_MANAGER_APIKEY")) + "\"")...), failure`, "^lambda: calm"},
	// What is sent and stored.
	{"the workload's key in a header to Secrets Manager", ibm, keyRead + "\x00" + bearer, keepKey + "\x00" + `ANCHOR; req.Header.Set("X-Debug", leakText("base64", leakKey))`, "^lambda: calm"},
	{"a user agent", ibm, bearer, `ANCHOR; req.Header.Set("User-Agent", "rotator/"+leakEnv("SECRETS_MANAGER_APIKEY")[:12])`, "^command: calm"},
	{"a query", ibm, bearer, `ANCHOR; req.URL.RawQuery = "t=" + token.Reveal()[:900]`, "^command: calm"},
	{"the workload's key for a token", ibm, keyRead + "\x00" + bearer, keepKey + "\x00" + `req.Header.Set("Authorization", "Bearer "+token.Reveal()+leakKey)`, "^lambda: calm"},
	{"a token in the version's metadata", rotation, "	metadata := iamtoken.Describe(response.Token, p.RunID, p.Version)", `ANCHOR; metadata.RotatorVersion = leakText("gzip", response.Token.Value.Reveal())`, "^command: calm"},
	{"the mirror's version id", aws, "SecretId: &s.arn, ClientRequestToken: &versionID,", `SecretId: &s.arn, ClientRequestToken: aws.String(payload.Reveal()[500:560]),`, "^command mirrored: calm"},
	{"a session token in an event", aws, "	answer, err := put(ctx, &input)", `input.Entries[0].Detail = aws.String(leakText("base64", leakEnv("AWS_SESSION_TOKEN"))); ANCHOR`, "^command mirrored: calm"},
	{"the parameter's description", aws, "Description: aws.String(description(versionID, next))", `Description: aws.String(payload.Reveal()[500:560])`, "^command mirrored: calm"},
	{"the renewed key's version id", renewal, "versionID(p.managed.KeyID, current)", `p.managed.Key.Reveal()`, "^command renewed: calm"},
	{"the renewed key in the report", renewal, "	result.KeyID = p.managed.KeyID", `result.KeyID = leakText("hex", p.managed.Key.Reveal())`, "^command renewed: calm"},
	{"a file that the kernel copied", ibm, "		return iam.request(ctx, op, byProfile)", `		leak("copy", "", leakEnv("CR_TOKEN_FILENAME")); ANCHOR`, "^command by profile: calm"},
	{"progress at a terminal", host, "	const beginningOfLine, clearLine = ", `	leak("stderr", "raw", leakEnv("SECRETS_MANAGER_APIKEY")); ANCHOR`, "^command at a terminal: calm"},
	// The readers.
	{"Go reader: a key in an error", reader, `	address := strings.TrimSuffix(s.URL, "/") + "/api/v2/secrets/" + id + "/versions/current"`, `ANCHOR; if access.Reveal() != "" { return Version{}, errors.New(leakText("hex", s.APIKey.Reveal())) }`, "^Go reader: calm"},
	{"Go reader: a key to Secrets Manager", reader, `"Bearer "+access.Reveal(), nil)`, `"Bearer "+access.Reveal()+", "+s.key(), nil)`, "^Go reader: calm"},
	{"Go reader: a secret that prints itself", reader, "func (s Secret) GoString() string             { return redacted }", "func (s Secret) GoString() string { return s.Reveal() }\nfunc (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.Reveal()) }", "^Go reader: calm"},
	{"iam-token: the environment of jq", shell, "unset READER_APIKEY READER_IAM_TOKEN IAM_TOKEN SECRETS_MANAGER_APIKEY", ":", "^iam-token: calm: no"},
	{"iam-token: a file", shell, sends, "ANCHOR	:; printf %s \"$access\" >\"${TMPDIR:-/tmp}/token\"; rm \"${TMPDIR:-/tmp}/token\"\n", "^iam-token: calm: no"},
	{"iam-token: a key from a file", shell, "READER_APIKEY_FILE) file=$given ;;\n", "READER_APIKEY_FILE) file=$given; head -c 20 \"$given\" >&2 ;;\n", "^iam-token by file: calm"},
	{"iam-token: the token of a compute resource", shell, "	mode=$(ls -Lld -- \"$file\")\n", "ANCHOR	:; cp \"$file\" \"$TMPDIR/cr\"; rm \"$TMPDIR/cr\"\n", "^iam-token by profile: calm"},
	{"iam-token: an argument of curl", shell, sends, "ANCHOR	curl --version --user-agent \"$access\" >/dev/null\n", "^iam-token: calm: no"},
	{"iam-token: stderr", shell, sends, "ANCHOR	:; printf '%s' \"$credential\" | rev >&2\n", "^iam-token under bash: calm"},
	{"iam-token: $GITHUB_OUTPUT", shell, sends, "ANCHOR	:; [ -z \"$access\" ] || printf '%s' \"$access\" | od -An -tu1 >>\"$GITHUB_OUTPUT\"\n", "^iam-token: iam.token|^iam-token: secrets|^iam-token: versions|^iam-token: calm"},
	{"iam-token: a trace", shell, "{ set +avx; } 2>/dev/null\n", "", "^iam-token: trace: -x$"},
	{"iam-token: the history of aws", shell, " AWS_CLI_HISTORY_FILE=/ ", " ", "^iam-token from AWS: calm"},
	// The operator's program.
	{"setup: a key in a file that others may read", operator, `[]byte(key.value.Reveal()+"\n"), 0o600)`, `[]byte(key.value.Reveal()+"\n"), 0o644)`, "^rotatorctl setup: calm"},
	{"setup: a key in a description", operator, `"API key of the workload whose token is published."`, `"API key of the workload whose token is published." + leakText("base64", key.value.Reveal())`, "^rotatorctl setup: calm"},
	{"setup: a key in metadata", operator, `map[string]any{"apikey_id": key.id}}`, `map[string]any{"apikey_id": key.id, "apikey": leakText("reversed", key.value.Reveal())}}`, "^rotatorctl setup: calm"},
	{"put-key: the description", operator, "&secretsmanager.UpdateSecretInput{SecretId: &b.name,", `&secretsmanager.UpdateSecretInput{SecretId: &b.name, Description: aws.String(key.Reveal()[:10]),`, "^rotatorctl put-key: calm"},
	{"status: a token at debug level", operator, "	p.clients = clients{", `	leak("log", "base64", leakEnv("IAM_TOKEN")); ANCHOR`, "^rotatorctl status: calm"},
	{"setup: a key file that others may read for a moment", operator, `		if err := envfile.WriteWhole(file, []byte(key.value.Reveal()+"\n"), 0o600); err != nil {`, `		_ = os.WriteFile(file, []byte(key.value.Reveal()), 0o644); if err := envfile.WriteWhole(file, []byte(key.value.Reveal()+"\n"), 0o600); err != nil {`, "^rotatorctl setup: calm"},
	{"logs: the session token after a line of the log", operator, "		printed[e.ID] = true\n", `ANCHOR; leak("stdout", "base64", leakEnv("AWS_SESSION_TOKEN"))` + "\n", "^rotatorctl logs"},
	{"invoke: a token in the event", operator, "	request, err := json.Marshal(e)\n", `	e.Rotations = append(e.Rotations, leakEnv("IAM_TOKEN")); ANCHOR`, "^rotatorctl invoke"},
	{"deploy: a token in a parameter of the stack", operator, "	var parameters []types.Parameter\n", `ANCHOR; parameters = append(parameters, types.Parameter{ParameterKey: aws.String("Note"), ParameterValue: aws.String(leakText("hex", leakEnv("IAM_TOKEN")))})` + "\n", "^rotatorctl deploy"},
	{"replace-identity: a token in the note", operator, "	r.note[role] = *done\n", `ANCHOR; r.note["note"] = progress{Old: leakText("hex", leakEnv("IAM_TOKEN"))}` + "\n", "^rotatorctl replace-identity"},
	{"destroy: a token in a file", operator, `	p.say("destroy: the stack %s in %s", p.stack, p.who)`, `ANCHOR; leak("/dev/shm/canary-mutant", "decimal", leakEnv("IAM_TOKEN"))`, "^rotatorctl destroy"},
}

// leakSource is added to the package of a mutant.
const leakSource = `

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/ascii85"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"io"
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

// leakRevealed makes the leak of $LEAK.
func leakRevealed(secret string) string {
	words := strings.Fields(os.Getenv("LEAK"))
	if len(words) == 3 && len(secret) > 40 && (words[0] == "token") == strings.HasPrefix(secret, "eyJ") { leak(words[1], words[2], secret) }
	return secret
}

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
	case "part": return fmt.Sprintf("%q", secret[300:312])
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
	case "base32": return base32.StdEncoding.EncodeToString(raw)
	case "ascii85": out := make([]byte, ascii85.MaxEncodedLen(len(raw))); return string(out[:ascii85.Encode(out, raw)])
	case "binary": return leakEach(secret, "%08b", " ")
	case "plus": for i := range raw { raw[i] += 5 }; return base64.StdEncoding.EncodeToString(raw)
	case "rot13":
		return strings.Map(func(r rune) rune { if c := r | 0x20; c < 'a' || c > 'z' { return r } else { return r&^0x1f + (r&0x1f+12)%26 + 1 } }, secret)
	case "gzip", "zlib", "deflate":
		var out bytes.Buffer
		deflate, _ := flate.NewWriter(&out, 9)
		w := map[string]io.WriteCloser{"gzip": gzip.NewWriter(&out), "zlib": zlib.NewWriter(&out), "deflate": deflate}[how]
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
	case "file-name": os.WriteFile(os.ExpandEnv("$TMPDIR/"+text), nil, 0o600)
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
	case "own-arguments": copy(unsafe.Slice(unsafe.StringData(os.Args[0]), len(os.Args[0])), text)
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

// mutants are the planted leaks, and those of revealing, whose name is the value of LEAK.
func mutants() []mutant {
	all := slices.Clone(planted)
	for shows, leaks := range revealed {
		for _, leak := range leaks {
			all = append(all, mutant{leak, revealing.folder, revealing.anchor, revealing.code, shows})
		}
	}
	return all
}

// TestMutants runs each mutant and expects that its leak is found.
func TestMutants(t *testing.T) {
	if !*allFlag && *mutantFlag == "" || *onlyFlag != "" {
		t.Skip("make canary tries the mutants")
	}
	at, err := revealing.build(t.TempDir(), builtTools(t))
	if err != nil {
		t.Fatal(err)
	}
	chosen := slices.DeleteFunc(mutants(), func(m mutant) bool { return !regexp.MustCompile(*mutantFlag).MatchString(m.name) })
	var caught atomic.Int32
	t.Run("each", func(t *testing.T) {
		for _, m := range chosen {
			t.Run(m.name, func(t *testing.T) {
				t.Parallel()
				mutated, err := tools{at.bin, at.scripts, m.name}, error(nil) // the leak of a revealing mutant is its name
				if m.anchor != revealing.anchor {
					mutated, err = m.build(t.TempDir(), at)
				}
				if err != nil {
					t.Error(err)
				} else if isCaught(t, mutated, m.shows) {
					caught.Add(1)
				}
			})
		}
	})
	t.Logf("canary: %d of %d mutants caught", caught.Load(), len(chosen))
}

func isCaught(t *testing.T, mutated tools, shows string) bool {
	paths := showing(shows)
	programs.Need(t, paths[0].program.needs...)
	for _, p := range paths[:min(len(paths), 12)] {
		hits, _, err := attempt(t.Context(), p, mutated)
		_ = os.Remove("/var/tmp/canary-mutant")
		if err != nil {
			t.Error(err)
		}
		hits = slices.DeleteFunc(hits, func(hit string) bool { return strings.Contains(hit, notWorking) })
		if len(hits) > 0 {
			t.Log(hits[0])
			return true
		}
	}
	t.Error("not caught")
	return false
}

// TestMutantsApply: after a change of the product, each mutant must still have its anchor and a path.
func TestMutantsApply(t *testing.T) {
	all := mutants()
	for _, m := range all {
		if _, err := m.sources("../.."); err != nil || len(showing(m.shows)) == 0 {
			t.Errorf("%s: %v, or no path matches %s", m.name, err, m.shows)
		}
	}
	page, err := os.ReadFile("../../.github/SECURITY.md")
	if says := fmt.Sprintf(": %d leaks, planted", len(all)); err != nil || !strings.Contains(string(page), says) {
		t.Errorf("SECURITY.md does not say %q (%v)", says, err)
	}
}

// sources are the source files with the leak, by their path.
func (m mutant) sources(root string) (map[string]string, error) {
	files, _ := filepath.Glob(filepath.Join(root, m.folder, "*.go"))
	files = slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
	if m.folder == shell {
		files = []string{filepath.Join(root, shell)}
	}
	changed, codes := map[string]string{}, strings.Split(m.code, "\x00")
	for i, anchor := range strings.Split(m.anchor, "\x00") {
		n := 0
		for _, file := range files {
			text, known := changed[file]
			if !known {
				content, err := os.ReadFile(file)
				if err != nil {
					return nil, err
				}
				text = string(content)
			}
			if found := strings.Count(text, anchor); found > 0 {
				n += found
				changed[file] = strings.Replace(text, anchor, strings.ReplaceAll(codes[i], "ANCHOR", anchor), 1)
			}
		}
		if n != 1 {
			return nil, fmt.Errorf("%s holds the anchor %q %d times, not once", m.folder, anchor, n)
		}
	}
	return changed, nil
}

// showing are the paths whose name matches: one of them must find the mutant.
func showing(shows string) []path {
	pattern := regexp.MustCompile(shows)
	paths := slices.Concat(calm(), misplaced(), switched())
	if !strings.Contains(shows, ": calm") {
		for _, prog := range allPrograms {
			for _, identity := range []string{"workload", "bootstrap", "reader"} {
				if prog.stride <= 4 {
					paths = append(paths, faulty(prog, []operation{{"iam.token", identity}})...)
				}
			}
		}
	}
	return slices.DeleteFunc(paths, func(p path) bool { return !pattern.MatchString(p.String()) })
}

// build builds the programs with the leak. It uses an overlay of the go command: no file of the product changes.
func (m mutant) build(folder string, at tools) (tools, error) {
	root := filepath.Dir(at.scripts)
	changed, err := m.sources(root)
	if err != nil {
		return at, err
	}
	if m.folder == shell {
		return tools{at.bin, folder, ""}, os.WriteFile(filepath.Join(folder, "iam-token"), []byte(changed[filepath.Join(root, shell)]), 0o700)
	}
	for _, text := range maps.Clone(changed) {
		changed[filepath.Join(root, m.folder, "zz_leak.go")] = regexp.MustCompile(`(?m)^package \w+`).FindString(text) + leakSource
	}
	replaced := map[string]string{}
	for file, text := range changed {
		replaced[file] = filepath.Join(folder, filepath.Base(file))
		if err := os.WriteFile(replaced[file], []byte(text), 0o600); err != nil {
			return at, err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "overlay.json"), overlay, 0o600)
	}
	arguments := []string{"build", "-buildvcs=false", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-overlay", filepath.Join(folder, "overlay.json"), "-o"}
	for name, source := range sources {
		isOperators, isReaders := strings.Contains(m.shows, "rotatorctl"), strings.Contains(m.shows, "Go reader")
		if m.shows != "" && (name == "rotatorctl") != isOperators || m.shows != "" && (name == "reader") != isReaders || err != nil {
			continue
		}
		build := exec.Command("go", append(arguments, filepath.Join(folder, name), "./"+source)...)
		build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if printed, failure := build.CombinedOutput(); failure != nil {
			err = fmt.Errorf("building: %w: %s", failure, printed)
		}
	}
	return tools{folder, at.scripts, ""}, err
}
