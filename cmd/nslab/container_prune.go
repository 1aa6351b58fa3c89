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
	"github.com/nslab/nslab/engine/logs"
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
			keep, err := pruneFilter(f, time.Now())
			if err != nil {
				return withStatus(exitFailed, err)
			}
			if !force {
				yes, err := confirm(cmd, "WARNING! This will remove all stopped containers.")
				if !yes || err != nil {
					return err
				}
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

// pruneFilter says which containers are to stay.
func pruneFilter(f filter.Filters, now time.Time) (keep func(*engine.Container) bool, err error) {
	if err := f.Check("label", "label!", "until"); err != nil {
		return nil, err
	}
	until := now
	if list := f.Get("until"); len(list) > 1 {
		return nil, &filter.Error{Key: "until", Values: list, Err: errors.New("more than one time")}
	} else if len(list) == 1 {
		if until, err = logs.ParseTime(list[0], now); err != nil {
			return nil, &filter.Error{Key: "until", Values: list, Err: err}
		}
	}
	return func(c *engine.Container) bool {
		labels := c.Config.Labels
		return c.Created.After(until) || !f.Labels("label", labels) || f.Has("label!") && f.Labels("label!", labels)
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
