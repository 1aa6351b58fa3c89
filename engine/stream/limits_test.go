package stream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
