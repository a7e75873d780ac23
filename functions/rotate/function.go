package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/events"
	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// function is the Lambda host: event in, report out. It implements lambda.Handler.
type function struct {
	ready         chan struct{} // closed when the fields below are set
	service       *service
	config        config.Config
	misconfigured error // what is wrong with the configuration; nil if nothing is
	log           *slog.Logger
	report        *slog.Logger // for reports and diagnoses, whatever LOG_LEVEL is
	metrics       metrics.Emitter
}

// newFunction returns at once. It prepares the function in parallel, while the Runtime API
// answers the request for the first event.
func newFunction(name string, environ []string, out io.Writer) *function {
	f := &function{ready: make(chan struct{})}
	go func() {
		defer close(f.ready)
		f.prepare(name, environ, out)
	}()
	return f
}

// prepare reads the configuration. If that is faulty, the function starts all the same and
// each invocation fails: a crash at the start would lose the message.
func (f *function) prepare(name string, environ []string, out io.Writer) {
	f.config, f.misconfigured = config.Load(environ, os.ReadFile)
	f.log = newLogger(out, f.config.LogLevel)
	f.report = newLogger(out, slog.LevelDebug)
	f.metrics = metrics.Emitter{
		Writer: out, Namespace: f.config.MetricsNamespace, FunctionName: name,
		Now: time.Now,
	}
	for _, r := range f.config.Rotations {
		f.metrics.Rotations = append(f.metrics.Rotations, r.Name)
	}
	if f.misconfigured != nil {
		return
	}
	if f.service, f.misconfigured = newService(f.config, invocationFor); f.misconfigured == nil {
		f.service.connectEarly()
	}
}

// Invoke answers an event. A run answers with its report or, if a rotation failed, with an
// error that fails the invocation. A diagnosis never fails it.
func (f *function) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	<-f.ready
	requestID := "unknown-request"
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		requestID = lc.AwsRequestID
	}
	e, err := decodeEvent(payload)
	err = cmp.Or(f.misconfigured, err)
	if e.mode == modeDoctor {
		return f.diagnose(ctx, e, err, requestID)
	}
	e.runID = cmp.Or(e.runID, requestID)
	return f.run(ctx, e, err, requestID)
}

