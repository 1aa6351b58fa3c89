package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
	"github.com/nslab/nslab/image"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// systemPrune is what `system prune` is going to remove.
type systemPrune struct {
	all, volumes, force bool
	filters             filter.Filters

	keep   func(*engine.Container) bool
	images func(*image.Image) bool
	unused func(*volumes.Volume) bool
	lonely func(*network.Network) bool
	cache  func(image.CacheEntry) bool // nil: all
}

func newSystemPruneCmd(g *globals) *cobra.Command {
	var p systemPrune
	cmd := &cobra.Command{
		Use:   "prune [OPTIONS]",
		Short: "Remove what is not used",
		Long: `Remove stopped containers, networks to which none is connected, and images
without a name; with --all, all images that no container has; with --volumes,
the volumes that no container has and that nobody gave a name. The build cache
goes, but for layers that images have as well, which with --all are forgotten,
too. What killed commands have left goes as well: half-made containers, names,
control groups, addresses, links, rules. When no network is left in use,
nothing of nslab's is left on the host: the default bridge and the table of
rules are removed, and ip_forward is turned off again if it was off before.

The filters are until=TIME, label=NAME[=VALUE] and label!=….`,
		Example: `  nslab system prune
  nslab system prune -af --volumes
  nslab system prune -f --filter until=24h`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.check(time.Now()); err != nil {
				return withStatus(exitFailed, err)
			}
			if !p.force && !confirm(cmd, p.warning()) {
				return nil
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error { return p.run(ctx, g, cmd.OutOrStdout(), e) })
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&p.all, "all", "a", false, "Remove all unused images not just dangling ones")
	flags.Var(&p.filters, "filter", `Provide filter values (e.g. "label=<key>=<value>")`)
	flags.BoolVarP(&p.force, "force", "f", false, "Do not prompt for confirmation")
	flags.BoolVar(&p.volumes, "volumes", false, "Prune anonymous volumes")
	if completing() {
		beginnings(cmd, "filter", "until=", "label=", "label!=")
	}
	return cmd
}

// check reads the filters, for each of the things that they are about.
func (p *systemPrune) check(now time.Time) (err error) {
	if err := p.filters.Check("label", "label!", "until"); err != nil {
		return err
	}
	if p.volumes && p.filters.Has("until") {
		return &statusError{exitFailed, errors.New(`the "until" filter is not supported with "--volumes"`), "prune volumes by themselves: nslab volume prune"}
	}
	if p.keep, err = keptContainers(p.filters, now); err != nil {
		return err
	}
	if p.all, p.images, err = pruneFilter(p.filters, p.all, now); err != nil {
		return err
	}
	if p.lonely, err = prunedNetworks(p.filters); err != nil {
		return err
	}
	if p.volumes {
		if p.unused, err = prunedVolumes(p.filters, false); err != nil {
			return err
		}
	}
	before, err := untilTime(p.filters, now)
	if !p.all || !before.IsZero() {
		p.cache = func(c image.CacheEntry) bool {
			return (p.all || !c.Shared) && (before.IsZero() || c.Used.Before(before))
		}
	}
	return err
}

func (p *systemPrune) warning() string {
	text := "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n"
	if p.volumes {
		text += "  - all anonymous volumes not used by at least one container\n"
	}
	if p.all {
		text += "  - all images without at least one container associated to them\n"
	} else {
		text += "  - all dangling images\n"
	}
	if p.all {
		text += "  - all build cache\n"
	} else {
		text += "  - unused build cache\n"
	}
	text += "  - what killed commands have left\n"
	var filters string
	for _, key := range []string{"label", "label!", "until"} {
		for _, value := range p.filters.Get(key) {
			filters += fmt.Sprintf("  - %s=%q\n", key, value)
		}
	}
	if filters != "" {
		text += "\n  Items to be pruned will be filtered with:\n" + strings.ReplaceAll(filters, `"`, "")
	}
	return text
}

// run removes in the order in which the one sets the other free. An error with one thing does not stop the others.
func (p *systemPrune) run(ctx context.Context, g *globals, out io.Writer, e *engine.Engine) error {
	left, reapErr := e.Reap(ctx)
	printList(out, "Deleted Leftovers:", left)
	containers, containersErr := e.Prune(ctx, p.keep)
	total := containers.Bytes
	printList(out, "Deleted Containers:", containers.IDs)
	networks, networksErr := e.PruneNetworks(ctx, p.lonely)
	printList(out, "Deleted Networks:", networks)
	host, hostErr := e.ReapNetworks(ctx, true)
	printList(out, "Taken off the host:", host)
	errs := []error{reapErr, containersErr, networksErr, hostErr}
	if p.volumes {
		names, bytes, err := e.PruneVolumes(ctx, p.unused)
		total, errs = total+bytes, append(errs, err)
		printList(out, "Deleted Volumes:", names)
	}
	if ctx.Err() == nil {
		done, bytes, err := e.Images().Prune(image.PruneOptions{All: p.all, Match: p.images, Users: g.imageUsers()})
		total, errs = total+bytes, append(errs, err)
		if len(done) > 0 {
			fmt.Fprintln(out, "Deleted Images:")
			printRemoved(done, "untagged: ", "deleted: ")
			fmt.Fprintln(out)
		}
	}
	if ctx.Err() == nil && !p.filters.Has("label") && !p.filters.Has("label!") { // nothing in the cache has labels
		ids, bytes, err := e.Images().PruneCache(p.cache)
		total, errs = total+bytes, append(errs, err)
		printList(out, "Deleted build cache objects:", ids)
	}
	_, err := fmt.Fprintln(out, "Total reclaimed space:", format.Size(total))
	return errors.Join(append(errs, err)...)
}

// printList prints what was removed under a title, if there was anything.
func printList(w io.Writer, title string, list []string) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(w, title)
	for _, name := range list {
		fmt.Fprintln(w, name)
	}
	fmt.Fprintln(w)
}
