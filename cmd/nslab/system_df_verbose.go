package main

import (
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/docker/go-units"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/image"
)

// usageDetails is all of df -v, as templates see it.
type usageDetails struct {
	e *engine.Engine
	u *engine.Usage
}

// Images and the others are the lists.
func (d *usageDetails) Images() format.List[*usedImageRow] { return usedImages(d.u, false) }
func (d *usageDetails) Containers() format.List[*usedContainerRow] {
	return usedContainers(d.e, d.u, false)
}
func (d *usageDetails) Volumes() format.List[*volumeRow]   { return usedVolumes(d.u) }
func (d *usageDetails) BuildCache() format.List[*cacheRow] { return cacheRows(d.u) }

// usedImageRow is a name of an image with what it takes.
type usedImageRow struct {
	*imageRow
	usage engine.ImageUsage
}

func (r *usedImageRow) SharedSize() string {
	return units.HumanSize(float64(r.usage.Size - r.usage.Unique))
}
func (r *usedImageRow) VirtualSize() string { return units.HumanSize(float64(r.usage.Size)) }
func (r *usedImageRow) UniqueSize() string  { return units.HumanSize(float64(r.usage.Unique)) }
func (r *usedImageRow) Containers() string  { return strconv.Itoa(r.usage.Containers) }

// usedContainerRow is a container whose size is only what it has written.
type usedContainerRow struct{ *containerRow }

func (r *usedContainerRow) Size() string { return units.HumanSize(float64(r.size.Own)) }

// printUsage is df -v.
func printUsage(w io.Writer, e *engine.Engine, u *engine.Usage) error {
	images, containers, volumes := usedImages(u, true), usedContainers(e, u, true), usedVolumes(u)
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

func usedVolumes(u *engine.Usage) []*volumeRow {
	rows := []*volumeRow{}
	for _, v := range u.Volumes {
		rows = append(rows, &volumeRow{v: v.Volume, links: strconv.Itoa(len(v.Users)), size: units.HumanSize(float64(v.Size))})
	}
	return rows
}

func usedImages(u *engine.Usage, trunc bool) []*usedImageRow {
	rows := []*usedImageRow{}
	for _, i := range u.Images {
		for _, row := range rowsOf(i.Image, append(append([]string{}, i.Names...), i.Digests...), false) {
			row.o, row.i, row.now = &imageLsOptions{noTrunc: !trunc}, i.Image, time.Now()
			rows = append(rows, &usedImageRow{row, i})
		}
	}
	return rows
}

func usedContainers(e *engine.Engine, u *engine.Usage, trunc bool) []*usedContainerRow {
	rows := []*usedContainerRow{}
	names := &imageNames{store: e.Images(), found: map[string]*image.Image{}}
	for _, c := range u.Containers {
		rows = append(rows, &usedContainerRow{&containerRow{
			c: c.Container, now: time.Now(), trunc: trunc, image: names.shown(c.Container), size: engine.Size{Own: c.Size},
		}})
	}
	return rows
}
