package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

func newVolumePruneCmd(g *globals) *cobra.Command {
	var f filter.Filters
	var all, force bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove unused local volumes",
		Long: `Remove the volumes that no container has and that nobody gave a name; with
--all those with a name, too. The filters are label=NAME[=VALUE] and label!=….`,
		Example: `  nslab volume prune
  nslab volume prune -af --filter label!=keep`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			match, err := prunedVolumes(f, all)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			what := "anonymous"
			if all {
				what = "all"
			}
			if !force && !confirm(cmd, "WARNING! This will remove "+what+" local volumes not used by at least one container.") {
				return nil
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				names, bytes, err := e.PruneVolumes(ctx, match)
				out := cmd.OutOrStdout()
				printList(out, "Deleted Volumes:", names)
				_, printErr := fmt.Fprintln(out, "Total reclaimed space:", format.Size(bytes))
				return errors.Join(err, printErr)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&all, "all", "a", false, "Remove all unused volumes, not just anonymous ones")
	flags.Var(&f, "filter", `Provide filter values (e.g. "label=<label>")`)
	flags.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	if completing() {
		beginnings(cmd, "filter", "label=", "label!=")
	}
	return cmd
}

// prunedVolumes says which of the volumes that no container has are to go.
func prunedVolumes(f filter.Filters, all bool) (func(*volumes.Volume) bool, error) {
	if err := f.Check("all", "label", "label!"); err != nil {
		return nil, err
	}
	all, err := f.Bool("all", all)
	if err != nil {
		return nil, err
	}
	return func(v *volumes.Volume) bool {
		labels := volumeLabels(v)
		return (all || v.Anonymous) && f.Labels("label", labels) && !(f.Has("label!") && f.Labels("label!", labels))
	}, nil
}
