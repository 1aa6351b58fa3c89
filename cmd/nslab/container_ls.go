package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
)

// lsOptions are the flags of `container ls`.
type lsOptions struct {
	all, latest, quiet, size, noTrunc bool
	last                              int
	format                            string
	filters                           filter.Filters
}

func newContainerLsCmd(g *globals) *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"ps", "list"},
		Short:   "List containers",
		Example: `  nslab container ls -a
  nslab container ls -aq -f status=exited -f label=job
  nslab container ls --format 'table {{.Names}}\t{{.Status}}\t{{.Size}}'`,
		Args:              needArgs(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			warnIgnoredFormat(cmd.ErrOrStderr(), o.format, o.quiet)
			tmpl, err := format.Parse[*containerRow](containerSheet(o.size), o.format, o.quiet)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				rows, err := o.rows(ctx, e, o.size || tmpl.Uses("Size"))
				var wrong *filter.Error
				if errors.As(err, &wrong) || rows == nil && err != nil {
					return withStatus(exitFailed, err)
				}
				return errors.Join(err, tmpl.Write(cmd.OutOrStdout(), rows)) // those that cannot be read come after those that can
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	flags.VarP(&o.filters, "filter", "f", "Filter output based on conditions provided")
	flags.StringVar(&o.format, "format", "", formatUsage)
	flags.IntVarP(&o.last, "last", "n", -1, "Show n last created containers (includes all states)")
	flags.BoolVarP(&o.latest, "latest", "l", false, "Show the latest created container (includes all states)")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Don't truncate output")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "Only display container IDs")
	flags.BoolVarP(&o.size, "size", "s", false, "Display total file sizes")
	if completing() {
		beginnings(cmd, "filter", keysOf(containerKeys)...)
		cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json", "raw"}, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// formatUsage is the help of --format.
const formatUsage = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`

func keysOf(keys []string) (list []string) {
	for _, k := range keys {
		list = append(list, k+"=")
	}
	return list
}

// rows are the containers that were asked for, the newest first.
func (o *lsOptions) rows(ctx context.Context, e *engine.Engine, sized bool) ([]*containerRow, error) {
	list, err := e.List(ctx)
	if list == nil && err != nil {
		return nil, err
	}
	matching, wrong := newContainerFilter(e, &o.filters, list)
	if wrong != nil {
		return nil, wrong
	}
	last := o.last
	if o.latest && last == -1 {
		last = 1
	}
	all := o.all || last > 0 || o.filters.Has("status")
	now, sizer := time.Now(), e.Sizer()
	rows := []*containerRow{}
	for _, c := range list {
		if !all && !c.State.Running || !matching.match(c) {
			continue
		}
		row := &containerRow{c: c, now: now, trunc: !o.noTrunc, image: matching.images.shown(c)}
		if sized {
			size, sizeErr := sizer.Size(c)
			if row.size = size; sizeErr != nil {
				err = errors.Join(err, sizeErr)
			}
		}
		if rows = append(rows, row); len(rows) == last {
			break
		}
	}
	return rows, err
}

// containerSheet is how containers are listed.
func containerSheet(sized bool) format.Sheet {
	s := format.Sheet{
		Heads: map[string]string{
			"ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED",
			"Ports": "PORTS", "State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS", "Mounts": "MOUNTS",
			"LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS", "Platform": "PLATFORM",
		},
		Table: `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`,
		Quiet: `{{.ID}}`,
		Raw: `container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\nstate: {{- pad .State 1 0}}\n` +
			`status: {{- pad .Status 1 0}}\nnames: {{.Names}}\nlabels: {{- pad .Labels 1 0}}\nports: {{- pad .Ports 1 0}}\n`,
		RawQuiet: `container_id: {{.ID}}`, QuietFirst: true,
	}
	if sized {
		s.Table += `\t{{.Size}}`
		s.Raw += `size: {{.Size}}\n`
	}
	return s
}

// containerRow is a container as templates see it.
type containerRow struct {
	c     *engine.Container
	now   time.Time
	trunc bool
	image string
	size  engine.Size
}

func (r *containerRow) ID() string {
	if r.trunc {
		return format.ShortID(r.c.ID)
	}
	return r.c.ID
}

func (r *containerRow) Image() string {
	if short := format.ShortID(r.c.Image); r.trunc && format.ShortID(r.image) == short {
		return short
	}
	return r.image
}

func (r *containerRow) Status() string {
	s := r.c.State
	if s.Running && s.StartedAt.IsZero() {
		s.StartedAt = r.now // it is just being written down
	}
	return format.Status(r.now, s)
}

func (r *containerRow) Mounts() string {
	var list []string
	for _, m := range r.c.Mounts {
		name := m.Name
		if name == "" {
			name = m.Source
		}
		if r.trunc {
			name = format.Ellipsis(name, mountWidth)
		}
		list = append(list, name)
	}
	return strings.Join(list, ",")
}

// mountWidth is how much of a mount's name MOUNTS shows.
const mountWidth = 15

func (r *containerRow) LocalVolumes() string {
	return strconv.Itoa(len(slices.DeleteFunc(slices.Clone(r.c.Mounts), func(m engine.MountPoint) bool { return m.Driver != "local" })))
}

func (r *containerRow) Names() string      { return r.c.Name }
func (r *containerRow) Command() string    { return format.Command(r.c.Path, r.c.Args, r.trunc) }
func (r *containerRow) CreatedAt() string  { return format.Timestamp(r.c.Created) }
func (r *containerRow) RunningFor() string { return format.Ago(r.now, r.c.Created) }
func (r *containerRow) State() string      { return string(r.c.State.Status) }
func (r *containerRow) Size() string       { return format.SizePair(r.size.Own, r.size.All) }
func (r *containerRow) Labels() string     { return format.Labels(r.c.Config.Labels) }
func (r *containerRow) Networks() string   { return networksOf(r.c) }

// Ports are those that are published, and those that are only said to be there.
func (r *containerRow) Ports() string {
	if !r.c.State.Running {
		return ""
	}
	return portsColumn(r.c)
}

// Label is one label.
func (r *containerRow) Label(name string) string { return r.c.Config.Labels[name] }

// Platform is there for scripts: Docker has nothing in it but where its images are containerd's.
func (r *containerRow) Platform() any { return nil }

// networksOf is what the container is connected to by itself.
func networksOf(c *engine.Container) string {
	if strings.HasPrefix(c.HostConfig.NetworkMode, "container:") {
		return ""
	}
	if len(c.Networks) == 0 {
		return c.HostConfig.NetworkMode
	}
	var names []string
	for _, n := range c.Networks {
		names = append(names, n.Network)
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}
