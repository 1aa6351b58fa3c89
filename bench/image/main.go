// Command image measures how a root file system becomes an image, and how an image is loaded and committed, side by side with
// tar, umoci, podman, buildah and docker on the same archive. bench/image.sh builds and starts it. docker needs a daemon, which
// DOCKER_HOST names.
//
// nslab stores the archive as it came beside the files, and has the archive on the disk when it says so. tar has done less, so
// it is measured twice: as it is, and with a sync after.
//
// Each run has a folder of its own, and all of them go at the end: for some minutes ext4 does not give out the inodes of
// deleted files again, and spends seconds on looking for others. Whoever removes between two runs measures that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/bench/archive"
)

const size = 250 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// side is somebody who can unpack an archive. The folder is his, and empty.
type side struct {
	name    string
	prepare [][]string // before the first run; DIR, TAR and NSLAB stand for paths
	command []string   // what is measured
	after   []string   // undoes it, where the folder is not all that it has changed
	sync    bool       // the disk is part of it
	times   []time.Duration
}

func sides() []*side {
	podman := []string{"podman", "--root", "DIR/root", "--runroot", "DIR/run"}
	// What is loaded is what nslab has saved: all read it, and it is the same for all.
	archive := [][]string{
		{"NSLAB", "--root", "SHARED/root", "image", "import", "TAR", "nslab-bench"},
		{"NSLAB", "--root", "SHARED/root", "image", "save", "-o", "SHARED/x.tar", "nslab-bench"},
	}
	// A small change: one file in a container of the whole image.
	nslab := []string{"NSLAB", "--root", "SHARED/root", "--run-root", "SHARED/run"}
	shared := []string{"podman", "--root", "SHARED/root", "--runroot", "SHARED/run"}
	return []*side{
		{name: "tar", command: []string{"tar", "-C", "DIR", "-xf", "TAR"}},
		{name: "tar, sync", command: []string{"tar", "-C", "DIR", "-xf", "TAR"}, sync: true},
		{name: "nslab image import", command: []string{"NSLAB", "--root", "DIR/root", "image", "import", "TAR", "x"}},
		{name: "umoci unpack", prepare: [][]string{
			{"umoci", "init", "--layout", "SHARED"}, {"umoci", "new", "--image", "SHARED:x"},
			{"umoci", "raw", "add-layer", "--image", "SHARED:x", "TAR"},
		}, command: []string{"umoci", "unpack", "--image", "SHARED:x", "DIR/bundle"}},
		{name: "podman import", command: slices.Concat(podman, []string{"import", "TAR", "x"})},
		{name: "nslab image load", prepare: archive, command: []string{"NSLAB", "--root", "DIR/root", "image", "load", "-i", "SHARED/x.tar"}},
		{name: "podman load", prepare: archive, command: slices.Concat(podman, []string{"load", "-q", "-i", "SHARED/x.tar"})},
		{name: "buildah pull", prepare: archive, command: []string{"buildah", "--root", "DIR/root", "--runroot", "DIR/run", "pull", "-q", "docker-archive:SHARED/x.tar"}},
		{name: "docker load", prepare: archive, command: []string{"docker", "load", "-q", "-i", "SHARED/x.tar"}, after: []string{"docker", "rmi", "-f", "nslab-bench"}},
		{name: "nslab commit", prepare: [][]string{
			slices.Concat(nslab, []string{"image", "import", "TAR", "x"}), slices.Concat(nslab, []string{"container", "create", "--name", "c", "x", "true"}),
			slices.Concat(nslab, []string{"container", "cp", "/etc/passwd", "c:/added"}),
		}, command: slices.Concat(nslab, []string{"container", "commit", "c", "y"})},
		{name: "podman commit", prepare: [][]string{
			slices.Concat(shared, []string{"import", "-q", "TAR", "x"}), slices.Concat(shared, []string{"create", "--name", "c", "x", "true"}),
			slices.Concat(shared, []string{"cp", "/etc/passwd", "c:/added"}),
		}, command: slices.Concat(shared, []string{"commit", "-q", "c", "y"})},
	}
}

func run(ctx context.Context) (err error) {
	nslab := flag.String("nslab", "bin/nslab", "the nslab to measure")
	flag.Parse()
	rounds := 5
	if flag.NArg() > 0 {
		if rounds, err = strconv.Atoi(flag.Arg(0)); err != nil || rounds < 1 {
			return fmt.Errorf("%q is no number of rounds", flag.Arg(0))
		}
	}
	parent := os.Getenv("BENCH_DIR")
	if parent == "" {
		parent = "/var/tmp"
	}
	dir, err := os.MkdirTemp(parent, "nslab-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, packing := range []string{"plain", "gzip"} {
		file := filepath.Join(dir, packing+".tar")
		var flags []string
		if packing == "gzip" {
			flags = []string{"--gzip"}
		}
		if err := archive.Make(file, size, flags...); err != nil {
			return err
		}
		st, err := os.Stat(file)
		if err != nil {
			return err
		}
		fmt.Printf("%s, %d MB\n", packing, st.Size()>>20)
		list := sides()
		if packing == "gzip" { // umoci packs a layer itself, so it has been measured
			list = slices.DeleteFunc(list, func(s *side) bool { return s.prepare != nil })
		}
		if err := measure(ctx, list, dir, file, *nslab, rounds); err != nil {
			return err
		}
	}
	return nil
}

func measure(ctx context.Context, list []*side, dir, file, nslab string, rounds int) error {
	for n := range rounds {
		for i, s := range list {
			if s.command == nil {
				continue
			}
			place := filepath.Join(dir, fmt.Sprintf("%s-%d-%d", filepath.Base(file), i, n))
			if err := os.Mkdir(place, 0o755); err != nil {
				return err
			}
			if err := s.once(ctx, n == 0, place, file, nslab, filepath.Join(dir, fmt.Sprint("shared-", i))); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				fmt.Printf("left out: %s: %v\n", s.name, err)
				s.command = nil
			}
		}
	}
	var base, synced time.Duration
	for _, s := range list {
		if s.command == nil {
			continue
		}
		slices.Sort(s.times)
		median := s.times[len(s.times)/2]
		if base == 0 {
			base = median
		}
		if s.sync {
			synced = median
		}
		fmt.Printf("  %-20s %6.2f s   %.2f × tar", s.name, median.Seconds(), float64(median)/float64(base))
		if synced != 0 {
			fmt.Printf("   %.2f × tar, sync", float64(median)/float64(synced))
		}
		fmt.Println()
	}
	return nil
}

// once measures one run.
func (s *side) once(ctx context.Context, first bool, place, file, nslab, shared string) error {
	paths := strings.NewReplacer("SHARED", shared, "NSLAB", nslab, "DIR", place, "TAR", file)
	fill := func(words []string) *exec.Cmd {
		filled := make([]string, len(words))
		for i, w := range words {
			filled[i] = paths.Replace(w)
		}
		return exec.CommandContext(ctx, filled[0], filled[1:]...)
	}
	for _, words := range s.prepare {
		if first {
			if out, err := fill(words).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", words[0], err, out)
			}
		}
	}
	unix.Sync() // what others have written is not our time
	cmd := fill(s.command)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if s.sync {
		f, err := os.Open(place)
		if err != nil {
			return err
		}
		if err := errors.Join(unix.Syncfs(int(f.Fd())), f.Close()); err != nil {
			return err
		}
	}
	s.times = append(s.times, time.Since(start))
	if s.after != nil {
		if out, err := fill(s.after).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", s.after[0], err, out)
		}
	}
	return nil
}
