package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
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
