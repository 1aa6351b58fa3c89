package logs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// follow prints what is appended to the log, through all its rotations, until the container has ended, Until has come, or
// the context is cancelled.
func (r *reader) follow(ctx context.Context, w *watch) error {
	var until <-chan time.Time
	if !r.opts.Until.IsZero() {
		timer := time.NewTimer(time.Until(r.opts.Until))
		defer timer.Stop()
		until = timer.C
	}
	for last := false; ; {
		if err := r.catchUp(ctx); err != nil {
			return err
		}
		if last {
			return nil
		}
		// One more look after the end: what the container said last was written before.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.opts.Done:
			last = true
		case <-until:
			last = true
		case _, more := <-w.events:
			last = !more // the folder is gone
		}
	}
}

// catchUp prints all that is in the log now.
func (r *reader) catchUp(ctx context.Context) error {
	for {
		if len(r.files) == 0 {
			if err := r.open(); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			} else if err != nil || len(r.files) == 0 {
				return nil
			}
		}
		f := r.files[len(r.files)-1]
		// In this order: when the file is no longer the newest, nothing more is written to it, and it is read once more.
		moved := !current(r.path, f)
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		if st.Size < f.off {
			f.off = 0 // emptied by hand
		}
		if err := r.rest(ctx); err != nil {
			return err
		}
		if !moved {
			if st.Nlink == 0 {
				// Deleted, and not replaced. The kernel tells that the folder is gone when nothing in it is open.
				r.close()
				r.files = nil
			}
			return nil
		}
		if err := r.next(); err != nil {
			return err
		}
	}
}

// next replaces the file that has been read by those that are newer.
func (r *reader) next() error {
	read := r.files[len(r.files)-1]
	r.files = nil
	defer read.Close()
	if err := r.open(); err != nil {
		return err
	}
	for i, f := range r.files {
		if !os.SameFile(f.info, read.info) {
			continue
		}
		f.off = read.off
		first := min(i+1, len(r.files)-1) // itself, if it is the newest once more
		for _, f := range r.files[:first] {
			f.Close()
		}
		r.files = r.files[first:]
		break
	}
	// If it is not among them it has been deleted, and all that there are are newer.
	return nil
}

// watch tells when something happens in the folder of a log: inotify(7).
type watch struct {
	f      *os.File
	events chan struct{} // one for any number of events; closed when the folder is gone
	stop   chan struct{}
}

// newWatch watches the folder and not the file: it sees the file being written as well as being replaced, and that it comes
// to be at all.
func newWatch(path string) (*watch, error) {
	w := &watch{events: make(chan struct{}, 1), stop: make(chan struct{})}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		// A user has 128 of them by default (/proc/sys/fs/inotify/max_user_instances). The next one looks now and then.
		go w.look()
		return w, nil
	}
	if err != nil {
		return nil, fmt.Errorf("inotify_init: %w", err)
	}
	dir := filepath.Dir(path)
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("inotify_add_watch %s: %w", dir, err)
	}
	w.f = os.NewFile(uintptr(fd), "inotify")
	go w.run()
	return w, nil
}

func (w *watch) run() {
	buf := make([]byte, 4096)
	for {
		n, err := w.f.Read(buf)
		if err != nil || gone(buf[:n]) {
			close(w.events)
			return
		}
		w.tell()
	}
}

func (w *watch) tell() {
	select {
	case w.events <- struct{}{}:
	default:
	}
}

func (w *watch) look() {
	t := time.NewTicker(time.Second / 4)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.tell()
		case <-w.stop:
			return
		}
	}
}

// gone looks for the event that the kernel sends when the folder was removed.
func gone(b []byte) bool {
	for len(b) >= unix.SizeofInotifyEvent {
		// struct inotify_event: int wd; uint32_t mask, cookie, len; char name[len].
		mask, size := binary.NativeEndian.Uint32(b[4:]), binary.NativeEndian.Uint32(b[12:])
		if mask&unix.IN_IGNORED != 0 {
			return true
		}
		b = b[min(len(b), unix.SizeofInotifyEvent+int(size)):]
	}
	return false
}

func (w *watch) close() {
	close(w.stop)
	if w.f != nil {
		w.f.Close()
	}
}
