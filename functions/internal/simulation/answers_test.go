package simulation

import (
	"net/http"
	"time"
)

// answers are faults of the network that a pass must outlive: no reader may
// meet an expired token because of them.
func answers() []kind {
	return []kind{
		network("connections lost after a save", 0, minutes(10, 180), func(*world, dice) *storm {
			return &storm{ops: []string{opSave}, play: lostAfter}
		}),
		network("the answer to a save cut off", 0, minutes(10, 180), func(*world, dice) *storm {
			return &storm{ops: []string{opSave}, play: truncated}
		}),
		network("a third of the connections lost", 0, minutes(10, 180), func(*world, dice) *storm {
			return &storm{play: func(throw uint64, req *http.Request, onward forward) (*http.Response, error) {
				switch s := share(throw ^ 2); {
				case s < 1.0/6:
					return nil, reset()
				case s < 1.0/3:
					return lostAfter(throw, req, onward)
				}
				return onward(req)
			}}
		}),
		network("a third of the answers 5xx or 429", 0, minutes(10, 180), func(*world, dice) *storm {
			return &storm{play: func(throw uint64, req *http.Request, onward forward) (*http.Response, error) {
				switch s := share(throw ^ 3); {
				case s < 1.0/6:
					return answerWith(req, 503, "text/html", "<html>"), nil
				case s < 1.0/3:
					return tooMany(throw, req, onward)
				}
				return onward(req)
			}}
		}),
		network("answers slow by a second", 0, minutes(10, 180), func(_ *world, d dice) *storm {
			return slow(nil, d.between(time.Second, 2*time.Second))
		}),
	}
}

// lostAfter does the work and loses its answer.
func lostAfter(_ uint64, req *http.Request, onward forward) (*http.Response, error) {
	if _, err := onward(req); err != nil {
		return nil, err
	}
	return nil, reset()
}
