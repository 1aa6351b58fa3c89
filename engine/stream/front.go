package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Options say what of the caller's is attached.
type Options struct {
	Stdin          io.Reader // nil: nothing is typed
	Stdout, Stderr io.Writer // nil: what comes for it is dropped
	Keys           []byte    // the keys that detach from a program with a terminal, see ParseKeys; none: there are no such keys
	Proxied        bool      // the caller handles all signals, those that would end the process too
	Redraw         bool      // make a program with a terminal draw its screen again, by changing the size for a moment
}

// Outcome is how it ended.
type Outcome struct {
	Detached   bool // by the keys; the program goes on
	ExitStatus int  // Attach only
}

// SignalError is returned when a signal came that would have ended the process with its terminal raw. The terminal is
// restored; the caller ends by the same signal.
type SignalError struct{ Signal os.Signal }

func (e *SignalError) Error() string { return "ended by a signal: " + e.Signal.String() }

// OutputError is returned when the caller's own output could not be written. If the reader at its other end is gone it is
// EPIPE, by which a program in a pipeline ends without a word, with the status of SIGPIPE. The container does not notice.
type OutputError struct {
	Stream string // "stdout" or "stderr"
	Err    error
}

func (e *OutputError) Error() string { return fmt.Sprintf("write %s: %v", e.Stream, e.Err) }
func (e *OutputError) Unwrap() error { return e.Err }

// sink is where the caller's input goes: a hub, or a program's own pipe or terminal.
type sink interface {
	input(p []byte) error
	closeInput()
	resize(Size)
}

// front is the caller's side of an attachment: terminal, keys, window.
type front struct {
	opts     Options
	terminal bool // the program has one
	to       sink

	term     atomic.Pointer[Terminal] // the caller's, raw; nil: there is none, or it is not for the program
	window   *Terminal                // whose size the program's terminal is to have
	stop     chan struct{}            // closed when it ends
	stopRead *os.File                 // closed when it ends: wakes a reader of the caller's stdin
	typed    chan error               // errDetached, or that the sink is gone
	signals  chan os.Signal           // would end the process
	resumed  sync.WaitGroup           // until nobody makes the terminal raw any more
}

// rescue is deferred in every goroutine that runs while the terminal may be raw: the deferred calls of others do not run when
// this one panics.
func (f *front) rescue() {
	if r := recover(); r != nil {
		f.term.Load().Restore()
		panic(r)
	}
}

// start makes the caller's terminal raw, and begins to pass on what is typed and the size of the window.
func (f *front) start() error {
	f.stop, f.typed = make(chan struct{}), make(chan error, 1)
	if f.terminal {
		if err := f.takeTerminal(); err != nil {
			return err
		}
	}
	if f.opts.Stdin != nil {
		wake, stopRead, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
		f.stopRead = stopRead
		go func() {
			defer f.rescue()
			defer wake.Close()
			f.read(wake)
		}()
	}
	return nil
}

// findWindow finds out whose size counts: Docker asks stdout first.
func (f *front) findWindow() {
	for _, c := range []any{f.opts.Stdout, f.opts.Stdin, f.opts.Stderr} {
		if file, ok := c.(*os.File); ok && file != nil {
			if t, err := OpenTerminal(file); err == nil {
				f.window = t
				return
			}
		}
	}
}

// firstSizes are the sizes to begin with. The kernel tells a program only of a size that differs.
func (f *front) firstSizes() []Size {
	if f.window == nil {
		return nil
	}
	s, err := f.window.Size()
	switch {
	case err != nil:
		return nil
	case f.opts.Redraw:
		return []Size{{Rows: s.Rows + 1, Cols: s.Cols + 1}, s}
	}
	return []Size{s}
}

