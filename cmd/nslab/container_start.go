package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/headstart"
)

func newContainerCreateCmd(g *globals) *cobra.Command {
	var f *runFlags
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create a new container, and do not start it",
		Long: `Create a container from an image, with the flags of 'nslab container run', and
print its id. 'nslab container start' runs it.`,
		Example: `  nslab container create --name box -it bootstrap sh
  nslab container start -ai box`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeImage(g.imageNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request(cmd.Flags(), args)
			if err != nil {
				return err
			}
			ctx, stop := interruptible()
			defer stop()
			ctx, explained := explaining(ctx, r.Explain)
			defer explained()
			_, c, err := createContainer(ctx, g, r, nil)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), c.ID)
			return c.Close()
		},
	}
	f = addRunFlags(cmd.Flags(), false)
	completeRunFlags(cmd, g.containerNames)
	return cmd
}

func newContainerStartCmd(g *globals) *cobra.Command {
	var attach, interactive, explained bool
	var keys string
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Start one or more stopped containers",
		Long: `Start containers that were created or have ended. With -a or -i nslab stays
with the container, as 'nslab container run' does, and ends with its exit
status.`,
		Example: `  nslab container start web db
  nslab container start -ai box`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containerNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := g.engine()
			if err != nil {
				return err
			}
			if !attach && !interactive {
				return eachArg(args, func(name string) error {
					ctx, stop := interruptible()
					defer stop()
					if _, _, err := startContainer(ctx, e, name, nil, explained); err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), name)
					return nil
				})
			}
			if len(args) > 1 {
				return &statusError{exitFailed, errors.New("you cannot start and attach multiple containers at once"), "start them without -a and -i"}
			}
			detach, err := opts.DetachKeys(keys)
			if err != nil {
				return refuse("for example ctrl-p,ctrl-q", "--detach-keys: %w", err)
			}
			return startAttached(e, args[0], attachment{
				Client: stream.Client{Stdin: interactive, Stdout: true, Stderr: true}, keys: detach, proxy: true,
			}, explained)
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&attach, "attach", "a", false, "Attach STDOUT/STDERR and forward signals")
	flags.BoolVarP(&interactive, "interactive", "i", false, "Attach container's STDIN")
	flags.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
	flags.BoolVar(&explained, "explain", false, "Show what each stage does, with the system calls and the time they take")
	return cmd
}

// startContainer starts a container by name. One that runs already is no error, and gives no attachment.
func startContainer(ctx context.Context, e *engine.Engine, name string, client *stream.Client, shown bool) (*engine.Container, *engine.Attachment, error) {
	ctx, explained := explaining(ctx, shown)
	defer explained()
	c, err := e.Lock(ctx, name)
	if err != nil {
		return nil, nil, interrupted(err)
	}
	defer c.Close()
	if c.State.Paused {
		return nil, nil, &engine.StateError{Container: name, Status: c.State.Status, Op: "start", Hint: "unpause it"}
	}
	if c.State.Running {
		return c, nil, nil
	}
	attached, err := c.Start(ctx, engine.StartOptions{Attach: client, Warn: warn})
	if err != nil {
		return nil, nil, startFailed(err)
	}
	return c, attached, nil
}

// startFailed is the status of `start`, which is 1 where run would be exact: as Docker has it.
func startFailed(err error) error {
	var s *engine.StartError
	if errors.As(err, &s) {
		return s.Err
	}
	return interrupted(err)
}

func startAttached(e *engine.Engine, name string, a attachment, shown bool) error {
	ctx, stop := interruptible()
	defer stop()
	probe, err := e.Get(ctx, name)
	if err != nil {
		return err
	}
	a.Stdin = a.Stdin && probe.Config.OpenStdin
	if err := checkTTY(a.Stdin, probe.Config.Tty); err != nil {
		return err
	}
	c, attached, err := startContainer(ctx, e, name, &a.Client, shown)
	if err != nil {
		return err
	}
	a.stop = stop
	if attached == nil {
		headstart.Drop()
		return attachTo(e, c, a)
	}
	defer attached.Close()
	return stayToTheEnd(e, c, attached, a)
}

func stayToTheEnd(e *engine.Engine, c *engine.Container, attached *engine.Attachment, a attachment) error {
	code, detached, err := stay(e, c, attached.Conn, a)
	if err != nil || detached {
		return err
	}
	if c.HostConfig.AutoRemove {
		if err := c.RemoveEnded(context.Background()); err != nil {
			return err
		}
	}
	return exitWith(code)
}

// attachTo attaches to a container that runs.
func attachTo(e *engine.Engine, c *engine.Container, a attachment) error {
	conn, err := dial(c)
	if errors.Is(err, stream.ErrGone) {
		return fmt.Errorf("attach to container %s: %w", c.Name, err)
	}
	if err != nil {
		return err
	}
	a.redraw = c.Config.Tty
	code, detached, err := stay(e, c, conn, a)
	if err != nil || detached {
		return err
	}
	return exitWith(code)
}

func newContainerAttachCmd(g *globals) *cobra.Command {
	var noStdin, proxy bool
	var keys string
	cmd := &cobra.Command{
		Use:   "attach [OPTIONS] CONTAINER",
		Short: "Attach local standard input, output and errors to a container",
		Long: `Attach to a container that runs: what it prints from now on is shown, and what
is typed goes to it, if it was started with -i. Several can be attached at
once.

ctrl-p ctrl-q leaves a container that has a terminal, and lets it run on.`,
		Example: `  nslab container attach box
  nslab container attach --no-stdin web`,
		Args:              needArgs(1, 1),
		ValidArgsFunction: completeNames(g.containerNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			detach, err := opts.DetachKeys(keys)
			if err != nil {
				return refuse("for example ctrl-p,ctrl-q", "--detach-keys: %w", err)
			}
			e, err := g.engine()
			if err != nil {
				return err
			}
			c, err := e.Get(context.Background(), args[0])
			if err != nil {
				return err
			}
			switch {
			case c.State.Paused:
				return &statusError{exitFailed, errors.New("you cannot attach to a paused container"), "unpause it first"}
			case !c.State.Running:
				return &statusError{exitFailed, errors.New("you cannot attach to a stopped container"), "start it first: 'nslab container start -ai " + args[0] + "'"}
			}
			a := attachment{
				Client: stream.Client{Stdin: !noStdin && c.Config.OpenStdin, Stdout: true, Stderr: true}, keys: detach, proxy: proxy,
			}
			if err := checkTTY(!noStdin, c.Config.Tty); err != nil {
				return &statusError{exitFailed, err, "with --no-stdin it is only looked at"}
			}
			return attachTo(e, c, a)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&noStdin, "no-stdin", false, "Do not attach STDIN")
	flags.BoolVar(&proxy, "sig-proxy", true, "Proxy all received signals to the process")
	flags.StringVar(&keys, "detach-keys", "", "Override the key sequence for detaching a container")
	return cmd
}
