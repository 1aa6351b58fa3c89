package stream

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	c := newContainer(t, Config{StdinOnce: true})
	in, typed := pipe(t)
	out, errOut := newBuffer(), newBuffer()
	got := attach(t.Context(), c.first(t, everything), Options{Stdin: in, Stdout: out, Stderr: errOut})
	put(t, c.stdout, "before anybody reads\n")
	c.hub.Start()
	put(t, typed, "hello\n")
	if line := readLine(t, c.stdin); line != "hello" {
		t.Errorf("the container read %q", line)
	}
	put(t, c.stderr, "complaint\n")
	errOut.wait("complaint\n")
	put(t, typed, "no end of line")
	typed.Close()
	if rest, err := io.ReadAll(c.stdin); string(rest) != "no end of line" || err != nil {
		t.Errorf("the container read %q, %v, to its end", rest, err)
	}
	put(t, c.stdout, "after the end of stdin\n")
	c.exit(42)
	if r := <-got; r.err != nil || r.Outcome != (Outcome{ExitStatus: 42}) {
		t.Errorf("Attach: %+v", r)
	}
	if want := "before anybody reads\nafter the end of stdin\n"; out.String() != want || errOut.String() != "complaint\n" {
		t.Errorf("printed %q, %q", out, errOut)
	}
	if o, e := c.logged(t); o != out.String() || e != errOut.String() {
		t.Errorf("logged %q, %q", o, e)
	}
}

// TestOrder sends a lot in pieces of all sizes: nothing is lost, nothing changes places.
func TestOrder(t *testing.T) {
	c := newContainer(t, Config{Log: nil})
	c.hub.cfg.Log = nil
	out, errOut := newBuffer(), newBuffer()
	got := attach(t.Context(), c.first(t, everything), Options{Stdout: out, Stderr: errOut})
	c.hub.Start()
	rnd := rand.New(rand.NewPCG(1, 2))
	var want, wantErr strings.Builder
	for i := range 3000 {
		s := strings.Repeat(fmt.Sprintf("%d ", i), rnd.IntN(3000)) + "\n"
		if i%3 == 0 {
			put(t, c.stderr, s)
			wantErr.WriteString(s)
		} else {
			put(t, c.stdout, s)
			want.WriteString(s)
		}
	}
	c.exit(1)
	if r := <-got; r.err != nil || r.ExitStatus != 1 {
		t.Errorf("Attach: %+v", r)
	}
	if out.String() != want.String() || errOut.String() != wantErr.String() {
		t.Errorf("got %d and %d bytes, want the same as %d and %d", len(out.String()), len(errOut.String()), want.Len(), wantErr.Len())
	}
}

// TestStreams: a client gets what it asked for.
func TestStreams(t *testing.T) {
	c := newContainer(t, Config{})
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	c.hub.Start()
	out, errOut := newBuffer(), newBuffer()
	o := attach(t.Context(), c.dial(t), Options{Stdout: out})
	e := attach(t.Context(), c.dial(t), Options{Stderr: errOut})
	c.attached(2)
	put(t, c.stdout, "out")
	put(t, c.stderr, "err")
	c.exit(0)
	if r := <-o; r.err != nil || out.String() != "out" {
		t.Errorf("stdout only: %+v, %q", r, out)
	}
	if r := <-e; r.err != nil || errOut.String() != "err" {
		t.Errorf("stderr only: %+v, %q", r, errOut)
	}
}

// attached waits until so many clients take part.
func (c *container) attached(n int) {
	for len(c.hub.clients()) != n {
		time.Sleep(time.Millisecond)
	}
}

// TestStdinStaysOpen: that of `run -d -i`, over any number of clients.
func TestStdinStaysOpen(t *testing.T) {
	c := newContainer(t, Config{})
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	c.hub.Start()
	for i := range 3 {
		in, typed := pipe(t)
		out := newBuffer()
		got := attach(t.Context(), c.dial(t), Options{Stdin: in, Stdout: out})
		put(t, typed, fmt.Sprintln("client", i))
		typed.Close()
		if line := readLine(t, c.stdin); line != fmt.Sprint("client ", i) {
			t.Errorf("the container read %q", line)
		}
		c.attached(i + 1)
		put(t, c.stdout, "echo\n")
		out.wait("echo\n") // output goes on after the end of stdin
		select {
		case r := <-got:
			t.Fatalf("Attach ended with stdin: %+v", r)
		default:
		}
	}
}

