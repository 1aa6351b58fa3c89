package rootfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/diagnosis"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// own moves the test into a mount namespace of its own, where it may change its root, and returns a folder on a tmpfs.
// The thread is never unlocked: it ends with the test, and root, working folder and namespace with it.
func own(t *testing.T) (context.Context, string) {
	t.Helper()
	coursetest.NeedRoot(t)
	ctx := trace.With(t.Context(), func(r trace.Record) { t.Log(r.At, r) })
	dir, err := os.MkdirTemp("", "nslab-rootfs-")
	must(t, err)
	t.Cleanup(func() {
		removed := make(chan error)
		go func() { removed <- os.RemoveAll(dir) }() // by another thread, which is outside and sees an empty folder
		must(t, <-removed)
	})
	runtime.LockOSThread()
	must(t, mount.Unshare(ctx)) // unshares root and working folder, too
	must(t, mount.PrivateTree(ctx, "/"))
	must(t, mount.Tmpfs(ctx, dir, mount.TmpfsOptions{Size: 1 << 30, Mode: 0o755}))
	return ctx, dir
}

// at is a folder below dir, made with what it holds.
func at(t *testing.T, dir string, names ...string) string {
	t.Helper()
	for _, name := range append(names, ".") {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func rootID(t *testing.T) string {
	t.Helper()
	id, err := identity("/")
	must(t, err)
	return id
}

// programsToTry are host programs of all kinds, each with what makes it say something and end, and with files that it
// opens by itself.
var programsToTry = []struct{ name, args, files string }{
	{name: "bash"}, {name: "sh", args: "-c|echo works"}, {name: "ls"}, {name: "cat"}, {name: "grep"}, {name: "sed"},
	{name: "awk", args: "BEGIN{print 6*7}"}, {name: "find"}, {name: "tar"}, {name: "gzip"}, {name: "sort"}, {name: "cp"},
	{name: "stat"}, {name: "id"}, {name: "date"}, {name: "diff"}, {name: "xargs"}, {name: "expr", args: "6|*|7"}, {name: "env"},
	{name: "head"}, {name: "sha256sum"}, {name: "mount"}, {name: "unshare"}, {name: "setpriv"}, {name: "ps"},
	{name: "ip", args: "-V"}, {name: "perl", args: "-e|print 6*7"}, {name: "python3"},
	{name: "git"}, {name: "ssh", args: "-V"}, {name: "gcc"}, {name: "make"}, {name: "vim"}, {name: "curl"},
	{name: "openssl", args: "version"}, {name: "strace"}, {name: "less"}, {name: "file"}, {name: "jq"},
	{name: "tmux", args: "-V", files: "/usr/lib/locale"}, {name: "node"}, {name: "qemu-system-x86_64"},
	{name: "busybox", args: "uname|-s"}, {name: "zgrep"}, {name: "ldd"}, {name: "gofmt", args: "-h"},
}

// TestPrograms builds a root for each of these programs that the machine has, and runs it in there. It must say the same
// as on the host.
func TestPrograms(t *testing.T) {
	ctx, place := own(t)
	h := Host{Root: "/", Path: []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin", "/usr/local/go/bin"}}
	tried := 0
	for _, p := range programsToTry { // not as sub-tests: they would run on other threads, in the host's namespace
		file, err := h.lookPath(p.name)
		if err != nil {
			continue // not on this machine
		}
		tried++
		if p.args == "" {
			p.args = "--version"
		}
		wanted := Wanted{Programs: []string{p.name}}
		if _, err := os.Stat(p.files); err == nil {
			wanted.Files = []string{p.files}
		}
		root := filepath.Join(place, p.name)
		must(t, os.Mkdir(root, 0o755))
		start := time.Now()
		plan, err := h.Plan(t.Context(), wanted)
		must(t, err)
		planned := time.Since(start)
		tree, err := OpenTree(t.Context(), root)
		must(t, err)
		u, err := Build(t.Context(), tree, plan)
		must(t, err)
		t.Logf("%s: %d files, %d bytes; planned in %s, built in %s", p.name, u.Files, u.Bytes, planned, time.Since(start)-planned)
		must(t, Proc(trace.Off(ctx), tree))
		_, err = Dev(trace.Off(ctx), tree, Devices())
		must(t, err)
		must(t, WriteEtc(trace.Off(ctx), tree, Etc{}))
		must(t, tree.Close())
		locale := "C"
		if p.files != "" {
			locale = "C.UTF-8"
		}
		args := strings.Split(p.args, "|")
		want, wantErr := runIn("", locale, file, args)
		got, gotErr := runIn(root, locale, file, args)
		if got != want || (gotErr == nil) != (wantErr == nil) {
			t.Errorf("%s in the new root: %q, %v\non the host: %q, %v\nfiles: %s", p.name, got, gotErr, want, wantErr, filesOf(plan))
		}
		if got == "" {
			t.Errorf("%s %s says nothing", p.name, p.args)
		}
	}
	if tried < 20 {
		t.Errorf("only %d of the programs are on this machine; want 20", tried)
	}
}

// runIn runs a program under a root, "" for ours.
func runIn(root, locale, file string, args []string) (string, error) {
	cmd := exec.Command(file, args...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin", "LC_ALL=" + locale, "HOME=/dev/null"}, "/"
	cmd.Stdin = strings.NewReader("")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	err := cmd.Run()
	return out.String(), err
}

// TestBuildKeeps compares what was built with what it was built from.
func TestBuildKeeps(t *testing.T) {
	coursetest.NeedRoot(t)
	src := t.TempDir()
	at(t, src, "etc/sub", "usr/bin")
	must(t, os.WriteFile(src+"/usr/bin/su", elfSpec{}.bytes(), 0o755))
	must(t, os.Chown(src+"/usr/bin/su", 12, 34))
	must(t, os.Chmod(src+"/usr/bin/su", 0o755|os.ModeSetuid))
	must(t, os.Link(src+"/usr/bin/su", src+"/usr/bin/su2"))
	must(t, os.Symlink("/etc/sub/x", src+"/etc/link"))
	must(t, unix.Mkfifo(src+"/etc/fifo", 0o600))
	must(t, unix.Mknod(src+"/etc/null", unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3))))
	must(t, os.WriteFile(src+"/etc/sub/x", []byte("x"), 0o640))
	must(t, os.Chmod(src+"/etc/sub", 0o500|os.ModeSticky))
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	must(t, unix.Setxattr(src+"/etc/sub/x", capabilityXattr, []byte(capability), 0))
	old := unix.NsecToTimespec(1_500_000_000_123_456_789)
	for _, name := range []string{"/etc/sub/x", "/etc/link", "/etc/sub"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, src+name, []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW))
	}
	plan, err := Host{Root: src, Path: []string{"/usr/bin"}}.Plan(t.Context(), Wanted{Programs: []string{"su", "su2"}, Files: []string{"/etc"}})
	must(t, err)
	dst := t.TempDir()
	tree, err := OpenTree(t.Context(), dst)
	must(t, err)
	defer tree.Close()
	for range 2 { // a second time over the first
		u, err := Build(t.Context(), tree, plan)
		must(t, err)
		if len(u.Lost) != 0 {
			t.Errorf("lost: %v", u.Lost)
		}
	}
	for _, e := range plan.Entries {
		var a, b unix.Stat_t
		must(t, unix.Lstat(src+e.Path, &a))
		must(t, unix.Lstat(dst+e.Path, &b))
		if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Size != b.Size && e.Mode.IsRegular() || a.Rdev != b.Rdev || a.Mtim != b.Mtim {
			t.Errorf("%s: %+v; want %+v", e.Path, b, a)
		}
	}
	var a, b unix.Stat_t
	must(t, unix.Stat(dst+"/usr/bin/su", &a))
	must(t, unix.Stat(dst+"/usr/bin/su2", &b))
	if a.Ino != b.Ino {
		t.Error("the two names are two files")
	}
	buf := make([]byte, 64)
	if n, err := unix.Getxattr(dst+"/etc/sub/x", capabilityXattr, buf); err != nil || string(buf[:n]) != capability {
		t.Errorf("capabilities: %x, %v", buf[:max(n, 0)], err)
	}
}

