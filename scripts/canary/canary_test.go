package canary

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	mathrand "math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

var (
	allFlag    = flag.Bool("all", false, "try every path, and every mutant")
	onlyFlag   = flag.String("only", "", "try the paths whose name matches this regular expression, and no mutants")
	mutantFlag = flag.String("mutant", "", "try the mutants whose name matches this regular expression, and no paths")
	seedFlag   = flag.Uint64("seed", 1, "of the sample: another seed draws other paths")
	sampleFlag = flag.Int("sample", 0, "draw more paths until the sample has so many: it has about 400 if every sort of path is tried once")
	atOnceFlag = flag.Int("at-once", 20, "paths at a time; most of them wait")
)

// tools are where the programs are.
type tools struct{ bin, scripts string }

// keys are the secrets of a stage.
type keys struct {
	bootstrap, workload, reader, admin string
	renewed                            string // the bootstrap identity's next one, in a managed secret
	second                             string // of another workload, whose key and token are in kv secrets
	aws, session, proxy, cr            string
	old                                string // the token that is stored when the path begins
	readers                            string // the reader's own token
	given                              string // an administrator's token, which a person gives a program
}

// stage is what one path is tried on: its own cloud and a folder that is HOME, TMPDIR and working directory at once.
type stage struct {
	tools
	keys     keys
	rotation ibmcloudtest.Rotation
	managed  string // the secret of the renewed key
	fleet    string // ROTATIONS with a second one, of kv secrets
	cloud    *cloud
	lambda   *lambda
	server   *httptest.Server // of Secrets Manager
	iam, aws *httptest.Server
	runtime  *httptest.Server // of the Runtime API
	folder   string
}

// newStage makes a cloud in which a token is stored that expires in nine minutes. It speaks HTTP/2 unless http1.
func newStage(t tools, p path) (*stage, error) {
	emulated := ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1, RequestLog: 1000})
	s := &stage{tools: t, rotation: emulated.Rotations()[0]}
	s.keys = keys{
		bootstrap: emulated.BootstrapAPIKey(), workload: s.rotation.APIKey, reader: emulated.ReaderAPIKey(), admin: emulated.AdminAPIKey(),
		aws: rand.Text() + rand.Text()[:11] + "/aB", session: rand.Text() + rand.Text(), proxy: rand.Text(), cr: rand.Text() + rand.Text(),
	}
	s.keys.second = emulated.MustCreateAPIKey(emulated.MustCreateServiceID("second", emulated.AccountID()))
	s.managed = emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "iam_credentials", IAMID: emulated.BootstrapIAMID(), ReuseAPIKey: true, TTL: "1080h", RotateDays: 15})
	s.keys.renewed = emulated.MustCurrent(s.managed).Payload
	s.fleet = fmt.Sprintf(`[{"name":"first","api_key_secret":%q,"token_secret":%q},{"name":"second","api_key_secret":%q,"api_key_field":"apikey","token_secret":%q}]`,
		s.rotation.APIKeySecret, s.rotation.TokenSecret, emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Data: map[string]any{"apikey": s.keys.second}}),
		emulated.MustCreateSecret(ibmcloudtest.SecretSpec{Type: "kv", Group: emulated.TokenGroupName(), Data: map[string]any{"iam_token": "no token yet"}, Metadata: map[string]any{"rotator_version": "set-up"}}))
	expires := time.Now().Add(9 * time.Minute)
	s.keys.old = emulated.MustMintToken(s.rotation.APIKey, time.Until(expires))
	s.keys.readers = emulated.MustMintToken(s.keys.reader, time.Hour)
	s.keys.given = emulated.MustMintToken(s.keys.admin, time.Hour)
	emulated.MustPutVersion(s.rotation.TokenSecret, s.keys.old, map[string]any{"expiration": expires.Unix(), "fingerprint": "0123456789abcdef"})
	var err error
	if s.folder, err = os.MkdirTemp("", "canary-"); err != nil {
		return nil, err
	}
	for _, name := range []string{"home", "in", "out", "trace"} {
		if err := os.Mkdir(filepath.Join(s.folder, name), 0o700); err != nil {
			return nil, err
		}
	}
	s.cloud = &cloud{Cloud: emulated, bootstrap: s.keys.bootstrap, workload: s.keys.workload, old: s.keys.old, awsCall: p.awsCall, aws: p.aws, issued: map[string]string{}, waiting: make(chan struct{}, 1)}
	s.lambda = &lambda{event: strings.ReplaceAll(p.event, "%s", s.keys.bootstrap), cloud: s.cloud, seconds: 0.7, done: make(chan struct{})}
	if p.event == "" {
		s.lambda.event = "{}"
	}
	if p.patient {
		s.lambda.seconds = 30
	}
	for _, fault := range p.faults {
		if err := emulated.AddFault(fault); err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	s.runtime = httptest.NewServer(s.lambda)
	for service, server := range map[string]**httptest.Server{"Secrets Manager": &s.server, "IAM": &s.iam, "AWS": &s.aws} {
		*server = httptest.NewUnstartedServer(s.cloud.at(service))
		(*server).EnableHTTP2 = !p.http1
		(*server).Config.ErrorLog = log.New(io.Discard, "", 0) // it logs the connections that faults break
		(*server).StartTLS()
	}
	s.in("rc", "set -x\n")
	return s, os.WriteFile(s.authority(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw}), 0o600)
}

