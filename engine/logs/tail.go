package logs

import (
	"bytes"
	"errors"
	"io"
)

// tail moves the reader to the n-th wanted record from the end, and looks at no more of the log than that.
func (r *reader) tail(n int) error {
	for i := len(r.files) - 1; i >= 0; i-- {
		f := r.files[i]
		start, left, err := r.tailFile(f, n)
		if err != nil {
			return err
		}
		f.off = start
		if n = left; n > 0 {
			continue // all of this file, and some of an older one
		}
		for _, f := range r.files[:i] {
			f.Close()
		}
		r.files = r.files[i:]
		break
	}
	return nil
}

// tailFile looks for the n-th wanted record from the end of one file. It returns where to start, and how many records the
// older files must provide.
func (r *reader) tailFile(f *file, n int) (start int64, left int, err error) {
	b, err := newBackward(f)
	if err != nil {
		return 0, 0, err
	}
	start = b.end
	for n > 0 {
		line, off, err := b.line()
		if errors.Is(err, io.EOF) {
			return 0, n, nil
		}
		if err != nil {
			return 0, 0, err
		}
		rec, ok := parse(line)
		if !ok {
			continue
		}
		if ok, _ := r.opts.want(rec); ok {
			start = off
			n--
		} else if t := rec.when(); !t.IsZero() && t.Before(r.opts.Since) {
			break // and so is all that is older
		}
	}
	return start, 0, nil
}

// backward reads the lines of a file from its end.
type backward struct {
	f    io.ReaderAt
	end  int64  // what is before this offset has not been read
	have []byte // the bytes before end that are in memory, in buf
	buf  []byte
}

// newBackward begins after the last newline: half a line at the end is none.
func newBackward(f *file) (*backward, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	b := &backward{f: f, end: size, buf: make([]byte, 64<<10)}
	return b, b.skip()
}

// fill reads the bytes before end, as many as fit.
func (b *backward) fill() error {
	n := min(b.end, int64(len(b.buf)))
	b.have = b.buf[:n]
	_, err := b.f.ReadAt(b.have, b.end-n)
	return err
}

// skip moves end to after the newline that is before it.
func (b *backward) skip() error {
	for b.end > 0 {
		if err := b.fill(); err != nil {
			return err
		}
		i := bytes.LastIndexByte(b.have, '\n')
		b.have = b.have[:i+1]
		b.end -= int64(min(b.end, int64(len(b.buf)))) - int64(i+1)
		if i >= 0 {
			return nil
		}
	}
	return nil
}

// line returns the line before the last one, without its newline, and where it begins. It is good until the next call.
func (b *backward) line() ([]byte, int64, error) {
	for b.end > 0 {
		if n := len(b.have); n > 0 {
			i := bytes.LastIndexByte(b.have[:n-1], '\n')
			if i >= 0 || int64(n) == b.end {
				line := b.have[i+1 : n-1]
				b.have = b.have[:i+1]
				b.end -= int64(n - (i + 1))
				return line, b.end, nil
			}
			if n == len(b.buf) {
				if n >= blockSize {
					// Too long for a record.
					b.end, b.have = b.end-int64(n), nil
					if err := b.skip(); err != nil {
						return nil, 0, err
					}
					continue
				}
				b.buf = make([]byte, 2*n)
			}
		}
		if err := b.fill(); err != nil {
			return nil, 0, err
		}
	}
	return nil, 0, io.EOF
}
