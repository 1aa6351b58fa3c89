package wire

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Conn is one end of a stream socket between two processes, for messages and for open files beside them. It waits in Go's poller
// where the socket does not block. That matters in a process with few processors: a thread that is stuck in recvmsg(2) would keep
// one of those that Go shares out among its threads, until somebody notices.
type Conn struct {
	File  *os.File
	Files []*os.File // received, and not yet claimed by whoever knows what they are
}

// maxFiles is how many the kernel takes beside one piece (SCM_MAX_FD, unix(7)).
const maxFiles = 253

// Send writes one message, and copies of files beside it.
func (c *Conn) Send(v any, files ...*os.File) error {
	data, err := Marshal(v)
	if err != nil {
		return err
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn() // File.Fd would make it blocking
		if err == nil {
			err = raw.Control(func(fd uintptr) { fds[i] = int(fd) })
		}
		if err != nil {
			return fmt.Errorf("send %s: %w", f.Name(), err)
		}
	}
	raw, err := c.File.SyscallConn()
	if err != nil {
		return err
	}
	for len(data) > 0 {
		// Files go with the first byte of a piece. Where there are too many for one, there are several.
		piece, beside := data, fds
		if len(fds) > maxFiles {
			piece, beside = data[:1], fds[:maxFiles]
		}
		var oob []byte
		if len(beside) > 0 {
			oob = unix.UnixRights(beside...)
		}
		var n int
		waitErr := raw.Write(func(fd uintptr) bool {
			n, err = unix.SendmsgN(int(fd), piece, oob, nil, unix.MSG_NOSIGNAL)
			return err != unix.EAGAIN
		})
		if err == unix.EINTR {
			continue
		}
		if err = errors.Join(waitErr, err); err != nil {
			return err
		}
		data, fds = data[n:], fds[len(beside):]
	}
	return nil
}

// Receive waits for a message, as [Read] does. What came beside it is in Files.
func (c *Conn) Receive(v any) error { return Read(c, v) }

// Read is for [Read].
func (c *Conn) Read(p []byte) (n int, err error) {
	raw, err := c.File.SyscallConn()
	if err != nil {
		return 0, err
	}
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	var oobn, flags int
	waitErr := raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	if err = errors.Join(waitErr, err); err != nil {
		return 0, err
	}
	if err := c.keep(oob[:oobn]); err != nil {
		return 0, err
	}
	if flags&unix.MSG_CTRUNC != 0 { // the kernel drops those that we may not have
		return 0, fmt.Errorf("receive open files: %w", unix.EMFILE)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *Conn) keep(oob []byte) error {
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
			c.Files = append(c.Files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return nil
}

// Close closes the connection, and the files that nobody has claimed.
func (c *Conn) Close() error {
	var errs []error
	for _, f := range c.Files {
		errs = append(errs, f.Close())
	}
	c.Files = nil
	return errors.Join(append(errs, c.File.Close())...)
}