// takeTerminal makes stdin raw, if it is a terminal, and follows the size of the window.
func (f *front) takeTerminal() error {
	if in, ok := f.opts.Stdin.(*os.File); ok && in != nil {
		if t, err := OpenTerminal(in); err == nil {
			f.catch()
			cont := make(chan os.Signal, 1)
			signal.Notify(cont, unix.SIGCONT)
			f.term.Store(t)
			if err := t.MakeRaw(); err != nil {
				signal.Stop(cont)
				return err
			}
			f.resumed.Go(func() { f.resume(cont) })
		}
	}
	if f.window != nil {
		go f.watch()
	}
	return nil
}

// catch sees to it that signals do not end the process while its terminal is raw.
func (f *front) catch() {
	f.signals = make(chan os.Signal, 1)
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT} {
		if !signal.Ignored(s) { // by nohup, say
			if !f.opts.Proxied {
				signal.Notify(f.signals, s)
			}
		}
	}
}

// watch passes on the size of the window.
func (f *front) watch() {
	defer f.rescue()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-f.stop
		cancel()
	}()
	f.window.Watch(ctx, f.to.resize)
}

// resume makes the terminal raw again when the caller was stopped and goes on: the shell has restored its own mode.
func (f *front) resume(cont chan os.Signal) {
	defer f.rescue()
	defer signal.Stop(cont)
	for {
		select {
		case <-cont:
			if t := f.term.Load(); t.foreground() {
				t.MakeRaw()
			}
		case <-f.stop:
			return
		}
	}
}

// end restores the terminal. What reads or writes the caller's files ends by itself; nobody waits for it.
func (f *front) end() error {
	close(f.stop)
	if f.stopRead != nil {
		f.stopRead.Close()
	}
	f.resumed.Wait()
	err := f.term.Load().Restore()
	if f.signals != nil {
		signal.Stop(f.signals) // last, for the same reason as they are caught
	}
	return err
}

// read passes on what the caller types, or what comes out of a pipe, until it ends.
func (f *front) read(wake *os.File) {
	keys := keyFilter{}
	if f.terminal {
		keys.keys = f.opts.Keys
	}
	buf := make([]byte, headerSize+maxPayload)
	for {
		n, err := readStoppable(f.opts.Stdin, buf[headerSize:], wake)
		if errors.Is(err, errStopped) {
			return
		}
		if n > 0 {
			out, detach := keys.feed(buf[headerSize : headerSize+n])
			if len(out) > 0 {
				if err := f.to.input(out); err != nil {
					return // the other side tells the end of it, too
				}
			}
			if detach {
				f.typed <- errDetached
				return
			}
		}
		if err != nil {
			// At the end, or not readable, such as the terminal of a background process: there will be no more.
			if rest := keys.rest(); len(rest) > 0 {
				f.to.input(rest)
			}
			f.to.closeInput()
			return
		}
	}
}

var errStopped = errors.New("stopped")

// readStoppable reads, and returns errStopped as soon as the other end of wake is closed. Reading would otherwise go on after
// the end, and take keys that are meant for the shell. For readers that are no files, it does.
func readStoppable(r io.Reader, p []byte, wake *os.File) (n int, err error) {
	file, ok := r.(*os.File)
	if !ok {
		return r.Read(p)
	}
	err = control(file, func(fd int) error {
		return control(wake, func(wfd int) error {
			n, err = pollRead(fd, wfd, p)
			return err
		})
	})
	return n, err
}

func pollRead(fd, wake int, p []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}, {Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		if fds[0].Revents != 0 {
			return 0, errStopped
		}
		if fds[1].Revents == 0 {
			continue
		}
		n, err := unix.Read(fd, p)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// writeAll writes to the caller's stdout or stderr. A file is written to with write(2) itself: os.File ends the process by
// SIGPIPE, with the terminal raw; and gives up where somebody else who has the file open made it non-blocking.
func writeAll(w io.Writer, p []byte) error {
	file, ok := w.(*os.File)
	if !ok {
		_, err := w.Write(p)
		return err
	}
	return control(file, func(fd int) error {
		for len(p) > 0 {
			n, err := unix.Write(fd, p)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
			case err != nil:
				return err
			default:
				p = p[n:]
			}
		}
		return nil
	})
}
