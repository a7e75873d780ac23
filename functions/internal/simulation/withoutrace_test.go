//go:build !race

package simulation

// shortDays is how long a story of `make test` lasts: a month in all.
const shortDays = 6
