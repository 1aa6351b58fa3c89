package unionfs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// handle is an open file or folder.
type handle struct {
	node *node
	fd   int // in a branch; its number stays when the file is copied up, see turn
	list *dirReader
	pass bool // the kernel goes to the branch's file by itself
}

// handleTable gives handles their numbers.
type handleTable struct {
	mu   sync.RWMutex
	last uint64
	open map[uint64]*handle
}

func (t *handleTable) add(h *handle) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	t.open[t.last] = h
	return t.last
}

func (t *handleTable) get(id uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[id]
}

func (t *handleTable) remove(id uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[id]
	delete(t.open, id)
	return h
}

// branchFlags are the flags with which a branch's file is opened. The kernel has done O_APPEND's and O_DIRECT's work
// when a request arrives: it says where to write, and in which pieces.
func branchFlags(flags uint32) int {
	return int(flags) & (unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC)
}

func writes(flags uint32) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
}

// Open opens a file. One that is opened for writing is copied up here, before the first byte is: an open that could not
// be followed by a write should fail, and once it has succeeded the file must not change its place under the writer.
func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := s.node(in.NodeId)
	if n == nil || n.isDir() {
		return fuse.Status(unix.EISDIR)
	}
	if isListing(n.id) {
		return fuse.OK
	}
	if writes(in.Flags) {
		data := whole
		if in.Flags&unix.O_TRUNC != 0 {
			data = nothing
		}
		if err := s.copyUp(n, data); err != nil {
			return fuse.ToStatus(err)
		}
	}
	s.tree.RLock()
	defer s.tree.RUnlock()
	for {
		branch := n.branch.Load()
		fd, err := s.openBranch(n, branchFlags(in.Flags))
		if err != nil {
			return fuse.ToStatus(err)
		}
		if s.attach(n, fd, branch, out) {
			break
		}
	}
	if in.Flags&unix.O_TRUNC != 0 && in.Mode&fuse.OPEN_KILL_SUIDGID != 0 {
		s.killPrivileges(n)
	}
	return fuse.OK
}

// openBranch opens the branch's file. Reading must not change a read-only branch, so its access times are left alone;
// that is granted to the owner and to root, and others do without.
func (s *server) openBranch(n *node, flags int) (int, error) {
	p := s.place(n)
	if n.branch.Load() == 0 && s.writable() {
		return p.openFile(flags)
	}
	fd, err := p.openFile(flags | unix.O_NOATIME)
	if err == unix.EPERM {
		return p.openFile(flags)
	}
	return fd, err
}

// attach registers a descriptor with its node, so that a copy-up finds it. If one has happened between the open and now,
// the descriptor is of the original, and worth nothing: false.
func (s *server) attach(n *node, fd int, branch int32, out *fuse.OpenOut) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.branch.Load() != branch {
		unix.Close(fd)
		return false
	}
	h := &handle{node: n, fd: fd}
	if n.open == nil {
		n.open = map[*handle]struct{}{}
	}
	n.open[h] = struct{}{}
	s.passThrough(h, out)
	out.Fh = s.handles.add(h)
	return true
}

// Release closes a file, when its last descriptor is closed.
func (s *server) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	h := s.handles.remove(in.Fh)
	if h == nil {
		return
	}
	h.node.mu.Lock()
	delete(h.node.open, h)
	s.endPass(h)
	h.node.mu.Unlock()
	unix.Close(h.fd)
}

// Read reads.
func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if isListing(in.NodeId) {
		return s.readBranchFile(in, buf)
	}
	h := s.handles.get(in.Fh)
	if h == nil {
		return nil, fuse.EBADF
	}
	n, err := unix.Pread(h.fd, buf, int64(in.Offset))
	for err == unix.EINTR {
		n, err = unix.Pread(h.fd, buf, int64(in.Offset))
	}
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK // a short read of a file is its end
}

// Write writes. What the disk has no room for is said at once: the kernel caches no writes here, so ENOSPC reaches the
// write(2) that caused it, and not some close(2) that nobody checks.
func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	h := s.handles.get(in.Fh)
	if h == nil {
		return 0, fuse.EBADF
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		s.tree.RLock()
		s.killPrivileges(h.node)
		s.tree.RUnlock()
	}
	done := 0
	for done < len(data) {
		n, err := unix.Pwrite(h.fd, data[done:], int64(in.Offset)+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil && done == 0 {
			return 0, fuse.ToStatus(err)
		}
		if err != nil {
			break
		}
		done += n
	}
	return uint32(done), fuse.OK
}

// killPrivileges takes the set-user-ID and set-group-ID bits off a file that somebody writes to who may not set them. On
// a disk the kernel does it; here it asks for it, since it sees the server, root, doing the writing. tree is held.
func (s *server) killPrivileges(n *node) {
	mode := n.mode.Load()
	kill := mode & unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		kill |= mode & unix.S_ISGID
	}
	if kill == 0 || mode&unix.S_IFMT != unix.S_IFREG {
		return
	}
	if s.place(n).chmod(mode&0o7777&^kill) == nil {
		n.mode.Store(mode &^ kill)
	}
}

// Flush is sent at each close(2), for file systems whose writes are late. Ours are not, and once it has heard ENOSYS the
// kernel does not ask again.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Fsync forces a file to the disk.
func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	h := s.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	if in.FsyncFlags&1 != 0 {
		return fuse.ToStatus(unix.Fdatasync(h.fd))
	}
	return fuse.ToStatus(unix.Fsync(h.fd))
}

// Fallocate reserves or punches.
func (s *server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	h := s.handles.get(in.Fh)
	if h == nil {
		return fuse.EBADF
	}
	return fuse.ToStatus(unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length)))
}

// Lseek finds data and holes.
func (s *server) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h := s.handles.get(in.Fh)
	if h == nil || h.list != nil {
		return fuse.EBADF
	}
	at, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence))
	out.Offset = uint64(at)
	return fuse.ToStatus(err)
}

// CopyFileRange copies within the union without a detour through user space.
func (s *server) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	from, to := s.handles.get(in.FhIn), s.handles.get(in.FhOut)
	if from == nil || to == nil {
		return 0, fuse.EBADF
	}
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	n, err := unix.CopyFileRange(from.fd, &offIn, to.fd, &offOut, int(min(in.Len, 1<<30)), 0)
	if err != nil {
		return 0, fuse.ToStatus(err)
	}
	return uint32(n), fuse.OK
}
