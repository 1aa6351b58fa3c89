package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
)

func TestNoun(t *testing.T) {
	ran := 0
	newRename := func(*globals) *cobra.Command {
		return &cobra.Command{
			Use: "rename [OPTIONS] CONTAINER NEW_NAME", DisableFlagsInUseLine: true, Args: needArgs(2, 2),
			RunE: func(_ *cobra.Command, args []string) error {
				ran++
				return eachArg(args, func(arg string) error {
					if arg == "bad" {
						return errors.New("no such container: bad")
					}
					return nil
				})
			},
		}
	}
	for line, want := range map[string]struct {
		status    int
		err, hint string
	}{
		"renam x":            {1, `unknown command: container "renam"`, "did you mean rename?"},
		"rename":             {1, "'container rename' requires 2 arguments", "usage: container rename [OPTIONS] CONTAINER NEW_NAME"},
		"rename --foo":       {125, "unknown flag: --foo", "'container rename --help' shows the flags"},
		"rename bad bad":     {1, "no such container: bad\nno such container: bad", ""},
		"rename good bad":    {1, "no such container: bad", ""},
		"rename good better": {},
	} {
		noun := newNounCmd(&globals{}, "container", "Manage containers", maker{"rename", newRename})
		noun.SilenceErrors, noun.SilenceUsage = true, true
		noun.SetArgs(strings.Fields(line))
		err := noun.Execute()
		var s *statusError
		if want.err == "" {
			if err != nil {
				t.Errorf("%s: %v", line, err)
			}
		} else if !errors.As(err, &s) || s.status != want.status || err.Error() != want.err || s.hint != want.hint {
			t.Errorf("%s: %v, %+v; want %+v", line, err, s, want)
		}
	}
	if ran != 3 {
		t.Errorf("rename ran %d times; want 3", ran)
	}
	for _, c := range []struct {
		min, max, n int
		want        string
	}{{0, 0, 1, "accepts no arguments"}, {1, -1, 0, "requires at least 1 argument"}, {0, 1, 2, "requires at most 1 argument"}, {1, -1, 5, ""}} {
		err := needArgs(c.min, c.max)(&cobra.Command{Use: "x"}, make([]string, c.n))
		if (err == nil) != (c.want == "") || err != nil && !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("needArgs(%d, %d) of %d: %v; want %q", c.min, c.max, c.n, err, c.want)
		}
	}
}

func TestWithStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		hint string
	}{
		{&opts.Error{Flag: "--x", Err: errors.New("no"), Hint: "try y"}, "try y"},
		{&filter.Error{Key: "x", Known: []string{"a", "b"}}, "the keys are a, b"},
		{&format.Error{Err: errors.New("no"), Fields: []string{"ID"}}, "the fields are ID"},
		{&engine.InputError{What: "x", Err: errors.New("no"), Hint: "try z"}, "try z"},
		{&engine.StateError{Container: "x", Op: "y", Hint: "try a"}, "try a"},
		{&engine.AmbiguousError{Ref: "ab", Count: 2}, "give more digits, or the name"},
		{errors.New("plain"), ""},
	} {
		var s *statusError
		err := withStatus(42, c.err)
		if !errors.As(err, &s) || s.status != 42 || err.Error() != c.err.Error() {
			t.Errorf("withStatus(42, %v): %+v", c.err, s)
		}
		if hint := hintOf(err); hint != c.hint {
			t.Errorf("hintOf(%v) = %q; want %q", c.err, hint, c.hint)
		}
	}
	if err := withStatus(42, nil); err != nil {
		t.Errorf("of no error: %v", err)
	}
	var s *statusError
	if err := withStatus(42, refuse("h", "x")); !errors.As(err, &s) || s.status != exitEngine || s.hint != "h" {
		t.Errorf("of an error with a status: %+v", s)
	}
}

func TestErrorLines(t *testing.T) {
	a, b := errors.New("a"), errors.New("b\nc")
	for _, c := range []struct {
		err  error
		want string
	}{
		{a, "a"},
		{b, `b\nc`},
		{errors.Join(a, nil, b), `a|b\nc`},
		{&statusError{status: 1, err: manyErrors{a, errors.Join(a, b)}}, `a|a|b\nc`},
		{fmt.Errorf("%w: %w", a, a), "a: a"},
		{fmt.Errorf("do: %w", errors.Join(a, a)), `do: a\na`},
	} {
		if got := strings.Join(errorLines(c.err), "|"); got != c.want {
			t.Errorf("errorLines(%q) = %s; want %s", c.err, got, c.want)
		}
	}
}

func TestCheckTTY(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func(old *os.File) { os.Stdin = old; r.Close(); w.Close() }(os.Stdin)
	os.Stdin = r
	for _, c := range []struct{ interactive, tty, ok bool }{{true, true, false}, {true, false, true}, {false, true, true}} {
		err := checkTTY(c.interactive, c.tty)
		var s *statusError
		if c.ok && err != nil || !c.ok && (!errors.As(err, &s) || s.status != exitFailed || err.Error() != "the input device is not a TTY") {
			t.Errorf("-i %v -t %v from a pipe: %v", c.interactive, c.tty, err)
		}
	}
}

