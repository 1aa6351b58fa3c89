package stream

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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
