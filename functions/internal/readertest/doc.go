// Package readertest has the tests of the Go reader, package iamtoken, against the sandbox
// and with IBM's clients. What needs neither is beside the code, and goes with a copy of it.
package readertest
