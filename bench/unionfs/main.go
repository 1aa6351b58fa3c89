// Command unionfs measures the aufs-fuse driver of lab 05 against fuse-overlayfs, and sees that what comes out is the
// same as in a plain folder. bench/unionfs.sh builds and starts it.
//
// The work: unpack a root file system of about 250 MB with many small files, walk it, read it, delete half of it, with
// one process and with four; and the same on a root file system that lies in a read-only layer. Each work starts with a
// fresh mount, so that a cache of the union's is not what is measured.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/bench/archive"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

func main() {
	if reexec.Init() {
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// side is one way to have a folder.
type side struct {
	name    string
	mount   func(dir, lower string) error
	unmount func(dir string) error
	best    map[string]time.Duration
}

// dir has rw, work and union.
func target(dir string) string { return filepath.Join(dir, "union") }

var ours *unionfs.Union

func sides() []*side {
	ctx := context.Background()
	return []*side{{
		name:    "plain",
		mount:   func(dir, lower string) error { return unix.Mount(target(dir), target(dir), "", unix.MS_BIND, "") },
		unmount: func(dir string) error { return unix.Unmount(target(dir), 0) },
	}, {
		name: "fuse-overlayfs",
		mount: func(dir, lower string) error {
			return command("", "fuse-overlayfs", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/rw,workdir=%s/work", lower, dir, dir),
				target(dir))
		},
		unmount: func(dir string) error { return unix.Unmount(target(dir), 0) },
	}, {
		name: "aufs-fuse",
		mount: func(dir, lower string) (err error) {
			l := unionfs.Layers{Lower: []string{lower}, Upper: filepath.Join(dir, "rw")}
			ours, err = unionfs.Mount(ctx, unionfs.AufsFUSE, l, target(dir))
			return err
		},
		unmount: func(string) error { return ours.Unmount(ctx) },
	}}
}

// work is one shell command, in the union.
type work struct {
	name   string
	script string
	low    bool // the root file system is in the lower layer, instead of being unpacked
}

var works = []work{
	{"untar", `tar -xf "$1"`, false},
	{"find", `find . -printf '%s %m %u %T@ %p\n'`, false},
	{"read all", `find . -type f -print0 | xargs -0 cat`, false},
	{"delete half", `find . ! -type d | sort | awk 'NR % 2' | tr '\n' '\0' | xargs -0 rm -f`, false},
	{"4 at once", `for i in 1 2 3 4; do mkdir p$i; (cd p$i; tar -xf "$2"; find . -type f -print0 | xargs -0 cat; rm -rf usr) & done; wait`, false},
	{"find, below", `find . -printf '%s %m %u %T@ %p\n'`, true},
	{"read all, below", `find . -type f -print0 | xargs -0 cat`, true},
	{"delete half, below", `find . ! -type d | sort | awk 'NR % 2' | tr '\n' '\0' | xargs -0 rm -f`, true},
	{"copy up, below", `find . -name '*a*' -type f -print0 | xargs -0 chmod u+x`, true},
	{"4 at once, below", `for i in 0 1 2 3; do (find . -type f | awk "NR % 4 == $i" | tr '\n' '\0' | xargs -0 cat; mkdir q$i; cd q$i; tar -xf "$2") & done; wait`, true},
}

func run() error {
	rounds := 3
	if len(os.Args) > 1 {
		n, err := strconv.Atoi(os.Args[1])
		if err != nil {
			return err
		}
		rounds = n
	}
	base, err := os.MkdirTemp("/var/tmp", "nslab-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(base)
	// In memory: a disk would be most of what is measured, and ext4 is slow to create where much was just deleted, so
	// that who comes second pays for the first.
	if err := unix.Mount("bench", base, "tmpfs", 0, "size=80%"); err != nil {
		return fmt.Errorf("mount a tmpfs to work in: %w", err)
	}
	defer unix.Unmount(base, unix.MNT_DETACH)
	big, small := filepath.Join(base, "big.tar"), filepath.Join(base, "small.tar")
	if err := archive.Make(big, 250<<20); err != nil {
		return err
	}
	if err := archive.Make(small, 40<<20); err != nil {
		return err
	}
	all := sides()
	for _, s := range all {
		s.best = map[string]time.Duration{}
	}
	for round := range rounds {
		for i, s := range all {
			dir := filepath.Join(base, s.name)
			if err := s.round(dir, big, small); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if i > 0 && round == 0 {
				if err := compare(filepath.Join(base, "plain"), dir); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
		}
		for _, s := range all {
			if err := os.RemoveAll(filepath.Join(base, s.name)); err != nil {
				return err
			}
		}
	}
	report(all)
	return nil
}

// round does all works once. What the works on an unpacked tree leave is kept as dir/first, for the comparison.
func (s *side) round(dir, big, small string) error {
	for _, name := range []string{"rw", "work", "union", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	lower := filepath.Join(dir, "empty")
	low := false
	for _, w := range works {
		if w.low && !low {
			low = true
			if err := s.keep(dir, lower); err != nil {
				return err
			}
			lower = filepath.Join(dir, "lower")
			if s.name == "plain" {
				lower = target(dir) // it has no layers: the tree itself
			}
			if err := command("", "sh", "-ec", `mkdir -p "$1"; tar -xf "$2" -C "$1"`, "sh", lower, big); err != nil {
				return err
			}
		}
		if err := s.one(dir, lower, w, big, small); err != nil {
			return err
		}
	}
	return s.snapshot(dir, lower, "second")
}

// one does one work on a fresh mount.
func (s *side) one(dir, lower string, w work, big, small string) (err error) {
	unix.Sync()                                                                      // else one pays for what another has written
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil { // names and inodes; data stay
		return err
	}
	if err := s.mount(dir, lower); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.unmount(dir)) }()
	start := time.Now()
	if err := command(target(dir), "sh", "-ec", "("+w.script+") >/dev/null", "sh", big, small); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	took := time.Since(start)
	if best, ok := s.best[w.name]; !ok || took < best {
		s.best[w.name] = took
	}
	return nil
}

func (s *side) keep(dir, lower string) error {
	if err := s.snapshot(dir, lower, "first"); err != nil {
		return err
	}
	for _, name := range []string{"rw", "work", "union"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// snapshot writes down everything of the tree, as a file to compare.
func (s *side) snapshot(dir, lower, name string) (err error) {
	if err := s.mount(dir, lower); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.unmount(dir)) }()
	// Content, mode, owner, time, link count, target; folders' times were given by the clock, and link counts of
	// folders by the file system.
	return command(target(dir), "sh", "-ec", `
		{
			find . -type d -printf '%p %m %U:%G\n'
			find . ! -type d ! -path './p?' ! -path './q?' -printf '%p %y %m %U:%G %T@ %s %l\n'
			find . -type f -links +1 -printf '%i %p\n' | sort | awk '{ if ($1 == last) print "link", $2; last = $1 }' | wc -l
			find . -type f -print0 | sort -z | xargs -0 sha256sum
			getfattr -R -h -d -m user . 2>/dev/null || true
		} | sort > "$1"`, "sh", filepath.Join(dir, name))
}

func compare(plain, other string) error {
	for _, name := range []string{"first", "second"} {
		if err := command("", "cmp", filepath.Join(plain, name), filepath.Join(other, name)); err != nil {
			command("", "sh", "-c", `diff "$1" "$2" | head >&2`, "sh", filepath.Join(plain, name), filepath.Join(other, name))
			return fmt.Errorf("the result differs from a plain folder's: %w", err)
		}
	}
	return nil
}

func report(all []*side) {
	fmt.Printf("%-20s %10s %16s %12s %22s\n", "", "plain", "fuse-overlayfs", "aufs-fuse", "fuse-overlayfs / ours")
	for _, w := range works {
		p, f, o := all[0].best[w.name], all[1].best[w.name], all[2].best[w.name]
		fmt.Printf("%-20s %9.2fs %15.2fs %11.2fs %22.2f\n", w.name, p.Seconds(), f.Seconds(), o.Seconds(), f.Seconds()/o.Seconds())
	}
}

func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	return cmd.Run()
}
