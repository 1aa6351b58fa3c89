package files

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opened is a context that must open; its Dockerfile says which file it was read from.
func opened(t *testing.T, o Options) *Context {
	t.Helper()
	if o.Scratch == "" {
		o.Scratch = t.TempDir()
	}
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open(%+v): %v", o, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func refusedContext(t *testing.T, o Options, want string) {
	t.Helper()
	if o.Scratch == "" {
		o.Scratch = t.TempDir()
	}
	c, err := Open(t.Context(), o)
	if err == nil {
		c.Close()
		t.Fatalf("Open(%+v) = nil; want an error with %q", o, want)
	}
	if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("Open(%+v) = %q; want one line with %q", o, err, want)
	}
}

func TestFolder(t *testing.T) {
	top := t.TempDir()
	makeTree(t, top, strings.Split(strings.TrimSpace(`
d c 755
f c/Dockerfile 644 own
f c/other 644 other
d c/sub 755
f c/sub/Dockerfile 644 sub
l c/sub/link ../other
l c/in other
l c/out /etc/hostname
l c/up ../outside
p c/fifo 644
f outside 644 outside
l secret /etc/hostname
d low 755
f low/dockerfile 644 low
d none 755
`), "\n"), sourceTime)
	in := func(name string) string { return filepath.Join(top, name) }
	for _, c := range []struct{ file, want string }{
		{"", "own"}, {in("c/other"), "other"}, {in("c/sub/Dockerfile"), "sub"}, {in("c/in"), "other"},
		{in("c/sub/link"), "other"}, {in("outside"), "outside"}, {in("c/../outside"), "outside"},
	} {
		if got := opened(t, Options{Source: in("c"), File: c.file}); string(got.Dockerfile) != c.want {
			t.Errorf("-f %s = %q; want %q", c.file, got.Dockerfile, c.want)
		}
	}
	if got := opened(t, Options{Source: in("low")}); string(got.Dockerfile) != "low" {
		t.Errorf("dockerfile = %q", got.Dockerfile)
	}
	if got := opened(t, Options{Source: in("c"), File: "-", Stdin: strings.NewReader("typed")}); string(got.Dockerfile) != "typed" || got.Name != "-" {
		t.Errorf("-f - = %q, %q", got.Dockerfile, got.Name)
	}
	for _, c := range []struct {
		source, file, want string
	}{
		{in("c"), in("c/nosuch"), "no such file"},
		{in("c"), in("c/out"), "no such file"}, // in the context there is no /etc
		{in("c"), in("c/up"), "no such file"},
		{in("c"), in("secret"), "no such file"}, // nor in the Dockerfile's own folder
		{in("c"), in("c/fifo"), "not a regular file"},
		{in("c"), in("c/sub"), "not a regular file"},
		{in("c"), in("nosuch/Dockerfile"), "no such file"},
		{in("none"), "", "no such file"},
		{in("nosuch"), "", "unable to prepare context"},
		{in("outside"), "", "unable to prepare context"},
		{"", "", "no build context"},
		{"-", "-", "can't use stdin for both"},
		{"https://example.org/a/b.git", "", "git repository"},
		{"git@example.org:a/b", "", "git repository"},
		{"github.com/a/b", "", "git repository"},
	} {
		refusedContext(t, Options{Source: c.source, File: c.file}, c.want)
	}
}

// A FIFO must not be waited for, a device not be read, whatever name it has.
func TestFolderHostile(t *testing.T) {
	for _, name := range []string{"Dockerfile", ".dockerignore", "Dockerfile.dockerignore"} {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("x"), 0o644))
		p := filepath.Join(dir, name)
		os.Remove(p)
		must(t, unix.Mkfifo(p, 0o644))
		refusedContext(t, Options{Source: dir}, "not a regular file")
		must(t, os.Remove(p))
		must(t, os.WriteFile(p, nil, 0o644))
		must(t, os.Truncate(p, 1<<40)) // a file that fills all memory
		refusedContext(t, Options{Source: dir}, "more than")
		must(t, os.Remove(p))
		must(t, os.Symlink(name, p))
		refusedContext(t, Options{Source: dir}, "too many levels")
	}
}

