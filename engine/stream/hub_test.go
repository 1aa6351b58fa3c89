package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/engine/logs"
)

// container is a hub, and the far ends of its pipes, which are a container's.
type container struct {
	hub                   *Hub
	stdin, stdout, stderr *os.File
	path, log             string
	logs                  *logs.Writer
}

func newContainer(t testing.TB, cfg Config) *container {
	t.Helper()
	dir := t.TempDir()
	c := &container{path: filepath.Join(dir, "attach.sock"), log: filepath.Join(dir, "log.json")}
	c.stdin, cfg.Stdin = pipe(t)
	cfg.Stdout, c.stdout = pipe(t)
	cfg.Stderr, c.stderr = pipe(t)
	var err error
	if c.logs, err = logs.Create(c.log, logs.Options{}); err != nil {
		t.Fatal(err)
	}
	cfg.Log = c.logs
	if c.hub, err = NewHub(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.exit(0)
		c.logs.Close()
	})
	return c
}

// exit is the end of the container.
func (c *container) exit(status int) {
	c.stdin.Close()
	c.stdout.Close()
	c.stderr.Close()
	c.hub.Close(status)
}

func (c *container) logged(t testing.TB) (stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	if err := logs.Read(t.Context(), c.log, logs.ReadOptions{Stdout: true, Stderr: true, Tail: -1}, &out, &errOut); err != nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String()
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

// first connects a client that is there from the start.
func (c *container) first(t testing.TB, who Client) *os.File {
	t.Helper()
	hub, client, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := c.hub.Add(hub, who); err != nil {
		t.Fatal(err)
	}
	return client
}

func (c *container) dial(t testing.TB) *os.File {
	t.Helper()
	conn, err := Dial(c.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// result is what came of an attachment.
type result struct {
	Outcome
	err error
}

// attach runs Attach aside.
func attach(ctx context.Context, conn *os.File, o Options) <-chan result {
	c := make(chan result, 1)
	go func() {
		out, err := Attach(ctx, conn, o)
		c <- result{out, err}
	}()
	return c
}

// buffer is a bytes.Buffer that can be waited for.
type buffer struct {
	mu   sync.Mutex
	cond *sync.Cond
	buf  bytes.Buffer
}

func newBuffer() *buffer {
	b := &buffer{}
	b.cond = sync.NewCond(&b.mu)
	return b
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p)
	b.cond.Broadcast()
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// wait waits until the buffer has this in it. A test that waits in vain ends with the timeout of go test, and its goroutines.
func (b *buffer) wait(want string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !strings.Contains(b.buf.String(), want) {
		b.cond.Wait()
	}
}

func put(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func readLine(t testing.TB, f *os.File) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := f.Read(b); err != nil {
			t.Fatalf("read a line after %q: %v", line, err)
		}
		if b[0] == '\n' {
			return string(line)
		}
		line = append(line, b[0])
	}
}

var everything = Client{Stdin: true, Stdout: true, Stderr: true}

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

// TestHundred: many clients at once, and each gets everything.
func TestHundred(t *testing.T) {
	c := newContainer(t, Config{})
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	var outs []*buffer
	var got []<-chan result
	for range 100 {
		b := newBuffer()
		outs = append(outs, b)
		got = append(got, attach(t.Context(), c.dial(t), Options{Stdout: b}))
	}
	c.attached(100)
	c.hub.Start()
	text := strings.Repeat("0123456789abcde\n", 10000)
	put(t, c.stdout, text)
	c.exit(9)
	for i := range 100 {
		if r := <-got[i]; r.err != nil || r.ExitStatus != 9 || outs[i].String() != text {
			t.Errorf("client %d: %+v, %d bytes, want %d", i, r, len(outs[i].String()), len(text))
		}
	}
}

// TestNonsense: whoever speaks something else is dropped.
func TestNonsense(t *testing.T) {
	c := newContainer(t, Config{})
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	c.hub.Start()
	for _, s := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		string(frame(frameHello)),
		string(frame(frameHello, 9, 9)),
		string(frame(frameResize, 1)),
		string(frame(frameStdout, 'x')),
		"\x00\x00\x00\x00\xff\xff\xff\xff",
		"\x63\x00\x00\x00\x00\x00\x00\x00",
	} {
		conn := c.dial(t)
		put(t, conn, s)
		if b, err := io.ReadAll(conn); len(b) != 0 || err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("answer to %q: %q, %v", s, b, err)
		}
	}
	c.attached(0)
}

