package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// The files that every group has, whatever its controllers.
const (
	procsFile      = "cgroup.procs"
	tasksFile      = "tasks"                  // v1: single threads
	eventsFile     = "cgroup.events"          // v2: "populated 1", "frozen 0"
	subtreeControl = "cgroup.subtree_control" // v2: what the children get
	controllerFile = "cgroup.controllers"     // v2: what the parent offers
)

// write is the one place where this package writes to a group. skip counts as in [trace.Call]: with 0 the line that called
// write is the one that is shown.
//
// The file is never created: what the kernel did not put there is no setting, and a plain file of that name in some
// other file system would take any value and do nothing.
func write(ctx context.Context, skip int, file, value string) error {
	err := trace.Call(ctx, skip+1,
		func() string { return fmt.Sprintf("write %s → %s", value, file) },
		func() error { return writeOnce(file, value) })
	if err != nil {
		return &Error{Op: "write", File: file, Value: value, Err: err}
	}
	return nil
}

// writeOnce hands the whole value over in a single write(2), since each write is one command to the kernel.
func writeOnce(file, value string) error {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	// A signal may end the write of a memory limit before it was applied: lowering it has to reclaim pages first.
	_, err = ignoringEINTR(func() (int, error) { return unix.Write(fd, []byte(value)) })
	return errors.Join(err, unix.Close(fd))
}

// interrupted bounds how often a call is repeated that a signal broke off.
const interrupted = 100

func ignoringEINTR(call func() (int, error)) (n int, err error) {
	for range interrupted {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
	return n, err
}

// readFile returns a file's content without the newline at its end.
func readFile(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", readError(file, err)
	}
	return strings.TrimSpace(string(data)), nil
}

func readError(file string, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return &Error{Op: "read", File: file, Err: err}
}

// mkdir makes a group.
func mkdir(ctx context.Context, dir string) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("mkdir(%q, 0755)", dir) },
		func() error { return unix.Mkdir(dir, 0o755) })
	if err != nil {
		return &Error{Op: "mkdir", File: dir, Err: err}
	}
	return nil
}

// rmdir removes a group that has neither processes nor child groups. Its files vanish with it: they cannot be unlinked,
// which is why os.RemoveAll and rm -r fail on a group.
func rmdir(ctx context.Context, dir string) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("rmdir(%q)", dir) },
		func() error { return unix.Rmdir(dir) })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &Error{Op: "rmdir", File: dir, Err: err}
	}
	return nil
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

// field returns the number behind a key in a file of lines "key number", such as cpu.stat or cgroup.events.
func field(content, key string) (uint64, bool) {
	for line := range strings.Lines(content) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, err := strconv.ParseUint(value, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// pidsIn lists the processes in one group, without those in the groups below it. A process that the reader's PID
// namespace does not show is listed as 0. A group that is not there has none.
func pidsIn(dir string) ([]int, error) {
	file := filepath.Join(dir, procsFile)
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV): // the second: removed after it was opened
		return nil, nil
	case errors.Is(err, unix.EOPNOTSUPP): // a v2 threaded group: its processes are listed in the domain above it
		return nil, nil
	case err != nil:
		return nil, readError(file, err)
	}
	var pids []int
	for _, word := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, &Error{Op: "read", File: file, Value: word, Err: err}
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// pidsBelow is pidsIn for a whole subtree.
func pidsBelow(dir string) ([]int, error) {
	var all []int
	err := walk(dir, func(dir string) error {
		pids, err := pidsIn(dir)
		all = append(all, pids...)
		return err
	})
	return all, err
}

// walk visits a group and all groups below it, children first: the order in which they can be removed.
func walk(dir string, visit func(dir string) error) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err == nil && st.Nlink == 2 {
		return visit(dir) // its name and its "." are all the links it has: no ".." of a child. A scan would list 30 files.
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return readError(dir, err)
	}
	for _, e := range entries {
		if !e.IsDir() { // a group's files; there are no links in a cgroup file system
			continue
		}
		if err := walk(filepath.Join(dir, e.Name()), visit); err != nil {
			return err
		}
	}
	return visit(dir)
}