// hostile is a tar from somebody who wants to write outside.
func hostile(t *testing.T, headers ...*tar.Header) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 5
		}
		h.Mode = 0o755
		must(t, w.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			w.Write([]byte("owned"))
		}
	}
	must(t, w.Close())
	return &buf
}

func TestUnpackStaysInside(t *testing.T) {
	for name, headers := range map[string][]*tar.Header{
		"dots":          {{Name: "../precious", Typeflag: tar.TypeReg}},
		"dots within":   {{Name: "a/../../precious", Typeflag: tar.TypeReg}},
		"link up":       {{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink}, {Name: "l/precious", Typeflag: tar.TypeReg}},
		"absolute link": {{Name: "l", Linkname: "OUT", Typeflag: tar.TypeSymlink}, {Name: "l/precious", Typeflag: tar.TypeReg}},
		"link to file":  {{Name: "l", Linkname: "OUT/precious", Typeflag: tar.TypeSymlink}, {Name: "l", Typeflag: tar.TypeReg}},
		"hard link":     {{Name: "h", Linkname: "OUT/precious", Typeflag: tar.TypeLink}, {Name: "h", Typeflag: tar.TypeReg}},
		"hard link through link": {{Name: "l", Linkname: "..", Typeflag: tar.TypeSymlink},
			{Name: "h", Linkname: "l/precious", Typeflag: tar.TypeLink}},
		"folder becomes link": {{Name: "d", Typeflag: tar.TypeDir}, {Name: "d/x", Typeflag: tar.TypeReg},
			{Name: "d", Linkname: "..", Typeflag: tar.TypeSymlink}, {Name: "d/precious", Typeflag: tar.TypeReg}},
		"mode of a folder through a link": {{Name: "d", Typeflag: tar.TypeDir}, {Name: "e", Linkname: "..", Typeflag: tar.TypeSymlink},
			{Name: "e", Typeflag: tar.TypeDir}},
		"magic link": {{Name: "l", Linkname: "/proc/self/cwd", Typeflag: tar.TypeSymlink}, {Name: "l/precious", Typeflag: tar.TypeReg}},
		"absolute":   {{Name: "/OUT/precious", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			must(t, os.WriteFile(outside+"/precious", []byte("fine"), 0o600))
			must(t, os.Chmod(outside, 0o700))
			must(t, os.Mkdir(outside+"/root", 0o755))
			tree, err := OpenTree(t.Context(), outside+"/root")
			must(t, err)
			defer tree.Close()
			for _, h := range headers {
				h.Name, h.Linkname = strings.ReplaceAll(h.Name, "OUT", outside[1:]), strings.ReplaceAll(h.Linkname, "OUT", outside)
			}
			_, err = Unpack(t.Context(), tree, hostile(t, headers...))
			t.Log(err)
			text, readErr := os.ReadFile(outside + "/precious")
			st, statErr := os.Stat(outside + "/precious")
			dir, dirErr := os.Stat(outside)
			if string(text) != "fine" || st.Mode() != 0o600 || dir.Mode().Perm() != 0o700 || errors.Join(readErr, statErr, dirErr) != nil {
				t.Errorf("outside: %q %v %v; want it untouched", text, st.Mode(), dir.Mode())
			}
			if entries, _ := os.ReadDir(outside); len(entries) != 2 {
				t.Errorf("outside: %v; want nothing new", entries)
			}
		})
	}
}

