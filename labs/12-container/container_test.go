package container

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/sys/reexec"
	"github.com/opencontainers/runtime-spec/specs-go"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
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
	plan, err := rootfs.ThisHost().Plan(ctx, rootfs.Wanted{Programs: []string{"sh", "cat", "ls", "id", "sleep", "hostname", "true"}})
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
	out, status := output(t, newConfig(t, newSpec(t, "sh", "-c", "echo $$; hostname; id -u; echo x > /file; cat /file; cat /proc/self/cgroup; ls /dev /sys/fs/cgroup /sys/fs/cgroup/*; cat /proc/self/mountinfo; exit 7")))
	t.Log(out)
	if status != 7 {
		t.Errorf("status %d; want 7", status)
	}
}
