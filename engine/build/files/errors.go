package files

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Error is something in a Dockerfile or its context that cannot be carried out.
type Error struct {
	Text string // one line, without control characters
	Hint string // a remedy, where there is one
	Err  error  // the cause, if there is another
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Text + ": " + e.Err.Error()
	}
	return e.Text
}

// Unwrap lets errors.Is find the cause.
func (e *Error) Unwrap() error { return e.Err }

// Remedy is the hint of the error, or of its cause.
func (e *Error) Remedy() string {
	var inner *Error
	if e.Hint == "" && errors.As(e.Err, &inner) {
		return inner.Remedy()
	}
	return e.Hint
}

func refuse(hint, format string, args ...any) error {
	return &Error{Text: fmt.Sprintf(format, args...), Hint: hint}
}

// quoted shows a name: in quotes, and what no terminal should be sent escaped.
func quoted(name string) string {
	const most = 200 // a name may have 4096 bytes
	if len(name) > most {
		name = strings.ToValidUTF8(name[:most], "") + "…"
	}
	return strconv.Quote(name)
}
