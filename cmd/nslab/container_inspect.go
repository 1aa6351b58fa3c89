package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	"github.com/nslab/nslab/engine"
)

func newContainerInspectCmd(g *globals) *cobra.Command {
	var template string
	var sized bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Display detailed information on one or more containers",
		Long: `Display all that is known of a container, in Docker's form. Pid is the number
of its first process on the host: /proc/PID/root is the container's root.`,
		Example: `  nslab container inspect web
  nslab container inspect -f '{{.State.Pid}}' web
  nslab container inspect -f '{{json .Mounts}}' web | jq`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containerNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			show, err := format.NewInspector(template)
			if err != nil {
				return withStatus(exitTemplate, err)
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				sizer := e.Sizer()
				err := eachArg(args, func(ref string) error {
					c, err := e.Get(ctx, ref)
					if err != nil {
						return err
					}
					d, err := c.Inspect(ctx)
					if err != nil {
						return err
					}
					if sized {
						size, err := sizer.Size(c)
						if err != nil {
							return err
						}
						d.SizeRw, d.SizeRootFs = &size.Own, &size.All
					}
					return show.Add(d)
				})
				if flushErr := show.Flush(cmd.OutOrStdout()); flushErr != nil {
					return flushErr
				}
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&template, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`)
	flags.BoolVarP(&sized, "size", "s", false, "Display total file sizes")
	return cmd
}
