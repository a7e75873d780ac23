package aws_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
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

// made is a template as CloudFormation creates it, with its conditions and the values of parameters and references.
type made struct {
	t      *testing.T
	tmpl   object
	holds  map[string]bool
	values map[string]string // by name; others become <name>
}

// of resolves the functions in a value.
func (m made) of(value any) any {
	m.t.Helper()
	if list, ok := value.([]any); ok {
		var resolved []any
		for _, item := range list {
			resolved = append(resolved, m.of(item))
		}
		return resolved
	}
	fields, ok := value.(object)
	if !ok {
		return value
	}
	resolved := object{}
	for name, argument := range fields {
		arguments, _ := argument.([]any)
		switch name {
		case "Ref":
			return m.named(argument.(string), nil)
		case "Fn::GetAtt":
			return m.named(fmt.Sprint(arguments[0], ".", arguments[1]), nil)
		case "Fn::If":
			if m.holds[arguments[0].(string)] {
				return m.of(arguments[1])
			}
			return m.of(arguments[2])
		case "Fn::FindInMap":
			return at(m.t, m.tmpl, append([]any{"Mappings"}, m.of(arguments).([]any)...)...)
		case "Fn::Split":
			var parts []any
			for part := range strings.SplitSeq(m.of(arguments[1]).(string), arguments[0].(string)) {
				parts = append(parts, part)
			}
			return parts
		case "Fn::Select":
			return m.of(arguments[1]).([]any)[arguments[0].(int)]
		case "Fn::Sub":
			return m.substituted(argument)
		}
		resolved[name] = m.of(argument)
	}
	return resolved
}

// substituted is a text with its ${names} resolved, in one pass.
func (m made) substituted(argument any) string {
	text, variables := argument, object{}
	if parts, ok := argument.([]any); ok {
		text, variables = parts[0], m.of(parts[1]).(object)
	}
	return regexp.MustCompile(`\$\{[^}]*\}`).ReplaceAllStringFunc(text.(string), func(found string) string {
		if literal, ok := strings.CutPrefix(found, "${!"); ok {
			return "${" + literal
		}
		return m.named(strings.Trim(found, "${}"), variables)
	})
}

func (m made) named(name string, variables object) string {
	if value, ok := variables[name]; ok {
		return fmt.Sprint(value)
	}
	if value, ok := m.values[name]; ok {
		return value
	}
	if parameter, ok := m.tmpl["Parameters"].(object)[name].(object); ok && parameter["Default"] != nil {
		return fmt.Sprint(parameter["Default"])
	}
	return "<" + name + ">"
}

func inStack(t *testing.T, holds ...string) made {
	m := made{t: t, tmpl: template(t), holds: map[string]bool{}, values: map[string]string{
		"AWS::StackName": "tokens", "AWS::AccountId": "123456789012", "AWS::Region": "eu-central-1", "AWS::Partition": "aws", "Function": "tokens"}}
	for _, condition := range holds {
		m.holds[condition] = true
	}
	return m
}

// alarms are those that the stack has, by the last part of their names.
func (m made) alarms() map[string]object {
	found := map[string]object{}
	for _, alarm := range ofType(m.t, m.tmpl, "AWS::CloudWatch::Alarm") {
		if condition, ok := alarm["Condition"].(string); !ok || m.holds[condition] {
			resolved := m.of(alarm["Properties"]).(object)
			found[strings.TrimPrefix(resolved["AlarmName"].(string), "tokens-")] = resolved
		}
	}
	return found
}

