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

// function is the Lambda host: event in, report out. It implements
// lambda.Handler.
type function struct {
	ready         chan struct{} // closed when the fields below are set
	service       *service
	config        config.Config
	misconfigured error // what is wrong with the configuration; every invocation fails with it
	log           *slog.Logger
	report        *slog.Logger // for the line that no log level silences
	metrics       metrics.Emitter
}

// newFunction prepares the function while the Runtime API is asked for the first
// event, in parallel.
func newFunction(name string, environ []string, out io.Writer) *function {
	f := &function{ready: make(chan struct{})}
	go func() {
		defer close(f.ready)
		f.prepare(name, environ, out)
	}()
	return f
}

// prepare reads the configuration. A faulty one does not stop the function here:
// a crash at start would lose the advice.
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

// The errors of a failed invocation: Lambda reports the name of the type as the errorType,
// by which whoever invokes decides whether to try again.
type (
	// RotationError may have passed when it is tried again.
	RotationError struct{ message string }
	// RotationRefused needs a person: no retry changes any of the failures.
	RotationRefused struct{ message string }
)

// Error returns the message.
func (e *RotationError) Error() string { return e.message }

// Error returns the message.
func (e *RotationRefused) Error() string { return e.message }

// Invoke does what the event asks: a run, or a diagnosis.
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
	if e.runID == "" {
		e.runID = requestID
	}
	return f.run(ctx, e, err, requestID)
}

// run runs the event's rotations, unless err says that they cannot begin. The report
// is the response if nothing failed; it is logged in any case.
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

// diagnose is the answer to {"mode":"doctor"}, unless err says that it cannot begin. A
// person asked and reads the answer, so whatever is wrong, a faulty configuration or event
// too, is in the response and in the log: an invocation that fails, or a metric that counts
// it, would raise the alarms that are about rotations.
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

// invocationFor is a rotation.HowToRun.
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

// modeDoctor is no mode of a run: it checks what rotations rely on.
const modeDoctor rotation.Mode = "doctor"

// maxEvent is the greatest size of an event in bytes: that of tens of thousands of names.
const maxEvent = 1 << 20

// decodeEvent reads an event. Nothing, null, {} and an event of EventBridge (one
// with source and detail-type) mean: rotate everything. Anything else is the
// manual form, {"mode","rotations","force","run_id"}, in which an unknown field is an error,
// because a misspelt one must not mean "everything". Both together is an error, too.
// The event returned with an error holds what could be read.
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

// fieldsOf reads a JSON object. A repeated field is an error, because it is
// not known which one is meant.
func fieldsOf(payload []byte) (map[string]json.RawMessage, error) {
	if !json.Valid(payload) || payload[0] != '{' {
		return nil, errors.New(`the event is no JSON object: send {} or {"mode":"rotate"}`)
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

// textOf is a JSON string's text, empty for anything else.
func textOf(value json.RawMessage) (text string) {
	if json.Unmarshal(value, &text) != nil {
		return ""
	}
	return text
}

// checkEventBridge rejects an event that also has the manual form, misspelt or not, since
// it may have been meant to do less than rotate everything, and those that this function
// puts on a bus itself.
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

// isManual reports whether a field's name is one of the manual form or of a mode, whatever
// its case and the characters between or after its letters. EventBridge's own fields are of
// ASCII: any other name only looks like one.
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

// invokerOf reads from the run id who has sent the manual form: the schedules name
// their run by mode and time, the fleet's batches by mode and execution.
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

// set takes one field of the manual form, by its exact name.
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

// quote repeats what is shorter than an API key.
func quote(value string) string { return config.Quote(value, 39) }

// choose returns the rotations named, in that order, or all if none is.
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
			unknown = append(unknown, name)
			continue
		}
		delete(byName, name) // so that a name given twice is caught
		chosen = append(chosen, r)
	}
	if len(unknown) == 0 {
		return chosen, nil
	}
	var quoted []string
	for _, name := range unknown[:min(len(unknown), maxNamed)] {
		quoted = append(quoted, quote(name))
	}
	if more := len(unknown) - maxNamed; more > 0 {
		quoted = append(quoted, fmt.Sprintf("and %d more", more))
	}
	return nil, fmt.Errorf("no rotation is called %s, or it is named twice: see ROTATIONS (one given by API_KEY_SECRET is called \"default\")",
		strings.Join(quoted, ", "))
}
