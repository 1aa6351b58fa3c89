package container

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nslab/nslab/course"
	mount "github.com/nslab/nslab/labs/02-mount"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
)

//go:embed container.go init.go outside.go mounts.go union.go settings.go console.go process.go user.go namespaces.go link.go
//go:embed exec.go seal.go state.go hooks.go errors.go
//go:embed lab.go lab_build.go lab_inside.go lab_life.go lab_cost.go lab_vm.go lab_look.go actors.go zh.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_build.go (how a container comes about), lab_life.go (how it lives and
// ends), lab_inside.go (what it may do) and lab_cost.go (what it costs, lab_vm.go beside a virtual machine).
var Lab = course.Lab{
	Number: 12, Slug: "container", Minutes: 35,
	Title: course.Text{En: "A container, from all the parts", Zh: "把各部分合成一个容器"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS, course.NeedUTSNS, course.NeedIPCNS, course.NeedNetNS,
		course.NeedCgroupNS, course.NeedTmpfs, course.NeedOverlay,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "stages", Run: stages},
		{ID: "init", Answer: 2, Run: initBecomes},
		{ID: "layers", Answer: 3, Run: threeLayers},
		{ID: "limits", Run: limits},
		{ID: "single", Answer: 1, Run: single},
		{ID: "alone", Answer: 3, Run: alone},
		{ID: "undone", Run: undone},
		{ID: "exec", Run: execConfined},
		{ID: "sealed", Answer: 2, Run: sealedProgram},
		{ID: "cost", Answer: 2, Run: cost},
	},
	Zh:   zh,
	Undo: map[string]course.Undo{kindContainer: undoContainer},
}

// kindContainer is what a step journals: the folder of a container's state. All else that was made for it stands there.
const kindContainer = "container"

// undoContainer ends and removes a container as the runtime does, from what is on disk.
func undoContainer(ctx context.Context, dir string) error {
	s, err := Load(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Delete(ctx, true)
}

// place is where a step works.
type place struct {
	state string // the runtime's; not on the tmpfs, which ends with the walkthrough: whoever cleans up reads it
	disk  string // a tmpfs, since an upper folder cannot lie on another overlay
	image string // the read-only layer: a few programs of this machine
	init  string // the layer for what the runtime writes
	upper string // the read-write layer
	work  string
	root  string // where the union goes, in the container's own mount table
}

// programs are in the image. Each is asked for by a step.
var programs = []string{"sh", "sleep", "true", "rm"}

func newPlace(t *course.T) (p place, err error) {
	dir, err := t.Dir()
	if err != nil {
		return p, err
	}
	in := func(name string) string { return filepath.Join(dir, "disk", name) }
	p = place{
		state: filepath.Join(dir, "state"), disk: filepath.Join(dir, "disk"),
		image: in("image"), init: in("init"), upper: in("upper"), work: in("work"), root: in("root"),
	}
	if err := makeFolders(p.state, p.disk); err != nil {
		return p, err
	}
	if err := mount.Tmpfs(t.Untraced(), p.disk, mount.TmpfsOptions{Name: t.Name(), Size: 256 << 20, Mode: 0o755}); err != nil {
		return p, err
	}
	t.Cleanup(func(ctx context.Context) error { return mount.Detach(ctx, p.disk) })
	if err := makeFolders(p.image, p.init, p.upper, p.work, p.root); err != nil {
		return p, err
	}
	if err := fill(t.Untraced(), p.image, func(ctx context.Context, tree *rootfs.Tree) error {
		plan, err := rootfs.ThisHost().Plan(ctx, rootfs.Wanted{Programs: programs})
		if err != nil {
			return err
		}
		_, err = rootfs.Build(ctx, tree, plan)
		return err
	}); err != nil {
		return p, err
	}
	return p, fill(t.Untraced(), p.init, func(ctx context.Context, tree *rootfs.Tree) error {
		// The mount points, too: made here they are not in the read-write layer, and a commit does not take them.
		if err := makeFolders(filepath.Join(p.init, "proc"), filepath.Join(p.init, "sys"), filepath.Join(p.init, "dev")); err != nil {
			return err
		}
		return rootfs.WriteEtc(ctx, tree, rootfs.Etc{
			Hostname: hostname, Bare: true,
			Hosts:   []rootfs.HostEntry{{Address: netip.MustParseAddr("127.0.1.1"), Names: []string{hostname}}},
			Servers: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		})
	})
}

func fill(ctx context.Context, dir string, f func(context.Context, *rootfs.Tree) error) error {
	tree, err := rootfs.OpenTree(ctx, dir)
	if err != nil {
		return err
	}
	return errors.Join(f(ctx, tree), tree.Close())
}

func makeFolders(dirs ...string) error {
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

const hostname = "box"

// specFor is what an engine would make of `run IMAGE args…`: with its defaults, but without a view of the control groups,
// whose many mounts would hide the others.
func specFor(t *course.T, p place, args ...string) (*specs.Spec, error) {
	rights, err := security.Capabilities(nil, nil, false)
	if err != nil {
		return nil, err
	}
	profile, err := security.DefaultProfile(rights)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version: specs.Version, Hostname: hostname,
		Root: &specs.Root{Path: p.root},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Capabilities:    &specs.LinuxCapabilities{Bounding: rights, Effective: rights, Permitted: rights},
			NoNewPrivileges: true,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs"},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace},
			},
			Seccomp:     profile,
			MaskedPaths: security.MaskedPaths(), ReadonlyPaths: security.ReadonlyPaths(),
		},
	}
	if noGroup(t) == nil {
		spec.Linux.CgroupsPath = t.Name()
	}
	return spec, nil
}