func (s *stage) close() {
	s.cloud.release()
	for _, server := range []*httptest.Server{s.server, s.iam, s.aws, s.runtime} {
		server.CloseClientConnections()
		server.Close()
	}
	_ = os.RemoveAll(s.folder)
}

// authority is the file of the server's certificate.
func (s *stage) authority() string { return filepath.Join(s.folder, "in", "ca.pem") }

// home is where programs may leave files, which hold no secret.
func (s *stage) home() string { return filepath.Join(s.folder, "home") }

// mayConnect is whether an address is one of our servers', or a name server's. Port 0 sends nothing: resolvers sort addresses so.
func (s *stage) mayConnect(host, port string) bool {
	ours := func(server *httptest.Server) bool { return server.Listener.Addr().String() == host+":"+port }
	return slices.ContainsFunc([]*httptest.Server{s.server, s.iam, s.aws, s.runtime}, ours) || port == "53" || port == "0"
}

// environment is that of the program and nothing else of ours.
func (s *stage) environment(p path) []string {
	set := map[string]string{"PATH": os.Getenv("PATH"), "HOME": s.home(), "TMPDIR": s.home(), "SSL_CERT_FILE": s.authority(), "CURL_RETRIES": "0",
		"GITHUB_ENV": filepath.Join(s.home(), "github-env"), "GITHUB_OUTPUT": filepath.Join(s.home(), "github-output")}
	if strings.HasPrefix(p.door.name, "lambda") {
		set["AWS_LAMBDA_RUNTIME_API"], set["AWS_LAMBDA_FUNCTION_NAME"] = strings.TrimPrefix(s.runtime.URL, "http://"), "rotate"
	}
	sets := []map[string]string{set, p.door.env(s)}
	if p.env != nil {
		sets = append(sets, p.env(s))
	}
	return programs.Environ(sets...)
}

// misplaced is the secret that is put where another thing belongs.
func (s *stage) misplaced(what string) string {
	switch what {
	case "IAM_TOKEN", "TOKEN_FORMAT", "READER_APIKEY_FILE":
		return s.keys.given
	case "AWS_CONFIG_FILE":
		return s.keys.aws
	case "HTTPS_PROXY":
		return s.keys.proxy
	case "":
		return ""
	}
	return s.keys.bootstrap
}

// environmentWith sets a variable to a value that holds a secret, and what must be set for it to count.
func (s *stage) environmentWith(variable, value string) map[string]string {
	env := map[string]string{variable: value}
	switch variable {
	case "AWS_CONFIG_FILE":
		file := s.in("config", value)
		return map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_CONFIG_FILE": file, "AWS_SHARED_CREDENTIALS_FILE": file}
	case "HTTPS_PROXY": // Go never takes a proxy to loopback
		env["https_proxy"], env["NO_PROXY"], env["SECRETS_MANAGER_URL"], env["IAM_URL"] = value, "", "https://instance.example.com", "https://iam.example.com"
	case "IAM_TOKEN":
		env["SECRETS_MANAGER_APIKEY"] = ""
	case "ROTATIONS":
		env["API_KEY_SECRET"], env["TOKEN_SECRET"] = "", ""
	}
	return env
}

