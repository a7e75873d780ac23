package simulation

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"io"
)

// reader is a downstream job. Most of the time what it would see is computed
// from the publications; during faults it goes and looks, and the two are held
// against each other.
type reader struct {
	w      *world
	client *http.Client
	token  string // its own, to open the token secret
	until  time.Time
}

func newReader(w *world) *reader {
	return &reader{w: w, client: &http.Client{Transport: w.cloud.Transport()}}
}

// schedule has it visit every few minutes during each fault and after it.
func (r *reader) schedule() {
	d := newDice(r.w.seed, "reader")
	for _, f := range r.w.story {
		last := earlier(f.to.Add(10*time.Minute), r.w.end)
		for at := f.from; at.Before(last); at = at.Add(d.between(time.Minute, 9*time.Minute)) {
			r.w.agenda.at(at, r.visit)
		}
	}
}

// visit reads the token secret with the reader's identity and uses the token at
// Logs Routing, as a job would: that works exactly while the timeline says so.
func (r *reader) visit() {
	status := r.use(r.read())
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.counts.visits++
	now := r.w.now()
	want := http.StatusUnauthorized
	if r.w.tokens.current(now).expires.After(now) {
		want = http.StatusOK
	}
	if status != want {
		r.w.violated(now, "Logs Routing answered a reader %d, the timeline says %d", status, want)
	}
}

func (r *reader) read() string {
	if time.Now().After(r.until) {
		form := url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {r.w.cloud.ReaderAPIKey()}}
		request, _ := http.NewRequest(http.MethodPost, "https://iam.test/identity/token", strings.NewReader(form.Encode()))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		var answer struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
		}
		r.do(request, &answer)
		r.token, r.until = answer.AccessToken, time.Now().Add(time.Duration(answer.ExpiresIn)*time.Second/2)
	}
	request, _ := http.NewRequest(http.MethodGet, "https://instance.test/api/v2/secrets/"+r.w.tokenSecret, nil)
	request.Header.Set("Authorization", "Bearer "+r.token)
	var secret struct {
		Payload string `json:"payload"`
	}
	r.do(request, &secret)
	return secret.Payload
}

func (r *reader) use(token string) int {
	request, _ := http.NewRequest(http.MethodGet, "https://logs-routing.test/v3/targets", nil)
	request.Header.Set("Authorization", "Bearer "+token)
	return r.do(request, nil)
}

func (r *reader) do(request *http.Request, answer any) int {
	response, err := r.client.Do(request)
	if err != nil {
		panic(fmt.Sprint("the reader's own way to IBM Cloud is never disturbed: ", err))
	}
	defer func() { _ = response.Body.Close() }()
	body, _ := io.ReadAll(response.Body)
	if answer != nil {
		if err := json.Unmarshal(body, answer); err != nil {
			panic(err)
		}
	}
	return response.StatusCode
}
