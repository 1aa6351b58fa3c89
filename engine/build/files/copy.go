package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// Result is what a copy has done.
type Result struct {
	Files, Folders, Links int
	Bytes                 int64
	// Changed says that a file is not as it was when the digest was made: the layer is good, but not for the cache.
	Changed bool
	Lost    map[string]int // what the caller may not make: see rootfs.Unpacked
}

// Copy does the instruction in the root of a stage.
//
// Where a name in the destination is a link, the root's own idea of where it leads counts, and nothing of the host is ever
// reached by it: see walkTo. Below the destination no link is followed at all: one in the place of a file is replaced, one in
// the place of a folder is an error.
func (p *Plan) Copy(ctx context.Context, t *rootfs.Tree) (_ Result, err error) {
	top, err := t.Open(ctx, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return Result{}, err
	}
	defer top.Close()
	c := &copier{plan: p, top: top, result: Result{Lost: map[string]int{}}, links: map[[2]uint64]string{}}
	if c.owner, err = p.owner.in(ctx, t); err != nil {
		return Result{}, &Error{Text: "--chown", Err: err}
	}
	if p.digest != "" && p.root.identity == "" {
		c.sum = p.start()
	}
	err = c.all(ctx)
	if c.sum != nil && (c.sum.stale || c.sum.digest() != p.digest) {
		c.result.Changed = true
	}
	return c.result, err
}

// copier carries out a plan.
type copier struct {
	plan    *Plan
	top     *os.File // of the stage's root
	owner   *[2]int  // of --chown
	sum     *summer  // what the digest would now be; nil: there is none
	result  Result
	links   map[[2]uint64]string // files with several names → where the first of them is in the root
	folders []later
	fill    *filler
	open    spot // the folder that was used last
}

// later is a folder that gets its time when everything in it is made: making a file changes it.
type later struct {
	path string
	time unix.Timespec
	mode uint32 // if it is not the final one
	set  bool
}

func (c *copier) all(ctx context.Context) (err error) {
	if len(c.plan.sources) > 1 && !strings.HasSuffix(c.plan.dest, "/") {
		if err := c.severalTo(); err != nil {
			return err
		}
	}
	c.fill = newFiller(ctx)
	for _, s := range c.plan.sources {
		if err = c.source(ctx, s); err != nil {
			break
		}
	}
	// Also after an error: nobody should write any more when the caller undoes it.
	done, fillErr := c.fill.wait()
	c.open.dir.drop()
	c.result.Bytes += done.bytes
	c.result.Changed = c.result.Changed || done.changed
	for what, n := range done.lost {
		c.result.Lost[what] += n
	}
	if err == nil {
		err = fillErr
	}
	if err != nil {
		return err
	}
	return c.finish()
}

// severalTo refuses to copy several sources to one name.
func (c *copier) severalTo() error {
	to, err := walkTo(c.top, c.plan.dest, nil)
	if err != nil {
		return &Error{Text: "look up " + quoted(c.plan.dest), Err: err}
	}
	defer to.close()
	if to.isDir() {
		return nil
	}
	word := c.plan.in.word()
	return refuse(fmt.Sprintf("%s … %s/", word, c.plan.in.Dest),
		"when using %s with more than one source file, the destination must be a directory and end with a /", word)
}

// source copies one source.
func (c *copier) source(ctx context.Context, s source) error {
	if c.sum != nil {
		c.sum.source(s)
	}
	if s.content != nil {
		return c.content(ctx, s)
	}
	here, err := placeAt(c.plan.root.top, s.path)
	if err != nil {
		return &Error{Text: quoted("/"+s.path) + ": it was there, and is not any more", Err: err}
	}
	defer here.close()
	if s.unpack && kind(&here.st) == unix.S_IFREG {
		if done, err := c.tryUnpack(ctx, s, &here); done || err != nil {
			return err
		}
	}
	to, err := c.target(s.name, here.isDir())
	if err != nil {
		return err
	}
	return c.plan.visit(ctx, s, func(e *entry) error { return c.entry(e, to) })
}

