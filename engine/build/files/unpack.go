package files

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// tryUnpack unpacks a source of ADD if it is an archive, and says whether it was.
func (c *copier) tryUnpack(ctx context.Context, s source, here *place) (bool, error) {
	f, err := openRead(here)
	if err != nil {
		return false, &Error{Text: "open " + quoted("/"+s.path), Err: err}
	}
	defer f.Close()
	if !isArchive(f) {
		return false, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	err = c.plan.visit(ctx, s, func(e *entry) error { // for the digest
		if c.sum != nil {
			return c.sum.entry(e)
		}
		return nil
	})
	if err == nil {
		err = c.unpack(ctx, f)
	}
	var now unix.Stat_t
	if statErr := unix.Fstat(int(f.Fd()), &now); statErr != nil || inodeOf(&now) != inodeOf(&here.st) {
		c.result.Changed = true
	}
	if err != nil {
		err = &Error{Text: "unpack " + quoted("/"+s.path), Err: err}
	}
	return true, err
}

// unpack makes what is in an archive below the destination, which is the root of all its names.
func (c *copier) unpack(ctx context.Context, r io.Reader) error {
	where, err := c.makeAll(c.plan.dest)
	if err != nil {
		return err
	}
	dir, err := openStill(c.top, where, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open %s: %w", quoted("/"+where), err)
	}
	defer dir.Close()
	to, err := rootfs.TreeOf(dir, "/"+where)
	if err != nil {
		return err
	}
	defer to.Close()
	in, err := decompressed(cancelled{ctx, r})
	if err != nil {
		return err
	}
	defer in.Close()
	u, err := rootfs.UnpackInto(ctx, to, in, rootfs.Rules{Change: c.change, Limits: unpackLimits()})
	c.result.Files += u.Files
	c.result.Folders += u.Folders
	c.result.Links += u.Links
	c.result.Bytes += u.Bytes
	for what, n := range u.Lost {
		c.result.Lost[what] += n
	}
	return err
}

// errWhiteout is what overlay takes for the mark that something is not there.
var errWhiteout = &Error{Text: "device 0:0 is how a whiteout looks on disk"}

// reserved refuses a name that would be a mark in a layer: who unpacks it would remove what is below, and not see this file.
func reserved(name string) error {
	if strings.HasPrefix(name, ".wh.") {
		return refuse("rename it, or name it in .dockerignore", "%s: in a layer, a name that begins with .wh. says that a file was removed", quoted(name))
	}
	return nil
}

// change gives an entry of an archive the owner of --chown, and no time after SOURCE_DATE_EPOCH.
func (c *copier) change(h *tar.Header) error {
	for _, part := range strings.Split(h.Name, "/") {
		if err := reserved(part); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return errWhiteout
	}
	if c.owner != nil {
		h.Uid, h.Gid = c.owner[0], c.owner[1]
	}
	if epoch := c.plan.in.Epoch; epoch != nil && h.ModTime.After(*epoch) {
		h.ModTime = *epoch
	}
	return nil
}
