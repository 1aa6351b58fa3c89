package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"

	"github.com/nslab/nslab/engine/build/files"
	"github.com/nslab/nslab/image/dockerfile"
)

// cache shows a folder that stays: packages that were downloaded, what a compiler has made. It is no part of any image, and
// `system prune` removes it.
func (m *mounts) cache(ctx context.Context, p dockerfile.Mount, from *state) error {
	dir := m.r.b.store.CacheFolder(digestOf("cache", cmp(p.ID, p.Target)))
	how := unix.LOCK_SH // several builds at a time
	if p.Sharing == "private" || p.Sharing == "locked" {
		how = unix.LOCK_EX
	}
	lock, err := lockCache(ctx, dir, how, p.Sharing != "private")
	if err != nil {
		return err
	}
	if lock == nil { // another build has it, so this one gets an empty one of its own
		if dir, err = m.r.b.scratch(); err != nil {
			return err
		}
	} else {
		m.locks = append(m.locks, lock)
	}
	data := filepath.Join(dir, "data")
	if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
		if err := m.newCache(ctx, p, from, data); err != nil {
			return err
		}
	}
	m.add(p, data)
	return nil
}

// newCache makes the folder, with what it is to begin with.
func (m *mounts) newCache(ctx context.Context, p dockerfile.Mount, from *state, data string) error {
	if err := os.MkdirAll(filepath.Dir(data), 0o700); err != nil {
		return fmt.Errorf("make a cache: %w", err)
	}
	aside, err := os.MkdirTemp(filepath.Dir(data), "data-*.new") // two stages of one build may want it at once
	if err != nil {
		return fmt.Errorf("make a cache: %w", err)
	}
	if from != nil {
		if err := m.fill(ctx, p, from, aside); err != nil {
			return errors.Join(err, os.RemoveAll(aside))
		}
	}
	err = unix.Chmod(aside, or(p.Mode, 0o755))
	if os.Geteuid() == 0 {
		err = errors.Join(err, os.Chown(aside, or(p.UID, 0), or(p.GID, 0)))
	}
	if err == nil {
		// An empty folder would be replaced by rename(2), though others have it mounted already.
		if err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, data, unix.RENAME_NOREPLACE); err != nil { // another was faster
			if _, there := os.Lstat(data); there == nil {
				err = os.RemoveAll(aside)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("make a cache: %w", err)
	}
	return nil
}

// fill copies what a stage or image has to begin with.
func (m *mounts) fill(ctx context.Context, p dockerfile.Mount, from *state, to string) error {
	return m.r.b.readable(ctx, from.dirs, func(t *rootfs.Tree) error {
		in := files.Instruction{Sources: []string{path.Join("/", p.Source) + "/."}, Dest: "/", Workdir: "/"}
		root, err := files.NewRoot(ctx, t)
		if err != nil {
			return err
		}
		defer root.Close()
		plan, err := in.Resolve(ctx, root)
		if err != nil {
			return err
		}
		defer plan.Close()
		tree, err := rootfs.OpenTree(ctx, to)
		if err != nil {
			return err
		}
		_, err = plan.Copy(ctx, tree)
		return errors.Join(err, tree.Close())
	})
}

// lockCache takes the lock of a cache: in common with others, or alone. Without patience it is nil where that is not possible now.
// Whoever prunes the cache takes it as well, and may have removed the folder a moment ago.
func lockCache(ctx context.Context, dir string, how int, wait bool) (*os.File, error) {
	name := filepath.Join(dir, "lock")
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make a cache: %w", err)
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		}
		if err == nil {
			ours, err := f.Stat()
			if now, gone := os.Stat(name); err == nil && gone == nil && os.SameFile(ours, now) {
				used := time.Now()
				return f, os.Chtimes(name, used, used)
			}
			f.Close()
			continue
		}
		f.Close()
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return nil, fmt.Errorf("lock a cache: %w", err)
		case !wait:
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
