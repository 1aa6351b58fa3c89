package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// ReadOptions say what of a log is wanted.
type ReadOptions struct {
	Stdout, Stderr bool
	Follow         bool      // wait for more at the end
	Timestamps     bool      // begin every line with its time
	Details        bool      // begin every line with its attributes
	Since, Until   time.Time // records before or after are not wanted; zero: no limit
	Tail           int       // only this many records from the end; less than 0: all

	// Done is closed when the container has ended and its log is closed: following ends when all has been read.
	Done <-chan struct{}
}

// Read writes what a container printed to out, and what it printed on stderr to errOut. A log that is not there is empty; when
// it is followed, it may yet come.
//
// It returns nil at the end of the log, of Until or of what is to be followed; the context's error; or the error of out or
// errOut, as it is.
func Read(ctx context.Context, path string, o ReadOptions, out, errOut io.Writer) error {
	r := &reader{path: path, opts: o, print: printer{opts: o, out: out, errOut: errOut}}
	defer r.close()
	var w *watch
	if o.Follow {
		// Before the first look at the log, so that nothing that comes after it is missed.
		var err error
		if w, err = newWatch(path); err != nil {
			return fmt.Errorf("follow log %s: %w", path, err)
		}
		defer w.close()
	}
	if err := r.open(); err != nil {
		return fmt.Errorf("read log %s: %w", path, err)
	}
	if o.Tail >= 0 {
		if err := r.tail(o.Tail); err != nil {
			return fmt.Errorf("read log %s: %w", path, err)
		}
	}
	err := r.rest(ctx)
	if err == nil && o.Follow {
		err = r.follow(ctx, w)
	}
	if errors.Is(err, errUntil) {
		err = nil
	}
	return errors.Join(err, r.print.flush())
}

// errUntil ends reading at the first record after Until.
var errUntil = errors.New("after the time that was asked for")

// file is one file of the log, open.
type file struct {
	*os.File
	info os.FileInfo
	off  int64 // where the first line begins that has not been read
}

// reader goes through the files of a log, the oldest first.
type reader struct {
	path  string
	opts  ReadOptions
	files []*file // those that are not read to their end; the last one may grow
	buf   []byte
	print printer
}

func (r *reader) close() {
	for _, f := range r.files {
		f.Close()
	}
}

// blockSize is what is read at once. A line that does not fit is no record.
const blockSize = 256 << 10

// open opens all files of the log. Names move while the log rotates: what was opened is the whole log if the newest file is
// still the newest afterwards.
func (r *reader) open() error {
	for try := 0; ; try++ {
		files, err := openAll(r.path)
		if err != nil {
			return err
		}
		r.files = files
		// A container that prints faster than we can open files has moved on; what is missing then, is being deleted anyway.
		if try == 20 || len(files) == 0 || current(r.path, files[len(files)-1]) {
			return nil
		}
		r.close()
	}
}

// current reports whether f is the file that is being written.
func current(path string, f *file) bool {
	info, err := os.Stat(path)
	return err != nil || os.SameFile(info, f.info) // an error: deleted, with its container
}

func openAll(path string) ([]*file, error) {
	names, err := Files(path)
	if err != nil {
		return nil, err
	}
	var files []*file
	for i := len(names) - 1; i >= 0; i-- { // the newest first: what moves on meanwhile is met twice, not missed
		f, err := openFile(names[i])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, err
		}
		if n := len(files); n > 0 && os.SameFile(files[0].info, f.info) {
			f.Close()
			continue
		}
		files = append([]*file{f}, files...)
	}
	return files, nil
}

func openFile(name string) (*file, error) {
	fd, err := openat(name, os.O_RDONLY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s: not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{File: f, info: info}, nil
}

// rest reads all files to their end, and closes those that will not grow.
func (r *reader) rest(ctx context.Context) error {
	for i, f := range r.files {
		last := i == len(r.files)-1
		// The modification time of a file is not before the time of its last record.
		if last || r.opts.Since.IsZero() || !f.info.ModTime().Before(r.opts.Since) {
			if err := r.drain(ctx, f); err != nil {
				r.files = r.files[i:]
				return err
			}
		}
		if last {
			r.files = r.files[i:]
			break
		}
		f.Close()
	}
	return r.print.flush()
}

// drain prints the records of f from where it stands. Half a line at the end is left, and read again the next time: until
// then it may have been completed, or cut off and replaced.
func (r *reader) drain(ctx context.Context, f *file) error {
	if r.buf == nil {
		r.buf = make([]byte, blockSize)
	}
	skip := false // within a line that does not fit
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(r.buf, f.off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		block := r.buf[:n]
		for {
			i := bytes.IndexByte(block, '\n')
			if i < 0 {
				break
			}
			if !skip {
				if err := r.print.record(block[:i]); err != nil {
					return err
				}
			}
			skip = false
			block = block[i+1:]
			f.off += int64(i + 1)
		}
		if len(block) == len(r.buf) {
			skip = true
			f.off += int64(n)
			continue
		}
		if n < len(r.buf) {
			return nil
		}
	}
}

// printer writes records as they are wanted.
type printer struct {
	opts        ReadOptions
	out, errOut io.Writer

	buf     []byte
	stderr  bool // where buf goes
	within  [2]bool
	failure error
}

// record prints one line of the log, or passes over it.
func (p *printer) record(line []byte) error {
	r, ok := parse(line)
	if !ok {
		return nil
	}
	ok, err := p.opts.want(r)
	if !ok || err != nil {
		return err
	}
	stderr := string(r.stream) == "stderr"
	if stderr != p.stderr || len(p.buf) > 32<<10 {
		if err := p.flush(); err != nil {
			return err
		}
		p.stderr = stderr
	}
	i := 0
	if stderr {
		i = 1
	}
	if !p.within[i] {
		p.prefix(r)
	}
	p.buf = r.appendTo(p.buf)
	n := len(p.buf)
	p.within[i] = n == 0 || p.buf[n-1] != '\n'
	return nil
}

// prefix is what stands before a line; not before the later records of one that was long.
func (p *printer) prefix(r record) {
	if p.opts.Timestamps {
		p.buf = r.when().AppendFormat(p.buf, "2006-01-02T15:04:05.000000000Z07:00 ")
	}
	if p.opts.Details {
		p.buf = append(p.buf, r.details()...)
	}
}

// want reports whether a record is wanted; the error is errUntil if none of those that follow is.
func (o ReadOptions) want(r record) (bool, error) {
	if string(r.stream) == "stderr" {
		if !o.Stderr {
			return false, nil
		}
	} else if !o.Stdout {
		return false, nil
	}
	if o.Since.IsZero() && o.Until.IsZero() {
		return true, nil
	}
	t := r.when()
	if !o.Until.IsZero() && t.After(o.Until) {
		return false, errUntil
	}
	return !t.Before(o.Since), nil
}

// flush writes what was printed. After an error nothing is written any more.
func (p *printer) flush() error {
	if len(p.buf) == 0 || p.failure != nil {
		return p.failure
	}
	w := p.out
	if p.stderr {
		w = p.errOut
	}
	_, p.failure = w.Write(p.buf)
	p.buf = p.buf[:0]
	return p.failure
}
