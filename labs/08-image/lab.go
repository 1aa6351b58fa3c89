// Package image is lab 08: what a container image is, from the Dockerfile to the registry and back.
//
// It is a walkthrough only. Its stage is the package image at the top of the source tree, which keeps images, and
// engine/build, which makes them from Dockerfiles; they stand above the labs, so the steps run them as everybody does: by
// the commands `nslab image build`, `container commit`, `image push`. What the commands have done is then looked at without
// them. An image is files, and each of its claims can be recomputed with nothing but SHA-256 and a reader of tar archives.
//
// See the OCI image specification: image-layout.md, manifest.md, config.md, layer.md; and the distribution specification for
// what goes over the wire.
package image

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

//go:embed lab.go lab_build.go lab_files.go lab_commit.go lab_registry.go lab_look.go zh.go lesson.md lesson.zh.md
var files embed.FS

// Lab is the walkthrough. Its steps stand in lab_build.go (from a Dockerfile to layers), lab_files.go (what an image is on disk),
// lab_commit.go (from a container to a layer) and lab_registry.go (to another machine and back).
var Lab = course.Lab{
	Number: 8, Slug: "image", Minutes: 30,
	Title: course.Text{En: "An image: layers, digests, registries", Zh: "镜像：层、摘要与仓库"},
	Needs: []course.Need{
		course.NeedRootOrUserns, course.NeedMountNS, course.NeedPIDNS, course.NeedUTSNS, course.NeedIPCNS, course.NeedNetNS,
		course.NeedTmpfs, course.NeedOverlay,
	},
	Files: files,
	Steps: []course.Step{
		{ID: "dockerfile", Answer: 2, Run: dockerfile},
		{ID: "run", Run: runs},
		{ID: "digests", Answer: 3, Run: digests},
		{ID: "chain", Run: chain},
		{ID: "cache", Answer: 2, Run: cache},
		{ID: "shared", Answer: 1, Run: shared},
		{ID: "commit", Answer: 3, Run: commit},
		{ID: "push", Answer: 1, Run: push},
		{ID: "pull", Run: pull},
		{ID: "liar", Answer: 2, Run: liar},
	},
	Zh:   zh,
	Undo: map[string]course.Undo{kindStore: undoStore},
}

// kindStore is what a step journals: a place with a store of its own. Whatever nslab made for its containers is noted in there.
const kindStore = "store"

// undoStore ends what a killed step has left running. Its images lay on a tmpfs, which is gone with the walkthrough then.
func undoStore(ctx context.Context, dir string) (err error) {
	p := place{dir: dir, work: dir}
	if _, e := os.Stat(filepath.Join(dir, "run")); e == nil {
		_, err = p.nslab(trace.Off(ctx), "system", "prune", "--force")
	}
	gone := mount.Detach(ctx, p.disk())
	// It is no mount point here, or not there at all; an ordinary user hears EPERM, whatever it is, and had it in a namespace of
	// his own, which is gone.
	if errors.Is(gone, unix.EINVAL) || errors.Is(gone, unix.ENOENT) || errors.Is(gone, unix.EPERM) && os.Geteuid() != 0 {
		gone = nil
	}
	return errors.Join(err, gone)
}

// place is a machine of its own, as far as images go: a store, the run folder of its containers, and a folder to work in.
type place struct {
	dir  string // a folder of the step; the store lies in disk/root, the containers' run folder in run
	work string // where commands are run
}

func (p place) disk() string { return filepath.Join(p.dir, "disk") }

// base is the image to start from: a few programs of this machine, see lab 04.
const base = "base"

var programs = []string{"sh", "cat", "ls", "rm", "mkdir"}

// newPlace makes a place, with the image to start from if one is wanted.
func newPlace(t *course.T, name string, withBase bool) (p place, err error) {
	dir, err := t.Dir()
	if err != nil {
		return p, err
	}
	p.dir = filepath.Join(dir, name)
	p.work = filepath.Join(p.disk(), "work")
	err = t.Make(kindStore, []string{p.dir}, func() error {
		if err := os.MkdirAll(p.disk(), 0o755); err != nil {
			return err
		}
		// A file system of its own: the run root may lie on an overlay, which cannot be the upper layer of another one.
		return mount.Tmpfs(t.Untraced(), p.disk(), mount.TmpfsOptions{Name: t.Name(), Size: 512 << 20, Mode: 0o755})
	})
	if err != nil {
		return p, err
	}
	if err := os.MkdirAll(p.work, 0o755); err != nil || !withBase {
		return p, err
	}
	_, err = p.nslab(t.Untraced(), append([]string{"image", "bootstrap", "--quiet", "--tag", base}, programs...)...)
	return p, err
}

// nslab runs a command of nslab, as somebody at a shell would, on the place's own store. It returns what the command printed.
func (p place) nslab(ctx context.Context, args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = "nslab"
	cmd.Env = append(os.Environ(), "NSLAB_ROOT="+filepath.Join(p.dir, "disk/root"), "NSLAB_RUN_ROOT="+filepath.Join(p.dir, "run"),
		"DOCKER_CONFIG="+filepath.Join(p.dir, "disk")) // nobody's passwords are needed here
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.work, &out, &errOut
	// It dies with us: else it would go on writing to folders that are being cleaned up. What the kernel calls the parent is the
	// thread that forked, prctl(2), so that has to stay.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("fork, execve(%q)", "nslab "+strings.Join(args, " ")) }, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return out.String(), fmt.Errorf("nslab %s: %w: %s", strings.Join(args[:2], " "), err, strings.TrimSpace(errOut.String()))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

// write makes a file in the folder that commands are run in.
func (p place) write(name, content string) error {
	path := filepath.Join(p.work, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}
