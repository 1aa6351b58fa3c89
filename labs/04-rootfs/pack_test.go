package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
)

// pack writes dir as a tar, its content at the top.
func pack(t *testing.T, p *Packer, dir, as string) error {
	t.Helper()
	tree, err := OpenTree(t.Context(), dir)
	must(t, err)
	defer tree.Close()
	root, err := tree.Open(t.Context(), "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer root.Close()
	return errors.Join(p.AddAll(t.Context(), root, as), p.Close())
}

// entries reads a tar: what it says of each name, in its order.
func entries(t *testing.T, r io.Reader) (list []*tar.Header, content map[string]string) {
	t.Helper()
	content = map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return list, content
		}
		must(t, err)
		data, err := io.ReadAll(in)
		must(t, err)
		list, content[h.Name] = append(list, h), string(data)
	}
}

func namesOf(list []*tar.Header) (names []string) {
	for _, h := range list {
		names = append(names, h.Name)
	}
	return names
}

// oddTree has one of each kind of file that a tar can have, and one that it cannot.
func oddTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	long := strings.Repeat("n", 255)
	must(t, os.MkdirAll(in("deep/"+long+"/"+long), 0o751))
	must(t, os.WriteFile(in("deep/"+long+"/"+long+"/file"), []byte("long"), 0o640))
	must(t, os.WriteFile(in("not \xff UTF-8\n"), []byte("odd"), 0o600))
	must(t, os.Symlink("/etc/passwd", in("link")))
	must(t, os.WriteFile(in("first"), []byte("linked"), 0o644))
	must(t, os.Link(in("first"), in("second")))
	must(t, unix.Mkfifo(in("fifo"), 0o620))
	must(t, unix.Mknod(in("dev"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, os.WriteFile(in("suid"), []byte("#!"), 0o755))
	must(t, unix.Chown(in("suid"), 1234, 5678))
	must(t, unix.Chmod(in("suid"), 0o6755))
	must(t, unix.Setxattr(in("suid"), "user.note", []byte("a\x00b"), 0))
	must(t, unix.Setxattr(in("suid"), "user.with=sign", []byte("x"), 0))
	must(t, unix.Setxattr(in("suid"), "trusted.overlay.opaque", []byte("y"), 0))
	holes, err := os.Create(in("holes"))
	must(t, err)
	_, err = holes.WriteAt([]byte("end"), 1<<20)
	must(t, errors.Join(err, holes.Close()))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: in("socket"), Net: "unix"})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	old := unix.NsecToTimespec(1_500_000_000_000_000_000)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, in("deep"), []unix.Timespec{old, old}, 0))
	return dir
}

// describedTree says all that can be seen of the files in a folder.
func describedTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(name, &st))
		rel, err := filepath.Rel(dir, name)
		if rel == "." {
			return err
		}
		text := []string{e.Type().String()}
		switch {
		case e.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			must(t, err)
			text = append(text, target)
		case e.Type().IsRegular():
			data, err := os.ReadFile(name)
			must(t, err)
			text = append(text, string(data))
		}
		note := make([]byte, 64)
		n, _ := unix.Lgetxattr(name, "user.note", note)
		all[rel] = fmt.Sprint(text, string(note[:max(n, 0)]), st.Mode, st.Nlink, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec)
		return nil
	}))
	return all
}

func TestPackIsUnpackBackwards(t *testing.T) {
	coursetest.NeedRoot(t)
	dir, to := oddTree(t), t.TempDir()
	var buf bytes.Buffer
	must(t, pack(t, NewPacker(&buf), dir, ""))
	tree, err := OpenTree(t.Context(), to)
	must(t, err)
	defer tree.Close()
	u, err := UnpackInto(t.Context(), tree, &buf, Rules{KeepKinds: true})
	must(t, err)
	if len(u.Lost) > 0 {
		t.Errorf("lost %v", u.Lost)
	}
	want, got := describedTree(t, dir), describedTree(t, to)
	delete(want, "socket")
	if len(got) != len(want) {
		t.Errorf("%d files; want %d", len(got), len(want))
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%q = %.200q; want %.200q", name, got[name], w)
		}
	}
	for name, has := range map[string]bool{"user.with=sign": false, "trusted.overlay.opaque": false, "user.note": true} {
		if _, err := unix.Getxattr(to+"/suid", name, make([]byte, 64)); (err == nil) != has {
			t.Errorf("attribute %s: %v; want it there: %t", name, err, has)
		}
	}
}

