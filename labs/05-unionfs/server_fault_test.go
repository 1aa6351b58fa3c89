package unionfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// smallDisk is a folder on a file system of its own, of so many bytes.
func smallDisk(t *testing.T, size int64) string {
	t.Helper()
	coursetest.NeedRoot(t)
	dir := t.TempDir()
	ctx := context.Background()
	must(t, mount.Tmpfs(ctx, dir, mount.TmpfsOptions{Size: size}))
	t.Cleanup(func() { must(t, mount.Unmount(ctx, dir)) })
	return dir
}

// on is a path in the union.
func on(u *Union, name string) string { return filepath.Join(u.Target, name) }

func TestUpperFull(t *testing.T) {
	upper, lower := smallDisk(t, 1<<20), t.TempDir()
	sow(t, lower, map[string]string{"big": strings.Repeat("x", 3<<20), "small": "s"})
	u := served(t, Branch{upper, RW}, Branch{lower, RO})
	f, err := os.OpenFile(on(u, "big"), os.O_WRONLY, 0)
	if err == nil {
		f.Close()
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("open a file for writing that does not fit = %v; want ENOSPC", err)
	}
	f, err = os.OpenFile(on(u, "small"), os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write(make([]byte, 3<<20))
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write more than fits = %v; want ENOSPC", err)
	}
	must(t, f.Close())
	for _, path := range []string{on(u, "big"), filepath.Join(lower, "big")} {
		if st, err := os.Stat(path); err != nil || st.Size() != 3<<20 {
			t.Errorf("stat %s = %v, %v; want it whole", path, st, err)
		}
	}
	for _, dir := range []string{upper, filepath.Join(upper, whOrphan)} {
		if _, err := os.Lstat(filepath.Join(dir, "big")); err == nil {
			t.Errorf("%s holds a part of it", dir)
		}
	}
	left, err := os.ReadDir(filepath.Join(upper, whOrphan))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("half a copy is left: %v", left)
	}
}

func TestServerKilled(t *testing.T) {
	coursetest.NeedRoot(t)
	a, b, target := t.TempDir(), t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"x": "below"})
	ctx := context.Background()
	u, err := mountFUSE(ctx, []Branch{{a, RW}, {b, RO}}, target)
	must(t, err)
	f, err := os.Open(on(u, "x"))
	must(t, err)
	defer f.Close()
	must(t, unix.Kill(u.Server, unix.SIGKILL))
	must(t, waitServer(ctx, u.Server))
	if _, err := os.Stat(on(u, "y")); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("stat below a dead union = %v; want ENOTCONN", err)
	}
	must(t, u.Unmount(ctx)) // though a file is open
	if _, err := os.Stat(on(u, "x")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("stat after the unmount = %v; want ENOENT", err)
	}
	u, err = mountFUSE(ctx, []Branch{{a, RW}, {b, RO}}, target) // the dead one's lock is gone
	must(t, err)
	must(t, u.Unmount(ctx))
}

func TestRefusals(t *testing.T) {
	coursetest.NeedRoot(t)
	a, b, target := t.TempDir(), t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"file": ""})
	file := filepath.Join(b, "file")
	for _, c := range []struct {
		branches []Branch
		want     error
	}{
		{nil, ErrNoBranch},
		{[]Branch{{a, RW}, {"/nowhere", RO}}, unix.ENOENT},
		{[]Branch{{a, RW}, {file, RO}}, unix.ENOTDIR},
		{[]Branch{{a, RW}, {b, RW}}, ErrSecondRW},
		{[]Branch{{a, "wr"}}, ErrUnknownMode},
	} {
		_, err := mountFUSE(context.Background(), c.branches, target)
		if !errors.Is(err, c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("mount %v = %q; want one line about %v", c.branches, err, c.want)
		}
		table, err := mount.Current()
		must(t, err)
		for _, m := range table {
			if m.Target == target {
				t.Errorf("%v left a mount", c.branches)
			}
		}
	}
	served(t, Branch{a, RW}, Branch{b, RO})
	_, err := mountFUSE(context.Background(), []Branch{{a, RW}}, target)
	if !errors.Is(err, ErrBranchBusy) {
		t.Errorf("mount a branch that another union writes to = %v; want ErrBranchBusy", err)
	}
}

