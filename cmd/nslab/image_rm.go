package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/image"
)

func newImageRmCmd(g *globals) *cobra.Command {
	var o image.RemoveOptions
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] IMAGE [IMAGE...]",
		Aliases: []string{"remove"},
		Short:   "Remove images",
		Long: `Remove images, by name or id. An image with several names loses only the name
that was given. Layers go with the last image that has them. What a container
has stays as long as the container.`,
		Example: `  nslab image rm tools:v1
  nslab image rm -f $(nslab image ls -q)`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, -1),
		ValidArgsFunction:     completeNames(g.imageNames, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := g.images()
			if err != nil {
				return err
			}
			o.Users = g.imageUsers()
			return imageError(eachArg(args, func(ref string) error {
				done, err := s.Remove(ref, o)
				printRemoved(done, "Untagged: ", "Deleted: ")
				if o.Force && errors.Is(err, image.ErrNotFound) { // as with rm -f: it is gone, which is what was wanted
					fmt.Fprintln(os.Stderr, "nslab:", err)
					return nil
				}
				return err
			}))
		},
	}
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "Force removal of the image")
	cmd.Flags().BoolVar(&o.NoPrune, "no-prune", false, "Do not delete untagged parents")
	return cmd
}

func printRemoved(done []image.Removed, untagged, deleted string) {
	for _, r := range done {
		if r.Untagged != "" {
			fmt.Println(untagged + r.Untagged)
		} else {
			fmt.Println(deleted + r.Deleted)
		}
	}
}
