package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/image"
)

type imageHistoryOptions struct {
	format         string
	human          bool
	noTrunc, quiet bool
}

func newImageHistoryCmd(g *globals) *cobra.Command {
	var o imageHistoryOptions
	cmd := &cobra.Command{
		Use:   "history [OPTIONS] IMAGE",
		Short: "Show how an image came about, the last step first",
		Long: `Show the steps by which an image came about, the last one first, with the size
of the layer that each has made. A step that changed only the settings has 0B.`,
		Example:               `  nslab image history --no-trunc bootstrap`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 1),
		ValidArgsFunction:     completeNames(g.imageNames, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := format.Parse[*historyRow](historySheet(), o.format, o.quiet)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			s, err := g.images()
			if err != nil {
				return err
			}
			rows, err := historyRows(s, args[0], &o)
			if err != nil {
				return imageError(err)
			}
			return withStatus(exitFailed, t.Write(os.Stdout, rows))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.format, "format", "", "Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template")
	flags.BoolVarP(&o.human, "human", "H", true, "Print sizes and dates in human readable format")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only show image IDs")
	return cmd
}

func historySheet() format.Sheet {
	return format.Sheet{
		Heads: map[string]string{
			"ID": "IMAGE", "CreatedAt": "CREATED AT", "CreatedSince": "CREATED", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
		},
		Table: `{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`,
		Quiet: `{{.ID}}`,
	}
}

// historyRow is one step.
type historyRow struct {
	o    *imageHistoryOptions
	step ocispec.History
	id   string // empty: of a step that was made elsewhere nobody knows the image
	size int64
	now  time.Time
}

// historyRows lists the steps, the last one first. Those that were made here have the ids of the images in between.
func historyRows(s *image.Store, ref string, o *imageHistoryOptions) ([]*historyRow, error) {
	i, err := s.Resolve(ref)
	if err != nil {
		return nil, err
	}
	sizes, err := s.Sizes(i)
	if err != nil {
		return nil, err
	}
	var rows []*historyRow
	id, parent, now := i.ID, i.Parent, time.Now()
	for n := len(i.Config.History) - 1; n >= 0; n-- {
		row := &historyRow{o: o, step: i.Config.History[n], id: id, now: now}
		if !row.step.EmptyLayer && len(sizes) > 0 {
			row.size, sizes = sizes[len(sizes)-1], sizes[:len(sizes)-1]
		}
		rows = append(rows, row)
		id = ""
		if p, err := s.Resolve(parent); parent != "" && err == nil {
			id, parent = p.ID, p.Parent
		} else {
			parent = ""
		}
	}
	return rows, nil
}

func (r *historyRow) created() time.Time {
	if r.step.Created == nil {
		return time.Time{}
	}
	return *r.step.Created
}

// ID and the others are the columns.
func (r *historyRow) ID() string {
	switch {
	case r.id == "":
		return "<missing>"
	case r.o.noTrunc:
		return r.id
	}
	return format.ShortID(r.id)
}

func (r *historyRow) CreatedAt() string { return r.created().Format(time.RFC3339) }

func (r *historyRow) CreatedSince() string {
	if !r.o.human {
		return r.CreatedAt()
	}
	return format.Ago(r.now, r.created())
}

func (r *historyRow) CreatedBy() string {
	const width = 45 // of Docker's column
	by := strings.ReplaceAll(r.step.CreatedBy, "\t", " ")
	if !r.o.noTrunc {
		by = format.Ellipsis(by, width)
	}
	return by
}

func (r *historyRow) Size() string {
	if !r.o.human {
		return strconv.FormatInt(r.size, 10)
	}
	return format.Size(r.size)
}

func (r *historyRow) Comment() string { return r.step.Comment }
