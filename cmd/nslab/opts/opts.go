// Package opts understands the values of the flags of `container run` and its kin, as Docker does.
//
// The idea: what a user types is answered where it is read, in one line that names the flag, before anything is made.
// Most types here are flags, a [pflag.Value]: [List], [Bytes], [CPUs], [Ulimits], … ; a function such as [Name] or
// [Sysctl] checks one value, and is handed to [NewList], [NewMap] or [NewWord]. What only the whole tells, and what
// depends on the machine, comes last, in [Check].
//
// The limits: what is accepted, and how it is refused, is Docker's, with these exceptions, each for a reason. Control
// characters are refused wherever a value lands in a file that has lines: with Docker and Podman, a newline in --hostname
// adds a line to the container's /etc/hosts. --memory 0 and --cpus 0 are refused, since whoever types a limit wants one;
// so is more memory than the machine has, as more CPUs are. What nslab cannot do is refused, never left out in silence.
// Nothing here looks into an image: whether a user or a working folder exists is known later.
//
// [pflag.Value]: https://pkg.go.dev/github.com/spf13/pflag#Value
package opts

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Error is a flag whose value will not do. Hint is the remedy, where there is one.
type Error struct {
	Flag string // "--memory"
	Err  error
	Hint string
}

func (e *Error) Error() string { return e.Flag + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// refuse makes an Error.
func refuse(flag, hint, format string, args ...any) error {
	return &Error{Flag: flag, Err: fmt.Errorf(format, args...), Hint: hint}
}

// quoted is what a user has typed, in Docker's quotes and on one line.
func quoted(s string) string {
	q := strconv.Quote(s)
	return "'" + strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + "'"
}

// plain refuses control characters and what is not UTF-8.
func plain(what, s string) error {
	if i := strings.IndexFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }); i >= 0 {
		return fmt.Errorf("%s %s has a character that cannot be printed", what, quoted(s))
	}
	return nil
}

// List is a flag that may be given again and again.
type List struct {
	values []string
	check  func(string) (string, error)
}

// NewList makes a list whose values check accepts, and may put in order. A nil check accepts all.
func NewList(check func(string) (string, error)) *List { return &List{check: check} }

// Set adds a value.
func (l *List) Set(value string) (err error) {
	if l.check != nil {
		if value, err = l.check(value); err != nil {
			return err
		}
	}
	l.values = append(l.values, value)
	return nil
}

// Values are what was given, in order.
func (l *List) Values() []string { return slices.Clone(l.values) }

func (l *List) String() string {
	if len(l.values) == 0 {
		return ""
	}
	return fmt.Sprint(l.values)
}

// Type is the word for the value in the help, here and below.
func (*List) Type() string { return "list" }

// Map is a flag of KEY=VALUE pairs. The last of one key counts.
type Map struct {
	values map[string]string
	check  func(string) (string, error)
}

// NewMap makes a map whose pairs check accepts. A nil check accepts all.
func NewMap(check func(string) (string, error)) *Map { return &Map{check: check} }

// Set adds a pair.
func (m *Map) Set(pair string) (err error) {
	if m.check != nil {
		if pair, err = m.check(pair); err != nil {
			return err
		}
	}
	if m.values == nil {
		m.values = map[string]string{}
	}
	key, value, _ := strings.Cut(pair, "=")
	m.values[key] = value
	return nil
}

// Values are what was given; nil if nothing was.
func (m *Map) Values() map[string]string { return m.values }

func (m *Map) String() string {
	if len(m.values) == 0 {
		return ""
	}
	return fmt.Sprint(m.values)
}

// Type is the word for the value in the help.
func (*Map) Type() string { return "map" }

// Word is a flag with one value.
type Word struct {
	value string
	check func(string) (string, error)
}

// NewWord makes a flag whose value check accepts, and may put in order; value is the default.
func NewWord(value string, check func(string) (string, error)) *Word { return &Word{value, check} }

// Set takes the value.
func (w *Word) Set(value string) (err error) {
	if value, err = w.check(value); err == nil {
		w.value = value
	}
	return err
}

func (w *Word) String() string { return w.value }

// Type is the word for the value in the help.
func (*Word) Type() string { return "string" }

// Unsupported is a flag of Docker's that nslab does not have: it says why.
type Unsupported struct {
	Kind string // the word for the value in the help
	Why  string
}

// Set refuses.
func (u Unsupported) Set(string) error { return fmt.Errorf("%s", u.Why) }

func (Unsupported) String() string { return "" }

// Type is the word for the value in the help.
func (u Unsupported) Type() string { return u.Kind }