// TestStdinOnce: the one who looks in with an empty stdin does not end it, nor does the first one's leaving with a detach.
func TestStdinOnce(t *testing.T) {
	c := newContainer(t, Config{StdinOnce: true})
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	in, typed := pipe(t)
	attach(t.Context(), c.first(t, everything), Options{Stdin: in})
	c.hub.Start()
	out := newBuffer()
	attach(t.Context(), c.dial(t), Options{Stdin: strings.NewReader("second\n"), Stdout: out})
	if line := readLine(t, c.stdin); line != "second" {
		t.Errorf("the container read %q", line)
	}
	put(t, typed, "first\n")
	if line := readLine(t, c.stdin); line != "first" {
		t.Errorf("the container read %q", line)
	}
	typed.Close()
	if rest, err := io.ReadAll(c.stdin); len(rest) != 0 || err != nil {
		t.Errorf("after the first one's end the container read %q, %v", rest, err)
	}
}

// TestStdinOwnerDies: what it typed is read, and then stdin ends.
func TestStdinOwnerDies(t *testing.T) {
	c := newContainer(t, Config{StdinOnce: true})
	conn := c.first(t, everything)
	c.hub.Start()
	b := frame(frameStdin, []byte("last words")...)
	put(t, conn, string(b))
	conn.Close()
	if rest, err := io.ReadAll(c.stdin); string(rest) != "last words" || err != nil {
		t.Errorf("the container read %q, %v", rest, err)
	}
	put(t, c.stdout, "on and on\n")
	c.exit(0)
	if out, _ := c.logged(t); out != "on and on\n" {
		t.Errorf("logged %q", out)
	}
}

// TestContainerClosesStdin: clients do not notice, and what they type goes nowhere.
func TestContainerClosesStdin(t *testing.T) {
	c := newContainer(t, Config{StdinOnce: true})
	out := newBuffer()
	got := attach(t.Context(), c.first(t, everything), Options{Stdin: strings.NewReader(strings.Repeat("x", 1<<20)), Stdout: out})
	c.hub.Start()
	c.stdin.Close()
	put(t, c.stdout, "fine\n")
	out.wait("fine\n")
	c.exit(0)
	if r := <-got; r.err != nil {
		t.Errorf("Attach: %+v", r)
	}
}

// TestSlowFirst: the client of run is waited for, and so is the container.
func TestSlowFirst(t *testing.T) {
	c := newContainer(t, Config{Stall: time.Millisecond})
	c.hub.outputs[0].log = nil
	conn := c.first(t, everything)
	c.hub.Start()
	const size = 3 << 20
	wrote := make(chan struct{})
	go func() {
		io.WriteString(c.stdout, strings.Repeat("x", size))
		close(wrote)
	}()
	select {
	case <-wrote:
		t.Fatal("the container did not wait for its client")
	case <-time.After(100 * time.Millisecond):
	}
	out := newBuffer()
	got := attach(t.Context(), conn, Options{Stdout: out})
	<-wrote
	c.exit(3)
	if r := <-got; r.err != nil || r.ExitStatus != 3 || len(out.String()) != size {
		t.Errorf("Attach: %+v, %d bytes; want %d", r, len(out.String()), size)
	}
}

// TestStuckExtra: one that does not read is dropped; the others and the container go on.
func TestStuckExtra(t *testing.T) {
	c := newContainer(t, Config{Stall: 50 * time.Millisecond})
	c.hub.outputs[0].log = nil
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	out := newBuffer()
	first := attach(t.Context(), c.first(t, everything), Options{Stdout: out})
	stuck := c.dial(t)
	put(t, stuck, string(frame(frameHello, version, wantStdout)))
	c.attached(2)
	c.hub.Start()
	const size = 5 << 20
	put(t, c.stdout, strings.Repeat("x", size))
	c.attached(1)
	c.exit(0)
	if r := <-first; r.err != nil || len(out.String()) != size {
		t.Errorf("Attach: %+v, %d bytes; want %d", r, len(out.String()), size)
	}
	if r := <-attach(t.Context(), stuck, Options{}); !errors.Is(r.err, ErrGone) {
		t.Errorf("the one that was dropped: %+v", r)
	}
}

