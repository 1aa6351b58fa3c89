package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/wire"
)

// How the two halves talk: over a socket, one message of package wire after the other. It is O_CLOEXEC on both sides, so its
// end is a message, too. For the init it means that its maker is gone: it ends. For the maker it means, after the last order,
// that execve has happened.

// linkFD is the init's end.
const linkFD = 3

// order is what the init is told. The first has everything, each later one means "go on".
type order struct {
	Config    *Config
	Group     *cgroups.Group // whose v1 folders the init enters by itself
	Clone     uintptr        // the namespaces it was born in
	NewCgroup bool           // it makes a cgroup namespace of its own, once it is in its group
	Hooks     bool           // it stops for the hooks that run before pivot_root
	Traced    bool           // somebody wants to hear of its calls
}

// message is what the init says.
type message struct {
	Record  *trace.Record
	Error   *InitError
	Hooks   bool // now is the time for the hooks
	Union   bool // now is the time to mount the layers, from outside
	Warning string
	Ready   bool // all is arranged but the last step

	console *os.File // comes beside a Ready
}

// errGone is a link whose other end is closed.
var errGone = errors.New("the other side is gone")

// link is one end.
type link struct {
	f     *os.File
	files []*os.File // received, not yet claimed
}

// newLink returns our end, and the file to hand to the child.
//
// Ours does not block, so that it is waited for in Go's poller. A thread that is stuck in recvmsg(2) would keep one of the
// processors that Go shares out among its threads, until somebody notices.
func newLink() (*link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fds[0], true)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("12-container: make a socket pair: %w", err)
	}
	return openLink(fds[0]), os.NewFile(uintptr(fds[1]), "link"), nil
}

func openLink(fd int) *link {
	return &link{f: os.NewFile(uintptr(fd), "link")}
}

// Read is for package wire. A descriptor that comes beside the bytes is kept.
func (l *link) Read(p []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(3*4))
	raw, err := l.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n, oobn int
	waitErr := raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if err = errors.Join(waitErr, err); err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, l.keep(oob[:oobn])
}

func (l *link) keep(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			l.files = append(l.files, os.NewFile(uintptr(fd), "console"))
		}
	}
	return nil
}

// send writes one message, and the descriptors of files beside it where there are any.
func (l *link) send(v any, files ...*os.File) error {
	data, err := wire.Marshal(v)
	if err != nil {
		return fmt.Errorf("12-container: write to the other side: %w", err)
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	raw, err := l.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("12-container: write to the other side: %w", err)
	}
	for len(data) > 0 {
		var n int
		waitErr := raw.Write(func(fd uintptr) bool {
			n, err = unix.SendmsgN(int(fd), data, oob, nil, unix.MSG_NOSIGNAL)
			return err != unix.EAGAIN
		})
		if err == unix.EINTR {
			continue
		}
		if err == unix.EPIPE || err == unix.ECONNRESET {
			err = errGone
		}
		if err = errors.Join(waitErr, err); err != nil {
			return fmt.Errorf("12-container: write to the other side: %w", err)
		}
		data, oob = data[n:], nil
	}
	return nil
}

// receive waits for what the init says, or for the end of ctx: somebody who is frozen says nothing.
func (l *link) receive(ctx context.Context) (m message, err error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return message{}, err
	}
	stop := context.AfterFunc(ctx, func() {
		raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RD) })
	})
	defer stop()
	if err := l.decode(&m); err != nil {
		return message{}, err
	}
	if m.Ready && len(l.files) > 0 {
		m.console, l.files = l.files[0], l.files[1:]
	}
	return m, nil
}

func (l *link) decode(v any) error {
	err := wire.Read(l, v)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("12-container: read from the other side: %w", err)
	}
	return nil
}

func (l *link) close() error {
	for _, f := range l.files {
		f.Close()
	}
	if err := l.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
