package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/build/files"
	"github.com/nslab/nslab/image/dockerfile"
)

// mounts are the --mount of a RUN. What the layer depends on is found out at once, for its key; what costs something is done
// only if the command is going to run.
type mounts struct {
	r      *run
	parsed []dockerfile.Mount
	from   []*state // of each bind and cache that names one
	key    []string
	list   []specs.Mount
	unions []container.Union
	env    []string
	files  []engine.StepFile
	places []engine.Place
	locks  []*os.File
}

func (r *run) mounts(ctx context.Context) (*mounts, error) {
	m := &mounts{r: r}
	for _, text := range r.Mounts {
		p, err := dockerfile.ParseMount(text, r.x.Word)
		if err != nil {
			return nil, err
		}
		var from *state
		if p.From != "" {
			if from, err = r.b.source(ctx, r.s, p.From); err != nil {
				return nil, err
			}
		}
		if p.Target != "" {
			p.Target = r.absolute(p.Target)
		}
		depends, err := m.depends(ctx, p, from)
		if err != nil {
			return nil, err
		}
		m.parsed, m.from = append(m.parsed, p), append(m.from, from)
		m.key = append(m.key, p.Type, p.Target, p.Source, fmt.Sprint(p.ReadOnly, p.Size), depends)
	}
	return m, nil
}

// depends is what in a mount decides on what the command finds. A cache's content does not, nor does a secret's.
func (m *mounts) depends(ctx context.Context, p dockerfile.Mount, from *state) (string, error) {
	switch {
	case p.Type == "cache", p.Type == "secret":
		return p.ID, nil
	case p.Type == "tmpfs":
		return "", nil
	case from != nil:
		return chainOf(from), nil
	}
	source := p.Source
	if source == "" {
		source = "."
	}
	in := files.Instruction{Sources: []string{source}, Dest: "/mount/", Workdir: "/"}
	plan, err := in.Resolve(ctx, m.r.b.context.Root())
	if err != nil {
		return "", err
	}
	d, err := plan.Digest(ctx)
	return string(d), errors.Join(err, plan.Close())
}

// prepare makes the mounts ready.
func (m *mounts) prepare(ctx context.Context) error {
	for n, p := range m.parsed {
		var err error
		switch p.Type {
		case "bind":
			err = m.bind(ctx, p, m.from[n])
		case "cache":
			err = m.cache(ctx, p, m.from[n])
		case "tmpfs":
			options := []string{"nosuid", "nodev", "mode=1777"}
			if p.Size > 0 {
				options = append(options, fmt.Sprintf("size=%d", p.Size))
			}
			m.list = append(m.list, specs.Mount{Destination: p.Target, Type: "tmpfs", Source: "tmpfs", Options: options})
		case "secret":
			err = m.secret(p)
		}
		if err != nil {
			return err
		}
	}
	return m.findMissing(ctx)
}

// bind shows a part of the context, of a stage or of an image. With "rw" the command may write, and nobody will see it.
func (m *mounts) bind(ctx context.Context, p dockerfile.Mount, from *state) error {
	var source string
	var err error
	switch {
	case from != nil && len(from.dirs) > 0:
		return m.bindUnion(ctx, p, from)
	case from != nil:
		source, err = m.r.b.scratch()
	default:
		source, err = m.contextPath(ctx, cmp(p.Source, "."))
	}
	if err != nil {
		return err
	}
	if st, err := os.Stat(source); !p.ReadOnly && err == nil && st.IsDir() {
		return m.overlay([]string{source}, p, ".")
	}
	m.add(p, source)
	return nil
}

