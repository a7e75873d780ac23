package canary

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// tools are where the programs are, and the leak that they are told to make.
type tools struct{ bin, scripts, leak string }

// stage is what one path is tried on: its own cloud and a folder that is HOME, TMPDIR and working directory at once.
type stage struct {
	tools
	p       path
	secrets map[string]string // by name
	values  map[string]string // what templates name: the secrets, and more
	named   map[string]bool   // the values that were named
	cloud   *cloud
	lambda  *lambda
	servers map[string]*httptest.Server // by service
	folder  string
}

// newStage makes a cloud in which a token is stored that expires in nine minutes. It speaks HTTP/2 unless p.http1.
func newStage(t tools, p path) (*stage, error) {
	emulated := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1, RequestLog: 1000})
	rotation := emulated.Rotations()[0]
	expires := time.Now().Add(9 * time.Minute)
	managed := emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: emulated.BootstrapIAMID(), ReuseAPIKey: true, TTL: "1080h", RotateDays: 15})
	s := &stage{tools: t, p: p, named: map[string]bool{}, servers: map[string]*httptest.Server{}, secrets: map[string]string{
		"bootstrap": emulated.BootstrapAPIKey(), "workload": rotation.APIKey, "reader": emulated.ReaderAPIKey(), "admin": emulated.AdminAPIKey(),
		"second":  emulated.MustCreateAPIKey(emulated.MustCreateServiceID("second", emulated.AccountID())), // of another workload, whose key and token are in kv secrets
		"renewed": emulated.MustCurrent(managed).Payload,                                                   // the bootstrap identity's next key
		"aws":     rand.Text() + rand.Text()[:11] + "/aB", "session": rand.Text() + rand.Text(), "proxy": rand.Text(), "cr": rand.Text() + rand.Text(),
		"old":     emulated.MustMintToken(rotation.APIKey, time.Until(expires)), // the token that is stored when the path begins
		"readers": emulated.MustMintToken(emulated.ReaderAPIKey(), time.Hour),   // the reader's own token
		"given":   emulated.MustMintToken(emulated.AdminAPIKey(), time.Hour),    // an administrator's token, which a person gives a program
	}}
	emulated.MustPutVersion(rotation.TokenSecret, s.secrets["old"], map[string]any{"expiration": expires.Unix(), "fingerprint": "0123456789abcdef"})
	var err error
	if s.folder, err = os.MkdirTemp("", "canary-"); err != nil {
		return nil, err
	}
	s.cloud = &cloud{Cloud: emulated, stage: s, issued: map[string]string{}, waiting: make(chan struct{}, 1), held: make(chan struct{})}
	if s.cloud.release = sync.OnceFunc(func() { close(s.cloud.held) }); p.signal == 0 {
		s.cloud.release()
	}
	s.lambda = &lambda{cloud: s.cloud, patience: 700 * time.Millisecond, done: make(chan struct{})}
	if p.patient {
		s.lambda.patience = 30 * time.Second
	}
	for _, fault := range p.faults {
		if err := emulated.AddFault(fault); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	for _, service := range []string{"Secrets Manager", "IAM", "AWS"} {
		server := httptest.NewUnstartedServer(s.cloud.at(service))
		server.EnableHTTP2 = !p.http1
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // it logs the connections that faults break
		server.StartTLS()
		s.servers[service] = server
	}
	s.servers["Lambda"] = httptest.NewServer(s.lambda)
	s.values = map[string]string{
		"bin": t.bin, "scripts": t.scripts, "in": filepath.Join(s.folder, "in"), "ca": filepath.Join(s.folder, "in", "ca.pem"), "PATH": os.Getenv("PATH"), "limit": p.limit(),
		"SM": s.servers["Secrets Manager"].URL, "SMHOST": s.host("Secrets Manager"), "IAM": s.servers["IAM"].URL, "AWS": s.servers["AWS"].URL,
		"keySecret": rotation.APIKeySecret, "tokenSecret": rotation.TokenSecret, "managed": managed, "account": emulated.AccountID(), "keyGroup": emulated.KeyGroupID(),
		"tokenGroup": emulated.TokenGroupID(), "workloadID": rotation.IAMID, "bootstrapID": emulated.BootstrapIAMID(), "readerID": emulated.ReaderIAMID(),
		"kvKeySecret": emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": s.secrets["second"]}}),
		"kvTokenSecret": emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: emulated.TokenGroupName(),
			Data: map[string]any{"iam_token": "no token yet"}, Metadata: map[string]any{"rotator_version": "set-up"}}),
	}
	maps.Copy(s.values, s.secrets)
	if _, replaces := p.door.files["out/env.replacing"]; replaces {
		s.values["copyID"] = emulated.MustCopyServiceID(rotation.IAMID)
	}
	s.lambda.event = cmp.Or(s.fill(p.event), "{}")
	return s, s.writeFiles()
}

