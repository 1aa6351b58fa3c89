package main

import (
	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
)

func newNetworkLsCmd(g *globals) *cobra.Command {
	var f filter.Filters
	var template string
	var quiet, noTrunc bool
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List networks",
		Long: `List networks. The filters are dangling=true|false (whether no container is
connected), driver=bridge|host|null, id=…, label=NAME[=VALUE], name=PART,
scope=local and type=builtin|custom.`,
		Example: `  nslab network ls
  nslab network ls -q -f type=custom
  nslab network ls --format 'table {{.Name}}\t{{.Internal}}'`,
		Args:              needArgs(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tmpl, err := format.Parse[*networkRow](networkSheet(), template, quiet)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			e, err := g.engine()
			if err != nil {
				return err
			}
			match, err := networkFilter(e, f)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			list, err := e.Networks()
			rows := []*networkRow{}
			for _, n := range list {
				if match(n) {
					rows = append(rows, &networkRow{n, !noTrunc})
				}
			}
			if writeErr := tmpl.Write(cmd.OutOrStdout(), rows); writeErr != nil {
				return writeErr
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.VarP(&f, "filter", "f", `Provide filter values (e.g. "driver=bridge")`)
	flags.StringVar(&template, "format", "", formatUsage)
	flags.BoolVar(&noTrunc, "no-trunc", false, "Do not truncate the output")
	flags.BoolVarP(&quiet, "quiet", "q", false, "Only display network IDs")
	if completing() {
		beginnings(cmd, "filter", keysOf(networkKeys)...)
		cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json", "raw"}, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}
