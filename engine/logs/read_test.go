package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// waiter is a buffer that can be waited for.
type waiter struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func newWaiter() *waiter { return &waiter{more: make(chan struct{}, 1)} }

func (w *waiter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf.Write(p)
	select {
	case w.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (w *waiter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// wait waits until exactly this has been written.
func (w *waiter) wait(t *testing.T, want string) {
	t.Helper()
	for w.String() != want {
		if got := w.String(); !strings.HasPrefix(want, got) {
			t.Fatalf("read %d bytes ending in %q, want %d", len(got), got[max(0, len(got)-100):], len(want))
		}
		select {
		case <-w.more:
		case <-t.Context().Done():
			t.Fatal("the test ended")
		}
	}
}

func TestReadStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{})
	o, e := w.Stream("stdout"), w.Stream("stderr")
	put(t, o, "1\n")
	put(t, e, "2\n")
	put(t, o, "3\n")
	for _, tt := range []struct {
		opts        ReadOptions
		out, errOut string
	}{
		{ReadOptions{Stdout: true, Stderr: true, Tail: -1}, "1\n3\n", "2\n"},
		{ReadOptions{Stdout: true, Tail: -1}, "1\n3\n", ""},
		{ReadOptions{Stderr: true, Tail: -1}, "", "2\n"},
		{ReadOptions{Stderr: true, Tail: 1}, "", "2\n"},
		{ReadOptions{Stdout: true, Stderr: true, Tail: 2}, "3\n", "2\n"},
		{ReadOptions{Stdout: true, Stderr: true, Tail: 0}, "", ""},
		{ReadOptions{Stdout: true, Tail: -1, Timestamps: true}, "2026-01-31T12:00:00.120000000Z 1\n2026-01-31T12:00:00.120000000Z 3\n", ""},
		{ReadOptions{Stderr: true, Tail: -1, Timestamps: true, Details: true}, "", "2026-01-31T12:00:00.120000000Z  2\n"},
	} {
		var out, errOut bytes.Buffer
		if err := Read(t.Context(), path, tt.opts, &out, &errOut); err != nil {
			t.Error(err)
		}
		if out.String() != tt.out || errOut.String() != tt.errOut {
			t.Errorf("Read(%+v): %q, %q; want %q, %q", tt.opts, out.String(), errOut.String(), tt.out, tt.errOut)
		}
	}
}

func TestReadTimes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{MaxSize: 150, MaxFile: 10})
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	for i := range 9 {
		w.now = func() time.Time { return at(i) }
		put(t, w.Stream("stdout"), fmt.Sprintln(i))
	}
	for _, tt := range []struct {
		since, until time.Time
		tail         int
		want         string
	}{
		{at(6), time.Time{}, -1, "6\n7\n8\n"},
		{at(6).Add(1), time.Time{}, -1, "7\n8\n"},
		{time.Time{}, at(1), -1, "0\n1\n"},
		{at(2), at(4), -1, "2\n3\n4\n"},
		{at(2), at(4), 2, "3\n4\n"},
		{at(7), time.Time{}, 5, "7\n8\n"},
		{time.Time{}, at(3), 1, "3\n"},
		{at(20), time.Time{}, -1, ""},
		{at(20), time.Time{}, 3, ""},
		{time.Time{}, at(-1), 3, ""},
	} {
		o := all
		o.Since, o.Until, o.Tail = tt.since, tt.until, tt.tail
		if got := read(t, path, o); got != tt.want {
			t.Errorf("since %v until %v tail %d: %q, want %q", tt.since, tt.until, tt.tail, got, tt.want)
		}
	}
}

