package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// look is what a file in the root is to look like besides its content.
type look struct {
	uid, gid int
	mode     uint32
	time     *unix.Timespec
	extended []attribute
	isDir    bool
	isLink   bool
}

func (c *copier) look(st *unix.Stat_t) look {
	t := c.clamp(st.Mtim)
	l := look{mode: c.plan.mode.of(st.Mode), time: &t, isDir: kind(st) == unix.S_IFDIR, isLink: kind(st) == unix.S_IFLNK}
	switch {
	case c.owner != nil:
		l.uid, l.gid = c.owner[0], c.owner[1]
	case !c.plan.root.context:
		l.uid, l.gid = int(st.Uid), int(st.Gid)
	}
	return l
}

// give sets all of it, in this order: a new owner clears the set-uid bit and the capabilities, and all of them are changes.
// What would change nothing is not called: on a new file most is right already.
func (l *look) give(fd int, byPath bool, lost map[string]int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	mode := l.mode
	if int(st.Uid) != l.uid || int(st.Gid) != l.gid {
		err := unix.Fchownat(fd, "", l.uid, l.gid, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		if refused(err) {
			lost["owner"]++
			if !l.isDir && mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
				mode &^= unix.S_ISUID | unix.S_ISGID // they would hand out the rights of somebody else
				lost["set-uid"]++
			}
		} else if err != nil {
			return err
		}
	}
	name := fmt.Sprintf("/proc/self/fd/%d", fd)
	if !l.isLink {
		if st.Mode&0o7777 != mode || mode&0o7000 != 0 {
			var err error
			if byPath {
				err = unix.Chmod(name, mode)
			} else {
				err = unix.Fchmod(fd, mode)
			}
			if err != nil {
				return err
			}
		}
		for _, a := range l.extended {
			if err := unix.Setxattr(name, a.name, a.value, 0); refused(err) {
				lost["attribute"]++
			} else if err != nil {
				return fmt.Errorf("attribute %s: %w", quoted(a.name), err)
			}
		}
	}
	if l.time == nil {
		return nil
	}
	return unix.UtimesNanoAt(fd, "", []unix.Timespec{*l.time, *l.time}, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

// refused tells whether the caller has no right to do something, or the file system does not know it.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOVERFLOW) || errors.Is(err, unix.EOPNOTSUPP)
}

// giveAt is give for what was just made below an open folder. Nothing is followed.
func (l *look) giveAt(dir *os.File, name string, lost map[string]int) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return l.give(fd, true, lost)
}

// spot is where an entry goes: an open folder of the root, and the name in it.
type spot struct {
	dir  *folder
	name string
	path string // of both, below the root
}

// entry makes one file, link or folder. to is where the source itself goes.
func (c *copier) entry(e *entry, to string) error {
	if c.sum != nil {
		if err := c.sum.entry(e); err != nil {
			return err
		}
	}
	if e.rel == "" && e.isDir() {
		return c.topFolder(e, to)
	}
	if e.rel != "" {
		if err := reserved(e.name); err != nil {
			return err
		}
	}
	s, err := c.spot(e, to)
	if err != nil {
		return &Error{Text: "copy to " + quoted("/"+path.Join(to, e.rel)), Err: err}
	}
	defer s.dir.drop()
	if err := c.make(e, s); err != nil {
		var own *Error
		if errors.As(err, &own) {
			return err
		}
		return &Error{Text: "copy to " + quoted("/"+s.path), Err: err}
	}
	return nil
}

// spot opens the folder that an entry goes to. It belongs to the caller.
func (c *copier) spot(e *entry, to string) (spot, error) {
	if e.up == nil { // the source is a file
		dir, err := openStill(c.top, parentOf(to), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return spot{}, err
		}
		return spot{newFolder(dir), path.Base(to), to}, nil
	}
	where := path.Join(to, e.rel)
	// The folder of the entry before is nearly always the folder of this one.
	if parent := parentOf(where); c.open.dir == nil || c.open.path != parent {
		dir, err := openStill(c.top, parent, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return spot{}, err
		}
		c.open.dir.drop()
		c.open = spot{dir: newFolder(dir), path: parent}
	}
	return spot{c.open.dir.keep(), e.name, where}, nil
}

// topFolder is about a source that is a folder: what it holds is copied, and not the folder. Only its time comes along.
func (c *copier) topFolder(e *entry, to string) error {
	c.folders = append(c.folders, later{path: to, time: c.clamp(e.st.Mtim)})
	return nil
}

