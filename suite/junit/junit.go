// Package junit says of a test that it failed as JUnit's XML has it, which every program for continuous integration reads.
package junit

import (
	"strings"

	"github.com/jstemmer/go-junit-report/v2/junit"
)

// Failure is what a test's case has if it failed: why, in a line, and what it said. A scenario says what a terminal gets, and
// XML 1.0 has no way to write most control characters, not even by their numbers (section 2.2, "Char"): one of them, and the
// whole file cannot be read. They are shown as the pictures that Unicode has for them, ␛ and the like.
func Failure(message, said string) *junit.Result {
	return &junit.Result{Message: writable(message), Data: writable(said)}
}

func writable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return r
		case r < ' ':
			return '␀' + r
		case r == 0xFFFE || r == 0xFFFF:
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
