package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/image"
)

func newContainerRunCmd(g *globals) *cobra.Command {
	var f *runFlags
	cmd := &cobra.Command{
		Use:   "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
		Short: "Create and run a new container from an image",
		Long: `Create a container from an image and run a command in it, as 'docker run' does,
without a daemon: one small process stays with the container, keeps its log and
its terminal, and ends with it.

What follows the image is the command and its arguments; without any, the
image's own is run. An image can be made of the programs of this machine with
'nslab image bootstrap', or of a tar of a root file system with 'nslab image
import'.

--explain shows what each stage does, in order, with the system calls and the
time each took, and where in the source it stands.

Exit status: that of the command; 125 nslab could not do what was asked, 126
the command cannot be executed, 127 there is no such command, 128+n ended by
signal n.`,
		Example: `  nslab container run -it --rm bootstrap sh
  nslab container run -d --name web -v /srv/www:/www:ro -m 64m IMAGE httpd -f
  nslab container run --rm --cpu-period=100000 --cpu-quota=20000 bootstrap sh
  nslab container run --rm --network container:web bootstrap ip addr
  nslab container run --rm --explain bootstrap true`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeImage(g.imageNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request(cmd.Flags(), args)
			if err != nil {
				return err
			}
			return runContainer(g, r)
		},
	}
	f = addRunFlags(cmd.Flags(), true)
	completeRunFlags(cmd, g.containerNames)
	return cmd
}

// runContainer makes a container, starts it, and stays with it unless it is to be left alone.
func runContainer(g *globals, r *request) (err error) {
	if err := checkTTY(r.Config.OpenStdin && !r.Detach, r.Config.Tty); err != nil {
		return err
	}
	ctx, catch, stop := interruptibleLater()
	defer stop()
	ctx, explained := explaining(ctx, r.Explain)
	if r.Config.Tty {
		r.Host.ConsoleSize = windowSize()
	}
	o := engine.StartOptions{Warn: warn, Begun: catch}
	if r.Host.ContainerIDFile != "" || r.Host.Pull == "always" {
		catch()
	}
	if !r.Detach {
		o.Attach = &stream.Client{Stdin: r.Config.AttachStdin, Stdout: r.Config.AttachStdout, Stderr: r.Config.AttachStderr}
	}
	e, c, err := createContainer(ctx, g, r, &o)
	if err != nil {
		return err
	}
	defer c.Close()
	attached, err := c.Start(ctx, o)
	explained()
	if err != nil {
		// What could not be started is taken away again: nobody has asked for a container that does not run.
		return errors.Join(startStatus(interrupted(err)), c.Discard(context.WithoutCancel(ctx)))
	}
	c.Close()
	if r.Detach {
		fmt.Println(c.ID)
		return nil
	}
	defer attached.Close()
	code, detached, err := stay(e, c, attached.Conn, attachment{keys: r.DetachKeys, proxy: r.SigProxy, Client: *o.Attach, stop: stop})
	if err != nil || detached {
		return err
	}
	if r.Host.AutoRemove {
		if err := c.RemoveEnded(context.Background()); err != nil {
			return err
		}
	}
	return exitWith(code)
}

// createContainer makes the container, and the file that tells its id. With start it is going to be started right away.
func createContainer(ctx context.Context, g *globals, r *request, start *engine.StartOptions) (*engine.Engine, *engine.Container, error) {
	e, err := g.engine()
	if err != nil {
		return nil, nil, withStatus(exitEngine, err)
	}
	cid, err := newCIDFile(r.Host.ContainerIDFile)
	if err != nil {
		return nil, nil, err
	}
	c, err := createPulled(ctx, g, e, r, start)
	if err == nil {
		for _, w := range opts.WithoutEffect(&r.Host) {
			warn(w)
		}
		if err = cid.write(c.ID); err != nil {
			err = errors.Join(err, c.Discard(context.WithoutCancel(ctx)), c.Close())
		}
	}
	if err != nil {
		return nil, nil, errors.Join(withStatus(exitEngine, interrupted(err)), cid.close())
	}
	return e, c, nil
}

