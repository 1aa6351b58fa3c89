package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerUnpauseCmd(g *globals) *cobra.Command {
	return explainable(&cobra.Command{
		Use:               "unpause [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Unpause all processes within one or more containers",
		Example:           `  nslab container unpause web`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containersThat(pausedContainer), -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachNamed(cmd, g, args, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Unpause(ctx, ref) })
		},
	})
}
