package simulation

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"time"
)

// dice are seeded: the same seed and name give the same throws.
type dice struct{ *rand.Rand }

func newDice(seed uint64, name string) dice {
	return dice{rand.New(rand.NewPCG(seed, hash(name)))}
}

func (d dice) chance(p float64) bool { return d.Float64() < p }

// between is uniform from least up to most.
func (d dice) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Float64()*float64(most-least))
}

// anyScale is log-uniform: a second is as likely to be doubled as an hour.
func (d dice) anyScale(least, most time.Duration) time.Duration {
	return time.Duration(float64(least) * math.Pow(float64(most)/float64(least), d.Float64()))
}

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

// hash names a throw that must not depend on the order in which goroutines ask:
// what happens to the nth request of a kind within an invocation, say.
func hash(words ...string) uint64 {
	h := fnv.New64a()
	for _, word := range words {
		_, _ = h.Write([]byte(word))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

// share turns a hash into a number from 0 up to 1.
func share(h uint64) float64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd // FNV alone leaves neighbours close together
	h ^= h >> 33
	return float64(h>>11) / (1 << 53)
}