func (s *stage) writeFiles() error {
	files := map[string]string{"in/rc": "set -x\n", "in/ca.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.servers["IAM"].Certificate().Raw}))}
	for name, template := range s.p.door.files {
		files[name] = s.fill(template)
		if original, isCopy := strings.CutPrefix(template, "@"); isCopy {
			content, err := os.ReadFile(filepath.Join("../..", original))
			if err != nil {
				return err
			}
			files[name] = string(content)
		}
	}
	var err error
	for _, folder := range []string{"home", "out", "trace"} {
		err = errors.Join(err, os.Mkdir(filepath.Join(s.folder, folder), 0o700))
	}
	for name, content := range files {
		file := filepath.Join(s.folder, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o700))
	}
	return err
}

func (s *stage) close() {
	s.cloud.release()
	for _, server := range s.servers {
		server.CloseClientConnections()
		server.Close()
	}
	_ = os.RemoveAll(s.folder)
}

// limit is how long the function and the Go reader have: where something goes wrong they try again until then.
func (p path) limit() string {
	switch {
	case p.patient:
		return "50s"
	case p.door.kind == "reader":
		return "1500ms"
	}
	return "800ms"
}

// misplacedSecret is what $X is.
func (p path) misplacedSecret() string { return cmp.Or(misplacedSecrets[p.misplaced], "bootstrap") }

// fill writes the stage's values into a template.
func (s *stage) fill(template string) string {
	return os.Expand(template, func(name string) string {
		if name == "X" {
			name = s.p.misplacedSecret()
		}
		value, known := s.values[name]
		if !known { // it is the shell's
			return "$" + name
		}
		s.named[name] = true
		return value
	})
}

// home is where programs may leave files, which hold no secret.
func (s *stage) home() string { return filepath.Join(s.folder, "home") }

func (s *stage) host(service string) string { return s.servers[service].Listener.Addr().String() }

// mayConnect is whether an address is one of our servers', or a name server's. Port 0 sends nothing: resolvers sort addresses so.
func (s *stage) mayConnect(host, port string) bool {
	for service := range s.servers {
		if s.host(service) == host+":"+port {
			return true
		}
	}
	return port == "53" || port == "0"
}

// environment is that of the program and nothing else of ours.
func (s *stage) environment() (all []string) {
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": s.home(), "TMPDIR": s.home(), "SSL_CERT_FILE": s.values["ca"], "CURL_RETRIES": "0",
		"GITHUB_ENV": filepath.Join(s.home(), "github-env"), "GITHUB_OUTPUT": filepath.Join(s.home(), "github-output"), "LEAK": s.leak}
	if s.p.door.is("function", "lambda") {
		env["AWS_LAMBDA_RUNTIME_API"], env["AWS_LAMBDA_FUNCTION_NAME"] = s.host("Lambda"), "rotate"
	}
	for variable := range strings.FieldsSeq(s.p.door.env) {
		name, template, _ := strings.Cut(variable, "=")
		env[name] = template
	}
	maps.Copy(env, s.p.env)
	for name, template := range env {
		if value := s.fill(template); value != "" {
			all = append(all, name+"="+value)
		}
	}
	return all
}

// subjects are all secrets of the stage, the tokens and keys made up to now among them.
func (s *stage) subjects() (all []subject) {
	for name, value := range s.secrets {
		all = append(all, subject{name, value})
	}
	for token := range s.cloud.issued {
		all = append(all, subject{"an issued token", token})
	}
	for _, key := range s.cloud.made {
		all = append(all, subject{"a key that was made", key})
	}
	return all
}

