package main

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
)

// stopFlags say how a container is asked to end, and how long it may take.
type stopFlags struct {
	signal  *opts.Word
	timeout int
}

func addStopFlags(cmd *cobra.Command) *stopFlags {
	f := &stopFlags{signal: opts.NewWord("", opts.Signal)}
	flags := cmd.Flags()
	flags.VarP(f.signal, "signal", "s", "Signal to send to the container (default: the image's, or SIGTERM)")
	flags.IntVarP(&f.timeout, "timeout", "t", 0, "Seconds to wait before killing the container; -1 is for ever (default 10)")
	flags.IntVar(&f.timeout, "time", 0, "")
	flags.MarkHidden("time") // Docker's name for it until 2025
	completeSignals(cmd)
	return f
}

// seconds is nil where nothing was said: then it is the container's affair.
func (f *stopFlags) seconds(flags *pflag.FlagSet) *int {
	if flags.Changed("timeout") || flags.Changed("time") {
		return &f.timeout
	}
	return nil
}

// completeSignals registers the signals' names for --signal.
func completeSignals(cmd *cobra.Command) {
	if completing() {
		cmd.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(signals(), cobra.ShellCompDirectiveNoFileComp))
	}
}

func newContainerStopCmd(g *globals) *cobra.Command {
	var f *stopFlags
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop one or more running containers",
		Long: `Ask the first process of a container to end, and end it, with all others, if it
has not done so in time. A container that does not run is stopped already.`,
		Example: `  nslab container stop web
  nslab container stop -t 1 web db            one second for each, at once
  nslab container stop -s INT web`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containersThat(runningContainer), -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachNamed(cmd, g, args, func(ctx context.Context, e *engine.Engine, ref string) error {
				return e.Stop(ctx, ref, f.seconds(cmd.Flags()), f.signal.String())
			})
		},
	}
	f = addStopFlags(cmd)
	return explainable(cmd)
}
