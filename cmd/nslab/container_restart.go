package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerRestartCmd(g *globals) *cobra.Command {
	var f *stopFlags
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Restart one or more containers",
		Long:  "Stop a container, if it runs, and start it again. Its files and its log stay.",
		Example: `  nslab container restart web
  nslab container restart -t 0 web db         without waiting for them to end`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containerNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachNamed(cmd, g, args, func(ctx context.Context, e *engine.Engine, ref string) error {
				warn := func(text string) { fmt.Fprintln(cmd.ErrOrStderr(), "WARNING:", text) }
				return e.Restart(ctx, ref, f.seconds(cmd.Flags()), f.signal.String(), engine.StartOptions{Warn: warn})
			})
		},
	}
	f = addStopFlags(cmd)
	return explainable(cmd)
}
