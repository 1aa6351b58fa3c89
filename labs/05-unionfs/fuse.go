package unionfs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// FUSE is how a process can *be* a file system: the kernel's half turns every system call below the mount into a
// message on /dev/fuse, and whoever reads that descriptor answers. This file mounts and unmounts; server.go answers.

// serverEntry is the re-exec entry point of the process that serves one union.
const serverEntry = "nslab-unionfs"

// The descriptors the server is born with, after the standard three. It has no others.
const (
	fuseFD    = 3 // the open /dev/fuse that is, or will be, the mount
	controlFD = 4 // a socket to whoever mounts: order in, answers out
)

// fuseType is the type of the mount as the mount table shows it; the kernel looks at what is before the dot.
const fuseType = "fuse." + string(AufsFUSE)

// order is what the server is told, once.
type order struct {
	ID       string   `json:"id"`
	Branches []Branch `json:"branches"`
}

// answer is what it says back: twice, when it has opened its branches and when it serves.
type answer struct {
	Err    string `json:"err,omitempty"`
	Branch *Branch
	Errno  int `json:"errno,omitempty"`
}

type pdeathsigKey struct{}

// WithServerDeath returns a context under which a server that [Mount] starts is killed when the *thread* that mounts
// ends: for a caller that locked its goroutine to it and wants nothing to outlive it. See PR_SET_PDEATHSIG in prctl(2).
func WithServerDeath(ctx context.Context) context.Context {
	return context.WithValue(ctx, pdeathsigKey{}, true)
}

// mountFUSE shows the branches as one at target, served by a process of its own.
//
// The order: first the server opens all branches and says so, for nothing should be mounted that cannot be served; and
// it does so *before* the mount, since the target may well lie on a branch, which is covered afterwards. Then the mount,
// from here, so that it happens in the caller's namespace, whatever the server's is. Only then may the server read: a
// /dev/fuse that is not mounted yet answers EPERM.
func mountFUSE(ctx context.Context, branches []Branch, target string) (_ *Union, err error) {
	branches, err = resolveBranches(branches)
	if err != nil {
		return nil, err
	}
	target, err = filepath.Abs(target)
	if err != nil {
		return nil, fmt.Errorf("mount a union: %w", err)
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	device, err := openFUSE(ctx)
	if err != nil {
		return nil, err
	}
	// Ours must be closed in any case: while we held it, the kernel would take the death of the server for a pause,
	// and everybody who touches the union would hang instead of getting ENOTCONN.
	defer func() { err = errors.Join(err, device.Close()) }()
	s, err := startServer(ctx, device)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.kill()
		}
		s.control.Close()
	}()
	if err := s.tell(ctx, order{ID: id, Branches: branches}); err != nil {
		return nil, err
	}
	if err := mount.Syscall(ctx, id, target, fuseType, mountFlags(branches), mountData(device)); err != nil {
		return nil, err
	}
	if err := s.tell(ctx, order{}); err != nil {
		return nil, errors.Join(err, mount.Detach(context.WithoutCancel(ctx), target))
	}
	return &Union{Driver: AufsFUSE, Target: target, ID: id, Server: s.pid}, nil
}

// newID is what aufs calls the si of a union: "si_" and 16 hexadecimal digits. aufs takes an address in the kernel for
// it, scrambled; we take a random number.
func newID() (string, error) {
	b := make([]byte, 8)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("number a union: %w", err)
	}
	return "si_" + hex.EncodeToString(b), nil
}

func openFUSE(ctx context.Context) (*os.File, error) {
	var fd int
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("open(\"/dev/fuse\", O_RDWR|O_CLOEXEC) = %d", fd) },
		func() (err error) {
			fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
			return err
		})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// mountFlags: without a writable branch the kernel itself shall refuse to write, before it asks the server.
func mountFlags(branches []Branch) uintptr {
	if branches[0].Mode != RW {
		return unix.MS_RDONLY
	}
	return 0
}

// mountData is the option string that the kernel's fuse parses.
//
// default_permissions lets the kernel check mode and owner, as on a disk, with the credentials of whoever asks; without
// it every access would be allowed that the server, root, can make. allow_other lets others than the one who mounted in
// at all: fuse denies that by default, since a server sees, and can delay, what others do in its file system.
func mountData(device *os.File) string {
	return strings.Join([]string{
		fmt.Sprintf("fd=%d", device.Fd()),
		fmt.Sprintf("rootmode=%o", unix.S_IFDIR),
		fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()),
		"default_permissions",
		"allow_other",
		fmt.Sprintf("max_read=%d", maxTransfer),
	}, ",")
}

// running are the servers that this process started and will reap; what is closed when one has ended.
var running sync.Map // int → chan struct{}

// starting is a server that has been started and still talks to us.
type starting struct {
	pid     int
	control *os.File
	process *os.Process
	encode  *json.Encoder
	decode  *json.Decoder
}

