package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
)

func newSystemDfCmd(g *globals) *cobra.Command {
	var template string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show what takes how much room on the disk",
		Long: `Show how much room images, containers and volumes take. A layer that several
images have is counted once. What can be reclaimed is what no container needs.

An image is as large as its files. Beside them lies each layer as it came, which
is what is pushed and saved; prune says what both have taken.

With -v, a template gets everything at once: {{.Images}}, {{.Containers}},
{{.Volumes}} and {{.BuildCache}} are lists.`,
		Example: `  nslab system df
  nslab system df -v
  nslab system df --format '{{.Type}}: {{.Reclaimable}}'
  nslab system df -v --format '{{range .Volumes}}{{println .Name .Size}}{{end}}'`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write, err := usageWriter(template, verbose)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				u, err := e.Usage(ctx) // what could be measured is shown, also if not everything could
				return errors.Join(write(cmd.OutOrStdout(), e, u), err)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&template, "format", "", formatUsage)
	flags.BoolVarP(&verbose, "verbose", "v", false, "Show detailed information on space usage")
	if completing() {
		cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// usageWriter understands the flags, before anything is measured.
func usageWriter(template string, verbose bool) (func(io.Writer, *engine.Engine, *engine.Usage) error, error) {
	switch {
	case verbose && (template == "" || template == "table"):
		return printUsage, nil
	case verbose:
		tmpl, err := format.Parse[*usageDetails](format.Sheet{}, template, false)
		return func(w io.Writer, e *engine.Engine, u *engine.Usage) error {
			return tmpl.Write(w, []*usageDetails{{e, u}})
		}, err
	}
	tmpl, err := format.Parse[*usageRow](usageSheet(), template, false)
	return func(w io.Writer, _ *engine.Engine, u *engine.Usage) error { return tmpl.Write(w, usageRows(u)) }, err
}

func usageSheet() format.Sheet {
	return format.Sheet{
		Heads: map[string]string{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"},
		Table: `{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`,
	}
}

// usageRow is a kind of thing that takes room.
type usageRow struct {
	kind              string
	total, active     int
	size, reclaimable int64
}

func (r *usageRow) Type() string       { return r.kind }
func (r *usageRow) TotalCount() string { return strconv.Itoa(r.total) }
func (r *usageRow) Active() string     { return strconv.Itoa(r.active) }
func (r *usageRow) Size() string       { return units.HumanSize(float64(r.size)) }

func (r *usageRow) Reclaimable() string {
	text := units.HumanSize(float64(r.reclaimable))
	if r.size > 0 {
		text += fmt.Sprintf(" (%d%%)", r.reclaimable*100/r.size)
	}
	return text
}

func usageRows(u *engine.Usage) []*usageRow {
	images := &usageRow{kind: "Images", total: len(u.Images), size: u.Layers, reclaimable: u.Layers - u.LayersUsed}
	for _, i := range u.Images {
		if i.Containers > 0 {
			images.active++
		}
	}
	containers := &usageRow{kind: "Containers", total: len(u.Containers)}
	for _, c := range u.Containers {
		containers.size += c.Size
		if c.State.Running {
			containers.active++
		} else {
			containers.reclaimable += c.Size
		}
	}
	volumes := &usageRow{kind: "Local Volumes", total: len(u.Volumes)}
	for _, v := range u.Volumes {
		volumes.size += v.Size
		if len(v.Users) > 0 {
			volumes.active++
		} else {
			volumes.reclaimable += v.Size
		}
	}
	cache := &usageRow{kind: "Build Cache", total: len(u.Cache)}
	for _, c := range u.Cache {
		cache.size += c.Size
		if c.Busy {
			cache.active++
		} else if !c.Shared {
			cache.reclaimable += c.Size
		}
	}
	return []*usageRow{images, containers, volumes, cache}
}
