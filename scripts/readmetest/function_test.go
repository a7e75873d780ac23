package readmetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/programs"
)

// A function is the built function with a sandbox of IBM Cloud.
type function struct {
	t     *testing.T
	cloud *ibmcloudtest.Cloud
	env   map[string]string
}

func newFunction(t *testing.T) *function {
	t.Helper()
	f := &function{t: t, cloud: ibmcloudtest.New(ibmcloudtest.Options{})}
	server := httptest.NewServer(f.cloud)
	t.Cleanup(server.Close)
	rotation := f.cloud.Rotations()[0]
	_ = f.cloud.MustMintToken(rotation.APIKey, time.Hour) // generates the signing key, before the time limit of a run begins
	f.env = map[string]string{
		"PATH": os.Getenv("PATH"), "IAM_URL": server.URL, "SECRETS_MANAGER_URL": server.URL, "SECRETS_MANAGER_APIKEY": f.cloud.BootstrapAPIKey(),
		"API_KEY_SECRET": rotation.APIKeySecret, "TOKEN_SECRET": rotation.TokenSecret,
	}
	return f
}

// run runs the function as a command.
func (f *function) run(args ...string) programs.Result {
	f.t.Helper()
	return programs.Run(f.t, programs.Command{Env: programs.Environ(f.env), Name: filepath.Join(programsFolder(f.t), "iam-token-rotator"), Args: args})
}

// invoke delivers an event to the function, as AWS Lambda would.
func (f *function) invoke(event string) programs.Result {
	f.t.Helper()
	bin := programsFolder(f.t)
	return programs.Run(f.t, programs.Command{Env: programs.Environ(f.env), Stdin: event,
		Name: filepath.Join(bin, "invoke"), Args: []string{"-event", "-", "--", filepath.Join(bin, "iam-token-rotator")}})
}

// TestJSONBlocks gives every JSON block to the function, or compares it with the function's answer.
func TestJSONBlocks(t *testing.T) {
	t.Parallel()
	for _, b := range blocks("json") {
		t.Run(b.where, func(t *testing.T) {
			t.Parallel()
			f := newFunction(t)
			switch b.purpose {
			case "event":
				if got := f.invoke(b.text); got.Exit != 0 || !strings.Contains(got.Stdout, `"outcome":"rotated"`) {
					t.Errorf("the function, given this event: got exit %d, %s", got.Exit, got.Stdout)
				}
			case "rotations":
				f.env["ROTATIONS"], f.env["API_KEY_SECRET"], f.env["TOKEN_SECRET"] = b.text, "", ""
				if got := f.run("config"); got.Exit != 0 {
					t.Errorf("iam-token-rotator config, given these rotations: got exit %d, %s", got.Exit, got.All())
				}
			case "report":
				f.invoke("{}") // a report has a margin only if there was a token before
				compareFields(t, b.text, f.invoke("{}").Stdout)
			case "announced":
				details := f.receiveEvents()
				f.invoke("{}") // the event of the next one has a margin
				f.invoke("{}")
				if len(details) != 2 {
					t.Fatalf("got %d events, want 2", len(details))
				}
				<-details
				compareFields(t, b.text, <-details)
			case "doctor":
				f.cloud.MustAddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 403})
				compareFields(t, b.text, f.run("doctor", "-json").Stdout)
			}
		})
	}
}

