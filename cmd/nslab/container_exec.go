package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/stream"
	setns "github.com/nslab/nslab/labs/06-setns"
	container "github.com/nslab/nslab/labs/12-container"
)

type execFlags struct {
	detach, interactive, tty, privileged, explain bool
	keys                                          string
	user, workdir                                 *opts.Word
	env, envFile                                  *opts.List
}

func newContainerExecCmd(g *globals) *cobra.Command {
	f := &execFlags{
		user: opts.NewWord("", opts.User), workdir: opts.NewWord("", opts.Workdir),
		env: opts.NewList(opts.Env), envFile: opts.NewList(nil),
	}
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Long: `Execute one more command in a container that runs: with its namespaces, its
control group, its root and its rights, exactly as if the container itself had
started it. See 'nslab run 06'.

Exit status: that of the command; 126 it cannot be executed, 127 there is no
such command, 1 nslab could not do what was asked.`,
		Example: `  nslab container exec -it web sh
  nslab container exec -u 1000 -w /tmp -e A=b web env
  nslab container exec --explain web true`,
		Args:              needArgs(2, -1),
		ValidArgsFunction: completeNames(g.containerNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, keys, err := f.options(args[1:])
			if err != nil {
				return err
			}
			e, err := g.engine()
			if err != nil {
				return err
			}
			return execIn(e, args[0], o, keys, f)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVarP(&f.detach, "detach", "d", false, "Detached mode: run command in the background")
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	flags.BoolVarP(&f.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	flags.BoolVar(&f.privileged, "privileged", false, "Give extended privileges to the command")
	flags.VarP(f.user, "user", "u", "Username or UID (format: <name|uid>[:<group|gid>])")
	flags.VarP(f.workdir, "workdir", "w", "Working directory inside the container")
	flags.VarP(f.env, "env", "e", "Set environment variables")
	flags.Var(f.envFile, "env-file", "Read in a file of environment variables")
	flags.StringVar(&f.keys, "detach-keys", "", "Override the key sequence for detaching a container")
	flags.BoolVar(&f.explain, "explain", false, "Show what each stage does, with the system calls and the time they take")
	return cmd
}

func (f *execFlags) options(args []string) (o engine.ExecOptions, keys []byte, err error) {
	if keys, err = opts.DetachKeys(f.keys); err != nil {
		return o, nil, refuse("for example ctrl-p,ctrl-q", "--detach-keys: %w", err)
	}
	env, err := opts.EnvFiles(f.envFile.Values())
	if err != nil {
		return o, nil, withStatus(exitEngine, err)
	}
	if err := checkTTY(f.interactive && !f.detach, f.tty); err != nil {
		return o, nil, err
	}
	if f.tty {
		o.Size = windowSize()
	}
	return engine.ExecOptions{
		Size: o.Size, Args: args, Env: append(env, f.env.Values()...), WorkingDir: f.workdir.String(), User: f.user.String(),
		Tty: f.tty, Privileged: f.privileged, Detach: f.detach,
	}, keys, nil
}

// execIn runs the command, and holds its pipes or its terminal.
func execIn(e *engine.Engine, name string, o engine.ExecOptions, keys []byte, f *execFlags) (err error) {
	ctx, stop := interruptible()
	defer stop()
	l := stream.Local{}
	inner, err := execPipes(&l, &o, f)
	if err != nil {
		return err
	}
	ctx, explained := explaining(ctx, f.explain)
	process, tty, err := e.Exec(ctx, name, o)
	explained()
	for _, p := range inner {
		p.Close() // the program has them: without ours, its end is theirs
	}
	if err != nil {
		return execStatus(interrupted(err))
	}
	defer process.Close()
	if f.detach {
		return nil
	}
	proxyTo(func(s syscall.Signal) { process.Signal(context.Background(), s) })
	stop() // from here on, signals are the program's
	if tty != nil {
		l.Terminal = tty
	}
	return pump(process, l, keys, f)
}

// execPipes makes the pipes to a program without a terminal. Its own files are never those of the caller: what it opened
// again by /proc/self/fd would be the caller's file, with all that is in it.
func execPipes(l *stream.Local, o *engine.ExecOptions, f *execFlags) (inner []*os.File, err error) {
	if f.tty || f.detach {
		return nil, nil
	}
	if f.interactive {
		if o.Stdin, l.Stdin, err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		inner = append(inner, o.Stdin)
	}
	for _, p := range []struct{ outer, inner **os.File }{{&l.Stdout, &o.Stdout}, {&l.Stderr, &o.Stderr}} {
		if *p.outer, *p.inner, err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		inner = append(inner, *p.inner)
	}
	return inner, nil
}

// pump copies between the caller and the program until that has ended, and ends with its status.
func pump(process *setns.Process, l stream.Local, keys []byte, f *execFlags) error {
	done := make(chan struct{})
	var status syscall.WaitStatus
	go func() {
		status, _ = process.Wait(context.Background()) // only a context could end it otherwise
		close(done)
	}()
	l.Done = done
	o := stream.Options{Stdout: os.Stdout, Stderr: os.Stderr, Keys: detachKeys(keys)}
	if f.interactive {
		o.Stdin = os.Stdin
	}
	o.Proxied = true
	out, err := stream.Pump(context.Background(), l, o)
	var output *stream.OutputError
	if errors.As(err, &output) && errors.Is(err, syscall.EPIPE) {
		return &statusError{status: exitSignal + int(syscall.SIGPIPE)}
	}
	if err != nil || out.Detached {
		return err
	}
	<-done
	if status.Signaled() {
		return exitWith(exitSignal + int(status.Signal()))
	}
	return exitWith(status.ExitStatus())
}

// execStatus gives a failed exec the exit status that Docker would.
func execStatus(err error) error {
	var in *container.InitError
	if !errors.As(err, &in) {
		return err
	}
	switch in.Kind {
	case container.KindMissing:
		return &statusError{status: 127, err: err}
	case container.KindProgram, container.KindCwd, container.KindUser:
		return &statusError{status: 126, err: err}
	}
	return err
}
