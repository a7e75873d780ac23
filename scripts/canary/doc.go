// Package canary is a test that looks for leaks. Every key, token and password of a run is a secret made for that run alone.
// The built programs meet every fault, error, log level, debug switch and signal that the test knows, and all that leaves them
// is searched: what they print, the files they write, the arguments and environment of what they start, what they send to whom.
//
// `go test ./scripts/canary` tries a sample. `make canary` tries every path, and then every mutant: the product with a leak
// planted, which must be found.
package canary