// receiveEvents makes the function send its events to a bus, and returns a channel of their details.
func (f *function) receiveEvents() chan string {
	details := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Entries []struct{ Detail string } }
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || len(asked.Entries) != 1 {
			f.t.Errorf("got %d events at once, %v; want one", len(asked.Entries), err)
			return
		}
		details <- asked.Entries[0].Detail
		_, _ = fmt.Fprint(w, `{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`)
	}))
	f.t.Cleanup(server.Close)
	maps.Copy(f.env, map[string]string{"EVENT_BUS_NAME": "tokens", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": server.URL, "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example"})
	return details
}

// compareFields checks that two JSON texts have the same fields, with values of the same types.
func compareFields(t *testing.T, sample, answer string) {
	t.Helper()
	want, got := fieldsOf(t, sample), fieldsOf(t, answer)
	if !slices.Equal(want, got) {
		t.Errorf("the sample has the fields\n%s\nthe answer\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// fieldsOf returns the path and type of each value, for example ".results[].attempts float64".
func fieldsOf(t *testing.T, text string) []string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	paths := map[string]bool{}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		switch value := value.(type) {
		case map[string]any:
			for name, inner := range value {
				walk(path+"."+name, inner)
			}
		case []any:
			for _, inner := range value {
				walk(path+"[]", inner)
			}
		}
		paths[fmt.Sprintf("%s %T", path, value)] = true
	}
	walk("", value)
	return slices.Sorted(maps.Keys(paths))
}

// Tables name everything that exists, and nothing else.
func TestTablesAreComplete(t *testing.T) {
	const (
		alarm  = `AlarmName: !Sub \$\{AWS::StackName\}-([a-z-]+)`
		rotate = "functions/rotate/README.md"
	)
	for _, table := range []struct {
		page, column string
		want         []string
	}{
		{rotate, "mode", append(matches("functions/internal/rotation/rotation.go", `Mode += "(\w+)"`), "doctor")},
		{rotate, "outcome", matches("functions/report/report.go", `Outcome += "(\w+)"`)},
		{"infra/RUNBOOK.md", "kind", matches(errorsFile, `Kind += "(\w+)"`)},
		{"README.md", "alarm", matches("infra/aws/template.yaml", alarm)},
		{"infra/aws/README.md", "alarm", matches("infra/aws/template.yaml", alarm)},
		{"infra/aws/README.md", "fleet alarm", matches("infra/aws/fleet.yaml", alarm)},
		{rotate, "variable", matches("functions/internal/config/config.go", `env:"(\w+)"`)},
	} {
		var got []string
		for _, row := range rows(t, table.page, table.column) {
			got = append(got, spansOf(row[0])...)
		}
		slices.Sort(got)
		slices.Sort(table.want)
		if !slices.Equal(got, table.want) || len(table.want) == 0 {
			t.Errorf("%s: the table of each %s names\n%v, want\n%v", table.page, table.column, got, table.want)
		}
	}
	for _, found := range matches("infra/aws/template.yaml", alarm) {
		if !strings.Contains(strings.Join(pageNamed("infra/RUNBOOK.md").headings, "\n"), found) {
			t.Errorf("infra/RUNBOOK.md has no heading for the alarm %s", found)
		}
	}
	steps := strings.Join(pageNamed("infra/RUNBOOK.md").prose, "\n")
	for _, step := range matches(errorsFile, `Step += "(\w+)"`) {
		if !strings.Contains(steps, "`"+step+"`") {
			t.Errorf("infra/RUNBOOK.md does not name the step %s", step)
		}
	}
}

// errorsFile has the kinds and steps of errors.
const errorsFile = "functions/internal/rotation/report.go"

// The table of variables has the defaults of the code.
func TestDefaultsAreTrue(t *testing.T) {
	defaults := map[string]string{}
	for _, tag := range regexp.MustCompile(`env:"(\w+)" envDefault:"([^"]*)"`).FindAllStringSubmatch(fileText("functions/internal/config/config.go"), -1) {
		defaults[tag[1]] = tag[2]
	}
	for _, row := range rows(t, "functions/rotate/README.md", "variable") {
		if name, stated := spansOf(row[0])[0], strings.Join(spansOf(row[len(row)-1]), ""); stated != defaults[name] {
			t.Errorf("the page states %q as the default of %s, it is %q", stated, name, defaults[name])
		}
	}
}

// calls are, by step, the service that is called and a fault of that call.
var calls = map[string]struct {
	who   string
	fault ibmcloudtest.Fault
}{
	"bootstrap": {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityBootstrap}},
	"exchange":  {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload}},
	"check":     {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Body: "{}"}},
	"look":      {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata}},
	"read_key":  {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet}},
	"save":      {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate}},
}

var statusShape = regexp.MustCompile(`\b\d{3}\b`)

// TestIBMAnswers tries each row of the table of IBM's answers: when the sandbox answers so, the function must fail at
// that step, with that kind, and its message must have the status and code before its advice.
func TestIBMAnswers(t *testing.T) {
	t.Parallel()
	for _, row := range rows(t, "infra/RUNBOOK.md", "who") {
		for _, answer := range strings.Split(row[1], ", ") {
			for _, step := range spansOf(row[2]) {
				c := calls[step]
				if c.who == "" || c.who != row[0] && row[0] != "either" {
					t.Errorf("%s is not called at the step %q", row[0], step)
					continue
				}
				t.Run(fmt.Sprint(row[0], " ", answer, " at ", step), func(t *testing.T) {
					t.Parallel()
					tryAnswer(t, c.fault, answer, step, spansOf(row[3])[0])
				})
			}
		}
	}
}

