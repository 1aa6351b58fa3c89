package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/image"
)

func newImagePruneCmd(g *globals) *cobra.Command {
	var o image.PruneOptions
	var f filter.Filters
	var force bool
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove images that nothing needs",
		Long: `Remove the images that have no name and that no container has; with --all those
with a name, too. The filters are until=TIME, label=NAME[=VALUE], label!=… and
dangling=false, which is --all.`,
		Example: `  nslab image prune -f
  nslab image prune -a --filter until=24h`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.All, o.Match, err = pruneFilter(f, o.All, time.Now()); err != nil {
				return withStatus(exitFailed, err)
			}
			what := "all dangling images."
			if o.All {
				what = "all images without at least one container associated to them."
			}
			if !force && !confirm(cmd, "WARNING! This will remove "+what) {
				return nil
			}
			s, err := g.images()
			if err != nil {
				return err
			}
			o.Users = g.imageUsers()
			done, freed, err := s.Prune(o)
			if len(done) > 0 {
				fmt.Println("Deleted Images:")
				printRemoved(done, "untagged: ", "deleted: ")
				fmt.Println()
			}
			fmt.Println("Total reclaimed space:", format.Size(freed))
			return imageError(err)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.All, "all", "a", false, "Remove all unused images, not just dangling ones")
	flags.BoolVarP(&force, "force", "f", false, "Do not prompt for confirmation")
	flags.Var(&f, "filter", `Provide filter values (e.g. "until=<timestamp>")`)
	return cmd
}

// pruneFilter says which images the filters of prune mean.
func pruneFilter(f filter.Filters, all bool, now time.Time) (bool, func(*image.Image) bool, error) {
	if err := f.Check("dangling", "label", "label!", "until"); err != nil {
		return false, nil, err
	}
	dangling, err := f.Bool("dangling", !all)
	if err != nil {
		return false, nil, err
	}
	before, err := untilTime(f, now)
	if err != nil {
		return false, nil, err
	}
	return !dangling, func(i *image.Image) bool {
		labels := i.Config.Config.Labels
		without := true
		for _, l := range f.Get("label!") {
			var one filter.Filters
			one.Add("label", l)
			without = without && !one.Labels("label", labels)
		}
		made := i.Config.Created
		return f.Labels("label", labels) && without && (before.IsZero() || made != nil && made.Before(before))
	}, nil
}

// confirm asks whether to go on. No answer is no.
func confirm(cmd *cobra.Command, warning string) bool {
	fmt.Printf("%s\nAre you sure you want to continue? [y/N] ", warning)
	var answer string
	fmt.Fscanln(cmd.InOrStdin(), &answer)
	return answer == "y" || answer == "Y"
}

// untilTime reads the filter until: a point in time, or how long ago it is. It is zero without one.
func untilTime(f filter.Filters, now time.Time) (t time.Time, err error) {
	values := f.Get("until")
	if len(values) == 0 {
		return t, nil
	}
	if len(values) > 1 {
		return t, &statusError{exitFailed, fmt.Errorf("more than one until filter specified"), ""}
	}
	text := values[0]
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	var seconds, nanos int64
	if n, _ := fmt.Sscanf(text+"\n", "%d.%d\n", &seconds, &nanos); n == 2 {
		return time.Unix(seconds, nanos), nil
	}
	if n, err := fmt.Sscanf(text+"\n", "%d\n", &seconds); n == 1 && err == nil {
		return time.Unix(seconds, 0), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return t, &statusError{exitFailed, fmt.Errorf("failed to parse value as time or duration: %q", text),
		"it is written like 24h, 2026-01-31 or 2026-01-31T12:00:00"}
}