// The text of an alarm says what it means for readers, in which account, region and stack, what to run first, and which section
// to read. That section begins with the same command.
func TestAlarmTexts(t *testing.T) {
	t.Parallel()
	pages := map[string]string{"infra/RUNBOOK.md": textOf(t, "../RUNBOOK.md"), "infra/aws/README.md": textOf(t, "README.md")}
	_, pages["infra/aws/README.md"], _ = strings.Cut(pages["infra/aws/README.md"], "\n### Fleet alarms\n")
	form := regexp.MustCompile(`^(?i:.*\breaders\b.*|.*nothing fails before.*) First, in account 123456789012: AWS_REGION=eu-central-1 (make (?:status|logs|invoke MODE=(?:doctor|ensure|rotate))) STACK=tokens\. Then (\S+)$`)
	for file, stack := range map[string]struct {
		alarms                   int
		page, anchor, begin, end string // of what is about the alarm NAME
	}{
		"template.yaml": {len(alarmRules), "infra/RUNBOOK.md", "NAME", "\n### NAME\n", "\n### "},
		"fleet.yaml":    {len(fleetAlarmRules) + 3, "infra/aws/README.md", "fleet-alarms", "`NAME`", "\n"},
	} {
		m := inStack(t, "HasList", "RenewsKey")
		m.tmpl = parsed(t, textOf(t, file))
		alarms := m.alarms()
		want(t, file+": alarms", len(alarms), stack.alarms)
		for name, alarm := range alarms {
			text := alarm["AlarmDescription"].(string)
			parts := form.FindStringSubmatch(text)
			if parts == nil || len(text) > 1024 {
				t.Errorf("%s, %s: the text has not the form of the others, or more than 1024 characters: %s", file, name, text)
				continue
			}
			want(t, file+", "+name+": the section", parts[2], stack.page+"#"+strings.ReplaceAll(stack.anchor, "NAME", name))
			_, section, found := strings.Cut(pages[stack.page], strings.ReplaceAll(stack.begin, "NAME", name))
			section, _, _ = strings.Cut(section, stack.end)
			if first := regexp.MustCompile("`make [^`]*`").FindString(section); !found || first != "`"+parts[1]+"`" {
				t.Errorf("%s, %s: the page begins with %s, the text says %s", file, name, first, parts[1])
			}
		}
	}
}

type widget struct {
	Type                string
	X, Y, Width, Height int
	Properties          struct {
		Title, Region, View, Query string
		Metrics                    [][]any
		Alarms                     []string
		Annotations                struct{ Horizontal []struct{ Value float64 } }
	}
}

func (m made) dashboard() map[string]widget {
	m.t.Helper()
	var body struct {
		PeriodOverride string
		Widgets        []widget
	}
	text := m.of(properties(m.t, m.tmpl, "Dashboard")["DashboardBody"]).(string)
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		m.t.Fatalf("the dashboard is no JSON: %v\n%s", err, text)
	}
	want(m.t, "the periods are kept whatever the time range", body.PeriodOverride, "inherit")
	titled := map[string]widget{}
	for i, w := range body.Widgets {
		for _, other := range body.Widgets[:i] {
			if w.X < other.X+other.Width && other.X < w.X+w.Width && w.Y < other.Y+other.Height && other.Y < w.Y+w.Height {
				m.t.Errorf("%q lies over %q", w.Properties.Title, other.Properties.Title)
			}
		}
		if w.X+w.Width > 24 || w.Type != "alarm" && w.Properties.Region != "eu-central-1" {
			m.t.Errorf("%q is wider than the dashboard, or of the region %q", w.Properties.Title, w.Properties.Region)
		}
		titled[w.Properties.Title] = w
	}
	want(m.t, "titles", len(titled), len(body.Widgets))
	return titled
}

