package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// runtimeAPI serves the Lambda Runtime API to one process, on a port of its own. Its statuses and error bodies are
// those of AWS's emulator, https://github.com/aws/aws-lambda-runtime-interface-emulator.
type runtimeAPI struct {
	address string       // host:port, the value of AWS_LAMBDA_RUNTIME_API
	polls   chan poll    // each GET …/next, for as long as nobody takes it and its client waits
	answers chan answer  // one for each invocation handed out, or one init error; never blocks the function
	arn     string       // told with each event
	server  *http.Server // closed by close

	mu      sync.Mutex
	phase   phase
	pending string // request id handed out and not yet answered, or ""
}

// phase is where a process is in its life. Initialising ends with its first poll or an init error, whichever is first.
type phase int

const (
	initialising phase = iota
	serving
	initFailed
)

// poll is a process waiting for an event.
type poll struct {
	at    time.Time
	event chan<- invocation // takes one without blocking
}

// invocation is one event as a function gets it.
type invocation struct {
	id       string
	event    []byte
	deadline time.Time
}

// serveRuntimeAPI listens on a free loopback port until close.
func serveRuntimeAPI(arn string) (*runtimeAPI, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serving the Lambda Runtime API: %w", err)
	}
	a := &runtimeAPI{
		address: listener.Addr().String(),
		polls:   make(chan poll),
		answers: make(chan answer, 1),
		arn:     arn,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", a.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", a.answerInvocation(readResponse))
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", a.answerInvocation(readError))
	mux.HandleFunc("POST /2018-06-01/runtime/init/error", a.failInit)
	a.server = &http.Server{Handler: mux}
	go a.server.Serve(listener) // returns when closed
	return a, nil
}

// close ends the connections, waiting polls among them.
func (a *runtimeAPI) close() { a.server.Close() }

// handOut answers the poll with the invocation, whose answer is the next to come out of answers.
func (a *runtimeAPI) handOut(p *poll, inv invocation) {
	a.mu.Lock()
	a.pending = inv.id
	a.mu.Unlock()
	p.event <- inv
}

// endInit goes to the phase, from initialising only, and reports whether that is allowed: any number of polls is, one
// init error is.
func (a *runtimeAPI) endInit(to phase) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase == initialising {
		a.phase = to
		return true
	}
	return a.phase == serving && to == serving
}

// take accepts the answer to the pending invocation, once, and reports whether it did. Any other id is refused: that of
// an invocation that timed out, or was answered already, or never was.
func (a *runtimeAPI) take(id string, got answer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending != id {
		return false
	}
	a.pending = ""
	a.answers <- got
	return true
}

// next serves …/next: it answers when there is an event, however long that takes.
func (a *runtimeAPI) next(w http.ResponseWriter, r *http.Request) {
	if !a.endInit(serving) {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "The runtime has reported an init error")
		return
	}
	event := make(chan invocation, 1)
	select {
	case a.polls <- poll{at: time.Now(), event: event}:
	case <-r.Context().Done():
		return
	}
	select {
	case inv := <-event:
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(inv.deadline.UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", a.arn)
		w.Write(inv.event)
	case <-r.Context().Done():
	}
}

// answerInvocation serves …/response and …/error, which differ in how read understands the request.
func (a *runtimeAPI) answerInvocation(read func(*http.Request) (answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		got, err := read(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
			return
		}
		switch {
		case !a.take(r.PathValue("id"), got):
			refuse(w, http.StatusBadRequest, "InvalidRequestID", "Invalid request ID")
		case got.tooLarge:
			refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge",
				fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", maxPayload))
		default:
			accept(w)
		}
	}
}

// failInit serves …/init/error.
func (a *runtimeAPI) failInit(w http.ResponseWriter, r *http.Request) {
	got, err := readError(r)
	if err != nil {
		refuse(w, http.StatusBadRequest, "TruncatedHTTPRequest", "HTTP request detected as truncated")
		return
	}
	if !a.endInit(initFailed) {
		refuse(w, http.StatusForbidden, "InvalidStateTransition", "The runtime's initialisation is over")
		return
	}
	a.answers <- got
	accept(w)
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintln(w, `{"status":"OK"}`)
}

func refuse(w http.ResponseWriter, status int, errorType, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(functionError{Message: message, Type: errorType})
}

// maxPayload is the largest response of a synchronous invocation, in bytes: 6 MB and 100 bytes, as Lambda's own message
// has it.
const maxPayload = 6*1024*1024 + 100

// What a function says of an error: in a header when it posts one, in trailers when a response breaks off midway.
const (
	errorTypeHeader = "Lambda-Runtime-Function-Error-Type"
	errorBodyHeader = "Lambda-Runtime-Function-Error-Body" // base64 of the error's JSON
)

// answer is the end of an invocation, successful or not.
type answer struct {
	line     []byte // JSON without a line break: the response, or {"errorMessage", "errorType", …}
	failed   bool
	tooLarge bool      // failed, since the response exceeded maxPayload
	at       time.Time // when it was complete
}

// functionError is Lambda's form of an error, to the function and from it.
type functionError struct {
	Message string `json:"errorMessage"`
	Type    string `json:"errorType"`
}

// failure is an answer in place of one that the function did not give.
func failure(errorType, format string, args ...any) answer {
	line, err := json.Marshal(functionError{Message: fmt.Sprintf(format, args...), Type: errorType})
	if err != nil {
		panic(err) // two strings always marshal
	}
	return answer{line: line, failed: true, at: time.Now()}
}

