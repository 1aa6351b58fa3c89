package unionfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/diagnosis"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// own moves the test into a mount namespace of its own and returns a folder on a tmpfs. The thread is never unlocked: it
// ends with the test, and the namespace with it. Without root the test process is root of a user namespace already, see
// TestInUserNamespace.
func own(t *testing.T) (context.Context, string) {
	t.Helper()
	coursetest.NeedRoot(t)
	ctx := trace.With(t.Context(), func(r trace.Record) {
		if len(r.Text) < 300 {
			t.Log(r.At, r)
		}
	})
	dir := t.TempDir()
	runtime.LockOSThread()
	must(t, mount.Unshare(ctx))
	must(t, mount.PrivateTree(ctx, "/"))
	must(t, mount.Tmpfs(ctx, dir, mount.TmpfsOptions{Size: 64 << 20, Mode: 0o755}))
	t.Cleanup(func() { // until nothing is mounted there
		for mount.Detach(context.Background(), dir) == nil {
		}
	})
	return ctx, dir
}

// tree makes files from "path" to content; a path that ends in "/" is a folder.
func tree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	for name, content := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// onC makes A, B, C and overlay's work folder.
func onC(t *testing.T, dir string) (Layers, string) {
	tree(t, dir+"/A", map[string]string{"a": "of A", "x": "x of A"})
	tree(t, dir+"/B", map[string]string{"b": "of B", "x": "x of B"})
	tree(t, dir, map[string]string{"C/": "", "work/": ""})
	return Layers{Lower: []string{dir + "/B"}, Upper: dir + "/A", Work: dir + "/work"}, dir + "/C"
}

func TestOnC(t *testing.T) {
	ctx, dir := own(t)
	l, c := onC(t, dir)
	u, err := Mount(ctx, Overlay, l, c)
	must(t, err)
	if got := content(t, c+"/x"); got != "x of A" {
		t.Errorf("C/x = %q; want A's", got)
	}
	must(t, os.WriteFile(c+"/b", []byte("changed"), 0o644))
	if got := content(t, l.Upper+"/b") + ", " + content(t, l.Lower[0]+"/b"); got != "changed, of B" {
		t.Errorf("after the change A/b, B/b = %s", got)
	}
	must(t, os.Remove(c+"/x"))
	var st unix.Stat_t
	must(t, unix.Lstat(l.Upper+"/x", &st))
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		t.Errorf("the whiteout is mode %o, device %x; want a character device 0/0", st.Mode, st.Rdev)
	}
	must(t, u.Unmount(ctx))
	if _, err := os.Stat(c + "/b"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the unmount C/b: %v", err)
	}
}

// ways are the kernel's interfaces for an overlay; each must do the same.
var ways = map[string]func(context.Context, Layers, string) error{
	"new": func(ctx context.Context, l Layers, target string) error {
		if !appendsLayers() {
			return errors.ErrUnsupported
		}
		return overlayNewWay(ctx, l, target)
	},
	"old":       overlayOldWay,
	"by number": overlayByNumber,
}

func TestVolatile(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			ctx, dir := own(t)
			l, c := onC(t, dir)
			l.Volatile = true
			err := way(ctx, l, c)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip("this kernel has no lowerdir+")
			}
			must(t, err)
			must(t, unix.Unmount(c, 0))
			if _, err := Mount(ctx, Overlay, l, c); !errors.Is(err, unix.EINVAL) {
				t.Fatalf("after a volatile mount, the next one: %v; want EINVAL", err)
			}
			must(t, Forgive(l.Work))
			must(t, Forgive(l.Work))
			u, err := Mount(ctx, Overlay, l, c)
			must(t, err)
			must(t, u.Unmount(ctx))
		})
	}
}

