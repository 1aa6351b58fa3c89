package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
)

func newContainerKillCmd(g *globals) *cobra.Command {
	name := opts.NewWord("", opts.Signal)
	cmd := &cobra.Command{
		Use:   "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Kill one or more running containers",
		Long: `Send a signal to the first process of a container. SIGKILL, which it is unless
--signal says otherwise, ends all of them.`,
		Example: `  nslab container kill web
  nslab container kill -s HUP web     many servers then read their files again`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containersThat(runningContainer), -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text := name.String()
			if text == "" {
				text = "KILL"
			}
			sig, err := engine.ParseSignal(text)
			if err != nil {
				return err
			}
			return eachNamed(cmd, g, args, func(ctx context.Context, e *engine.Engine, ref string) error {
				return e.Kill(ctx, ref, sig)
			})
		},
	}
	cmd.Flags().VarP(name, "signal", "s", "Signal to send to the container (default KILL)")
	completeSignals(cmd)
	return explainable(cmd)
}
