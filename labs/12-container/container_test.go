package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/reexec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

// newSpec is the least that a container needs.
func newSpec(t *testing.T, args ...string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "box",
		Root:     &specs.Root{},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs"},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/nslab-test-" + filepath.Base(t.TempDir()) + fmt.Sprint(os.Getpid()),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
		},
	}
}

// newConfig is a container on a union of a small root with an empty layer.
func newConfig(t *testing.T, spec *specs.Spec) Config {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"lower", "upper", "work", "merged", "run"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx := context.Background()
	plan, err := rootfs.ThisHost().Plan(ctx, rootfs.Wanted{Programs: []string{"sh", "cat", "ls", "id", "sleep", "hostname", "true", "grep"}})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := rootfs.OpenTree(ctx, filepath.Join(dir, "lower"))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if _, err := rootfs.Build(ctx, tree, plan); err != nil {
		t.Fatal(err)
	}
	spec.Root.Path = filepath.Join(dir, "merged")
	return Config{
		ID: "test", Dir: filepath.Join(dir, "run"), Spec: spec, Driver: unionfs.Overlay,
		Layers: unionfs.Layers{Lower: []string{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")},
	}
}

// output runs a container to its end, and returns what it wrote and its status.
func output(t *testing.T, cfg Config) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if testing.Verbose() {
		ctx = trace.With(ctx, func(r trace.Record) { t.Log(r.At, r.String(), r.Took) })
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Stdout, cfg.Stderr = w, w
	c, err := Create(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var out bytes.Buffer
	io.Copy(&out, r)
	status, err := c.Wait(ctx)
	if err != nil && status == 0 {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, false); err != nil {
		t.Error(err)
	}
	return out.String(), status.ExitStatus()
}

func TestRun(t *testing.T) {
	out, status := output(t, newConfig(t, newSpec(t, "sh", "-c", "echo $$; hostname; id -u; cat /proc/self/cgroup; exit 7")))
	want := "1\nbox\n0\n"
	if status != 7 || !strings.HasPrefix(out, want) {
		t.Errorf("output %q, status %d; want %q…, 7", out, status, want)
	}
	for line := range strings.Lines(out[min(len(want), len(out)):]) {
		if !strings.HasSuffix(line, ":/\n") {
			t.Errorf("it sees %q of the control groups above its own", line)
		}
	}
}

// TestRefused: whatever step fails, the error says which, and nothing is left.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*testing.T, *Config)
		want  string
		kind  Kind
	}{
		{"limit", func(_ *testing.T, c *Config) {
			quota := int64(5) // the kernel's least is 1000
			c.Spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota}}
		}, "03-cgroups: write", ""},
		{"mount", func(_ *testing.T, c *Config) {
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Type: "bind", Source: "/no/such", Destination: "/x"})
		}, "/no/such: no such file", KindSetUp},
		{"on root", func(_ *testing.T, c *Config) {
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Type: "tmpfs", Destination: "/.."})
		}, "mount on /", KindSetUp},
		{"in proc", func(_ *testing.T, c *Config) {
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Type: "tmpfs", Destination: "/proc/sys"})
		}, "inside of /proc", KindSetUp},
		{"in proc by a link", func(t *testing.T, c *Config) {
			lay(t, c, "/proc/1", "sneaky")
			c.Spec.Mounts = append(c.Spec.Mounts, specs.Mount{Type: "tmpfs", Destination: "/sneaky"})
		}, "inside of /proc", KindSetUp},
		{"proc is a link", func(t *testing.T, c *Config) { lay(t, c, "/tmp", "proc") }, "proc", KindSetUp},
		{"sysctl of the host", func(_ *testing.T, c *Config) {
			c.Spec.Linux.Sysctl = map[string]string{"../../etc/passwd": "x"}
		}, "open /proc/sys/etc/passwd", KindSetUp},
		{"user", func(_ *testing.T, c *Config) { c.User = "nobody-here" }, "unable to find user nobody-here", KindUser},
		{"passwd is a fifo", func(t *testing.T, c *Config) {
			fifo(t, c, "etc/passwd")
			c.User = "root"
		}, "no regular file", KindSetUp},
		{"program", func(_ *testing.T, c *Config) { c.Spec.Process.Args = []string{"no-such-program"} }, "executable file not found in $PATH", KindMissing},
		{"program that is nowhere looked for", func(_ *testing.T, c *Config) {
			c.Spec.Process.Args, c.Spec.Process.Env = []string{"sh"}, []string{"PATH=.:bin"}
		}, "executable file not found in $PATH", KindMissing},
		{"program with a long name", func(_ *testing.T, c *Config) {
			c.Spec.Process.Args = []string{strings.Repeat("x", 300)}
		}, "executable file not found in $PATH", KindMissing},
		{"program by path", func(_ *testing.T, c *Config) { c.Spec.Process.Args = []string{"/no/such"} }, "no such file", KindMissing},
		{"program is a folder", func(_ *testing.T, c *Config) { c.Spec.Process.Args = []string{"/dev"} }, "is a directory", KindProgram},
		{"cwd is a file", func(_ *testing.T, c *Config) { c.Spec.Process.Cwd = "/dev/null" }, "not a directory", KindCwd},
		{"cwd outside", func(_ *testing.T, c *Config) { c.Spec.Process.Cwd = "/proc/self/fd/3" }, "working folder", KindCwd},
		{"foreign namespace", func(_ *testing.T, c *Config) {
			c.Spec.Linux.Namespaces[2].Path = "/proc/self/ns/uts"
		}, "uts namespace", ""},
		{"no mount namespace", func(_ *testing.T, c *Config) { c.Spec.Linux.Namespaces = c.Spec.Linux.Namespaces[1:] }, "would be the host's", ""},
	} {
		refused := func(t *testing.T, hooks *specs.Hooks) {
			cfg := newConfig(t, newSpec(t, "true"))
			cfg.Spec.Hooks = hooks
			c.spoil(t, &cfg)
			before := whatIsThere(t, &cfg)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			made, err := Create(ctx, cfg)
			if err == nil {
				err = made.Start(ctx)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want one with %q", err, c.want)
			}
			var in *InitError
			if c.kind != "" && (!errors.As(err, &in) || in.Kind != c.kind) {
				t.Errorf("error %#v; want one of kind %s", err, c.kind)
			}
			if after := whatIsThere(t, &cfg); after != before {
				t.Errorf("left behind: %s; before: %s", after, before)
			}
		}
		t.Run(c.name, func(t *testing.T) { refused(t, nil) })
		// With a hook, the init is nslab.
		t.Run(c.name+", nslab as the init", func(t *testing.T) {
			refused(t, &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true", Args: []string{"true"}}}})
		})
	}
}