func TestReservedNames(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"x": "", ".wh.y": "", "y": ""})
	u := served(t, Branch{a, RW}, Branch{b, RO})
	_, err := os.Stat(on(u, ".wh.x"))
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("stat .wh.x = %v; want EPERM", err)
	}
	for what, err := range map[string]error{
		"create": os.WriteFile(on(u, ".wh.x"), nil, 0o644),
		"mkdir":  os.Mkdir(on(u, ".wh..wh..opq"), 0o755),
		"rename": os.Rename(on(u, "x"), on(u, ".wh.z")),
		"remove": unix.Unlink(on(u, ".wh.y")),
	} {
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("%s of a reserved name = %v; want EPERM", what, err)
		}
	}
	must(t, os.Remove(on(u, "x")))
	entries, err := os.ReadDir(u.Target)
	must(t, err)
	if fmt.Sprint(entries) != "[- y]" {
		t.Errorf("the union lists %v; want y, which a plain ro branch's whiteout does not hide", entries)
	}
	if _, err := os.Lstat(filepath.Join(a, ".wh.x")); err != nil {
		t.Error(err)
	}
}

func TestLeftoversOfACrash(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, a, map[string]string{whOrphan + "/" + whMeta + "7": "half", whOrphan + "/dir/file": "", "x": "above", ".wh.x": ""})
	sow(t, b, map[string]string{"x": "below"})
	u := served(t, Branch{a, RW}, Branch{b, RO})
	left, err := os.ReadDir(filepath.Join(a, whOrphan))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("%s holds %v", whOrphan, left)
	}
	// Deleting x had come as far as the whiteout.
	data, err := os.ReadFile(on(u, "x"))
	if string(data) != "above" {
		t.Errorf("read x = %q, %v; want above: the deletion had not happened yet", data, err)
	}
	must(t, os.Remove(on(u, "x")))
	if _, err := os.Stat(on(u, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stat x = %v; want ENOENT", err)
	}
}

func TestHardLinksBelow(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"one": "text", "d/": "", "gone": ""})
	for _, name := range []string{"two", "d/three", "four"} {
		must(t, os.Link(filepath.Join(b, "one"), filepath.Join(b, name)))
	}
	u := served(t, Branch{a, RW}, Branch{b, RO})
	must(t, os.Remove(on(u, "four")))
	links := func(name string) uint64 {
		var st unix.Stat_t
		must(t, unix.Stat(on(u, name), &st))
		return uint64(st.Nlink)
	}
	if got := links("two"); got != 3 {
		t.Errorf("two has %d links; want 3: one of four was deleted", got)
	}
	must(t, os.WriteFile(on(u, "one"), []byte("new"), 0o644))
	for _, name := range []string{"one", "two", "d/three"} {
		data, err := os.ReadFile(on(u, name))
		if string(data) != "new" || links(name) != 3 {
			t.Errorf("%s = %q, %v, %d links; want new, 3 links", name, data, err, links(name))
		}
	}
	if data, err := os.ReadFile(filepath.Join(b, "two")); string(data) != "text" {
		t.Errorf("below, two = %q, %v; want it untouched", data, err)
	}
}

func TestHolesAreKept(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	f, err := os.Create(filepath.Join(b, "sparse"))
	must(t, err)
	const size = 1 << 30
	_, err = f.WriteAt([]byte("middle"), size/2)
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
	u := served(t, Branch{a, RW}, Branch{b, RO})
	must(t, os.Chmod(on(u, "sparse"), 0o600))
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(a, "sparse"), &st))
	if st.Size != size || st.Blocks > 1000 {
		t.Errorf("the copy has %d bytes in %d blocks; want %d in a few", st.Size, st.Blocks, size)
	}
	buf := make([]byte, 6)
	f, err = os.Open(on(u, "sparse"))
	must(t, err)
	defer f.Close()
	if _, err := f.ReadAt(buf, size/2); string(buf) != "middle" {
		t.Errorf("its middle = %q, %v", buf, err)
	}
}