// subjects are all secrets of the stage, the tokens and keys made up to now among them.
func (s *stage) subjects() []subject {
	k := s.keys
	all := []subject{{"the bootstrap key", k.bootstrap}, {"the workload's key", k.workload}, {"the second workload's key", k.second}, {"the renewed key", k.renewed}, {"the reader's key", k.reader}, {"the administrator's key", k.admin},
		{"the AWS secret access key", k.aws}, {"the AWS session token", k.session}, {"the proxy's password", k.proxy}, {"the compute resource's token", k.cr},
		{"the stored token", k.old}, {"the reader's own token", k.readers}, {"the administrator's token", k.given}}
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
func (s *stage) allowed(p path, name string) []string {
	switch {
	case name == "stdout" && p.door.prints != nil:
		return p.door.prints(s)
	case strings.HasPrefix(name, "the environment of "):
		return []string{s.keys.aws, s.keys.session, s.keys.proxy, s.misplaced(p.misplaced)}
	case p.sort == "argument" && strings.HasPrefix(name, "the arguments of "): // everybody could read it there already
		return []string{s.keys.bootstrap}
	case name == "stderr" && slices.Contains(p.door.needs, "aws"): // the aws program says itself what AWS says
		return []string{s.keys.session}
	case strings.HasPrefix(p.door.name, "rotatorctl setup") && (strings.HasPrefix(name, "what is written to "+s.folder+"/out/") || strings.HasPrefix(name, "what is left in out/")):
		return s.cloud.made
	}
	return nil
}

const notWorking = "it does not work, so little is tried"

// connectionKeys are what SSLKEYLOGFILE asks for.
var connectionKeys = regexp.MustCompile(`(?m)^CLIENT_(RANDOM|\w+_SECRET\w*) [0-9a-f]{32}`)

// attempt tries a path and returns what was found, as lines for a person, and which operations the program made, so that the
// next faults meet it there.
func attempt(ctx context.Context, p path, t tools) (hits []string, made []operation, err error) {
	s, err := newStage(t, p)
	if err != nil {
		return nil, nil, err
	}
	defer s.close()
	parts, err := s.run(ctx, p)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p, err)
	}
	if p.works() && (parts[0].text != "0" && !s.lambda.answered(2) || s.lambda.asked > 0 && !s.lambda.answered(2)) {
		hits = append(hits, fmt.Sprintf("%s: %s: exit status %s", p, notWorking, parts[0].text))
	}
	if p.misplaced != "" { // what was set may name another host
		parts = slices.DeleteFunc(parts, func(part part) bool { return strings.HasPrefix(part.name, "a connection to ") })
	}
	s.noteSubjects(p)
	x := newIndex(s.subjects())
	alike := strings.NewReplacer(s.folder, "FOLDER", s.server.Listener.Addr().String(), "SERVER", s.iam.Listener.Addr().String(), "IAM", s.aws.Listener.Addr().String(), "AWS")
	for _, part := range append(parts, s.sent(p)...) {
		text := part.text
		for _, value := range s.allowed(p, part.name) {
			if value != "" {
				text = strings.ReplaceAll(text, value, "")
			}
		}
		if connectionKeys.MatchString(text) {
			hits = append(hits, fmt.Sprintf("%s: a connection's keys are in %s", p, part.name))
		}
		if _, before := searched.LoadOrStore(alike.Replace(text), true); before {
			continue
		}
		for _, found := range x.in(text) {
			hits = append(hits, fmt.Sprintf("%s: %s is in %s", p, found, part.name))
		}
	}
	for _, request := range s.cloud.Requests() {
		made = append(made, operation{request.Op, request.Identity})
	}
	for _, request := range s.cloud.requests {
		_, call, _ := strings.Cut(request.parts["the header X-Amz-Target"], ": ")
		action, _, _ := strings.Cut(request.parts["the field Action"], "\n")
		if call = strings.TrimPrefix(call, "Logs_20140328.") + action; call != "" {
			made = append(made, operation{"AWS " + call, "the function"})
		}
	}
	seen := map[operation]bool{{}: true}
	made = slices.DeleteFunc(made, func(o operation) bool { again := seen[o] || o.op == ""; seen[o] = true; return again })
	return hits, made, nil
}

// met are the names of the subjects that some program was given or sent, and so could have leaked.
var met sync.Map

func (s *stage) noteSubjects(p path) {
	texts := s.environment(p)
	for _, stdin := range []func(*stage) string{p.door.stdin, p.stdin} {
		if stdin != nil {
			texts = append(texts, stdin(s))
		}
	}
	files, _ := filepath.Glob(filepath.Join(s.folder, "in", "*"))
	for _, file := range files {
		content, _ := os.ReadFile(file)
		texts = append(texts, string(content))
	}
	for _, request := range s.cloud.requests {
		texts = slices.AppendSeq(texts, maps.Values(request.parts))
	}
	all := strings.Join(texts, "\n")
	for _, subject := range s.subjects() {
		if strings.Contains(all, subject.value) {
			met.Store(subject.name, true)
		}
	}
}

// searched are the texts that were searched on any path. Every path has secrets of its own, so what came out of an earlier one
// as well holds none of a later one's.
var searched sync.Map

