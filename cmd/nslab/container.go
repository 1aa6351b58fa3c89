package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerCmd(g *globals) *cobra.Command {
	return newNounCmd(g, "container", "Run and manage containers",
		newContainerRunCmd,
		newContainerCreateCmd,
		newContainerStartCmd,
		newContainerExecCmd,
		newContainerAttachCmd,
	)
}

// engine opens the engine at the roots of the command line.
func (g *globals) engine() (*engine.Engine, error) { return engine.Open(g.root, g.runRoot) }

// containerNames lists the containers that a shell may offer.
func (g *globals) containerNames() []string {
	e, err := g.engine()
	if err != nil {
		return nil
	}
	list, _ := e.List(context.Background()) // those that can be read
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return names
}
