package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"

	"github.com/nslab/nslab/image"
)

// below makes an image with some files, and a container of it that has not been started.
func below(t *testing.T, e *Engine, driver unionfs.Driver) *Container {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "etc/", Mode: 0o755}, {Name: "etc/motd"}, {Name: "etc/hosts"}, {Name: "dir/", Mode: 0o755}, {Name: "dir/a"}, {Name: "dir/b"},
		{Name: "dir/sub/", Mode: 0o755}, {Name: "dir/sub/c"}, {Name: "kind"}, {Name: "same"}, {Name: "data/", Mode: 0o755}, {Name: "data/x"},
		{Name: "to", Typeflag: tar.TypeSymlink, Linkname: "/dir"},
	} {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, w.WriteHeader(&h))
	}
	must(t, w.Close())
	_, err := e.Images().Import(t.Context(), &b, image.ImportOptions{Names: []string{"files"}, Changes: []string{"CMD x"}})
	must(t, err)
	c, err := e.Create(t.Context(), CreateOptions{Name: "cc", Config: Config{Image: "files"}, HostConfig: HostConfig{Driver: string(driver)}})
	must(t, err)
	must(t, c.Close())
	return c
}

// unixEpoch is when the files of the image are from.
var unixEpoch = time.Unix(0, 0)

// change does to the container's layer what its processes would have done.
func change(t *testing.T, c *Container) {
	t.Helper()
	in := func(name string) string { return c.path(upperLayer + "/" + name) }
	mark := func(path string, opaque bool) {
		must(t, unionfs.Write(t.Context(), c.path(upperLayer), unionfs.Mark{Path: path, Opaque: opaque}, c.form()))
	}
	must(t, os.MkdirAll(in("etc"), 0o755))
	mark("etc/motd", false)
	must(t, os.WriteFile(in("etc/hosts"), []byte("127.0.0.1 x"), 0o644)) // the runtime's own: no change
	mark("etc/hostname", false)
	must(t, os.WriteFile(in("etc/new"), nil, 0o644))
	must(t, os.Mkdir(in("dir"), 0o755))
	must(t, os.WriteFile(in("dir/a"), []byte("longer"), 0o644))
	mark("dir/sub", false)
	must(t, os.Mkdir(in("kind"), 0o755)) // was a file
	must(t, os.WriteFile(in("kind/inside"), nil, 0o644))
	must(t, os.WriteFile(in("same"), nil, 0o644)) // copied up, and nothing more
	must(t, os.Chtimes(in("same"), unixEpoch, unixEpoch))
	must(t, os.Mkdir(in("data"), 0o755))
	mark("data", true) // removed and made anew
	must(t, os.WriteFile(in("data/y"), nil, 0o644))
	must(t, os.MkdirAll(in("to/a"), 0o755)) // was a link to /dir
	must(t, unix.Mkfifo(in("fifo"), 0o600))
	must(t, os.Symlink("/nowhere", in("link")))
}

func TestDiff(t *testing.T) {
	coursetest.NeedRoot(t)
	want := "C /data, D /data/x, A /data/y, C /dir, C /dir/a, D /dir/sub, C /etc, D /etc/motd, A /etc/new, A /fifo, C /kind, A /kind/inside, A /link, C /to, A /to/a"
	for _, driver := range []unionfs.Driver{unionfs.Overlay, unionfs.AufsFUSE} {
		e := testEngine(t)
		c := below(t, e, driver)
		if got, err := e.Diff(t.Context(), "cc"); len(got) > 0 || err != nil {
			t.Errorf("%s: before any change: %v, %v", driver, got, err)
		}
		change(t, c)
		list, err := e.Diff(t.Context(), "cc")
		must(t, err)
		var got []string
		for _, d := range list {
			got = append(got, fmt.Sprint(d.Kind, " ", d.Path))
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s:\n%s\nwant\n%s", driver, text, want)
		}
	}
}

// layerOf reads the uppermost layer of an image from the store, as whoever pulls it would get it.
func layerOf(t *testing.T, e *Engine, i *image.Image) (names []string, content map[string]*tar.Header) {
	t.Helper()
	list := i.Descriptors()
	f, err := os.Open(filepath.Join(e.Root, "images/blobs/sha256", list[len(list)-1].Digest.Encoded()))
	must(t, err)
	defer f.Close()
	content = map[string]*tar.Header{}
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return names, content
		}
		must(t, err)
		names, content[h.Name] = append(names, h.Name), h
	}
}

