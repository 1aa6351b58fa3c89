package course

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A process is written down by its number and its start time: a number alone may be somebody else's by the time it is
// read.

// writeProcess writes down which process pid is.
func writeProcess(file string, pid int) error {
	start, _, err := startTime(pid)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, "%d %s\n", pid, start), 0o600); err != nil {
		return fmt.Errorf("write down process %d: %w", pid, err)
	}
	return nil
}

// openProcess opens the process that a file names. It returns a pidfd, -1 if that process has ended or was never
// written down.
func openProcess(file string) (fd, pid int, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(data) == 0 {
		return -1, 0, nil
	}
	if err != nil {
		return -1, 0, fmt.Errorf("read which process it was: %w", err)
	}
	var start string
	if _, err := fmt.Sscan(string(data), &pid, &start); err != nil {
		return -1, 0, fmt.Errorf("read which process it was: %s: %w", file, err)
	}
	// The pidfd first: once it is open it means one process for ever. Then whether it is the one that was written down.
	fd, err = unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, pid, nil
	}
	if err != nil {
		return -1, pid, fmt.Errorf("open process %d: %w", pid, err)
	}
	if now, ended, err := startTime(pid); err != nil || ended || now != start {
		return -1, pid, unix.Close(fd)
	}
	return fd, pid, nil
}

// startTime is when a process started, in clock ticks since boot: field 22 of /proc/PID/stat, see proc(5). A zombie has
// ended.
func startTime(pid int) (ticks string, ended bool, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return "", false, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields[19], fields[0] == "Z" || fields[0] == "X", nil
}

// waitEnded waits until the process behind a pidfd has ended: its descriptor becomes readable.
func waitEnded(fd int, limit time.Duration) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(time.Until(end).Milliseconds())+1); n > 0 && err == nil {
			return true
		}
	}
	return false
}
