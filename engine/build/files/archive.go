package files

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

const (
	maxWindow = 128 << 20 // memory that an archive may ask for
	maxRatio  = 200
	freeRatio = 1 << 30 // this much may be all zeros
)

// archive reads what may be compressed. Its end must be read, or it closed.
type archive struct {
	io.Reader
	close func()
}

func (a *archive) Close() {
	if a.close != nil {
		a.close()
	}
}

// decompressed tells by the first bytes how something is compressed, and reads it.
func decompressed(r io.Reader) (*archive, error) {
	packed := &counted{r: r}
	in := bufio.NewReaderSize(packed, 256<<10)
	head, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	a := &archive{Reader: in}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		a.Reader, err = gzip.NewReader(in)
	case bytes.HasPrefix(head, []byte("BZh")):
		a.Reader = bzip2.NewReader(in)
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1)); err == nil {
			a.Reader, a.close = d, d.Close
		}
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		a.Reader, err = xz.NewReader(in, maxWindow)
	default:
		return a, nil
	}
	if err != nil {
		return nil, fmt.Errorf("unpack the archive: %w", err)
	}
	a.Reader = &ratioLimit{r: a.Reader, packed: packed}
	return a, nil
}

type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// ratioLimit stops what grows too much: some kilobytes can be compressed zeros for a full disk.
type ratioLimit struct {
	r      io.Reader
	n      int64
	packed *counted
}

func (l *ratioLimit) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.n += int64(n); l.n > freeRatio && l.n/maxRatio > l.packed.n {
		return n, fmt.Errorf("the archive grows more than %d times when it is unpacked: no files do", maxRatio)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("unpack the archive: %w", err)
	}
	return n, err
}

// isArchive tells whether something is a tar, compressed or not: whether it has a first entry.
func isArchive(r io.Reader) bool {
	a, err := decompressed(r)
	if err != nil {
		return false
	}
	defer a.Close()
	_, err = tar.NewReader(a).Next()
	return err == nil
}

// unpackLimits are those of an archive that is unpacked for a build.
func unpackLimits() rootfs.Limits { return rootfs.TheLimits() }
