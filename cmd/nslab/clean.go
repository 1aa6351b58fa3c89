package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/doctor"
	"github.com/nslab/nslab/labs"
	"github.com/nslab/nslab/suite"
)

func newCleanCmd(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove whatever an interrupted lab left behind",
		Long: `Remove what the journals of interrupted labs name: control groups, folders,
processes. What 'nslab run --keep' kept and what an interrupted 'nslab test'
left is removed too. Labs that are still
running are left alone, and so is everything that nslab did not make. Cleaning
twice does no harm.`,
		Example: `  nslab clean
  nslab clean --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			cleaned, err := course.Clean(labs.All(), g.runRoot, true)
			probes, probesErr := doctor.Clean(g.runRoot)
			tests, testsErr := suite.Clean()
			cleaned.Removed, err = slices.Concat(cleaned.Removed, probes, tests), errors.Join(err, probesErr, testsErr)
			if format == "json" {
				if e := json.NewEncoder(cmd.OutOrStdout()).Encode(cleaned); e != nil {
					return e
				}
				return err
			}
			say := course.Say(g.language())
			out := cmd.OutOrStdout()
			for _, thing := range cleaned.Removed {
				fmt.Fprintln(out, say("removed %s", thing))
			}
			for _, id := range cleaned.Running {
				fmt.Fprintln(out, say("run %s is going on: left alone", id))
			}
			if len(cleaned.Removed)+len(cleaned.Running) == 0 && err == nil {
				fmt.Fprintln(out, say("nothing was left behind"))
			}
			return err
		},
	}
	formatFlag(cmd, &format)
	return cmd
}
