package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/format"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// volumeDetails is a volume as `volume inspect` shows it, in Docker's form.
type volumeDetails struct {
	CreatedAt  string
	Driver     string
	Labels     map[string]string
	Mountpoint string
	Name       string
	Options    map[string]string
	Scope      string
}

func newVolumeDetails(v *volumes.Volume) *volumeDetails {
	d := &volumeDetails{
		CreatedAt: v.CreatedAt.UTC().Format(time.RFC3339), Driver: "local", Labels: volumeLabels(v), Mountpoint: v.Mountpoint(), Name: v.Name, Scope: "local",
	}
	if len(d.Labels) == 0 {
		d.Labels = nil // as Docker has it: null
	}
	return d
}

func newVolumeInspectCmd(g *globals) *cobra.Command {
	var template string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short: "Display detailed information on one or more volumes",
		Example: `  nslab volume inspect data
  nslab volume inspect -f '{{.Mountpoint}}' data`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(1, -1),
		ValidArgsFunction:     completeNames(g.volumeNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			show, err := format.NewInspector(template)
			if err != nil {
				return withStatus(exitTemplate, err)
			}
			e, err := g.engine()
			if err != nil {
				return err
			}
			err = eachVolume(args, func(name string) error {
				v, err := e.Volume(name)
				if err != nil {
					return err
				}
				return show.Add(newVolumeDetails(v))
			})
			if flushErr := show.Flush(cmd.OutOrStdout()); flushErr != nil {
				return flushErr
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&template, "format", "f", "", `Format output using a custom template:
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template`)
	return cmd
}
