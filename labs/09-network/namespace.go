package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/trace"
)

// Namespace is a hold on a network namespace: as long as it is open, the namespace exists, with everything in it.
type Namespace struct {
	f     *os.File
	inode uint64
}

// OpenNamespace opens the namespace behind a file: /proc/42/ns/net, or one that `ip netns` keeps in /run/netns.
func OpenNamespace(ctx context.Context, path string) (*Namespace, error) {
	var f *os.File
	err := trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("open(%q, O_RDONLY|O_CLOEXEC)", path) },
		func() (err error) {
			// Not to wait for a writer if somebody has put a FIFO there.
			f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			return err
		})
	if err != nil {
		return nil, &Error{"open network namespace", path, unwrapPath(err)}
	}
	return FromFile(f)
}

// FromFile takes over a file that has been opened already.
func FromFile(f *os.File) (*Namespace, error) {
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(&Error{"open network namespace", f.Name(), ErrNoNamespace}, f.Close())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(&Error{"stat network namespace", f.Name(), err}, f.Close())
	}
	return &Namespace{f, st.Ino}, nil
}

// Inode is the number that identifies the namespace: that of /proc/PID/ns/net of everybody in it.
func (n *Namespace) Inode() uint64 { return n.inode }

// File is the open file, still the Namespace's.
func (n *Namespace) File() *os.File { return n.f }

// Close lets go.
func (n *Namespace) Close() error { return n.f.Close() }

// Do runs f inside the namespace. A network namespace is the property of a thread, and so is what it implies: a socket that f
// opens belongs to n for ever, and f sees n's values in /proc/sys/net. What f hands to other goroutines runs outside.
func (n *Namespace) Do(ctx context.Context, f func(context.Context) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return &Error{"open network namespace", "/proc/thread-self/ns/net", unwrapPath(err)}
	}
	defer home.Close()
	if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) != nil {
		// The way back is closed to us: an ordinary user may leave the host's namespace for his own, and not return. So it is a
		// thread that need not: locked to a goroutine that ends, it ends, too.
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			err := setns.Setns(ctx, n.f, unix.CLONE_NEWNET)
			if err == nil {
				err = f(ctx)
			}
			done <- err
		}()
		return <-done
	}
	if err := setns.Setns(ctx, n.f, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f(ctx)
	if back := setns.Setns(trace.Off(ctx), home, unix.CLONE_NEWNET); back != nil {
		runtime.LockOSThread() // once more than it is unlocked: nobody else gets the thread
		err = errors.Join(err, back)
	}
	return err
}

// LoopbackUp brings lo up in the caller's network namespace: without it not even 127.0.0.1 answers. The kernel gives lo its
// addresses by itself as it comes up.
func LoopbackUp(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return &Error{"open a socket", "", err}
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	err = trace.Call(ctx, 0,
		func() string { return `ioctl(SIOCSIFFLAGS, {"lo", IFF_UP|IFF_RUNNING})` },
		func() error { return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request) })
	if err != nil {
		return &Error{"bring up", "lo", err}
	}
	return nil
}

func unwrapPath(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}
