package stream

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultGrace is for how long the outputs of a program are read after its end, when others still have them open. It is
// containerd's and Docker's. What the program itself printed is read in any case.
const DefaultGrace = 2 * time.Second

// idle is after how much silence memory is handed back.
const idle = time.Second

var (
	noTime = time.Time{}
	past   = time.Unix(1, 0)
)

// source is an output of a program: the near end of a pipe, or the master of a terminal.
//
// A pipe ends when all who could write to it are gone. That can be long after the program: `sh -c 'sleep 100 &'` leaves
// somebody behind who has it open. A terminal's master reads EIO when nobody has the terminal open, but that is not its end:
// somebody may open it again. So the end of both is decided by who knows of the program's end; see end.
type source struct {
	f        *os.File
	raw      syscall.RawConn
	terminal bool
	quiet    func() // called after a second without output, if there was any before

	ending atomic.Bool
	until  time.Time // set before ending

	// What follows is the reading goroutine's.
	noticed bool // that it is ending
	last    int  // how much may still be read; -1: any amount
	active  bool // there was output since the deadline was set
	armed   bool // a deadline for quiet is set
	buf     []byte
	n       int
	err     error
	try     func(fd uintptr) bool
}

func newSource(f *os.File, terminal bool) (*source, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &source{f: f, raw: raw, terminal: terminal, last: -1}
	s.try = s.read
	return s, nil
}

// next reads something into buf, or returns io.EOF.
func (s *source) next(buf []byte) (int, error) {
	for {
		if s.last >= 0 {
			return s.remains(buf)
		}
		s.buf = buf
		if s.quiet != nil && !s.armed && s.active {
			s.arm()
		}
		err := s.raw.Read(s.try)
		if err == nil {
			s.active = true
			return s.n, s.err
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, io.EOF // closed
		}
		s.deadline()
	}
}

// read is one attempt. It returns false to wait for more.
func (s *source) read(fd uintptr) bool {
	s.n, s.err = 0, nil
	for s.n < len(s.buf) {
		n, err := unix.Read(int(fd), s.buf[s.n:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN || err == unix.EIO && s.terminal && !s.ending.Load():
			return s.n > 0
		case err != nil || n <= 0:
			if s.n == 0 {
				s.err = io.EOF
			}
			return true
		}
		s.n += n
		if !s.terminal {
			break // a pipe was emptied; a terminal gives four kilobytes at a time
		}
	}
	return true
}

// arm asks to be woken after a while.
func (s *source) arm() {
	s.armed, s.active = true, false
	s.f.SetReadDeadline(time.Now().Add(idle))
	if s.ending.Load() {
		s.f.SetReadDeadline(past)
	}
}

// deadline handles a deadline that has passed: for quiet, or set by end.
func (s *source) deadline() {
	s.armed = false
	switch {
	case !s.ending.Load():
		s.f.SetReadDeadline(noTime)
		if s.ending.Load() {
			s.f.SetReadDeadline(past)
		}
		if !s.active && s.quiet != nil {
			s.quiet()
		}
	case !s.noticed:
		s.noticed, s.quiet = true, nil
		s.f.SetReadDeadline(s.until)
	default:
		// Whatever the program printed and was not read yet is in the pipe now; others may print on and on behind it.
		s.last = 0
		s.raw.Control(func(fd uintptr) { s.last, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
}

// remains reads what was there at the deadline.
func (s *source) remains(buf []byte) (int, error) {
	s.buf = buf[:min(len(buf), s.last)]
	if len(s.buf) == 0 {
		return 0, io.EOF
	}
	got := false
	if err := s.raw.Control(func(fd uintptr) { got = s.read(fd) }); err != nil || !got {
		return 0, io.EOF
	}
	s.last -= s.n
	return s.n, s.err
}

// end tells that the program is gone: what is there is read, and what comes within the grace.
func (s *source) end(grace time.Duration) {
	s.until = time.Now().Add(grace)
	s.ending.Store(true)
	s.f.SetReadDeadline(past) // wakes the reader
}
