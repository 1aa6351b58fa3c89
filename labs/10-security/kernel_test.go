//go:build amd64 || arm64

package security

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	mount "github.com/nslab/nslab/labs/02-mount"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	setns "github.com/nslab/nslab/labs/06-setns"
	"github.com/nslab/nslab/trace"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

// onThread runs f on a thread that ends with it: what f gives up nobody else misses.
func onThread(t *testing.T, f func(ctx context.Context)) {
	t.Helper()
	ctx := trace.With(t.Context(), func(r trace.Record) { t.Log(r.At, r) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		f(ctx)
	}()
	<-done
}

// status is a field of the calling thread's status.
func status(t *testing.T, field string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Error(err)
	}
	return fieldOf(string(data), field)
}

func fieldOf(text, field string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func all4(names ...string) *specs.LinuxCapabilities {
	return &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}

func TestSetCapabilities(t *testing.T) {
	coursetest.NeedRoot(t)
	onThread(t, func(ctx context.Context) {
		c := all4("CAP_CHOWN", "CAP_SYS_CHROOT", "CAP_NET_RAW")
		c.Inheritable, c.Ambient = []string{"CAP_NET_RAW"}, []string{"CAP_NET_RAW"}
		if err := DropBounding(ctx, c.Bounding); err != nil {
			t.Error(err)
			return
		}
		if err := KeepCapabilities(ctx, true); err != nil {
			t.Error(err)
			return
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 1234, 1234, 1234); errno != 0 {
			t.Error(errno)
			return
		}
		if err := SetCapabilities(ctx, c); err != nil {
			t.Error(err)
			return
		}
		for field, want := range map[string]string{
			"CapBnd": "0000000000042001", "CapEff": "0000000000042001", "CapPrm": "0000000000042001",
			"CapInh": "0000000000002000", "CapAmb": "0000000000002000", "Uid": "1234\t1234\t1234\t1234",
		} {
			if got := status(t, field); got != want {
				t.Errorf("%s is %s; want %s", field, got, want)
			}
		}
		err := DropBounding(ctx, nil)
		if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "10-security: prctl PR_CAPBSET_DROP CAP_") {
			t.Errorf("without CAP_SETPCAP: %v", err)
		}
		var e *Error
		if !errors.As(err, &e) || len(e.Conditions()) != 1 || e.Conditions()[0].OK {
			t.Errorf("conditions of %v: want one that does not hold", err)
		}
		if err := SetCapabilities(ctx, all4("CAP_SYS_ADMIN")); !errors.Is(err, unix.EPERM) {
			t.Errorf("taking a capability that was given up: %v; want EPERM", err)
		}
	})
}

func TestCapabilities(t *testing.T) {
	held := heldCapabilities()
	if !slices.Contains(held, "CAP_CHOWN") {
		coursetest.Missing(t, "CAP_CHOWN in the bounding set")
	}
	defaults, err := Capabilities(nil, nil, false)
	if err != nil || len(defaults) == 0 || slices.ContainsFunc(defaults, func(c string) bool { return !slices.Contains(DefaultCapabilities(), c) }) {
		t.Fatalf("Capabilities(nil, nil, false) = %v, %v", defaults, err)
	}
	without := func(list []string, c ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(n string) bool { return slices.Contains(c, n) })
	}
	for _, test := range []struct {
		add, drop  string
		privileged bool
		want       []string
	}{
		{"", "chown", false, without(defaults, "CAP_CHOWN")},
		{"", "ALL", false, nil},
		{"Cap_Chown", "all", false, []string{"CAP_CHOWN"}},
		{"CAP_CHOWN", "", false, defaults},
		{"CHOWN", "CHOWN", false, append(without(defaults, "CAP_CHOWN"), "CAP_CHOWN")},
		{"ALL", "", false, held},
		{"cap_all", "CHOWN KILL", false, without(held, "CAP_CHOWN", "CAP_KILL")},
		{"ALL", "ALL", false, held},
		{"", "", true, held},
		{"chown", "chown", true, without(held, "CAP_CHOWN")},
	} {
		got, err := Capabilities(strings.Fields(test.add), strings.Fields(test.drop), test.privileged)
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("Capabilities(%q, %q, %v) = %v, %v; want %v", test.add, test.drop, test.privileged, got, err, test.want)
		}
	}
	for _, list := range [][2][]string{{{"CHOWN", "NONSENSE"}, nil}, {nil, {"CAP_"}}, {{""}, nil}, {{"CAP_CAP_CHOWN"}, nil}} {
		_, err := Capabilities(list[0], list[1], false)
		var typed *CapabilityError
		if !errors.As(err, &typed) || !errors.Is(err, ErrUnknown) {
			t.Errorf("Capabilities(%q) = %v; want ErrUnknown", list, err)
		}
	}
	for _, c := range KnownCapabilities() {
		if !slices.Contains(held, c) {
			if _, err := Capabilities([]string{c}, nil, false); !errors.Is(err, ErrNotHeld) {
				t.Errorf("Capabilities(%s) = %v; want ErrNotHeld", c, err)
			}
		}
	}
}

