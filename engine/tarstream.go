package engine

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// errStopped ends the writing side of a stream whose reading side has what it wants.
var errStopped = errors.New("nobody reads it any more")

// tarStream runs pack and unpack at the same time, the one's output being the other's input, and returns how much that was. Of two
// errors it returns the cause of the other.
func tarStream(pack func(io.Writer) error, unpack func(io.Reader) error) (int64, error) {
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		buffer := bufio.NewWriterSize(w, 256<<10) // small files go together: each hand-over wakes a thread
		err := pack(buffer)
		if err == nil {
			err = buffer.Flush()
		}
		w.CloseWithError(err) // nil is an end
		packed <- err
	}()
	in := &counter{Reader: r}
	err := unpack(in)
	r.CloseWithError(errStopped)
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, errStopped) {
		return in.n, packErr
	}
	return in.n, err
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// unpacked reads what may be compressed: gzip, bzip2 and zstd are known by their first bytes. The error is io.EOF if there is nothing.
func unpacked(r io.Reader) (io.Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(6)
	if len(head) == 0 {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return gzip.NewReader(in)
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(in), nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		// One goroutine, so that there is nothing to close; the window is memory that the archive decides on.
		return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true))
	}
	for name, magic := range map[string]string{"xz": "\xfd7zXZ\x00", "zip": "PK\x03\x04"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return nil, fmt.Errorf("the archive is packed with %s: unpack it first, in a pipe", name)
		}
	}
	return in, nil
}
