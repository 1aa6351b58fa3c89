package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/dockerfile"
)

// stage is a FROM with what follows it, and the state that it leads to.
type stage struct {
	*dockerfile.Stage
	b     *builder
	index int
	base  string // FROM, expanded; or
	from  *stage // the stage that it names
	uses  []*stage
	steps int // that people see
	step  int // the last of them

	once  sync.Once
	ready chan struct{}
	state *state
	err   error
}

const scratchName = "scratch"

// plan makes the graph.
func (b *builder) plan() error {
	if err := b.setGlobals(); err != nil {
		return err
	}
	for n, parsed := range b.file.Stages {
		s := &stage{Stage: parsed, b: b, index: n, ready: make(chan struct{})}
		var err error
		if s.base, err = b.expandGlobal(s.From, parsed.Base); err != nil {
			return err
		}
		if s.base == "" {
			return b.file.Errorf(s.From, "base name (%s) should not be blank: give its ARG a value, before the first FROM or with --build-arg", parsed.Base)
		}
		if platform, err := b.expandGlobal(s.From, parsed.Platform); err != nil {
			return err
		} else {
			s.Platform = platform
		}
		if k := b.file.Find(s.base, n); k >= 0 && !isNumber(s.base) {
			s.from = b.stages[k]
			s.uses = append(s.uses, s.from)
		}
		if s.steps = 1; s.base == scratchName || s.from != nil {
			s.steps = 0
		}
		for _, i := range parsed.Instructions {
			if isWork(i.Name) {
				s.steps++
			}
			for _, name := range sources(i) {
				k := b.file.Find(name, n)
				if k < 0 && b.isStage(name) {
					return b.file.Errorf(i, "%s is this stage itself, or a later one: a stage can only use those before it", name)
				}
				if k >= 0 && !slices.Contains(s.uses, b.stages[k]) {
					s.uses = append(s.uses, b.stages[k])
				}
			}
		}
		b.stages = append(b.stages, s)
	}
	return nil
}

func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return err == nil
}

func (b *builder) isStage(name string) bool { return b.file.Find(name, len(b.file.Stages)) >= 0 }

// isWork says whether an instruction gives a layer.
func isWork(name string) bool {
	return slices.Contains([]string{"RUN", "COPY", "ADD", "WORKDIR"}, name)
}

// sources are the stages and images that an instruction takes files from.
func sources(i *dockerfile.Instruction) (names []string) {
	if name, ok := i.Flag("from"); ok && i.Name == "COPY" {
		names = append(names, name)
	}
	for _, text := range i.Mounts {
		if m, err := dockerfile.ParseMount(text, nil); err == nil && m.From != "" {
			names = append(names, m.From)
		} else if at := strings.Index(","+text, ",from="); at >= 0 {
			name, _, _ := strings.Cut(text[at+len("from="):], ",")
			names = append(names, name)
		}
	}
	return names
}

// needed are the stages that one needs, itself included.
func (b *builder) needed(target *stage) (list []*stage) {
	var visit func(*stage)
	visit = func(s *stage) {
		if slices.Contains(list, s) {
			return
		}
		for _, u := range s.uses {
			visit(u)
		}
		list = append(list, s)
	}
	visit(target)
	return list
}

// start carries a stage out, unless somebody has started it already.
func (s *stage) start(ctx context.Context) {
	s.once.Do(func() {
		s.b.group.Go(func() error {
			defer close(s.ready)
			s.err = s.carryOut(ctx)
			return s.err
		})
	})
}

// errElsewhere is a stage that stops because another has failed, which says why.
var errElsewhere = errors.New("another stage has failed")