func compiled(t *testing.T, profile string) *Filter {
	t.Helper()
	s, err := ParseProfile([]byte(profile), nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(f) // it travels to the init
	if err != nil {
		t.Fatal(err)
	}
	g := &Filter{}
	if err := json.Unmarshal(data, g); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestLoad(t *testing.T) {
	f := compiled(t, `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
		{"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
		{"names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 2, "value": 7, "op": "SCMP_CMP_EQ"}]}]}`)
	onThread(t, func(ctx context.Context) {
		if err := NoNewPrivileges(ctx); err != nil {
			t.Error(err)
			return
		}
		if err := f.Load(ctx); err != nil {
			t.Error(err)
			return
		}
		if got := status(t, "Seccomp") + status(t, "NoNewPrivs"); got != "21" {
			t.Errorf("Seccomp and NoNewPrivs are %s; want 21", got)
		}
		if err := unix.Mkdirat(unix.AT_FDCWD, "/never", 0o755); err != unix.ENOSPC {
			t.Errorf("mkdirat: %v; want the filter's ENOSPC", err)
		}
		for value, want := range map[int]error{7: unix.EPERM, 19: nil} {
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, value); err != want {
				t.Errorf("setpriority(0, 0, %d): %v; want %v", value, err, want)
			}
		}
	})
	onThread(t, func(ctx context.Context) { // without no_new_privs it takes a right
		if err := SetCapabilities(ctx, all4()); err != nil {
			t.Error(err)
		}
		err := f.Load(ctx)
		var e *Error
		if !errors.Is(err, unix.EACCES) || !errors.As(err, &e) || len(e.Conditions()) != 2 {
			t.Errorf("without no_new_privs: %v; want EACCES with conditions", err)
		}
	})
}

// TestDefaultFilterLoads is about the kernel's own checks of the program.
func TestDefaultFilterLoads(t *testing.T) {
	s, err := DefaultProfile(DefaultCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d instructions", len(f.Program)/size)
	onThread(t, func(ctx context.Context) {
		if err := errors.Join(NoNewPrivileges(ctx), f.Load(ctx)); err != nil {
			t.Error(err)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, 0, 0, 0); errno != unix.EPERM {
			t.Errorf("keyctl: %v; want EPERM", errno)
		}
		if _, _, errno := unix.RawSyscall(1000, 0, 0, 0); errno != unix.ENOSYS {
			t.Errorf("a call of the future: %v; want ENOSYS", errno)
		}
	})
	if err := (&Filter{}).Load(t.Context()); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an empty filter: %v; want EINVAL", err)
	}
}

// execute runs a program by lab 06's child, confined, and returns what it printed.
func execute(t *testing.T, cfg setns.Config, p *specs.Process, f *Filter, argv ...string) (string, syscall.WaitStatus, error) {
	t.Helper()
	var err error
	if cfg.Before, err = Before(p, f); err != nil {
		t.Fatal(err)
	}
	if cfg.After, err = After(p); err != nil {
		t.Fatal(err)
	}
	cfg.Last = Last(p, f)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cfg.Path, cfg.Args, cfg.Env = argv[0], argv, os.Environ()
	cfg.Streams = []*os.File{os.Stdin, w, w}
	ctx := trace.With(t.Context(), func(r trace.Record) { t.Log(r.At, r) })
	proc, err := setns.Start(ctx, cfg)
	w.Close()
	if err != nil {
		return "", 0, err
	}
	defer proc.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := proc.Wait(t.Context())
	return string(out), ended, err
}

func TestExecConfined(t *testing.T) {
	coursetest.NeedRoot(t)
	s, err := DefaultProfile(DefaultCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, nnp := range []bool{false, true} {
		for _, uid := range []uint32{0, 1234} {
			caps := all4("CAP_CHOWN", "CAP_NET_RAW")
			want := "0000000000002001"
			if uid != 0 {
				caps.Inheritable, caps.Ambient = []string{"CAP_NET_RAW"}, []string{"CAP_NET_RAW"}
				want = "0000000000002000" // an ordinary user keeps over execve what is ambient
			}
			cfg := setns.Config{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: unix.SIGKILL}
			out, ended, err := execute(t, cfg, &specs.Process{Capabilities: caps, NoNewPrivileges: nnp}, f, "cat", "/proc/self/status")
			if err != nil || ended != 0 {
				t.Fatalf("%v, status %v, %s", err, ended, out)
			}
			n := "0"
			if nnp {
				n = "1"
			}
			for field, want := range map[string]string{
				"CapEff": want, "CapBnd": "0000000000002001", "NoNewPrivs": n, "Seccomp": "2", "Seccomp_filters": "1",
				"Uid": strings.TrimSpace(strings.Repeat(fmt.Sprintf("%d\t", uid), 4)),
			} {
				if got := fieldOf(out, field); got != want {
					t.Errorf("no_new_privs %v, user %d: %s is %s; want %s", nnp, uid, field, got, want)
				}
			}
		}
	}
}

// TestStrictFilter: what a program may not do, lab 06's child does not do either once the filter is loaded. This one kills
// for a write and for the reading of a clock.
func TestStrictFilter(t *testing.T) {
	coursetest.NeedRoot(t)
	f := compiled(t, `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
		{"names": ["clock_gettime", "dup3", "close_range", "rt_sigprocmask", "prctl", "setresuid", "capset"], "action": "SCMP_ACT_KILL_PROCESS"},
		{"names": ["write"], "action": "SCMP_ACT_KILL_PROCESS"}]}`)
	p := &specs.Process{Capabilities: all4("CAP_CHOWN"), NoNewPrivileges: true}
	cfg := setns.Config{Credential: &syscall.Credential{}, Pdeathsig: unix.SIGKILL}
	if _, ended, err := execute(t, cfg, p, f, "/bin/true"); err != nil || ended != 0 {
		t.Errorf("true: %v, status %v; want that it runs", err, ended)
	}
	if _, ended, err := execute(t, cfg, p, f, "/bin/echo"); err != nil || ended.Signal() != unix.SIGSYS {
		t.Errorf("echo: %v, status %v; want that it is killed by SIGSYS", err, ended)
	}
	// A filter that the kernel refuses is an error, though success was reported first.
	_, _, err := execute(t, cfg, p, &Filter{Program: make([]byte, 8)}, "/bin/true")
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "seccomp") {
		t.Errorf("a bad filter: %v; want EINVAL", err)
	}
	// A program that is not there is still told, where the filter allows to.
	open := compiled(t, `{"defaultAction": "SCMP_ACT_ALLOW"}`)
	if _, _, err := execute(t, cfg, p, open, "/never"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no program: %v; want ENOENT", err)
	}
}

// own moves the test into a mount namespace of its own and returns a folder on a tmpfs; the thread ends with the test.
func own(t *testing.T) (context.Context, string) {
	t.Helper()
	coursetest.NeedRoot(t)
	ctx := trace.With(t.Context(), func(r trace.Record) { t.Log(r.At, r) })
	dir, err := os.MkdirTemp("", "nslab-security-")
	must(t, err)
	t.Cleanup(func() {
		removed := make(chan error)
		go func() { removed <- os.RemoveAll(dir) }()
		must(t, <-removed)
	})
	runtime.LockOSThread()
	must(t, mount.Unshare(ctx))
	must(t, mount.PrivateTree(ctx, "/"))
	must(t, mount.Tmpfs(ctx, dir, mount.TmpfsOptions{Size: 1 << 20, Mode: 0o755}))
	return ctx, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// text is what a file of the calling thread's mount namespace holds.
func text(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func TestMask(t *testing.T) {
	ctx, dir := own(t)
	outside := filepath.Join(dir, "outside")
	root := filepath.Join(dir, "root")
	for _, d := range []string{root + "/a", root + "/b", root + "/etc"} {
		must(t, os.MkdirAll(d, 0o755))
	}
	for _, f := range []string{outside, root + "/secret", root + "/a/inside", root + "/outside"} {
		must(t, os.WriteFile(f, []byte("secret"), 0o644))
	}
	must(t, os.Symlink(outside, root+"/absolute"))      // inside it means <root>/<dir>/outside, which is not there
	must(t, os.Symlink("../../../outside", root+"/up")) // inside it is /outside
	must(t, os.Symlink("loop", root+"/loop"))
	tree, err := rootfs.OpenTree(ctx, root)
	must(t, err)
	defer tree.Close()
	must(t, Mask(ctx, tree, []string{"/secret", "/a", "/b", "/absolute", "/up", "/missing", "/secret/below", "/none/at/all"}))
	for path, want := range map[string]string{"/secret": "", "/outside": ""} {
		if got := text(t, root+path); got != want {
			t.Errorf("%s holds %q; want %q", path, got, want)
		}
	}
	if got := text(t, outside); got != "secret" {
		t.Errorf("the file outside holds %q", got)
	}
	for _, d := range []string{"/a", "/b"} {
		entries, err := os.ReadDir(root + d)
		must(t, err)
		if len(entries) != 0 {
			t.Errorf("%s shows %v; want nothing", d, entries)
		}
		if err := os.Mkdir(root+d+"/new", 0o755); !errors.Is(err, unix.EROFS) {
			t.Errorf("mkdir in %s: %v; want EROFS", d, err)
		}
	}
	must(t, os.WriteFile(root+"/secret", []byte("gone"), 0)) // into the null device
	if err := os.Chmod(root+"/secret", 0o666); !errors.Is(err, unix.EROFS) {
		t.Errorf("chmod of a masked file: %v; want EROFS, for it is the host's /dev/null", err)
	}
	if err := Mask(ctx, tree, []string{"/loop"}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link to itself: %v; want ELOOP", err)
	}
}

func TestOpenNull(t *testing.T) {
	ctx, dir := own(t)
	fake := filepath.Join(dir, "null")
	must(t, os.WriteFile(fake, nil, 0o666))
	must(t, os.Symlink("/dev/null", filepath.Join(dir, "link")))
	must(t, unix.Mknod(filepath.Join(dir, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	for _, name := range []string{"null", "link", "zero"} {
		if f, err := openNull(ctx, filepath.Join(dir, name)); !errors.Is(err, ErrNotNull) {
			t.Errorf("openNull(%s) = %v, %v; want ErrNotNull", name, f, err)
		}
	}
}

func TestReadOnly(t *testing.T) {
	ctx, dir := own(t)
	must(t, os.MkdirAll(dir+"/sys/below", 0o755))
	must(t, mount.Tmpfs(ctx, dir+"/sys/below", mount.TmpfsOptions{Size: 1 << 20, Mode: 0o755}))
	must(t, os.WriteFile(dir+"/trigger", nil, 0o644))
	tree, err := rootfs.OpenTree(ctx, dir)
	must(t, err)
	defer tree.Close()
	must(t, ReadOnly(ctx, tree, []string{"/sys", "/trigger", "/missing"}))
	for _, path := range []string{"/sys/x", "/sys/below/x", "/trigger"} {
		if err := os.WriteFile(dir+path, []byte("x"), 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("write %s: %v; want EROFS", path, err)
		}
	}
	must(t, os.WriteFile(dir+"/free", nil, 0o644))
}

func TestDeviceRules(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	for _, test := range []struct {
		rule specs.LinuxDeviceCgroup
		want string
	}{
		{specs.LinuxDeviceCgroup{Access: "rwm"}, "a"},
		{specs.LinuxDeviceCgroup{Type: "a", Access: "r"}, "a *:* r"},
		{specs.LinuxDeviceCgroup{Type: "c", Major: n(1), Minor: n(3), Access: "rwm"}, "c 1:3 mrw"},
		{specs.LinuxDeviceCgroup{Type: "b", Major: n(8)}, "b 8:* mrw"},
		{specs.LinuxDeviceCgroup{Type: "c", Major: n(-1), Access: "m"}, "c *:* m"},
	} {
		r, err := parseRule(test.rule)
		if err != nil || r.String() != test.want {
			t.Errorf("parseRule(%+v) = %s, %v; want %s", test.rule, r, err, test.want)
		}
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "x"}, {Access: "rwx"}, {Type: "c", Major: n(1 << 40)}} {
		if r, err := parseRule(bad); err == nil {
			t.Errorf("parseRule(%+v) = %s; want an error", bad, r)
		}
	}
}

// TestLimitDevices tries devices from inside a group, on v1 and on v2, where this machine has them.
func TestLimitDevices(t *testing.T) {
	ctx, dir := own(t)
	system, err := cgroups.Discover()
	must(t, err)
	for name, controller := range map[string]string{"v1": "devices", "v2": cgroups.Core} {
		h, ok := system.Find(controller)
		if !ok || name == "v1" && h.Version == 2 {
			t.Logf("no %s here", name)
			continue
		}
		g, err := system.Plan(fmt.Sprintf("nslab-security-test-%d", os.Getpid()), controller)
		must(t, err)
		must(t, g.Create(ctx))
		t.Cleanup(func() { must(t, g.Delete(context.Background())) })
		zero := filepath.Join(dir, name)
		try := func() (out string) {
			t.Helper()
			script := fmt.Sprintf(`echo x > /dev/null && echo -n null; head -c 1 /dev/zero > /dev/null 2>&1 && echo -n " zero";
				mknod %s c 1 5 && echo -n " mknod"; rm -f %[1]s; : <> /dev/full && echo -n " full"`, zero)
			var groups []string
			for _, d := range g.Dirs {
				groups = append(groups, d.Path)
			}
			out, _, err := execute(t, setns.Config{Groups: groups}, &specs.Process{}, nil, "sh", "-c", "exec 2>&-; "+script)
			must(t, err)
			return out
		}
		i := func(n int64) *int64 { return &n }
		deny := specs.LinuxDeviceCgroup{Access: "rwm"}
		allow := func(minor int64, access string) specs.LinuxDeviceCgroup {
			return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: i(1), Minor: i(minor), Access: access}
		}
		for _, test := range []struct {
			rules []specs.LinuxDeviceCgroup
			want  string
		}{
			{DefaultDeviceRules(), "null zero mknod full"},
			{[]specs.LinuxDeviceCgroup{deny, allow(3, "rw"), allow(5, "w"), allow(7, "r"), allow(7, "w")}, "null full"},
			{[]specs.LinuxDeviceCgroup{allow(3, "w"), allow(7, "r")}, "null"},
			{[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, "null zero mknod full"},
			{nil, ""},
			{[]specs.LinuxDeviceCgroup{deny, allow(3, "rwm"), allow(5, "rwm"), {Type: "c", Major: i(1), Minor: i(5), Access: "m"}}, "null zero"},
		} {
			must(t, LimitDevices(ctx, g, test.rules))
			if got := try(); strings.TrimSpace(got) != test.want {
				t.Errorf("%s: with %+v these work: %s; want %s", name, test.rules, got, test.want)
			}
		}
		if name == "v2" {
			fd, err := unix.Open(g.Dirs[0].Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(fd)
			if ids, err := attached(fd); err != nil || len(ids) != 1 {
				t.Errorf("programs %v, %v; want one, however often the rules were changed", ids, err)
			}
		}
	}
}