// target is where in the root a source goes: the folder itself if it is a folder, else the file.
func (c *copier) target(name string, isDir bool) (string, error) {
	dest := c.plan.dest
	if err := reserved(name); err != nil {
		return "", err
	}
	// What ends with a slash is a folder, and is made, whatever goes there; of any other name what is above.
	above := dest
	if !strings.HasSuffix(dest, "/") {
		above = path.Dir(dest)
	}
	if _, err := c.makeAll(above); err != nil {
		return "", err
	}
	to, err := walkTo(c.top, dest, nil)
	if err != nil {
		return "", &Error{Text: "look up " + quoted(dest), Err: err}
	}
	defer to.close()
	switch {
	case isDir && to.file != nil && !to.isDir():
		return "", refuse("", "cannot copy to non-directory: %s", quoted(dest))
	case isDir:
		return c.makeAll("/" + to.path)
	case to.isDir():
		return path.Join(to.path, name), nil
	}
	if _, err := c.makeAll("/" + parentOf(to.path)); err != nil { // where a link leads to a folder that is not there
		return "", err
	}
	return to.path, nil
}

// makeAll makes a folder with all folders above, and returns where in the root it is.
func (c *copier) makeAll(name string) (string, error) {
	to, err := walkTo(c.top, name, nil)
	if err != nil {
		return "", &Error{Text: "look up " + quoted(name), Err: err}
	}
	defer to.close()
	if to.file != nil {
		if !to.isDir() {
			return "", refuse("", "%s: not a directory", quoted(name))
		}
		return to.path, nil
	}
	if strings.Count(to.path, "/") > maxDepth {
		return "", &Error{Text: quoted(name), Err: unix.ENAMETOOLONG}
	}
	parts := strings.Split(to.path, "/")
	for i, part := range parts {
		here := path.Join(parts[:i+1]...)
		dir, err := openStill(c.top, path.Join(parts[:i]...), unix.O_PATH|unix.O_DIRECTORY)
		if err == nil {
			err = errors.Join(c.makeOne(dir, here, part), dir.Close())
		}
		if err != nil {
			return "", &Error{Text: "make folder " + quoted("/"+here), Err: err}
		}
	}
	return to.path, nil
}

// makeOne makes a folder that no source has, unless it is there.
func (c *copier) makeOne(dir *os.File, where, name string) error {
	err := unix.Mkdirat(int(dir.Fd()), name, 0o700)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	c.result.Folders++
	l := look{mode: c.plan.mode.folder(), uid: 0, gid: 0, isDir: true}
	if c.owner != nil {
		l.uid, l.gid = c.owner[0], c.owner[1]
	}
	if c.plan.in.Epoch != nil {
		c.folders = append(c.folders, later{path: where, time: stamp(*c.plan.in.Epoch)})
	}
	return l.giveAt(dir, name, c.result.Lost)
}

func stamp(t time.Time) unix.Timespec { return unix.NsecToTimespec(t.UnixNano()) }

// clamp makes no time later than SOURCE_DATE_EPOCH.
func (c *copier) clamp(t unix.Timespec) unix.Timespec {
	if epoch := c.plan.in.Epoch; epoch != nil && time.Unix(t.Unix()).After(*epoch) {
		return stamp(*epoch)
	}
	return t
}

// finish gives folders their times. Of two that a folder was to have the later one counts.
func (c *copier) finish() error {
	for _, f := range c.folders {
		dir, err := openStill(c.top, f.path, unix.O_PATH|unix.O_DIRECTORY)
		if vanished(err) {
			continue // something was unpacked in its place
		}
		if err == nil && f.set {
			err = unix.Chmod(through(dir), f.mode)
		}
		if err == nil {
			err = errors.Join(unix.UtimesNanoAt(int(dir.Fd()), "", []unix.Timespec{f.time, f.time}, unix.AT_EMPTY_PATH), dir.Close())
		}
		if err != nil {
			return &Error{Text: "finish folder " + quoted("/"+f.path), Err: err}
		}
	}
	return nil
}