func TestPivot(t *testing.T) {
	ctx, dir := own(t)
	root := at(t, dir+"/root", "inside")
	must(t, MountPoint(ctx, root))
	must(t, MountPoint(ctx, root)) // is one already
	want, err := identity(root)
	must(t, err)
	must(t, Pivot(ctx, root))
	if got := rootID(t); got != want {
		t.Errorf("root %s; want %s", got, want)
	}
	if here, err := unix.Getwd(); here != "/" || err != nil {
		t.Errorf("working folder %s, %v; want /", here, err)
	}
	must(t, walkOut(ctx))
	if got := rootID(t); got != want {
		t.Errorf("root after walking %s; want %s", got, want)
	}
}

// TestPivotDoesNotUnmountOutside: a mount below the old root that is still shared stays mounted for its peers.
func TestPivotDoesNotUnmountOutside(t *testing.T) {
	ctx, dir := own(t)
	at(t, dir, "root", "shared")
	must(t, mount.Tmpfs(ctx, dir+"/shared", mount.TmpfsOptions{Size: 1 << 20}))
	at(t, dir, "shared/disk")
	must(t, mount.Shared(ctx, dir+"/shared"))
	must(t, mount.Tmpfs(ctx, dir+"/shared/disk", mount.TmpfsOptions{Size: 1 << 20}))
	must(t, MountPoint(ctx, dir+"/root"))
	outside, err := os.Open("/proc/thread-self/mountinfo")
	must(t, err)
	defer outside.Close()
	must(t, mount.Unshare(ctx)) // the copies are peers; outside shows the first namespace
	must(t, Pivot(ctx, dir+"/root"))
	table, err := mount.ReadTable(outside)
	must(t, err)
	if _, ok := table.At(dir + "/shared/disk"); !ok {
		t.Error("the disk was unmounted in the other namespace")
	}
}