func tryAnswer(t *testing.T, fault ibmcloudtest.Fault, answer, step, kind string) {
	f := newFunction(t)
	fault.Status, _ = strconv.Atoi(statusShape.FindString(answer))
	code := strings.Join(spansOf(answer), "")
	switch {
	case strings.HasPrefix(code, "BXN"):
		fault.Body = `{"errorCode":"` + code + `","errorMessage":"No."}`
	case code != "":
		fault.Body = `{"errors":[{"code":"` + code + `","message":"No."}]}`
	case strings.Contains(answer, "web page"):
		fault.Body = "<html><body>Welcome</body></html>"
	}
	f.cloud.MustAddFault(fault)
	var report struct {
		Results []struct {
			Error struct{ Step, Kind, Message string } `json:"error"`
		} `json:"results"`
	}
	got := f.run("-json", "-timeout", "2s") // retried until then
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil || len(report.Results) != 1 {
		t.Fatalf("no report: %v: %s", err, got.All())
	}
	failure := report.Results[0].Error
	want := strings.TrimSpace(fmt.Sprint("answered ", fault.Status, " ", code))
	if failure.Step != step || failure.Kind != kind || fault.Status != 200 && !strings.Contains(failure.Message, want+": ") {
		t.Errorf("got %s: %s: %s; want %s: %s with %q", failure.Step, failure.Kind, failure.Message, step, kind, want)
	}
}

// Each message in the table of messages is in the sources.
func TestMessagesExist(t *testing.T) {
	var sources strings.Builder
	for _, file := range repositoryFiles() {
		ours := strings.HasPrefix(file, "functions/") || strings.HasPrefix(file, "scripts/")
		if ours && !strings.HasSuffix(file, "_test.go") && !strings.HasSuffix(file, ".md") {
			sources.WriteString(fileText(file))
		}
	}
	joined := regexp.MustCompile(`" \+\s+"`).ReplaceAllString(sources.String(), "")
	for _, row := range rows(t, "infra/RUNBOOK.md", "in a message or warning") {
		if message := spansOf(row[0])[0]; !strings.Contains(joined, message) {
			t.Errorf("infra/RUNBOOK.md: no source has the message %q", message)
		}
	}
}

// Each synopsis is what the program prints with -h.
func TestSynopses(t *testing.T) {
	t.Parallel()
	for _, b := range blocks("text") {
		if b.purpose != "usage" {
			continue
		}
		for line := range strings.Lines(b.text) {
			words := strings.Fields(line)
			program := filepath.Join(programsFolder(t), words[0])
			if words[0] == "iam-token" {
				program = filepath.Join(root, "scripts", "iam-token")
			}
			got := programs.Run(t, programs.Command{Env: []string{"PATH=" + os.Getenv("PATH")}, Name: program, Args: []string{"-h"}})
			if !strings.Contains(strings.Join(strings.Fields(got.All()), " "), strings.Join(words, " ")) {
				t.Errorf("%s: %s -h does not print %q", b.where, words[0], strings.Join(words, " "))
			}
		}
	}
}

// The table of packages has each package, with the packages of this module that it imports. Tests do not count.
func TestPackagesAreListed(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "-f", `{{if .GoFiles}}{{.ImportPath}} {{join .Imports " "}}{{end}}`, "./...")
	list.Dir = root
	printed, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for line := range strings.Lines(string(printed)) {
		var ours []string
		for _, imported := range strings.Fields(line)[1:] {
			if strings.HasPrefix(imported, "iam-token-rotator/") {
				ours = append(ours, path.Base(imported))
			}
		}
		slices.Sort(ours)
		want = append(want, fmt.Sprint(strings.TrimPrefix(strings.Fields(line)[0], "iam-token-rotator/"), " imports ", ours))
	}
	for _, row := range rows(t, "functions/README.md", "package") {
		imports := spansOf(row[2])
		slices.Sort(imports)
		got = append(got, fmt.Sprint(spansOf(row[0])[0], " imports ", imports))
	}
	for _, line := range append(slices.Clone(got), want...) {
		if slices.Contains(got, line) != slices.Contains(want, line) {
			t.Errorf("%s: functions/README.md lists this: %t, which is wrong", line, slices.Contains(got, line))
		}
	}
}
