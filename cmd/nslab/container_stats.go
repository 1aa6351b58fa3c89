package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
)

// statsOptions are the flags of `container stats`.
type statsOptions struct {
	all, once, noTrunc bool
	format             string
}

func newContainerStatsCmd(g *globals) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:   "stats [OPTIONS] [CONTAINER...]",
		Short: "Display a live stream of container(s) resource usage statistics",
		Long: `Display what containers use, as the kernel counts it for their control groups:
the named ones, or all that run. CPU % is of one CPU; 200 % are two of them.`,
		Example: `  nslab container stats
  nslab container stats --no-stream web db
  nslab container stats --no-stream --format '{{.Name}} {{.MemUsage}}'`,
		Args:              needArgs(0, -1),
		ValidArgsFunction: completeNames(g.containersThat(runningContainer), -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tmpl, err := format.Parse[*statsRow](statsSheet(), o.format, false)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				w := &statsWatch{statsOptions: o, engine: e, refs: args, before: map[string]engine.Stats{}}
				return w.run(ctx, cmd.OutOrStdout(), tmpl)
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.all, "all", "a", false, "Show all containers (default shows just running)")
	flags.StringVar(&o.format, "format", "", formatUsage)
	flags.BoolVar(&o.once, "no-stream", false, "Disable streaming stats and only pull the first result")
	flags.BoolVar(&o.noTrunc, "no-trunc", false, "Do not truncate output")
	return cmd
}

// How often what is used is looked at. The first time, a difference is there sooner.
const (
	statsInterval = time.Second
	statsFirst    = statsInterval / 4
)

// statsWatch looks at containers again and again.
type statsWatch struct {
	statsOptions
	engine *engine.Engine
	refs   []string                // nothing: all
	before map[string]engine.Stats // of the last look, by id
	looks  int
}

// The terminal's words: to the upper left, delete to the end of the line, to the end of the screen. See console_codes(4).
const (
	cursorHome = "\x1b[H"
	clearLine  = "\x1b[K"
	clearBelow = "\x1b[J"
)

func (w *statsWatch) run(ctx context.Context, out io.Writer, tmpl *format.Template[*statsRow]) error {
	screen := !w.once && isTerminal(out)
	wait := statsFirst
	if w.once {
		wait = statsInterval
	}
	for {
		rows, err := w.look(ctx)
		if err != nil {
			return err
		}
		if len(rows) == 0 && len(w.refs) > 0 {
			return nil // all that were named are gone
		}
		if w.looks > 1 || len(rows) == 0 || screen {
			var text bytes.Buffer
			if err := tmpl.Write(&text, rows); err != nil {
				return withStatus(exitFailed, err)
			}
			if err := show(out, text.Bytes(), screen); err != nil {
				return err
			}
			if w.once {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = statsInterval
	}
}

// show prints a table. On a screen it takes the place of the last one, line by line, so that nothing flickers.
func show(out io.Writer, text []byte, screen bool) error {
	if screen {
		lines := bytes.ReplaceAll(text, []byte("\n"), []byte(clearLine+"\n"))
		text = slices.Concat([]byte(cursorHome), lines, []byte(clearBelow))
	}
	_, err := out.Write(text)
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// look reads what every container uses now.
func (w *statsWatch) look(ctx context.Context) ([]*statsRow, error) {
	list, err := w.containers(ctx)
	if err != nil {
		return nil, err
	}
	w.looks++
	rows := []*statsRow{}
	for _, n := range list {
		now, err := n.c.Stats(ctx)
		if err != nil {
			return nil, err
		}
		before, seen := w.before[n.c.ID]
		w.before[n.c.ID] = now
		rows = append(rows, &statsRow{named: n, now: now, before: before, fresh: !seen && n.c.State.Running, trunc: !w.noTrunc})
	}
	return rows, nil
}

// named is a container, and what the user has called it.
type named struct {
	ref string
	c   *engine.Container
}

// containers are those to look at: those that were named, as long as they are there, or all that run now.
func (w *statsWatch) containers(ctx context.Context) (list []named, err error) {
	if len(w.refs) > 0 {
		var missing *engine.NotFoundError
		for _, ref := range w.refs {
			c, err := w.engine.Get(ctx, ref)
			switch {
			case err == nil:
				list = append(list, named{ref, c})
			case w.looks == 0 || !errors.As(err, &missing):
				return nil, err
			}
		}
		return list, nil
	}
	all, err := w.engine.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range all {
		if c.State.Running || w.all {
			list = append(list, named{c.ID, c})
		}
	}
	return list, nil
}

// statsSheet is how they are shown.
func statsSheet() format.Sheet {
	return format.Sheet{
		Heads: map[string]string{
			"Container": "CONTAINER", "ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT",
			"MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O", "PIDs": "PIDS",
		},
		Table: `{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}`,
	}
}

// statsRow is what a container uses, as templates see it.
type statsRow struct {
	named
	now, before engine.Stats
	fresh       bool // there is nothing yet to compare with
	trunc       bool
}

func (r *statsRow) ID() string {
	if r.trunc {
		return format.ShortID(r.c.ID)
	}
	return r.c.ID
}

func (r *statsRow) CPUPerc() string {
	if r.fresh {
		return "--"
	}
	return fmt.Sprintf("%.2f%%", r.now.CPUPercent(r.before))
}

func (r *statsRow) Container() string { return r.ref }
func (r *statsRow) Name() string      { return r.c.Name }
func (r *statsRow) MemUsage() string {
	return format.Bytes(r.now.Memory) + " / " + format.Bytes(r.now.Limit)
}
func (r *statsRow) MemPerc() string { return fmt.Sprintf("%.2f%%", r.now.MemoryPercent()) }
func (r *statsRow) NetIO() string {
	return format.Size(int64(r.now.Received)) + " / " + format.Size(int64(r.now.Sent))
}
func (r *statsRow) BlockIO() string {
	return format.Size(int64(r.now.Read)) + " / " + format.Size(int64(r.now.Written))
}
func (r *statsRow) PIDs() string { return strconv.FormatUint(r.now.Pids, 10) }