// whatIsThere lists what a container could leave on the host.
func whatIsThere(t *testing.T, cfg *Config) string {
	t.Helper()
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + cfg.Spec.Linux.CgroupsPath)
	if err != nil {
		t.Fatal(err)
	}
	state, err := os.ReadDir(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("groups %q, files %v, %d mounts, children %q", groups, state, strings.Count(string(mounts), "\n"), children)
}

func lay(t *testing.T, cfg *Config, target, name string) {
	t.Helper()
	path := filepath.Join(cfg.Layers.Lower[0], name)
	os.Remove(path)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func fifo(t *testing.T, cfg *Config, name string) {
	t.Helper()
	path := filepath.Join(cfg.Layers.Lower[0], name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if err := unix.Mkfifo(path, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLinksStayInside: links of the image that point out lead to the container's own files.
func TestLinksStayInside(t *testing.T) {
	outside := t.TempDir()
	spec := newSpec(t, "sh", "-c", "echo y > /data/inside; ls /up/data")
	spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: outside, Destination: "/up/data"})
	cfg := newConfig(t, spec)
	lay(t, &cfg, "../../../../../..", "up")
	out, status := output(t, cfg)
	if out != "inside\n" || status != 0 {
		t.Errorf("output %q, status %d; want \"inside\\n\", 0", out, status)
	}
	if _, err := os.Stat(filepath.Join(outside, "inside")); err != nil {
		t.Errorf("the volume was not where the link leads inside: %v", err)
	}
}

// TestRights: the program has what the spec says, and not more; exec gives the same.
func TestRights(t *testing.T) {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	spec := newSpec(t, "sh", "-c", "sleep 60")
	profile, err := security.DefaultProfile(caps)
	if err != nil {
		t.Fatal(err)
	}
	filter, err := security.Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	spec.Linux.Seccomp = profile
	spec.Process.NoNewPrivileges = true
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}}
	cfg := newConfig(t, spec)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Create(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Delete(ctx, true); err != nil {
			t.Error(err)
		}
	}()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"Uid": "1000 1000 1000 1000", "Gid": "1001 1001 1001 1001", "Groups": "7 8 1001", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": "0000000000000421", "CapPrm": "0000000000000000", // an ordinary user has none after execve
	}
	fields := func(pid int) map[string]string {
		got := map[string]string{}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(line, ":")
			if _, ok := want[key]; ok {
				got[key] = strings.Join(strings.Fields(value), " ")
			}
		}
		return got
	}
	if got := fields(c.Pid); !maps.Equal(got, want) {
		t.Errorf("the container's program has %v; want %v", got, want)
	}
	later, err := Load(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	p := *spec.Process
	p.Args = []string{"sleep", "60"}
	more, _, err := later.Exec(ctx, ExecConfig{Process: &p, Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	defer more.Close()
	if got := fields(more.Pid); !maps.Equal(got, want) {
		t.Errorf("the exec'd program has %v; want %v", got, want)
	}
	for _, ns := range []string{"pid", "net", "ipc", "uts", "mnt", "cgroup", "user"} {
		a, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.Pid, ns))
		b, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", more.Pid, ns))
		if err1 != nil || err2 != nil || a != b {
			t.Errorf("%s namespaces %s, %s (%v, %v); want the same", ns, a, b, err1, err2)
		}
	}
	a, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", more.Pid))
	if len(a) == 0 || string(a) != string(b) {
		t.Errorf("control groups\n%s\n%s; want the same", a, b)
	}
	if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", more.Pid)); err != nil || len(open) != 3 {
		t.Errorf("the exec'd program has descriptors %v, %v; want 3", open, err)
	}
	if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Pid)); err != nil || len(open) != 3 {
		t.Errorf("the container has descriptors %v, %v; want 3", open, err)
	}
}