// The dashboard has every alarm that the stack has and no other, and the threshold that is set.
func TestDashboard(t *testing.T) {
	t.Parallel()
	for _, holds := range [][]string{{}, {"HasList"}, {"RenewsKey"}, {"HasList", "RenewsKey"}} {
		m := inStack(t, holds...)
		alarms := []string{}
		for _, name := range m.dashboard()["Alarms"].Properties.Alarms {
			alarms = append(alarms, strings.TrimPrefix(name, "arn:aws:cloudwatch:eu-central-1:123456789012:alarm:tokens-"))
		}
		slices.Sort(alarms)
		want(t, fmt.Sprint("alarms, ", holds), alarms, slices.Sorted(maps.Keys(m.alarms())))
	}
	m := inStack(t)
	for _, minutes := range []string{"8", "25", "49"} {
		m.values["MinRemaining"] = minutes + "m"
		lines := m.dashboard()["Remaining lifetime of the stored token"].Properties.Annotations.Horizontal
		set, err := strconv.ParseFloat(minutes, 64)
		if err != nil || len(lines) != 2 || lines[0].Value != set || lines[1].Value*60 != float64(properties(t, m.tmpl, "StoredLifeAlarm")["Threshold"].(int)) {
			t.Errorf("MinRemaining %sm: got the lines %v", minutes, lines)
		}
	}
	// A number of minutes and nothing else: the line above is that number.
	checkPatterns(t, m.tmpl, map[string]values{"MinRemaining": {[]string{"8m", "49m"}, []string{"", "8", "480s", "1h", "8m30s", "08m", "7m", "50m"}}})
	left := m.dashboard()["Minutes left (token that expires first)"]
	want(t, "one number, large", left.Properties.View, "singleValue")
	for i, expression := range []string{"FLOOR(IF(expiry, expiry - EPOCH(expiry)) / 60)", "FILL(IF(left, left + EPOCH(left)), REPEAT)"} { // it counts on in silence
		want(t, "minutes left", left.Properties.Metrics[i][0].(map[string]any)["expression"], expression)
	}
	page := textOf(t, "README.md")
	for title := range m.dashboard() {
		name := regexp.MustCompile(`^[^(:]*[^(: ]`).FindString(title)
		want(t, name+" is on the page", strings.Contains(page, "\n| "+name+" | "), true)
	}
	want(t, "what failed last", m.dashboard()["What failed last"].Properties.Query, "SOURCE '<LogGroup>' | "+show(m.of(properties(t, m.tmpl, "WhatFailedQuery")["QueryString"])))
}

// A logLine is a line as CloudWatch Logs Insights sees it: its fields by their paths.
type logLine map[string]string

func logLineOf(line string) logLine {
	fields := logLine{"@message": line, "@timestamp": "now"}
	var document map[string]any
	if json.Unmarshal([]byte(line), &document) != nil {
		return fields
	}
	var walk func(path string, value any)
	walk = func(path string, value any) {
		inner, ok := value.(map[string]any)
		if !ok {
			fields[path] = fmt.Sprint(value)
		}
		for name, value := range inner {
			walk(strings.TrimPrefix(path+"."+name, "."), value)
		}
	}
	walk("", document)
	return fields
}

var comparison = regexp.MustCompile(`^(?:(\S+) (=|!=) '([^']*)'|ispresent\((\S+)\)|(\S+) like /(.*)/)$`)

// matches is the filter of a query: comparisons with "and" in parentheses, and "or" between those.
func (l logLine) matches(t *testing.T, filter string) bool {
	t.Helper()
	for either := range strings.SplitSeq(filter, " or ") {
		all := true
		for one := range strings.SplitSeq(strings.TrimSuffix(strings.TrimPrefix(either, "("), ")"), " and ") {
			c := comparison.FindStringSubmatch(one)
			if c == nil {
				c = comparison.FindStringSubmatch(one + ")")
			}
			switch {
			case c == nil:
				t.Fatalf("the test does not know %q", one)
			case c[4] != "":
				all = all && l[c[4]] != ""
			case c[5] != "":
				all = all && regexp.MustCompile(c[6]).MatchString(l[c[5]])
			default:
				all = all && l[c[1]] != "" && (l[c[1]] == c[3]) == (c[2] == "=")
			}
		}
		if all {
			return true
		}
	}
	return false
}

