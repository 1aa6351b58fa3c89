package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerRunCmd(g *globals) *cobra.Command {
	var f *runFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Args:  needArgs(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request(cmd.Flags(), args)
			if err != nil {
				return err
			}
			return runContainer(g, r)
		},
	}
	f = addRunFlags(cmd.Flags(), true)
	return cmd
}

func runContainer(g *globals, r *request) error {
	ctx, stop := interruptible()
	defer stop()
	e, err := g.engine()
	if err != nil {
		return err
	}
	c, err := e.Create(ctx, engine.CreateOptions{Name: r.Name, Config: r.Config, HostConfig: r.Host})
	if err != nil {
		return withStatus(exitEngine, interrupted(err))
	}
	defer c.Close()
	if _, err = c.Start(ctx, engine.StartOptions{Warn: warn}); err != nil {
		return errors.Join(startStatus(interrupted(err)), c.Discard(context.WithoutCancel(ctx)))
	}
	if r.Detach {
		fmt.Println(c.ID)
	}
	return nil
}

func warn(text string) { fmt.Fprintln(os.Stderr, "WARNING:", text) }

// startStatus gives a failed start the exit status that Docker would.
func startStatus(err error) error {
	var s *engine.StartError
	if errors.As(err, &s) {
		return &statusError{status: s.Code, err: s.Err}
	}
	return withStatus(exitEngine, err)
}
