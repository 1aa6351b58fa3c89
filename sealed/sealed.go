// Package sealed lets nslab execute itself so that nobody can ever write to its file.
//
// A container that is asked to run /proc/self/exe runs nslab's own file, and may keep a descriptor of it. As soon as the last
// process that executes it has ended, root inside could open that for writing and replace the host's nslab (CVE-2019-5736).
// The remedy is to execute the file through a mount that is read-only and that no path leads to: whoever gets at the file
// from inside gets it through that mount. This costs two system calls; runc used to copy itself into memory at every start.
//
// The package has next to no imports but the system calls, for package headstart, which is at work before nearly all others are.
package sealed

import (
	"os"
	"syscall"
	"unsafe"
)

// Numbers of the kernel's headers. They are alike on all architectures that Go knows, since these calls are young.
const (
	sysOpenTree     = 428
	sysMountSetattr = 442

	openTreeClone   = 1
	openTreeCloexec = 0o2000000 // O_CLOEXEC, but on no architecture that nslab is built for is it another
	atEmptyPath     = 0x1000

	attrReadOnly, attrNoSuid, attrNoDev = 1, 2, 4

	stReadOnly = 1
)

// Self is the file that this process executes.
const Self = "/proc/self/exe"

// Already tells whether this process is executed through a read-only mount.
func Already() (bool, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(Self, &fs); err != nil {
		return false, err
	}
	return fs.Flags&stReadOnly != 0, nil
}

// Clone opens the file that this process executes through a new mount that no path leads to. The mount is dissolved with the
// last descriptor, and lives on, where nobody can reach it, for as long as a process executes the file.
func Clone() (fd int, err error) {
	fd, err = openTree(Self)
	if err == syscall.EINVAL {
		return cloneByName()
	}
	return fd, err
}

// cloneByName is for a process that has moved to another mount namespace since it was executed: the mount that its file was
// reached through is not in its table, and only what is can be cloned. Most such tables have the same file by the same name.
func cloneByName() (fd int, err error) {
	name, err := os.Readlink(Self)
	if err != nil {
		return -1, err
	}
	if fd, err = openTree(name); err != nil {
		return -1, syscall.EINVAL
	}
	var ours, found syscall.Stat_t
	if syscall.Stat(Self, &ours) != nil || syscall.Fstat(fd, &found) != nil || ours.Dev != found.Dev || ours.Ino != found.Ino {
		syscall.Close(fd)
		return -1, syscall.EINVAL
	}
	return fd, nil
}

func openTree(name string) (fd int, err error) {
	path, err := syscall.BytePtrFromString(name)
	if err != nil {
		return -1, err
	}
	const atFdcwd = -0x64
	cwd := atFdcwd
	r, _, errno := syscall.Syscall(sysOpenTree, uintptr(cwd), uintptr(unsafe.Pointer(path)), openTreeClone|openTreeCloexec)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// Lock makes the mount that Clone has made read-only.
func Lock(fd int) error {
	attr := struct{ set, clear, propagation, userns uint64 }{set: attrReadOnly | attrNoSuid | attrNoDev}
	empty := []byte{0}
	_, _, errno := syscall.Syscall6(sysMountSetattr, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])), atEmptyPath,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
