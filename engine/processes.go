package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process of a container, as the host sees it.
type Process struct {
	Pid, Parent int
	User        int // whose rights it has: its effective UID, in the host's numbers
	Started     time.Time
	CPU         time.Duration // what it has used
	TTY         string        // "?" where it has none
	Command     string        // with its arguments; printable, whatever the process has made of them
}

// Pids are the processes of a container that runs, by the host's numbers. Its own control group lists them all, those that
// exec has brought too.
func (e *Engine) Pids(ctx context.Context, ref string) ([]int, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !c.State.Running {
		return nil, &StateError{Container: ref, Status: c.State.Status, Op: "list the processes of"}
	}
	s, err := c.runtime()
	if err != nil {
		return nil, err
	}
	if s.Group == nil {
		return pidsLike(s.Pid)
	}
	pids, err := s.Group.Pids()
	slices.Sort(pids)
	return pids, err
}

// pidsLike are the processes in the PID namespace of one of them. Processes may end while we look.
func pidsLike(pid int) ([]int, error) {
	space := func(pid int) string {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
		return link
	}
	want := space(pid)
	entries, err := os.ReadDir("/proc")
	var pids []int
	for _, d := range entries {
		if p, err := strconv.Atoi(d.Name()); err == nil && want != "" && space(p) == want {
			pids = append(pids, p)
		}
	}
	slices.Sort(pids)
	return pids, err
}

// Processes describes the processes of a container that runs.
func (e *Engine) Processes(ctx context.Context, ref string) ([]Process, error) {
	pids, err := e.Pids(ctx, ref)
	if err != nil {
		return nil, err
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return nil, fmt.Errorf("read the time since boot: %w", err)
	}
	boot := time.Now().Add(-time.Duration(up.Nano()))
	var list []Process
	for _, pid := range pids {
		p, err := readProcess(pid, boot)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
		list = append(list, p)
	}
	return list, nil
}

// clockTick is what /proc counts time in: a hundredth of a second, on all machines that Go runs on. See time(7).
const clockTick = 10 * time.Millisecond

// maxCommand bounds what is read of a command line, which a process can make as long as it likes.
const maxCommand = 64 << 10

// readProcess reads proc_pid_stat(5), proc_pid_status(5) and proc_pid_cmdline(5).
func readProcess(pid int, boot time.Time) (p Process, err error) {
	p.Pid = pid
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return p, err
	}
	// The name stands in parentheses, and may hold anything, parentheses too.
	first, last := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if first < 0 || last < first {
		return p, fmt.Errorf("%sstat has no name", dir)
	}
	name, fields := string(stat[first+1:last]), strings.Fields(string(stat[last+1:]))
	if len(fields) < 20 {
		return p, fmt.Errorf("%sstat has %d fields", dir, len(fields)+2)
	}
	number := func(i int) int64 { // of the field with this number in the manual page
		n, e := strconv.ParseInt(fields[i-3], 10, 64)
		err = errors.Join(err, e)
		return n
	}
	p.Parent, p.TTY = int(number(4)), terminal(uint64(number(7)))
	p.CPU = time.Duration(number(14)+number(15)) * clockTick
	p.Started = boot.Add(time.Duration(number(22)) * clockTick)
	if err != nil {
		return p, err
	}
	if p.User, err = effectiveUser(dir + "status"); err != nil {
		return p, err
	}
	command, err := readSome(dir + "cmdline")
	if err != nil {
		return p, err
	}
	p.Command = printable(strings.TrimRight(strings.ReplaceAll(command, "\x00", " "), " "))
	if p.Command == "" { // a kernel thread, or a process that is gone but for its status
		p.Command = "[" + printable(name) + "]"
		if fields[0] == "Z" {
			p.Command += " <defunct>"
		}
	}
	return p, nil
}

// effectiveUser reads the line "Uid:	real effective saved filesystem".
func effectiveUser(file string) (int, error) {
	status, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "\nUid:")
	if ids := strings.Fields(rest); len(ids) > 1 {
		return strconv.Atoi(ids[1])
	}
	return 0, fmt.Errorf("%s has no Uid", file)
}

func readSome(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCommand))
	return string(data), err
}

// printable keeps what a container says about itself from moving the cursor of somebody's terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// The numbers of terminals, from the kernel's Documentation/admin-guide/devices.txt.
const (
	virtualMajor = 4   // minors below 64 are tty0 and on, then come the serial lines
	serialMinor  = 64  //
	slaveMajor   = 136 // pseudo-terminals, eight majors of 256 or, since 2.6, one with many minors
	slaveMajors  = 8
)

// terminal names a terminal by its device number. A container's pseudo-terminals are counted anew in each.
func terminal(device uint64) string {
	major, minor := unix.Major(device), unix.Minor(device)
	switch {
	case device == 0:
		return "?"
	case major >= slaveMajor && major < slaveMajor+slaveMajors:
		return fmt.Sprintf("pts/%d", (major-slaveMajor)*256+minor)
	case major == virtualMajor && minor < serialMinor:
		return fmt.Sprintf("tty%d", minor)
	case major == virtualMajor:
		return fmt.Sprintf("ttyS%d", minor-serialMinor)
	}
	return fmt.Sprintf("%d:%d", major, minor)
}
