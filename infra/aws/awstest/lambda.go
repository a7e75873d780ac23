package awstest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Lambda is an http.Handler that stands for AWS Lambda, and for everything else: it passes all
// requests on to Moto but two. Invoke it answers by running the deployed zip as Lambda would, with the
// environment that Moto reports, and writing its output to Moto's log. DeleteStack it completes, where
// Moto leaves a log behind. Whoever reaches it can run programs here: serve it on loopback alone.
type Lambda struct {
	Moto    *Moto
	Program string        // the built scripts/invoke
	Timeout time.Duration // of an invocation; if zero, the function's own
	Secrets string        // where functions find AWS Secrets Manager; if empty, Moto

	mu      sync.Mutex
	printed strings.Builder
}

// Function is what AWS Lambda tells of a function.
type Function struct {
	Configuration struct {
		FunctionName, Handler, CodeSha256 string
		Timeout, MemorySize               int // seconds, MB
		Environment                       struct{ Variables map[string]string }
	}
	Code struct{ Location string }
}

// FunctionPath is where AWS Lambda describes a function.
func FunctionPath(name string) string { return "/2015-03-31/functions/" + name }

var invocationPath = regexp.MustCompile("^" + FunctionPath("([^/]+)") + "/invocations$")

func (l *Lambda) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found := invocationPath.FindStringSubmatch(r.URL.Path)
	if found == nil {
		l.passOn(w, r)
		return
	}
	status, description, err := l.Moto.Do(r.Context(), Request{Service: "lambda", Method: http.MethodGet, Path: FunctionPath(found[1])})
	if err != nil {
		refuse(w, err)
		return
	}
	if status != http.StatusOK {
		w.Header().Set("X-Amzn-Errortype", "ResourceNotFoundException")
		w.WriteHeader(status)
		_, _ = w.Write(description)
		return
	}
	event, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, fmt.Errorf("reading the event: %w", err))
		return
	}
	answer, failed, err := l.invoke(r.Context(), description, event)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("X-Amz-Executed-Version", "$LATEST")
	if failed {
		w.Header().Set("X-Amz-Function-Error", "Unhandled")
	}
	_, _ = w.Write(answer)
}

// refuse answers as AWS Lambda does when it has trouble of its own.
func refuse(w http.ResponseWriter, err error) {
	w.Header().Set("X-Amzn-Errortype", "ServiceException")
	w.WriteHeader(http.StatusInternalServerError)
	_ = json.NewEncoder(w).Encode(map[string]string{"Type": "Service", "Message": err.Error()})
}

// invoke runs the function once. The error is this stand-in's own, never the function's.
func (l *Lambda) invoke(ctx context.Context, description, event []byte) (answer []byte, failed bool, err error) {
	var function Function
	if err := json.Unmarshal(description, &function); err != nil {
		return nil, false, fmt.Errorf("reading the function's description: %w", err)
	}
	answer, output, failed, err := l.run(ctx, function, event)
	if err != nil {
		return nil, false, err
	}
	if failed {
		output = append(output, ownWords(answer)...)
	}
	l.mu.Lock()
	l.printed.Write(output)
	l.mu.Unlock()
	return answer, failed, l.Moto.log(ctx, logGroup(function.Configuration.FunctionName), string(output))
}

// ownWords is the line that Lambda itself logs when the function did not come to an answer.
func ownWords(answer []byte) string {
	var failure struct{ ErrorType, ErrorMessage string }
	if json.Unmarshal(answer, &failure) == nil && (failure.ErrorType == "Sandbox.Timedout" || failure.ErrorType == "Runtime.ExitError") {
		return failure.ErrorMessage + "\n"
	}
	return ""
}

// Printed is everything that functions have printed so far.
func (l *Lambda) Printed() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.printed.String()
}

// log writes lines to a log group, as a stream of their own.
func (m *Moto) log(ctx context.Context, group, lines string) error {
	now := time.Now()
	stream := map[string]any{"logGroupName": group, "logStreamName": now.UTC().Format("2006/01/02/15/04/05.000000000")}
	if _, err := m.Call(ctx, "logs", "Logs_20140328.CreateLogStream", stream); err != nil {
		return err
	}
	var events []any
	for line := range strings.Lines(lines) {
		events = append(events, map[string]any{"timestamp": now.UnixMilli(), "message": line})
	}
	stream["logEvents"] = events
	_, err := m.Call(ctx, "logs", "Logs_20140328.PutLogEvents", stream)
	return err
}