func (c *copier) make(e *entry, s spot) error {
	dir := int(s.dir.Fd())
	l := c.look(&e.st)
	switch kind(&e.st) {
	case unix.S_IFDIR:
		return c.makeFolder(e, s, l)
	case unix.S_IFREG:
		return c.makeFile(e, s)
	case unix.S_IFLNK:
		if err := replace(dir, s.name, func() error { return unix.Symlinkat(e.target, dir, s.name) }); err != nil {
			return err
		}
		c.result.Links++
	case unix.S_IFIFO:
		if err := replace(dir, s.name, func() error { return unix.Mknodat(dir, s.name, unix.S_IFIFO|0o600, 0) }); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if c.plan.root.context {
			return refuse("name it in .dockerignore", "%s is a device: a build context has none", quoted("/"+e.path))
		}
		if e.st.Rdev == 0 {
			return errWhiteout
		}
		err := replace(dir, s.name, func() error { return unix.Mknodat(dir, s.name, kind(&e.st)|0o600, int(e.st.Rdev)) })
		if refused(err) {
			c.result.Lost["device"]++
			return nil
		}
		if err != nil {
			return err
		}
	default: // a socket is of no use without whoever listens
		return nil
	}
	return l.giveAt(s.dir.File, s.name, c.result.Lost)
}

// replace makes something under a name that may be taken. What has it is removed, and never looked into; but not a folder.
func replace(dir int, name string, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := unix.Unlinkat(dir, name, 0); errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		return refuse("", "cannot replace directory %s with a file", quoted(name))
	} else if err != nil {
		return err
	}
	return make()
}

// makeFolder makes a folder, or makes one that is there look like the source's.
func (c *copier) makeFolder(e *entry, s spot, l look) error {
	dir := int(s.dir.Fd())
	err := unix.Mkdirat(dir, s.name, 0o700)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(dir, s.name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return refuse("", "cannot copy to non-directory: %s", quoted("/"+s.path))
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if f, err := e.open(); err == nil {
		l.extended, err = attributesOf(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	done := later{path: s.path, time: *l.time}
	if l.mode&0o300 != 0o300 && os.Geteuid() != 0 { // or nothing could be made in it
		done.mode, done.set = l.mode, true
		l.mode |= 0o300
	}
	l.time = nil
	c.folders = append(c.folders, done)
	c.result.Folders++
	return l.give(fd, true, c.result.Lost)
}

// makeFile has a file written, or gives one that was copied already another name.
func (c *copier) makeFile(e *entry, s spot) error {
	key := [2]uint64{uint64(e.st.Dev), e.st.Ino}
	if e.st.Nlink > 1 {
		if first, ok := c.links[key]; ok {
			return c.link(first, s)
		}
		c.links[key] = s.path
	}
	c.result.Files++
	e.dir.keep()
	s.dir.keep()
	return c.fill.add(job{c: c, from: e, to: s})
}

// link makes a hard link to a file that was copied before.
func (c *copier) link(first string, s spot) error {
	if first == s.path {
		return nil
	}
	if err := c.fill.settle(); err != nil { // it may still have to be made
		return err
	}
	old, err := openStill(c.top, parentOf(first), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer old.Close()
	c.result.Links++
	dir := int(s.dir.Fd())
	return replace(dir, s.name, func() error { return unix.Linkat(int(old.Fd()), path.Base(first), dir, s.name, 0) })
}

// content copies what is in no context.
func (c *copier) content(ctx context.Context, s source) error {
	if s.unpack && isArchive(s.content.reader()) {
		return c.unpack(ctx, s.content.reader())
	}
	to, err := c.target(s.name, false)
	if err != nil {
		return err
	}
	dir, err := openStill(c.top, parentOf(to), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return &Error{Text: "copy to " + quoted("/"+to), Err: err}
	}
	defer dir.Close()
	l := look{mode: c.plan.mode.of(unix.S_IFREG | s.content.mode)}
	if c.owner != nil {
		l.uid, l.gid = c.owner[0], c.owner[1]
	}
	if t := s.content.time; !t.IsZero() {
		ts := c.clamp(stamp(t))
		l.time = &ts
	} else if c.plan.in.Epoch != nil {
		ts := stamp(*c.plan.in.Epoch)
		l.time = &ts
	}
	fd, err := createAt(int(dir.Fd()), path.Base(to), l.mode)
	if err != nil {
		var own *Error
		if errors.As(err, &own) {
			return err
		}
		return &Error{Text: "copy to " + quoted("/"+to), Err: err}
	}
	out := os.NewFile(uintptr(fd), to)
	n, err := io.Copy(out, cancelled{ctx, s.content.reader()})
	c.result.Files++
	c.result.Bytes += n
	if err == nil {
		err = l.give(fd, false, c.result.Lost)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return &Error{Text: "copy to " + quoted("/"+to), Err: err}
	}
	return nil
}

// createAt makes a file. What has its name is removed.
func createAt(dir int, name string, mode uint32) (fd int, err error) {
	err = replace(dir, name, func() (err error) {
		fd, err = unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
		return err
	})
	return fd, err
}
