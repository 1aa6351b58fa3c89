package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCleanPath(t *testing.T) {
	for _, c := range []struct{ from, path, want, base string }{
		{"/w", "a", "/w/a", "a"}, {"/w", "a/", "/w/a/", "a"}, {"/w", "a/.", "/w/a/.", "."}, {"/w", ".", "/w/.", "."}, {"/w", "./", "/w/.", "."},
		{"/w", "..", "/", "."}, {"/w/x", "..", "/w", "w"}, {"/w", "/", "/", "."}, {"/w", "/.", "/.", "."}, {"/w", "//a//b/", "/a/b/", "b"},
		{"/", "../../etc/motd", "/etc/motd", "motd"}, {"/", "a/./b", "/a/b", "b"},
	} {
		got := cleanPath(c.from, c.path)
		if got != c.want && !(c.path == "./" && got == "/w/") || baseName(got) != c.base && c.path != "./" {
			t.Errorf("cleanPath(%q, %q) = %q, called %q; want %q, %q", c.from, c.path, got, baseName(got), c.want, c.base)
		}
	}
}

// copyTree is what the rules of cp are tried with.
func copyTree(t *testing.T) *rootfs.Tree {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(in("dir/sub"), 0o755))
	must(t, os.WriteFile(in("dir/file"), []byte("x"), 0o644))
	must(t, os.Symlink("/dir", in("abs")))
	must(t, os.Symlink("file", in("dir/rel")))
	must(t, os.Symlink("/new", in("dangling")))
	must(t, os.Symlink("/nosuch/new", in("lost")))
	must(t, os.Symlink("loop", in("loop")))
	must(t, os.Symlink("../../../../dir", in("up")))
	tree, err := rootfs.OpenTree(t.Context(), dir)
	must(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree
}

