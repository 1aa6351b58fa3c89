package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/reexec"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/doctor"
	"github.com/nslab/nslab/labs"
)

func init() {
	reexec.Register(course.SacrificeEntry, func() { course.Walk(labs.All()) })
}

type runOptions struct {
	course.Options
	auto bool
	step string
}

func newRunCmd(g *globals) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run LAB|all",
		Short: "Walk through a lab: do it, see the kernel's evidence, check it",
		Long: `Walk through a lab step by step. Each step says why, does it with the function
that the runtime uses, shows what the kernel says about it, and checks that. On
a terminal it pauses after each step; then you can go on, repeat the step, open
a shell inside the namespaces as they are, read the source, or quit.

LAB is a number or a name: 3, 03, cgroups or 03-cgroups; 'all' runs every lab.

A lab runs in a private mount namespace of its own, as root or, where the kernel
allows it, as an ordinary user. Whatever it makes is removed when it ends; the
last screen states the difference to the host.

Exit status: 0 all checks passed, 1 a check failed, 2 wrong usage, 3 this
machine lacks what the lab needs, 128+n interrupted by signal n.`,
		Example: `  nslab run 01                          step by step
  nslab run all --auto                  everything, straight through
  nslab run cgroups --step limit-cpu    one step
  nslab run 02 --lang zh                in Chinese
  nslab run 03 --format json | jq .checks`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError("'nslab list' shows the labs", "run takes one lab, or 'all', but got %d arguments", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeLabs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Lang, o.RunRoot, o.Color = g.language(), g.runRoot, colored()
			chosen, err := o.choose(cmd, args[0])
			if err != nil {
				return err
			}
			return runLabs(chosen, o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.Interactive, "interactive", false, "pause at each step (default on a terminal)")
	flags.BoolVar(&o.auto, "auto", false, "run straight through (default in a pipe)")
	flags.StringVar(&o.step, "step", "", "run one step only, by its id or number")
	flags.BoolVar(&o.Keep, "keep", false, "keep what the last step made, until 'nslab clean'")
	formatFlag(cmd, &o.Format)
	cmd.RegisterFlagCompletionFunc("step", completeSteps)
	return cmd
}

// choose checks the command line and finds the labs it names.
func (o *runOptions) choose(cmd *cobra.Command, name string) ([]*course.Lab, error) {
	if err := checkFormat(o.Format); err != nil {
		return nil, err
	}
	if o.Interactive && o.auto {
		return nil, usageError("give one of them", "--interactive and --auto exclude each other")
	}
	if o.Interactive && o.Format == "json" {
		return nil, usageError("leave one of them out", "--interactive and --format json exclude each other")
	}
	if !cmd.Flags().Changed("interactive") && !o.auto && o.Format != "json" {
		o.Interactive = term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
	}
	if name == "all" {
		if o.step != "" || o.Keep {
			return nil, usageError("name one lab", "--step and --keep need one lab, not 'all'")
		}
		return labs.All(), nil
	}
	l := course.Find(labs.All(), name)
	if l == nil {
		return nil, usageError("'nslab list' shows the labs", "no lab is called %q", name)
	}
	if o.step != "" {
		id, err := stepID(l, o.step)
		if err != nil {
			return nil, err
		}
		o.Options.Step = id
	}
	return []*course.Lab{l}, nil
}

// stepID finds a step by its id or its number, from 1.
func stepID(l *course.Lab, name string) (string, error) {
	n, err := strconv.Atoi(name)
	for i, s := range l.Steps {
		if s.ID == name || err == nil && n == i+1 {
			return s.ID, nil
		}
	}
	var ids []string
	for _, s := range l.Steps {
		ids = append(ids, s.ID)
	}
	return "", usageError("its steps: "+strings.Join(ids, ", "), "lab %s has no step %q", l.Name(), name)
}

// runLabs runs the labs that this machine can run, and says before it starts which ones it cannot.
func runLabs(chosen []*course.Lab, o runOptions) error {
	blocked := false
	var able []*course.Lab
	for _, l := range chosen {
		missing := doctor.Missing(l, o.RunRoot)
		if len(missing) == 0 {
			able = append(able, l)
			continue
		}
		blocked = true
		doctor.ReportBlocked(os.Stdout, os.Stderr, l, missing, o.Lang, o.Format)
	}
	failed := false
	for _, l := range able {
		out, err := course.Run(labs.All(), l, o.Options)
		switch {
		case err != nil:
			return fmt.Errorf("run %s: %w", l.Name(), err)
		case out.Closed:
			return &statusError{status: exitSignal + 13} // as if SIGPIPE had ended us
		case out.Signal != 0:
			return &statusError{status: exitSignal + int(out.Signal)}
		case out.Quit:
			return nil
		case !out.Pass:
			failed = true
		}
	}
	switch {
	case failed:
		return &statusError{status: exitFailed}
	case blocked:
		return &statusError{status: exitBlocked}
	}
	return nil
}

func completeLabs(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list := []cobra.Completion{cobra.CompletionWithDesc("all", "every lab")}
	for _, l := range labs.All() {
		list = append(list, cobra.CompletionWithDesc(l.Name(), l.Title.En))
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}

func completeSteps(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var list []cobra.Completion
	if len(args) == 1 {
		if l := course.Find(labs.All(), args[0]); l != nil {
			for _, s := range l.Steps {
				list = append(list, s.ID)
			}
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
