package unionfs

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Passing through: since Linux 6.9 a server can tell the kernel, as it answers an open, which file is behind it. Reads,
// writes and mappings then go to that file directly, and never come here. It takes root in the first user namespace; for
// others, and on older kernels, requests come as ever.
//
// Files of read-only branches are not passed through: once the kernel has taken such a file for a node it would hold on
// to it while it is open, and readers would not see what is written to the copy. Nor is a file with a set-user-ID bit,
// which a write must take away: see killPrivileges.

const (
	backingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN
	backingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE
)

// passThrough says in the answer to an open how the kernel is to reach the file. A node is either passed through or
// cached, for all who have it open; the kernel refuses a mixture. The node's mu is held.
func (s *server) passThrough(h *handle, out *fuse.OpenOut) {
	n := h.node
	cached := len(n.open) - 1 - n.passing // without this one
	special := n.mode.Load()&(unix.S_ISUID|unix.S_ISGID) != 0 && n.passing == 0
	if n.branch.Load() == 0 && s.writable() && cached == 0 && !special && s.back(h) {
		h.pass, n.passed = true, true
		n.passing++
		out.OpenFlags, out.BackingID = fuse.FOPEN_PASSTHROUGH, n.backing
		return
	}
	if !n.passed {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE // only we change the branches, so what is cached is right
	}
}

// back gives the kernel the file behind a node, once for all who have it open.
func (s *server) back(h *handle) bool {
	if h.node.passing > 0 {
		return true
	}
	if s.noPass.Load() {
		return false
	}
	request := struct {
		fd    int32
		flags uint32
		pad   uint64
	}{fd: int32(h.fd)}
	id, _, errno := unix.Syscall(unix.SYS_IOCTL, fuseFD, backingOpen, uintptr(unsafe.Pointer(&request)))
	if errno == 0 {
		h.node.backing = int32(id)
		return true
	}
	if errno != unix.ENOMEM && errno != unix.EMFILE && errno != unix.ENFILE {
		s.noPass.Store(true) // EPERM, ENOTTY, ELOOP: the next will not fare better
	}
	return false
}

// endPass takes the file back when the last who has it open closes it. The node's mu is held.
func (s *server) endPass(h *handle) {
	if !h.pass {
		return
	}
	n := h.node
	n.passing--
	if n.passing == 0 {
		id := uint32(n.backing)
		unix.Syscall(unix.SYS_IOCTL, fuseFD, backingClose, uintptr(unsafe.Pointer(&id)))
	}
}
