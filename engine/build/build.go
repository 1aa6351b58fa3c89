// Package build makes images from Dockerfiles.
//
// The idea: an image is another image and what a list of instructions has made of it. Some of them change its settings, and cost
// nothing; the others write files, and each of those gives a layer. RUN runs a command in a container, which is mounted on
// an empty folder on top of all layers so far: what it has written there *is* the layer. The folder gets its place in the
// store by a rename, and is packed once, while the next instruction is already at work. All of it is written to the disk
// at the end, with one sync.
//
// The interface: [Build] takes [Options] and returns the image. What happens is told to a [Progress].
//
// Stages are a graph: those that the wanted one needs run at the same time, each as far as it gets until it needs another;
// the rest is left out. The cache knows a layer by a key, a digest of all that its instruction depends on: the key of what is
// below, the instruction with its variables expanded, and the files that it copies (cache.go). Where a stage has had to do one
// instruction, it does all that follow.
//
// All or nothing: an image gets its name when it is whole. A build that fails, or is killed, leaves no container, no mount and
// no layer; what it had finished is remembered by the cache if it could still say so.
package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/build/files"
	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/dockerfile"
)

// Options are what a build is told.
type Options struct {
	Context files.Options // Scratch is filled in

	Tags     []string
	Target   string // a stage; empty: the last one
	Args     map[string]string
	Labels   map[string]string
	Platform string // "linux/arm64"; empty: this machine's
	Secrets  map[string]Secret

	NoCache       bool
	NoCacheFilter []string // stages
	Squash        bool

	// Network is that of RUN where the instruction says nothing, and HostConfig its limits and names.
	Network    string
	HostConfig engine.HostConfig

	// Pull gets an image that is not there, or may be newer elsewhere; nil where nobody can. With Always it is asked for each.
	Pull   func(ctx context.Context, ref, platform string, progress func(image.Progress)) error
	Always bool

	Epoch    *time.Time // SOURCE_DATE_EPOCH: nothing in the image is younger
	Progress Progress
	Warn     func(string)
}

// Secret is a file or a variable that RUN may see, and no layer.
type Secret struct{ File, Env string }

// builder is a build that is going on.
type builder struct {
	Options
	engine  *engine.Engine
	store   *image.Store
	draft   *image.Draft
	context *files.Context
	file    *dockerfile.File
	globals []string // NAME=VALUE: the ARGs before the first FROM, and the platforms
	stages  []*stage
	now     time.Time
	counter counter

	mu    sync.Mutex
	used  map[string]bool // build arguments that somebody has asked for
	group *errgroup.Group

	pulling sync.Mutex
	pulled  map[string]bool
}

// Build carries a Dockerfile out.
func Build(ctx context.Context, e *engine.Engine, o Options) (i *image.Image, err error) {
	b := &builder{Options: o, engine: e, store: e.Images(), now: time.Now().UTC(), used: map[string]bool{}, pulled: map[string]bool{}}
	if b.Progress == nil {
		b.Progress = Quiet{}
	}
	if b.Epoch != nil {
		b.now = *b.Epoch
	}
	if b.draft, err = b.store.Draft(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.draft.Close()) }()
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.context.Close()) }()
	if err := b.plan(); err != nil {
		return nil, err
	}
	target, err := b.target()
	if err != nil {
		return nil, err
	}
	if err := b.run(ctx, target); err != nil {
		// What is finished need not be done again the next time.
		if _, saveErr := b.draft.Save(nil); saveErr != nil && context.Cause(ctx) == nil {
			err = errors.Join(err, saveErr)
		}
		return nil, err
	}
	if names := b.unused(); len(names) > 0 && b.Warn != nil {
		b.Warn(fmt.Sprintf("nobody has asked for the build arguments %s: there is no ARG for them", strings.Join(names, ", ")))
	}
	return b.finish(ctx, target)
}

// open reads the Dockerfile, and opens the folder that it is about.
func (b *builder) open(ctx context.Context) (err error) {
	o := b.Options.Context
	o.Scratch = filepath.Join(b.draft.Dir(), "context")
	o.Avoid = []string{b.engine.Root, b.engine.RunRoot}
	if err := os.Mkdir(o.Scratch, 0o700); err != nil {
		return fmt.Errorf("make a folder for the build: %w", err)
	}
	if b.context, err = files.Open(ctx, o); err != nil {
		return err
	}
	b.file, err = dockerfile.Parse(b.context.Name, b.context.Dockerfile)
	if err != nil {
		return errors.Join(err, b.context.Close())
	}
	return nil
}

// scratch makes a folder that is gone with the build.
func (b *builder) scratch() (string, error) {
	dir, err := os.MkdirTemp(b.draft.Dir(), "scratch-")
	if err != nil {
		return "", fmt.Errorf("make a folder for the build: %w", err)
	}
	return dir, nil
}

// target is the stage that is wanted.
func (b *builder) target() (*stage, error) {
	if b.Target == "" {
		return b.stages[len(b.stages)-1], nil
	}
	n := b.file.Find(b.Target, len(b.stages))
	if n < 0 {
		return nil, &StageError{Name: b.Target, Known: b.stageNames()}
	}
	return b.stages[n], nil
}

func (b *builder) stageNames() (names []string) {
	for _, s := range b.file.Stages {
		if s.Name != "" {
			names = append(names, s.Name)
		}
	}
	return names
}

// run carries out the stages that are needed for one.
func (b *builder) run(ctx context.Context, target *stage) error {
	b.count(target)
	group, ctx := errgroup.WithContext(ctx)
	b.group = group
	for _, s := range b.needed(target) {
		s.start(ctx)
	}
	return group.Wait()
}

// finish makes the image of a stage.
func (b *builder) finish(ctx context.Context, target *stage) (*image.Image, error) {
	v := b.counter.vertex("", "exporting to image")
	b.Progress.Begin(v)
	st := target.state
	for name, value := range b.Labels {
		st.label(name, value)
	}
	var err error
	if b.Squash {
		if err = b.squash(ctx, target); err != nil {
			return nil, err
		}
	}
	if err := b.setTimes(st); err != nil {
		return nil, err
	}
	i, err := b.draft.Save(&image.Finished{Names: b.Tags, Config: st.config, Extra: st.extra, Layers: st.layers})
	if err != nil {
		b.Progress.End(v, Failed)
		return nil, err
	}
	b.Progress.Say(v, "writing image "+i.ID)
	for _, name := range i.Names {
		b.Progress.Say(v, "naming to "+name)
	}
	b.Progress.End(v, Done)
	return i, nil
}

// unused are build arguments that no ARG has asked for.
func (b *builder) unused() (names []string) {
	for name := range b.Args {
		if !b.used[name] && !predefined(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// StageError is a stage that is not there.
type StageError struct {
	Name  string
	Known []string
}

func (e *StageError) Error() string {
	return fmt.Sprintf("target stage %q could not be found", e.Name)
}

// Hint lists those that are.
func (e *StageError) Hint() string {
	if len(e.Known) == 0 {
		return "no stage has a name: FROM IMAGE AS NAME gives it one"
	}
	return "the stages are " + strings.Join(e.Known, ", ")
}