// noGroup says why no control group can be made here; nil where one can. An ordinary user needs one that was given to him.
func noGroup(t *course.T) error {
	if !t.InUserNamespace() {
		return nil // and if it is refused, the learner shall see by what
	}
	for _, controller := range []string{"cpu", "memory", "pids"} {
		if err := cgroups.Probe(t.Untraced(), t.Name()+"-probe", controller, nil); err != nil {
			return err
		}
	}
	_, _, err := planGroup(&specs.Spec{Linux: &specs.Linux{CgroupsPath: t.Name()}})
	return err
}

// configFor is a container of the spec, on a union of the place's three kinds of layers.
func configFor(t *course.T, p place, spec *specs.Spec) Config {
	return Config{
		ID: t.Name(), Dir: p.state, Spec: spec, Driver: unionfs.Overlay,
		Layers: unionfs.Layers{Lower: []string{p.init, p.image}, Upper: p.upper, Work: p.work},
	}
}

// create calls the stage, and undoes it with the step.
func create(ctx context.Context, t *course.T, cfg Config) (c *Container, err error) {
	err = t.Make(kindContainer, []string{cfg.Dir}, func() error {
		c, err = Create(ctx, cfg)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func(ctx context.Context) error { return c.process.Kill(ctx) })
	return c, nil
}

// run creates a container and starts its program, whose standard output can be read line by line.
func run(ctx context.Context, t *course.T, cfg Config) (*Container, *listener, error) {
	out, w, err := listen()
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func(context.Context) error { return out.f.Close() })
	cfg.Stdout, cfg.Stderr = w, w
	c, err := create(ctx, t, cfg)
	if err == nil {
		err = c.Start(ctx)
	}
	return c, out, errors.Join(err, w.Close())
}

// listener hears what a program says.
type listener struct {
	f     *os.File
	lines *bufio.Reader
}

func listen() (out *listener, w *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &listener{r, bufio.NewReader(r)}, w, nil
}

// patience is how long a program may take to say a line: it is started, on a machine that may be very busy.
const patience = 20 * time.Second

// line is the next one, or why there is none.
func (o *listener) line() string {
	o.f.SetReadDeadline(time.Now().Add(patience))
	text, err := o.lines.ReadString('\n')
	if err != nil && text == "" {
		return err.Error()
	}
	return strings.TrimSpace(text)
}

// only is the step's context for calls whose texts begin with one of these words.
func only(t *course.T, words ...string) context.Context {
	shown := t.Context()
	return trace.With(t.Untraced(), func(r trace.Record) {
		for _, w := range words {
			if strings.HasPrefix(r.Text, w) {
				trace.Replay(shown, r)
				return
			}
		}
	})
}

func str(n int) string { return strconv.Itoa(n) }

// span is a time in words, with two or three digits that count.
func span(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