// TestPrivileges: a write by somebody else takes the set-user-ID bit, in a branch as through the union, passed through
// or not.
func TestPrivileges(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	sow(t, b, map[string]string{"below": "x"})
	must(t, os.Chmod(filepath.Join(b, "below"), 0o777|os.ModeSetuid))
	u := served(t, Branch{a, RW}, Branch{b, RO})
	must(t, os.Chmod(u.Target, 0o777))
	for dir := u.Target; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o777))
	}
	must(t, os.WriteFile(on(u, "above"), []byte("x"), 0o777))
	must(t, os.Chmod(on(u, "above"), 0o777|os.ModeSetuid))
	for _, name := range []string{"below", "above"} {
		for _, how := range []string{`echo >> "$1"`, `: > "$1"`} {
			must(t, os.Chmod(on(u, name), 0o777|os.ModeSetuid))
			out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-ec", how, "sh",
				on(u, name)).CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v %s", how, err, out)
			}
			for _, path := range []string{on(u, name), filepath.Join(a, name)} {
				if st, err := os.Stat(path); err != nil || st.Mode()&os.ModeSetuid != 0 {
					t.Errorf("%s: after %s by nobody, its mode is %v, %v", path, how, st.Mode(), err)
				}
			}
		}
	}
	must(t, os.WriteFile(on(u, "mine"), []byte("x"), 0o600))
	if out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", on(u, "mine")).CombinedOutput(); err == nil {
		t.Errorf("nobody reads root's file: %s", out)
	}
}

// TestCopyUpUnderReaders: a large file is copied up while many read it, and while several open it to write.
func TestCopyUpUnderReaders(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	sow(t, b, map[string]string{"d/big": string(want)})
	u := served(t, Branch{a, RW}, Branch{b, RO})
	var group sync.WaitGroup
	problem := make(chan string, 100)
	for i := range 4 {
		group.Go(func() {
			for range 3 {
				data, err := os.ReadFile(on(u, "d/big"))
				if err != nil || len(data) < len(want) || !bytes.Equal(data[:len(want)-4], want[:len(want)-4]) {
					problem <- fmt.Sprintf("read: %d bytes, %v", len(data), err)
				}
			}
		})
		group.Go(func() {
			f, err := os.OpenFile(on(u, "d/big"), os.O_RDWR, 0)
			if err != nil {
				problem <- err.Error()
				return
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{byte('A' + i)}, int64(len(want)-4+i)); err != nil {
				problem <- err.Error()
			}
		})
	}
	group.Wait()
	close(problem)
	for p := range problem {
		t.Error(p)
	}
	data, err := os.ReadFile(filepath.Join(a, "d/big"))
	if !bytes.HasSuffix(data, []byte("ABCD")) || len(data) != len(want) {
		t.Errorf("the copy has %d bytes, %v, and ends in %q; want all four writes", len(data), err, data[len(data)-4:])
	}
}

func TestParseBranches(t *testing.T) {
	for _, c := range []struct{ option, want string }{
		{"br:/A=rw:/B=ro", "[/A=rw /B=ro]"},
		{"br=/A:/B", "[/A=rw /B=ro]"},
		{"dirs=/A=rw:/B=ro+wh:/C", "[/A=rw /B=ro+wh /C=ro]"},
		{"br:/A=ro", "[/A=ro]"},
		{"br:/a=b/c", "[/a=b/c=rw]"},
		{"br:", ""}, {"br:/A=rx", ""}, {"br:/A:/B=rw", ""}, {"A=rw", ""}, {"", ""}, {"br:/A::/B", ""},
	} {
		got, err := ParseBranches(c.option)
		if c.want == "" && (err == nil || strings.Contains(err.Error(), "\n")) || c.want != "" && fmt.Sprint(got) != c.want {
			t.Errorf("ParseBranches(%q) = %v, %v; want %s", c.option, got, err, c.want)
		}
	}
}
