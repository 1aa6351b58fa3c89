package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/image"
)

func newImageBootstrapCmd(g *globals) *cobra.Command {
	var o image.BootstrapOptions
	var quiet bool
	cmd := &cobra.Command{
		Use:   "bootstrap [OPTIONS] [PROGRAM...]",
		Short: "Make an image of this machine's own programs",
		Long: `Make an image of programs of this machine, each with the libraries and files
that it needs to start, as lab 04 does it. Nothing is loaded from anywhere.

Without a PROGRAM it is busybox, if this machine has it, or else a shell with
some seventy programs that its users expect, as far as they are there.`,
		Example: `  nslab image bootstrap && nslab container run -it bootstrap sh
  nslab image bootstrap -t tools bash ls ip`,
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) (err error) {
			o.Programs = args
			if o.Created, err = sourceDate(); err != nil {
				return err
			}
			s, err := g.images()
			if err != nil {
				return err
			}
			ctx, stop := interruptible()
			defer stop()
			i, err := s.Bootstrap(ctx, o)
			if err != nil {
				return imageError(err)
			}
			if !quiet {
				fmt.Println(i.ID)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&o.Names, "tag", "t", []string{"bootstrap"}, "Name of the image, `NAME[:TAG]`")
	flags.BoolVarP(&quiet, "quiet", "q", false, "Do not print the image's id")
	return cmd
}