// TestDestination has the rules of Docker's cp for where a copy goes, and how it is called there.
func TestDestination(t *testing.T) {
	tree := copyTree(t)
	for _, c := range []struct {
		source, dest string
		dir, as      string // where to, in the tree
		err          error
	}{
		{source: "/dir/file", dest: "/dir", dir: "dir", as: "file"},
		{source: "/dir/file", dest: "/dir/", dir: "dir", as: "file"},
		{source: "/dir/file", dest: "/dir/new", dir: "dir", as: "new"},
		{source: "/dir/file", dest: "/dir/file", dir: "dir", as: "file"},
		{source: "/dir/file", dest: "/dir/new/", err: ErrNoSuchDir},
		{source: "/dir/file", dest: "/dir/file/", err: ErrNoSuchDir},
		{source: "/dir/file", dest: "/nosuch/new", err: unix.ENOENT},
		{source: "/dir/file", dest: "/nosuch/new/", err: ErrNoSuchDir},
		{source: "/dir/file", dest: "/dir/file/new", err: ErrNotDir},
		{source: "/dir/file", dest: "/abs", dir: "dir", as: "file"},
		{source: "/dir/file", dest: "/abs/", dir: "dir", as: "file"},
		{source: "/dir/file", dest: "/up", dir: "dir", as: "file"},
		{source: "/dir/file", dest: "/dir/rel", dir: "dir", as: "file"},
		{source: "/dir/file", dest: "/dangling", dir: "", as: "new"},
		{source: "/dir/file", dest: "/lost", err: unix.ENOENT},
		{source: "/dir/file", dest: "/loop", err: unix.ELOOP},
		{source: "/dir/file", dest: "/", dir: "", as: "file"},
		{source: "/dir/sub", dest: "/dir", dir: "dir", as: "sub"},
		{source: "/dir/sub/", dest: "/dir", dir: "dir", as: "sub"},
		{source: "/dir/sub/.", dest: "/dir", dir: "dir", as: "."},
		{source: "/dir/sub", dest: "/new", dir: "", as: "new"},
		{source: "/dir/sub", dest: "/new/", dir: "", as: "new"},
		{source: "/dir/sub/.", dest: "/new", dir: "", as: "new"},
		{source: "/dir/sub", dest: "/dir/file", err: ErrCopyDir},
		{source: "/dir/sub", dest: "/dir/file/", err: ErrCopyDir},
		{source: "/", dest: "/new", dir: "", as: "new"},
		{source: "/abs", dest: "/dir/sub", dir: "dir/sub", as: "abs"},
		{source: "/abs/", dest: "/dir/sub", dir: "dir/sub", as: "abs"},
	} {
		from, err := openSource(t.Context(), tree, c.source, false)
		must(t, err)
		to, as, err := openDest(t.Context(), tree, c.dest, from)
		from.close()
		if c.err != nil {
			if !errors.Is(err, c.err) {
				t.Errorf("%s to %s: %v, %v; want %v", c.source, c.dest, as, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s to %s: %v", c.source, c.dest, err)
			continue
		}
		want, err := os.Stat(filepath.Join(tree.Path(), c.dir))
		must(t, err)
		got, err := os.Stat(filepath.Join("/proc/self/fd", itoa(to.Fd())))
		must(t, err)
		if !os.SameFile(got, want) || as != c.as {
			t.Errorf("%s to %s: called %s; want %s in /%s", c.source, c.dest, as, c.as, c.dir)
		}
		to.Close()
	}
}

func itoa(n uintptr) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestSource(t *testing.T) {
	tree := copyTree(t)
	for _, c := range []struct {
		path   string
		follow bool
		kind   uint32
		err    error
	}{
		{path: "/dir/rel", kind: unix.S_IFLNK}, {path: "/dir/rel", follow: true, kind: unix.S_IFREG}, {path: "/abs", kind: unix.S_IFLNK},
		{path: "/abs", follow: true, kind: unix.S_IFDIR}, {path: "/abs/", kind: unix.S_IFDIR}, {path: "/abs/.", kind: unix.S_IFDIR},
		{path: "/abs/rel", kind: unix.S_IFLNK}, {path: "/", kind: unix.S_IFDIR}, {path: "/up/file", kind: unix.S_IFREG},
		{path: "/dangling", kind: unix.S_IFLNK}, {path: "/dangling", follow: true, err: unix.ENOENT}, {path: "/nosuch", err: unix.ENOENT},
		{path: "/dir/file/", err: unix.ENOTDIR}, {path: "/dir/file/x", err: unix.ENOTDIR}, {path: "/loop/", err: unix.ELOOP},
	} {
		p, err := openSource(t.Context(), tree, c.path, c.follow)
		if !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%s: %v; want %v", c.path, err, c.err)
			continue
		}
		if p == nil {
			continue
		}
		if kind := p.stat.Mode & unix.S_IFMT; kind != c.kind {
			t.Errorf("%s is of kind %o; want %o", c.path, kind, c.kind)
		}
		p.close()
	}
}

func TestTarStreamErrors(t *testing.T) {
	ours, theirs := errors.New("ours"), errors.New("theirs")
	_, err := tarStream(func(w io.Writer) error { return ours }, func(r io.Reader) error {
		_, err := io.ReadAll(r)
		return err
	})
	if !errors.Is(err, ours) {
		t.Errorf("the packer's error: %v", err)
	}
	_, err = tarStream(func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	}, func(io.Reader) error { return theirs })
	if !errors.Is(err, theirs) {
		t.Errorf("the unpacker's error: %v", err)
	}
	n, err := tarStream(func(w io.Writer) error { _, err := w.Write(make([]byte, 12345)); return err },
		func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
	if n != 12345 || err != nil {
		t.Errorf("%d bytes, %v; want 12345", n, err)
	}
}

// runTest starts a container that does nothing until the test ends.
func runTest(t *testing.T, e *Engine, h HostConfig) *Container {
	t.Helper()
	ctx := t.Context()
	c, err := e.Create(ctx, CreateOptions{Name: "cc", Config: Config{Image: "box", Cmd: []string{"sleep", "1000"}}, HostConfig: h})
	must(t, err)
	t.Cleanup(func() {
		if err := e.Remove(context.Background(), c.ID, RemoveOptions{Force: true, Volumes: true}); err != nil {
			t.Error(err)
		}
	})
	_, err = c.Start(ctx, StartOptions{})
	must(t, errors.Join(err, c.Close()))
	c, err = e.Get(ctx, "cc")
	must(t, err)
	return c
}

func TestCopyBothWays(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx, dir := testEngine(t), t.Context(), t.TempDir()
	volume := filepath.Join(dir, "volume")
	must(t, os.Mkdir(volume, 0o755))
	must(t, os.WriteFile(dir+"/file", []byte("hello"), 0o640))
	must(t, os.Chown(dir+"/file", 1000, 1001))
	c := runTest(t, e, HostConfig{
		Mounts: []volumes.Mount{{Type: volumes.TypeBind, Source: volume, Target: "/vol"}, {Type: volumes.TypeBind, Source: dir, Target: "/ro", ReadOnly: true}},
		Tmpfs:  map[string]string{"/tt": ""},
	})
	for _, dest := range []string{"/new", "/vol/new", "/tt/new"} {
		if _, err := e.CopyTo(ctx, dir+"/file", "cc", dest, CopyOptions{}); err != nil {
			t.Errorf("to %s: %v", dest, err)
		}
		if _, err := e.CopyFrom(ctx, "cc", dest, dir+"/back", CopyOptions{}); err != nil {
			t.Errorf("from %s: %v", dest, err)
		}
		if data, err := os.ReadFile(dir + "/back"); string(data) != "hello" {
			t.Errorf("back from %s: %q, %v", dest, data, err)
		}
		must(t, os.Remove(dir+"/back"))
	}
	// Into a container, users are the numbers that they are; out of it, it is one's own file, unless one asks for an archive.
	for file, want := range map[string][2]uint32{c.path(upperLayer) + "/new": {1000, 1001}, volume + "/new": {1000, 1001}} {
		var st unix.Stat_t
		if err := unix.Stat(file, &st); err != nil || st.Uid != want[0] || st.Gid != want[1] || st.Mode&0o7777 != 0o640 {
			t.Errorf("%s: %v, %d:%d %o; want %v 640", file, err, st.Uid, st.Gid, st.Mode, want)
		}
	}
	for archive, want := range map[bool]uint32{false: 0, true: 1000} {
		_, err := e.CopyFrom(ctx, "cc", "/new", dir+"/back", CopyOptions{Archive: archive})
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Stat(dir+"/back", &st))
		if st.Uid != want {
			t.Errorf("archive %t: owner %d; want %d", archive, st.Uid, want)
		}
	}
	for dest, want := range map[string]error{"/ro/x": ErrVolumeReadOnly, "/proc/x": ErrKernelFile, "/sys/kernel/x": ErrKernelFile} {
		if _, err := e.CopyTo(ctx, dir+"/file", "cc", dest, CopyOptions{}); !errors.Is(err, want) {
			t.Errorf("to %s: %v; want %v", dest, err, want)
		}
	}
	for source, want := range map[string]error{"/proc/version": ErrKernelFile, "/nosuch": &MissingFileError{"/nosuch", "cc"}} {
		if _, err := e.CopyFrom(ctx, "cc", source, dir+"/x", CopyOptions{}); err == nil || !errors.Is(err, want) && err.Error() != want.Error() {
			t.Errorf("from %s: %v; want %v", source, err, want)
		}
	}
	// One that does not run has its volumes, too.
	must(t, e.Stop(ctx, "cc", new(int), "KILL"))
	var out bytes.Buffer
	must(t, e.CopyTarFrom(ctx, "cc", "/vol", &out, CopyOptions{}))
	in := tar.NewReader(&out)
	var names []string
	for h, err := in.Next(); err == nil; h, err = in.Next() {
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "vol/ vol/new" {
		t.Errorf("the volume of a stopped container: %q; want vol/ vol/new", got)
	}
	if _, err := e.CopyTo(ctx, dir+"/file", "cc", "/ro/x", CopyOptions{}); !errors.Is(err, ErrVolumeReadOnly) {
		t.Errorf("to a read-only volume of a stopped container: %v", err)
	}
}

// A volume is the container's to change, also while it is copied from and to: a folder that becomes a link leads neither the one
// who reads nor the one who writes to the host's files (CVE-2018-15664).
func TestCopyExchanged(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx, dir := testEngine(t), t.Context(), t.TempDir()
	volume, out, source := dir+"/volume", dir+"/out", dir+"/source"
	must(t, errors.Join(os.MkdirAll(volume+"/folder/sub", 0o755), os.Mkdir(out, 0o755), os.MkdirAll(source+"/sub", 0o755)))
	must(t, errors.Join(os.WriteFile(out+"/file", []byte("secret"), 0o600), os.WriteFile(volume+"/folder/file", []byte("open"), 0o600)))
	must(t, errors.Join(os.WriteFile(source+"/mine", nil, 0o600), os.WriteFile(source+"/sub/mine", nil, 0o600), os.Symlink(out, volume+"/link")))
	c := runTest(t, e, HostConfig{Mounts: []volumes.Mount{{Type: volumes.TypeBind, Source: volume, Target: "/vol"}}})
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, volume+"/folder", unix.AT_FDCWD, volume+"/link", unix.RENAME_EXCHANGE)
			}
		}
	})
	defer func() { close(done); wg.Wait() }()
	copies := map[string]int{}
	for range 150 {
		// The container's own file of this name is out of reach, the host's even more.
		for _, path := range []string{"/vol/folder/file", "/vol/folder/.", "/vol"} {
			var b bytes.Buffer
			err := e.CopyTarFrom(ctx, "cc", path, &b, CopyOptions{FollowLink: true})
			if bytes.Contains(b.Bytes(), []byte("secret")) {
				t.Fatalf("the copy of %s has what is outside of the container", path)
			}
			if err == nil {
				copies[path]++
			}
		}
		for _, path := range []string{"/vol/folder", "/vol/folder/sub"} {
			if _, err := e.CopyTo(ctx, source+"/.", "cc", path, CopyOptions{}); err == nil {
				copies["to "+path]++
			}
		}
		// The same from the host's side, where the volume is a folder like others.
		if _, err := e.CopyTo(ctx, volume, "cc", "/copied", CopyOptions{}); err == nil {
			copies["of the volume"]++
		}
	}
	left, err := os.ReadDir(out)
	if err != nil || len(left) != 1 {
		t.Errorf("outside there is %v, %v; want only the file that was there", left, err)
	}
	must(t, filepath.WalkDir(c.path(upperLayer), func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if data, err := os.ReadFile(name); err != nil || string(data) == "secret" {
				t.Errorf("%s in the container: %q, %v", name, data, err)
			}
		}
		return err
	}))
	if len(copies) < 5 {
		t.Errorf("what was copied: %v; want each way some times", copies)
	}
}
