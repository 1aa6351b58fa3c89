package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/image"
)

// The exit statuses of the commands that are Docker's too, as scripts know them: 1 where Docker's client or daemon says
// no, these where it is more exact.
const (
	exitEngine   = 125 // container run, create, exec: nslab's own fault or the caller's, not the program's; and all wrong flags
	exitTemplate = 64  // inspect: a template that is none
)

// newNounCmd makes a command that only has others below it: container, image, volume.
func newNounCmd(g *globals, noun, short string, verbs ...maker) *cobra.Command {
	cmd := &cobra.Command{
		Use:   noun,
		Short: short,
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := fmt.Sprintf("'%s --help' lists the commands", cmd.CommandPath())
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = "did you mean " + strings.Join(near, " or ") + "?"
			}
			return &statusError{exitFailed, fmt.Errorf("unknown command: %s %q", cmd.CommandPath(), args[0]), hint}
		},
	}
	cmd.SuggestionsMinimumDistance = 2
	asDocker(cmd)
	for _, verb := range chosen(verbs, g.line.Verb) {
		c := verb.make(g)
		c.DisableFlagsInUseLine = true // it says [OPTIONS], as Docker does
		cmd.AddCommand(c)
	}
	return cmd
}

// asDocker gives a command, and those below it, Docker's status for wrong flags.
func asDocker(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &statusError{exitEngine, oneLine(err), fmt.Sprintf("'%s --help' shows the flags", cmd.CommandPath())}
	})
}

// oneLine gives an error that repeats what was typed, as that of an unknown flag does, no more than one line of a terminal.
func oneLine(err error) error {
	if !strings.ContainsFunc(err.Error(), unicode.IsControl) {
		return err
	}
	quoted := strconv.Quote(err.Error())
	return errors.New(quoted[1 : len(quoted)-1])
}

// errorLines takes errors apart that were joined, so that each is one line.
func errorLines(err error) []string {
	if s, ok := err.(*statusError); ok && s.err != nil {
		return errorLines(s.err)
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var texts, lines []string
		for _, part := range joined.Unwrap() {
			texts, lines = append(texts, part.Error()), append(lines, errorLines(part)...)
		}
		if strings.Join(texts, "\n") == err.Error() { // no, if they are parts of a sentence
			return lines
		}
	}
	return []string{oneLine(err).Error()}
}

// needArgs wants at least min arguments, and at most max, if that is not negative.
func needArgs(min, max int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		var what string
		plural := func(n int) string {
			if n == 1 {
				return "1 argument"
			}
			return fmt.Sprintf("%d arguments", n)
		}
		switch {
		case len(args) >= min && (max < 0 || len(args) <= max):
			return nil
		case max == 0:
			what = "accepts no arguments"
		case min == max:
			what = "requires " + plural(min)
		case len(args) < min:
			what = "requires at least " + plural(min)
		default:
			what = "requires at most " + plural(max)
		}
		return &statusError{exitFailed, fmt.Errorf("'%s' %s", cmd.CommandPath(), what), "usage: " + cmd.UseLine()}
	}
}

// refuse is an error of run, create or exec that leaves nothing behind.
func refuse(hint, format string, args ...any) error {
	return &statusError{exitEngine, fmt.Errorf(format, args...), hint}
}

// withStatus gives an error an exit status, unless it has one.
func withStatus(status int, err error) error {
	var has *statusError
	if err == nil || errors.As(err, &has) {
		return err
	}
	return &statusError{status: status, err: err}
}

// hintOf is the remedy that goes with an error's kind, if there is one.
func hintOf(err error) string {
	var flag *opts.Error
	var key *filter.Error
	var tmpl *format.Error
	var input *engine.InputError
	var state *engine.StateError
	var ambiguous *engine.AmbiguousError
	if hint := networkHint(err); hint != "" {
		return hint
	}
	switch {
	case errors.As(err, &input):
		return input.Hint
	case errors.Is(err, image.ErrNotFound):
		return "'nslab image ls' lists the images; 'nslab image bootstrap' makes one of this machine's programs"
	case errors.As(err, &state):
		return state.Hint
	case errors.As(err, &ambiguous):
		return "give more digits, or the name"
	case errors.As(err, &flag):
		return flag.Hint
	case errors.As(err, &key) && len(key.Known) > 0:
		return "the keys are " + strings.Join(key.Known, ", ")
	case errors.As(err, &tmpl) && len(tmpl.Fields) > 0:
		return "the fields are " + strings.Join(tmpl.Fields, ", ")
	}
	if hint := registryHint(err); hint != "" {
		return hint
	}
	return diagnosis.Remedy(err)
}

// manyErrors are those of a command that does the same to many things.
type manyErrors []error

func (m manyErrors) Error() string {
	var lines []string
	for _, err := range m {
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

func (m manyErrors) Unwrap() []error { return m }

// eachArg does something for each argument, also after an error, as Docker's rm, stop and so on do.
func eachArg(args []string, do func(arg string) error) error {
	var failed manyErrors
	for _, arg := range args {
		if err := do(arg); err != nil {
			failed = append(failed, err)
		}
	}
	if failed == nil {
		return nil
	}
	return &statusError{status: exitFailed, err: failed}
}

// warnIgnoredFormat says that -q has won over --format, where it does.
func warnIgnoredFormat(w io.Writer, format string, quiet bool) {
	if format != "" && quiet {
		fmt.Fprintln(w, "WARNING: Ignoring custom format, because both --format and --quiet are set.")
	}
}

// checkTTY refuses to give a container a terminal that is not there: with -t and -i, what is typed must come from one.
func checkTTY(interactive, tty bool) error {
	if interactive && tty && !term.IsTerminal(int(os.Stdin.Fd())) {
		return &statusError{exitFailed, errors.New("the input device is not a TTY"),
			"leave -t out where standard input is a pipe or a file"}
	}
	return nil
}
