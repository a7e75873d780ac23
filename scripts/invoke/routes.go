package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

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
