//go:build !race

package simulation

// shortDays is how long a story of `make test` lasts: a month in all.
const shortDays = 6

// dialDays is how long a story of each setting of TestTheMarginIsADial lasts.
const dialDays = 3

// shortKeyDays is the same of the managed keys, which are rotated every 15 days.
const shortKeyDays = 42

// openDays is the same of what IBM leaves open.
const openDays = 96
