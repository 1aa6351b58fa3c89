package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

type volumeCreateOptions struct {
	driver, name    string
	labels, options []string
}

func newVolumeCreateCmd(g *globals) *cobra.Command {
	var o volumeCreateOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] [VOLUME]",
		Short: "Create a volume",
		Long: `Create a volume, a folder that outlives containers, and print its name. Without
a name it gets a number. If there is one of this name, nothing is changed.`,
		Example: `  nslab volume create data
  nslab volume create --label owner=anna data
  nslab container run --rm -v data:/srv bootstrap sh -c 'date > /srv/now'`,
		DisableFlagsInUseLine: true,
		Args:                  needArgs(0, 1),
		ValidArgsFunction:     cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if o.name != "" {
					return &statusError{exitFailed, errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg"), "leave --name out"}
				}
				o.name = args[0]
			}
			return o.create(cmd, g)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.driver, "driver", "d", "local", "Specify volume driver name")
	flags.StringVar(&o.name, "name", "", "Specify volume name")
	flags.Lookup("name").Hidden = true
	flags.StringArrayVar(&o.labels, "label", nil, "Set metadata for a volume")
	flags.StringArrayVarP(&o.options, "opt", "o", nil, "Set driver specific options: the driver local takes none here")
	if completing() {
		cmd.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions([]string{"local"}, cobra.ShellCompDirectiveNoFileComp))
		cmd.RegisterFlagCompletionFunc("label", cobra.NoFileCompletions)
	}
	return cmd
}

func (o *volumeCreateOptions) create(cmd *cobra.Command, g *globals) error {
	if o.driver != "local" {
		return &statusError{exitFailed, fmt.Errorf("create %s: error looking up volume plugin %q: plugin %[2]q not found", o.name, o.driver),
			"the only driver is local"}
	}
	if len(o.options) > 0 {
		return &statusError{exitFailed, fmt.Errorf("create %s: invalid option: %q: volumes are plain folders", o.name, o.options[0]),
			"for memory: container run --tmpfs /inside; for a folder of this machine: container run -v /folder:/inside"}
	}
	labels := map[string]string{}
	for _, l := range o.labels {
		key, value, _ := strings.Cut(l, "=")
		if key == "" {
			return &statusError{exitFailed, fmt.Errorf("invalid label %q: it has no name", l), "a label is NAME or NAME=VALUE"}
		}
		labels[key] = value
	}
	e, err := g.engine()
	if err != nil {
		return err
	}
	v, err := e.CreateVolume(o.name, labels)
	if err != nil {
		return volumeError(err)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), v.Name)
	return err
}
