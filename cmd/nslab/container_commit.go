package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/image"
)

func newContainerCommitCmd(g *globals) *cobra.Command {
	var o engine.CommitOptions
	var pause bool
	cmd := &cobra.Command{
		Use:   "commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
		Short: "Create a new image from what a container has changed",
		Long: `Create a new image: the layers of the container's own image, and one more with
what the container has changed. What is in volumes does not come along. A
running container stands still while its files are read, but for --pause=false.

--change takes instructions of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE,
HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR.`,
		Example: `  nslab container commit box box:edited
  nslab container commit -m 'with tools' -c 'CMD ["sh"]' box tools`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 2),
		ValidArgsFunction:     completeNames(g.containerNames, 1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Created, err = sourceDate(); err != nil {
				return err
			}
			if slices.ContainsFunc(o.Changes, func(c string) bool { return strings.TrimSpace(c) == "" }) {
				return imageError(&image.InstructionError{Why: "there is no instruction in it"})
			}
			o.Running = !pause
			if len(args) > 1 {
				if o.Name = args[1]; o.Name == "" {
					return &statusError{exitFailed, errors.New("the name of the image is empty"), "leave it out for an image without a name"}
				}
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				i, err := e.Commit(ctx, args[0], o)
				if err != nil {
					return imageError(err)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), i.ID)
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.Author, "author", "a", "", `Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")`)
	flags.StringArrayVarP(&o.Changes, "change", "c", nil, "Apply Dockerfile instruction to the created image")
	flags.StringVarP(&o.Message, "message", "m", "", "Commit message")
	flags.BoolVarP(&pause, "pause", "p", true, "Pause container during commit")
	return cmd
}
