package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/image"
)

func newSystemDfCmd(g *globals) *cobra.Command {
	var template string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "df [OPTIONS]",
		Short: "Show what takes how much room on the disk",
		Long: `Show how much room images, containers and volumes take. A layer that several
images have is counted once. What can be reclaimed is what no container needs.`,
		Example: `  nslab system df
  nslab system df -v
  nslab system df --format '{{.Type}}: {{.Reclaimable}}'`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if verbose && template != "" {
				return &statusError{exitFailed, errors.New("the verbose and the format options conflict"), "leave one of them out"}
			}
			tmpl, err := format.Parse[*usageRow](usageSheet(), template, false)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				u, err := e.Usage(ctx) // what could be measured is shown, also if not everything could
				if verbose {
					return errors.Join(printUsage(cmd.OutOrStdout(), e, u), err)
				}
				return errors.Join(tmpl.Write(cmd.OutOrStdout(), usageRows(u)), err)
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

// usedImageRow is a name of an image with what it takes.
type usedImageRow struct {
	*imageRow
	usage engine.ImageUsage
}

func (r *usedImageRow) SharedSize() string {
	return units.HumanSize(float64(r.usage.Size - r.usage.Unique))
}
func (r *usedImageRow) UniqueSize() string { return units.HumanSize(float64(r.usage.Unique)) }
func (r *usedImageRow) Containers() string { return strconv.Itoa(r.usage.Containers) }

// usedContainerRow is a container whose size is only what it has written.
type usedContainerRow struct{ *containerRow }

func (r *usedContainerRow) Size() string { return units.HumanSize(float64(r.size.Own)) }

// printUsage is df -v.
func printUsage(w io.Writer, e *engine.Engine, u *engine.Usage) error {
	images, containers, volumes := usedImages(u), usedContainers(e, u), []*volumeRow{}
	for _, v := range u.Volumes {
		volumes = append(volumes, &volumeRow{v: v.Volume, links: strconv.Itoa(len(v.Users)), size: units.HumanSize(float64(v.Size))})
	}
	sheet := imageSheet(false)
	sheet.Table = `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}`
	err := printTable(w, "Images space usage:\n\n", sheet, images)
	sheet = containerSheet(false)
	sheet.Table = `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}`
	err = errors.Join(err, printTable(w, "\nContainers space usage:\n\n", sheet, containers))
	sheet = volumeSheet()
	sheet.Table = `{{.Name}}\t{{.Links}}\t{{.Size}}`
	err = errors.Join(err, printTable(w, "\nLocal Volumes space usage:\n\n", sheet, volumes))
	return errors.Join(err, printTable(w, "\nBuild cache usage: "+units.HumanSize(float64(cacheSize(u)))+"\n\n", cacheSheet(), cacheRows(u)))
}

func cacheSize(u *engine.Usage) (n int64) {
	for _, c := range u.Cache {
		n += c.Size
	}
	return n
}

func cacheSheet() format.Sheet {
	return format.Sheet{
		Heads: map[string]string{
			"ID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED", "LastUsedSince": "LAST USED",
			"UsageCount": "USAGE", "Shared": "SHARED",
		},
		Table: `{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}`,
	}
}

// cacheRow is an entry of the build cache.
type cacheRow struct {
	c   image.CacheEntry
	now time.Time
}

func cacheRows(u *engine.Usage) []*cacheRow {
	rows := []*cacheRow{}
	for _, c := range u.Cache {
		rows = append(rows, &cacheRow{c, time.Now()})
	}
	return rows
}

// ID and the others are the columns.
func (r *cacheRow) ID() string            { return format.ShortID(r.c.ID) }
func (r *cacheRow) CacheType() string     { return r.c.Kind }
func (r *cacheRow) Size() string          { return units.HumanSize(float64(r.c.Size)) }
func (r *cacheRow) CreatedSince() string  { return format.Ago(r.now, r.c.Created) }
func (r *cacheRow) LastUsedSince() string { return format.Ago(r.now, r.c.Used) }
func (r *cacheRow) Shared() bool          { return r.c.Shared }
func (r *cacheRow) UsageCount() int {
	if r.c.Busy {
		return 1
	}
	return 0
}

func printTable[R any](w io.Writer, title string, sheet format.Sheet, rows []R) error {
	t, err := format.Parse[R](sheet, "", false)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, title); err != nil {
		return err
	}
	return t.Write(w, rows)
}

func usedImages(u *engine.Usage) []*usedImageRow {
	rows := []*usedImageRow{}
	for _, i := range u.Images {
		for _, row := range rowsOf(i.Image, append(append([]string{}, i.Names...), i.Digests...), false) {
			row.o, row.i, row.now = &imageLsOptions{}, i.Image, time.Now()
			rows = append(rows, &usedImageRow{row, i})
		}
	}
	return rows
}

func usedContainers(e *engine.Engine, u *engine.Usage) []*usedContainerRow {
	rows := []*usedContainerRow{}
	names := &imageNames{store: e.Images(), found: map[string]*image.Image{}}
	for _, c := range u.Containers {
		rows = append(rows, &usedContainerRow{&containerRow{
			c: c.Container, now: time.Now(), trunc: true, image: names.shown(c.Container), size: engine.Size{Own: c.Size},
		}})
	}
	return rows
}