// try tries paths, some at a time, and returns how often each went.
func try(t *testing.T, paths []path, at tools) (hits []string, made map[string][]operation) {
	t.Helper()
	var mu sync.Mutex
	made = map[string][]operation{}
	var running sync.WaitGroup
	slots := make(chan struct{}, *atOnceFlag)
	slices.SortStableFunc(paths, func(a, b path) int { return cmp.Compare(b.waits(), a.waits()) }) // the longest begin first
	for _, p := range paths {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			found, operations, err := attempt(t.Context(), p, at)
			if err != nil { // a slow machine: once more
				found, operations, err = attempt(t.Context(), p, at)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
			}
			hits = append(hits, found...)
			for _, o := range operations {
				if !slices.Contains(made[p.door.name], o) {
					made[p.door.name] = append(made[p.door.name], o)
				}
			}
		})
	}
	running.Wait()
	for _, operations := range made { // the same paths in every hunt
		slices.SortFunc(operations, func(a, b operation) int {
			return cmp.Or(strings.Compare(a.op, b.op), strings.Compare(a.identity, b.identity))
		})
	}
	slices.Sort(hits)
	return slices.Compact(hits), made
}

func TestMain(m *testing.M) {
	flag.Parse()
	syscall.Umask(0o022) // a file is private because the program makes it so
	os.Exit(m.Run())
}

// builtTools builds the programs once.
var builtTools = sync.OnceValues(func() (tools, error) {
	folder, err := os.MkdirTemp("", "canary-built-")
	if err != nil {
		return tools{}, err
	}
	scripts, err := filepath.Abs("..")
	if err != nil {
		return tools{}, err
	}
	return tools{folder, scripts}, programs.Build(folder, sources)
})

var sources = map[string]string{"rotate": "functions/rotate", "reader": "scripts/canary/reader", "rotatorctl": "scripts/rotatorctl"}

// TestNothingLeaks tries a sample of the paths, in which every door is, and every sort of path at each program; or with -all each of them.
func TestNothingLeaks(t *testing.T) {
	if *mutantFlag != "" {
		t.Skip("-mutant tries mutants alone")
	}
	if strace() == "" {
		programs.Missing(t, "strace is not installed, or may not trace")
	}
	at, err := builtTools()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(at.bin) })
	first := chosen(t, calm())
	hits, made := try(t, first, at)
	var others []path
	for _, d := range doors() {
		others = append(others, faulty(d, made[d.name])...)
	}
	others = chosen(t, slices.Concat(others, misplaced(), switched()))
	if !*allFlag && *onlyFlag == "" {
		others = sample(others, *sampleFlag-len(first), *seedFlag)
	}
	more, _ := try(t, others, at)
	for _, hit := range append(hits, more...) {
		t.Error(hit)
	}
	if *onlyFlag == "" {
		for _, name := range []string{"the bootstrap key", "the workload's key", "the second workload's key", "the renewed key", "the reader's key", "the administrator's key", "the AWS secret access key",
			"the AWS session token", "the proxy's password", "the compute resource's token", "the stored token", "the reader's own token", "the administrator's token", "an issued token", "a key that was made"} {
			if _, ok := met.Load(name); !ok {
				t.Errorf("no program was given or sent %s", name)
			}
		}
	}
	t.Logf("canary: %d paths tried, %d hits", len(first)+len(others), len(hits)+len(more))
}

// chosen leaves out the doors whose programs are missing, and what -only leaves out.
func chosen(t *testing.T, paths []path) []path {
	pattern, missing := regexp.MustCompile(*onlyFlag), map[string]bool{}
	for _, d := range doors() {
		t.Run(d.name, func(t *testing.T) {
			missing[d.name] = true
			programs.Need(t, d.needs...)
			missing[d.name] = false
		})
	}
	return slices.DeleteFunc(paths, func(p path) bool { return missing[p.door.name] || !pattern.MatchString(p.String()) })
}

// sample draws paths until each sort of path was met at each program, and each fault, switch, signal and shape at one, and then up
// to n. Those that wait long are drawn where there is no other.
func sample(paths []path, n int, seed uint64) (drawn []path) {
	dice := mathrand.New(mathrand.NewPCG(seed, 0))
	dice.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	slices.SortStableFunc(paths, func(a, b path) int { return cmp.Compare(a.waits(), b.waits()) })
	seen := map[string]bool{}
	for _, enough := range []func(sort, by bool) bool{
		func(sort, by bool) bool { return sort && by }, func(sort, by bool) bool { return sort || by }, func(sort, by bool) bool { return len(drawn) < n },
	} {
		paths = slices.DeleteFunc(paths, func(p path) bool {
			sort, by := p.door.family()+p.sort, "by "+p.by
			take := enough(!seen[sort], !seen[by])
			if take {
				seen[sort], seen[by] = true, true
				drawn = append(drawn, p)
			}
			return take
		})
	}
	return drawn
}
