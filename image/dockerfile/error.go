package dockerfile

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Error is something that is wrong with a Dockerfile, or that went wrong with one of its instructions.
type Error struct {
	File        *File
	First, Last int // its lines; 0 if it is about the whole
	Err         error
}

func (e *Error) Error() string {
	text := shorten(e.Err.Error(), 600)
	if e.First == 0 {
		return fmt.Sprintf("%s: %s", e.File.Name, text)
	}
	return fmt.Sprintf("%s:%d: %s", e.File.Name, e.First, text)
}

// shorten cuts the middle out of a text that is longer than anybody reads.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most*3/4]+" … "+text[len(text)-most/4:], "")
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf is an error about an instruction.
func (f *File) Errorf(i *Instruction, format string, args ...any) error {
	return &Error{f, i.First, i.Last, fmt.Errorf(format, args...)}
}

// unwrapped is what is wrong, without the place.
func unwrapped(err error) error {
	var e *Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// Excerpt shows the lines, marked, with their neighbours, as buildkit does.
func (e *Error) Excerpt() string {
	if e.First == 0 {
		return ""
	}
	const around, most = 3, 20
	last := min(e.Last, e.First+most-1)
	rule := strings.Repeat("-", 20) + "\n"
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n%s", e.File.Name, e.First, rule)
	for n := max(1, e.First-around); n <= min(len(e.File.Lines), last+around); n++ {
		mark := "   "
		if n >= e.First && n <= e.Last {
			mark = ">>>"
		}
		line := fmt.Sprintf("%4d | %s %s", n, mark, printable(shorten(e.File.Lines[n-1], 200)))
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		if n == last && last < e.Last {
			fmt.Fprintf(&b, "%4s | >>> … up to line %d\n", "", e.Last)
			break
		}
	}
	return b.String() + rule
}

// printable keeps what a Dockerfile holds of control characters from the terminal.
func printable(line string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return c
		case unicode.IsControl(c):
			return unicode.ReplacementChar
		}
		return c
	}, line)
}
