package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// RemoteError is what a hub says instead of an exit status; see [Hub.Fail].
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// Attach connects the caller to a container, over a connection to its hub, until the container ends, the caller detaches or
// the context ends. Whether the container has a terminal the hub knows; then the caller's becomes raw.
//
// The end of the caller's stdin is told to the hub, and output goes on. The error is [ErrGone] if the hub was killed or
// dropped the caller; a [*RemoteError], [*OutputError] or [*SignalError]; or the context's.
func Attach(ctx context.Context, conn *os.File, o Options) (out Outcome, err error) {
	conn, err = pollable(conn)
	if err != nil {
		return Outcome{}, err
	}
	a := &attachment{conn: conn, opts: o, ready: make(chan byte, 1), over: make(chan error, 1)}
	defer conn.Close()
	f := &front{opts: o, to: a}
	f.findWindow()
	a.hello(f.firstSizes()) // where this fails, the hub has already sent all that it has to say, and receive finds it
	go func() {
		defer f.rescue()
		a.over <- a.receive()
	}()
	var flags byte
	select {
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	case err := <-a.over:
		return a.outcome, err
	case flags = <-a.ready:
	}
	f.terminal = flags&hasTerminal != 0
	if flags&hasStdin == 0 {
		f.opts.Stdin = nil
	}
	defer f.rescue()
	defer func() { err = errors.Join(err, f.end()) }()
	if err := f.start(); err != nil {
		return Outcome{}, err
	}
	select {
	case <-ctx.Done():
		return Outcome{}, ctx.Err()
	case s := <-f.signals:
		return Outcome{}, &SignalError{Signal: s}
	case <-f.typed:
		conn.SetWriteDeadline(time.Now().Add(time.Second)) // a container that does not read may have filled the connection
		a.send(frame(frameDetach))
		return Outcome{Detached: true}, nil
	case err := <-a.over:
		return a.outcome, err
	}
}

// attachment is the client's end of a connection.
type attachment struct {
	conn    *os.File
	opts    Options
	ready   chan byte  // the flags, once
	over    chan error // the end of receiving
	outcome Outcome    // set before over
	ended   bool       // by a last frame

	mu  sync.Mutex // one frame at a time
	buf []byte
}

// hello tells what is wanted, and in the same piece the size of the window: who has no terminal passes over it.
func (a *attachment) hello(sizes []Size) {
	var want byte
	if a.opts.Stdin != nil {
		want |= wantStdin
	}
	if a.opts.Stdout != nil {
		want |= wantStdout
	}
	if a.opts.Stderr != nil {
		want |= wantStderr
	}
	b := frame(frameHello, version, want)
	for _, s := range sizes {
		b = append(b, s.frame()...)
	}
	a.send(b)
}

// send sends a frame. It waits while the hub does not read, since the container does not.
func (a *attachment) send(frame []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.write(frame)
}

func (a *attachment) write(b []byte) error {
	if _, err := a.conn.Write(b); err != nil {
		return lost(err)
	}
	return nil
}

func (a *attachment) input(p []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.buf = append(a.buf[:0], make([]byte, headerSize)...)
	a.buf = append(a.buf, p...)
	putHeader(a.buf, frameStdin, len(p))
	return a.write(a.buf)
}

func (a *attachment) closeInput()   { a.send(frame(frameCloseStdin)) }
func (a *attachment) resize(s Size) { a.send(s.frame()) }

// receive handles what the hub sends.
func (a *attachment) receive() error {
	// Room for a whole frame of the largest kind and the header of the next.
	buf := make([]byte, 2*headerSize+maxPayload)
	var d decoder
	for {
		n, err := a.conn.Read(buf)
		if n == 0 || err != nil {
			return lost(err)
		}
		if err := d.decode(buf[:n], a.handle); err != nil || a.ended {
			return err
		}
	}
}

// handle is called for each frame of the hub.
func (a *attachment) handle(kind byte, payload []byte) error {
	switch kind {
	case frameReady:
		if len(payload) < 2 || payload[0] != version {
			return errProtocol
		}
		select {
		case a.ready <- payload[1]:
		default:
		}
	case frameStdout:
		if a.opts.Stdout != nil {
			if err := writeAll(a.opts.Stdout, payload); err != nil {
				return &OutputError{Stream: "stdout", Err: err}
			}
		}
	case frameStderr:
		if a.opts.Stderr != nil {
			if err := writeAll(a.opts.Stderr, payload); err != nil {
				return &OutputError{Stream: "stderr", Err: err}
			}
		}
	case frameExit:
		if len(payload) != 4 {
			return errProtocol
		}
		a.outcome.ExitStatus = int(int32(binary.BigEndian.Uint32(payload)))
		a.ended = true
	case frameError:
		a.ended = true
		return &RemoteError{Text: string(payload)}
	default:
		return errProtocol
	}
	return nil
}

// lost is the error of a connection without a last frame.
func lost(err error) error {
	for _, gone := range []error{nil, io.EOF, os.ErrClosed, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, gone) {
			return ErrGone
		}
	}
	return fmt.Errorf("talk to the container's monitor: %w", err)
}
