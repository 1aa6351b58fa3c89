package main

import (
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab"
	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/labs"
	"github.com/nslab/nslab/suite"
)

type testOptions struct {
	suite.Options
	list, verbose bool
	format        string
}

var testFormats = []string{"text", "json", "junit"}

func newTestCmd(*globals) *cobra.Command {
	var o testOptions
	cmd := &cobra.Command{
		Use:   "test [LAB|TOPIC|PATTERN]...",
		Short: "Run nslab's own test suite on this machine",
		Long: `Run the scenarios that nslab is tested with, on this machine, with this binary.
They are inside it: no source tree and no Go toolchain is needed. Each scenario
uses nslab as a user would, checks from outside what it did, and fails if it
leaves anything behind.

Without an argument all of them run. A lab (01, pid or 01-pid) or a topic
(doctor, run, setns) chooses those about it, a pattern ('*_steps') those whose
names match. --list shows the names.

What a scenario needs and this machine lacks is named, and the run does not
pass; with --skip-missing it passes all the same.

With --format json each scenario is one line,
  {"script","result":"pass"|"fail"|"missing"|"skip","ms","needs":[…],"output"}
and the last line is the sum,
  {"result":"pass"|"fail"|"missing",
   "passed","failed","missing","skipped","needs","ms"}

Exit status: 0 all passed, 1 some failed, 2 wrong usage, 3 none failed, but some
could not run here, 128+n interrupted by signal n.`,
		Example: `  sudo nslab test
  sudo nslab test 01
  nslab test --skip-missing '*_userns'        without root
  sudo nslab test --format junit > junit.xml
  nslab test --list`,
		ValidArgsFunction: completeTests,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(testFormats, o.format) {
				return usageError("text, json or junit", "no format is called %q", o.format)
			}
			if o.Parallel < 0 || cmd.Flags().Changed("parallel") && o.Parallel == 0 {
				return usageError("a number from 1 on", "%d scenarios at a time are none", o.Parallel)
			}
			scripts, err := chooseScripts(args)
			if err != nil {
				return err
			}
			if o.list && o.format == "junit" {
				return usageError("--format text or json", "a list has no form in JUnit")
			}
			if o.list {
				return listScripts(cmd.OutOrStdout(), scripts, o.format)
			}
			return runScripts(cmd.OutOrStdout(), scripts, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.list, "list", false, "show the scenarios instead of running them")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "show the logs of scenarios that passed, too")
	flags.BoolVar(&o.Lenient, "skip-missing", false, "skip what this machine cannot run")
	flags.IntVarP(&o.Parallel, "parallel", "p", 0, "how many run at a time (default as many as processors, two at least)")
	flags.StringVar(&o.format, "format", "text", "text, json (one object a line) or junit (XML)")
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(testFormats, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// chooseScripts finds the scenarios that the arguments name, each once, in the order of their names.
func chooseScripts(names []string) ([]suite.Script, error) {
	all, err := suite.List(nslab.Scripts, nslab.ScriptsDir)
	if err != nil || len(names) == 0 {
		return all, err
	}
	chosen := map[string]bool{}
	for _, name := range names {
		found := suite.Select(all, labs.All(), name)
		if len(found) == 0 {
			return nil, usageError("'nslab test --list' shows the scenarios", "no scenario, topic or lab is called %q", name)
		}
		for _, s := range found {
			chosen[s.Name] = true
		}
	}
	return slices.DeleteFunc(all, func(s suite.Script) bool { return !chosen[s.Name] }), nil
}

func listScripts(w io.Writer, scripts []suite.Script, format string) error {
	if format == "json" {
		lines := json.NewEncoder(w)
		for _, s := range scripts {
			if err := lines.Encode(s); err != nil {
				return err
			}
		}
		return nil
	}
	const gap = 3 // what course.Table leaves between columns
	widest := 0
	for _, s := range scripts {
		widest = max(widest, len(s.Name))
	}
	rows := [][]string{{"SCENARIO", "WHAT IT SHOWS"}}
	for _, s := range scripts {
		about := []string{s.About}
		if isTerminal(w) && s.About != "" { // a pipe gets a line for each, for grep
			about = course.Wrap(s.About, course.TerminalWidth()-widest-gap)
		}
		rows = append(rows, []string{s.Name, about[0]})
		for _, more := range about[1:] {
			rows = append(rows, []string{"", more})
		}
	}
	return course.Table(w, rows)
}

func runScripts(w io.Writer, scripts []suite.Script, o testOptions) error {
	if err := suite.PrivateMounts(); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	reporter := suite.NewReporter(w, o.format, o.verbose)
	o.Report = reporter.Script
	start := time.Now()
	results, err := suite.Run(ctx, scripts, o.Options)
	if err != nil {
		return interrupted(err)
	}
	sum := suite.Sum(results, time.Since(start))
	if err := reporter.Sum(results, sum); err != nil {
		return interrupted(err)
	}
	switch sum.Result {
	case suite.Fail:
		return &statusError{status: exitFailed}
	case suite.Missing:
		return &statusError{status: exitBlocked}
	}
	return nil
}

func completeTests(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	all, err := suite.List(nslab.Scripts, nslab.ScriptsDir)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var list []cobra.Completion
	for _, s := range all {
		list = append(list, cobra.CompletionWithDesc(s.Name, s.About))
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
