package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerPortCmd(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List port mappings or a specific mapping for the container",
		Long: `List the container's ports that are published on this machine, or where one of
them is. A container with --network host has the machine's own, which are not
listed.`,
		Example:           `  nslab container port web 80/tcp`,
		Args:              needArgs(1, 2),
		ValidArgsFunction: completeNames(g.containersThat(runningContainer), 1),
		RunE: func(cmd *cobra.Command, args []string) error {
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
				c, err := e.Get(ctx, args[0])
				if err != nil {
					return err
				}
				return printPorts(cmd.OutOrStdout(), c, port)
			})
		},
	}
}

// printPorts prints where a port is, or, for an empty one, where all are.
func printPorts(w io.Writer, c *engine.Container, port string) error {
	found := false
	if b := c.Sandbox(); b != nil {
		for _, p := range b.Ports {
			name := fmt.Sprintf("%d/%s", p.Container, p.Proto)
			switch {
			case port == "":
				fmt.Fprintf(w, "%s -> %s\n", name, p.Host)
			case port == name:
				fmt.Fprintln(w, p.Host)
				found = true
			}
		}
	}
	if port != "" && !found {
		return fmt.Errorf("no public port '%s' published for %s", port, c.Name)
	}
	return nil
}
