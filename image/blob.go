package image

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// blobWriter writes a file that is as large as a root file system and that nobody will read soon. It passes by the page
// cache, with O_DIRECT: there the same bytes stand a second time as files, which is where containers read them, and to fill
// it costs more than to write to a disk of today. What goes to the disk now need not be waited for at the end, either.
//
// The kernel wants memory, offset and length to be whole blocks then, see open(2), and returns when the disk has it all.
// So a goroutine waits for the disk. A file system that cannot do it says EINVAL; what is no whole block, and small blobs,
// are written as usual.
type blobWriter struct {
	f    *os.File
	buf  []byte // what is being collected
	free chan []byte
	full chan []byte
	quit chan struct{}
	done chan struct{} // closed when the goroutine has ended
	err  error         // why, valid then

	size   int64 // of the file, so far; the goroutine's
	tried  bool  // O_DIRECT
	direct bool
}

const (
	block    = 4096 // a multiple of the block size of all disks and file systems
	blobPart = 1 << 20
)

// aligned makes a buffer that begins at a multiple of a block.
func aligned(size int) []byte {
	b := make([]byte, size+block)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (block - 1)
	return b[skip : skip+size : skip+size]
}

// newBlobWriter writes a file from an offset on, which is where it ends, and a whole number of blocks. With 0 it begins anew.
func newBlobWriter(path string, offset int64) (*blobWriter, error) {
	flags := os.O_CREATE | os.O_WRONLY
	if offset == 0 {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	w := &blobWriter{
		f: f, size: offset,
		free: make(chan []byte, 3), full: make(chan []byte, 3), quit: make(chan struct{}), done: make(chan struct{}),
	}
	for range cap(w.free) {
		w.free <- nil // made when it is first needed
	}
	go w.work()
	return w, nil
}

// work writes what comes, until there is an error, or nothing more to come.
func (w *blobWriter) work() {
	defer close(w.done)
	for {
		select {
		case p, more := <-w.full:
			if !more {
				return
			}
			if !w.tried && len(p) == blobPart { // it is not small
				w.tried = true
				w.setDirect(true)
			}
			if w.err = w.writeOut(p); w.err != nil {
				return
			}
			w.free <- p[:0]
		case <-w.quit:
			w.err = os.ErrClosed
			return
		}
	}
}

// Write takes bytes over.
func (w *blobWriter) Write(p []byte) (written int, err error) {
	written = len(p)
	for len(p) > 0 {
		if w.buf == nil {
			select {
			case <-w.done:
				return 0, w.err
			case w.buf = <-w.free:
			}
			if w.buf == nil {
				w.buf = aligned(blobPart)[:0]
			}
		}
		n := min(len(p), blobPart-len(w.buf))
		w.buf, p = append(w.buf, p[:n]...), p[n:]
		if len(w.buf) == blobPart {
			if err := w.send(); err != nil {
				return 0, err
			}
		}
	}
	return written, nil
}

// send hands over what was collected.
func (w *blobWriter) send() error {
	select {
	case <-w.done:
		return w.err
	case w.full <- w.buf:
		w.buf = nil
		return nil
	}
}

// writeOut writes at the end of the file.
func (w *blobWriter) writeOut(p []byte) error {
	if w.direct && len(p)%block != 0 {
		whole := len(p) &^ (block - 1)
		if err := w.writeOut(p[:whole]); err != nil {
			return err
		}
		if err := w.setDirect(false); err != nil {
			return err
		}
		p = p[whole:]
	}
	_, err := w.f.WriteAt(p, w.size)
	if w.direct && errors.Is(err, unix.EINVAL) {
		if err = w.setDirect(false); err == nil {
			_, err = w.f.WriteAt(p, w.size)
		}
	}
	w.size += int64(len(p))
	return err
}

// setDirect switches O_DIRECT, which is one of the flags that an open file can change.
func (w *blobWriter) setDirect(on bool) error {
	flags, err := unix.FcntlInt(w.f.Fd(), unix.F_GETFL, 0)
	if err == nil {
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(w.f.Fd(), unix.F_SETFL, flags)
	}
	w.direct = on && err == nil
	return err
}

// finish writes what is left and waits. Nothing may be written after.
func (w *blobWriter) finish() error {
	if len(w.buf) > 0 {
		if err := w.send(); err != nil {
			return err
		}
	}
	close(w.full)
	<-w.done
	return w.err
}

// Close ends what goes on, and gives the descriptor back.
func (w *blobWriter) Close() error {
	close(w.quit)
	return w.f.Close()
}