// TestPause: what is paused stands still, is seen to, and dies all the same.
func TestPause(t *testing.T) {
	cfg := newConfig(t, newSpec(t, "sh", "-c", "while :; do :; done"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Create(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	s, err := Load(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Status(); got != "running" {
		t.Errorf("status %s; want running", got)
	}
	if err := s.Delete(ctx, false); !errors.Is(err, ErrState) {
		t.Errorf("deleting one that runs: %v; want %v", err, ErrState)
	}
	if err := s.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.Status(); got != "paused" {
		t.Errorf("status %s; want paused", got)
	}
	if err := s.Delete(ctx, true); err != nil {
		t.Fatal(err)
	}
	if got := s.Status(); got != "stopped" {
		t.Errorf("status %s; want stopped", got)
	}
	if err := s.Kill(ctx, unix.SIGTERM); !errors.Is(err, ErrState) {
		t.Errorf("a signal to one that is gone: %v; want %v", err, ErrState)
	}
}

// TestTerminal: a terminal of its own, which is its controlling one, and no other.
func TestTerminal(t *testing.T) {
	spec := newSpec(t, "sh", "-c", "ls -l /proc/self/fd/ | grep -c pts; test /dev/console -ef /proc/self/fd/0 && echo same; exec 3<>/dev/tty && echo controlling")
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Height: 11, Width: 77}
	cfg := newConfig(t, spec)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := Create(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	size, err := unix.IoctlGetWinsize(int(c.Console.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row != 11 || size.Col != 77 {
		t.Errorf("size %v, %v; want 11 rows, 77 columns", size, err)
	}
	out, _ := io.ReadAll(c.Console) // EIO when the last inner end is closed
	if got := strings.ReplaceAll(string(out), "\r", ""); got != "2\nsame\ncontrolling\n" {
		t.Errorf("output %q; want 2 descriptors on the terminal (the third is the pipe), the same as /dev/console, and that as /dev/tty", got)
	}
	if _, err := c.Wait(ctx); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, false); err != nil {
		t.Error(err)
	}
}

// TestSealed: what is executed in a container before its program is, cannot be written from inside: a walker, which is not nslab and
// is sealed, or nslab through a read-only mount.
func TestSealed(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, init := range []bool{false, true} {
		cfg := newConfig(t, newSpec(t, "sh", "-c", "sleep 60"))
		cfg.Init = init
		c, err := Create(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		exe := fmt.Sprintf("/proc/%d/exe", c.Pid)
		var fs unix.Statfs_t
		if err := unix.Statfs(exe, &fs); init && (err != nil || fs.Flags&unix.ST_RDONLY == 0) {
			t.Errorf("nslab as an init lies on a mount with flags %#x, %v; want ST_RDONLY", fs.Flags, err)
		}
		held, err := os.Open(exe)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.undo(ctx); err != nil {
			t.Fatal(err)
		}
		// Its file was busy for as long as it ran; now it is not.
		f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.Write([]byte("x"))
			f.Close()
		}
		if !init && !errors.Is(err, unix.EPERM) { // nslab's own stays busy, since this test executes it
			t.Errorf("written through /proc/PID/exe: %v; want EPERM", err)
		}
		held.Close()
	}
}
