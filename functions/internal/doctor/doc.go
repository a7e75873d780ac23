// Package doctor finds out why a token is not kept fresh, or will soon not be: it
// checks every thing that a rotation relies on, in the order in which one rests
// on the other, and says what to do about what is wrong.
//
// It writes nothing. What cannot be tried without writing is said, not guessed.
package doctor
