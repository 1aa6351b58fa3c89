package main

import (
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/image"
)

type imageLsOptions struct {
	all, quiet, noTrunc, digests bool
	format                       string
	filters                      filter.Filters
}

func newImageLsCmd(g *globals) *cobra.Command {
	var o imageLsOptions
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS] [REPOSITORY[:TAG]]",
		Aliases: []string{"list"},
		Short:   "List images",
		Long: `List images, the newest first. An image with several names has a line for each.
The filters are dangling=true|false, label=NAME[=VALUE], before=IMAGE,
since=IMAGE, until=TIME and reference=PATTERN.`,
		Example: `  nslab image ls
  nslab image ls --filter dangling=true -q
  nslab image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}'`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 1),
		ValidArgsFunction:     completeNames(g.imageNames, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := format.Parse[*imageRow](imageSheet(o.digests), o.format, o.quiet)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			for _, pattern := range args {
				o.filters.Add("reference", pattern)
			}
			s, err := g.images()
			if err != nil {
				return err
			}
			rows, err := imageRows(s, &o)
			if err != nil && rows == nil {
				return imageError(err) // there is nothing to show, not even headings
			}
			if writeErr := t.Write(os.Stdout, rows); err == nil {
				err = writeErr
			}
			return imageError(err)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all", "a", false, "Show all images (default hides intermediate images)")
	flags.BoolVar(&o.digests, "digests", false, "Show digests")
	flags.VarP(&o.filters, "filter", "f", "Filter output based on conditions provided")
	flags.StringVar(&o.format, "format", "", "Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only show image IDs")
	return cmd
}

func imageSheet(digests bool) format.Sheet {
	s := format.Sheet{
		Heads: map[string]string{
			"ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
			"Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "VIRTUAL SIZE", "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
		},
		Table: `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`,
		Quiet: `{{.ID}}`,
		Raw: "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\n" +
			"virtual_size: {{.Size}}\n",
		RawQuiet: "image_id: {{.ID}}",
	}
	if digests {
		s.Table = `{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}`
	}
	return s
}

// imageRow is a name of an image, or an image without a name.
type imageRow struct {
	o                       *imageLsOptions
	i                       *image.Image
	repository, tag, digest string
	now                     time.Time
}

const none = "<none>"

// imageRows lists the images that the filters mean. What cannot be read is an error beside those that can.
func imageRows(s *image.Store, o *imageLsOptions) ([]*imageRow, error) {
	if err := o.filters.Check("before", "dangling", "label", "reference", "since", "until"); err != nil {
		return nil, err
	}
	list, err := s.List()
	match, matchErr := imageMatch(s, o.filters)
	if matchErr != nil {
		return nil, matchErr
	}
	children := map[string]bool{}
	for _, i := range list {
		children[i.Parent] = true
	}
	var rows []*imageRow
	now := time.Now()
	for _, i := range list {
		names := append(slices.Clone(i.Names), i.Digests...)
		if len(names) == 0 && children[i.ID] && !o.all && !o.filters.Has("dangling") {
			continue
		}
		if !match(i) {
			continue
		}
		if o.filters.Has("reference") {
			if names = slices.DeleteFunc(names, func(n string) bool { return !isReference(o.filters, n) }); len(names) == 0 {
				continue
			}
		}
		for _, row := range rowsOf(i, names, o.digests) {
			row.o, row.i, row.now = o, i, now
			rows = append(rows, row)
		}
		if o.quiet && o.format == "" {
			rows = slices.CompactFunc(rows, func(a, b *imageRow) bool { return a.i == b.i })
		}
	}
	return rows, err
}