// readResponse reads a response, chunked or not, to its end. An error is in reading it: the request was cut short.
func readResponse(r *http.Request) (answer, error) {
	body, size, err := readPayload(r.Body)
	if err != nil {
		return answer{}, err
	}
	// Trailers exist once the body has been read.
	if errorType, errorBody := r.Trailer.Get(errorTypeHeader), r.Trailer.Get(errorBodyHeader); errorType != "" || errorBody != "" {
		decoded, err := base64.StdEncoding.DecodeString(errorBody)
		if err != nil || len(decoded) == 0 {
			decoded = []byte("the response broke off")
		}
		return errorAnswer(decoded, errorType), nil
	}
	if size > maxPayload {
		a := failure("Function.ResponseSizeTooLarge",
			"Response payload size (%d bytes) exceeded maximum allowed payload size (%d bytes).", size, maxPayload)
		a.tooLarge = true
		return a, nil
	}
	return answer{line: oneLine(body), at: time.Now()}, nil
}

// readError reads an error that the function posts. It is passed on as it is, stack trace and all; a body that is not a
// JSON object becomes the message of one.
func readError(r *http.Request) (answer, error) {
	body, _, err := readPayload(r.Body)
	if err != nil {
		return answer{}, err
	}
	return errorAnswer(body, r.Header.Get(errorTypeHeader)), nil
}

func errorAnswer(body []byte, errorType string) answer {
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil || object == nil {
		return failure(cmp.Or(errorType, "Runtime.Unknown"), "%s", body)
	}
	return answer{line: oneLine(body), failed: true, at: time.Now()}
}

// readPayload reads body to its end, since the function sends all of it before it looks at the status, and keeps no more
// than maxPayload bytes. size is all that there was.
func readPayload(body io.Reader) (kept []byte, size int64, err error) {
	kept, err = io.ReadAll(io.LimitReader(body, maxPayload))
	if err != nil {
		return nil, 0, err
	}
	rest, err := io.Copy(io.Discard, body)
	return kept, int64(len(kept)) + rest, err
}

// oneLine returns JSON as one line, no bytes as null, and anything else as a JSON string.
func oneLine(body []byte) []byte {
	if len(body) == 0 {
		return []byte("null")
	}
	var line bytes.Buffer
	if json.Compact(&line, body) == nil {
		return line.Bytes()
	}
	quoted, err := json.Marshal(string(body))
	if err != nil {
		panic(err) // a string always marshals
	}
	return quoted
}

// invoker hands one event to one function, time after time.
type invoker struct {
	opts   options
	event  []byte
	fn     *function
	stdout io.Writer
	report *report

	box *sandbox // where the next invocation runs, unless it is gone
}

// newInvoker reads the event, finds COMMAND and creates the report: what can be wrong with the command line is found
// before anything is started. The caller must close the invoker.
func newInvoker(opts options, environ []string, stdin io.Reader, stdout, stderr io.Writer) (*invoker, error) {
	event, err := readEvent(opts.event, stdin)
	if err != nil {
		return nil, err
	}
	fn, err := newFunction(opts.command, environ, stderr)
	if err != nil {
		return nil, err
	}
	report, err := createReport(opts.report)
	if err != nil {
		return nil, err
	}
	return &invoker{opts: opts, event: event, fn: fn, stdout: stdout, report: report}, nil
}

// invokeAll invokes the function as often as asked and returns how many invocations failed. The error is this program's
// own, or an interruption: how the function fares is never an error here.
func (i *invoker) invokeAll(ctx context.Context) (failed int, err error) {
	for number := 1; number <= i.opts.invocations; number++ {
		out, err := i.invoke(ctx)
		if err != nil {
			return failed, err
		}
		if out.failed {
			failed++
		}
		if _, err := fmt.Fprintf(i.stdout, "%s\n", out.line); err != nil {
			return failed, fmt.Errorf("writing the answer to stdout: %w", err)
		}
		if err := i.report.write(number, out); err != nil {
			return failed, err
		}
		if err := i.box.settle(ctx); err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// invoke runs one invocation in the process of the last one, or in a new one if that is gone. It starts one at the most,
// so that a function which cannot start fails its invocation and is not tried for ever.
func (i *invoker) invoke(ctx context.Context) (outcome, error) {
	if i.box.gone() {
		i.box.close()
		box, err := i.fn.start()
		if err != nil {
			return outcome{}, err
		}
		i.box = box
	}
	return i.box.invoke(ctx, newRequestID(), i.event, i.opts.timeout)
}

// close ends the process, if there is one, and waits for it.
func (i *invoker) close() {
	i.box.close()
	i.report.close()
}

// report is the file of -report: a JSON line for each invocation, written as it happens. The nil report writes nothing.
type report struct{ file *os.File }

// reportLine is one invocation. Times are in milliseconds, to the microsecond.
type reportLine struct {
	Invocation int     `json:"invocation"` // from 1
	InitMS     float64 `json:"init_ms,omitzero"`
	DurationMS float64 `json:"duration_ms"`
	Failed     bool    `json:"failed"`
}

// createReport creates or empties the named file, readable by its owner alone. It returns nil for the empty name.
func createReport(name string) (*report, error) {
	if name == "" {
		return nil, nil
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the report: %w", err)
	}
	return &report{file}, nil
}

func (r *report) write(number int, out outcome) error {
	if r == nil {
		return nil
	}
	err := json.NewEncoder(r.file).Encode(reportLine{
		Invocation: number,
		InitMS:     milliseconds(out.init),
		DurationMS: milliseconds(out.duration),
		Failed:     out.failed,
	})
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

func (r *report) close() {
	if r != nil {
		r.file.Close()
	}
}

func milliseconds(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Microsecond)) / 1000
}
