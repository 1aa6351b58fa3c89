package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"

	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/jsonfile"
)

// CommitOptions is how an image is made of a container.
type CommitOptions struct {
	Name    string   // none if empty
	Author  string   //
	Message string   //
	Changes []string // lines of a Dockerfile that change the config
	Running bool     // do not pause it
	Created time.Time
}

// Commit makes an image of a container: its image's layers, and one more with what the container has changed. That is only its
// own layer; the init layer and volumes are not in it, and of the place of a volume there is an empty folder.
//
// While the layer is read the container is paused, so that it is of one moment.
func (e *Engine) Commit(ctx context.Context, ref string, o CommitOptions) (*image.Image, error) {
	c, err := e.Lock(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	base, err := e.images.Held(c.Image, c.ID)
	if err != nil {
		return nil, err
	}
	own, err := c.runtimeFiles()
	if err != nil {
		return nil, err
	}
	layer := func(w io.Writer) error {
		return c.paused(ctx, !o.Running, func() error {
			return unionfs.WriteTarExcept(ctx, w, c.path(upperLayer), c.form(), func(name string) bool { return own[name] })
		})
	}
	if empty, err := c.unchanged(); err != nil {
		return nil, err
	} else if empty {
		layer = nil
	}
	opts := image.CommitOptions{
		Changes: o.Changes, Config: c.imageConfig(base), Author: o.Author, Message: o.Message,
		CreatedBy: strings.Join(c.Config.Cmd, " "), Created: o.Created,
	}
	if o.Name != "" {
		opts.Names = []string{o.Name}
	}
	return e.images.Commit(ctx, base, layer, opts)
}

// unchanged tells whether the container has no file of its own.
func (c *Container) unchanged() (bool, error) {
	entries, err := os.ReadDir(c.path(upperLayer))
	if err != nil {
		return false, fmt.Errorf("look into the container's layer: %w", jsonfile.Cause(err))
	}
	for _, e := range entries {
		if c.form() != unionfs.AufsForm || !strings.HasPrefix(e.Name(), ".wh..wh.") {
			return false, nil
		}
	}
	return true, nil
}

// imageConfig is the container's config as far as an image has one. As with Docker, what the container was started with is what
// the image is going to do.
func (c *Container) imageConfig(base *image.Image) *ocispec.ImageConfig {
	cfg := base.Config.Config
	from := c.Config
	cfg.User, cfg.Env, cfg.Entrypoint, cfg.Cmd = from.User, from.Env, from.Entrypoint, from.Cmd
	cfg.Labels, cfg.ExposedPorts, cfg.Volumes, cfg.StopSignal = from.Labels, from.ExposedPorts, from.Volumes, from.StopSignal
	if from.WorkingDir != "/" || cfg.WorkingDir != "" {
		cfg.WorkingDir = from.WorkingDir
	}
	return &cfg
}

// pausedFile says, in the run folder, that a command has paused the container for a moment. Whoever finds it while nobody has the
// lock lets the container go on: that command was killed.
const pausedFile = "paused"

// paused runs f while the container stands still. The caller holds the lock. One that is paused already stays so.
func (c *Container) paused(ctx context.Context, pause bool, f func() error) (err error) {
	if !c.State.Running {
		return f()
	}
	if pause && !c.State.Paused {
		s, err := c.runtime()
		if err != nil {
			return err
		}
		if s.Group == nil {
			return &StateError{Container: c.Name, Status: c.State.Status, Op: "pause", Hint: "it has no control group: leave it running with --pause=false"}
		}
		if err := os.WriteFile(filepath.Join(c.RunDir(), pausedFile), nil, 0o600); err != nil {
			return fmt.Errorf("pause for a moment: %w", jsonfile.Cause(err))
		}
		defer func() { err = errors.Join(err, c.goOn(context.WithoutCancel(ctx))) }()
		if err := s.Pause(ctx); err != nil {
			return err
		}
	}
	if c.Driver == unionfs.AufsFUSE {
		// What was written to memory mapped from a file is with the kernel, and not yet with the union's server.
		if err := c.syncUnion(ctx); err != nil {
			return err
		}
	}
	return f()
}

// goOn ends what [Container.paused] has begun.
func (c *Container) goOn(ctx context.Context) error {
	s, err := c.runtime()
	if err == nil && s.Alive() && s.Group != nil {
		err = s.Resume(ctx)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Remove(filepath.Join(c.RunDir(), pausedFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("let the container go on: %w", err)
	}
	return nil
}

// leftPaused tells whether a command that was killed has left the container paused.
func (c *Container) leftPaused() bool {
	_, err := os.Lstat(filepath.Join(c.RunDir(), pausedFile))
	return err == nil && !locked(filepath.Join(c.RunDir(), "lock"))
}

func (c *Container) syncUnion(ctx context.Context) error {
	tree, err := c.openRoot(ctx)
	if err != nil {
		return err
	}
	defer tree.Close()
	root, err := tree.Open(ctx, "/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return fmt.Errorf("write the container's files down: %w", err)
	}
	return nil
}
