package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	mount "github.com/nslab/nslab/labs/02-mount"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

func TestParseVolume(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]Mount{
		"/data":                    {Type: TypeVolume, Target: "/data"},
		"/data/../other/":          {Type: TypeVolume, Target: "/other"},
		"cache:/data":              {Type: TypeVolume, Source: "cache", Target: "/data"},
		"cache:/data:ro,nocopy":    {Type: TypeVolume, Source: "cache", Target: "/data", ReadOnly: true, NoCopy: true},
		"/srv:/data":               {Type: TypeBind, Source: "/srv", Target: "/data", Make: true},
		"/srv:/data:rw":            {Type: TypeBind, Source: "/srv", Target: "/data", Make: true},
		"/srv/../x:/data:ro,z":     {Type: TypeBind, Source: "/x", Target: "/data", Make: true, ReadOnly: true},
		"/srv:/data:rslave,cached": {Type: TypeBind, Source: "/srv", Target: "/data", Make: true, Propagation: "rslave"},
		"./srv:/data":              {Type: TypeBind, Source: filepath.Join(here, "srv"), Target: "/data", Make: true},
		"..:/data":                 {Type: TypeBind, Source: filepath.Dir(here), Target: "/data", Make: true},
	} {
		if got, err := ParseVolume(spec); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseVolume(%q) = %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{
		"", ":", "data", "x:/data", "a:b", "cache:data", ":/data", "cache:/", "cache:/data:", "cache:/data:ro:x", "cache:/x/..",
		"/srv:/data:ro,rw", "/srv:/data:nocopy", "cache:/data:rslave", "-x:/data", "../x/y z\n:/", "/srv:/data:shared,slave", "a/b:/c",
	} {
		if _, err := ParseVolume(spec); !errors.Is(err, ErrSpec) || strings.Contains(err.Error(), "\n") {
			t.Errorf("ParseVolume(%q): %v; want one line that is %v", spec, err, ErrSpec)
		}
	}
}

func TestParseMount(t *testing.T) {
	for spec, want := range map[string]Mount{
		"target=/data":                       {Type: TypeVolume, Target: "/data"},
		"type=bind,src=/srv,dst=/data,ro":    {Type: TypeBind, Source: "/srv", Target: "/data", ReadOnly: true},
		"Type=Bind,source=/srv,target=/data": {Type: TypeBind, Source: "/srv", Target: "/data"},
		"type=volume,source=cache,destination=/data,volume-nocopy,volume-label=a=b": {
			Type: TypeVolume, Source: "cache", Target: "/data", NoCopy: true, Labels: map[string]string{"a": "b"},
		},
		"type=bind,source=/srv,target=/data,readonly,bind-recursive=writable,bind-propagation=rshared": {
			Type: TypeBind, Source: "/srv", Target: "/data", ReadOnly: true, TopOnly: true, Propagation: "rshared",
		},
		"type=tmpfs,target=/run,tmpfs-size=1m,tmpfs-mode=700": {Type: TypeTmpfs, Target: "/run", Size: 1 << 20, Mode: 0o700},
		`type=bind,"source=/a,b",target=/data`:                {Type: TypeBind, Source: "/a,b", Target: "/data"},
		"type=bind,source=/srv,target=/data,readonly=false":   {Type: TypeBind, Source: "/srv", Target: "/data"},
	} {
		if got, err := ParseMount(spec); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("ParseMount(%q) = %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{
		"", "type=bind", "type=bind,target=/data", "type=disk,target=/data", "target=data", "target=/", "target", "nonsense=1,target=/d",
		"type=tmpfs,source=x,target=/d", "type=bind,source=/s,target=/d,volume-nocopy", "target=/d,tmpfs-size=1m", "target=/d,readonly=maybe",
		"type=tmpfs,target=/d,tmpfs-size=0", "type=tmpfs,target=/d,tmpfs-mode=999", "source=../x,target=/d", "target=/d,target=/e",
		"type=bind,source=/s,target=/d,bind-propagation=loud", `target=/d,"`,
	} {
		if _, err := ParseMount(spec); !errors.Is(err, ErrSpec) || strings.Contains(err.Error(), "\n") {
			t.Errorf("ParseMount(%q): %v; want one line that is %v", spec, err, ErrSpec)
		}
	}
}

func TestSpec(t *testing.T) {
	for _, test := range []struct {
		m    Mount
		want string
	}{
		{Mount{Type: TypeBind, Target: "/d"}, "bind rbind,rprivate"},
		{Mount{Type: TypeVolume, Target: "/d", ReadOnly: true}, "bind rbind,rro,rprivate"},
		{Mount{Type: TypeBind, Target: "/d", ReadOnly: true, TopOnly: true}, "bind rbind,ro,rprivate"},
		{Mount{Type: TypeBind, Target: "/d", ReadOnly: true, NonRecursive: true, Propagation: "rslave"}, "bind bind,ro,rslave"},
		{Mount{Type: TypeTmpfs, Target: "/d", Size: 4096, ReadOnly: true}, "tmpfs nosuid,nodev,noexec,mode=1777,size=4096,ro"},
	} {
		s := test.m.Spec("/source")
		if got := s.Type + " " + strings.Join(s.Options, ","); got != test.want {
			t.Errorf("Spec of %+v = %q; want %q", test.m, got, test.want)
		}
	}
	if err := Check([]Mount{{Target: "/a"}, {Target: "/b"}, {Target: "/a"}}); !errors.Is(err, ErrSpec) {
		t.Errorf("Check of two mounts on /a: %v", err)
	}
}

// own moves the test into a private mount namespace and returns a folder on a tmpfs of its own.
func own(t *testing.T) (context.Context, string) {
	t.Helper()
	coursetest.NeedRoot(t)
	runtime.LockOSThread() // and never unlocked: the thread ends with the test, and the namespace with it
	ctx, dir := context.WithoutCancel(t.Context()), t.TempDir()
	if err := errors.Join(mount.Unshare(ctx), mount.PrivateTree(ctx, "/"), mount.Tmpfs(ctx, dir, mount.TmpfsOptions{Size: 16 << 20})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.Detach(ctx, dir); err != nil {
			t.Error(err)
		}
	})
	return ctx, dir
}

