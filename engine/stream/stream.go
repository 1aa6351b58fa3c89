// Package stream carries what a container reads and prints between the one process that holds it, its monitor, and any number
// of people who attach to it.
//
// # The two ends
//
// The monitor has a [Hub]. It owns the near ends of the container's pipes, or the master of its terminal; it reads all that
// the container prints, hands it to the log, and then to every client that is attached. What clients type goes to the
// container. A client calls [Attach]. It puts its own terminal into raw mode, looks for the keys that detach, and tells when
// the window changes. `exec` needs no monitor: the command's pipes or terminal are its own, and [Pump] does all that without
// a socket.
//
// # Who waits for whom
//
// A container that prints faster than its clients read must wait or its output must be lost; there is no third way. The
// client that was there from the start, that of `run`, is waited for as long as it lives: its output is like a pipe's.
// Others are waited for while they read at all. One that has not taken a single byte for ten seconds is dropped, and
// the container goes on. A client that dies is noticed by the kernel, and holds up nobody.
//
// # The protocol
//
// A stream socket in the container's run folder, which only root may enter. Both sides send frames, each a header of eight
// bytes and a payload:
//
//	byte 0     the type
//	bytes 1-3  zero
//	bytes 4-7  the length of the payload, big endian, at most 64 KiB
//
//	type           sent by  payload
//	0 stdin        client   what the container is to read
//	1 stdout       hub      what it printed; everything, if it has a terminal
//	2 stderr       hub      what it printed there
//	3 error        hub      text: there will be no exit status, for this reason; the last frame
//	4 resize       client   rows and columns, two bytes each, big endian
//	5 close stdin  client   none: nothing more to read will come from this client
//	6 exit         hub      four bytes, big endian: the exit status; all output has been sent; the last frame
//	7 detach       client   none: the client leaves, and its stdin does not end with it; its last frame
//	8 hello        client   version 1, and what is wanted: 1 stdin, 2 stdout, 4 stderr, added; the first frame
//	9 ready        hub      version 1, and what there is: 1 a terminal, 2 stdin, added; the first frame
//	10 ask         client   a word: what the monitor is to do, beside all streams; needs no hello
//	10 ask         hub      text: why it could not; none if it is done
//
// The first four are those of Docker's attach, with the same header. A hub that ends without a last frame was killed.
package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The types of frames.
const (
	frameStdin byte = iota
	frameStdout
	frameStderr
	frameError
	frameResize
	frameCloseStdin
	frameExit
	frameDetach
	frameHello
	frameReady
	frameAsk
)

const (
	headerSize = 8
	// maxPayload is as much as a pipe holds by default (pipe(7)), so one read empties it.
	maxPayload = 64 << 10
	version    = 1
)

// The flags of hello and ready.
const (
	wantStdin = 1 << iota
	wantStdout
	wantStderr

	hasTerminal = 1
	hasStdin    = 2
)

var (
	// ErrGone is returned where a container's monitor is not there, or no longer. Its state on disk tells what became of the
	// container, or that this is not known.
	ErrGone = errors.New("the container's monitor is gone")

	errProtocol = errors.New("this is not the protocol of nslab's streams")
)

// putHeader writes a header to the start of frame, for a payload of n bytes.
func putHeader(frame []byte, kind byte, n int) {
	frame[0], frame[1], frame[2], frame[3] = kind, 0, 0, 0
	binary.BigEndian.PutUint32(frame[4:], uint32(n))
}

// frame makes a frame. It is for those that are rare.
func frame(kind byte, payload ...byte) []byte {
	b := make([]byte, headerSize+len(payload))
	putHeader(b, kind, len(payload))
	copy(b[headerSize:], payload)
	return b
}

// decoder takes frames out of a stream of bytes, however it was cut.
type decoder struct {
	header [headerSize]byte
	have   int    // bytes of the header
	left   int    // bytes of the payload that are still to come
	small  []byte // the payload of a frame that is handled as a whole
}

// decode calls handle for what is in p: for stdin, stdout and stderr with each part of a payload as it comes, since order is
// all that counts there; for others with whole payloads, which are good until it returns.
func (d *decoder) decode(p []byte, handle func(kind byte, payload []byte) error) error {
	for len(p) > 0 {
		if d.have < headerSize {
			n := copy(d.header[d.have:], p)
			d.have += n
			p = p[n:]
			if d.have < headerSize {
				return nil
			}
			size := binary.BigEndian.Uint32(d.header[4:])
			if size > maxPayload || d.header[0] > frameAsk || d.header[1]|d.header[2]|d.header[3] != 0 {
				return errProtocol
			}
			d.left, d.small = int(size), d.small[:0]
			if d.left > 0 {
				continue
			}
		}
		n := min(d.left, len(p))
		part := p[:n]
		d.left -= n
		p = p[n:]
		if d.header[0] > frameStderr {
			if d.left > 0 || len(d.small) > 0 {
				d.small = append(d.small, part...)
				part = d.small
			}
			if d.left > 0 {
				continue
			}
		}
		if d.left == 0 {
			d.have = 0
		}
		if err := handle(d.header[0], part); err != nil {
			return err
		}
	}
	return nil
}

// Size is the size of a terminal's window.
type Size struct{ Rows, Cols uint16 }

func (s Size) frame() []byte {
	return frame(frameResize, byte(s.Rows>>8), byte(s.Rows), byte(s.Cols>>8), byte(s.Cols))
}

func parseSize(p []byte) (Size, error) {
	if len(p) != 4 {
		return Size{}, fmt.Errorf("size of %d bytes: %w", len(p), errProtocol)
	}
	return Size{Rows: binary.BigEndian.Uint16(p), Cols: binary.BigEndian.Uint16(p[2:])}, nil
}