// Each saved query finds its lines, and no others, among those that the built function has written; each field of a query is
// in one of them. The function has written each metric that the dashboard draws.
func TestQueriesAndDashboardFitTheLog(t *testing.T) {
	t.Parallel()
	page, lines := textOf(t, "README.md"), runsLogged(t)
	found := map[string]int{}
	for id, query := range ofType(t, template(t), "AWS::Logs::QueryDefinition") {
		m := inStack(t)
		held := m.of(query["Properties"]).(object)
		want(t, id+" is about", held["LogGroupNames"], "[<LogGroup>]")
		name, text := strings.TrimPrefix(held["Name"].(string), "tokens/"), held["QueryString"].(string)
		text = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(text, "")
		filter, rest, _ := strings.Cut(strings.TrimPrefix(text, "filter "), " | ")
		if id == "StoryQuery" { // on lines of its own, after the comment
			filter, rest, _ = strings.Cut(strings.TrimPrefix(text, "filter "), "\n| ")
		}
		want(t, name+" is on the page", strings.Contains(page, "\n| `"+name+"` | "), true)
		matched := logLine{}
		for _, line := range lines {
			if line.matches(t, filter) {
				found[name]++
				maps.Copy(matched, line)
			}
		}
		for _, field := range regexp.MustCompile(`@?[a-z_]+(?:\.[a-z_]+)+|@[a-z]+`).FindAllString(regexp.MustCompile(`/.*/|'[^']*'`).ReplaceAllString(filter+" "+rest, ""), -1) {
			if matched[field] == "" && field != "result.steps_ms.mirror" && field != "result.error.message" { // of a mirror, and of a key's renewal
				t.Errorf("%s: no line that it finds has the field %s", name, field)
			}
		}
	}
	written := logLine{}
	for _, line := range lines {
		maps.Copy(written, line)
	}
	for title, w := range inStack(t).dashboard() {
		var namespace any
		for _, metric := range w.Properties.Metrics {
			if metric[0] != "." { // which repeats the one before
				namespace = metric[0]
			}
			if name := show(metric[min(1, len(metric)-1)]); namespace == "IAMTokenRotator" && written[name] == "" {
				t.Errorf("%s: the function does not write the metric %s", title, name)
			}
		}
	}
	want(t, "lines found", found, map[string]int{"what failed": 4, "margins": 1, "slowest steps": 5, "story of a rotation": 5})
}

// runsLogged are the lines of five runs: two that save a token, one with nothing to do, one that retries, one that fails;
// and of one that could not begin, and one that Lambda ended.
func runsLogged(t *testing.T) []logLine {
	t.Helper()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
	ibm := httptest.NewServer(cloud)
	t.Cleanup(ibm.Close)
	folder := t.TempDir()
	if err := programs.Build(folder, map[string]string{"bootstrap": "functions/rotate", "invoke": "scripts/invoke"}); err != nil {
		t.Fatal(err)
	}
	_ = cloud.MustMintToken(cloud.Rotations()[0].APIKey, time.Hour) // it makes its signing key now
	env := []string{"PATH=" + os.Getenv("PATH"), "LOG_LEVEL=debug", "BOOTSTRAP_EXPIRES_AT=2999-01-31", "SECRETS_MANAGER_URL=" + ibm.URL, "IAM_URL=" + ibm.URL,
		"SECRETS_MANAGER_APIKEY=" + cloud.BootstrapAPIKey(), "API_KEY_SECRET=" + cloud.Rotations()[0].APIKeySecret}
	var lines []logLine
	run := func(event, tokenSecret string) {
		got := programs.Run(t, programs.Command{Env: append(slices.Clone(env), "TOKEN_SECRET="+tokenSecret), Stdin: event, Name: filepath.Join(folder, "invoke"),
			Args: []string{"-event", "-", "--", filepath.Join(folder, "bootstrap")}})
		for printed := bufio.NewScanner(strings.NewReader(got.Stderr)); printed.Scan(); {
			lines = append(lines, logLineOf(printed.Text()))
		}
	}
	token := cloud.Rotations()[0].TokenSecret
	run(`{"mode":"rotate"}`, token)
	run(`{"mode":"rotate"}`, token)
	run(`{"mode":"ensure"}`, token)
	cloud.MustAddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet, Status: 500, Times: 1})
	run(`{"mode":"check"}`, token)
	run(`{"mode":"rotate"}`, "00000000-0000-4000-8000-000000000000")
	run(`{"mode":"rotate"}`, "")
	return append(lines, logLineOf("2026-01-01T00:00:00.000Z 8f1b Task timed out after 120.00 seconds"), logLineOf("RequestId: 8f1b Error: Runtime exited with error: signal: killed"),
		logLineOf("REPORT RequestId: 8f1b\tDuration: 3.00 ms"))
}
