package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/network"
)

type networkCreateOptions struct {
	network.Spec
	ipv4               bool
	aux, labels, drive []string
	ipam, scope        string
}

func newNetworkCreateCmd(g *globals) *cobra.Command {
	o := networkCreateOptions{}
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Long: `Create a network: a bridge on this machine with a subnet of its own. Containers
that are started with --network NAME get addresses there, find each other by
name, and reach the world under this machine's address. Networks do not reach
each other.

A subnet that is not named is chosen so that this machine has no way to it yet.
With --internal no way leads out of the network, and none in.`,
		Example: `  nslab network create front
  nslab network create --subnet 10.1.0.0/24 --ip-range 10.1.0.128/25 back
  nslab network create --ipv6 --subnet fd00:1::/64 six
  nslab container run -d --network front --network-alias db --name db1 IMAGE`,
		Args:              needArgs(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			spec, err := o.spec()
			if err != nil {
				return err
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				n, err := e.CreateNetwork(ctx, spec, warn)
				if err == nil {
					_, err = fmt.Fprintln(cmd.OutOrStdout(), n.ID)
				}
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.Attachable, "attachable", false, "Enable manual container attachment")
	flags.StringArrayVar(&o.aux, "aux-address", nil, "Auxiliary IPv4 or IPv6 addresses that others have (NAME=IP)")
	flags.StringVarP(&o.Driver, "driver", "d", "bridge", "Driver to manage the Network")
	flags.StringSliceVar(&o.Gateways, "gateway", nil, "IPv4 or IPv6 Gateway for the master subnet")
	flags.BoolVar(&o.Internal, "internal", false, "Restrict external access to the network")
	flags.StringSliceVar(&o.Ranges, "ip-range", nil, "Allocate container ip from a sub-range")
	flags.StringVar(&o.ipam, "ipam-driver", "default", "IP Address Management Driver")
	flags.BoolVar(&o.ipv4, "ipv4", true, "Enable or disable IPv4 address assignment")
	flags.BoolVar(&o.IPv6, "ipv6", false, "Enable or disable IPv6 address assignment")
	flags.StringArrayVar(&o.labels, "label", nil, "Set metadata on a network")
	flags.StringArrayVarP(&o.drive, "opt", "o", nil, "Set driver specific options")
	flags.StringVar(&o.scope, "scope", "local", "Control the network's scope")
	flags.StringSliceVar(&o.Subnets, "subnet", nil, "Subnet in CIDR format that represents a network segment")
	flags.Lookup("scope").Hidden = true
	flags.Lookup("ipam-driver").Hidden = true
	if completing() {
		cmd.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions([]string{"bridge"}, cobra.ShellCompDirectiveNoFileComp))
		beginnings(cmd, "opt", "com.docker.network.bridge.name=", "com.docker.network.driver.mtu=", "com.docker.network.bridge.enable_ip_masquerade=")
		for _, flag := range []string{"aux-address", "gateway", "ip-range", "label", "subnet"} {
			cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions)
		}
	}
	return cmd
}

// spec is what was asked for.
func (o *networkCreateOptions) spec() (network.Spec, error) {
	fail := func(hint, format string, args ...any) (network.Spec, error) {
		return network.Spec{}, &statusError{exitFailed, fmt.Errorf(format, args...), hint}
	}
	switch {
	case o.ipam != "default":
		return fail("there is only nslab's own", "create network %s: IPAM driver %q not found", o.Name, o.ipam)
	case o.scope != "local":
		return fail("the only scope is local", "create network %s: this machine is in no swarm: scope %q", o.Name, o.scope)
	}
	s := o.Spec
	s.NoIPv4 = !o.ipv4
	s.Labels, s.Options, s.Aux = map[string]string{}, map[string]string{}, map[string]string{}
	for _, l := range o.labels {
		key, value, _ := strings.Cut(l, "=")
		if key == "" {
			return fail("a label is NAME or NAME=VALUE", "invalid label %q: it has no name", l)
		}
		s.Labels[key] = value
	}
	for _, l := range o.drive {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return fail("an option is NAME=VALUE", "invalid option %q", l)
		}
		s.Options[key] = value
	}
	for _, l := range o.aux {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return fail("--aux-address NAME=IP", "invalid aux-address %q", l)
		}
		s.Aux[key] = value
	}
	return s, nil
}
