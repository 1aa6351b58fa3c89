package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
)

// Build writes a plan into a tree: the files of the host with their modes, times and, where the caller may, owners.
//
// It is the plan as a tar, unpacked: a root file system that travels as an image and one that is made here then go the
// same way, and there is one place that has to be careful about links.
func Build(ctx context.Context, t *Tree, plan *Plan) (Unpacked, error) {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := plan.Pack(ctx, w)
		w.CloseWithError(err) // the reader sees the packer's error, or the end
		packed <- err
	}()
	u, err := Unpack(ctx, t, r)
	r.CloseWithError(err) // where unpacking fails first, the packer must not wait for ever
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		return u, packErr
	}
	return u, err
}

// xattrPrefix marks extended attributes in a tar, as GNU tar, bsdtar and container images have them.
const xattrPrefix = "SCHILY.xattr."

// capabilityXattr holds the capabilities of a program (ping may have cap_net_raw instead of set-uid): part of its rights
// like the mode. Other attributes belong to the host's own policies.
const capabilityXattr = "security.capability"

// Pack writes the plan as a tar.
func (p *Plan) Pack(ctx context.Context, w io.Writer) error {
	buffered := bufio.NewWriterSize(w, 1<<20) // a header has 512 bytes: too few to wake a reader for
	to := &packer{out: tar.NewWriter(buffered), now: p.Time, names: map[[2]uint64]string{}, inUserNamespace: mount.InUserNamespace()}
	if to.now.IsZero() {
		to.now = time.Now()
	}
	for _, e := range p.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := to.pack(e); err != nil {
			return fmt.Errorf("04-rootfs: pack %s: %w", e.Path, err)
		}
	}
	return errors.Join(to.out.Close(), buffered.Flush())
}

// packer writes a plan.
type packer struct {
	out   *tar.Writer
	now   time.Time
	names map[[2]uint64]string // by device and inode, of files with several names

	inUserNamespace bool
}

// overflowID is how a user namespace shows owners that it has no number for, unless somebody has changed it in
// /proc/sys/kernel/overflowuid.
const overflowID = 65534

// foreign says whether an id is none of this user namespace. Most are root's outside, and should be root's in the new root.
func (p *packer) foreign(id uint32) bool { return p.inUserNamespace && id == overflowID }

func (p *packer) pack(e Entry) error {
	h := &tar.Header{
		Name: strings.TrimPrefix(e.Path, "/"), Mode: int64(e.stat.Mode & 0o7777), Format: tar.FormatPAX,
		Uid: int(e.stat.Uid), Gid: int(e.stat.Gid), ModTime: time.Unix(int64(e.stat.Mtim.Sec), int64(e.stat.Mtim.Nsec)),
	}
	if p.foreign(e.stat.Uid) {
		h.Uid = 0
	}
	if p.foreign(e.stat.Gid) {
		h.Gid = 0
	}
	if e.stat.Ino == 0 { // not from a file of the host
		h.Mode, h.ModTime = int64(e.Mode.Perm()), p.now
		if e.Mode&fs.ModeSticky != 0 {
			h.Mode |= unix.S_ISVTX
		}
	}
	switch e.Mode.Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		h.Typeflag = tar.TypeBlock
		if e.Mode&fs.ModeCharDevice != 0 {
			h.Typeflag = tar.TypeChar
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(e.stat.Rdev))), int64(unix.Minor(uint64(e.stat.Rdev)))
	case 0:
		return p.file(h, e)
	}
	return p.out.WriteHeader(h)
}

func (p *packer) file(h *tar.Header, e Entry) error {
	h.Typeflag, h.Size = tar.TypeReg, e.Size
	if e.Made != nil {
		if err := p.out.WriteHeader(h); err != nil {
			return err
		}
		_, err := p.out.Write(e.Made)
		return err
	}
	if e.stat.Nlink > 1 {
		inode := [2]uint64{uint64(e.stat.Dev), e.stat.Ino}
		if first, ok := p.names[inode]; ok {
			h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, first
			return p.out.WriteHeader(h)
		}
		p.names[inode] = h.Name
	}
	f, err := openRegular(e.Source)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 256)
	if n, err := unix.Fgetxattr(int(f.Fd()), capabilityXattr, buf); err == nil {
		h.PAXRecords = map[string]string{xattrPrefix + capabilityXattr: string(buf[:n])}
	}
	if err := p.out.WriteHeader(h); err != nil {
		return err
	}
	// Not a byte more than was announced, should the file be growing; a file that shrinks is an error.
	_, err = io.CopyN(p.out, f, e.Size)
	return err
}
