package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// nslabSide is ours.
func nslabSide(program string) *side {
	s := &side{name: "nslab"}
	s.setup = func(ctx context.Context, b *bench) error {
		program, err := filepath.Abs(program)
		if err != nil {
			return err
		}
		e := &engine{
			program: []string{program, "--root", b.path("nslab"), "--run-root", filepath.Join(b.run, "nslab")},
			flags:   []string{"--network", "none"}, // as for the others, whose networks are nothing to compare
		}
		e.asSide(s)
		return e.begin(ctx, b)
	}
	return s
}

// podmanSide is podman with storage and state of its own.
func podmanSide() *side {
	s := &side{name: "podman"}
	s.setup = func(ctx context.Context, b *bench) error {
		if _, err := exec.LookPath("podman"); err != nil {
			return errors.New("not installed")
		}
		config := b.path("containers.conf")
		// Podman raises two limits for its containers, and does not start where it may not (no CAP_SYS_RESOURCE).
		var files, procs unix.Rlimit
		if err := errors.Join(unix.Getrlimit(unix.RLIMIT_NOFILE, &files), unix.Getrlimit(unix.RLIMIT_NPROC, &procs)); err != nil {
			return err
		}
		files.Max, procs.Max = min(files.Max, 1<<20), min(procs.Max, 1<<15)
		text := fmt.Sprintf("[containers]\ndefault_ulimits = [ \"nofile=%d:%d\", \"nproc=%d:%d\" ]\n[engine]\nevents_logger = \"none\"\n",
			files.Max, files.Max, procs.Max, procs.Max)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return err
		}
		e := &engine{
			program: []string{"env", "CONTAINERS_CONF=" + config, "podman", "--root", b.path("podman"),
				"--runroot", filepath.Join(b.run, "podman"), "--tmpdir", filepath.Join(b.run, "podman-tmp"), "--cgroup-manager", "cgroupfs"},
			flags: []string{"--network", "none", "--cgroup-parent", b.cgroup},
			force: []string{"--time", "0"},
		}
		e.asSide(s)
		err := e.begin(ctx, b)
		if err == nil {
			return nil
		}
		// crun, its usual runtime, refuses some machines (see crunSide).
		e.program = append(e.program, "--runtime", "runc")
		e.asSide(s)
		s.name = "podman with runc"
		if e.begin(ctx, b) != nil {
			return err
		}
		return nil
	}
	return s
}

// dockerSide starts a daemon of its own, on a socket that nobody else knows, without a bridge and without firewall rules.
func dockerSide() *side {
	s := &side{name: "docker"}
	s.setup = func(ctx context.Context, b *bench) error {
		for _, program := range []string{"dockerd", "docker"} {
			if _, err := exec.LookPath(program); err != nil {
				return errors.New(program + " is not installed")
			}
		}
		if err := startDaemon(ctx, b); err != nil {
			return err
		}
		e := &engine{
			program: []string{"docker", "--config", b.path("docker-client"), "--host", "unix://" + filepath.Join(b.run, "docker.sock")},
			flags:   []string{"--network", "none"},
		}
		e.asSide(s)
		for range 300 {
			if command(ctx, e.cmd("version")...) == nil {
				return e.begin(ctx, b)
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return ctx.Err()
			}
		}
		return fmt.Errorf("dockerd does not answer; its last words: %s", lastLine(b.path("dockerd.log")))
	}
	return s
}

func startDaemon(ctx context.Context, b *bench) error {
	config := b.path("daemon.json") // not the machine's
	if err := os.WriteFile(config, []byte("{}\n"), 0o644); err != nil {
		return err
	}
	log, err := os.Create(b.path("dockerd.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.Command("dockerd", "--config-file", config, "--host", "unix://"+filepath.Join(b.run, "docker.sock"),
		"--data-root", b.path("docker"), "--exec-root", filepath.Join(b.run, "docker"), "--pidfile", filepath.Join(b.run, "docker.pid"),
		"--cgroup-parent", "/"+b.cgroup, "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false")
	daemon.Stdout, daemon.Stderr = log, log
	// Ctrl-c is for us; the daemon ends when we say so, since it is still needed to clean up.
	daemon.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := daemon.Start(); err != nil {
		return err
	}
	b.daemon = daemon.Process.Pid
	b.later(func() error {
		if err := daemon.Process.Signal(unix.SIGTERM); err != nil {
			return err
		}
		return daemon.Wait()
	})
	return nil
}