func TestPackOwnerAndTop(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/b", nil, 0o644))
	must(t, os.Mkdir(dir+"/a", 0o755))
	must(t, os.WriteFile(dir+"/a/c", nil, 0o644))
	for top, want := range map[string][]string{
		"":    {"a/", "a/c", "b"},
		"top": {"top/", "top/a/", "top/a/c", "top/b"},
		".":   {"./", "./a/", "./a/c", "./b"},
	} {
		var buf bytes.Buffer
		p := NewPacker(&buf)
		p.Owner = &[2]int{7, 8}
		must(t, pack(t, p, dir, top))
		list, _ := entries(t, &buf)
		if got := namesOf(list); !slices.Equal(got, want) {
			t.Errorf("top %q: %q; want %q", top, got, want)
		}
		for _, h := range list {
			if h.Uid != 7 || h.Gid != 8 || h.Uname != "" || h.Gname != "" {
				t.Errorf("%s belongs to %d:%d %q:%q; want 7:8 without names", h.Name, h.Uid, h.Gid, h.Uname, h.Gname)
			}
		}
	}
}

// The kernel's file systems have files without end, and some that answer a reader by doing something.
func TestPackLeavesTheKernelOut(t *testing.T) {
	var buf bytes.Buffer
	must(t, pack(t, NewPacker(&buf), "/proc", "proc"))
	if list, _ := entries(t, &buf); len(list) != 1 || list[0].Name != "proc/" {
		t.Errorf("%q; want only proc/", namesOf(list))
	}
}

func TestPackNotIntoItself(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/a/to", 0o755))
	p := NewPacker(io.Discard)
	to, err := os.Open(dir + "/a/to")
	must(t, err)
	defer to.Close()
	must(t, p.Avoid(to))
	if err := pack(t, p, dir, "."); !errors.Is(err, ErrIntoItself) {
		t.Errorf("%v; want ErrIntoItself", err)
	}
}

// The size of a file is written before its content, and the content may have changed by then.
func TestPackChangingFile(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int64{"shorter": 3, "longer": 100} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte("0123456789"), 0o644))
		folder, err := os.Open(dir)
		must(t, err)
		f, err := OpenEntry(t.Context(), folder, name)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		must(t, os.Truncate(filepath.Join(dir, name), size))
		var buf bytes.Buffer
		p := NewPacker(&buf)
		must(t, p.add(t.Context(), f, &st, name))
		must(t, p.Close())
		_, content := entries(t, &buf)
		want := "0123456789"
		if size < 10 {
			want = "012" + strings.Repeat("\x00", 7)
		}
		if content[name] != want {
			t.Errorf("%s: %q; want %q", name, content[name], want)
		}
		must(t, errors.Join(f.Close(), folder.Close()))
	}
}

// exchanging swaps a folder for a link that leads out, again and again, until it is told to stop.
func exchanging(t *testing.T, folder, link string) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := unix.Renameat2(unix.AT_FDCWD, folder, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// CVE-2018-15664: what a running container exchanges leads nowhere.
func TestPackExchanged(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(out+"/file", []byte("secret"), 0o600))
	must(t, os.MkdirAll(dir+"/in/folder", 0o755))
	must(t, os.WriteFile(dir+"/in/folder/file", []byte("open"), 0o644))
	must(t, os.WriteFile(dir+"/in/plain", []byte("open"), 0o644))
	must(t, os.Symlink(out, dir+"/link"))
	must(t, os.Symlink(out+"/file", dir+"/other"))
	stop := exchanging(t, dir+"/in/folder", dir+"/link")
	stopFile := exchanging(t, dir+"/in/plain", dir+"/other")
	defer stopFile()
	defer stop()
	seen := map[string]int{}
	for range 2000 {
		var buf bytes.Buffer
		must(t, pack(t, NewPacker(&buf), dir+"/in", ""))
		_, content := entries(t, &buf)
		for name, text := range content {
			seen[name]++
			if text == "secret" {
				t.Fatalf("%s has what is outside", name)
			}
		}
	}
	if seen["folder/file"] == 0 || seen["folder"] == 0 {
		t.Errorf("saw %v; want the folder sometimes, and sometimes the link", seen)
	}
}

