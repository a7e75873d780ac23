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
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// tools are the folders of the programs and of the scripts, and the leak that the programs are to make.
type tools struct{ bin, scripts, leak string }

// fixture is what one path runs with: a cloud of its own, and a folder.
type fixture struct {
	tools
	p       path
	secrets map[string]string // by name
	values  map[string]string // of the names in templates: the secrets, and more
	named   map[string]bool   // the names that were used
	cloud   *cloud
	lambda  *lambda
	servers map[string]*httptest.Server // by service
	folder  string
}

// newFixture makes a cloud with a stored token that expires in nine minutes. It serves HTTP/2 unless p.http1.
func newFixture(t tools, p path) (*fixture, error) {
	emulated := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1, RequestLog: 1000})
	rotation := emulated.Rotations()[0]
	expires := time.Now().Add(9 * time.Minute)
	managed := emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: emulated.BootstrapIAMID(), ReuseAPIKey: true, TTL: "1080h", RotateDays: 15})
	f := &fixture{tools: t, p: p, named: map[string]bool{}, servers: map[string]*httptest.Server{}, secrets: map[string]string{
		"bootstrap": emulated.BootstrapAPIKey(), "workload": rotation.APIKey, "reader": emulated.ReaderAPIKey(), "admin": emulated.AdminAPIKey(),
		"second":  emulated.MustCreateAPIKey(emulated.MustCreateServiceID("second", emulated.AccountID())), // of another workload, whose key and token are in kv secrets
		"renewed": emulated.MustCurrent(managed).Payload,                                                   // the bootstrap identity's next key
		"aws":     rand.Text() + rand.Text()[:11] + "/aB", "session": rand.Text() + rand.Text(), "proxy": rand.Text(), "cr": rand.Text() + rand.Text(),
		"old":     emulated.MustMintToken(rotation.APIKey, time.Until(expires)), // the token that is stored when the path begins
		"readers": emulated.MustMintToken(emulated.ReaderAPIKey(), time.Hour),   // the reader's own token
		"given":   emulated.MustMintToken(emulated.AdminAPIKey(), time.Hour),    // an administrator's token, which a person gives a program
	}}
	emulated.MustPutVersion(rotation.TokenSecret, f.secrets["old"], map[string]any{"expiration": expires.Unix(), "fingerprint": "0123456789abcdef"})
	var err error
	if f.folder, err = os.MkdirTemp("", "canary-"); err != nil {
		return nil, err
	}
	f.cloud = &cloud{Cloud: emulated, fixture: f, issued: map[string]string{}}
	f.lambda = &lambda{cloud: f.cloud, patience: 700 * time.Millisecond}
	if p.patient {
		f.lambda.patience = 30 * time.Second
	}
	for _, fault := range p.faults {
		if err := emulated.AddFault(fault); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	for _, service := range []string{"Secrets Manager", "IAM", "AWS"} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.cloud.serve(service, w, r) }))
		server.EnableHTTP2 = !p.http1
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // it logs the connections that faults break
		server.StartTLS()
		f.servers[service] = server
	}
	f.servers["Lambda"] = httptest.NewServer(f.lambda)
	f.values = map[string]string{
		"bin": t.bin, "scripts": t.scripts, "in": filepath.Join(f.folder, "in"), "ca": filepath.Join(f.folder, "in", "ca.pem"), "PATH": os.Getenv("PATH"), "limit": p.limit(),
		"SM": f.servers["Secrets Manager"].URL, "SMHOST": f.host("Secrets Manager"), "IAM": f.servers["IAM"].URL, "AWS": f.servers["AWS"].URL,
		"keySecret": rotation.APIKeySecret, "tokenSecret": rotation.TokenSecret, "managed": managed, "account": emulated.AccountID(), "keyGroup": emulated.KeyGroupID(),
		"tokenGroup": emulated.TokenGroupID(), "workloadID": rotation.IAMID, "bootstrapID": emulated.BootstrapIAMID(), "readerID": emulated.ReaderIAMID(),
		"kvKeySecret": emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": f.secrets["second"]}}),
		"kvTokenSecret": emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: emulated.TokenGroupName(),
			Data: map[string]any{"iam_token": "no token yet"}, Metadata: map[string]any{"rotator_version": "set-up"}}),
	}
	maps.Copy(f.values, f.secrets)
	if _, replaces := p.program.files["out/env.replacing"]; replaces {
		f.values["copyID"] = emulated.MustCopyServiceID(rotation.IAMID)
	}
	f.lambda.event = cmp.Or(f.fill(p.event), "{}")
	return f, f.writeFiles()
}

func (f *fixture) writeFiles() error {
	files := map[string]string{"in/rc": "set -x\n", "in/ca.pem": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.servers["IAM"].Certificate().Raw}))}
	for name, template := range f.p.program.files {
		files[name] = f.fill(template)
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
		err = errors.Join(err, os.Mkdir(filepath.Join(f.folder, folder), 0o700))
	}
	for name, content := range files {
		file := filepath.Join(f.folder, name)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o700))
	}
	return err
}

func (f *fixture) close() {
	for _, server := range f.servers {
		server.CloseClientConnections()
		server.Close()
	}
	_ = os.RemoveAll(f.folder)
}

// limit is the time that the function and the Go reader have. They retry until then.
func (p path) limit() string {
	switch {
	case p.patient:
		return "50s"
	case p.program.kind == "reader":
		return "1500ms"
	}
	return "800ms"
}

