package course

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fatih/color"
	"golang.org/x/term"

	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

// The columns of a step's screen: a label, then the text.
const (
	labelIndent = 2
	textColumn  = 9
	minWidth    = 40
	maxWidth    = 110 // longer lines are hard to read back
)

// screen renders steps for people. It prints as things happen, so that causes stand above their effects.
type screen struct {
	out     io.Writer
	zh      bool
	width   int
	section string // the label last printed, not printed again
	dos     []trace.Record
}

func newScreen(out io.Writer, zh bool) *screen {
	return &screen{out: out, zh: zh, width: TerminalWidth()}
}

// TerminalWidth asks the terminal, then COLUMNS, and takes 80 for a pipe.
func TerminalWidth() int {
	w, _, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || w <= 0 {
		if w, err = strconv.Atoi(os.Getenv("COLUMNS")); err != nil || w <= 0 {
			w = 80
		}
	}
	return min(max(w, minWidth), maxWidth)
}

func bold(a ...any) string   { return color.New(color.Bold).Sprint(a...) }
func faint(a ...any) string  { return color.New(color.Faint).Sprint(a...) }
func green(a ...any) string  { return color.New(color.FgGreen).Sprint(a...) }
func red(a ...any) string    { return color.New(color.FgRed).Sprint(a...) }
func yellow(a ...any) string { return color.New(color.FgYellow).Sprint(a...) }
func cyan(a ...any) string   { return color.New(color.FgCyan).Sprint(a...) }

func (s *screen) say(format string, args ...any) string { return words().say(s.zh, format, args...) }

// head starts the screen of a step.
func (s *screen) head(l *Lab, number, of int, title string) {
	s.section, s.dos = "", nil
	s.twoColumns(fmt.Sprintf("%02d · %s", l.Number, l.Slug), s.say("step %d of %d", number, of))
	for _, line := range Wrap(title, s.width) {
		fmt.Fprintln(s.out, bold(line))
	}
}

// twoColumns prints one line with a left and a right part.
func (s *screen) twoColumns(left, right string) {
	gap := max(1, s.width-Width(left)-Width(right))
	fmt.Fprintln(s.out, cyan(left)+strings.Repeat(" ", gap)+faint(right))
}

// label prints the start of a line: the label where a section begins, blank where it goes on.
func (s *screen) label(name string) string {
	shown := ""
	if s.section != name {
		shown = s.say(name)
	}
	s.section = name
	return strings.Repeat(" ", labelIndent) + bold(Pad(shown, textColumn-labelIndent))
}

// text prints a paragraph under a label, with an optional mark that hangs before it.
func (s *screen) text(label, mark, text string, paint func(...any) string) {
	indent := textColumn
	if mark != "" {
		indent += Width(mark) + 1
		mark = paint(mark) + " "
	}
	for i, line := range Wrap(text, s.width-indent) {
		if paint != nil && mark == "" {
			line = paint(line)
		}
		if i == 0 {
			fmt.Fprintln(s.out, s.label(label)+mark+line)
		} else {
			fmt.Fprintln(s.out, strings.Repeat(" ", indent)+line)
		}
	}
}

func (s *screen) why(paragraphs []string) {
	for _, p := range paragraphs {
		s.text("Why", "", p, nil)
	}
}

// do shows a call, and at the right margin where it stands in the source.
func (s *screen) do(r trace.Record) {
	s.dos = append(s.dos, r)
	room := s.width - textColumn
	lines := Wrap(r.String(), room)
	for i, line := range lines {
		start := strings.Repeat(" ", textColumn)
		if i == 0 {
			start = s.label("Do")
		}
		at := ""
		if i == len(lines)-1 {
			if gap := room - Width(line) - Width(r.At); gap >= 2 {
				at = strings.Repeat(" ", gap) + faint(r.At)
			} else {
				at = "\n" + strings.Repeat(" ", max(textColumn, s.width-Width(r.At))) + faint(r.At)
			}
		}
		fmt.Fprintln(s.out, start+line+at)
	}
}

func (s *screen) see(line string) { s.text("See", "", line, nil) }

func (s *screen) check(c Check) {
	if c.OK {
		s.text("Check", "✓", c.Name, green)
		return
	}
	s.text("Check", "✗", c.Name, red)
	s.text("Check", " ", s.say("want %s, got %s", c.Want, c.Got), red)
}

// failure shows an error with its diagnosis. zh translates the lab's own words.
func (s *screen) failure(err error, translate func(string) string) {
	s.text("Error", "", err.Error(), red)
	for _, c := range diagnosis.Of(err) {
		s.probed("Error", c, translate)
	}
}

// condition shows one that a step probes on purpose.
func (s *screen) condition(c diagnosis.Condition, translate func(string) string) {
	s.probed("See", c, translate)
}

func (s *screen) probed(label string, c diagnosis.Condition, translate func(string) string) {
	what := translate(c.What)
	if c.Detail != "" {
		what += " (" + c.Detail + ")"
	}
	if c.OK {
		s.text(label, "✓", what, green)
		return
	}
	s.text(label, "✗", what, red)
	if c.Remedy != "" {
		s.text(label, " ", s.say("hint: %s", translate(c.Remedy)), yellow)
	}
}

// result is the last screen of a lab: the verdict, and the promise that the host is as before.
func (s *screen) result(l *Lab, r *result, host difference, kept bool) {
	s.section = ""
	verdict := map[string]func(...any) string{"pass": green}[r.Result]
	if verdict == nil {
		verdict = red
	}
	left := fmt.Sprintf("%02d · %s", l.Number, l.Slug)
	right := s.say(map[string]string{
		"pass": "passed", "fail": "failed", "interrupted": "interrupted", "quit": "left early",
	}[r.Result])
	gap := max(1, s.width-Width(left)-Width(right))
	fmt.Fprintln(s.out, cyan(left)+strings.Repeat(" ", gap)+verdict(right))
	s.text("Check", "", s.say("%s checks, %s failed · %s", strconv.Itoa(r.Checks), strconv.Itoa(r.Failed),
		(time.Duration(r.Millis)*time.Millisecond).Round(100*time.Millisecond).String()), nil)
	message := "difference to before: mounts %d · cgroups %d · links %d · processes %d"
	if kept {
		message += " (kept on purpose: 'nslab clean' removes them)"
	}
	s.text("Host", "", s.say(message, len(host.Mounts), len(host.Cgroups), len(host.Links), len(host.Processes)), nil)
	for _, line := range host.all() {
		s.text("Host", "", line, yellow)
	}
}

func (s *screen) blank() { fmt.Fprintln(s.out) }