// allowed are the secrets that a part may hold: what a program is there to print, the keys that it is there to write into files
// of the caller's, and in the environment of other programs the caller's own credentials.
func (s *stage) allowed(name string) []string {
	d, in := s.p.door, func(beginning string) bool { return strings.HasPrefix(name, beginning) }
	switch {
	case name == "stdout":
		return []string{s.secrets[d.prints]}
	case in("the environment of "):
		return []string{s.secrets["aws"], s.secrets["session"], s.secrets["proxy"], s.secrets[s.p.misplacedSecret()]}
	case s.p.sort == "argument" && in("the arguments of "): // everybody could read it there already
		return []string{s.secrets[s.p.misplacedSecret()]}
	case name == "stderr" && slices.Contains(d.needs, "aws"): // the aws program says itself what AWS says
		return []string{s.secrets["session"]}
	case d.is("operator", "rotatorctl setup") && (in("what is written to "+s.folder+"/out/") || in("what is left in out/")):
		return s.cloud.made
	}
	return nil
}

// mayBeSent says which secrets a kind of program may send, by service and place. All else that it sends is a leak. @name are the
// tokens that were given for a credential, made the keys that IAM made.
var mayBeSent = map[string]string{
	"function: IAM, the field apikey":                             "bootstrap workload second renewed",
	"function: IAM, the field cr_token":                           "cr",
	"function: IAM about a key, the header Iam-Apikey":            "bootstrap workload second",
	"function: IAM about a key, the header Authorization":         "@bootstrap @workload @second @cr", // a token of each
	"function: Secrets Manager, the header Authorization":         "@bootstrap @cr @renewed given",
	"function: Secrets Manager, the field payload":                "@workload",
	"function: Secrets Manager, the field data":                   "@second",
	"function: AWS, the field SecretString":                       "@workload",
	"function: AWS, the field Value":                              "@workload",
	"function: AWS for the bootstrap key, the field SecretString": "renewed",
	"reader: IAM, the field apikey":                               "reader",
	"reader: IAM, the field cr_token":                             "cr",
	"reader: Secrets Manager, the header Authorization":           "@reader @cr readers",
	"reader: Logs Routing, the header Authorization":              "old",
	"operator: IAM, the field apikey":                             "bootstrap workload reader admin made",
	"operator: IAM, the header Authorization":                     "@admin given",
	"operator: IAM about a key, the header Iam-Apikey":            "bootstrap workload reader admin made",
	"operator: IAM about a key, the header Authorization":         "@admin given",
	"operator: Secrets Manager, the header Authorization":         "@made @bootstrap @workload @reader @admin given",
	"operator: Secrets Manager, the field payload":                "bootstrap made",
	"operator: AWS, the field SecretString":                       "bootstrap made",
}

func (s *stage) may(service, place string) (all []string) {
	names := mayBeSent[s.p.door.kind+": "+service+", "+place]
	switch {
	case strings.HasPrefix(service, "AWS") && place == "the header X-Amz-Security-Token":
		names = "session"
	case place == "the header Proxy-Authorization":
		all, names = []string{base64.StdEncoding.EncodeToString([]byte("user:" + s.secrets["proxy"]))}, "proxy"
	}
	for name := range strings.FieldsSeq(names) {
		credential, ofToken := strings.CutPrefix(name, "@")
		values := []string{s.secrets[credential]}
		if credential == "made" {
			values = s.cloud.made
		}
		if ofToken {
			values = s.cloud.tokensOf(values)
		}
		all = append(all, values...)
	}
	return all
}

// sent are the parts of all requests without what may stand in them. An answer that repeated a secret as an id or a name put it
// into the URLs of later requests: there it says nothing that the service does not know.
func (s *stage) sent() (parts []part) {
	for _, r := range s.cloud.requests {
		service := r.service
		switch {
		case service == "IAM" && strings.Contains(r.parts["the URL"], " /v1/apikeys/details"):
			service = "IAM about a key"
		case service == "AWS" && s.p.door.kind == "function" && strings.Contains(r.parts["the field SecretId"], bootstrapARN):
			service = "AWS for the bootstrap key"
		}
		for place, text := range r.parts {
			if place == shown && s.p.sort == "argument" || place == "the URL" && s.p.repeats() && r.service != nobody {
				continue
			}
			parts = append(parts, part{place + " sent to " + r.service, without(text, s.may(service, place))})
		}
	}
	return parts
}

func without(text string, values []string) string {
	for _, value := range values {
		if value != "" {
			text = strings.ReplaceAll(text, value, "")
		}
	}
	return text
}
