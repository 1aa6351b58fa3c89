package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerRenameCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NEW_NAME",
		Short:             "Rename a container",
		Example:           `  nslab container rename web web-old`,
		Args:              needArgs(2, 2),
		ValidArgsFunction: completeNames(g.containerNames, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			old, name := args[0], strings.TrimPrefix(args[1], "/") // as inspect shows it
			if old == "" || name == "" {
				return errors.New("neither old nor new names may be empty")
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error { return e.Rename(ctx, old, name) })
		},
	}
}
