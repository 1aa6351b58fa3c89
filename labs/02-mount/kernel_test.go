package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

// own moves the test into a private mount namespace, where it may mount, and returns a folder on a tmpfs of its own. The
// thread is never unlocked: it ends with the test, and the namespace with it.
func own(t *testing.T) (context.Context, string) {
	t.Helper()
	coursetest.NeedRoot(t)
	ctx := trace.With(t.Context(), func(r trace.Record) { t.Log(r.At, r) })
	runtime.LockOSThread()
	dir := t.TempDir() // made and removed outside: its clean-up runs after the mounts are detached
	if err := Unshare(ctx); err != nil {
		t.Fatal(err)
	}
	if err := PrivateTree(ctx, "/"); err != nil {
		t.Fatal(err)
	}
	if err := Tmpfs(ctx, dir, TmpfsOptions{Size: 1 << 20, Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Detach(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	for _, d := range []string{"a", "b", "a/sub"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return ctx, dir
}

func at(t *testing.T, target string) Entry {
	t.Helper()
	table, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	m, _ := table.At(target)
	return m
}

func writable(dir string) error {
	name := filepath.Join(dir, "probe")
	err := os.WriteFile(name, nil, 0o600)
	if err == nil {
		err = os.Remove(name)
	}
	return err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBindReadOnly(t *testing.T) {
	ctx, dir := own(t)
	a, b := dir+"/a", dir+"/b"
	must(t, Syscall(ctx, a, b, "", unix.MS_BIND|unix.MS_RDONLY, ""))
	if err := writable(b); err != nil {
		t.Errorf("after one call: write = %v; want the kernel to have ignored MS_RDONLY", err)
	}
	must(t, Unmount(ctx, b))
	must(t, BindReadOnly(ctx, a, b))
	if err := writable(b); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to the bind = %v; want EROFS", err)
	}
	if err := writable(a); err != nil {
		t.Errorf("write to the source = %v; want it writable", err)
	}
}

func TestRemountKeepsFlags(t *testing.T) {
	ctx, dir := own(t)
	b := dir + "/b"
	must(t, Tmpfs(ctx, b, TmpfsOptions{Flags: unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME}))
	must(t, Remount(ctx, b, unix.MS_RDONLY, 0))
	if got, want := at(t, b).Options, "ro,nosuid,noexec,noatime"; got != want {
		t.Errorf("options = %q; want %q", got, want)
	}
	must(t, Remount(ctx, b, 0, unix.MS_RDONLY|unix.MS_NOATIME))
	if got, want := at(t, b).Options, "rw,nosuid,noexec,relatime"; got != want {
		t.Errorf("options = %q; want %q", got, want)
	}
}

func TestPropagation(t *testing.T) {
	ctx, dir := own(t)
	for _, c := range []struct {
		f    func(context.Context, string) error
		want string
	}{
		{Shared, "shared:"}, {Slave, "private"}, {SharedTree, "shared:"}, {Private, "private"}, {Unbindable, "unbindable"},
		{PrivateTree, "private"}, {UnbindableTree, "unbindable"}, {SlaveTree, "unbindable"},
	} {
		must(t, c.f(ctx, dir))
		// A group of one has no master to be a slave of: it becomes private; and slave leaves an unbindable mount alone.
		if got := at(t, dir).Propagation(); !strings.HasPrefix(got, c.want) {
			t.Errorf("propagation = %q; want %q", got, c.want)
		}
	}
}

func TestMount(t *testing.T) {
	ctx, dir := own(t)
	must(t, Tmpfs(ctx, dir+"/a/sub", TmpfsOptions{}))
	b := dir + "/b"
	for _, c := range []struct {
		mount       specs.Mount
		options     string
		propagation string
		below       string // what a write to the mount below answers
	}{
		{specs.Mount{Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "size=64k"}}, "rw,nosuid,relatime", "private", "none"},
		{specs.Mount{Source: dir + "/a", Options: []string{"bind"}}, "rw,relatime", "private", "none"},
		{specs.Mount{Source: dir + "/a", Options: []string{"rbind", "ro"}}, "ro,relatime", "private", "writable"},
		{specs.Mount{Source: dir + "/a", Options: []string{"rbind", "rro"}}, "ro,relatime", "private", "read-only"},
		{specs.Mount{Type: "bind", Source: dir + "/a", Options: []string{"nosuid", "noexec", "shared"}}, "rw,nosuid,noexec,relatime", "shared:", "none"},
		{specs.Mount{Source: dir + "/a", Options: []string{"rbind", "runbindable", "noatime"}}, "rw,noatime", "unbindable", "writable"},
	} {
		for _, through := range []string{"path", "descriptor"} {
			name := strings.Join(c.mount.Options, ",") + " through " + through
			m := c.mount
			m.Destination = b
			if through == "path" {
				must(t, Mount(ctx, m))
			} else {
				f, err := os.OpenFile(b, unix.O_PATH|unix.O_CLOEXEC, 0)
				must(t, err)
				must(t, MountAt(ctx, f, m))
				f.Close()
			}
			got := at(t, b)
			if got.Options != c.options || !strings.HasPrefix(got.Propagation(), c.propagation) {
				t.Errorf("%s: %q %q; want %q %q", name, got.Options, got.Propagation(), c.options, c.propagation)
			}
			below := "none"
			if is, _ := IsMountPoint(b + "/sub"); is {
				below = "writable"
				if errors.Is(writable(b+"/sub"), unix.EROFS) {
					below = "read-only"
				}
			}
			if below != c.below {
				t.Errorf("%s: the mount below is %s; want %s", name, below, c.below)
			}
			must(t, Detach(ctx, b))
		}
	}
}

func TestMountUndoesHalf(t *testing.T) {
	ctx, dir := own(t)
	m := specs.Mount{Source: dir + "/a", Destination: dir + "/b"}
	err := allOrNothing(ctx, m, Options{Flags: unix.MS_BIND, AttrSet: 1 << 40}) // an attribute that no kernel has
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("error = %v; want EINVAL", err)
	}
	if is, err := IsMountPoint(dir + "/b"); err != nil || is {
		t.Errorf("IsMountPoint = %v, %v; want the bind undone", is, err)
	}
}

func TestThrough(t *testing.T) {
	ctx, dir := own(t)
	f, err := os.OpenFile(dir+"/b", unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer f.Close()
	// Somebody puts a link in the place of the folder that was checked.
	must(t, os.Rename(dir+"/b", dir+"/moved"))
	must(t, os.Symlink("/", dir+"/b"))
	must(t, Bind(ctx, dir+"/a", Through(f)))
	if is, err := IsMountPoint(dir + "/moved"); err != nil || !is {
		t.Errorf("IsMountPoint = %v, %v; want the folder that was opened", is, err)
	}
	if err := BindReadOnly(ctx, dir+"/a", Through(f)); !errors.Is(err, errBeneath) {
		t.Errorf("BindReadOnly through a descriptor = %v; want it refused", err)
	}
	must(t, Detach(ctx, dir+"/moved"))
	must(t, MountAt(ctx, f, specs.Mount{Source: dir + "/a", Options: []string{"bind", "ro"}}))
	if err := writable(dir + "/moved"); !errors.Is(err, unix.EROFS) {
		t.Errorf("write = %v; want EROFS", err)
	}
}

func TestNewTmpfs(t *testing.T) {
	ctx, dir := own(t)
	before, err := Current()
	must(t, err)
	fs, err := NewTmpfs(ctx, TmpfsOptions{Name: "mine", Size: 64 << 10, Mode: 0o700, Flags: unix.MS_NOSUID})
	must(t, err)
	defer fs.Close()
	table, err := Current()
	must(t, err)
	if added := table.Added(before); len(added) != 0 {
		t.Errorf("a detached file system is in the table: %v", added)
	}
	must(t, Attach(ctx, fs, dir+"/b"))
	m := at(t, dir+"/b")
	if m.Source != "mine" || !m.Has("nosuid") || !strings.Contains(m.SuperOptions, "size=64k,mode=700") {
		t.Errorf("mount = %+v", m)
	}
	if _, err := NewFS(ctx, "tmpfs", "", []string{"sise=1m"}, 0); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "sise") {
		t.Errorf("NewFS with a misspelt option = %v; want EINVAL and the kernel's words", err)
	}
}

func TestHolders(t *testing.T) {
	_, dir := own(t)
	on := func(device string) func(Entry) bool { return func(e Entry) bool { return e.Device == device } }
	holders, err := Holders(on(at(t, dir).Device))
	must(t, err)
	// Only this thread is in the namespace, and /proc lists processes.
	if len(holders) != 0 {
		t.Errorf("Holders = %v; want none", holders)
	}
	root, err := Holders(on(at(t, "/").Device))
	must(t, err)
	if len(root) == 0 {
		t.Error("nobody holds the root file system")
	}
}

func TestConditions(t *testing.T) {
	ctx, dir := own(t)
	must(t, os.WriteFile(dir+"/file", nil, 0o600))
	must(t, os.Symlink("loop", dir+"/loop"))
	must(t, Tmpfs(ctx, dir+"/a/sub", TmpfsOptions{}))
	open, err := os.Create(dir + "/a/sub/open")
	must(t, err)
	defer open.Close()
	must(t, Tmpfs(ctx, dir+"/b", TmpfsOptions{}))
	must(t, Unbindable(ctx, dir+"/b"))
	for _, c := range []struct {
		err   error
		errno unix.Errno
		what  string // the condition that does not hold
	}{
		{Remount(ctx, dir+"/a", unix.MS_RDONLY, 0), unix.EINVAL, "the target is a mount point"},
		{Private(ctx, dir+"/a"), unix.EINVAL, "the target is a mount point"},
		{Unmount(ctx, dir+"/a"), unix.EINVAL, "the target is a mount point"},
		{Bind(ctx, dir+"/nothing", dir+"/a"), unix.ENOENT, "the source exists"},
		{Bind(ctx, dir+"/a", dir+"/nothing"), unix.ENOENT, "the target exists"},
		{Bind(ctx, dir+"/a", dir+"/file"), unix.ENOTDIR, "source and target are both folders, or both files"},
		{Bind(ctx, dir+"/b", dir+"/a"), unix.EINVAL, "the source does not lie in an unbindable mount"},
		{Bind(ctx, dir+"/a", dir+"/loop"), unix.ELOOP, "the target is no symbolic link"},
		{Unmount(ctx, dir+"/a/sub"), unix.EBUSY, "no process has a file open or works below the target"},
		{Unmount(ctx, dir), unix.EBUSY, "nothing is mounted below the target"},
		{Move(ctx, dir+"/a", dir+"/file"), unix.EINVAL, "the source is a mount point"},
		{Syscall(ctx, "x", dir+"/a", "nosuchfs", 0, ""), unix.ENODEV, "the kernel knows the file system"},
		{Syscall(ctx, dir+"/file", dir+"/a", "ext4", 0, ""), unix.ENOTBLK, "the source is a block device"},
		{Syscall(ctx, "x", dir+"/a", "tmpfs", 0, "sise=1m"), unix.EINVAL, "the file system knows the options"},
		{SetAttrAt(ctx, dir+"/a/sub", false, unix.MOUNT_ATTR_RDONLY, 0), unix.EBUSY, "no file below the target is open for writing"},
	} {
		if !errors.Is(c.err, c.errno) {
			t.Errorf("%q: got %v; want %v", c.what, c.err, c.errno)
			continue
		}
		found := false
		for _, cond := range diagnosis.Of(c.err) {
			if cond.What == c.what {
				found = true
				t.Logf("%v: ✗ %s (%s)", c.err, cond.What, cond.Detail)
			}
			if cond.OK == (cond.What == c.what) {
				t.Errorf("%v: %q is %v (%s)", c.err, cond.What, cond.OK, cond.Detail)
			}
		}
		if !found {
			t.Errorf("%v: no condition %q", c.err, c.what)
		}
	}
}