// TestDrainDoesNotWait: the log is complete when a client holds up everything, and the client gets all of it later.
func TestDrainDoesNotWait(t *testing.T) {
	c := newContainer(t, Config{})
	conn := c.first(t, everything)
	c.hub.Start()
	text := strings.Repeat("a line of text\n", 100000)
	go io.WriteString(c.stdout, text)
	for n := 0; n < 65536; { // until the socket is full, and so is the pipe
		time.Sleep(time.Millisecond)
		err := control(c.hub.outputs[0].src.f, func(fd int) (err error) {
			n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c.stdout.Close()
	c.stderr.Close()
	c.stdin.Close()
	c.hub.Drain()
	logged, _ := c.logged(t)
	if !strings.HasPrefix(text, logged) || len(logged) < 65536 {
		t.Fatalf("logged %d bytes", len(logged))
	}
	closed := make(chan struct{})
	go func() {
		c.hub.Close(7)
		close(closed)
	}()
	out := newBuffer()
	if r := <-attach(t.Context(), conn, Options{Stdout: out}); r.err != nil || r.ExitStatus != 7 {
		t.Errorf("Attach: %+v", r)
	}
	if out.String() != logged {
		t.Errorf("the client got %d bytes, the log %d", len(out.String()), len(logged))
	}
	<-closed
}

// TestOutlived: somebody who outlives the container has its stdout open, and prints on. What the container printed counts.
func TestOutlived(t *testing.T) {
	c := newContainer(t, Config{Grace: 50 * time.Millisecond})
	out := newBuffer()
	got := attach(t.Context(), c.first(t, everything), Options{Stdout: out})
	c.hub.Start()
	put(t, c.stdout, "the container's\n")
	c.stderr.Close()
	c.stdin.Close()
	c.hub.Close(0) // with stdout open
	if r := <-got; r.err != nil || out.String() != "the container's\n" {
		t.Errorf("Attach: %+v, %q", r, out)
	}
}

func TestFail(t *testing.T) {
	c := newContainer(t, Config{})
	got := attach(t.Context(), c.first(t, everything), Options{})
	c.hub.Fail("no such program") // never started
	var remote *RemoteError
	if r := <-got; !errors.As(r.err, &remote) || remote.Text != "no such program" {
		t.Errorf("Attach: %+v", r)
	}
}

func TestGone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "attach.sock")
	if _, err := Dial(path); !errors.Is(err, ErrGone) {
		t.Errorf("dial nothing: %v", err)
	}
	l, err := listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // killed
	if _, err := Dial(path); !errors.Is(err, ErrGone) {
		t.Errorf("dial a dead socket: %v", err)
	}
	if l, err = listen(path); err != nil {
		t.Errorf("listen in the place of a dead socket: %v", err)
	}
	defer l.Close()
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if r := <-attach(t.Context(), conn, Options{}); !errors.Is(r.err, ErrGone) {
		t.Errorf("attach to one who dies: %+v", r)
	}
}

// TestLongPath: the run root may be deep; an address of a socket holds 107 bytes.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100), strings.Repeat("e", 200))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := newContainer(t, Config{})
	c.path = filepath.Join(dir, "attach.sock")
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(c.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket: %v, %v; want 0600", info.Mode(), err)
	}
	got := attach(t.Context(), c.dial(t), Options{})
	c.attached(1)
	c.hub.Start()
	c.exit(5)
	if r := <-got; r.err != nil || r.ExitStatus != 5 {
		t.Errorf("Attach: %+v", r)
	}
	if _, err := os.Stat(c.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket after the end: %v", err)
	}
}
