package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerPortCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Long: `List the container's ports that are published on the host. nslab has no network
yet that would need it: a container with --network host has the host's own.`,
		Example:           `  nslab container port web 80/tcp`,
		Args:              needArgs(1, 2),
		ValidArgsFunction: completeNames(g.containersThat(runningContainer), 1),
		RunE: func(_ *cobra.Command, args []string) error {
			port := ""
			if len(args) > 1 {
				number, proto, has := strings.Cut(args[1], "/")
				if !has {
					proto = "tcp"
				}
				if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
					return fmt.Errorf("%q is no port", args[1])
				}
				port = number + "/" + proto
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				_, err := e.Get(ctx, args[0])
				if err == nil && port != "" {
					err = fmt.Errorf("no public port '%s' published for %s", port, args[0])
				}
				return err
			})
		},
	}
}
