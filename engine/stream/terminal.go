package stream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// ErrNotTerminal is returned for a file that is no terminal.
var ErrNotTerminal = errors.New("not a terminal")

// Terminal is the caller's own terminal.
//
// In raw mode it hands on every key at once, Ctrl-C included, and echoes nothing: the terminal in the container does all that.
// Whoever calls MakeRaw must call Restore on every path. [Attach] and [Pump] do: at their end, on a panic in any of their
// goroutines, and on the signals that would end the process. Nothing helps against SIGKILL; `reset` does, afterwards.
type Terminal struct {
	f  *os.File
	fd int

	mu    sync.Mutex
	saved *term.State // what to restore; nil: not raw
}

// OpenTerminal returns the terminal that f is, or [ErrNotTerminal]. The file stays the caller's.
func OpenTerminal(f *os.File) (*Terminal, error) {
	t := &Terminal{f: f}
	err := control(f, func(fd int) error {
		t.fd = fd
		if !term.IsTerminal(fd) {
			return ErrNotTerminal
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// MakeRaw puts the terminal into raw mode.
func (t *Terminal) MakeRaw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	state, err := term.MakeRaw(t.fd)
	if err != nil {
		return fmt.Errorf("make terminal raw: %w", err)
	}
	if t.saved == nil {
		t.saved = state
	}
	return nil
}

// Restore undoes MakeRaw. It can be called at any time, by anyone, more than once.
func (t *Terminal) Restore() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil {
		return nil
	}
	if err := term.Restore(t.fd, t.saved); err != nil {
		return fmt.Errorf("restore terminal: %w", err)
	}
	t.saved = nil
	return nil
}

// Size returns the size of the window.
func (t *Terminal) Size() (Size, error) { return windowSize(t.fd) }

func windowSize(fd int) (Size, error) {
	ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
	if err != nil {
		return Size{}, fmt.Errorf("get window size: %w", err)
	}
	return Size{Rows: ws.Row, Cols: ws.Col}, nil
}

// SetSize sets the size of the window of the terminal whose master, or the other side, f is. If it changes, the kernel sends
// SIGWINCH to the program that has it.
func SetSize(f *os.File, s Size) error {
	err := control(f, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols})
	})
	if err != nil {
		return fmt.Errorf("set window size: %w", err)
	}
	return nil
}

// Watch calls f with the size of the window, now and whenever it changes, until the context ends.
func (t *Terminal) Watch(ctx context.Context, f func(Size)) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	defer signal.Stop(changes)
	for {
		if s, err := t.Size(); err == nil {
			f(s)
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return
		}
	}
}

// foreground reports whether the caller's process group has the terminal: others are stopped when they change its mode.
func (t *Terminal) foreground() bool {
	pgrp, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	return err == nil && pgrp == unix.Getpgrp()
}
