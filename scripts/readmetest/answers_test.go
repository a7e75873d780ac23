package readmetest

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

// calls are what a step asks of IBM Cloud, with the service that answers and the step to fail it.
var calls = map[string]struct {
	who  string
	call ibmcloudtest.Fault
}{
	"bootstrap": {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityBootstrap}},
	"exchange":  {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload}},
	"check":     {"IAM", ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Identity: ibmcloudtest.IdentityWorkload, Body: "{}"}},
	"look":      {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsMetadata}},
	"read_key":  {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpSecretsGet}},
	"save":      {"Secrets Manager", ibmcloudtest.Fault{Op: ibmcloudtest.OpVersionsCreate}},
}

var statusShape = regexp.MustCompile(`\b\d{3}\b`)

// Each row of the table of IBM's answers is tried: the cloud answers so, and the function must fail at
// that step, with that kind, repeating that code.
func TestAnswersAreToldRight(t *testing.T) {
	for _, row := range readme(t).rows(t, "By what IBM answers", "who") {
		who, answers, kind := row[0], row[1], spans(row[3])[0]
		for _, answer := range strings.Split(answers, ", ") {
			for _, step := range spans(row[2]) {
				c := calls[step]
				if c.who == "" || who != c.who && who != "either" {
					t.Errorf("%s is not asked at the step %q", who, step)
					continue
				}
				t.Run(fmt.Sprint(who, " ", answer, " at ", step), func(t *testing.T) {
					t.Parallel()
					tryAnswer(t, c.call, answer, step, kind)
				})
			}
		}
	}
}

func tryAnswer(t *testing.T, fault ibmcloudtest.Fault, answer, step, kind string) {
	f := newFunction(t)
	var err error
	if fault.Status, err = strconv.Atoi(statusShape.FindString(answer)); err != nil {
		t.Fatalf("%q names no status", answer)
	}
	code := strings.Join(spans(answer), "")
	switch {
	case strings.HasPrefix(code, "BXN"):
		fault.Body = `{"errorCode":"` + code + `","errorMessage":"No."}`
	case code != "":
		fault.Body = `{"errors":[{"code":"` + code + `","message":"No."}]}`
	case strings.Contains(answer, "web page"):
		fault.Body = "<html><body>Welcome</body></html>"
	}
	f.fault(fault)
	var report struct {
		Results []struct {
			Error struct{ Step, Kind, Message string } `json:"error"`
		} `json:"results"`
	}
	got := f.run("-json", "-timeout", "2s") // tried until then, where trying again may help
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil || len(report.Results) != 1 {
		t.Fatalf("no report: %v: %s", err, got.All())
	}
	failure := report.Results[0].Error
	if failure.Step != step || failure.Kind != kind || !strings.Contains(failure.Message, code) {
		t.Errorf("got %s: %s: %s; want %s: %s with %q", failure.Step, failure.Kind, failure.Message, step, kind, code)
	}
}

// IBM's codes are those that the sandbox knows: nobody has made them up for the page.
func TestCodesAreKnown(t *testing.T) {
	known := strings.Join(append(matches(t, "functions/ibmcloudtest/iam.go", `"(BXNIM\w+)"`), matches(t, "functions/ibmcloudtest/apierror.go", `"(secrets-manager\.\w+)"`)...), " ")
	for _, p := range allPages(t) {
		for i, line := range p.lines {
			for _, code := range regexp.MustCompile(`BXN\w+|secrets-manager\.Error\d+`).FindAllString(line, -1) {
				if !strings.Contains(known+" ", code+" ") {
					t.Errorf("%s: the sandbox knows no %s", place(p.path, i+1), code)
				}
			}
		}
	}
}