func TestCommit(t *testing.T) {
	coursetest.NeedRoot(t)
	e := testEngine(t)
	c := below(t, e, unionfs.Overlay)
	base, err := e.Images().Resolve("files")
	must(t, err)
	i, err := e.Commit(t.Context(), "cc", CommitOptions{})
	must(t, err)
	if len(i.Descriptors()) != 1 || i.Names != nil {
		t.Errorf("of a container without changes: %d layers, names %q; want the image's one, and none", len(i.Descriptors()), i.Names)
	}
	change(t, c)
	in := func(name string) string { return c.path(upperLayer + "/" + name) }
	must(t, os.Mkdir(in("odd"), 0o755))
	long := strings.Repeat("l", 200)
	must(t, os.WriteFile(in("odd/"+long), []byte("x"), 0o4711))
	must(t, os.Chmod(in("odd/"+long), 0o711|os.ModeSetuid))
	must(t, os.Link(in("odd/"+long), in("odd/z")))
	must(t, unix.Mknod(in("odd/dev"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 1))))
	must(t, unix.Setxattr(in("odd/"+long), "user.a", []byte("b"), 0))
	must(t, os.Truncate(in("odd/"+long), 1<<20))
	i, err = e.Commit(t.Context(), "cc", CommitOptions{Name: "new:1", Author: "me", Message: "why", Changes: []string{"ENV A=b", "USER nobody"}})
	must(t, err)
	names, headers := layerOf(t, e, i)
	want := []string{
		"data/", "data/.wh..wh..opq", "data/y", "dir/", "dir/.wh.sub", "dir/a", "etc/", "etc/.wh.motd", "etc/new", "fifo", "kind/", "kind/inside",
		"link", "odd/", "odd/dev", "odd/" + long, "odd/z", "same", "to/", "to/a/",
	}
	if !slices.Equal(names, want) {
		t.Errorf("the layer has %q; want %q", names, want)
	}
	if h := headers["odd/z"]; h.Typeflag != tar.TypeLink || h.Linkname != "odd/"+long {
		t.Errorf("odd/z: %c to %q; want a link", h.Typeflag, h.Linkname)
	}
	if h := headers["odd/dev"]; h.Typeflag != tar.TypeBlock || h.Devmajor != 8 || h.Devminor != 1 {
		t.Errorf("odd/dev: %+v; want block 8:1", h)
	}
	if h := headers["odd/"+long]; h.Mode != 0o4711 || h.PAXRecords["SCHILY.xattr.user.a"] != "b" || h.Size != 1<<20 {
		t.Errorf("the file with the long name: %+v", h)
	}
	cfg := i.Config.Config
	if i.Parent != base.ID || i.Config.Author != "me" || i.Extra.Comment != "why" || cfg.User != "nobody" || !slices.Contains(cfg.Env, "A=b") || !slices.Equal(cfg.Cmd, []string{"/bin/sh", "-c", "x"}) {
		t.Errorf("config %+v of %+v", cfg, i)
	}
	for _, o := range []CommitOptions{{Name: "Upper"}, {Name: "bad name"}, {Changes: []string{"RUN x"}}} {
		if _, err := e.Commit(t.Context(), "cc", o); err == nil {
			t.Errorf("%+v was committed", o)
		}
	}
}

func TestCommitPausesOnlyForAMoment(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx := testEngine(t), t.Context()
	c := runTest(t, e, HostConfig{})
	must(t, os.WriteFile(c.path(upperLayer)+"/x", nil, 0o644))
	_, err := e.Commit(ctx, "cc", CommitOptions{})
	must(t, err)
	if c, err = e.Get(ctx, "cc"); err != nil || c.State.Status != Running {
		t.Fatalf("after a commit it is %s, %v; want running", c.State.Status, err)
	}
	// A commit that was killed while the container stood still: the next command lets it go on.
	s, err := c.runtime()
	must(t, err)
	must(t, s.Pause(ctx))
	must(t, os.WriteFile(c.RunDir()+"/"+pausedFile, nil, 0o600))
	if c, err = e.Get(ctx, "cc"); err != nil || c.State.Status != Running {
		t.Fatalf("after a killed commit it is %s, %v; want running", c.State.Status, err)
	}
	if _, err := os.Lstat(c.RunDir() + "/" + pausedFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
	// One that the user has paused stays so.
	must(t, e.Pause(ctx, "cc"))
	_, err = e.Commit(ctx, "cc", CommitOptions{})
	must(t, err)
	if c, err = e.Get(ctx, "cc"); err != nil || c.State.Status != Paused {
		t.Errorf("a paused one is %s after a commit, %v; want paused", c.State.Status, err)
	}
}

func TestExport(t *testing.T) {
	coursetest.NeedRoot(t)
	e, ctx := testEngine(t), t.Context()
	c := runTest(t, e, HostConfig{Tmpfs: map[string]string{"/tt": ""}})
	must(t, os.WriteFile(c.path(upperLayer)+"/later", nil, 0o644))
	read := func() map[string]bool {
		var b bytes.Buffer
		must(t, e.Export(ctx, "cc", &b))
		names := map[string]bool{}
		for in := tar.NewReader(&b); ; {
			h, err := in.Next()
			if errors.Is(err, io.EOF) {
				return names
			}
			must(t, err)
			names[h.Name] = true
		}
	}
	live := read()
	must(t, e.Stop(ctx, "cc", new(int), "KILL"))
	for how, names := range map[string]map[string]bool{"running": live, "stopped": read()} {
		for _, name := range []string{"usr/", "etc/hosts", "proc/", "sys/", "dev/", "tt/", "later"} {
			if !names[name] {
				t.Errorf("%s: %s is missing", how, name)
			}
		}
		for name := range names {
			for _, mounted := range []string{"proc/", "sys/", "dev/", "tt/"} {
				if strings.HasPrefix(name, mounted) && name != mounted {
					t.Errorf("%s: there is %s; want nothing of what was mounted", how, name)
				}
			}
		}
	}
}
