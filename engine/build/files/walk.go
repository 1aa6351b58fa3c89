package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sync/atomic"

	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// entry is a file, folder or link that was met on the way through a source. Its kind is that of st, but the name may be
// something else's by the time that it is opened: whoever opens it looks again.
type entry struct {
	name   string // in its folder; of a source itself, its last name
	rel    string // below the source; empty: the source itself
	path   string // below the root
	st     unix.Stat_t
	target string  // of a link
	dir    *folder // the open folder that it is in; of a source itself too, but for the root
	up     *entry  // its folder's

	visited bool // folders: visit was called
	ignored patternmatcher.MatchInfo
	include patternmatcher.MatchInfo
	exclude patternmatcher.MatchInfo
}

// folder is a descriptor that several may use, and that the last one closes.
type folder struct {
	*os.File
	users atomic.Int32
}

func newFolder(f *os.File) *folder {
	d := &folder{File: f}
	d.users.Store(1)
	return d
}

func (d *folder) keep() *folder {
	d.users.Add(1)
	return d
}

func (d *folder) drop() {
	if d != nil && d.users.Add(-1) == 0 {
		d.Close()
	}
}

// walk goes through what a source holds.
type walk struct {
	root    *Root
	include *patterns         // only what matches, with the folders above; nil: everything
	exclude *patterns         // and not what matches this
	within  func(*entry) bool // and nothing for which this says no, nor what is in it; nil: everything
	visit   func(*entry) error
	entries int
	bytes   int64
}

const (
	maxDepth   = 1024      // each is an open folder
	maxEntries = 2_000_000 // some hundred bytes each are kept for the digest
	maxBytes   = 64 << 30  // a file with nothing in it can be longer, and everybody would read, and keep, all of it
)

// from visits the place and everything in it, a folder before what it holds, the names of a folder in their order. What
// vanishes meanwhile is left out.
func (w *walk) from(ctx context.Context, p *place) error {
	// A source that is a file has a folder, too: by that it is opened a second time. Only the root is in none.
	e := &entry{name: path.Base(at(p.path)), path: p.path, st: p.st}
	var dir *os.File
	var err error
	if p.path == "" {
		dir, err = openStill(w.root.top, "", unix.O_RDONLY|unix.O_DIRECTORY)
	} else {
		dir, err = openStill(w.root.top, parentOf(p.path), unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", quoted("/"+p.path), err)
	}
	e.dir = newFolder(dir)
	defer e.dir.drop()
	ignored, info, err := w.root.ignore.matchPath(p.path)
	if err != nil {
		return err
	}
	e.ignored = info
	if !e.isDir() {
		if err := w.weigh(e); err != nil {
			return err
		}
		return w.visit(e)
	}
	if !ignored { // else if something in it is seen
		if err := w.announce(e); err != nil {
			return err
		}
	}
	if p.path == "" {
		return w.list(ctx, e, e.dir, 0)
	}
	return w.into(ctx, e, 0)
}

func parentOf(name string) string {
	if dir := path.Dir(name); dir != "." {
		return dir
	}
	return ""
}

func (e *entry) isDir() bool { return kind(&e.st) == unix.S_IFDIR }

// into opens a folder and visits what it holds.
func (w *walk) into(ctx context.Context, e *entry, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d folders deep: %w", quoted(e.path), maxDepth, unix.ENAMETOOLONG)
	}
	fd, err := unix.Openat(int(e.dir.Fd()), e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if vanished(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", quoted("/"+e.path), err)
	}
	dir := newFolder(os.NewFile(uintptr(fd), e.name))
	defer dir.drop()
	return w.list(ctx, e, dir, depth)
}

// vanished tells whether a name is no more what it was a moment ago.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ESTALE)
}

func (w *walk) list(ctx context.Context, up *entry, dir *folder, depth int) error {
	if rootfs.MadeUp(dir.File) {
		return nil // the kernel's own file systems have no files that anybody could keep
	}
	names, err := w.names(dir)
	if err != nil {
		return fmt.Errorf("read folder %s: %w", quoted("/"+up.path), err)
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e := &entry{name: name, rel: path.Join(up.rel, name), path: path.Join(up.path, name), dir: dir, up: up}
		if err := w.one(ctx, e, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// names lists a folder. Somebody may be putting files into it all the time.
func (w *walk) names(dir *folder) ([]string, error) {
	const atOnce = 1024
	var all []string
	for {
		some, err := dir.Readdirnames(atOnce)
		all = append(all, some...)
		if w.entries += len(some); w.entries > maxEntries {
			return nil, tooMuch("%d files", maxEntries)
		}
		if errors.Is(err, io.EOF) || vanished(err) { // a folder that was removed has no end, and no more names
			slices.Sort(all)
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func tooMuch(format string, n any) error {
	return &Error{
		Text: fmt.Sprintf("more than "+format, n), Err: unix.EFBIG,
		Hint: "name in .dockerignore what the image does not need",
	}
}

// one visits what has a name in a folder, unless the patterns hide it; then perhaps what it holds.
func (w *walk) one(ctx context.Context, e *entry, depth int) error {
	seen, look, err := w.judge(e)
	if err != nil || !seen && !look {
		return err
	}
	if err := unix.Fstatat(int(e.dir.Fd()), e.name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if vanished(err) {
			return nil
		}
		return fmt.Errorf("stat %s: %w", quoted("/"+e.path), err)
	}
	if seen {
		if err := w.announce(e); err != nil {
			return err
		}
	}
	if e.isDir() && look {
		return w.into(ctx, e, depth)
	}
	return nil
}

// announce visits the folders that are not visited yet because nothing in them was seen, and then the entry.
func (w *walk) announce(e *entry) error {
	if e.up != nil && !e.up.visited {
		if err := w.announce(e.up); err != nil {
			return err
		}
	}
	e.visited = true
	if err := w.weigh(e); err != nil {
		return err
	}
	if kind(&e.st) == unix.S_IFLNK {
		var err error
		if e.target, err = readlinkAt(e.dir.File, e.name); err != nil {
			return nil // it has vanished
		}
	}
	return w.visit(e)
}

func (w *walk) weigh(e *entry) error {
	if kind(&e.st) == unix.S_IFREG {
		if w.bytes += e.st.Size; w.bytes > maxBytes || w.bytes < 0 {
			return tooMuch("%d bytes", int64(maxBytes))
		}
	}
	return nil
}

func readlinkAt(dir *os.File, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf)
	return string(buf[:max(n, 0)]), err
}

// judge tells whether an entry is seen, and whether a folder is worth looking into.
func (w *walk) judge(e *entry) (seen, look bool, err error) {
	if w.within != nil && !w.within(e) {
		return false, false, nil
	}
	ignored, included, excluded := false, true, false
	if ignored, e.ignored, err = w.root.ignore.match(e.path, e.up.ignored); err != nil {
		return false, false, err
	}
	if w.include != nil {
		if included, e.include, err = w.include.match(e.rel, e.up.include); err != nil {
			return false, false, err
		}
	}
	if excluded, e.exclude, err = w.exclude.match(e.rel, e.up.exclude); err != nil {
		return false, false, err
	}
	look = (!ignored || w.root.ignore.below(e.path, true)) &&
		(included || w.include.below(e.rel, false)) &&
		(!excluded || w.exclude.below(e.rel, true))
	return !ignored && included && !excluded, look, nil
}