// contextPath is where on the host a part of the context lies. The container's own mount namespace is a copy of ours, so it is
// found there by its name, and could not be by a descriptor of ours.
func (m *mounts) contextPath(ctx context.Context, name string) (string, error) {
	scratch, err := m.r.b.scratch()
	if err != nil {
		return "", err
	}
	f, err := m.r.b.context.Root().Bind(ctx, name, scratch)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

func cmp(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// bindUnion finds where in the layers the source is: links lead where they would lead in there.
func (m *mounts) bindUnion(ctx context.Context, p dockerfile.Mount, from *state) error {
	inside := "."
	err := m.r.b.readable(ctx, from.dirs, func(t *rootfs.Tree) error {
		f, err := t.Open(ctx, path.Join("/", p.Source), unix.O_PATH, 0)
		if err != nil {
			return err
		}
		root, err := t.Open(ctx, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return errors.Join(err, f.Close())
		}
		inside, err = pathBelow(root, f)
		return errors.Join(err, f.Close(), root.Close())
	})
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--mount: %s has no %s", p.From, cmp(p.Source, "/"))
	}
	if err != nil {
		return err
	}
	return m.overlay(from.dirs, p, inside)
}

// pathBelow asks the kernel how one open file is called, seen from another.
func pathBelow(root, f *os.File) (string, error) {
	top, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", root.Fd()))
	if err != nil {
		return "", err
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	return filepath.Rel(top, name)
}

// overlay binds a part of layers that only the container mounts. What is written goes to a folder that nobody looks at.
func (m *mounts) overlay(lower []string, p dockerfile.Mount, inside string) error {
	dir, err := m.r.b.scratch()
	if err != nil {
		return err
	}
	u := container.Union{Layers: unionfs.Layers{Lower: lower}, Target: filepath.Join(dir, "seen")}
	err = os.Mkdir(u.Target, 0o755)
	if !p.ReadOnly {
		u.Layers.Upper, u.Layers.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
		err = errors.Join(err, os.Mkdir(u.Layers.Upper, 0o755), os.Mkdir(u.Layers.Work, 0o700))
	}
	if err != nil {
		return fmt.Errorf("make a folder for --mount: %w", err)
	}
	m.unions = append(m.unions, u)
	m.add(p, filepath.Join(u.Target, inside))
	return nil
}

func (m *mounts) add(p dockerfile.Mount, source string) {
	options := []string{"rbind", "rprivate"}
	if p.ReadOnly {
		options = append(options, "rro")
	}
	m.list = append(m.list, specs.Mount{Destination: p.Target, Type: "bind", Source: source, Options: options})
}

// secret shows a file of the user's, or a variable.
func (m *mounts) secret(p dockerfile.Mount) error {
	id := cmp(p.ID, p.Source)
	if id == "" {
		id = path.Base(p.Target)
	}
	content, found, err := m.r.b.secret(id)
	if err != nil {
		return err
	}
	if !found {
		if p.Required {
			return fmt.Errorf("secret %s: not found", id)
		}
		return nil
	}
	if p.Env != nil {
		m.env = append(m.env, cmp(*p.Env, id)+"="+string(content))
		if p.Target == "" {
			return nil
		}
	}
	m.files = append(m.files, engine.StepFile{
		Target: cmp(p.Target, "/run/secrets/"+id), Content: content, Mode: or(p.Mode, 0o400), UID: or(p.UID, 0), GID: or(p.GID, 0),
	})
	return nil
}

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// script shows a heredoc as a program.
func (m *mounts) script(name, content string) {
	m.files = append(m.files, engine.StepFile{Target: path.Join(scriptDir, name), Content: []byte(content), Mode: 0o755})
}

// findMissing looks for mount points that the image lacks. They are made in a layer of the step's own, so that they do not stay
// in the image.
func (m *mounts) findMissing(ctx context.Context) error {
	if len(m.list)+len(m.files) == 0 {
		return nil
	}
	depth := func(a, b specs.Mount) int {
		return strings.Count(path.Clean(a.Destination), "/") - strings.Count(path.Clean(b.Destination), "/")
	}
	slices.SortStableFunc(m.list, depth) // what lies above comes first
	return m.r.b.readable(ctx, m.r.st.dirs, func(t *rootfs.Tree) error {
		place := func(target *string, file bool) error {
			resolved, there, err := resolve(ctx, t, *target)
			if err != nil {
				return err
			}
			*target = resolved
			top, _, _ := strings.Cut(strings.TrimPrefix(resolved, "/"), "/")
			if !there && !slices.Contains([]string{"dev", "proc", "sys"}, top) && !m.below(resolved) {
				m.places = append(m.places, engine.Place{Path: resolved, File: file})
			}
			return nil
		}
		for n := range m.list {
			st, err := os.Stat(m.list[n].Source)
			if err := place(&m.list[n].Destination, m.list[n].Type == "bind" && err == nil && !st.IsDir()); err != nil {
				return err
			}
		}
		for n := range m.files {
			if err := place(&m.files[n].Target, true); err != nil {
				return err
			}
		}
		return nil
	})
}

// below says whether a path lies on another mount, which has, or gets, the place for it.
func (m *mounts) below(target string) bool {
	return slices.ContainsFunc(m.list, func(o specs.Mount) bool {
		return o.Destination != target && strings.HasPrefix(target, strings.TrimSuffix(o.Destination, "/")+"/")
	})
}

// resolve follows the links on the way to a path as far as it exists, and tells whether all of it does.
func resolve(ctx context.Context, t *rootfs.Tree, name string) (string, bool, error) {
	root, err := t.Open(ctx, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", false, err
	}
	defer root.Close()
	rest := ""
	for dir := path.Clean(name); ; dir = path.Dir(dir) {
		f, err := t.Open(ctx, dir, unix.O_PATH, 0)
		if err == nil {
			below, err := pathBelow(root, f)
			return path.Join("/", below, rest), rest == "", errors.Join(err, f.Close())
		}
		if dir == "/" || !errors.Is(err, fs.ErrNotExist) {
			return "", false, err
		}
		rest = path.Join(path.Base(dir), rest)
	}
}

// close lets others have the caches.
func (m *mounts) close() {
	for _, l := range m.locks {
		l.Close()
	}
}
