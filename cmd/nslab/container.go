package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/engine"
)

func newContainerCmd(g *globals) *cobra.Command {
	return newNounCmd(g, "container", "Run and manage containers",
		maker{"run", newContainerRunCmd},
		maker{"create", newContainerCreateCmd},
		maker{"start", newContainerStartCmd},
		maker{"exec", newContainerExecCmd},
		maker{"attach", newContainerAttachCmd},
		maker{"commit", newContainerCommitCmd},
		maker{"cp", newContainerCpCmd},
		maker{"diff", newContainerDiffCmd},
		maker{"export", newContainerExportCmd},
		maker{"inspect", newContainerInspectCmd},
		maker{"kill", newContainerKillCmd},
		maker{"logs", newContainerLogsCmd},
		maker{"ls", newContainerLsCmd},
		maker{"pause", newContainerPauseCmd},
		maker{"port", newContainerPortCmd},
		maker{"prune", newContainerPruneCmd},
		maker{"rename", newContainerRenameCmd},
		maker{"restart", newContainerRestartCmd},
		maker{"rm", newContainerRmCmd},
		maker{"stats", newContainerStatsCmd},
		maker{"stop", newContainerStopCmd},
		maker{"top", newContainerTopCmd},
		maker{"unpause", newContainerUnpauseCmd},
		maker{"update", newContainerUpdateCmd},
		maker{"wait", newContainerWaitCmd},
	)
}

// engine opens the engine at the roots of the command line.
func (g *globals) engine() (*engine.Engine, error) { return engine.Open(g.root, g.runRoot) }

// withEngine does something with containers. A signal ends the context, so that nothing is left half done.
func withEngine(g *globals, do func(context.Context, *engine.Engine) error) error {
	e, err := g.engine()
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	err = do(ctx, e)
	if errors.Is(err, context.Canceled) {
		err = context.Cause(ctx) // some say only that they were ended, not by what
	}
	return interrupted(err)
}

// atOnce bounds how many containers a command works on at a time.
const atOnce = 50

// eachContainer does the same to several containers, at once since each may take seconds, and prints what comes of it in
// their order. All are tried; the errors come last.
func eachContainer(w io.Writer, refs []string, do func(ref string) (string, error)) error {
	type result struct {
		text string
		err  error
	}
	slots := make(chan struct{}, atOnce)
	results := make([]chan result, len(refs))
	for i, ref := range refs {
		results[i] = make(chan result, 1)
		go func() {
			slots <- struct{}{}
			text, err := do(ref)
			results[i] <- result{text, err}
			<-slots
		}()
	}
	i := 0
	return eachArg(refs, func(string) error {
		r := <-results[i]
		i++
		if r.err != nil {
			return r.err
		}
		_, err := fmt.Fprintln(w, r.text)
		return err
	})
}

// eachNamed is eachContainer for what only succeeds or not: the containers are printed as they were named.
func eachNamed(cmd *cobra.Command, g *globals, refs []string, do func(ctx context.Context, e *engine.Engine, ref string) error) error {
	shown, _ := cmd.Flags().GetBool("explain") // where there is no such flag, it was not given
	return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
		ctx, explained := explaining(ctx, shown)
		defer explained()
		return eachContainer(cmd.OutOrStdout(), refs, func(ref string) (string, error) { return ref, do(ctx, e, ref) })
	})
}

// explainable gives a command the flag that shows what it does to the kernel.
func explainable(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Bool("explain", false, "Show what each stage does, with the system calls and the time they take")
	return cmd
}

// Which containers a command is offered for.
func anyContainer(*engine.Container) bool       { return true }
func runningContainer(c *engine.Container) bool { return c.State.Running }
func pausedContainer(c *engine.Container) bool  { return c.State.Paused }
func livelyContainer(c *engine.Container) bool  { return c.State.Running && !c.State.Paused }
func endedContainer(c *engine.Container) bool   { return !c.State.Running }

// containerNames lists the containers that a shell may offer.
func (g *globals) containerNames() []string { return g.containersThat(anyContainer)() }

// containersThat lists some of them.
func (g *globals) containersThat(want func(*engine.Container) bool) lister {
	return func() (names []string) {
		e, err := engine.Open(cmp.Or(g.root, engine.DefaultRoot()), course.RunRoot(g.runRoot)) // no flag has been completed yet
		if err != nil {
			return nil
		}
		list, _ := e.List(context.Background()) // those that can be read
		for _, c := range list {
			if want(c) {
				names = append(names, c.Name)
			}
		}
		return names
	}
}