func TestWarnIgnoredFormat(t *testing.T) {
	for _, c := range []struct {
		format string
		quiet  bool
		want   string
	}{
		{"{{.ID}}", true, "WARNING: Ignoring custom format, because both --format and --quiet are set.\n"}, {"", true, ""}, {"x", false, ""},
	} {
		var out strings.Builder
		if warnIgnoredFormat(&out, c.format, c.quiet); out.String() != c.want {
			t.Errorf("--format %q, -q %v: %q; want %q", c.format, c.quiet, out.String(), c.want)
		}
	}
}

func TestCIDFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cid")
	c, err := newCIDFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("without a container the file stays: %v", err)
	}
	if c, err = newCIDFile(path); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.write("abc"), c.close()); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "abc" {
		t.Errorf("the file has %q, %v", data, err)
	}
	var s *statusError
	if _, err = newCIDFile(path); !errors.As(err, &s) || s.status != exitEngine {
		t.Errorf("a file that is there: %v", err)
	}
	if c, err = newCIDFile(""); err != nil || c.write("x") != nil || c.close() != nil {
		t.Errorf("without --cidfile: %v", err)
	}
}

func TestCompletion(t *testing.T) {
	old := os.Args
	defer func() { os.Args = old }()
	os.Args = []string{"nslab", cobra.ShellCompRequestCmd}
	containers := func() []string { return []string{"web", "db"} }
	nothing := func(*cobra.Command, []string) {}
	for line, want := range map[string]string{
		"run ": "base :4", "run base ": ":0", "run --pid ": "host container:web container:db :4", "run --network ": "none host container:web container:db :4",
		"run --pull ": "always missing never :4", "run --security-opt ": "no-new-privileges seccomp= seccomp=unconfined systempaths=unconfined label=disable apparmor=unconfined :6",
		"rm ": "web db :4", "rm web ": "db :4",
	} {
		root := &cobra.Command{Use: "nslab"}
		run := &cobra.Command{Use: "run", ValidArgsFunction: completeImage(func() []string { return []string{"base"} }), Run: nothing}
		rm := &cobra.Command{Use: "rm", ValidArgsFunction: completeNames(containers, -1), Run: nothing}
		root.AddCommand(run, rm)
		addRunFlags(run.Flags(), true)
		completeRunFlags(run, containers)
		var out strings.Builder
		root.SetOut(&out)
		root.SetErr(&strings.Builder{})
		root.SetArgs(append([]string{cobra.ShellCompRequestCmd}, strings.Split(line, " ")...))
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(out.String()), " "); got != want {
			t.Errorf("%q completes to %q; want %q", line, got, want)
		}
	}
}

// Every command that does something has help with examples, and none of it is wider than a terminal.
func TestHelp(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Name() == "completion" || cmd.Name() == "help" {
			return // cobra's own
		}
		if cmd.Runnable() && !cmd.HasSubCommands() && cmd.Example == "" {
			t.Errorf("%s has no examples", cmd.CommandPath())
		}
		var help bytes.Buffer
		cmd.SetOut(&help)
		if err := cmd.Help(); err != nil {
			t.Errorf("%s: %v", cmd.CommandPath(), err)
		}
		for line := range strings.Lines(help.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
				t.Errorf("%s --help: %d columns: %s", cmd.CommandPath(), n, line)
			}
		}
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	visit(newRootCmd(nil))
}

// A command is the same whether it is made alone, since the command line names it, or with all others.
func TestChosen(t *testing.T) {
	alone := func(cmd *cobra.Command) *cobra.Command {
		made := newRootCmd(append([]string{"nslab"}, strings.Fields(cmd.CommandPath())[1:]...))
		for range strings.Count(cmd.CommandPath(), " ") {
			if n := len(made.Commands()); n != 1 {
				t.Fatalf("%s is made with %d commands of %s; want it alone", cmd.CommandPath(), n, made.Name())
			}
			made = made.Commands()[0]
		}
		return made
	}
	n := 0
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, c := range cmd.Commands() {
			if c.Name() == "completion" { // cobra's own
				continue
			}
			visit(c)
			n++
			if got, want := alone(c), c; got.CommandPath() != want.CommandPath() || got.UsageString() != want.UsageString() {
				t.Errorf("%s alone:\n%s\nwith all others:\n%s", want.CommandPath(), got.UsageString(), want.UsageString())
			}
		}
	}
	visit(newRootCmd(nil))
	if n < 50 {
		t.Errorf("there are %d commands; want more than 50", n)
	}
	for _, line := range []string{"nslab", "nslab help", "nslab --help", "nslab __complete container", "nslab contaner run", "nslab --unknown version"} {
		if n := len(newRootCmd(strings.Fields(line)).Commands()); n < 10 {
			t.Errorf("%s: %d commands are made; want all", line, n)
		}
	}
	noun := newRootCmd([]string{"nslab", "container", "ps"}).Commands()[0]
	if n := len(noun.Commands()); n < 10 {
		t.Errorf("ps, which is another name: %d commands are made; want all of its noun's", n)
	}
}