// misplacedSecret is the name of the secret that is $X.
func (p path) misplacedSecret() string { return cmp.Or(misplacedSecrets[p.misplaced], "bootstrap") }

// fill writes the fixture's values into a template.
func (f *fixture) fill(template string) string {
	return os.Expand(template, func(name string) string {
		if name == "X" {
			name = f.p.misplacedSecret()
		}
		value, known := f.values[name]
		if !known { // a variable of the shell
			return "$" + name
		}
		f.named[name] = true
		return value
	})
}

// home is HOME, TMPDIR and the working directory: files there must hold no secret.
func (f *fixture) home() string { return filepath.Join(f.folder, "home") }

func (f *fixture) host(service string) string { return f.servers[service].Listener.Addr().String() }

// mayConnect is whether an address is a server's of the fixture, or a name server's. To port 0 nothing is sent: resolvers connect to
// it to sort addresses.
func (f *fixture) mayConnect(host, port string) bool {
	for service := range f.servers {
		if f.host(service) == host+":"+port {
			return true
		}
	}
	return port == "53" || port == "0"
}

// environment is the program's. It inherits only PATH.
func (f *fixture) environment() (all []string) {
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": f.home(), "TMPDIR": f.home(), "SSL_CERT_FILE": f.values["ca"], "CURL_RETRIES": "0",
		"GITHUB_ENV": filepath.Join(f.home(), "github-env"), "GITHUB_OUTPUT": filepath.Join(f.home(), "github-output"), "LEAK": f.leak}
	if f.p.program.is("function", "lambda") {
		env["AWS_LAMBDA_RUNTIME_API"], env["AWS_LAMBDA_FUNCTION_NAME"] = f.host("Lambda"), "rotate"
	}
	for variable := range strings.FieldsSeq(f.p.program.env) {
		name, template, _ := strings.Cut(variable, "=")
		env[name] = template
	}
	maps.Copy(env, f.p.env)
	for name, template := range env {
		if value := f.fill(template); value != "" {
			all = append(all, name+"="+value)
		}
	}
	return all
}

// subjects are all secrets of the fixture, with the tokens and keys that were made during the run.
func (f *fixture) subjects() (all []subject) {
	for name, value := range f.secrets {
		all = append(all, subject{name, value})
	}
	for token := range f.cloud.issued {
		all = append(all, subject{"an issued token", token})
	}
	for _, key := range f.cloud.made {
		all = append(all, subject{"a key that was made", key})
	}
	return all
}

// allowed are the secrets that a part may hold: the token that a program is to print, the keys that it is to write into the
// caller's files, and in the environment of other programs the caller's own credentials.
func (f *fixture) allowed(name string) []string {
	prog, in := f.p.program, func(beginning string) bool { return strings.HasPrefix(name, beginning) }
	switch {
	case name == "stdout":
		return []string{f.secrets[prog.prints]}
	case in("the environment of "):
		return []string{f.secrets["aws"], f.secrets["session"], f.secrets["proxy"], f.secrets[f.p.misplacedSecret()]}
	case f.p.class == "argument" && in("the arguments of "): // it was in the program's own arguments
		return []string{f.secrets[f.p.misplacedSecret()]}
	case name == "stderr" && slices.Contains(prog.needs, "aws"): // the aws program prints AWS's answers itself
		return []string{f.secrets["session"]}
	case prog.is("operator", "rotatorctl setup") && (in("what is written to "+f.folder+"/out/") || in("what is left in out/")):
		return f.cloud.made
	}
	return nil
}

// mayBeSent has the secrets that a kind of program may send, by service and place. Any other secret there is a leak. @name stands
// for the tokens that were issued for a credential, made for the keys that IAM made.
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

func (f *fixture) may(service, place string) (all []string) {
	names := mayBeSent[f.p.program.kind+": "+service+", "+place]
	switch {
	case strings.HasPrefix(service, "AWS") && place == "the header X-Amz-Security-Token":
		names = "session"
	case place == "the header Proxy-Authorization":
		all, names = []string{base64.StdEncoding.EncodeToString([]byte("user:" + f.secrets["proxy"]))}, "proxy"
	}
	for name := range strings.FieldsSeq(names) {
		credential, ofToken := strings.CutPrefix(name, "@")
		values := []string{f.secrets[credential]}
		if credential == "made" {
			values = f.cloud.made
		}
		if !ofToken {
			all = append(all, values...)
			continue
		}
		for token, issuedFor := range f.cloud.issued {
			if slices.Contains(values, issuedFor) {
				all = append(all, token)
			}
		}
	}
	return all
}

// sent are the parts of all requests, without the secrets that they may hold. URLs are left out where an answer repeated a secret:
// it may have done so as an id or a name, which then stands in the URL of a later request to the same service.
func (f *fixture) sent() (parts []part) {
	for _, r := range f.cloud.requests {
		service := r.service
		switch {
		case service == "IAM" && strings.Contains(r.parts["the URL"], " /v1/apikeys/details"):
			service = "IAM about a key"
		case service == "AWS" && f.p.program.kind == "function" && strings.Contains(r.parts["the field SecretId"], bootstrapARN):
			service = "AWS for the bootstrap key"
		}
		for place, text := range r.parts {
			if place == shown && f.p.class == "argument" || place == "the URL" && f.p.repeats() && r.service != unknownService {
				continue
			}
			parts = append(parts, part{place + " sent to " + r.service, without(text, f.may(service, place))})
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
