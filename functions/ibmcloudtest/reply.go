package ibmcloudtest

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// A reply is an answer on its way out.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// jsonReply encodes v; a nil v makes an empty body.
func jsonReply(status int, v any) reply {
	if v == nil {
		return reply{status: status, header: http.Header{}}
	}
	body, err := json.Marshal(v)
	if err != nil {
		panic("ibmcloudtest: encoding an answer: " + err.Error())
	}
	return reply{status, http.Header{"Content-Type": {"application/json"}}, body}
}

// ServeHTTP answers a request to any of the services or to the control interface. A fault that
// drops the connection closes it (HTTP/1) or resets the stream (HTTP/2).
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out, err := c.answer(r)
	if err != nil {
		closeConnection(w)
		return
	}
	header := w.Header()
	for name, values := range out.header {
		header[name] = values
	}
	header.Set("Content-Length", strconv.Itoa(len(out.body)))
	if out.status == http.StatusNoContent {
		header.Del("Content-Length")
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // the caller may be gone
}

// closeConnection ends the request without an answer.
func closeConnection(w http.ResponseWriter) {
	if hijacker, ok := w.(http.Hijacker); ok {
		if conn, _, err := hijacker.Hijack(); err == nil {
			_ = conn.Close()
			return
		}
	}
	panic(http.ErrAbortHandler)
}
