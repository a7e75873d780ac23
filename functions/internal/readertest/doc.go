// Package readertest has those tests of the Go reader, package iamtoken, that need the sandbox
// or IBM's clients. The others are in iamtoken, and are copied with it.
package readertest
