package unionfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
)

var forms = []Form{OverlayForm, OverlayUserForm, OverlayXattrForm, OverlayXattrUserForm, AufsForm}

// randomLayer makes a layer with marks of a form, and returns them.
func randomLayer(t *testing.T, r *rand.Rand, dir string, f Form) []Mark {
	t.Helper()
	var marks []Mark
	var fill func(path string, depth int)
	fill = func(path string, depth int) {
		must(t, os.MkdirAll(filepath.Join(dir, path), 0o755))
		opaque := path != "." && r.IntN(4) == 0
		if opaque {
			marks = append(marks, Mark{Path: path, Opaque: true})
		}
		for i := range r.IntN(5) {
			name := filepath.Join(path, []string{"a", "b c", "ü", ".hidden", "-", "wh.x", "%s"}[r.IntN(7)]+fmt.Sprint(i))
			switch kind := r.IntN(5); {
			case kind == 0 && depth < 4:
				fill(name, depth+1)
			case kind == 1:
				must(t, os.Symlink("/etc/passwd", filepath.Join(dir, name)))
			case kind <= 3:
				marks = append(marks, Mark{Path: name})
			default:
				must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640))
			}
		}
	}
	fill(".", 0)
	for _, m := range marks {
		must(t, Write(context.Background(), dir, m, f))
	}
	return marks
}

// described tells of a layer without its marks: names, kinds, content, times of folders.
func described(t *testing.T, dir string, f Form) string {
	t.Helper()
	var lines []string
	must(t, scan(dir, f, func(path string, m *Mark, st *unix.Stat_t) error {
		if m != nil && !m.Opaque || filepath.Base(path) == whOpaque {
			return nil
		}
		line := fmt.Sprint(path, st.Mode)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			line += time.Unix(st.Mtim.Unix()).String()
		} else {
			line += fmt.Sprint(st.Size)
		}
		lines = append(lines, line)
		return nil
	}))
	return strings.Join(lines, "\n")
}

func seed(t *testing.T) *rand.Rand {
	n := uint64(time.Now().UnixNano())
	t.Logf("seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// TestRoundTrip converts random layers from each form to each other and back: nothing is lost, and nothing else changes.
func TestRoundTrip(t *testing.T) {
	_, base := own(t)
	r := seed(t)
	for i := range 60 {
		from, to := forms[r.IntN(len(forms))], forms[r.IntN(len(forms))]
		dir := filepath.Join(base, fmt.Sprint(i))
		want := markNames(randomLayer(t, r, dir, from))
		before := described(t, dir, from)
		bytesBefore := tarOf(t, dir, from)
		for _, step := range [][2]Form{{from, to}, {to, from}} {
			must(t, Convert(t.Context(), dir, step[0], step[1]))
			marks, err := Marks(dir, step[1])
			must(t, err)
			if got := markNames(marks); got != want {
				t.Errorf("%s → %s: marks %q; want %q", step[0], step[1], got, want)
			}
			if got := described(t, dir, step[1]); got != before {
				t.Errorf("%s → %s: the layer is\n%s\nit was\n%s", step[0], step[1], got, before)
			}
			if !bytes.Equal(tarOf(t, dir, step[1]), bytesBefore) {
				t.Errorf("%s → %s: the layer's tar is another", step[0], step[1])
			}
		}
	}
}

func tarOf(t *testing.T, dir string, f Form) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, WriteTar(t.Context(), &b, dir, f))
	return b.Bytes()
}

func TestTar(t *testing.T) {
	_, dir := own(t)
	tree(t, dir, map[string]string{"etc/hosts": "127.0.0.1", "gone/": "", "fresh/new": "n"})
	must(t, os.Link(dir+"/etc/hosts", dir+"/etc/linked"))
	must(t, os.Symlink("hosts", dir+"/etc/soft"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o600))
	must(t, unix.Setxattr(dir+"/etc/hosts", "user.note", []byte("hello"), 0))
	for _, m := range []Mark{{Path: "etc/motd"}, {Path: "fresh", Opaque: true}} {
		must(t, Write(t.Context(), dir, m, OverlayForm))
	}
	var got []string
	r := tar.NewReader(bytes.NewReader(tarOf(t, dir, OverlayForm)))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		got = append(got, fmt.Sprintf("%s %c %s", h.Name, h.Typeflag, h.Linkname))
		if h.Name == "etc/hosts" && h.PAXRecords["SCHILY.xattr.user.note"] != "hello" {
			t.Errorf("attributes of etc/hosts: %v", h.PAXRecords)
		}
	}
	want := []string{
		"etc/ 5 ", "etc/.wh.motd 0 ", "etc/hosts 0 ", "etc/linked 1 etc/hosts", "etc/soft 2 hosts", "fifo 6 ",
		"fresh/ 5 ", "fresh/.wh..wh..opq 0 ", "fresh/new 0 ", "gone/ 5 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("tar has\n%q; want\n%q", got, want)
	}
}

