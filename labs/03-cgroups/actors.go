package cgroups

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
	"github.com/nslab/nslab/trace"
)

// What this lab's boxes can do: waste CPU time, memory, disk bandwidth. The limits are set from outside, by the stage.
func init() {
	actor.Register("03-burn", func(context.Context, []string) (string, error) {
		burn()
		return "", nil
	})
	actor.Register("03-pin", pin)
	actor.Register("03-allocate", allocate)
	actor.Register("03-work", work)
	actor.Register("03-write", writeDirect)
}

// burn is the shell's `while : ; do : ; done`, on the main thread.
func burn() {
	//lint:ignore SA5002 to use 100 % of a CPU is what it is for
	for {
	}
}

// pin lets the thread that burns run on one CPU only. See sched_setaffinity(2).
func pin(ctx context.Context, args []string) (string, error) {
	cpu, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	var set unix.CPUSet
	set.Set(cpu)
	return "", trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("sched_setaffinity(0, {%d})", cpu) },
		func() error { return unix.SchedSetaffinity(0, &set) })
}

// touch allocates memory and writes to each page of it. Only the writing costs: until then a page is a promise, which the
// kernel makes to anybody, and which no controller counts.
func touch(ctx context.Context, mib int) error {
	size := mib << 20
	var mem []byte
	err := trace.Call(ctx, 0,
		func() string {
			return fmt.Sprintf("mmap(NULL, %d, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)", size)
		},
		func() (err error) {
			mem, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			return err
		})
	if err != nil {
		return err
	}
	for i := 0; i < len(mem); i += os.Getpagesize() {
		mem[i] = 1
	}
	return nil
}

func allocate(ctx context.Context, args []string) (string, error) {
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	return args[0], touch(ctx, mib)
}

// work uses so many milliseconds of CPU time and so many MiB of memory, and comes back.
func work(ctx context.Context, args []string) (string, error) {
	ms, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	mib, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	used := func() (time.Duration, error) {
		var now unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now)
		return time.Duration(now.Nano()), err
	}
	start, err := used() // what it used before it joined is on another group's account
	if err != nil {
		return "", err
	}
	if err := touch(ctx, mib); err != nil {
		return "", err
	}
	for {
		now, err := used()
		if err != nil || now-start >= time.Duration(ms)*time.Millisecond {
			return "", err
		}
	}
}

// chunk is how much one write(2) hands to the disk: a throttled write cannot be killed until it is through, so it must
// be short.
const chunk = 128 << 10

// writeDirect writes to a file without a name in a folder, past the page cache, so that each write waits for the disk.
// Such a file is gone once nobody holds it open, whatever happens to us. See open(2), O_TMPFILE and O_DIRECT.
func writeDirect(ctx context.Context, args []string) (string, error) {
	size, err := strconv.Atoi(args[1])
	if err != nil {
		return "", err
	}
	fd := -1
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("open(%q, O_TMPFILE|O_WRONLY|O_DIRECT, 0600) = %d", args[0], fd) },
		func() (err error) {
			fd, err = unix.Open(args[0], unix.O_TMPFILE|unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0o600)
			return err
		})
	if err != nil {
		return "", fmt.Errorf("make a file in %s: %w", args[0], err)
	}
	// O_DIRECT takes only buffers that start at a block's boundary; a page's is one.
	buf, err := unix.Mmap(-1, 0, chunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return "", errors.Join(err, unix.Close(fd))
	}
	written := 0
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("write(%d, …, %d) × %d", fd, chunk, written/chunk) },
		func() error {
			for written < size {
				n, err := ignoringEINTR(func() (int, error) { return unix.Write(fd, buf) })
				if err != nil {
					return err
				}
				written += n
			}
			return nil
		})
	return strconv.Itoa(written), errors.Join(err, unix.Munmap(buf), unix.Close(fd))
}

// diskOf finds the whole disk below a folder, as the controllers name it: "254:0". It is empty where the file system is
// on none, or hides it (tmpfs, overlay, btrfs, ZFS: their device numbers are made up).
func diskOf(dir string) string {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return ""
	}
	name := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	sys := "/sys/dev/block/" + name
	if !exists(sys) {
		return ""
	}
	if !exists(sys + "/partition") {
		return name
	}
	// A partition's folder lies in its disk's: the throttle is at the disk's queue.
	real, err := filepath.EvalSymlinks(sys)
	if err != nil {
		return ""
	}
	disk, _ := readFile(filepath.Join(filepath.Dir(real), "dev")) // unreadable: none
	return disk
}
