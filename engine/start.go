package engine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/calm"
	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/jsonfile"
)

// StartOptions is how a container is started.
type StartOptions struct {
	Attach *stream.Client // hand the caller a connection to its output and input, from the first byte on
	Warn   func(string)
	Begun  func() // what can wait until then is to be done now: there is something that would have to be undone
}

func (o *StartOptions) begun() {
	if o != nil && o.Begun != nil {
		o.Begun()
	}
}

// Start runs a container that the caller has locked. It returns when the program runs, or when it is certain that it does
// not. The attachment is nil unless one was asked for.
func (c *Container) Start(ctx context.Context, o StartOptions) (_ *Attachment, err error) {
	if c.monitor == nil {
		if err := unionfs.Forgive(c.path(workFolder)); err != nil { // a start that failed after the mount
			return nil, err
		}
		for _, m := range c.HostConfig.Mounts { // a folder that -v has made may be gone: it was in a tmpfs, and the machine rebooted
			if err := makeBindSource(m); err != nil {
				return nil, err
			}
		}
		if err := c.launch(ctx, o); err != nil {
			return nil, err
		}
	}
	m := c.monitor
	defer func() {
		if err != nil {
			err = errors.Join(err, c.dismiss(ctx))
		}
	}()
	if err := c.nameHosts(ctx); err != nil {
		return nil, err
	}
	job, write, err := c.job(ctx)
	if err != nil {
		return nil, err
	}
	job.First = o.Attach
	os.Remove(c.path(monitor.ExitFile)) // how the last run ended is no news any more
	if err := c.connected(); err != nil {
		return nil, c.failed(ctx, err)
	}
	if err := m.tell(job); err != nil {
		return nil, c.failed(ctx, err)
	}
	// The spec is on disk for people and for other runtimes. It is made anew at each start, and written while the monitor is
	// at work with it. Nobody is fast enough to read that of a container which is gone after a moment.
	warn := func(err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) && o.Warn != nil {
			o.Warn(err.Error())
		}
	}
	var writeErr error
	if c.HostConfig.AutoRemove && o.Attach != nil {
		c.specWritten = after(50*time.Millisecond, func() { warn(write()) })
	} else {
		writeErr = write()
	}
	if err := m.await(ctx, c, o); err != nil {
		return nil, c.failed(ctx, err)
	}
	warn(writeErr)
	c.monitor, c.connection = nil, nil
	m.said.Close()
	if m.attached == nil {
		return nil, m.reports.Close()
	}
	return c.attachment(m), nil
}

// after calls f once the time is over. The result calls that off, or waits until it is done.
func after(d time.Duration, f func()) (cancel func()) {
	done := make(chan struct{})
	t := time.AfterFunc(d, func() {
		defer close(done)
		f()
	})
	return func() {
		if !t.Stop() {
			<-done
		}
	}
}

// job says what the monitor is to do, and how to write down the spec: that in the job has its filter beside it, compiled.
func (c *Container) job(ctx context.Context) (job *monitor.Job, write func() error, err error) {
	spec, err := c.spec(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := c.findLayers(ctx); err != nil {
		return nil, nil, err
	}
	// Of a container that is removed at its end nothing is to outlive that, let alone the machine.
	layers := c.layers(c.lower)
	layers.Volatile = c.HostConfig.AutoRemove
	log, err := logs.ParseOptions(c.HostConfig.LogConfig.Type, c.HostConfig.LogConfig.Config)
	if err != nil {
		return nil, nil, err
	}
	filter, profile, err := c.filter(spec.Process.Capabilities.Bounding)
	if err != nil {
		return nil, nil, err
	}
	job = &monitor.Job{
		Container: container.Config{
			ID: c.ID, Dir: c.RunDir(), Spec: spec, Driver: c.Driver, Layers: layers,
			User: c.Config.User, Groups: c.HostConfig.GroupAdd, Init: c.HostConfig.Init, Filter: filter,
			TimerSlack: calm.Usual(),
		},
		Dir: c.Dir(), RunDir: c.RunDir(), LogPath: c.LogPath(), Log: log,
		Tty: c.Config.Tty, OpenStdin: c.Config.OpenStdin, StdinOnce: c.Config.StdinOnce, Durable: !c.HostConfig.AutoRemove,
	}
	c.relays(job)
	if c.HostConfig.AutoRemove {
		job.Remove = []string{RemoveEntry, c.engine.Root, c.engine.RunRoot, c.ID}
	}
	return job, func() error {
		whole, linux := *spec, *spec.Linux
		if linux.Seccomp, err = profile(); err != nil {
			return err
		}
		whole.Linux = &linux
		return jsonfile.Replace(c.path("config.json"), &whole, false)
	}, nil
}

// findLayers finds the image's layers, unless the container was made just now.
func (c *Container) findLayers(ctx context.Context) error {
	if c.lower != nil {
		return nil
	}
	img, err := c.engine.images.Held(c.Image, c.ID)
	if err != nil {
		return err
	}
	c.lower, err = c.engine.images.Layers(ctx, img, c.Driver)
	return err
}

// layers are the container's: its own on top, then what the runtime has written for it, then the image's.
func (c *Container) layers(image []string) unionfs.Layers {
	return unionfs.Layers{
		Lower: append([]string{c.path(initLayer)}, image...), Upper: c.path(upperLayer), Work: c.path(workFolder),
	}
}

// failed turns the reason of a failed start into an exit status that users of Docker know, and writes it down. What the monitor
// has made is undone by it, or here if it was killed.
func (c *Container) failed(ctx context.Context, err error) error {
	code := 125
	var init *container.InitError
	if errors.As(err, &init) {
		switch init.Kind {
		case container.KindMissing:
			code = 127
		case container.KindProgram:
			code = 126
		}
	}
	undo := errors.Join(c.dismiss(ctx), c.endRun(ctx))
	if undo == nil {
		c.clearRun()
	}
	exit := monitor.Exit{ExitCode: code, Error: err.Error(), FinishedAt: time.Time{}}
	jsonfile.Replace(c.path(monitor.ExitFile), &exit, false) // if there is no room for it, `inspect` does not show why
	return errors.Join(&StartError{Code: code, Err: err}, undo)
}
