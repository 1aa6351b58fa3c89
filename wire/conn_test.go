package wire

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return &Conn{File: os.NewFile(uintptr(fds[0]), "a")}, &Conn{File: os.NewFile(uintptr(fds[1]), "b")}
}

// TestFiles: more files than the kernel takes at once arrive in their order, and close-on-exec.
func TestFiles(t *testing.T) {
	a, b := pair(t)
	defer b.Close()
	var files []*os.File
	for i := range 600 {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(int64(i)); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	sent := make(chan error)
	go func() { sent <- errors.Join(a.Send("some text", files...), a.Send(7), a.Close()) }()
	var text string
	var number int
	if err := b.Receive(&text); err != nil || text != "some text" || len(b.Files) != len(files) {
		t.Fatalf("Receive() = %v, %q with %d files; want all %d", err, text, len(b.Files), len(files))
	}
	for i, f := range b.Files {
		if st, err := f.Stat(); err != nil || st.Size() != int64(i) {
			t.Fatalf("file %d has %v bytes, %v", i, st.Size(), err)
		}
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Fatalf("file %d would be inherited: %#x, %v", i, flags, err)
		}
	}
	if err := b.Receive(&number); err != nil || number != 7 {
		t.Errorf("Receive() = %d, %v; want 7", number, err)
	}
	if err := b.Receive(&number); err != io.EOF {
		t.Errorf("Receive() at the end = %v; want io.EOF", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := b.Send(1); !errors.Is(err, unix.EPIPE) {
		t.Errorf("Send() to nobody = %v; want EPIPE", err)
	}
}
