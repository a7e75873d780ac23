// Package canary is a test that searches for leaks. Every key, token and password is made for one run of one program. The built
// programs run with every fault, log level, debug switch, signal and misplaced secret that the test knows: each such run is a path.
// All that leaves a program is searched: its output, its files, the arguments and environments of the programs that it starts, and
// its requests.
//
// `go test ./scripts/canary` runs a sample of the paths. `make canary` runs all paths, and then all mutants. A mutant is the product
// with a leak planted, which must be found.
package canary
