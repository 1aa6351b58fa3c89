package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openForWriting opens files of the kernel that are the machine's. A missing one is held, too: kernels differ.
func openForWriting(paths []string) {
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			result(p, err)
			continue
		}
		var st unix.Stat_t
		unix.Fstat(fd, &st)
		unix.Close(fd)
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			holds(p, "it is /dev/null")
			continue
		}
		breaks(p, "it can be opened for writing")
	}
}

// harmless are the devices that every container has.
func harmless(kind uint32, major, minor uint32) bool {
	if kind != unix.S_IFCHR {
		return false
	}
	switch major {
	case 1:
		return minor == 3 || minor == 5 || minor == 7 || minor == 8 || minor == 9
	case 5:
		return minor <= 2
	case 10:
		return minor == 200 // tun, which Docker allows: what it makes belongs to the container's own network
	}
	return major >= 136 && major <= 143
}

// devices makes a file for each device that the kernel has, and opens it. Those that do something when they are opened, a
// watchdog for example, are left out.
func devices() {
	for _, k := range []struct {
		folder string
		kind   uint32
	}{{"/sys/dev/block", unix.S_IFBLK}, {"/sys/dev/char", unix.S_IFCHR}} {
		entries, err := os.ReadDir(k.folder)
		if err != nil {
			result(k.folder, err)
		}
		for _, e := range entries {
			var major, minor uint32
			if _, err := fmt.Sscanf(e.Name(), "%d:%d", &major, &minor); err != nil || harmless(k.kind, major, minor) || major == 10 && minor == 130 {
				continue
			}
			device(e.Name(), k.kind, major, minor)
		}
	}
	for _, d := range [][2]uint32{{1, 1}, {1, 2}, {1, 4}, {1, 11}, {10, 232}, {10, 144}} { // mem, kmem, port, kmsg, kvm, nvram
		device(fmt.Sprintf("c %d:%d", d[0], d[1]), unix.S_IFCHR, d[0], d[1])
	}
}

func device(name string, kind, major, minor uint32) {
	file := "/tmp/device"
	os.Remove(file)
	if err := unix.Mknod(file, kind|0o600, int(unix.Mkdev(major, minor))); err != nil {
		result("mknod "+name, err)
		return
	}
	defer os.Remove(file)
	for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY} {
		fd, err := unix.Open(file, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err == nil {
			unix.Close(fd)
		}
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			result("open "+name, err)
		} else {
			breaks("open "+name, fmt.Sprintf("the driver was asked: %v", err))
		}
	}
}

// mine tells whether an open file is on a mount that this process can see: the number of the mount stands in fdinfo.
func mine(fd string) (bool, string) {
	info, err := os.ReadFile("/proc/self/fdinfo/" + fd)
	if err != nil {
		return true, "" // the one that read the list
	}
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err.Error()
	}
	id := ""
	for line := range strings.Lines(string(info)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			id = strings.TrimSpace(v)
		}
	}
	for line := range strings.Lines(string(table)) {
		if strings.HasPrefix(line, id+" ") {
			return true, ""
		}
	}
	return false, "it is of mount " + id + ", which is not in the table"
}

// descriptors looks at all that was inherited.
func descriptors() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		result("read /proc/self/fd", err)
		return
	}
	for _, e := range entries {
		link, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue
		}
		what := "descriptor " + e.Name() + " " + link
		switch {
		case strings.HasPrefix(link, "pipe:") && len(e.Name()) == 1 && e.Name() < "3":
			holds(what, "a pipe of its own")
		case strings.HasPrefix(link, "anon_inode:[event"):
			holds(what, "this program's own")
		default:
			own, why := mine(e.Name())
			if len(e.Name()) > 1 || e.Name() > "2" {
				n, _ := strconv.Atoi(e.Name())
				if flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
					breaks(what, "it was inherited")
				}
				continue // the others were opened here, or they would not have outlived execve
			}
			if own || link == "/dev/null" {
				holds(what, "it is one of the container's files")
			} else {
				breaks(what, why)
			}
		}
	}
}

// cwd looks whether the working folder is below the root, and tries to walk out of it.
func cwd() {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Getcwd(buf)
	if err != nil || n == 0 || buf[0] != '/' {
		breaks("working folder", fmt.Sprintf("%q, %v", buf[:n], err))
	} else {
		holds("working folder", string(buf[:n-1]))
	}
	up := strings.Repeat("../", 40)
	var top, root unix.Stat_t
	if err := unix.Stat(up, &top); err != nil {
		result("walk up", err)
		return
	}
	unix.Stat("/", &root)
	if top.Dev == root.Dev && top.Ino == root.Ino {
		holds("walk up", "it ends at the root")
	} else {
		breaks("walk up", "it leads to another root")
	}
}

// handles asks for inode 2, the root of most file systems, by a handle that was made up: what the exploit of 2014 did with
// CAP_DAC_READ_SEARCH.
func handles() {
	targets := []string{"/", "/etc/hosts", "/proc", "/dev", "/sys"}
	if table, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(table)) {
			targets = append(targets, strings.Fields(line)[4])
		}
	}
	for _, p := range targets {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		handle := new(bytes.Buffer)
		binary.Write(handle, binary.NativeEndian, [2]uint32{8, 1}) // its length, and FILEID_INO32_GEN
		binary.Write(handle, binary.NativeEndian, [2]uint32{2, 0})
		got, _, errno := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(fd), uintptr(unsafe.Pointer(&handle.Bytes()[0])), unix.O_RDONLY)
		if errno == 0 {
			unix.Close(int(got))
		}
		unix.Close(fd)
		if errno != unix.EPERM {
			breaks("open_by_handle_at "+p, errno.Error())
		} else {
			result("open_by_handle_at "+p, errno)
		}
	}
}

// swap exchanges a folder for a link all the time, in the hope that a runtime looks at the one and uses the other.
func swap(args []string) {
	dir, target := args[0], args[1]
	parent := filepath.Dir(dir)
	link := filepath.Join(parent, ".link")
	os.MkdirAll(dir, 0o777)
	if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
		breaks("make a link", err.Error())
		return
	}
	fmt.Println("swapping")
	for {
		unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
	}
}
