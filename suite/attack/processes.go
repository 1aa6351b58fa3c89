package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// terminal types into whatever terminal can be reached. A terminal of the container's own may be typed into; the caller's
// must not be one of its descriptors at all.
func terminal() {
	for _, name := range []string{"/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "/dev/tty", "/dev/console"} {
		fd, err := unix.Open(name, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			result("open "+name, err)
			continue
		}
		c := byte('#')
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		if errno == 0 {
			breaks("TIOCSTI into "+name, "it was allowed")
		} else {
			result("TIOCSTI into "+name, errno)
		}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSCTTY, 1)
		if errno == 0 {
			breaks("TIOCSCTTY of "+name, "it was stolen")
		} else {
			result("TIOCSCTTY of "+name, errno)
		}
		unix.Close(fd)
	}
}

// intoProcesses looks into processes that are not the container's.
func intoProcesses(args []string) {
	for _, a := range args {
		pid, err := strconv.Atoi(a)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		for what, err := range into(pid) {
			result(fmt.Sprintf("%s of %d", what, pid), err)
		}
		for _, ns := range []string{"mnt", "net", "pid", "uts", "ipc"} {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Setns(fd, 0)
				unix.Close(fd)
			}
			result(fmt.Sprintf("join the %s namespace of %d", ns, pid), err)
		}
	}
}

// into tries all the ways into a process.
func into(pid int) map[string]error {
	dir := fmt.Sprintf("/proc/%d/", pid)
	open := func(name string, flags int) error {
		fd, err := unix.Open(dir+name, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	all := map[string]error{
		"memory": open("mem", unix.O_RDWR), "root": open("root/.", unix.O_PATH), "cwd": open("cwd/.", unix.O_PATH),
		"environment": open("environ", unix.O_RDONLY),
	}
	if _, err := os.Readlink(dir + "exe"); err != nil {
		all["program"] = err
	} else {
		all["program"] = open("exe", unix.O_RDONLY)
	}
	entries, err := os.ReadDir(dir + "fd")
	if err != nil {
		all["descriptors"] = err
	}
	for _, e := range entries {
		all["descriptor "+e.Name()] = open("fd/"+e.Name(), unix.O_PATH)
	}
	err = unix.PtraceSeize(pid)
	if err == nil {
		unix.PtraceDetach(pid)
	}
	all["ptrace"] = err
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		var got int
		if got, err = unix.PidfdGetfd(pidfd, 0, 0); err == nil {
			unix.Close(got)
		}
		unix.Close(pidfd)
	}
	all["pidfd_getfd"] = err
	return all
}

// spy looks into every process that appears, as fast as it can. A process that executes a program of this image is one of
// the container's. Any other is nslab on its way in, and nothing of it may be seen. Who was given CAP_SYS_PTRACE sees it, so
// then it must have no more rights than he has, and nothing open that is the host's. Where another container shares the PID
// namespace, its processes are to be seen, too, as soon as they have no more rights.
func spy(args []string) {
	fmt.Println("spying")
	seen, shared := map[int]bool{}, len(args) > 1
	for {
		if _, err := os.Stat(args[0]); err == nil {
			holds("spy", fmt.Sprintf("%d processes were seen", len(seen)))
			return
		}
		// The numbers come one after the other: the next ones are tried before they are there.
		last := 1
		if data, err := os.ReadFile("/proc/loadavg"); err == nil {
			f := strings.Fields(string(data))
			last, _ = strconv.Atoi(f[len(f)-1])
		}
		for pid := last; pid <= last+3; pid++ {
			if pid > 1 && unix.Access(fmt.Sprintf("/proc/self/task/%d", pid), unix.F_OK) != nil {
				look(pid, seen, shared)
			}
		}
	}
}

// look is one attempt of spy. What was opened is looked at afterwards: that takes time, which the race does not leave.
func look(pid int, seen map[int]bool, shared bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	exe, err := unix.Open(dir+"exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return
	}
	seen[pid] = true
	if err != nil {
		held++
		return
	}
	defer unix.Close(exe)
	var opened []string
	for _, name := range []string{"mem", "root/.", "cwd/."} {
		flags := unix.O_PATH
		if name == "mem" {
			flags = unix.O_RDWR
		}
		if fd, err := unix.Open(dir+name, flags|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(fd)
			opened = append(opened, name)
		}
	}
	rights, ours := capabilities(strconv.Itoa(pid)), capabilities("self")
	own, why := mine(strconv.Itoa(exe))
	switch {
	case own:
		return
	case rights&^ours != 0:
		breaks(fmt.Sprintf("program of process %d", pid), fmt.Sprintf("it has rights %#x, and opened were %v", rights, opened))
	case shared:
		return
	case ours>>unix.CAP_SYS_PTRACE&1 == 0:
		breaks(fmt.Sprintf("program of process %d", pid), fmt.Sprintf("%s; opened were %v", why, opened))
	}
	entries, _ := os.ReadDir(dir + "fd")
	var links []string
	for _, e := range entries {
		link, err := os.Readlink(dir + "fd/" + e.Name())
		n, _ := strconv.Atoi(e.Name())
		if reports := n == 3 && strings.HasPrefix(link, "socket:"); n > 2 && err == nil && !reports {
			links = append(links, e.Name()+" "+link)
		}
	}
	var before, after unix.Stat_t
	if unix.Fstat(exe, &before) != nil || unix.Stat(dir+"exe", &after) != nil || before.Ino != after.Ino || before.Dev != after.Dev {
		return // meanwhile it executes a program of the image, and these are that one's files
	}
	for _, l := range links {
		breaks(fmt.Sprintf("descriptor of process %d", pid), l)
	}
}

// capabilities are those that a process may have; none if it is gone.
func capabilities(pid string) (set uint64) {
	data, _ := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			set, _ = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return set
}

// overwrite opens what other processes execute, and then tries to open it again for writing, until that is no longer busy.
func overwrite(args []string) {
	fmt.Println("lurking")
	self := os.Getpid()
	for {
		if _, err := os.Stat(args[0]); err == nil {
			holds("overwrite", "the time is over")
			return
		}
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			pid, err := strconv.Atoi(e.Name())
			if err != nil || pid == self {
				continue
			}
			exe, err := unix.Open("/proc/"+e.Name()+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			if own, _ := mine(strconv.Itoa(exe)); !own {
				catch(pid, exe)
			}
			unix.Close(exe)
		}
	}
}

// catch has a program of the host open, and waits for the moment when nobody executes it.
func catch(pid, exe int) {
	path := fmt.Sprintf("/proc/self/fd/%d", exe)
	what := fmt.Sprintf("the program of process %d", pid)
	for range 20000 {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.Write(fd, []byte("x"))
			unix.Close(fd)
			if err == nil {
				breaks(what, "it can be written")
				return
			}
		}
		if !errors.Is(err, unix.ETXTBSY) {
			result(what, err)
			return
		}
	}
	result(what, unix.ETXTBSY)
}

// keyring looks for a key that the session outside has.
func keyring(args []string) {
	for name, ring := range map[string]int{"session": unix.KEY_SPEC_SESSION_KEYRING, "user session": unix.KEY_SPEC_USER_SESSION_KEYRING} {
		id, err := unix.KeyctlSearch(ring, "user", args[0], 0)
		if err == nil {
			breaks("search the "+name+" keyring", fmt.Sprintf("there is key %d", id))
		} else {
			result("search the "+name+" keyring", err)
		}
	}
	_, err := unix.RequestKey("user", args[0], "", 0)
	result("request the key", err)
}