// await returns the state that a stage has led to.
func (s *stage) await(ctx context.Context) (*state, error) {
	s.start(ctx)
	select {
	case <-s.ready:
		if s.err != nil {
			return nil, errElsewhere
		}
		return s.state, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// carryOut does what a stage says, one instruction after the other.
func (s *stage) carryOut(ctx context.Context) error {
	st, err := s.begin(ctx)
	if err != nil {
		return err
	}
	s.state = st
	list := s.Instructions
	triggers, err := s.triggers(st)
	if err != nil {
		return err
	}
	for _, i := range slices.Concat(triggers, list) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := s.do(ctx, i); err != nil {
			return s.locate(i, err)
		}
	}
	return nil
}

// locate says which lines an error is about, if that is not known yet.
func (s *stage) locate(i *dockerfile.Instruction, err error) error {
	var located *dockerfile.Error
	if errors.As(err, &located) || errors.Is(err, errElsewhere) || errors.Is(err, context.Canceled) {
		return err
	}
	return &dockerfile.Error{File: s.b.file, First: i.First, Last: i.Last, Err: err}
}

// triggers are the instructions that the base image has for those who build on it.
func (s *stage) triggers(st *state) (list []*dockerfile.Instruction, err error) {
	texts := st.extra.OnBuild
	st.extra.OnBuild = nil
	for _, text := range texts {
		more, err := s.b.file.ParseTrigger(text, s.From)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

// begin gives the state that a stage starts with.
func (s *stage) begin(ctx context.Context) (*state, error) {
	if s.from != nil {
		below, err := s.from.await(ctx)
		if err != nil {
			return nil, err
		}
		st := below.clone()
		st.args, st.cmdSet = nil, false
		s.ignoreCache(st)
		return st, nil
	}
	platform, err := image.ParsePlatform(cmp(s.Platform, s.b.Platform))
	if err != nil {
		return nil, s.locate(s.From, err)
	}
	st := &state{key: digestOf(scratchName, platform.OS, platform.Architecture, platform.Variant)}
	if s.b.Epoch != nil {
		st.key = digestOf(st.key, s.b.Epoch.String())
	}
	if s.base == scratchName {
		st.config.Platform = platform
		st.addPath()
		s.ignoreCache(st)
		return st, nil
	}
	v := s.vertex("FROM " + s.base)
	s.b.Progress.Begin(v)
	i, layers, dirs, err := s.b.base(ctx, v, s.base, s.Platform)
	if err != nil {
		s.b.Progress.End(v, Failed)
		return nil, s.locate(s.From, err)
	}
	s.b.Progress.End(v, Done)
	st.config, st.extra, st.layers, st.dirs = i.Config, i.Extra, layers, dirs
	st = st.clone()
	st.old, st.steps = len(layers), len(st.config.History)
	st.extra.Comment, st.config.Author = "", ""
	st.addPath()
	if top := st.top(); top != nil {
		st.key = digestOf(st.key, string(top.Chain()))
	}
	s.ignoreCache(st)
	return st, nil
}

// ignoreCache says whether the stage's instructions are done whatever the cache knows.
func (s *stage) ignoreCache(st *state) {
	named := func(n string) bool { return strings.EqualFold(n, s.Name) || n == strconv.Itoa(s.index) }
	st.done = st.done || s.b.NoCache || slices.ContainsFunc(s.b.NoCacheFilter, named)
}

// base finds an image to build on, or to copy from. One that is not here, or only for another platform, is pulled; v is the
// step that this belongs to, or nil where people have not been told of any yet.
func (b *builder) base(ctx context.Context, v *Vertex, ref, platform string) (i *image.Image, layers []*image.Layer, dirs []string, err error) {
	if platform == "" {
		platform = b.Platform
	}
	if b.Always && b.Pull != nil {
		if err := b.pull(ctx, v, ref, platform); err != nil {
			return nil, nil, nil, err
		}
	}
	find := func() error {
		if i, layers, dirs, err = b.draft.Base(ctx, ref); err == nil && platform != "" {
			err = checkPlatform(i, ref, platform)
		}
		return err
	}
	var other *PlatformError
	if err := find(); err == nil || b.Pull == nil || b.Always || !errors.Is(err, image.ErrNotFound) && !errors.As(err, &other) {
		return i, layers, dirs, err
	}
	if err := b.pull(ctx, v, ref, platform); err != nil {
		return nil, nil, nil, err
	}
	return i, layers, dirs, find()
}

// pull gets an image, once in a build however many stages want it.
func (b *builder) pull(ctx context.Context, v *Vertex, ref, platform string) (err error) {
	b.pulling.Lock()
	defer b.pulling.Unlock()
	if b.pulled[ref+" "+platform] {
		return nil
	}
	if v == nil {
		v = b.counter.vertex("", "FROM "+ref)
		b.Progress.Begin(v)
		defer func() {
			if err != nil {
				b.Progress.End(v, Failed)
				return
			}
			b.Progress.End(v, Done)
		}()
	}
	if err := b.Pull(ctx, ref, platform, func(p image.Progress) { b.Progress.Layer(v, p) }); err != nil {
		return err
	}
	b.pulled[ref+" "+platform] = true
	return nil
}

// PlatformError is an image that is for another platform than was asked for.
type PlatformError struct{ Ref, Has, Want string }

func (e *PlatformError) Error() string {
	return fmt.Sprintf("image %s is for %s, not for %s", e.Ref, e.Has, e.Want)
}

func checkPlatform(i *image.Image, ref, platform string) error {
	want, err := image.ParsePlatform(platform)
	if err != nil {
		return err
	}
	has := i.Config.Platform
	if has.OS != want.OS || has.Architecture != want.Architecture || want.Variant != "" && has.Variant != want.Variant {
		return &PlatformError{ref, has.OS + "/" + has.Architecture, platform}
	}
	return nil
}