func TestIgnoreFile(t *testing.T) {
	top := t.TempDir()
	makeTree(t, top, strings.Split(strings.TrimSpace(`
d c 755
f c/.dockerignore 644 a
f c/Dockerfile 644 x
f c/two.Dockerfile 644 x
f c/two.Dockerfile.dockerignore 644 b
f c/a 644 A
f c/b 644 B
f c/d 644 D
f out 644 x
f out.dockerignore 644 d
f plain 644 x
`), "\n"), sourceTime)
	for _, c := range []struct{ file, hidden string }{
		{"", "a"}, {"c/two.Dockerfile", "b"}, {"out", "d"}, {"plain", "a"},
	} {
		o := Options{Source: filepath.Join(top, "c")}
		if c.file != "" {
			o.File = filepath.Join(top, c.file)
		}
		root := opened(t, o).Root()
		for _, name := range []string{"a", "b", "d", "Dockerfile", ".dockerignore"} {
			if got := root.hidden(name); got != (name == c.hidden) {
				t.Errorf("-f %q: hidden(%s) = %v", c.file, name, got)
			}
		}
	}
	must(t, os.WriteFile(filepath.Join(top, "c/.dockerignore"), []byte("[\n"), 0o644))
	refusedContext(t, Options{Source: filepath.Join(top, "c")}, "syntax error in pattern")
}

func contextTar(t *testing.T) []byte {
	return tarOf(t,
		tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Mode: 0o644, Size: 3},
		tar.Header{Name: "sub/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "sub/file", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, Gid: 8, Size: 5},
	)
}

func TestStream(t *testing.T) {
	plain := contextTar(t)
	for _, how := range []string{"tar", "gz", "zst"} {
		c := opened(t, Options{Source: "-", Stdin: bytes.NewReader(compress(t, how, plain))})
		if string(c.Dockerfile) != "AAA" {
			t.Errorf("%s: Dockerfile = %q", how, c.Dockerfile)
		}
		if here, err := walkTo(c.Root().top, "sub/file", nil); err != nil || here.file == nil || here.st.Size != 5 {
			t.Errorf("%s: sub/file = %+v, %v", how, here, err)
		}
		if got := opened(t, Options{Source: "-", File: "sub/file", Stdin: bytes.NewReader(plain)}); string(got.Dockerfile) != "AAAAA" {
			t.Errorf("-f of an archive = %q", got.Dockerfile)
		}
	}
	c := opened(t, Options{Source: "-", Stdin: strings.NewReader("FROM scratch\n")})
	if string(c.Dockerfile) != "FROM scratch\n" {
		t.Errorf("Dockerfile = %q", c.Dockerfile)
	}
	refusedContext(t, Options{Source: "-", File: "x", Stdin: strings.NewReader("FROM scratch\n")}, "ambiguous Dockerfile source")
	refusedContext(t, Options{Source: "-", Stdin: bytes.NewReader(compress(t, "gz", plain)[:60])}, "unpack the build context")
	refusedContext(t, Options{Source: "-", Stdin: bytes.NewReader(tarOf(t, tar.Header{Name: "../x", Typeflag: tar.TypeReg}))}, "leads upwards")
	refusedContext(t, Options{Source: "-", Stdin: io.MultiReader(strings.NewReader("x"), endless{})}, "more than")
	refusedContext(t, Options{Source: "-", Stdin: brokenReader{}}, "broken")

	// A link of the archive that leads to the host, and then a file through it.
	scratch, host := t.TempDir(), t.TempDir()
	refusedOrInside := tarOf(t,
		tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: host},
		tar.Header{Name: "l/file", Typeflag: tar.TypeReg, Size: 1},
		tar.Header{Name: "Dockerfile", Typeflag: tar.TypeSymlink, Linkname: "/etc/hostname"})
	refusedContext(t, Options{Source: "-", Stdin: bytes.NewReader(refusedOrInside), Scratch: scratch}, "no such file")
	if list, err := os.ReadDir(host); err != nil || len(list) > 0 {
		t.Errorf("the host's folder has %v, %v", list, err)
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { clear(b); return len(b), nil }

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("broken") }

