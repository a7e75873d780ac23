// Command canary looks for leaks. It seeds keys and tokens, runs the built function and the shell scripts through every
// fault, error, log level, debug switch and kill that it knows, and searches everything that came out for the seeds.
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

func main() {
	bin := flag.String("bin", "build/local", "folder of the built bootstrap and invoke")
	scripts := flag.String("scripts", "scripts", "folder of the shell scripts")
	every := flag.Int("every", 1, "try one path in so many")
	only := flag.String("only", "", "try paths whose name matches this regular expression alone")
	workers := flag.Int("workers", 4, "paths at a time")
	flag.Parse()
	pattern, err := regexp.Compile(*only)
	if err != nil {
		os.Exit(unable(os.Stderr, err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(hunt(ctx, hunter{bin: *bin, scripts: *scripts, only: pattern, every: *every, workers: *workers}, os.Stdout))
}

// hunt tries the paths and returns the exit status: 0 if nothing was found, 1 if something was, 2 if it could not hunt.
func hunt(ctx context.Context, h hunter, out io.Writer) int {
	noting, err := os.MkdirTemp("", "canary-noting-")
	if err != nil {
		return unable(out, err)
	}
	defer func() { _ = os.RemoveAll(noting) }()
	if err := writeNoting(noting); err != nil {
		return unable(out, err)
	}
	result, err := h.tryAll(ctx, noting)
	if err != nil {
		return unable(out, err)
	}
	for _, hit := range result.hits {
		_, _ = fmt.Fprintln(out, hit)
	}
	_, _ = fmt.Fprintf(out, "canary: %d paths tried, %d hits\n", result.tried, len(result.hits))
	if len(result.hits) > 0 {
		return 1
	}
	return 0
}

func unable(out io.Writer, err error) int {
	_, _ = fmt.Fprintln(out, "canary:", err)
	return 2
}

// stage is what one path is tried on: a cloud of its own, whose secrets are the canaries, behind a door that can repeat
// to a client what the client sent, and a folder that is HOME, TMPDIR and working directory at once.
type stage struct {
	cloud  *ibmcloudtest.Cloud
	door   *door
	server *httptest.Server
	folder string
	aws    awsCredentials
	proxy  string // password of the user in a proxy's URL
	cr     string // compute resource token
	old    string // the token that is published when the path begins
	reader string // a token of the reader
	admin  string // a token of the administrator
}

type awsCredentials struct{ secretKey, sessionToken string }

// newStage makes a cloud with a token that expires in four minutes already published. It speaks HTTP/2 unless http1.
func newStage(http1 bool) (*stage, error) {
	s := &stage{
		cloud: ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1, RequestLog: 1000}),
		aws:   awsCredentials{"canary-aws-" + rand.Text() + "AbC", "canary-session-" + rand.Text() + rand.Text()},
		proxy: "canary-proxy-" + rand.Text(),
		cr:    "canary-cr-" + rand.Text(),
	}
	only := s.cloud.Rotations()[0]
	expires := time.Now().Add(4 * time.Minute)
	s.reader = s.cloud.MustMintToken(s.cloud.ReaderAPIKey(), time.Hour)
	s.admin = s.cloud.MustMintToken(s.cloud.AdminAPIKey(), time.Hour)
	s.old = s.cloud.MustMintToken(only.APIKey, time.Until(expires))
	s.cloud.MustPutVersion(only.TokenSecret, s.old, map[string]any{"expiration": expires.Unix(), "fingerprint": "0123456789abcdef"})

	var err error
	if s.folder, err = os.MkdirTemp("", "canary-"); err != nil {
		return nil, err
	}
	for _, name := range []string{"home", "out", "log"} {
		if err = os.Mkdir(filepath.Join(s.folder, name), 0o700); err != nil {
			return nil, err
		}
	}
	s.door = &door{cloud: s.cloud, bootstrapKey: s.cloud.BootstrapAPIKey(), workloadKey: only.APIKey}
	s.server = httptest.NewUnstartedServer(s.door)
	s.server.EnableHTTP2 = !http1
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the connections that faults break
	s.server.StartTLS()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
	return s, os.WriteFile(s.authority(), certificate, 0o600)
}

// authority is the file of the server's certificate.
func (s *stage) authority() string { return filepath.Join(s.folder, "ca.pem") }

// home is where programs may leave files, which are searched.
func (s *stage) home() string { return filepath.Join(s.folder, "home") }

// out is where programs write what they are asked to, keys included.
func (s *stage) out() string { return filepath.Join(s.folder, "out") }

// log is where the programs that scripts call are noted.
func (s *stage) log() string { return filepath.Join(s.folder, "log") }

func (s *stage) close() {
	s.door.release()
	s.server.CloseClientConnections()
	s.server.Close()
	_ = os.RemoveAll(s.folder)
}

// canaries are all secrets of the stage, the tokens issued up to now among them.
func (s *stage) canaries() []canary {
	all := []canary{
		{"the bootstrap key", s.cloud.BootstrapAPIKey()},
		{"the workload's key", s.cloud.Rotations()[0].APIKey},
		{"the reader's key", s.cloud.ReaderAPIKey()},
		{"the administrator's key", s.cloud.AdminAPIKey()},
		{"the old token", s.old},
		{"the reader's token", s.reader},
		{"the administrator's token", s.admin},
		{"the AWS secret access key", s.aws.secretKey},
		{"the AWS session token", s.aws.sessionToken},
		{"the proxy's password", s.proxy},
		{"the compute resource token", s.cr},
		{"a connection's session keys", "CLIENT_HANDSHAKE_TRAFFIC_SECRET"}, // as SSLKEYLOGFILE would have them
	}
	for _, secret := range s.door.issuedSecrets() {
		all = append(all, canary{"an issued token or key", secret})
	}
	return all
}

// search cuts up the canaries but for those that the path may print.
func (s *stage) search(allowed map[string]bool) pieces {
	p := pieces{}
	for _, c := range s.canaries() {
		if !allowed[c.value] {
			p.add(c)
		}
	}
	for secret := range allowed {
		p.without(secret)
	}
	return p
}

// hold makes the door keep back the next request; the channel tells that it is there: the program is in the middle of
// something, at a moment that does not depend on luck.
func (d *door) hold() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting, d.held = make(chan struct{}, 1), make(chan struct{})
	return d.waiting
}

