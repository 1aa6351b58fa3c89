package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	volumes "github.com/nslab/nslab/labs/07-volumes"
)

func newVolumeRmCmd(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] VOLUME [VOLUME...]",
		Aliases: []string{"remove"},
		Short:   "Remove one or more volumes",
		Long: `Remove volumes with all that is in them. One that a container has stays. With
-f, one that is not there is no failure.`,
		Example: `  nslab volume rm data
  nslab volume rm $(nslab volume ls -q -f dangling=true)`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, -1),
		ValidArgsFunction:     completeNames(g.volumeNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := g.engine()
			if err != nil {
				return err
			}
			return eachVolume(args, func(name string) error {
				err := e.RemoveVolume(name)
				if err != nil && !(force && errors.Is(err, volumes.ErrNoVolume)) {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), name)
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Force the removal of one or more volumes")
	return cmd
}
