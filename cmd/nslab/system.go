package main

import "github.com/spf13/cobra"

func newSystemCmd(g *globals) *cobra.Command {
	return newNounCmd(g, "system", "Manage nslab",
		maker{"df", newSystemDfCmd},
		maker{"info", newSystemInfoCmd},
		maker{"prune", newSystemPruneCmd},
	)
}
