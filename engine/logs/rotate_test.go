package logs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
)

// names are the files in the folder of a log.
func names(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestRotate(t *testing.T) {
	for _, tt := range []struct {
		files int
		want  []string
		first int // the oldest line that is left
	}{
		{1, []string{"log.json"}, 9},
		{2, []string{"log.json", "log.json.1"}, 6},
		{3, []string{"log.json", "log.json.1", "log.json.2"}, 3},
		{5, []string{"log.json", "log.json.1", "log.json.2", "log.json.3"}, 0},
	} {
		path := filepath.Join(t.TempDir(), "log.json")
		// A record of "0\n" is 64 bytes: a file is rotated after three.
		w := create(t, path, Options{MaxSize: 180, MaxFile: tt.files})
		s := w.Stream("stdout")
		var want string
		for i := range 10 {
			put(t, s, fmt.Sprintln(i))
			if i >= tt.first {
				want += fmt.Sprintln(i)
			}
		}
		if got := names(t, path); !slices.Equal(got, tt.want) {
			t.Errorf("max-file %d: files %v, want %v", tt.files, got, tt.want)
		}
		if got := read(t, path, all); got != want {
			t.Errorf("max-file %d: read %q, want %q", tt.files, got, want)
		}
		for n := range 12 {
			o := all
			o.Tail = n
			lines := strings.SplitAfter(want, "\n")
			lines = lines[:len(lines)-1]
			if got, want := read(t, path, o), strings.Join(lines[max(0, len(lines)-n):], ""); got != want {
				t.Errorf("max-file %d, tail %d: read %q, want %q", tt.files, n, got, want)
			}
		}
	}
}

// TestRotateInBatch: many lines in one write are spread over files like many writes.
func TestRotateInBatch(t *testing.T) {
	one, many := filepath.Join(t.TempDir(), "log.json"), filepath.Join(t.TempDir(), "log.json")
	o := Options{MaxSize: 1000, MaxFile: 4}
	w1, w2 := create(t, one, o), create(t, many, o)
	var text bytes.Buffer
	for i := range 100 {
		line := fmt.Sprintln("line", i)
		put(t, w2.Stream("stdout"), line)
		text.WriteString(line)
	}
	put(t, w1.Stream("stdout"), text.String())
	for _, name := range []string{"log.json", "log.json.1", "log.json.2", "log.json.3"} {
		a, b := content(t, filepath.Join(filepath.Dir(one), name)), content(t, filepath.Join(filepath.Dir(many), name))
		if a != b {
			t.Errorf("%s in one write:\n%s\nin many:\n%s", name, a, b)
		}
	}
}

// TestKilledInRotation: the steps of a rotation, each as the last thing that a writer did.
func TestKilledInRotation(t *testing.T) {
	for step, kill := range []func(path string) error{
		func(path string) error { return os.WriteFile(aside(path), nil, 0o600) },
		func(path string) error { return os.Rename(path+".1", path+".2") },
		func(path string) error {
			return errors.Join(os.Rename(path+".1", path+".2"), os.Link(path, path+".1"))
		},
	} {
		path := filepath.Join(t.TempDir(), "log.json")
		o := Options{MaxSize: 180, MaxFile: 3}
		w := create(t, path, o)
		put(t, w.Stream("stdout"), "0\n1\n2\n3\n")
		w.Close()
		if err := kill(path); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path, all); got != "0\n1\n2\n3\n" {
			t.Errorf("killed at step %d: read %q", step, got)
		}
		w = create(t, path, o)
		put(t, w.Stream("stdout"), "4\n5\n6\n")
		if got := read(t, path, all); got != "0\n1\n2\n3\n4\n5\n6\n" {
			t.Errorf("killed at step %d, and on: read %q", step, got)
		}
		if got, want := names(t, path), []string{"log.json", "log.json.1", "log.json.2"}; !slices.Equal(got, want) {
			t.Errorf("killed at step %d, and on: files %v, want %v", step, got, want)
		}
	}
}

// TestRotationRefused: the log is written on where it cannot be rotated.
func TestRotationRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{MaxSize: 180, MaxFile: 2})
	if err := os.Mkdir(aside(path), 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, w.Stream("stdout"), "0\n1\n2\n3\n4\n")
	if got := read(t, path, all); got != "0\n1\n2\n3\n4\n" {
		t.Errorf("read %q", got)
	}
	if n, err := w.Lost(); n != 0 || err == nil {
		t.Errorf("lost %d, %v; want 0, and why", n, err)
	}
	if err := os.Remove(aside(path)); err != nil {
		t.Fatal(err)
	}
	put(t, w.Stream("stdout"), "5\n6\n7\n8\n")
	if got, want := names(t, path), []string{"log.json", "log.json.1"}; !slices.Equal(got, want) {
		t.Errorf("files %v, want %v", got, want)
	}
}

// TestFullDisk fills a real file system. The container goes on, the log says what is missing.
func TestFullDisk(t *testing.T) {
	coursetest.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "log.json")
	w := create(t, path, Options{})
	s := w.Stream("stdout")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 99) + "\n"
	const n = 1000
	for range n / 10 {
		put(t, s, strings.Repeat(line, 10))
	}
	lost, err := w.Lost()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("lost %d, %v; want ENOSPC", lost, err)
	}
	if got, want := read(t, path, all), strings.Repeat(line, n-lost); got != want {
		t.Errorf("on a full disk the log has %d bytes, want %d", len(got), len(want))
	}
	if !strings.HasSuffix(content(t, path), "\"}\n") {
		t.Error("the log does not end with a record")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	put(t, s, "back\n")
	put(t, s, "again\n")
	want := fmt.Sprintf("nslab: %d lines of this log were lost: no space left on device\nback\nagain\n", lost)
	if got := read(t, path, all); !strings.HasSuffix(got, line+want) {
		t.Errorf("with room again the log ends in %q, want %q", got[max(0, len(got)-200):], want)
	}
}

// TestConcurrent: two streams at once, rotating, and every line is whole.
func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.json")
	w := create(t, path, Options{MaxSize: 10000, MaxFile: 1000})
	var wg sync.WaitGroup
	for _, name := range []string{"stdout", "stderr"} {
		s := w.Stream(name)
		wg.Go(func() {
			for i := range 2000 {
				text := fmt.Sprintf("%s %d\n", name, i)
				half := i % len(text)
				s.Write([]byte(text[:half]))
				s.Write([]byte(text[half:]))
			}
		})
	}
	wg.Wait()
	var out, errOut, wantOut, wantErr bytes.Buffer
	if err := Read(t.Context(), path, all, &out, &errOut); err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		fmt.Fprintf(&wantOut, "stdout %d\n", i)
		fmt.Fprintf(&wantErr, "stderr %d\n", i)
	}
	if out.String() != wantOut.String() || errOut.String() != wantErr.String() {
		t.Errorf("read %d and %d bytes, want %d and %d", out.Len(), errOut.Len(), wantOut.Len(), wantErr.Len())
	}
}
