package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
)

func newNetworkPruneCmd(g *globals) *cobra.Command {
	var f filter.Filters
	var force bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all unused networks",
		Long: `Remove the networks to which no container is connected, but for bridge, host and
none; 'nslab system prune' takes the bridge, too. What containers have left that
were killed goes with them. The filters are label=NAME[=VALUE], label!=… and
until=TIME.`,
		Example: `  nslab network prune
  nslab network prune -f --filter until=24h`,
		Args:              needArgs(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			match, err := prunedNetworks(f)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			if !force && !confirm(cmd, "WARNING! This will remove all custom networks not used by at least one container.") {
				return nil
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				left, reapErr := e.ReapNetworks(ctx, false)
				names, err := e.PruneNetworks(ctx, match)
				printList(cmd.OutOrStdout(), "Deleted Leftovers:", left)
				printList(cmd.OutOrStdout(), "Deleted Networks:", names)
				return errors.Join(reapErr, err)
			})
		},
	}
	flags := cmd.Flags()
	flags.Var(&f, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
	flags.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	if completing() {
		beginnings(cmd, "filter", "label=", "label!=", "until=")
	}
	return cmd
}

// prunedNetworks says which of the networks that no container is connected to are to go.
func prunedNetworks(f filter.Filters) (func(*network.Network) bool, error) {
	if err := f.Check("label", "label!", "until"); err != nil {
		return nil, err
	}
	until, err := untilTime(f, time.Now())
	if err != nil {
		return nil, err
	}
	return func(n *network.Network) bool {
		return f.Labels("label", n.Labels) && !(f.Has("label!") && f.Labels("label!", n.Labels)) && (until.IsZero() || n.Created.Before(until))
	}, nil
}