func TestChrootCanBeLeft(t *testing.T) {
	ctx, dir := own(t)
	host := rootID(t)
	must(t, Chroot(ctx, at(t, dir+"/root", "x")))
	if rootID(t) == host {
		t.Error("the root is the host's")
	}
	must(t, walkOut(ctx))
	if got := rootID(t); got != host {
		t.Errorf("root after walking %s; want the host's, %s", got, host)
	}
}

func TestPivotRefusals(t *testing.T) {
	ctx, dir := own(t)
	at(t, dir, "plain", "bound", "chrooted/bin")
	must(t, MountPoint(ctx, dir+"/bound"))
	for _, c := range []struct {
		dir, unmet string
		errno      error
	}{
		{dir + "/none", "the new root is a folder that exists", unix.ENOENT},
		{dir + "/plain", "the new root is a mount point", unix.EINVAL},
		{"/", "the new root is on another mount than the present root, put_old is on another mount than the present root", unix.EBUSY},
	} {
		before, err := unix.Getwd()
		must(t, err)
		err = Pivot(ctx, c.dir)
		if unmet := unmet(err); !errors.Is(err, c.errno) || unmet != c.unmet {
			t.Errorf("Pivot(%s) = %v; not met: %s; want %v, %s", c.dir, err, unmet, c.errno, c.unmet)
		}
		if after, _ := unix.Getwd(); after != before {
			t.Errorf("working folder %s after a refusal; want %s", after, before)
		}
	}
	must(t, mount.Shared(ctx, dir))
	if err := Pivot(ctx, dir+"/bound"); unmet(err) != "the mount around the new root is not shared" {
		t.Errorf("shared: %v; not met: %s", err, unmet(err))
	}
	if way, err := Enter(ctx, dir+"/bound"); err == nil || way.Call != "" {
		t.Errorf("Enter = %v, %v; want the refusal: chroot is no substitute for it", way, err)
	}
}

func unmet(err error) string {
	var list []string
	for _, c := range diagnosis.Of(err) {
		if !c.OK {
			list = append(list, c.What)
		}
	}
	return strings.Join(list, ", ")
}