func TestWays(t *testing.T) {
	for name, way := range ways {
		for _, odd := range []string{"plain", "co:lon", "com,ma", `back\slash`, `all,of:them\`, "", strings.Repeat("long", 25)} {
			t.Run(name+"/"+odd, func(t *testing.T) {
				ctx, dir := own(t)
				dir = filepath.Join(dir, odd)
				l, c := onC(t, dir)
				err := way(ctx, l, c)
				if errors.Is(err, errors.ErrUnsupported) {
					t.Skip("this kernel has no lowerdir+")
				}
				must(t, err)
				must(t, os.WriteFile(c+"/new", nil, 0o644))
				for _, path := range []string{c + "/b", l.Upper + "/new"} {
					if _, err := os.Stat(path); err != nil {
						t.Error(err)
					}
				}
				if user, err := overlayUsing(l.Upper); user != c || err != nil {
					t.Errorf("overlayUsing(upper) = %q, %v; want %q", user, err, c)
				}
				got, err := LayersOf(c)
				if name == "by number" {
					got.Lower = l.Lower // whose names are numbers there
				}
				if err != nil || !reflect.DeepEqual(got, l) {
					t.Errorf("LayersOf(C) = %+v, %v; want %+v", got, err, l)
				}
				must(t, mount.Unmount(ctx, c))
			})
		}
	}
}

func TestManyLayers(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			ctx, dir := own(t)
			var l Layers
			long := filepath.Join(dir, strings.Repeat("a-long-name-", 12))
			for i := range 300 {
				layer := filepath.Join(long, fmt.Sprint(i))
				tree(t, layer, map[string]string{fmt.Sprintf("file-%d", i): "", "top": fmt.Sprint(i)})
				l.Lower = append(l.Lower, layer)
			}
			tree(t, dir, map[string]string{"C/": ""})
			err := way(ctx, l, dir+"/C")
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip("this kernel has no lowerdir+")
			}
			must(t, err)
			entries, err := os.ReadDir(dir + "/C")
			if err != nil || len(entries) != 301 || content(t, dir+"/C/top") != "0" {
				t.Errorf("C has %d entries, %v, and top of layer %q; want 301 and 0", len(entries), err, content(t, dir+"/C/top"))
			}
			if err := os.WriteFile(dir+"/C/new", nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing without an upper folder: %v; want EROFS", err)
			}
			must(t, mount.Unmount(ctx, dir+"/C"))
		})
	}
}

func TestRefused(t *testing.T) {
	ctx, dir := own(t)
	tree(t, dir, map[string]string{"A/": "", "B/": "", "B2/": "", "C/": "", "work/": "", "A/sub/": "", "elsewhere/": "", "file": "", "U/": ""})
	must(t, mount.Tmpfs(ctx, dir+"/elsewhere", mount.TmpfsOptions{}))
	in := func(names ...string) (list []string) {
		for _, n := range names {
			list = append(list, filepath.Join(dir, n))
		}
		return list
	}
	must(t, overlayOldWay(ctx, Layers{Lower: in("B", "B2")}, dir+"/U")) // an overlay to stack upon
	tree(t, dir, map[string]string{"V/": "", "U2/": ""})
	must(t, overlayOldWay(ctx, Layers{Lower: in("U", "B2")}, dir+"/V")) // and one more
	for _, test := range []struct {
		name  string
		l     Layers
		errno error
		unmet string
	}{
		{"branch missing", Layers{Lower: in("B", "no"), Upper: dir + "/A", Work: dir + "/work"}, unix.ENOENT, "every folder is there"},
		{"no folder", Layers{Lower: in("file"), Upper: dir + "/A", Work: dir + "/work"}, nil, "every folder is there"},
		{"no work", Layers{Lower: in("B"), Upper: dir + "/A"}, unix.EINVAL, "a work folder goes with the upper one"},
		{"work elsewhere", Layers{Lower: in("B"), Upper: dir + "/A", Work: dir + "/elsewhere"}, unix.EINVAL, "work and upper lie in the same mount"},
		{"work in upper", Layers{Lower: in("B"), Upper: dir + "/A", Work: dir + "/A/sub"}, unix.EINVAL, "neither of work and upper lies in the other"},
		{"upper on overlay", Layers{Lower: in("B"), Upper: dir + "/U", Work: dir + "/U"}, unix.EINVAL, "the file system of the upper folder can hold whiteouts"},
		{"three levels", Layers{Lower: in("V"), Upper: dir + "/A", Work: dir + "/work"}, unix.EINVAL, "no lower folder is an overlay of overlays"},
		{"none", Layers{}, ErrNoLayers, ""},
	} {
		func() { // no t.Run, whose goroutine would have another thread and namespace
			u, err := Mount(ctx, Overlay, test.l, dir+"/C")
			if err == nil {
				must(t, u.Unmount(ctx))
			}
			if err == nil || test.errno != nil && !errors.Is(err, test.errno) { // the errno depends on the kernel where there is none
				t.Errorf("%s: Mount: %v; want %v", test.name, err, test.errno)
			}
			var unmet []string
			for _, c := range diagnosis.Of(err) {
				if !c.OK {
					unmet = append(unmet, c.What)
				}
			}
			if got := strings.Join(unmet, ", "); !strings.Contains(got, test.unmet) || (test.unmet == "") != (got == "") {
				t.Errorf("%s: unmet: %q; want %q", test.name, got, test.unmet)
			}
		}()
	}
}

func TestUpperInUse(t *testing.T) {
	ctx, dir := own(t)
	l, c := onC(t, dir)
	u, err := Mount(ctx, Overlay, l, c)
	must(t, err)
	tree(t, dir, map[string]string{"D/": ""})
	_, err = Mount(ctx, Overlay, l, dir+"/D")
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.Target != c || !errors.Is(err, unix.EBUSY) {
		t.Errorf("Mount with an upper in use: %v; want an InUseError for %s", err, c)
	}
	must(t, u.Unmount(ctx))
}

// TestOneLower: a single read-only layer is a union, too.
func TestOneLower(t *testing.T) {
	ctx, dir := own(t)
	l, c := onC(t, dir)
	u, err := Mount(ctx, Overlay, Layers{Lower: l.Lower}, c)
	must(t, err)
	if got := content(t, c+"/b"); got != "of B" {
		t.Errorf("C/b = %q", got)
	}
	if err := os.WriteFile(c+"/b", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing to it: %v; want EROFS", err)
	}
	must(t, u.Unmount(ctx))
}