// holdBack keeps a request that bears a secret until it is released or given up.
func (d *door) holdBack(r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_sandbox") {
		return
	}
	d.mu.Lock()
	waiting, held := d.waiting, d.held
	d.mu.Unlock()
	if held == nil {
		return
	}
	select {
	case waiting <- struct{}{}:
	default:
	}
	select {
	case <-held:
	case <-r.Context().Done():
	}
}

// release lets everything through.
func (d *door) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		close(d.held)
		d.waiting, d.held = nil, nil
	}
}

// jwtOf is a token that tells the key as whose it is, in all that a report might repeat.
func jwtOf(key string) string {
	claims := fmt.Sprintf(`{"iam_id":%q,"id":%q,"sub":%q,"account":{"bss":%q},"iat":%d,"exp":%d}`,
		key, key, key, key, time.Now().Unix(), time.Now().Add(time.Hour).Unix())
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("no signature at all"))
}

// called are the programs that the scripts call.
var called = []string{"curl", "jq", "sed", "date", "grep", "cut", "tail", "head", "cat", "mktemp", "rm", "mv", "tr", "dirname", "stty", "awk", "sort", "wc", "base64", "env", "sh", "printf", "test", "touch", "chmod"}

// note is a program that writes down its arguments and then does what the real one does. What another process could
// read of it while it runs is so seen without a race.
const note = `#!/bin/sh
{ echo %[1]s; printf '%%s\n' "$@"; } >>"$CANARY_LOG/arguments"
exec %[2]s "$@"
`

// noteAll notes the environment too, of a program that talks to the network and has no business with our variables.
const noteAll = `#!/bin/sh
{ echo %[1]s; printf '%%s\n' "$@"; } >>"$CANARY_LOG/arguments"
/bin/cat /proc/$$/environ >>"$CANARY_LOG/environment"
exec %[2]s "$@"
`

// aws stands in for the aws program. With CANARY_AWS=repeat it fails, and repeats what it was to store.
const aws = `#!/bin/sh
{ echo aws; printf '%s\n' "$@"; } >>"$CANARY_LOG/arguments"
/bin/cat /proc/$$/environ >>"$CANARY_LOG/environment"
value= operation=$2
for argument; do case $argument in file://*) value=$(/bin/cat "${argument#file://}") ;; esac done
case $operation in
describe-secret)
	[ "${CANARY_AWS:-}" != found ] || { echo 'arn:aws:secretsmanager:us-east-1:123456789012:secret:bootstrap-AbCdEf	None'; exit 0; }
	[ "${CANARY_AWS:-}" != denied ] || { echo 'An error occurred (AccessDeniedException)' >&2; exit 254; }
	echo 'An error occurred (ResourceNotFoundException) when calling the DescribeSecret operation' >&2
	exit 254
	;;
get-secret-value) printf '{"SecretString":"%s","CreatedDate":"%s"}\n' "$CANARY_TOKEN" "$(/bin/date -u +%Y-%m-%dT%H:%M:%SZ)" ;;
*)
	case ${CANARY_AWS:-} in repeat*) echo "An error occurred (InvalidParameterException) when calling the $operation operation: $value" >&2; exit 254 ;; esac
	echo 'arn:aws:secretsmanager:us-east-1:123456789012:secret:bootstrap-AbCdEf'
	;;
esac
`

// writeNoting fills the folder with such programs.
func writeNoting(folder string) error {
	for _, name := range called {
		real, err := exec.LookPath(name)
		if err != nil {
			continue // it is not called then
		}
		text := note
		if name == "curl" {
			text = noteAll
		}
		if err := writeProgram(folder, name, fmt.Sprintf(text, name, real)); err != nil {
			return err
		}
	}
	// Nobody needs to wait for a retry here.
	if err := writeProgram(folder, "sleep", "#!/bin/sh\n"); err != nil {
		return err
	}
	return writeProgram(folder, "aws", aws)
}

func writeProgram(folder, name, text string) error {
	return os.WriteFile(filepath.Join(folder, name), []byte(text), 0o700)
}