func openRoot(t *testing.T, ctx context.Context, dir string) *rootfs.Tree {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tree, err := rootfs.OpenTree(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree
}

func put(t *testing.T, text string, parts ...string) string {
	t.Helper()
	file := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestBind(t *testing.T) {
	ctx, dir := own(t)
	host := filepath.Join(dir, "host")
	file := put(t, "one", host, "file")
	root := openRoot(t, ctx, filepath.Join(dir, "root"))
	for _, m := range []Mount{
		{Type: TypeBind, Source: host, Target: "/made/here"},
		{Type: TypeBind, Source: file, Target: "/etc/one", ReadOnly: true},
		{Type: TypeBind, Source: filepath.Join(dir, "new"), Target: "/new", Make: true},
		{Type: TypeTmpfs, Target: "/tmp", Size: 1 << 20},
	} {
		if err := Bind(ctx, root, m); err != nil {
			t.Fatalf("Bind(%+v): %v", m, err)
		}
	}
	in := func(p string) string { return filepath.Join(root.Path(), p) }
	if identity(in("made/here/file")) != identity(file) || identity(in("etc/one")) != identity(file) {
		t.Error("what is seen inside is not the host's file")
	}
	if err := os.WriteFile(in("etc/one"), nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing a file that is bound read-only: %v; want EROFS", err)
	}
	if st, err := os.Stat(filepath.Join(dir, "new")); err != nil || !st.IsDir() {
		t.Errorf("a missing source was to be made: %v", err)
	}
	if is, err := mount.IsMountPoint(in("tmp")); err != nil || !is {
		t.Errorf("no tmpfs: %v", err)
	}
	for want, m := range map[error]Mount{
		ErrRoot:     {Type: TypeBind, Source: host, Target: "/.."},
		ErrFolder:   {Type: TypeBind, Source: file, Target: "/made"},
		ErrFile:     {Type: TypeBind, Source: host, Target: "/etc/one"},
		unix.ENOENT: {Type: TypeBind, Source: filepath.Join(dir, "none"), Target: "/none"},
	} {
		if err := Bind(ctx, root, m); !errors.Is(err, want) {
			t.Errorf("Bind(%+v): %v; want %v", m, err, want)
		}
	}
	if _, err := os.Lstat(in("none")); err == nil {
		t.Error("a refused bind has made its target")
	}
}

// TestExchanged has a container exchange its folder for a link to the host, again and again, while a volume is put there.
func TestExchanged(t *testing.T) {
	ctx, dir := own(t)
	host, outside := filepath.Join(dir, "host"), filepath.Join(dir, "outside")
	put(t, "", host, "file")
	root := openRoot(t, ctx, filepath.Join(dir, "root"))
	for _, d := range []string{outside, filepath.Join(root.Path(), "a"), filepath.Join(root.Path(), "real")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, link := filepath.Join(root.Path(), "data"), filepath.Join(root.Path(), "link")
	if err := errors.Join(os.Mkdir(data, 0o755), os.Symlink(outside, link)); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, data, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	bound := 0
	for range 300 {
		err := Bind(ctx, root, Mount{Type: TypeBind, Source: host, Target: "/data"})
		if err == nil {
			bound++
		}
		if is, e := mount.IsMountPoint(outside); e != nil || is {
			t.Fatalf("the volume is on the host's folder: %v", e)
		}
	}
	close(stop)
	<-done
	if bound == 0 {
		t.Error("no bind has worked: nothing was tested")
	}
	t.Logf("%d of 300 binds found the folder, the others the link", bound)
}

func TestStore(t *testing.T) {
	store, err := OpenStore(filepath.Join(t.TempDir(), "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"..", ".", "a", "../../x", "a b", "a\nb", "/etc", "-x", ".making-x"} {
		if _, err := store.Create(name, nil); !errors.Is(err, ErrName) {
			t.Errorf("Create(%q): %v; want %v", name, err, ErrName)
		}
	}
	v, err := store.Create("cache", map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.Create("cache", nil)
	if err != nil || again.Mountpoint() != v.Mountpoint() || again.Labels["a"] != "b" {
		t.Errorf("Create of one that exists = %+v, %v", again, err)
	}
	if _, err := store.Create("cache", map[string]string{"a": "c"}); !errors.Is(err, ErrExists) {
		t.Errorf("Create with other labels: %v", err)
	}
	anonymous, err := store.Create("", nil)
	if err != nil || len(anonymous.Name) != 64 || !anonymous.Anonymous {
		t.Fatalf("Create without a name = %+v, %v", anonymous, err)
	}
	if err := errors.Join(store.Use("cache", "c1"), store.Use("cache", "c1"), store.Use("cache", "c2"), store.Release("cache", "c1")); err != nil {
		t.Fatal(err)
	}
	if err := store.Remove("cache"); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "c2") {
		t.Errorf("Remove of one in use: %v", err)
	}
	if removed, err := store.Prune(t.Context(), true); err != nil || len(removed) != 1 || removed[0] != anonymous.Name {
		t.Errorf("Prune = %q, %v; want the anonymous one", removed, err)
	}
	if err := errors.Join(store.Release("cache", "c2"), store.Remove("cache")); err != nil {
		t.Error(err)
	}
	if _, err := store.Get("cache"); !errors.Is(err, ErrNoVolume) {
		t.Errorf("Get of one that is removed: %v", err)
	}
}

// TestStoreKilled leaves what a killed nslab would, in the middle of making a volume and of removing one.
func TestStoreKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "volumes")
	store, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, "half", dir, making+"new", dataFolder, "file")
	put(t, "half", dir, removing+"old", dataFolder, "file")
	if list, err := store.List(); err != nil || len(list) != 0 {
		t.Errorf("List = %v, %v; want none", list, err)
	}
	v, err := store.Create("new", nil)
	if err != nil {
		t.Fatal(err)
	}
	if names(v.Mountpoint()) != "–" {
		t.Errorf("the new volume has the rest of the old one: %s", names(v.Mountpoint()))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*ing-*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestPopulate(t *testing.T) {
	ctx, dir := own(t)
	root := openRoot(t, ctx, filepath.Join(dir, "root"))
	image := filepath.Join(root.Path(), "var/db")
	file := put(t, "schema", image, "sub/schema")
	old := []unix.Timespec{{Sec: 1e9, Nsec: 5}, {Sec: 1e9, Nsec: 7}}
	err := errors.Join(os.Link(file, filepath.Join(image, "again")), os.Symlink("sub/schema", filepath.Join(image, "link")),
		unix.Mkfifo(filepath.Join(image, "pipe"), 0o640), unix.Mknod(filepath.Join(image, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		os.Chmod(file, 0o4711), os.Chown(image, 999, 998), os.Chmod(image, 0o2750), unix.Setxattr(file, "trusted.test", []byte("v"), 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{file, filepath.Join(image, "sub"), image} {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, f, old, 0); err != nil {
			t.Fatal(err)
		}
	}
	store, err := OpenStore(filepath.Join(dir, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := store.Create("db", nil)
	if err != nil {
		t.Fatal(err)
	}
	put(t, "half", filepath.Dir(v.Mountpoint()), copyFolder, "half") // a copy that was killed
	if copied, err := v.Populate(ctx, root, "/var/db"); err != nil || !copied {
		t.Fatalf("Populate = %t, %v", copied, err)
	}
	for _, f := range []string{".", "sub", "sub/schema", "again", "link", "pipe", "null"} {
		var a, b unix.Stat_t
		if err := errors.Join(unix.Lstat(filepath.Join(image, f), &a), unix.Lstat(filepath.Join(v.Mountpoint(), f), &b)); err != nil {
			t.Fatal(err)
		}
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev || a.Nlink != b.Nlink || a.Mtim != b.Mtim {
			t.Errorf("%s: mode %o, owner %d:%d, device %d, links %d, mtime %v; want %o, %d:%d, %d, %d, %v",
				f, b.Mode, b.Uid, b.Gid, b.Rdev, b.Nlink, b.Mtim, a.Mode, a.Uid, a.Gid, a.Rdev, a.Nlink, a.Mtim)
		}
	}
	if identity(filepath.Join(v.Mountpoint(), "again")) != identity(filepath.Join(v.Mountpoint(), "sub/schema")) {
		t.Error("two names of one file have become two files")
	}
	buf := make([]byte, 8)
	if n, err := unix.Getxattr(filepath.Join(v.Mountpoint(), "again"), "trusted.test", buf); err != nil || string(buf[:n]) != "v" {
		t.Errorf("extended attribute %q, %v", buf[:max(n, 0)], err)
	}
	if copied, err := v.Populate(ctx, root, "/var/db"); err != nil || copied {
		t.Errorf("Populate of one that has files = %t, %v; want nothing done", copied, err)
	}
	empty, err := store.Create("empty", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/none", "/var/db/pipe", "/var/db/sub/schema"} {
		if copied, err := empty.Populate(ctx, root, target); err != nil || copied {
			t.Errorf("Populate from %s = %t, %v; want nothing done", target, copied, err)
		}
	}
}
