package main

import (
	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/cmd/nslab/format"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

func newVolumeLsCmd(g *globals) *cobra.Command {
	var f filter.Filters
	var template string
	var quiet bool
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Long: `List volumes. The filters are dangling=true|false (whether no container has
it), driver=local, label=NAME[=VALUE] and name=PART.`,
		Example: `  nslab volume ls
  nslab volume ls -q -f dangling=true
  nslab volume ls --format 'table {{.Name}}\t{{.Mountpoint}}'`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 0),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tmpl, err := format.Parse[*volumeRow](volumeSheet(), template, quiet)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			match, err := volumeFilter(f)
			if err != nil {
				return withStatus(exitFailed, err)
			}
			e, err := g.engine()
			if err != nil {
				return err
			}
			list, err := e.ListVolumes()
			if err != nil {
				return volumeError(err)
			}
			rows := []*volumeRow{}
			for _, v := range list {
				if match(v) {
					rows = append(rows, &volumeRow{v: v})
				}
			}
			return tmpl.Write(cmd.OutOrStdout(), rows)
		},
	}
	flags := cmd.Flags()
	flags.VarP(&f, "filter", "f", `Provide filter values (e.g. "dangling=true")`)
	flags.StringVar(&template, "format", "", formatUsage)
	flags.BoolVarP(&quiet, "quiet", "q", false, "Only display volume names")
	if completing() {
		beginnings(cmd, "filter", "dangling=", "driver=", "label=", "name=")
		cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"table", "json", "raw"}, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// volumeFilter says which volumes the filters of ls mean.
func volumeFilter(f filter.Filters) (func(*volumes.Volume) bool, error) {
	if err := f.Check("dangling", "driver", "label", "name"); err != nil {
		return nil, err
	}
	dangling, err := f.Bool("dangling", true)
	if err != nil {
		return nil, err
	}
	return func(v *volumes.Volume) bool {
		return (!f.Has("dangling") || dangling == (len(v.Users) == 0)) && f.Exact("driver", "local") &&
			f.Labels("label", volumeLabels(v)) && f.Match("name", v.Name)
	}, nil
}