// TestReadForeign: a log that Docker wrote, with attributes, and one with garbage in it.
func TestReadForeign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	text := strings.Join([]string{
		`{"log":"docker\n","stream":"stdout","attrs":{"b":"2 3","a":"1"},"time":"2026-01-31T12:00:00.5Z"}`,
		``,
		`garbage`,
		`{"log":"cut`,
		"\x00\x00\x00\x00",
		`{"stream":"stdout","time":"2026-01-31T12:00:00.5Z"}`,
		`{"log":5}`,
		strings.Repeat("long", blockSize),
		`{ "time" : "2026-01-31T12:00:01Z", "log" : "other \ud83d\ude00\n", "stream" : "stdout" }`,
		`{"log":"quote \" slash \\","stream":"stdout","time":"2026-01-31T12:00:02Z"}`,
		`{"log":" \\\" \u00e9\/\t\b\f\n","stream":"stdout","time":"2026-01-31T12:00:02Z"}`,
		`{"log":"no time\n","stream":"stdout","time":"x"}`,
	}, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := []string{"docker\n", "other \U0001f600\n", `quote " slash \`, " \\\" \u00e9/\t\b\f\n", "no time\n"}
	if got, want := read(t, path, all), strings.Join(lines, ""); got != want {
		t.Errorf("read %q, want %q", got, want)
	}
	for n := range 7 {
		o := all
		o.Tail = n
		if got, want := read(t, path, o), strings.Join(lines[max(0, len(lines)-n):], ""); got != want {
			t.Errorf("tail %d: %q, want %q", n, got, want)
		}
	}
	o := all
	o.Details, o.Timestamps = true, true
	if got, want := read(t, path, o), "2026-01-31T12:00:00.500000000Z a=1,b=2+3 docker\n"; !strings.HasPrefix(got, want) {
		t.Errorf("details: %q, want %q first", got, want)
	}
}

// TestTail compares with lines counted from the end, over blocks and files of all sizes.
func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{MaxSize: 300 << 10, MaxFile: 100})
	s := w.Stream("stdout")
	var lines []string
	for i := range 3000 {
		line := fmt.Sprintf("%d %s\n", i, strings.Repeat("\x01", i*i%1500))
		lines = append(lines, line)
		put(t, s, line)
	}
	put(t, s, strings.Repeat("\x01", maxText), "\n") // the largest record: larger than a block
	lines = append(lines, strings.Repeat("\x01", maxText)+"\n")
	for _, n := range []int{0, 1, 2, 3, 10, 100, 777, 2999, 3000, 3001, 3002, 100000} {
		o := all
		o.Tail = n
		if got, want := read(t, path, o), strings.Join(lines[max(0, len(lines)-n):], ""); got != want {
			t.Errorf("tail %d: %d bytes, want %d", n, len(got), len(want))
		}
	}
}

// TestTailIsLocal: the end of a big log is found without reading the rest, here a hole that would be read for minutes.
func TestTailIsLocal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Skip("no file of a terabyte here:", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put(t, f, "\n"+strings.Repeat(`{"log":"x\n","stream":"stdout","time":"2026-01-31T12:00:00Z"}`+"\n", 100))
	o := all
	o.Tail = 3
	if got := read(t, path, o); got != "x\nx\nx\n" {
		t.Errorf("read %q", got)
	}
}

// TestFollow: nothing is lost or repeated over rotations, appends and a new writer, and it ends with the container.
func TestFollow(t *testing.T) {
	for _, files := range []int{1, 2, 1000} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log.json")
			done := make(chan struct{})
			out := newWaiter()
			errs := make(chan error, 1)
			o := all
			o.Follow, o.Done = true, done
			go func() { errs <- Read(t.Context(), path, o, out, out) }()
			opts := Options{MaxSize: 500, MaxFile: files}
			w := create(t, path, opts)
			want := ""
			for i := range 300 {
				line := fmt.Sprintln("line", i)
				want += line
				put(t, w.Stream("stdout"), line[:3], line[3:])
				if files < 1000 {
					out.wait(t, want) // otherwise it may be deleted before it is read
				}
				if i%100 == 50 {
					w.Close()
					w = create(t, path, opts)
				}
			}
			put(t, w.Stream("stdout"), "the end")
			w.Close()
			close(done)
			if err := <-errs; err != nil {
				t.Error(err)
			}
			if got := out.String(); got != want+"the end" {
				t.Errorf("followed %d bytes, want %d", len(got), len(want)+7)
			}
		})
	}
}

// TestFollowHalfRecord: half a record is waited for, and may be cut off.
func TestFollowHalfRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{})
	put(t, w.Stream("stdout"), "a\n")
	w.Close()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	put(t, f, `{"log":"half `)
	done := make(chan struct{})
	out := newWaiter()
	errs := make(chan error, 1)
	o := all
	o.Follow, o.Done = true, done
	go func() { errs <- Read(t.Context(), path, o, out, out) }()
	out.wait(t, "a\n")
	put(t, f, `line\n","stream":"stdout","time":"2026-01-31T12:00:00Z"}`, "\n")
	out.wait(t, "a\nhalf line\n")
	put(t, f, `{"log":"killed in the middle of a rather long line`)
	w = create(t, path, Options{})
	put(t, w.Stream("stdout"), "b\n")
	out.wait(t, "a\nhalf line\nb\n")
	if err := os.Truncate(path, 0); err != nil { // by hand
		t.Fatal(err)
	}
	put(t, w.Stream("stdout"), "c\n")
	out.wait(t, "a\nhalf line\nb\nc\n")
	close(done)
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

// TestFollowRemoved: the container, and its folder with it, is removed.
func TestFollowRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "log.json")
	w := create(t, path, Options{})
	put(t, w.Stream("stdout"), "a\n")
	out := newWaiter()
	errs := make(chan error, 1)
	o := all
	o.Follow = true
	go func() { errs <- Read(t.Context(), path, o, out, out) }()
	out.wait(t, "a\n")
	w.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

// TestFollowWithoutInotify: a user has only so many instances; the next one reads all the same.
func TestFollowWithoutInotify(t *testing.T) {
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if fds = append(fds, fd); len(fds) > 10000 {
			t.Skip("no limit on inotify instances")
		}
	}
	path := filepath.Join(t.TempDir(), "log.json")
	done := make(chan struct{})
	out := newWaiter()
	errs := make(chan error, 1)
	o := all
	o.Follow, o.Done = true, done
	go func() { errs <- Read(t.Context(), path, o, out, out) }()
	w := create(t, path, Options{})
	put(t, w.Stream("stdout"), "a\n")
	out.wait(t, "a\n")
	close(done)
	if err := <-errs; err != nil {
		t.Error(err)
	}
}

func TestFollowUntil(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{})
	put(t, w.Stream("stdout"), "a\n")
	o := all
	o.Follow, o.Until = true, time.Now().Add(50*time.Millisecond)
	if got := read(t, path, o); got != "a\n" {
		t.Errorf("read %q", got)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, unix.EPIPE }

func TestReadToBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{})
	put(t, w.Stream("stdout"), strings.Repeat("a\n", 100000))
	if err := Read(t.Context(), path, all, broken{}, io.Discard); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Read returned %v, want EPIPE", err)
	}
}
