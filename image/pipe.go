package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// pipe reads ahead: a goroutine takes from a source, hashes what comes, writes it down where it is to be kept, and hands
// it on. Its reader sees the same bytes a little later.
type pipe struct {
	full  chan chunk
	empty chan []byte
	done  <-chan struct{}
	cause func() error
	cur   []byte // what is not read yet of
	whole []byte // the chunk at hand
	err   error
	front io.Reader // read before anything else

	// Valid when the reader has seen the end.
	hash hash.Hash
	size int64

	read atomic.Int64 // bytes taken from the source so far
}

type chunk struct {
	data []byte
	err  error
}

const (
	chunkSize = 256 << 10
	chunks    = 8
)

// newPipe begins to read. It ends with the source, or with the context.
func newPipe(ctx context.Context, r io.Reader, w io.Writer, limit int64) *pipe {
	p := &pipe{
		full: make(chan chunk, chunks), empty: make(chan []byte, chunks), hash: newHash(),
		done: ctx.Done(), cause: func() error { return context.Cause(ctx) },
	}
	for range chunks {
		p.empty <- nil // made when it is first needed
	}
	go p.pump(r, w, limit)
	return p
}

func (p *pipe) pump(r io.Reader, w io.Writer, limit int64) {
	if closer, ok := r.(*ratioLimit); ok {
		defer closer.Close() // here, where nobody is reading
	}
	for {
		var buf []byte
		select {
		case buf = <-p.empty:
		case <-p.done:
			return
		}
		if buf == nil {
			buf = make([]byte, chunkSize)
		}
		// A pipe gives some kilobytes at a time. Waiting for more than comes at once would hold up who sends it.
		n, err := readSome(r, buf[:chunkSize])
		if n > 0 {
			p.hash.Write(buf[:n])
			p.size += int64(n)
			p.read.Add(int64(n))
			if w != nil {
				if _, writeErr := w.Write(buf[:n]); writeErr != nil {
					err = fmt.Errorf("write blob: %w", writeErr)
				}
			}
		}
		if p.size > limit {
			err = fmt.Errorf("a layer of more than %d bytes", limit)
		}
		select {
		case p.full <- chunk{buf[:n], err}:
		case <-p.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// readSome reads until a quarter of the buffer is full.
func readSome(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf)/4 && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// Read gives what has come, and at its end the source's error.
func (p *pipe) Read(b []byte) (int, error) {
	if p.front != nil {
		n, err := p.front.Read(b)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		p.front = nil
	}
	for len(p.cur) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		if p.whole != nil {
			p.empty <- p.whole // never full: there are as many places as chunks
			p.whole = nil
		}
		select {
		case c := <-p.full:
			p.cur, p.whole, p.err = c.data, c.data[:0], c.err
		case <-p.done:
			p.err = p.cause()
		}
	}
	n := copy(b, p.cur)
	p.cur = p.cur[n:]
	return n, nil
}

// unread puts back what a buffered reader of this pipe has taken from it.
func (p *pipe) unread(in interface {
	Buffered() int
	io.Reader
}) {
	p.front = io.LimitReader(in, int64(in.Buffered()))
}

// digest is that of everything, once the end was read.
func (p *pipe) digest() digest.Digest { return hexDigest(p.hash) }
