package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerWaitCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER [CONTAINER...]",
		Short: "Wait until containers stop, then print their exit codes",
		Example: `  nslab container wait job
  nslab container wait $(nslab container ls -q)`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containersThat(runningContainer), -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				// All at once: one that is removed at its end would not be there any more when its turn came.
				return eachContainer(cmd.OutOrStdout(), args, func(ref string) (string, error) {
					code, err := e.Wait(ctx, ref)
					return strconv.Itoa(code), err
				})
			})
		},
	}
}