func TestUnpackIntoExchanged(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(dir+"/in/folder/sub", 0o755))
	must(t, os.Symlink(out, dir+"/link"))
	stop := exchanging(t, dir+"/in/folder", dir+"/link")
	defer stop()
	tree, err := OpenTree(t.Context(), dir+"/in")
	must(t, err)
	defer tree.Close()
	wrote, refused := 0, 0
	for range 2000 {
		in := packed(t, tar.Header{Name: "folder/"}, tar.Header{Name: "folder/sub/"}, tar.Header{Name: "folder/sub/x"}, tar.Header{Name: "folder/y"})
		if _, err := UnpackInto(t.Context(), tree, in, Rules{KeepKinds: true}); err != nil {
			refused++
		} else {
			wrote++
		}
	}
	if left, err := os.ReadDir(out); err != nil || len(left) > 0 {
		t.Errorf("outside there is %v, %v; want nothing", left, err)
	}
	if wrote == 0 || refused == 0 {
		t.Errorf("wrote %d times, and was refused %d times; want both", wrote, refused)
	}
}

func TestUnpackIntoRules(t *testing.T) {
	coursetest.NeedRoot(t)
	dir, out := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(dir+"/folder", 0o755))
	must(t, os.WriteFile(dir+"/file", []byte("old"), 0o644))
	must(t, os.Symlink(out, dir+"/away"))
	must(t, os.WriteFile(out+"/kept", nil, 0o644))
	tree, err := OpenTree(t.Context(), dir)
	must(t, err)
	defer tree.Close()
	for _, c := range []struct {
		name string
		in   tar.Header
		want error
	}{
		{"a file on a folder", tar.Header{Name: "folder"}, ErrFolderInPlace},
		{"a link on a folder", tar.Header{Name: "folder", Typeflag: tar.TypeSymlink, Linkname: "/"}, ErrFolderInPlace},
		{"a folder on a file", tar.Header{Name: "file/"}, ErrFileInPlace},
		{"a folder on a link", tar.Header{Name: "away/"}, ErrFileInPlace},
		{"a file on a file", tar.Header{Name: "file"}, nil},
		{"a file on a link", tar.Header{Name: "away"}, nil},
	} {
		_, err := UnpackInto(t.Context(), tree, packed(t, c.in), Rules{KeepKinds: true})
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v; want %v", c.name, err, c.want)
		}
	}
	if _, err := os.Stat(out + "/kept"); err != nil {
		t.Errorf("what the link led to is gone: %v", err)
	}
	u, err := UnpackInto(t.Context(), tree, packed(t,
		tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "tool", Mode: 0o6755, PAXRecords: map[string]string{xattrPrefix + capabilityXattr: capabilityValue}},
		tar.Header{Name: "shared/", Mode: 0o2775},
	), Rules{NoDevices: true, NoRights: true})
	must(t, err)
	if u.Lost["device"] != 1 || u.Lost["set-uid"] != 1 || u.Lost["capability"] != 1 {
		t.Errorf("lost %v; want a device, a set-uid bit and a capability", u.Lost)
	}
	if _, err := os.Lstat(dir + "/null"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the device is there: %v", err)
	}
	if st, err := os.Stat(dir + "/tool"); err != nil || st.Mode() != 0o755 {
		t.Errorf("tool: %v, %v; want -rwxr-xr-x", st.Mode(), err)
	}
	if st, err := os.Stat(dir + "/shared"); err != nil || st.Mode()&fs.ModeSetgid == 0 {
		t.Errorf("shared: %v, %v; want the set-group-ID bit of a folder kept", st.Mode(), err)
	}
}

// capabilityValue is cap_net_raw=ep, in the form of setcap(8).
const capabilityValue = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