// run runs the event's rotations, unless err says what is wrong with the configuration or the event.
func (f *function) run(ctx context.Context, e event, err error, requestID string) ([]byte, error) {
	log := f.log.With("request_id", requestID)
	var ran report.Report
	if err == nil {
		ran, err = f.service.run(ctx, e, log)
	}
	if err != nil {
		log.Error("the run could not begin", "invoked_by", e.invokedBy, "force", e.force, "error", err)
		if err := f.metrics.EmitFailure(); err != nil {
			return nil, err
		}
		return nil, &RotationRefused{string(rotation.Misconfigured) + ": " + strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	f.report.Info("report", "request_id", requestID, "report", ran)
	if err := f.metrics.Emit(ran); err != nil {
		return nil, err
	}
	failed := ran.Failures()
	switch {
	case len(failed) == 0:
		return json.Marshal(ran)
	case slices.ContainsFunc(failed, func(r report.Result) bool { return !r.Error.Permanent }):
		return nil, &RotationError{summary(ran)}
	}
	return nil, &RotationRefused{summary(ran)}
}

// The errors of a failed invocation. Lambda reports the name of the type as errorType, and the
// caller decides by it whether to invoke again.
type (
	// RotationError is the error if another invocation may succeed.
	RotationError struct{ message string }
	// RotationRefused is the error if a person has to act: another invocation would fail, too.
	RotationRefused struct{ message string }
)

// Error returns the message.
func (e *RotationError) Error() string { return e.message }

// Error returns the message.
func (e *RotationRefused) Error() string { return e.message }

// maxNamed is how many failures or unknown names an error message lists.
const maxNamed = 10

// summary names the first failures of a report: rotation, step, kind, message.
func summary(ran report.Report) string {
	failed := ran.Failures()
	parts := []string{fmt.Sprintf("%d of %d rotations failed", len(failed), len(ran.Results))}
	for _, result := range failed[:min(len(failed), maxNamed)] {
		parts = append(parts, fmt.Sprintf("%s: %v", result.Rotation, result.Error))
	}
	if more := len(failed) - maxNamed; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more, see the report in the log", more))
	}
	return strings.Join(parts, "; ")
}

// diagnose answers {"mode":"doctor"}. err says what is wrong with the configuration or the event;
// that is a finding like any other. The invocation does not fail and no metric counts it,
// because that would raise the alarms about rotations.
func (f *function) diagnose(ctx context.Context, e event, err error, requestID string) ([]byte, error) {
	var diagnosis report.Diagnosis
	if err == nil {
		diagnosis, err = diagnose(ctx, f.config, e.rotations, invocationFor)
	}
	if err != nil {
		diagnosis = doctor.Misconfigured(err)
	}
	f.report.Info("diagnosis", "request_id", requestID, "diagnosis", diagnosis)
	return json.Marshal(diagnosis)
}

// invocationFor is the function's rotation.HowToRun.
func invocationFor(rotation string, force bool) string {
	forced := ""
	if force {
		forced = `,"force":true`
	}
	return `invoke the function with {"mode":"rotate","rotations":["` + rotation + `"]` + forced + `}`
}

// event is what an invocation asks for.
type event struct {
	mode      rotation.Mode
	rotations []string // empty means all
	force     bool
	runID     string // empty when the event names none
	invokedBy string // schedule, person or batch
}

// modeDoctor is the mode of an event that runs nothing: it checks what rotations rely on.
const modeDoctor rotation.Mode = "doctor"

// maxEvent is the maximum size of an event in bytes, enough for tens of thousands of names.
const maxEvent = 1 << 20

// decodeEvent reads an event. Nothing, null, {} and an event of EventBridge (one
// with source and detail-type) mean: rotate everything. Anything else is the
// manual form, {"mode","rotations","force","run_id"}, in which an unknown field is an error,
// because a misspelt one must not mean "everything". An event of both forms is an error, too.
// With an error, the event has what could be read.
func decodeEvent(payload []byte) (event, error) {
	e := event{mode: rotation.ModeRotate, invokedBy: "person"}
	payload = bytes.TrimSpace(payload)
	if len(payload) == 0 || string(payload) == "null" {
		return e, nil
	}
	if len(payload) > maxEvent {
		return e, fmt.Errorf("the event has %d bytes, %d at most: name fewer rotations, or leave the field out for all", len(payload), maxEvent)
	}
	fields, err := fieldsOf(payload)
	if err != nil {
		return e, err
	}
	names := slices.Sorted(maps.Keys(fields))
	if source := textOf(fields["source"]); source != "" && textOf(fields["detail-type"]) != "" {
		e.invokedBy = "schedule"
		return e, checkEventBridge(names, source)
	}
	for _, name := range names {
		err = cmp.Or(err, e.set(name, fields[name]))
	}
	e.invokedBy = invokerOf(e)
	return e, err
}

// fieldsOf reads a JSON object. A repeated field is an error: either may be meant.
func fieldsOf(payload []byte) (map[string]json.RawMessage, error) {
	if !json.Valid(payload) || payload[0] != '{' {
		return nil, errors.New(`the event is not a JSON object: send {} or {"mode":"rotate"}`)
	}
	fields := map[string]json.RawMessage{}
	for name, value := range config.Fields(payload) {
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("the event has the field %s twice", quote(name))
		}
		fields[name] = value
	}
	return fields, nil
}

// textOf is the text of a JSON string, and empty for any other value.
func textOf(value json.RawMessage) (text string) {
	if json.Unmarshal(value, &text) != nil {
		return ""
	}
	return text
}

