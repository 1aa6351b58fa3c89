package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
)

func newContainerRmCmd(g *globals) *cobra.Command {
	var o engine.RemoveOptions
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more containers",
		Long: `Remove containers with all that is only theirs: what they have written, and
their logs. Volumes stay, but for those without a name where -v is given. With
-f, one that runs is ended first, and one that is not there is no failure.`,
		Example: `  nslab container rm web
  nslab container rm -fv web db
  nslab container rm $(nslab container ls -aq -f status=exited)`,
		Args: needArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := eachNamed(cmd, g, args, func(ctx context.Context, e *engine.Engine, ref string) error { return e.Remove(ctx, ref, o) })
			if o.Force {
				return forgive(cmd.ErrOrStderr(), err)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.Force, "force", "f", false, "Force the removal of a running container (uses SIGKILL)")
	flags.BoolVarP(&o.Volumes, "volumes", "v", false, "Remove anonymous volumes associated with the container")
	link := flags.VarPF(opts.Unsupported{Kind: "bool", Why: "nslab has no links"}, "link", "l", "")
	link.Hidden, link.NoOptDefVal = true, "true"
	cmd.ValidArgsFunction = completeNames(func() []string {
		want := endedContainer
		if o.Force {
			want = anyContainer
		}
		return g.containersThat(want)()
	}, -1)
	return explainable(cmd)
}

// forgive makes a success of errors that only say that containers are not there: whoever forces wants them gone. They are
// printed all the same.
func forgive(w io.Writer, err error) error {
	var failed manyErrors
	if !errors.As(err, &failed) {
		return err
	}
	var missing *engine.NotFoundError
	for _, one := range failed {
		if !errors.As(one, &missing) {
			return err
		}
	}
	for _, one := range failed {
		fmt.Fprintln(w, "nslab:", one)
	}
	return nil
}
