package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// floorSide is what no runtime gets below: floor.c, or unshare where there is no compiler, and nsenter.
func floorSide(program string) *side {
	s := &side{name: "floor: C, nsenter"}
	s.setup = func(ctx context.Context, b *bench) error {
		s.run = []string{program, b.rootfs, "/bin/true"}
		if _, err := os.Stat(program); err != nil {
			s.name = "floor: unshare, nsenter"
			s.run = []string{"unshare", "-muinpf", "chroot", b.rootfs, "/bin/true"}
		}
		var box *exec.Cmd
		s.hold = func(ctx context.Context) error {
			// unshare forks the process that is first in its namespaces; its number is what nsenter wants.
			box = exec.Command("unshare", "-muinpf", "--kill-child", "chroot", b.rootfs, "/bin/sleep", "100000")
			box.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
			if err := box.Start(); err != nil {
				return err
			}
			child, err := onlyChild(ctx, box.Process.Pid)
			if err != nil {
				return errors.Join(err, s.drop(ctx))
			}
			s.exec = []string{"nsenter", "-t", strconv.Itoa(child), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "/bin/true"}
			return nil
		}
		s.drop = func(context.Context) error {
			box.Process.Kill()
			box.Wait()
			return nil
		}
		s.exec = []string{"nsenter"}
		return command(ctx, s.run...)
	}
	return s
}

// crunSide is crun with or without control groups. Where there are control groups of both versions, and version 2 has
// controllers, crun refuses the machine; it is shown a machine that has version 1 alone.
func crunSide(groups bool) *side {
	s := &side{name: "crun"}
	flags := []string{"crun"}
	if !groups {
		s.name = "crun, no control groups"
		flags = append(flags, "--cgroup-manager=disabled")
	}
	s.setup = func(ctx context.Context, b *bench) error {
		if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.controllers"); err == nil {
			s.wrap = []string{"unshare", "-m", "sh", "-c", `umount /sys/fs/cgroup/unified && exec "$@"`, "sh"}
		}
		return ociSide(ctx, b, s, flags)
	}
	return s
}

func runcSide() *side {
	s := &side{name: "runc"}
	s.setup = func(ctx context.Context, b *bench) error { return ociSide(ctx, b, s, []string{"runc"}) }
	return s
}

// ociSide has a bundle whose config.json is what the runtime itself proposes.
func ociSide(ctx context.Context, b *bench, s *side, program []string) error {
	if _, err := exec.LookPath(program[0]); err != nil {
		return errors.New("not installed")
	}
	dir := b.path("bundle-" + s.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	program = append(program, "--root", filepath.Join(b.run, s.name))
	spec := exec.CommandContext(ctx, program[0], "spec")
	spec.Dir = dir
	if err := spec.Run(); err != nil {
		return err
	}
	hold := filepath.Join(dir, "hold")
	if err := os.Mkdir(hold, 0o755); err != nil {
		return err
	}
	if err := patchSpec(dir, dir, b.rootfs, "/"+b.cgroup+"/run", "true"); err != nil {
		return err
	}
	if err := patchSpec(dir, hold, b.rootfs, "/"+b.cgroup+"/hold", "sleep", "100000"); err != nil {
		return err
	}
	words := func(w ...string) []string { return join(program, w) }
	s.run = words("run", "--bundle", dir, "nslab-bench-run")
	s.exec = words("exec", "nslab-bench-hold", "true")
	s.hold = func(ctx context.Context) error {
		// It gets no standard streams to keep: we wait until the last one has closed ours.
		detach := words("run", "--detach", "--bundle", hold, "nslab-bench-hold")
		return command(ctx, join([]string{"sh", "-c", `exec "$@" </dev/null >/dev/null 2>&1`, "sh"}, s.wrap, detach)...)
	}
	s.drop = func(ctx context.Context) error {
		return command(ctx, join(s.wrap, words("delete", "--force", "nslab-bench-hold"))...)
	}
	return command(ctx, join(s.wrap, s.run)...)
}

func patchSpec(from, to, root, group string, args ...string) error {
	text, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	spec.Process.Terminal = false
	spec.Process.Args = args
	spec.Root.Path = root
	spec.Root.Readonly = false
	spec.Linux.CgroupsPath = group
	if text, err = json.Marshal(&spec); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "config.json"), text, 0o644)
}
