package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
)

func newContainerPruneCmd(g *globals) *cobra.Command {
	var force bool
	var f filter.Filters
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove all stopped containers",
		Example: `  nslab container prune
  nslab container prune -f --filter until=24h --filter label!=keep`,
		Args:              needArgs(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keep, err := keptContainers(f, time.Now())
			if err != nil {
				return withStatus(exitFailed, err)
			}
			if !force && !confirm(cmd, "WARNING! This will remove all stopped containers.") {
				return nil
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				pruned, err := e.Prune(ctx, keep)
				return errors.Join(err, printPruned(cmd, pruned))
			})
		},
	}
	flags := cmd.Flags()
	flags.Var(&f, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
	flags.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	if completing() {
		beginnings(cmd, "filter", "until=", "label=", "label!=")
	}
	return cmd
}

// keptContainers says which containers the filters leave alone.
func keptContainers(f filter.Filters, now time.Time) (func(*engine.Container) bool, error) {
	if err := f.Check("label", "label!", "until"); err != nil {
		return nil, err
	}
	until, err := untilTime(f, now)
	if err != nil {
		return nil, err
	}
	return func(c *engine.Container) bool {
		labels := c.Config.Labels
		return !until.IsZero() && c.Created.After(until) || !f.Labels("label", labels) || f.Has("label!") && f.Labels("label!", labels)
	}, nil
}

func printPruned(cmd *cobra.Command, p engine.Pruned) error {
	out := cmd.OutOrStdout()
	if len(p.IDs) > 0 {
		fmt.Fprintln(out, "Deleted Containers:")
		for _, id := range p.IDs {
			fmt.Fprintln(out, id)
		}
		fmt.Fprintln(out)
	}
	_, err := fmt.Fprintln(out, "Total reclaimed space:", format.Size(p.Bytes))
	return err
}
