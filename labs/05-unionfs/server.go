package unionfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"
)

func init() { reexec.Register(serverEntry, serverMain) }

const (
	maxBranches = 127       // aufs's own limit, as it is usually built
	maxTransfer = 256 << 10 // bytes in one read or write message
)

// layer is a branch as the server has it: an open folder. All paths are relative to it, so neither a mount over it nor
// a rename of a folder above can lead the server elsewhere.
type layer struct {
	Branch
	fd     int
	device uint64 // which of the union's devices it is on; goes into inode numbers
}

// whiteouts tells whether files named .wh. hide something here.
func (l *layer) whiteouts() bool { return l.Mode != RO }

// server answers for one union.
//
// The locks, in the order in which they are taken: a node's copying, tree, raising, a folder's mu, mu. tree is held for
// reading by everything that uses a path and for writing by rename alone, since that is what makes paths wrong. It is
// held over a few system calls, never while a file's data are copied.
type server struct {
	fuse.RawFileSystem
	id     string
	layers []*layer
	uid    uint32 // the server's own, which new files get when nothing is done
	gid    uint32

	tree    sync.RWMutex
	raising sync.Mutex // one folder at a time is made in the writable branch

	mu       sync.Mutex // everything below, and the names of all nodes
	nodes    map[uint64]*node
	children map[child]*node
	byInode  map[inode]*node
	lastID   uint64
	renames  uint64        // how many folders were renamed: cached paths older than that are wrong
	gone     map[inode]int // hard links of read-only branches: how many names are whited out
	lastTemp uint64

	handles handleTable
	links   linkIndex
	noPass  atomic.Bool // the kernel, or the user namespace, does not allow passing through
}

// writable tells whether there is a branch to write to.
func (s *server) writable() bool { return s.layers[0].Mode == RW }

func (s *server) upper() *layer { return s.layers[0] }

// serverMain is the server process: it opens what it is told, says so, waits for the mount, serves, and ends when the
// kernel says that the mount is gone.
func serverMain() {
	os.WriteFile("/proc/self/comm", []byte("nslab-unionfs"), 0) // for ps; no harm if refused
	log.SetOutput(io.Discard)                                   // nobody reads it, and it has no words for users
	closeInherited()
	syscall.CloseOnExec(fuseFD)
	syscall.CloseOnExec(controlFD)
	unix.Umask(0) // the kernel has applied the caller's own
	control := os.NewFile(controlFD, "control")
	in, out := json.NewDecoder(control), json.NewEncoder(control)
	var o, mounted order
	if err := in.Decode(&o); err != nil {
		os.Exit(1) // whoever started us is gone
	}
	s, err := newServer(o)
	if err != nil {
		out.Encode(answerOf(err))
		os.Exit(1)
	}
	out.Encode(answer{})
	if err := in.Decode(&mounted); err != nil {
		os.Exit(1)
	}
	d := &device{fd: fuseFD, server: fuse.NewProtocolServer(s, &fuse.MountOptions{
		MaxWrite:                 maxTransfer,
		MaxReadAhead:             maxTransfer,
		MaxBackground:            64,
		ExplicitDataCacheControl: true,
		EnableSymlinkCaching:     true,
		ExtraCapabilities:        fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ASYNC_DIO,
		Logger:                   log.New(io.Discard, "", 0),
	})}
	out.Encode(answer{})
	control.Close()
	d.serve()
	os.Exit(0)
}

// closeInherited closes what whoever started nslab forgot to close before: it would be held for as long as the union
// lives. Go's own descriptors are close-on-exec, so those that are not came through the exec.
func closeInherited() {
	for fd := controlFD + 1; fd < 1024; fd++ {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

func answerOf(err error) answer {
	a := answer{Err: err.Error()}
	var branch *BranchError
	if errors.As(err, &branch) {
		a.Branch, a.Err = &branch.Branch, branch.Err.Error()
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		a.Errno = int(errno)
	}
	return a
}

// newServer opens the branches and makes the writable one ready.
func newServer(o order) (*server, error) {
	s := &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		id:            o.ID,
		uid:           uint32(os.Geteuid()), gid: uint32(os.Getegid()),
		nodes: map[uint64]*node{}, children: map[child]*node{}, byInode: map[inode]*node{}, gone: map[inode]int{},
	}
	s.handles.open = map[uint64]*handle{}
	devices := map[uint64]uint64{}
	for _, b := range o.Branches {
		l := &layer{Branch: b}
		fd, err := unix.Open(b.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &BranchError{b, err}
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, &BranchError{b, err}
		}
		if _, known := devices[uint64(st.Dev)]; !known {
			devices[uint64(st.Dev)] = uint64(len(devices))
		}
		l.fd, l.device = fd, devices[uint64(st.Dev)]
		s.layers = append(s.layers, l)
	}
	if s.writable() {
		if err := prepareUpper(s.upper()); err != nil {
			return nil, &BranchError{s.upper().Branch, err}
		}
	}
	s.plantRoot()
	return s, nil
}

// prepareUpper makes the files that aufs keeps in a writable branch's root, and clears what a crash left behind.
func prepareUpper(l *layer) error {
	for _, name := range []string{whOrphan, whPlink} {
		if err := unix.Mkdirat(l.fd, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make %s: %w", name, err)
		}
	}
	fd, err := unix.Openat(l.fd, whBase, unix.O_CREAT|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return fmt.Errorf("make %s: %w", whBase, err)
	}
	unix.Close(fd)
	orphans, err := unix.Openat(l.fd, whOrphan, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", whOrphan, err)
	}
	// The lock says that a union writes here. It is the kernel's, so it goes with the process, whatever kills that.
	// The descriptor stays open for as long; two servers would sweep away each other's half-made copies.
	if err := unix.Flock(orphans, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(orphans)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrBranchBusy
		}
		return fmt.Errorf("lock %s: %w", whOrphan, err)
	}
	return emptyDir(l.fd, whOrphan)
}