// rowsOf makes a line for each tag or, if they are to be shown, for each digest of its repository.
func rowsOf(i *image.Image, names []string, digests bool) (rows []*imageRow) {
	tagged := map[string]bool{}
	byRepository := map[string][]string{}
	for _, name := range names {
		if repository, digest, ok := strings.Cut(name, "@"); ok {
			byRepository[repository] = append(byRepository[repository], digest)
		}
	}
	for _, name := range names {
		n, err := image.ParseName(name)
		if err != nil { // other tools call images what they like
			n = image.Name{Tag: none}
		}
		repository := n.Repository()
		if err != nil {
			repository = name
		}
		if n.Digest != "" {
			continue
		}
		tagged[repository] = true
		list := byRepository[repository]
		if !digests || len(list) == 0 {
			list = []string{none}
		}
		for _, digest := range list {
			rows = append(rows, &imageRow{repository: repository, tag: n.Tag, digest: digest})
		}
	}
	for _, repository := range slices.Sorted(func(yield func(string) bool) {
		for r := range byRepository {
			if !tagged[r] && !yield(r) {
				return
			}
		}
	}) {
		for _, digest := range byRepository[repository] {
			rows = append(rows, &imageRow{repository: repository, tag: none, digest: digest})
		}
	}
	if len(rows) == 0 {
		rows = []*imageRow{{repository: none, tag: none, digest: none}}
	}
	return rows
}

// imageMatch says which images the filters mean, but for the names.
func imageMatch(s *image.Store, f filter.Filters) (func(*image.Image) bool, error) {
	dangling, err := f.Bool("dangling", false)
	if err != nil {
		return nil, err
	}
	until, err := untilTime(f, time.Now())
	if err != nil {
		return nil, err
	}
	made := func(i *image.Image) time.Time {
		if i.Config.Created == nil {
			return time.Time{}
		}
		return *i.Config.Created
	}
	var before, since []time.Time
	for key, list := range map[string]*[]time.Time{"before": &before, "since": &since} {
		for _, ref := range f.Get(key) {
			i, err := s.Resolve(ref)
			if err != nil {
				return nil, err
			}
			*list = append(*list, made(i))
		}
	}
	return func(i *image.Image) bool {
		named := len(i.Names)+len(i.Digests) > 0
		at := made(i)
		switch {
		case f.Has("dangling") && dangling == named, !f.Labels("label", i.Config.Config.Labels):
			return false
		case slices.ContainsFunc(before, func(t time.Time) bool { return !at.Before(t) }):
			return false
		case slices.ContainsFunc(since, func(t time.Time) bool { return !at.After(t) }):
			return false
		}
		return until.IsZero() || at.Before(until)
	}, nil
}

// isReference matches a name with patterns like those of a shell: "busybox", "local/*", "*:v1".
func isReference(f filter.Filters, name string) bool {
	n, err := image.ParseName(name)
	return slices.ContainsFunc(f.Get("reference"), func(pattern string) bool {
		for _, s := range []string{name, n.Repository()} {
			if ok, matchErr := path.Match(pattern, s); ok && matchErr == nil && err == nil {
				return true
			}
		}
		return false
	})
}

// ID and the others are the columns.
func (r *imageRow) ID() string {
	if r.o.noTrunc {
		return r.i.ID
	}
	return format.ShortID(r.i.ID)
}

func (r *imageRow) Repository() string { return r.repository }
func (r *imageRow) Tag() string        { return r.tag }
func (r *imageRow) Digest() string     { return r.digest }

func (r *imageRow) CreatedSince() string {
	if r.i.Config.Created == nil {
		return "N/A"
	}
	return format.Ago(r.now, *r.i.Config.Created)
}

func (r *imageRow) CreatedAt() string {
	if r.i.Config.Created == nil {
		return "N/A"
	}
	return format.Timestamp(*r.i.Config.Created)
}

func (r *imageRow) Size() string        { return format.Size(r.i.Size) }
func (r *imageRow) VirtualSize() string { return format.Size(r.i.Size) }
func (r *imageRow) SharedSize() string  { return "N/A" }
func (r *imageRow) UniqueSize() string  { return "N/A" }
func (r *imageRow) Containers() string  { return "N/A" }
