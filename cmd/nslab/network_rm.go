package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
)

func newNetworkRmCmd(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] NETWORK [NETWORK...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more networks",
		Long: `Remove networks. One to which a container is connected stays; so do bridge,
host and none. With -f, one that is not there is no failure.`,
		Example: `  nslab network rm front back
  nslab network rm $(nslab network ls -q -f type=custom)`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.networkNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				return eachArg(args, func(ref string) error {
					_, err := e.RemoveNetwork(ctx, ref)
					var missing *network.NotFoundError
					if errors.As(err, &missing) && force {
						return nil
					}
					if err == nil {
						_, err = fmt.Fprintln(cmd.OutOrStdout(), ref)
					}
					return err
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not error if the network does not exist")
	return cmd
}
