package main

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// hold makes the door keep back the next request; the channel tells that it is there: the program is in the middle of
// something, at a moment that does not depend on luck.
func (d *door) hold() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting, d.held = make(chan struct{}, 1), make(chan struct{})
	return d.waiting
}

// holdBack keeps a request that bears a secret until it is released or given up.
func (d *door) holdBack(r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_sandbox") {
		return
	}
	d.mu.Lock()
	waiting, held := d.waiting, d.held
	d.mu.Unlock()
	if held == nil {
		return
	}
	select {
	case waiting <- struct{}{}:
	default:
	}
	select {
	case <-held:
	case <-r.Context().Done():
	}
}

// release lets everything through.
func (d *door) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held != nil {
		close(d.held)
		d.waiting, d.held = nil, nil
	}
}

// jwtOf is a token that tells the key as whose it is, in all that a report might repeat.
func jwtOf(key string) string {
	claims := fmt.Sprintf(`{"iam_id":%q,"id":%q,"sub":%q,"account":{"bss":%q},"iat":%d,"exp":%d}`,
		key, key, key, key, time.Now().Unix(), time.Now().Add(time.Hour).Unix())
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("no signature at all"))
}
