//go:build race

package simulation

// shortDays is how long a story of `make test` lasts. The race detector makes a
// day take many times as long; `make test` plays the longer ones without it.
const shortDays = 2

// dialDays is how long a story of each setting of TestTheMarginIsADial lasts.
const dialDays = 1

// shortKeyDays is the same of the managed keys, which are rotated every 15 days.
const shortKeyDays = 17

// openDays is the same of what IBM leaves open.
const openDays = 20
