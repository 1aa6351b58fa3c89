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
	Group     *cgroups.Group  // whose v1 folders the init enters by itself
	System    *cgroups.System // where the control groups of this machine are, as far as the maker has looked
	Clone     uintptr         // the namespaces it was born in
	NewCgroup bool            // it makes a cgroup namespace of its own, once it is in its group
	Hooks     bool            // it stops for the hooks that run before pivot_root
	Traced    bool            // somebody wants to hear of its calls
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

// link is one end. Ours does not block, the init's does: there is nothing else that it could do.
type link struct{ wire.Conn }

// newLink returns our end, and the file to hand to the child.
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

func openLink(fd int) *link { return &link{wire.Conn{File: os.NewFile(uintptr(fd), "link")}} }

// send writes one message, and the descriptors of files beside it where there are any.
func (l *link) send(v any, files ...*os.File) error {
	err := l.Send(v, files...)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		err = errGone
	}
	if err != nil {
		return fmt.Errorf("12-container: write to the other side: %w", err)
	}
	return nil
}

// receive waits for what the init says, or for the end of ctx: somebody who is frozen says nothing.
func (l *link) receive(ctx context.Context) (m message, err error) {
	raw, err := l.File.SyscallConn()
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
	if m.Ready && len(l.Files) > 0 {
		m.console, l.Files = l.Files[0], l.Files[1:]
	}
	return m, nil
}

func (l *link) decode(v any) error {
	err := l.Receive(v)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return errGone
	}
	if err != nil {
		return fmt.Errorf("12-container: read from the other side: %w", err)
	}
	return nil
}

func (l *link) close() error {
	if err := l.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