// createPulled makes the container, of an image that is pulled where --pull says so.
func createPulled(ctx context.Context, g *globals, e *engine.Engine, r *request, start *engine.StartOptions) (*engine.Container, error) {
	o := engine.CreateOptions{Name: r.Name, Config: r.Config, HostConfig: r.Host, Networks: r.Nets, Run: start}
	pull := func() error {
		p := pullOptions{quiet: r.Quiet, verify: true, platform: r.Host.Platform}
		return pullFor(ctx, g, r.Config.Image, p)
	}
	if r.Host.Pull == "always" {
		if err := pull(); err != nil {
			return nil, err
		}
	}
	c, err := e.Create(ctx, o)
	if r.Host.Pull != "missing" && r.Host.Pull != "" || !missing(err, r.Config.Image) {
		return c, err
	}
	if n, err := image.ParseName(r.Config.Image); err == nil && !r.Quiet {
		fmt.Fprintf(os.Stderr, "Unable to find image '%s' locally\n", n)
	}
	if start != nil {
		start.Begun()
	}
	if err := pull(); err != nil {
		return nil, err
	}
	return e.Create(ctx, o)
}

// missing says whether an image is not here that a registry may have: it has a name, and not only an id.
func missing(err error, ref string) bool {
	var input *engine.InputError
	if !errors.Is(err, image.ErrNotFound) && !(errors.As(err, &input) && input.What == "platform") {
		return false
	}
	_, err = image.ParseName(ref)
	return err == nil && !strings.HasPrefix(ref, "sha256:")
}

// attachment is how a client takes part in a container.
type attachment struct {
	stream.Client
	keys   []byte
	proxy  bool // pass on the signals that nslab gets
	redraw bool // the container draws its screen already

	stop func() // ends that signals interrupt what nslab does: from then on, they are the container's
}

// stay attaches to a container until it ends, or until the user leaves it with the keys.
func stay(e *engine.Engine, c *engine.Container, conn *os.File, a attachment) (code int, detached bool, err error) {
	o := stream.Options{Keys: detachKeys(a.keys), Redraw: a.redraw}
	if a.Stdin {
		o.Stdin = os.Stdin
	}
	if a.Stdout {
		o.Stdout = os.Stdout
	}
	if a.Stderr {
		o.Stderr = os.Stderr
	}
	if a.proxy {
		proxySignals(e, c.ID)
		o.Proxied = true
	}
	if a.stop != nil {
		a.stop()
	}
	out, err := stream.Attach(context.Background(), conn, o)
	var output *stream.OutputError
	var sig *stream.SignalError
	switch {
	case errors.As(err, &output) && errors.Is(err, syscall.EPIPE):
		return 0, false, &statusError{status: exitSignal + int(syscall.SIGPIPE)}
	case errors.As(err, &sig):
		return 0, false, &statusError{status: exitSignal + int(sig.Signal.(syscall.Signal))}
	case errors.Is(err, stream.ErrGone):
		// Its monitor was killed. The container may live on; how it ends, nobody will know.
		code, err := c.Wait(context.Background())
		return code, false, err
	}
	return out.ExitStatus, out.Detached, err
}

// windowSize is that of the terminal that nslab was started from, rows and columns, 0 without one: a program's terminal has the
// same from its first moment on.
func windowSize() [2]uint {
	for _, f := range []*os.File{os.Stdout, os.Stdin, os.Stderr} {
		if cols, rows, err := term.GetSize(int(f.Fd())); err == nil {
			return [2]uint{uint(rows), uint(cols)}
		}
	}
	return [2]uint{}
}

// detachKeys are those that were asked for, or the usual ones.
func detachKeys(keys []byte) []byte {
	if keys == nil {
		keys, _ = stream.ParseKeys("") // which has no error for the usual ones
	}
	return keys
}

// exitWith ends nslab with the status of a program.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &statusError{status: code}
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

// dial connects to the monitor of a container that runs.
func dial(c *engine.Container) (*os.File, error) {
	return stream.Dial(filepath.Join(c.RunDir(), monitor.SocketFile))
}