func TestAddress(t *testing.T) {
	plain := contextTar(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/c.tar.gz":
			w.Write(compress(t, "gz", plain))
		case "/Dockerfile":
			io.WriteString(w, "FROM x\n")
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	if c := opened(t, Options{Source: s.URL + "/c.tar.gz"}); string(c.Dockerfile) != "AAA" {
		t.Errorf("Dockerfile = %q", c.Dockerfile)
	}
	if c := opened(t, Options{Source: s.URL + "/Dockerfile"}); string(c.Dockerfile) != "FROM x\n" {
		t.Errorf("Dockerfile = %q", c.Dockerfile)
	}
	refusedContext(t, Options{Source: s.URL + "/nosuch"}, "invalid response status 404")
	refusedContext(t, Options{Source: "http://user:secret@127.0.0.1:1/x"}, "connection refused")
	_, err := Open(t.Context(), Options{Source: "http://user:secret@127.0.0.1:1/x", Scratch: t.TempDir()})
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error has the password: %v", err)
	}
}

func TestDownload(t *testing.T) {
	when := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a/file.txt":
			w.Header().Set("Last-Modified", when.Format(http.TimeFormat))
			io.WriteString(w, "hello")
		case "/moved":
			http.Redirect(w, r, "/a/file.txt", http.StatusFound)
		case "/", "/in.tar":
			w.Write(tarOf(t, tar.Header{Name: "in", Typeflag: tar.TypeReg, Mode: 0o600, Size: 1}))
		case "/short":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "12345")
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	const hello = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	yes := true
	for _, c := range []struct {
		in   Instruction
		path string
		mode uint32
		time int64
		size int64
		err  string
	}{
		{in: Instruction{Sources: []string{"/a/file.txt"}, Dest: "/x"}, path: "x", mode: 0o600, time: when.Unix(), size: 5},
		{in: Instruction{Sources: []string{"/a/file.txt?a=b"}, Dest: "/n/"}, path: "n/file.txt", mode: 0o600, time: when.Unix(), size: 5},
		{in: Instruction{Sources: []string{"/moved"}, Dest: "/n/"}, path: "n/moved", mode: 0o600, time: when.Unix(), size: 5},
		{in: Instruction{Sources: []string{"/"}, Dest: "/n/"}, path: "n/__unnamed__", mode: 0o600, time: 0, size: 2048},
		{in: Instruction{Sources: []string{"/in.tar"}, Dest: "/n/", Unpack: &yes}, path: "n/in", mode: 0o600, time: sourceTime.Unix(), size: 1},
		{in: Instruction{Sources: []string{"/a/file.txt"}, Dest: "/x", Chmod: "755", Checksum: hello}, path: "x", mode: 0o755, time: when.Unix(), size: 5},
		{in: Instruction{Sources: []string{"/in.tar"}, Dest: "/x", Checksum: hello}, err: "digest mismatch"},
		{in: Instruction{Sources: []string{"/in.tar"}, Dest: "/x", Checksum: "md5:1"}, err: "--checksum"},
		{in: Instruction{Sources: []string{"/short"}, Dest: "/x"}, err: "unexpected EOF"},
		{in: Instruction{Sources: []string{"/nosuch"}, Dest: "/x"}, err: "404"},
	} {
		c.in.Add, c.in.Scratch = true, t.TempDir()
		c.in.Sources[0] = s.URL + c.in.Sources[0]
		image := t.TempDir()
		root, err := NewRoot(t.Context(), openTree(t, t.TempDir()))
		must(t, err)
		defer root.Close()
		plan, err := c.in.Resolve(t.Context(), root)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v: %v; want an error with %q", c.in.Sources, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", c.in.Sources, err)
			continue
		}
		_, err = plan.Copy(t.Context(), openTree(t, image))
		must(t, err)
		must(t, plan.Close())
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(image, c.path), &st))
		if st.Mode&0o7777 != c.mode || st.Mtim.Sec != c.time || st.Size != c.size {
			t.Errorf("%v: mode %o, time %d, size %d; want %o, %d, %d", c.in.Sources, st.Mode&0o7777, st.Mtim.Sec, st.Size, c.mode, c.time, c.size)
		}
		if left, err := os.ReadDir(c.in.Scratch); err != nil || len(left) > 0 {
			t.Errorf("%v: left in the scratch folder: %v, %v", c.in.Sources, left, err)
		}
	}
}