func TestReserved(t *testing.T) {
	_, dir := own(t)
	tree(t, dir, map[string]string{"sub/.wh.file": "an ordinary file"})
	if err := Convert(t.Context(), dir, OverlayForm, AufsForm); !errors.Is(err, ErrReserved) {
		t.Errorf("Convert: %v; want ErrReserved", err)
	}
	if err := WriteTar(t.Context(), io.Discard, dir, OverlayForm); !errors.Is(err, ErrReserved) {
		t.Errorf("WriteTar: %v; want ErrReserved", err)
	}
	tree(t, dir, map[string]string{".wh..wh.plnk/1.2": "", ".wh..wh.aufs": ""})
	must(t, Convert(t.Context(), dir, AufsForm, OverlayForm))
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("aufs's own files are still there: %v, %v", entries, err)
	}
}

// TestKernelReads proves each of overlay's forms with the kernel: what a layer of that form takes away is gone.
func TestKernelReads(t *testing.T) {
	for _, f := range []Form{OverlayForm, OverlayXattrForm} {
		ctx, dir := own(t)
		tree(t, dir+"/lower", map[string]string{"kept": "", "hidden": "", "folder/old": ""})
		tree(t, dir+"/layer", map[string]string{"folder/new": ""})
		tree(t, dir, map[string]string{"C/": ""})
		for _, m := range []Mark{{Path: "hidden"}, {Path: "folder", Opaque: true}} {
			must(t, Write(ctx, dir+"/layer", m, f))
		}
		u, err := Mount(ctx, Overlay, Layers{Lower: []string{dir + "/layer", dir + "/lower"}}, dir+"/C")
		must(t, err)
		got := strings.Join(append(names(t, dir+"/C"), names(t, dir+"/C/folder")...), " ")
		if f == OverlayXattrForm && !appendsLayers() { // the option is as old as the form
			t.Log("this kernel does not know whiteouts in the xattr form")
		} else if got != "folder kept new" {
			t.Errorf("%s: the union has %q; want folder, kept and new", f, got)
		}
		must(t, u.Unmount(ctx))
		must(t, mount.Detach(ctx, dir))
	}
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// The layer of a running container changes while it is read: what vanishes is left out, and a folder that has become a link
// leads nowhere.
func TestWriteTarInUse(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(out+"/file", []byte("secret"), 0o600))
	must(t, os.MkdirAll(dir+"/layer/folder", 0o755))
	must(t, os.WriteFile(dir+"/layer/folder/file", []byte("open"), 0o644))
	must(t, os.Symlink(out, dir+"/link"))
	done, ended := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-done:
				ended <- nil
				return
			default:
			}
			err := unix.Renameat2(unix.AT_FDCWD, dir+"/layer/folder", unix.AT_FDCWD, dir+"/link", unix.RENAME_EXCHANGE)
			if err == nil {
				err = os.WriteFile(dir+"/layer/fleeting", nil, 0o644)
			}
			if err == nil {
				err = os.Remove(dir + "/layer/fleeting")
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	for range 1000 {
		var b bytes.Buffer
		must(t, WriteTar(t.Context(), &b, dir+"/layer", OverlayForm))
		if bytes.Contains(b.Bytes(), []byte("secret")) {
			t.Fatal("the tar has what is outside of the layer")
		}
	}
	close(done)
	must(t, <-ended)
}

func TestWriteTarExcept(t *testing.T) {
	for _, f := range []Form{OverlayForm, AufsForm} {
		dir := t.TempDir()
		must(t, os.MkdirAll(dir+"/etc", 0o755))
		for _, name := range []string{"hosts", "motd"} {
			must(t, os.WriteFile(dir+"/etc/"+name, nil, 0o644))
		}
		for _, name := range []string{"etc/hostname", "etc/issue"} {
			must(t, Write(t.Context(), dir, Mark{Path: name}, f))
		}
		var b bytes.Buffer
		except := func(path string) bool { return path == "etc/hosts" || path == "etc/hostname" }
		must(t, WriteTarExcept(t.Context(), &b, dir, f, except))
		var names []string
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			names = append(names, h.Name)
		}
		if want := []string{"etc/", "etc/.wh.issue", "etc/motd"}; !slices.Equal(names, want) {
			t.Errorf("%s: %q; want %q", f, names, want)
		}
	}
}

// Walk is scan without what is the union's own.
func TestWalk(t *testing.T) {
	for _, f := range []Form{OverlayForm, AufsForm} {
		dir := t.TempDir()
		must(t, os.MkdirAll(dir+"/new", 0o755))
		must(t, os.WriteFile(dir+"/new/file", nil, 0o644))
		must(t, Write(t.Context(), dir, Mark{Path: "gone"}, f))
		must(t, Write(t.Context(), dir, Mark{Path: "new", Opaque: true}, f))
		if f == AufsForm {
			must(t, os.MkdirAll(filepath.Join(dir, whOrphan, "x"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, whBase), nil, 0o644))
		}
		var got []string
		must(t, Walk(dir, f, func(path string, m *Mark, _ *unix.Stat_t) error {
			if m != nil {
				path = m.String()
			}
			got = append(got, path)
			return nil
		}))
		slices.Sort(got)
		if want := []string{".", "gone", "new/ (opaque)", "new/file"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q; want %q", f, got, want)
		}
	}
}
