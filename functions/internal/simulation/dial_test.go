package simulation

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"iam-token-rotator/functions/internal/rotation"
)

var (
	minRemainingFlag = flag.Duration("min-remaining", standard.minRemaining, "MIN_REMAINING in the story of -seed")
	lifetimeFlag     = flag.Duration("lifetime", standard.lifetime, "of tokens in the story of -seed")
)

// setting is what a user chooses, and an account.
type setting struct {
	minRemaining time.Duration // MIN_REMAINING
	lifetime     time.Duration // of tokens, where no fault cuts it
}

var standard = setting{8 * time.Minute, time.Hour}

func (s setting) String() string {
	return fmt.Sprintf("MIN_REMAINING=%s LIFETIME=%s", s.minRemaining, s.lifetime)
}

// shortLifetime is the shortest that an account may give its tokens.
const shortLifetime = 15 * time.Minute

// threshold is the remaining lifetime with which `ensure` replaces a token.
func (s setting) threshold(token published) time.Duration {
	return rotation.Threshold(s.minRemaining, token.expires.Sub(token.born))
}

// mustRemain is what is left of a token at least when the next one comes, where a run was lost
// or none: `ensure` comes 2:10 later at most, and a minute more after a lost one; rotate comes
// every 50 minutes, a minute late at most.
func (s setting) mustRemain(lifetime time.Duration, lost bool) time.Duration {
	byEnsure := rotation.Threshold(s.minRemaining, lifetime) - nextEnsure
	byRotate := lifetime - rotateEvery - lateness - 10*time.Second
	if lost {
		return min(byEnsure, max(byRotate, byEnsure-ensureEvery))
	}
	return max(byEnsure, byRotate)
}

// The promises hold whatever MIN_REMAINING is, with the shortest tokens too.
func TestTheMarginIsADial(t *testing.T) {
	for _, s := range []setting{
		{25 * time.Minute, time.Hour}, {45 * time.Minute, time.Hour}, {59 * time.Minute, 30 * time.Minute}, {45 * time.Minute, shortLifetime},
	} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			y := year{setting: s, seed: 1, days: dialDays, parts: []*world{play(t, s, partsOfAYear, dialDays, shortBetween)}}
			hold(t, y)
			least, average := y.total().calmLifetime()
			if enough := rotation.Threshold(s.minRemaining, s.lifetime) - nextEnsure; least < enough || average < (s.lifetime+enough)/2 {
				t.Errorf("without faults readers have %s at worst and %s on average, want %s and half of the difference to %s more", least, average, enough, s.lifetime)
			}
		})
	}
}
