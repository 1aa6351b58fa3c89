package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"

	"github.com/nslab/nslab/engine"
)

// cached takes a layer from the cache, if it knows one for what is being done. shown is how the history calls it.
func (r *run) cached(key, shown string) (bool, error) {
	if r.st.done {
		return false, nil
	}
	l, key, err := r.b.draft.Cached(key)
	if err != nil || l == nil {
		return false, err
	}
	// An earlier build may have made it on top of another layer, that one made once more since.
	if top := r.st.top(); !l.On(top) {
		return false, nil
	}
	r.st.push(l)
	r.st.key = key
	r.st.note(shown, l)
	return true, nil
}

// layer has write make files on top of all layers so far, and takes them as one more. An empty key is not remembered.
func (r *run) layer(ctx context.Context, key, shown string, write func(room string) (remember bool, err error)) error {
	like := ""
	if len(r.st.dirs) > 0 {
		like = r.st.dirs[0]
	}
	room, err := r.b.draft.Room(like)
	if err != nil {
		return err
	}
	remember, err := write(room)
	if err != nil {
		return err
	}
	known := key
	if !remember {
		known = ""
	}
	l := r.b.draft.Keep(room, r.st.top(), known, r.b.now, r.b.Epoch)
	r.st.push(l)
	r.st.key, r.st.done = key, true
	r.st.note(shown, l)
	return nil
}

// union is the state's layers, to be written to in a room, once. Its files need not be on the disk: the store knows of which layers
// that is certain.
func (s *state) union(room string) unionfs.Layers {
	return unionfs.Layers{Lower: s.dirs, Upper: filepath.Join(room, "diff"), Work: filepath.Join(room, "work"), Volatile: true}
}

// writable mounts the state with a room on top for f.
func (r *run) writable(ctx context.Context, room string, f func(*rootfs.Tree) error) error {
	if len(r.st.dirs) == 0 { // FROM scratch: there is nothing to unite with
		tree, err := rootfs.OpenTree(ctx, filepath.Join(room, "diff"))
		if err != nil {
			return err
		}
		return errors.Join(f(tree), tree.Close())
	}
	target, err := r.b.scratch()
	if err != nil {
		return err
	}
	return engine.WithUnion(ctx, unionfs.Overlay, r.st.union(room), target, f)
}

// readable mounts a state for f, read-only.
func (b *builder) readable(ctx context.Context, dirs []string, f func(*rootfs.Tree) error) error {
	target, err := b.scratch()
	if err != nil {
		return err
	}
	if len(dirs) == 0 {
		tree, err := rootfs.OpenTree(ctx, target)
		if err != nil {
			return err
		}
		return errors.Join(f(tree), tree.Close())
	}
	return engine.WithUnion(ctx, unionfs.Overlay, unionfs.Layers{Lower: dirs}, target, f)
}

// dropRuntimeFiles takes out of a layer what a step's own files have left: they are no image's.
func dropRuntimeFiles(room string) error {
	for _, name := range engine.StepFiles() {
		at := filepath.Join(room, "diff", name)
		var st unix.Stat_t
		if err := unix.Lstat(at, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take /%s out of the layer: %w", name, err)
		}
	}
	return nil
}

// workdir changes the working folder, and makes it where it is missing. It belongs to the user of that moment.
func (r *run) workdir(ctx context.Context) error {
	name, err := r.x.Word(r.Args[0])
	if err != nil {
		return err
	}
	if name == "" {
		return errors.New("WORKDIR: the path is empty")
	}
	dir := r.absolute(name)
	r.st.config.Config.WorkingDir = dir
	shown := "WORKDIR " + dir
	v := r.s.vertex(r.Original)
	r.b.Progress.Begin(v)
	key := digestOf(r.st.key, shown, r.st.config.Config.User)
	if dir == "/" {
		r.st.note(shown, nil)
		r.st.key = key
		r.b.Progress.End(v, Done)
		return nil
	}
	hit, err := r.cached(key, shown)
	if hit {
		r.b.Progress.End(v, Cached)
		return nil
	}
	if err == nil {
		err = r.makeWorkdirLayer(ctx, key, shown, dir)
	}
	r.end(ctx, v, err)
	return err
}

func (r *run) makeWorkdirLayer(ctx context.Context, key, shown, dir string) error {
	return r.layer(ctx, key, shown, func(room string) (bool, error) {
		return true, r.writable(ctx, room, func(t *rootfs.Tree) error { return makeWorkdir(ctx, t, dir, r.st.config.Config.User) })
	})
}

// end tells how a piece of work has ended.
func (r *run) end(ctx context.Context, v *Vertex, err error) {
	switch {
	case err == nil:
		r.b.Progress.End(v, Done)
	case ctx.Err() != nil || errors.Is(err, errElsewhere):
		r.b.Progress.End(v, Canceled)
	default:
		r.b.Progress.End(v, Failed)
	}
}

// squash makes one layer of all that are new.
func (b *builder) squash(ctx context.Context, s *stage) error {
	st := s.state
	if len(st.layers) <= st.old+1 {
		return nil
	}
	l, err := b.draft.Squash(ctx, st.layers[st.old:], st.layers[:st.old], b.now, b.Epoch)
	if err != nil {
		return err
	}
	st.layers = append(st.layers[:st.old:st.old], l)
	for n := st.steps; n < len(st.config.History); n++ {
		st.config.History[n].EmptyLayer = true
	}
	st.note("", l)
	st.config.History[len(st.config.History)-1].Comment = "merge of the layers above the base image"
	return nil
}