// startServer starts the process that will answer for the union.
//
// It gets a mount namespace of its own, made before the union is mounted and private, so that the union is not in it:
// a server that has its own file system among its mounts keeps itself alive, and could be made to wait for itself. It
// leads a session of its own, since Ctrl-C is meant for whoever uses the union, not for the union.
func startServer(ctx context.Context, device *os.File) (*starting, error) {
	if os.Args[0] == serverEntry {
		// We are such a process ourselves, in a program whose main forgot reexec.Init: each would start the next.
		return nil, errors.New("start the union's server: the program does not call reexec.Init")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start the union's server: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	cmd := reexec.Command(serverEntry)
	cmd.Dir = "/"
	cmd.Env = serverEnv()
	cmd.ExtraFiles = []*os.File{device, theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	if ctx.Value(pdeathsigKey{}) != nil {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	err = trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("fork, execve(%q, [%q])", cmd.Path, serverEntry) },
		cmd.Start)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the union's server: %w", err), ours.Close())
	}
	ended := make(chan struct{})
	running.Store(cmd.Process.Pid, ended)
	go func() {
		cmd.Wait() // how it ended says nothing that the mount does not
		running.Delete(cmd.Process.Pid)
		close(ended)
	}()
	return &starting{
		pid: cmd.Process.Pid, control: ours, process: cmd.Process,
		encode: json.NewEncoder(ours), decode: json.NewDecoder(ours),
	}, nil
}

// serverEnv is all the environment that the server gets: what the Go runtime should know. One thread of Go code at a time
// is enough, since nearly all the work is system calls, of which as many run at once as there are; and to wake others
// for it costs more than the work. A larger heap than Go would keep by itself, which is next to nothing here, saves half
// of the garbage collections.
func serverEnv() []string { return []string{"GOMAXPROCS=1", "GOGC=400"} }

// tell sends an order and waits until it is carried out. A server that dies closes its end, which is an answer too; one
// that we are tired of waiting for is killed, which closes it.
func (s *starting) tell(ctx context.Context, o order) error {
	stop := context.AfterFunc(ctx, s.kill)
	defer stop()
	var a answer
	err := s.encode.Encode(o)
	if err == nil {
		err = s.decode.Decode(&a)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("start the union's server: process %d ended early: %w", s.pid, err)
	case a.Err == "":
		return nil
	}
	err = errors.New(a.Err)
	if a.Errno != 0 {
		err = syscall.Errno(a.Errno)
	}
	if a.Branch == nil {
		return fmt.Errorf("start the union's server: %w", err)
	}
	if a.Err == ErrBranchBusy.Error() {
		err = ErrBranchBusy
	}
	return &BranchError{*a.Branch, err}
}

func (s *starting) kill() { s.process.Kill() }

// unmountFUSE takes the union off its target and waits until its server has ended, which it does by itself when the
// last user is gone.
//
// A union that is in use stays, with EBUSY, as any mount does. One whose server is dead goes in any case: its files only
// answer ENOTCONN, and nothing can be lost by detaching it.
func unmountFUSE(ctx context.Context, u *Union) error {
	err := mount.Unmount(ctx, u.Target)
	if errors.Is(err, unix.EBUSY) && disconnected(u.Target) {
		err = mount.Detach(ctx, u.Target)
	}
	if err != nil {
		return err
	}
	return waitServer(ctx, u.Server)
}

// disconnected tells whether nobody serves target any more.
func disconnected(target string) bool {
	var st unix.Statfs_t
	return errors.Is(unix.Statfs(target, &st), unix.ENOTCONN)
}

// waitServer waits for the end of a server: our child, or the child of an nslab that is gone.
func waitServer(ctx context.Context, pid int) error {
	if ended, ours := running.Load(pid); ours {
		select {
		case <-ended.(chan struct{}):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil // it has ended
	}
	defer unix.Close(fd)
	const turn = 50 // milliseconds: how late a cancelled context may be heard
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, turn)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return nil
		}
	}
	return context.Cause(ctx)
}

// Listing reads back which branches the union at target has: what aufs shows as /sys/fs/aufs/si_<id>/br<n>, one file a
// branch, "/path=rw". A file system in user space has no place in /sys, so ours shows them in a folder of its own, with
// a name that no listing has: TARGET/.wh..wh.si_<id>/br<n>. The server makes them from the branches it has open.
func Listing(u *Union) ([]Branch, error) {
	dir := filepath.Join(u.Target, ListingName(u.ID))
	var list []Branch
	for i := 0; ; i++ {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("br%d", i)))
		if errors.Is(err, os.ErrNotExist) && i > 0 {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the branches of %s: %w", u.Target, err)
		}
		b, err := parseBranch(strings.TrimSuffix(string(data), "\n"), false)
		if err != nil {
			return nil, fmt.Errorf("list the branches of %s: %w", u.Target, err)
		}
		list = append(list, b)
	}
}

// ListingName is the name, in the root of a union, of the folder that lists its branches.
func ListingName(id string) string { return whListing + strings.TrimPrefix(id, "si_") }
