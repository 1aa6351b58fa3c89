package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/engine/pages"
)

// Writer writes the log of one container. It is safe for concurrent use, and never fails: see [Writer.Lost].
type Writer struct {
	path string
	opts Options
	now  func() time.Time

	mu     sync.Mutex
	fd     int   // -1: nothing is kept
	size   int64 // of the file: where its last whole record ends
	limit  int64 // the size at which to rotate; 0: never
	mem    pages.Buffer
	buf    []byte // records that are not in the file yet, in mem; empty between calls of Write
	bufend int    // how many lines buf holds: what is lost if it cannot be written

	lost    int   // lines that could not be written and of which no record tells yet
	lostAll int   // lines that could not be written
	lostErr error // why, the first time

	streams []*Stream
}

// bufSize is for a batch of records. One of the largest must fit into it.
const bufSize = 128 << 10

// Create opens the log at path to append to it, and makes it where there is none. Half a record at its end, of a writer that
// was killed, is cut off.
func Create(path string, o Options) (*Writer, error) {
	w := &Writer{path: path, opts: o, now: time.Now, fd: -1}
	if o.None {
		return w, nil
	}
	if err := w.open(); err != nil {
		return nil, fmt.Errorf("open log %s: %w", path, err)
	}
	return w, nil
}

func (w *Writer) open() (err error) {
	if err := tidy(w.path); err != nil {
		return err
	}
	// Not through os.File: it would ask the poller about a plain file, and hand out its own errors.
	fd, err := openat(w.path, unix.O_RDWR|unix.O_CREAT|unix.O_APPEND)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("not a regular file")
	}
	w.fd = fd
	if w.size, err = repair(fd, st.Size); err != nil {
		return err
	}
	if w.opts.MaxSize > 0 {
		w.limit = w.opts.MaxSize
	}
	return nil
}

// openat opens a file of the log. 0640 as Docker's: root, and whom an administrator lets read logs.
func openat(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// repair cuts off half a record at the end of the file, and returns its size. What has no end within the size of the
// largest record is no record of ours; it gets an end, and readers pass over it.
func repair(fd int, size int64) (int64, error) {
	tail := make([]byte, min(size, int64(maxRecord(maxText))))
	n, err := unix.Pread(fd, tail, size-int64(len(tail)))
	if err != nil {
		return 0, err
	}
	tail = tail[:n]
	i := bytes.LastIndexByte(tail, '\n')
	switch {
	case i == n-1:
		return size, nil
	case i < 0 && size > int64(n):
		// With O_APPEND. A disk that is full is no reason not to start: the next record is lost with this line.
		if _, err := unix.Write(fd, []byte{'\n'}); err != nil {
			return size, nil
		}
		return size + 1, nil
	default:
		size -= int64(n - 1 - i)
		return size, unix.Ftruncate(fd, size)
	}
}

// Stream is one of a container's outputs on its way into the log.
type Stream struct {
	w    *Writer
	name string

	mem  pages.Buffer
	text []byte // the start of a line that has no end yet, in mem; at most maxText
	tail []byte // what follows the text in a record: the name and the time
	long bool   // records of the line have been written: the rest of it bears their time
}

// Stream returns the stream with this name, "stdout" or "stderr".
func (w *Writer) Stream(name string) *Stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.streams {
		if s.name == name {
			return s
		}
	}
	s := &Stream{w: w, name: name}
	w.streams = append(w.streams, s)
	return s
}

var _ io.WriteCloser = (*Stream)(nil)

// Write logs what the container printed. It always succeeds: a container must not stop because its log cannot be kept.
func (s *Stream) Write(p []byte) (int, error) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 || len(p) == 0 {
		return len(p), nil
	}
	now := w.now()
	if !s.long {
		s.stamp(now)
	}
	s.split(p, now)
	w.flush()
	return len(p), nil
}

// stamp sets the time of the records to come.
func (s *Stream) stamp(now time.Time) { s.tail = appendTail(s.tail[:0], s.name, now) }

