// Package evidence reads what the kernel says about a process, from the outside: /proc/PID as the reader's own procfs
// shows it. It never asks the process itself.
package evidence

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Namespace returns the inode number that identifies the namespace of the given kind ("pid", "mnt", "uts", "time" …) in
// which pid is. Two processes share a namespace if, and only if, the numbers are equal. See namespaces(7).
func Namespace(pid int, kind string) (uint64, error) {
	var st unix.Stat_t
	path := fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Ino, nil
}

// Status returns one field of /proc/PID/status, white space folded to single spaces: "4242 1" for NSpid. See proc(5).
func Status(pid int, field string) (string, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(line, ":"); ok && name == field {
			return strings.Join(strings.Fields(value), " "), nil
		}
	}
	return "", fmt.Errorf("read %s: it has no field %s", path, field)
}

// Exists says whether pid is a process, a zombie included.
func Exists(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

// Alive says whether pid is a process that can still run: neither gone nor a zombie.
func Alive(pid int) bool {
	state, err := Status(pid, "State")
	return err == nil && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// Pids lists the processes that a procfs mounted at root shows, in order. From outside a container, its own procfs is
// at /proc/PID/root/proc.
func Pids(root string) ([]int, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, n)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

// Mounts returns the lines of /proc/PID/mountinfo: the mount table of the mount namespace pid is in.
func Mounts(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), nil
}

// Inside is path as the process with this pid sees it: below its root, in its mount namespace. See proc(5), /proc/PID/root.
func Inside(pid int, path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", pid), path)
}

// Members lists the processes that are in the namespace of this kind with this inode number, by their numbers out here.
func Members(kind string, inode uint64) ([]int, error) {
	pids, err := Pids("/proc")
	if err != nil {
		return nil, err
	}
	var members []int
	for _, pid := range pids {
		if ns, err := Namespace(pid, kind); err == nil && ns == inode { // others are gone, or not ours to look at
			members = append(members, pid)
		}
	}
	return members, nil
}

// Command is the name of the program that a process runs: /proc/PID/comm.
func Command(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(data)), err
}

// Answer names what the kernel said to a call: "ok", or the name of the errno, "EPERM". Other errors speak for themselves.
func Answer(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}
