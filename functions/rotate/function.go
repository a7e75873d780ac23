package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/lambdacontext"

	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/metrics"
	"iam-token-rotator/functions/internal/rotation"
)

// function is the Lambda host: event in, report out. It implements
// lambda.Handler.
type function struct {
	ready   chan struct{} // closed when the fields below are set
	service *service
	config  config.Config
	fault   error // of the configuration; every invocation fails with it
	log     *slog.Logger
	report  *slog.Logger // for the line that no log level silences
	metrics metrics.Emitter
}

// newFunction prepares the function while the Runtime API is asked for the first
// event: neither waits for the other.
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
	cfg, err := config.Load(environ, os.ReadFile)
	f.config, f.fault = cfg, err
	f.log = newLogger(out, cfg.LogLevel)
	f.report = newLogger(out, slog.LevelDebug)
	f.metrics = metrics.Emitter{
		Writer: out, Namespace: cfg.MetricsNamespace, FunctionName: name,
		Rotations: names(cfg.Rotations), BootstrapExpiresAt: cfg.BootstrapExpiresAt, Now: time.Now,
	}
	if f.fault == nil {
		f.service, f.fault = newService(cfg)
	}
}

// RotationError is how an invocation fails: Lambda reports its name as the
// errorType, and alarms and retries go by it.
type RotationError struct{ message string }

// Error returns the message.
func (e *RotationError) Error() string { return e.message }

// Invoke runs one pass. The report is the response if nothing failed; it is
// logged in any case.
func (f *function) Invoke(ctx context.Context, payload []byte) ([]byte, error) {
	<-f.ready
	requestID := "unknown-request"
	if lc, ok := lambdacontext.FromContext(ctx); ok {
		requestID = lc.AwsRequestID
	}
	if named, ok := asksForDoctor(payload); ok {
		return f.examine(ctx, named, requestID)
	}
	log := f.log.With("request_id", requestID)
	report, err := f.run(ctx, payload, requestID, log)
	if err != nil {
		log.Error("the run could not begin", "error", err)
		return nil, f.notBegun(err)
	}
	logResults(log, report)
	f.report.Info("report", "request_id", requestID, "report", report)
	if err := f.metrics.Emit(report); err != nil {
		return nil, err
	}
	if len(report.Failures()) > 0 {
		return nil, &RotationError{summary(report)}
	}
	return json.Marshal(report)
}

func (f *function) run(ctx context.Context, payload []byte, requestID string, log *slog.Logger) (rotation.Report, error) {
	if f.fault != nil {
		return rotation.Report{}, f.fault
	}
	event, err := decodeEvent(payload)
	if err != nil {
		return rotation.Report{}, err
	}
	if event.runID == "" {
		event.runID = requestID
	}
	return f.service.run(ctx, event, log)
}

// notBegun counts and describes a run in which no rotation was tried.
func (f *function) notBegun(cause error) error {
	if err := f.metrics.EmitFailure(); err != nil {
		return err
	}
	return &RotationError{string(rotation.Misconfigured) + ": " + strings.ReplaceAll(cause.Error(), "\n", "; ")}
}

// maxNamed is how many failures an error message names.
const maxNamed = 10

// summary names the first failures of a report: rotation, step, kind, message.
func summary(report rotation.Report) string {
	failed := report.Failures()
	parts := []string{fmt.Sprintf("%d of %d rotations failed", len(failed), len(report.Results))}
	for _, result := range failed[:min(len(failed), maxNamed)] {
		parts = append(parts, fmt.Sprintf("%s: %v", result.Rotation, result.Error))
	}
	if more := len(failed) - maxNamed; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more, see the report in the log", more))
	}
	return strings.Join(parts, "; ")
}

// event is what an invocation asks for.
type event struct {
	mode      rotation.Mode
	rotations []string // empty means all
	force     bool
	runID     string // empty when the event names none
}

// decodeEvent reads an event. Nothing, null, {} and an event of EventBridge (one
// with source and detail-type) mean: rotate everything. Anything else is the
// manual form, {"mode","rotations","force","run_id"}, in which an unknown field
// is an error, since a misspelt one must not mean "everything".
func decodeEvent(payload []byte) (event, error) {
	all := event{mode: rotation.ModeRotate}
	payload = bytes.TrimSpace(payload)
	if len(payload) == 0 || string(payload) == "null" {
		return all, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(payload, &fields); err != nil {
		return event{}, errors.New(`the event is no JSON object: send {} or {"mode":"rotate"}`)
	}
	if isText(fields["source"]) && isText(fields["detail-type"]) {
		return all, nil
	}
	manual := all
	for name, value := range fields {
		if err := manual.set(name, value); err != nil {
			return event{}, err
		}
	}
	return manual, nil
}

func isText(value json.RawMessage) bool {
	var text string
	return len(value) > 0 && json.Unmarshal(value, &text) == nil && text != ""
}

// set takes one field of the manual form, by its exact name.
func (e *event) set(name string, value json.RawMessage) error {
	var target any
	switch name {
	case "mode":
		target = &e.mode
	case "rotations":
		target = &e.rotations
	case "force":
		target = &e.force
	case "run_id":
		target = &e.runID
	default:
		return fmt.Errorf("the event has an unknown field %s: it may have mode, rotations, force and run_id", short(name))
	}
	if string(value) == "null" || json.Unmarshal(value, target) != nil {
		return fmt.Errorf(`the event's %s has the wrong type: {"mode":"rotate","rotations":["name"],"force":false,"run_id":"…"}`, name)
	}
	return e.check(name)
}

func (e *event) check(name string) error {
	switch name {
	case "mode":
		if e.mode == modeDoctor {
			return nil
		}
		return checkMode(e.mode)
	case "run_id":
		return rotation.CheckRunID(e.runID)
	case "rotations":
		if len(e.rotations) == 0 {
			return errors.New("the event's rotations are empty: name some, or leave the field out for all")
		}
	}
	return nil
}

func checkMode(mode rotation.Mode) error {
	modes := []rotation.Mode{rotation.ModeRotate, rotation.ModeEnsure, rotation.ModeCheck}
	if !slices.Contains(modes, mode) {
		return fmt.Errorf("mode %s is not known: use rotate, ensure or check, or doctor as an event's mode or the command's first word", short(string(mode)))
	}
	return nil
}

// short quotes a value that is too short to be a key or a token, and tells the
// length of any other: people paste into the wrong place.
func short(value string) string {
	if len(value) >= 40 {
		return fmt.Sprintf("(%d characters, not repeated here)", len(value))
	}
	return strconv.Quote(value)
}

// choose returns the rotations named, in that order, or all if none is.
func choose(configured []rotation.Rotation, names []string) ([]rotation.Rotation, error) {
	if len(names) == 0 {
		return configured, nil
	}
	byName := make(map[string]rotation.Rotation, len(configured))
	for _, r := range configured {
		byName[r.Name] = r
	}
	chosen := make([]rotation.Rotation, 0, len(names))
	var unknown []string
	for _, name := range names {
		r, ok := byName[name]
		if !ok {
			unknown = append(unknown, short(name))
			continue
		}
		delete(byName, name) // so that a name given twice is caught
		chosen = append(chosen, r)
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("no rotation is called %s, or it is named twice: see ROTATIONS (one given by API_KEY_SECRET is called \"default\")",
			strings.Join(unknown, ", "))
	}
	return chosen, nil
}
