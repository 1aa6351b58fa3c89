package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Names are made by one, in their order; files are written by several, which have two open folders and a name in each.

// job is a file to copy.
type job struct {
	c    *copier // nothing of it is changed by a job
	from *entry
	to   spot
}

// done is what the fillers have done.
type done struct {
	bytes   int64
	changed bool
	lost    map[string]int
}

type filler struct {
	ctx  context.Context
	jobs chan []job
	next []job
	wg   sync.WaitGroup // fillers
	open sync.WaitGroup // lists of jobs

	mu  sync.Mutex
	sum done
	err error
}

func newFiller(ctx context.Context) *filler {
	f := &filler{ctx: ctx, jobs: make(chan []job, 4), sum: done{lost: map[string]int{}}}
	for range workers() {
		f.wg.Go(f.work)
	}
	return f
}

func (f *filler) work() {
	buf := make([]byte, 128<<10)
	for list := range f.jobs {
		mine := done{lost: map[string]int{}}
		var err error
		for _, j := range list {
			if err == nil {
				if err = j.run(f.ctx, buf, &mine); err != nil {
					var own *Error
					if !errors.As(err, &own) {
						err = &Error{Text: "copy to " + quoted("/"+j.to.path), Err: err}
					}
				}
			}
			j.from.dir.drop()
			j.to.dir.drop()
		}
		f.mu.Lock()
		f.sum.bytes += mine.bytes
		f.sum.changed = f.sum.changed || mine.changed
		for what, n := range mine.lost {
			f.sum.lost[what] += n
		}
		if f.err == nil {
			f.err = err
		}
		f.mu.Unlock()
		f.open.Done()
	}
}

func (f *filler) add(j job) error {
	f.next = append(f.next, j)
	if len(f.next) < filesAtOnce {
		return nil
	}
	f.send()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err // a full disk is not to be met again with each file that follows
}

func (f *filler) send() {
	if len(f.next) > 0 {
		f.open.Add(1)
		f.jobs <- f.next
		f.next = nil
	}
}

// settle returns when all files are written that were given so far.
func (f *filler) settle() error {
	f.send()
	f.open.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// wait is the end.
func (f *filler) wait() (done, error) {
	f.send()
	close(f.jobs)
	f.wg.Wait()
	return f.sum, f.err
}

// run copies a file. What it was when it was looked at and what it is now may be two things: the copy is of what is there now,
// and if that is no file any more, there is none.
func (j *job) run(ctx context.Context, buf []byte, d *done) (err error) {
	in, err := j.from.open()
	if vanished(err) {
		d.changed = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", quoted("/"+j.from.path), err)
	}
	defer in.Close()
	var st, end unix.Stat_t
	if err := unix.Fstat(int(in.Fd()), &st); err != nil {
		return err
	}
	if kind(&st) != unix.S_IFREG {
		d.changed = true
		return nil
	}
	l := j.c.look(&st)
	if l.extended, err = attributesOf(in); err != nil {
		return fmt.Errorf("read attributes of %s: %w", quoted("/"+j.from.path), err)
	}
	fd, err := createAt(int(j.to.dir.Fd()), j.to.name, l.mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	n, err := copyContent(ctx, fd, in, &st, buf)
	d.bytes += n
	if err != nil {
		return err
	}
	if err := unix.Fstat(int(in.Fd()), &end); err != nil || inodeOf(&end) != inodeOf(&j.from.st) || n != st.Size {
		d.changed = true
	}
	return l.give(fd, false, d.lost)
}

// copyContent copies as much as the file had when it was opened, and keeps its holes.
func copyContent(ctx context.Context, to int, from *os.File, st *unix.Stat_t, buf []byte) (int64, error) {
	const block = 512
	if st.Size > 0 && st.Blocks*block < st.Size-2*int64(st.Blksize) {
		return copySparse(ctx, to, from, st.Size, buf)
	}
	return copyRange(ctx, to, from, 0, st.Size, buf)
}

const big = 1 << 20 // from here on the kernel may copy by itself

// copyRange copies a part of a file, as far as there is any.
func copyRange(ctx context.Context, to int, from *os.File, at, end int64, buf []byte) (n int64, err error) {
	for at < end {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		var m int
		if end-at >= big {
			in, out := at, at
			m, err = unix.CopyFileRange(int(from.Fd()), &in, to, &out, int(min(end-at, 64<<20)), 0)
			if err != nil && !errors.Is(err, unix.EINTR) { // other file systems, or one that cannot
				m, err = copySome(to, from, at, end, buf)
			}
		} else {
			m, err = copySome(to, from, at, end, buf)
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			return n, err
		}
		at, n = at+int64(m), n+int64(m)
	}
	return n, nil
}

// copySome copies a buffer full.
func copySome(to int, from *os.File, at, end int64, buf []byte) (int, error) {
	n, err := unix.Pread(int(from.Fd()), buf[:min(end-at, int64(len(buf)))], at)
	if err != nil || n == 0 {
		return 0, err
	}
	for done := 0; done < n; {
		m, err := unix.Pwrite(to, buf[done:n], at+int64(done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		if m == 0 {
			return done, io.ErrShortWrite
		}
		done += m
	}
	return n, nil
}

// copySparse copies only where there is something. lseek(2): SEEK_DATA, SEEK_HOLE.
func copySparse(ctx context.Context, to int, from *os.File, size int64, buf []byte) (int64, error) {
	fd := int(from.Fd())
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			break
		}
		if err != nil { // a file system without holes
			return copyRange(ctx, to, from, at, size, buf)
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			hole = size
		}
		hole = min(hole, size)
		n, err := copyRange(ctx, to, from, data, hole, buf)
		if err != nil {
			return 0, err
		}
		if n < hole-data { // it has become shorter
			return data + n, nil
		}
		at = max(hole, data+1)
	}
	return size, unix.Ftruncate(to, size)
}
