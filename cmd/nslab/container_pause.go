package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerPauseCmd(g *globals) *cobra.Command {
	return explainable(&cobra.Command{
		Use:   "pause [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Pause all processes within one or more containers",
		Long: `Stop all processes of a container where they are. They notice nothing but that
the clock has jumped: lab 03 shows the freezer that does it.`,
		Example: `  nslab container pause web
  nslab container unpause web`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containersThat(livelyContainer), -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return eachNamed(cmd, g, args, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Pause(ctx, ref) })
		},
	})
}
