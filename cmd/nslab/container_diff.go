package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerDiffCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "diff CONTAINER",
		Short: "Show what a container has changed in its files",
		Long: `Show what a container has changed, compared with its image: A is added, C is
changed and D is deleted. Volumes are not part of it.`,
		Example:               `  nslab container diff web`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, 1),
		ValidArgsFunction:     completeNames(g.containerNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				changes, err := e.Diff(ctx, args[0])
				if err != nil {
					return err
				}
				out := bufio.NewWriter(cmd.OutOrStdout())
				for _, c := range changes {
					fmt.Fprintf(out, "%s %s\n", c.Kind, shownPath(c.Path))
				}
				return out.Flush()
			})
		},
	}
}

// shownPath is a path that a container has chosen, on one line and harmless to a terminal.
func shownPath(name string) string {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return strconv.Quote(name)
	}
	return name
}