// TestEnterOnInitramfs goes down to this machine's initial ramfs, which lies beneath every root: detach the root, and
// enter the namespace anew. There pivot_root is impossible.
func TestEnterOnInitramfs(t *testing.T) {
	ctx, dir := own(t)
	at(t, dir, "root/inside", "root/proc")
	proc, err := mount.Clone(ctx, "/proc", true)
	must(t, err)
	tree, err := mount.Clone(ctx, dir+"/root", false)
	must(t, err)
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	must(t, err)
	defer ns.Close()
	must(t, unix.Unmount("/", unix.MNT_DETACH))
	must(t, unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS))
	for _, name := range []string{"/proc", "/nslab-test"} { // folders in the memory of the machine's first file system
		if err := os.Mkdir(name, 0o755); err == nil {
			defer os.Remove(name)
		} else if !errors.Is(err, unix.EEXIST) {
			t.Fatal(err)
		}
	}
	// Deferred calls run on this thread, whose root is another one then: keep the ramfs by descriptor.
	ramfs, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer func() { must(t, errors.Join(unix.Fchdir(ramfs), unix.Chroot("."), unix.Close(ramfs))) }()
	must(t, mount.Attach(ctx, proc, "/proc"))
	must(t, mount.Attach(ctx, tree, "/nslab-test"))
	want, err := identity("/nslab-test")
	must(t, err)
	if err := Pivot(ctx, "/nslab-test"); unmet(err) != "the present root is not the initial ramfs" {
		t.Errorf("Pivot = %v; not met: %s", err, unmet(err))
	}
	way, err := Enter(ctx, "/nslab-test")
	must(t, err)
	if way != (Way{"chroot", OnInitramfs}) {
		t.Errorf("Enter = %+v", way)
	}
	if got := rootID(t); got != want {
		t.Errorf("root %s; want %s", got, want)
	}
	must(t, walkOut(ctx))
	if got := rootID(t); got != want {
		t.Errorf("root after walking %s; want %s", got, want)
	}
	// What was mounted on the ramfs is gone: nothing is left beneath but the ramfs itself.
	if err := unix.Unmount("/", unix.MNT_DETACH); err != nil {
		t.Errorf("unmount /: %v", err)
	}
}

func TestContainer(t *testing.T) {
	ctx, dir := own(t)
	root := at(t, dir+"/root")
	must(t, MountPoint(ctx, root))
	tree, err := OpenTree(ctx, root)
	must(t, err)
	defer tree.Close()
	must(t, Proc(ctx, tree))
	must(t, BindSys(ctx, tree))
	how, err := Dev(ctx, tree, Devices())
	must(t, err)
	must(t, WriteEtc(ctx, tree, Etc{Hostname: "box", Hosts: []HostEntry{{Names: []string{"box"}}}}))
	if how != Made {
		t.Errorf("devices by %s; want %s", how, Made)
	}
	for name, want := range map[string]string{
		"/etc/hostname": "box\n", "/etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
	} {
		if text, err := os.ReadFile(root + name); string(text) != want {
			t.Errorf("%s: %q, %v; want %q", name, text, err, want)
		}
	}
	var st unix.Stat_t
	must(t, unix.Stat(root+"/dev/full", &st))
	if st.Mode != unix.S_IFCHR|0o666 || st.Rdev != unix.Mkdev(1, 7) {
		t.Errorf("/dev/full: mode %o, device %#x", st.Mode, st.Rdev)
	}
	if err := os.WriteFile(root+"/dev/full", []byte("x"), 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write to /dev/full = %v; want ENOSPC", err)
	}
	if target, err := os.Readlink(root + "/dev/ptmx"); target != "pts/ptmx" {
		t.Errorf("/dev/ptmx → %s, %v", target, err)
	}
	if err := Proc(ctx, tree); !errors.Is(err, unix.EXDEV) || unmet(err) != "nothing is mounted on the folder yet" {
		t.Errorf("a second /proc: %v; not met: %s", err, unmet(err))
	}
	if err := os.WriteFile(root+"/sys/kernel/uevent_helper", nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to /sys = %v; want EROFS", err)
	}
}