// split makes records of lines. What remains of the last one waits for its end.
func (s *Stream) split(p []byte, now time.Time) {
	for len(p) > 0 {
		line, end := p, bytes.IndexByte(p, '\n')
		if end >= 0 {
			line = p[:end]
		}
		room := maxText - len(s.text)
		if len(line) > room {
			// A record of the start, and on with the rest.
			text := line[:room]
			if len(s.text) > 0 {
				s.hold(text)
				text = s.text
			}
			n := cut(text, line[room])
			s.w.record(text[:n], false, s.tail)
			s.long = true
			if len(s.text) > 0 {
				s.text = s.text[:copy(s.text, s.text[n:])]
				p = p[room:]
			} else {
				p = p[n:]
			}
			continue
		}
		if end < 0 {
			s.hold(line)
			return
		}
		if len(s.text) > 0 {
			s.hold(line)
			line = s.text
		}
		s.w.record(line, true, s.tail)
		s.text = s.text[:0]
		if s.long {
			s.long = false
			s.stamp(now)
		}
		p = p[end+1:]
	}
}

// hold keeps the start of a line. There is room for it.
func (s *Stream) hold(text []byte) {
	if len(s.text) == 0 {
		s.text = s.mem.Get(maxText)[:0]
	}
	s.text = append(s.text, text...)
}

// Close logs what remains of a line that has no end: the container has closed this output.
func (s *Stream) Close() error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.finish()
	return nil
}

func (s *Stream) finish() {
	if len(s.text) == 0 || s.w.fd < 0 {
		return
	}
	s.w.record(s.text, false, s.tail)
	s.w.flush()
	s.text, s.long = s.text[:0], false
}

// record adds one record to the batch, after the file was rotated if it has its size.
func (w *Writer) record(text []byte, end bool, tail []byte) {
	if w.limit > 0 && w.size+int64(len(w.buf)) >= w.limit {
		w.flush()
		if w.size >= w.limit {
			w.rotate()
		}
	}
	if w.buf == nil {
		w.buf = w.mem.Get(bufSize)[:0]
	}
	if cap(w.buf)-len(w.buf) < maxRecord(len(text)) {
		w.flush()
	}
	b := append(w.buf, opening...)
	b = appendText(b, text)
	if end {
		b = append(b, '\\', 'n')
	}
	w.buf = append(b, tail...)
	w.bufend++
}

// flush writes the batch to the file, or drops it.
func (w *Writer) flush() {
	if len(w.buf) == 0 {
		return
	}
	if w.lost == 0 || w.tell() {
		w.write(w.buf, w.bufend)
	} else {
		w.drop(w.bufend, w.lostErr)
	}
	w.buf, w.bufend = w.buf[:0], 0
}

// tell tries to write a record of the lines that were lost. Only with that is there room again.
func (w *Writer) tell() bool {
	text := fmt.Sprintf("nslab: %d lines of this log were lost: %v", w.lost, w.lostErr)
	b := appendText([]byte(opening), []byte(text))
	b = append(b, '\\', 'n')
	lost := w.lost
	w.lost = 0
	if !w.write(appendTail(b, "stderr", w.now()), 0) {
		w.lost = lost
		return false
	}
	return true
}

// write appends whole records. What does not fit is dropped, and the file ends with a whole record again.
func (w *Writer) write(b []byte, lines int) bool {
	for len(b) > 0 {
		n, err := unix.Write(w.fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == len(b) {
			w.size += int64(n)
			return true
		}
		if n > 0 {
			// Whole records stay; the rest of the batch will say why it did not fit.
			whole := bytes.LastIndexByte(b[:n], '\n') + 1
			lines -= bytes.Count(b[:whole], []byte{'\n'})
			w.size += int64(whole)
			b = b[whole:]
			if terr := unix.Ftruncate(w.fd, w.size); terr != nil {
				err = terr
			}
			if whole > 0 && err == nil {
				continue
			}
		}
		if err == nil {
			err = unix.ENOSPC // a short write to a plain file
		}
		w.drop(lines, err)
		return false
	}
	return true
}

func (w *Writer) drop(lines int, err error) {
	w.lost += lines
	w.lostAll += lines
	if w.lostErr == nil {
		w.lostErr = err
	}
}

// Lost returns how many lines could not be written since the log was opened, and why the first of them.
func (w *Writer) Lost() (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lostAll, w.lostErr
}

// Idle hands back the memory that writing took. It is for when nothing has been written for a while.
func (w *Writer) Idle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mem.Release()
	for _, s := range w.streams {
		if len(s.text) == 0 {
			s.mem.Release()
		}
	}
}

// Close logs what remains of lines without an end, and closes the file. What is written later is dropped.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 {
		return nil
	}
	for _, s := range w.streams {
		s.finish()
	}
	err := unix.Close(w.fd)
	w.fd = -1
	if err != nil {
		return &os.PathError{Op: "close log", Path: w.path, Err: err}
	}
	return nil
}
