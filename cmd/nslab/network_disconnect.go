package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newNetworkDisconnectCmd(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "disconnect [OPTIONS] NETWORK CONTAINER",
		Short: "Disconnect a container from a network",
		Long: `Disconnect a container from a network. Its published ports then lead to it by
the next of its networks that has a way out.`,
		Example:           `  nslab network disconnect back web`,
		Args:              needArgs(2, 2),
		ValidArgsFunction: networkAndContainer(g),
		RunE: func(_ *cobra.Command, args []string) error {
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				return e.Disconnect(ctx, args[1], args[0])
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the container to disconnect from a network")
	return cmd
}
