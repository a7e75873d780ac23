package simulation

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

var (
	iamOps            = []string{opBootstrap, opExchange}
	secretsManagerOps = []string{opLook, opReadKey, opSave}
)

// outages are the faults of which promise 1 speaks: no answer, or none of use.
func outages() []kind {
	return []kind{
		network("IAM down", promised, upTo3h, func(_ *world, d dice) *storm { return down(d, iamOps) }),
		network("Secrets Manager down", promised, upTo3h, func(_ *world, d dice) *storm { return down(d, secretsManagerOps) }),
		network("IAM and Secrets Manager down", promised, upTo3h, func(_ *world, d dice) *storm { return down(d, nil) }),
		network("one operation down", promised, upTo3h, func(_ *world, d dice) *storm {
			return down(d, []string{pick(d, opBootstrap, opExchange, opLook, opReadKey, opSave)})
		}),
		network("429 with a wild Retry-After", promised, upTo3h, func(_ *world, d dice) *storm {
			return &storm{ops: pick(d, iamOps, secretsManagerOps, nil), play: tooMany}
		}),
		network("answers slow up to the deadline", promised, upTo3h, func(_ *world, d dice) *storm {
			return slow(pick(d, iamOps, secretsManagerOps, nil), d.between(2*time.Second, 2*time.Minute))
		}),
		network("200 without use", promised, upTo3h, func(_ *world, d dice) *storm {
			return &storm{ops: pick(d, iamOps, secretsManagerOps, nil), play: useless(d)}
		}),
		network("200 with an old token", promised, upTo3h, oldToken),
		network("connections lost before a save", promised, minutes(1, 60), func(*world, dice) *storm {
			return &storm{ops: []string{opSave}, play: always(func(*http.Request) (*http.Response, error) { return nil, reset() })}
		}),
	}
}

// down answers nothing, or with a status that passes.
func down(d dice, ops []string) *storm {
	status := pick(d, 500, 502, 503, 504)
	treat := pick(d,
		func(req *http.Request) (*http.Response, error) {
			return answerWith(req, status, "application/json", `{}`), nil
		},
		func(req *http.Request) (*http.Response, error) {
			return answerWith(req, status, "text/html", "<html><h1>Service Unavailable</h1></html>"), nil
		},
		func(req *http.Request) (*http.Response, error) { return answerWith(req, status, "", ""), nil },
		func(*http.Request) (*http.Response, error) { return nil, reset() },
		func(req *http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: req.URL.Host, IsNotFound: true}}
		},
		hang,
	)
	return &storm{ops: ops, play: always(treat)}
}

var retryAfters = []string{"0", "-5", "1", "7", "1.5", "30", "86400", "99999999999999999999", "soon", "",
	"Fri, 31 Dec 1999 23:59:59 GMT", "Wed, 01 Jan 2200 00:00:00 GMT"}

func tooMany(throw uint64, req *http.Request, _ forward) (*http.Response, error) {
	return answerWith(req, http.StatusTooManyRequests, "application/json", `{}`, "Retry-After", retryAfters[throw%uint64(len(retryAfters))]), nil
}

// slow does the work, before or after a delay of up to most.
func slow(ops []string, most time.Duration) *storm {
	return &storm{ops: ops, play: func(throw uint64, req *http.Request, onward forward) (*http.Response, error) {
		wait := time.Duration(share(throw^1) * float64(most))
		if throw%2 == 0 {
			if err := pause(req.Context(), wait); err != nil {
				return nil, err
			}
			return onward(req)
		}
		response, err := onward(req)
		if err := errors.Join(err, pause(req.Context(), wait)); err != nil {
			return nil, err
		}
		return response, nil
	}}
}

// useless answers 200 or 201 with something that is not the service's.
func useless(d dice) func(uint64, *http.Request, forward) (*http.Response, error) {
	status := pick(d, 200, 201)
	body := pick(d, "", "null", "[]", "{}", `{"errors":[]}`, `{"access_token":""}`, `{"access_token":"eyJraWQiOi`, `{"id":"","secret_type":"arbitrary"}`)
	return pick(d,
		always(func(req *http.Request) (*http.Response, error) {
			return answerWith(req, status, "application/json", body), nil
		}),
		always(func(req *http.Request) (*http.Response, error) {
			return answerWith(req, status, "text/html", "<html><body>Please log in</body></html>"), nil
		}),
		truncated,
	)
}

// oldToken is a cache between us and IAM that serves one token for ever.
func oldToken(w *world, d dice) *storm {
	left := d.between(-time.Hour, 59*time.Minute)
	token := w.cloud.MustMintToken(w.mintKey, left)
	expires := w.now().Add(left).Unix()
	return &storm{ops: []string{opExchange}, play: always(func(req *http.Request) (*http.Response, error) {
		body := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":3600,"expiration":%d}`, token, expires)
		return answerWith(req, http.StatusOK, "application/json", body), nil
	})}
}
