package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// Writing what is in the files takes as long as making their names, and needs no names: a descriptor is enough. So one
// goroutine makes the files, and fillers write them.

// filler writes the contents of files, some at a time. To wake a thread costs as much as to write a small file, so small
// files are handed over together.
type filler struct {
	queues []chan batch
	next   int
	cur    batch       // what is being collected
	free   chan []byte // the buffers, as many as there may be
	wg     sync.WaitGroup
	failed atomic.Pointer[error]

	mu   sync.Mutex
	lost map[string]int
}

// batch is some files, or a part of one. All parts of a file go to one queue, so they are written in order.
type batch struct {
	data  []byte // a buffer of the filler's, which the pieces share
	parts []piece
}

// piece is a part of a file. The last one has the attributes.
type piece struct {
	fd     int
	name   string
	data   []byte
	at     int64
	sparse bool
	last   *attributes
}

const (
	batchSize  = 256 << 10
	batchFiles = 16 // each is an open descriptor
	maxBatches = 16 // in memory at a time
)

func newFiller() *filler {
	f := &filler{free: make(chan []byte, maxBatches), lost: map[string]int{}}
	f.queues = make([]chan batch, max(1, min(4, runtime.GOMAXPROCS(0)-1)))
	for range maxBatches {
		f.free <- nil // a buffer is made when it is first needed
	}
	for i := range f.queues {
		f.queues[i] = make(chan batch, maxBatches)
		f.wg.Go(func() { f.work(f.queues[i]) })
	}
	return f
}

// err is what a filler has met.
func (f *filler) err() error {
	if err := f.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// fail keeps the first error. What is still in the queues will be thrown away by the caller, so it is no more written.
func (f *filler) fail(err error) { f.failed.CompareAndSwap(nil, &err) }

// send hands over what was collected.
func (f *filler) send() {
	if len(f.cur.parts) > 0 {
		f.queues[f.next] <- f.cur
		if last := f.cur.parts[len(f.cur.parts)-1]; last.last != nil { // else the file goes on
			f.next = (f.next + 1) % len(f.queues)
		}
		f.cur = batch{}
	}
}

// wait returns when everything is written. Nothing may be given to the filler after.
func (f *filler) wait() (lost map[string]int, err error) {
	f.send()
	for _, q := range f.queues {
		close(q)
	}
	f.wg.Wait()
	return f.lost, f.err()
}

func (f *filler) work(queue chan batch) {
	lost := map[string]int{}
	for b := range queue {
		for _, p := range b.parts {
			if err := f.write(p, lost); err != nil {
				f.fail(fmt.Errorf("04-rootfs: unpack %q: %w", p.name, err))
			}
		}
		f.free <- b.data[:0]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for what, n := range lost {
		f.lost[what] += n
	}
}

func (f *filler) write(p piece, lost map[string]int) (err error) {
	if p.last != nil {
		// Where a disk is full, or over a network, some file systems say so only now.
		defer func() { err = errors.Join(err, unix.Close(p.fd)) }()
	}
	if f.failed.Load() != nil {
		return nil
	}
	if p.sparse {
		err = writeSparse(p.fd, p.data, p.at)
	} else {
		err = writeAt(p.fd, p.data, p.at)
	}
	if err != nil || p.last == nil {
		return err
	}
	if p.sparse { // the last hole
		if err := unix.Ftruncate(p.fd, p.at+int64(len(p.data))); err != nil {
			return err
		}
	}
	return p.last.dress(p.fd, false, lost)
}

func writeAt(fd int, data []byte, at int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

const hole = 4096 // the least that is left out

var zeros [hole]byte

// writeSparse leaves out what is empty: the file system keeps it as a hole.
func writeSparse(fd int, data []byte, at int64) error {
	for len(data) > 0 {
		n, empty := stretch(data)
		if !empty {
			if err := writeAt(fd, data[:n], at); err != nil {
				return err
			}
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

// stretch is the length of what the data begins with: of blocks that are all empty, or that all are not.
func stretch(data []byte) (n int, empty bool) {
	for n < len(data) {
		block := data[n:min(n+hole, len(data))]
		is := string(block) == string(zeros[:len(block)])
		if n > 0 && is != empty {
			break
		}
		n, empty = n+len(block), is
	}
	return n, empty
}

// file makes a file, and gives its content to a filler.
func (u *unpacker) file(ctx context.Context, dir *os.File, base string, h *tar.Header, a attributes, content *tar.Reader) error {
	if u.Bytes += h.Size; u.limits.Bytes > 0 && (u.Bytes > u.limits.Bytes || u.Bytes < 0) {
		return fmt.Errorf("more than %d bytes: %w", u.limits.Bytes, unix.EFBIG)
	}
	at, fd := int(dir.Fd()), -1
	err := u.create(at, base, func() error {
		return trace.Call(ctx, 2,
			func() string {
				return fmt.Sprintf("openat(%d, %q, O_WRONLY|O_CREAT|O_EXCL, %#o) = %d, write %d bytes", at, base, h.Mode&0o7777, fd, h.Size)
			},
			func() (err error) {
				fd, err = unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, a.mode&0o777)
				return err
			})
	})
	if err != nil {
		return err
	}
	u.Files++
	return u.fill.file(ctx, fd, h, a, content)
}

// file reads a file's content and has it written to fd, which it takes over.
func (f *filler) file(ctx context.Context, fd int, h *tar.Header, a attributes, content io.Reader) error {
	p := piece{fd: fd, name: h.Name, sparse: isSparse(h)}
	for {
		if f.cur.data == nil {
			f.cur.data = <-f.free
			if f.cur.data == nil {
				f.cur.data = make([]byte, 0, batchSize)
			}
		}
		room := f.cur.data[len(f.cur.data):batchSize]
		n, err := io.ReadFull(content, room[:min(h.Size-p.at, int64(len(room)))])
		if errors.Is(err, io.EOF) { // none of the bytes that are to come
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			err = ctx.Err()
		}
		p.data, f.cur.data = room[:n], f.cur.data[:len(f.cur.data)+n]
		if done := err != nil || p.at+int64(n) == h.Size; done {
			p.last = &a
		}
		if err != nil {
			f.fail(err)
		}
		f.cur.parts = append(f.cur.parts, p)
		if len(f.cur.data) == batchSize || len(f.cur.parts) == batchFiles {
			f.send()
		}
		if p.last != nil {
			return err
		}
		p.at += int64(n)
	}
}

// isSparse tells whether whoever packed the file knew of holes in it. Only then are empty blocks left out.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}
