package main

import (
	"context"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
)

func newNetworkConnectCmd(g *globals) *cobra.Command {
	alias := opts.NewList(opts.Alias)
	ip, ip6 := opts.NewWord("", opts.IPv4), opts.NewWord("", opts.IPv6)
	cmd := &cobra.Command{
		Use:   "connect [OPTIONS] NETWORK CONTAINER",
		Short: "Connect a container to a network",
		Long: `Connect a container to one more network. One that runs gets a new device at
once; it is connected again at each start until it is disconnected.`,
		Example: `  nslab network connect back web
  nslab network connect --alias db --ip 10.1.0.9 back db1`,
		Args: needArgs(2, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return networkAndContainer(g)(cmd, args, word)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			o := engine.EndpointOptions{Network: args[0], Aliases: alias.Values()}
			if ip.String() != "" {
				o.IPv4 = netip.MustParseAddr(ip.String())
			}
			if ip6.String() != "" {
				o.IPv6 = netip.MustParseAddr(ip6.String())
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				return e.Connect(ctx, args[1], o, warn)
			})
		},
	}
	flags := cmd.Flags()
	flags.Var(alias, "alias", "Add network-scoped alias for the container")
	flags.Var(ip, "ip", `IPv4 address (e.g., "172.30.100.104")`)
	flags.Var(ip6, "ip6", `IPv6 address (e.g., "2001:db8::33")`)
	return cmd
}

// networkAndContainer completes these two.
func networkAndContainer(g *globals) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return g.networkNames(), cobra.ShellCompDirectiveNoFileComp
		case 1:
			return g.containerNames(), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}