// TestHostileImage: folders that are links are refused, files that are links are replaced, and nothing outside changes.
func TestHostileImage(t *testing.T) {
	ctx, dir := own(t)
	at(t, dir, "outside/pts", "root/real-etc")
	root := dir + "/root"
	for link, target := range map[string]string{
		"proc": dir + "/outside", "sys": "../outside", "dev": "/", "etc": "/real-etc", "real-etc/hosts": dir + "/outside/hosts",
		"real-etc/.nslab-hostname": dir + "/outside/x",
	} {
		must(t, os.Symlink(target, filepath.Join(root, link)))
	}
	tree, err := OpenTree(ctx, root)
	must(t, err)
	defer tree.Close()
	before, err := mount.Current()
	must(t, err)
	_, devErr := Dev(ctx, tree, Devices())
	for name, err := range map[string]error{"proc": Proc(ctx, tree), "sys": Sys(ctx, tree), "dev": devErr} {
		if !errors.Is(err, unix.ELOOP) || unmet(err) != "the folder is no symbolic link" {
			t.Errorf("%s: %v; not met: %s", name, err, unmet(err))
		}
	}
	must(t, WriteEtc(ctx, tree, Etc{Hostname: "box"}))
	after, err := mount.Current()
	must(t, err)
	if len(after.Added(before)) != 0 {
		t.Errorf("mounted: %v", after.Added(before))
	}
	if got, err := names(dir + "/outside"); got != "pts" {
		t.Errorf("outside: %s, %v; want only pts", got, err)
	}
	if st, err := os.Lstat(root + "/real-etc/hosts"); err != nil || !st.Mode().IsRegular() {
		t.Errorf("/etc/hosts: %v, %v; want a file", st, err)
	}
}

// TestBindDevice is the way of a user namespace, which root may go, too.
func TestBindDevice(t *testing.T) {
	ctx, dir := own(t)
	tree, err := OpenTree(ctx, dir)
	must(t, err)
	defer tree.Close()
	null := Devices()[0]
	must(t, tree.bindDevice(ctx, null))
	var st unix.Stat_t
	must(t, unix.Stat(dir+"/null", &st))
	if st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("device %#x; want 1:3", st.Rdev)
	}
	must(t, os.WriteFile(dir+"/null", []byte("gone"), 0))
	if err := os.Chmod(dir+"/null", 0o666); !errors.Is(err, unix.EROFS) {
		t.Errorf("chmod of a bound device: %v; want EROFS, for it is the host's file", err)
	}
	null.Minor = 5
	if err := tree.bindDevice(ctx, null); !errors.Is(err, unix.ENODEV) {
		t.Errorf("a /dev/null that is to be 1:5: %v; want ENODEV", err)
	}
	for _, name := range []string{"/etc/passwd", "/dev/../etc/x", "/dev", "/dev/.."} {
		null.Path = name
		if err := tree.mknod(ctx, null); !errors.Is(err, unix.EINVAL) {
			t.Errorf("mknod %s = %v; want EINVAL", name, err)
		}
	}
}

// TestTreeStaysInside: names and links of all kinds.
func TestTreeStaysInside(t *testing.T) {
	dir := t.TempDir()
	root := at(t, dir+"/root", "a/b")
	must(t, os.WriteFile(dir+"/secret", nil, 0o600))
	must(t, os.WriteFile(root+"/secret", nil, 0o600))
	for link, target := range map[string]string{"up": "..", "abs": "/a", "out": dir, "deep": "a/b/../../../../.."} {
		must(t, os.Symlink(target, filepath.Join(root, link)))
	}
	tree, err := OpenTree(t.Context(), root)
	must(t, err)
	defer tree.Close()
	var inside unix.Stat_t
	must(t, unix.Stat(root+"/secret", &inside))
	for _, name := range []string{"secret", "/secret", "../secret", "up/secret", "up/../up/secret", "deep/secret", "abs/../secret", "a/b/../../../secret"} {
		f, err := tree.Open(t.Context(), name, unix.O_PATH, 0)
		if err != nil {
			t.Errorf("open %s: %v", name, err)
			continue
		}
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		if st.Ino != inside.Ino {
			t.Errorf("open %s leads to another file", name)
		}
		f.Close()
	}
	if f, err := tree.Open(t.Context(), "out/secret", unix.O_PATH, 0); !errors.Is(err, unix.ENOENT) {
		t.Errorf("open out/secret = %v, %v; want ENOENT: inside, there is no such folder", f, err)
	}
}