// checkEventBridge rejects an event of EventBridge that also has a field of the manual form,
// misspelt or not: it may not have been meant to rotate everything. It also rejects the
// events that this function puts on a bus itself.
func checkEventBridge(names []string, source string) error {
	if i := slices.IndexFunc(names, isManual); i >= 0 {
		return fmt.Errorf("the event has source and detail-type, as EventBridge's have, and also %s: send either an event of a rule, "+
			"which rotates everything, or mode, rotations, force and run_id alone", quote(names[i]))
	}
	if source == events.Source {
		return fmt.Errorf("the event is from %s itself: take that source out of the rule, since each token would make the next one", source)
	}
	return nil
}

// isManual reports whether name resembles a field of the manual form or a mode: only its
// letters count, in any case. So does a name with characters outside ASCII, which may only look
// like letters of ours; EventBridge's own fields have none.
func isManual(name string) bool {
	letters := strings.Map(func(r rune) rune {
		if r < 'a' || r > 'z' {
			return -1
		}
		return r
	}, strings.ToLower(name))
	own := []string{"mode", "rotation", "force", "runid", "check", "ensure", "rotate", "doctor"}
	return slices.Contains(own, strings.TrimSuffix(letters, "s")) || strings.ContainsFunc(name, func(r rune) bool { return r > '~' })
}

// invokerOf finds by the run id who sent the manual form: the schedules' run ids are
// MODE-<time>, those of a fleet's batches MODE-<execution>.
func invokerOf(e event) string {
	id, named := strings.CutPrefix(e.runID, string(e.mode)+"-")
	if !named {
		return "person"
	}
	if _, err := time.Parse(time.RFC3339, id); err == nil {
		return "schedule"
	}
	if len(e.rotations) > 0 {
		return "batch"
	}
	return "person"
}

// set sets one field of the manual form, by its exact name.
func (e *event) set(name string, value json.RawMessage) error {
	target, known := map[string]any{"mode": &e.mode, "rotations": &e.rotations, "force": &e.force, "run_id": &e.runID}[name]
	if !known {
		return fmt.Errorf("the event has an unknown field %s: it may have mode, rotations, force and run_id", quote(name))
	}
	if string(value) == "null" || json.Unmarshal(value, target) != nil {
		return fmt.Errorf(`the event's %s has the wrong type: {"mode":"rotate","rotations":["name"],"force":false,"run_id":"…"}`, name)
	}
	switch {
	case name == "mode" && e.mode != modeDoctor:
		return checkMode(e.mode)
	case name == "run_id":
		return rotation.CheckRunID(e.runID)
	case name == "rotations" && len(e.rotations) == 0:
		return errors.New("the event's rotations are empty: name some, or leave the field out for all")
	}
	return nil
}

func checkMode(mode rotation.Mode) error {
	modes := []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure, rotation.ModeCheck}
	if !slices.Contains(modes, mode) {
		return fmt.Errorf("mode %s is not known: use rotate, ensure or check, or doctor: in an event as its mode, in a command as its first word", quote(string(mode)))
	}
	return nil
}

// quote quotes a value for a message, unless it is long enough to be an API key.
func quote(value string) string { return config.Quote(value, 39) }

// choose returns the configured rotations of these names, in their order, or all if there are none.
func choose(configured []rotation.Rotation, names []string) ([]rotation.Rotation, error) {
	if len(names) == 0 {
		return configured, nil
	}
	byName := make(map[string]rotation.Rotation, len(configured))
	for _, r := range configured {
		byName[r.Name] = r
	}
	var chosen []rotation.Rotation
	var unknown []string
	for _, name := range names {
		r, ok := byName[name]
		if !ok {
			unknown = append(unknown, quote(name))
			continue
		}
		delete(byName, name) // so that a repeated name is unknown
		chosen = append(chosen, r)
	}
	if len(unknown) == 0 {
		return chosen, nil
	}
	if more := len(unknown) - maxNamed; more > 0 {
		unknown = append(unknown[:maxNamed], fmt.Sprintf("and %d more", more))
	}
	return nil, fmt.Errorf("no rotation is called %s, or it is named twice: see ROTATIONS (one given by API_KEY_SECRET is called \"default\")",
		strings.Join(unknown, ", "))
}