// TestDecode cuts frames in all ways.
func TestDecode(t *testing.T) {
	var b []byte
	b = append(b, frame(frameStdout, []byte("hello")...)...)
	b = append(b, frame(frameCloseStdin)...)
	b = append(b, Size{Rows: 300, Cols: 2}.frame()...)
	b = append(b, frame(frameStderr)...)
	b = append(b, frame(frameStderr, []byte("x")...)...)
	for step := 1; step <= len(b); step++ {
		var d decoder
		var out strings.Builder
		for i := 0; i < len(b); i += step {
			err := d.decode(b[i:min(i+step, len(b))], func(kind byte, p []byte) error {
				switch kind {
				case frameStdout, frameStderr:
					out.Write(p)
				case frameResize:
					s, err := parseSize(p)
					fmt.Fprint(&out, s, err)
				default:
					fmt.Fprint(&out, "[", kind, "]")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if want := "hello[5]{300 2} <nil>x"; out.String() != want {
			t.Errorf("in steps of %d: %q, want %q", step, out.String(), want)
		}
	}
}

// TestRoundTrip sends a lot in, through a program, and out again, all at the same time.
func TestRoundTrip(t *testing.T) {
	c := newContainer(t, Config{StdinOnce: true})
	c.hub.outputs[0].log = nil
	cat := exec.Command("cat")
	cat.Stdin, cat.Stdout = c.stdin, c.stdout
	c.hub.Start()
	done := begin(t, cat)
	go func() {
		<-done
		c.exit(0)
	}()
	const size = 64 << 20
	in, out := fnv.New64a(), fnv.New64a()
	src := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), in)
	r := <-attach(t.Context(), c.first(t, everything), Options{Stdin: src, Stdout: out})
	if r.err != nil || in.Sum64() != out.Sum64() {
		t.Errorf("Attach: %+v; what came out is not what went in", r)
	}
}

// TestNoLeak: clients that come and go, in every way, leave no descriptor, no goroutine, no memory of theirs.
func TestNoLeak(t *testing.T) {
	c := newContainer(t, Config{})
	if err := c.hub.Listen(c.path); err != nil {
		t.Fatal(err)
	}
	c.hub.Start()
	count := func() (fds, goroutines int) {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list), runtime.NumGoroutine()
	}
	fds, goroutines := count()
	for i := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		in, typed := pipe(t)
		switch i % 4 {
		case 0:
			conn := c.dial(t)
			put(t, conn, "nonsense and more")
			conn.Close()
		case 1:
			c.dial(t).Close()
		case 2:
			got := attach(ctx, c.dial(t), Options{Stdin: in, Stdout: io.Discard})
			put(t, typed, "x\n")
			readLine(t, c.stdin)
			cancel()
			if r := <-got; !errors.Is(r.err, context.Canceled) {
				t.Errorf("Attach: %+v", r)
			}
		case 3:
			conn := c.dial(t)
			put(t, conn, string(frame(frameHello, version, wantStdin|wantStdout))+string(frame(frameDetach)))
			if b, err := io.ReadAll(conn); err != nil || len(b) != headerSize+2 {
				t.Errorf("read %q, %v", b, err)
			}
			conn.Close()
		}
		cancel()
		in.Close()
		typed.Close()
	}
	for {
		f, g := count()
		if f <= fds && g <= goroutines && len(c.hub.clients()) == 0 {
			break
		}
		time.Sleep(time.Millisecond) // what was told to end ends soon; if not, the test ends by its timeout
	}
	c.hub.mu.Lock()
	spare := len(c.hub.spare)
	c.hub.mu.Unlock()
	if spare > 20 {
		t.Errorf("%d buffers are kept for clients; they should be used again", spare)
	}
}

// TestQuiet: a second after the last output, memory is handed back; what comes then is as good as before.
func TestQuiet(t *testing.T) {
	quiet := make(chan struct{}, 10)
	c := newContainer(t, Config{Quiet: func() { quiet <- struct{}{} }})
	out := newBuffer()
	got := attach(t.Context(), c.first(t, everything), Options{Stdout: out})
	c.hub.Start()
	put(t, c.stdout, strings.Repeat("x", 5000)+"\n")
	out.wait("x\n")
	for range 2 { // after Start, and after output
		<-quiet
	}
	put(t, c.stdout, "y\n")
	c.exit(0)
	want := strings.Repeat("x", 5000) + "\ny\n"
	if r := <-got; r.err != nil || out.String() != want {
		t.Errorf("Attach: %+v, %d bytes, want %d", r, len(out.String()), len(want))
	}
	if logged, _ := c.logged(t); logged != want {
		t.Errorf("logged %d bytes, want %d", len(logged), len(want))
	}
}

// TestNoGarbage: output on its way to a log and a client leaves nothing for the collector, which should never run.
func TestNoGarbage(t *testing.T) {
	c := newContainer(t, Config{})
	conn := c.first(t, everything)
	c.hub.Start()
	text, got := []byte("a line\n"), make([]byte, headerSize+7)
	if _, err := io.ReadFull(conn, got[:headerSize+2]); err != nil { // ready
		t.Fatal(err)
	}
	n := testing.AllocsPerRun(200, func() {
		c.stdout.Write(text)
		io.ReadFull(conn, got)
	})
	if n > 0 {
		t.Errorf("a line allocates %v times", n)
	}
}
