package mount

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// perMount are the flags of one mount. The others belong to the file system and hold wherever it is mounted.
const perMount = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW |
	unix.MS_NODIRATIME | atime

// atime is a choice of one: when reading a file updates its access time.
const atime = unix.MS_NOATIME | unix.MS_RELATIME | unix.MS_STRICTATIME

// propagation is a choice of one, too, and changes nothing else of a mount.
const propagation = unix.MS_PRIVATE | unix.MS_SLAVE | unix.MS_SHARED | unix.MS_UNBINDABLE

// keep computes the flags to remount with: those that are present, with some set and some cleared.
func keep(present, set, clear uintptr) uintptr {
	flags := present &^ clear
	if set&atime != 0 {
		flags &^= atime // the new choice replaces the old one
	}
	flags |= set
	if flags&atime == 0 {
		// Without any of the three a remount leaves the choice as it is, which is not what clearing noatime asks for.
		flags |= unix.MS_RELATIME // the kernel's default since 2.6.30
	}
	return flags
}

// statfs(2) reports flags with numbers of its own: the first four are those of mount(2), the later ones are not.
const (
	stRdonly      = 0x1
	stNosuid      = 0x2
	stNodev       = 0x4
	stNoexec      = 0x8
	stNoatime     = 0x400
	stNodiratime  = 0x800
	stRelatime    = 0x1000
	stNosymfollow = 0x2000
)

// fromStatfs translates the flags of statfs(2) to those of mount(2).
func fromStatfs(st int64) uintptr {
	var flags uintptr
	for _, f := range []struct {
		st int64
		ms uintptr
	}{
		{stRdonly, unix.MS_RDONLY}, {stNosuid, unix.MS_NOSUID}, {stNodev, unix.MS_NODEV}, {stNoexec, unix.MS_NOEXEC},
		{stNoatime, unix.MS_NOATIME}, {stNodiratime, unix.MS_NODIRATIME}, {stRelatime, unix.MS_RELATIME},
		{stNosymfollow, unix.MS_NOSYMFOLLOW},
	} {
		if st&f.st != 0 {
			flags |= f.ms
		}
	}
	if st&(stNoatime|stRelatime) == 0 {
		flags |= unix.MS_STRICTATIME // has no flag in statfs: it is what remains
	}
	return flags
}

// flag is a bit and its name in the kernel's header files.
type flag struct {
	bit  uint64
	name string
}

// The flags of mount(2), in the order of their values, which is how strace prints them.
var mountFlags = []flag{
	{unix.MS_RDONLY, "MS_RDONLY"},
	{unix.MS_NOSUID, "MS_NOSUID"},
	{unix.MS_NODEV, "MS_NODEV"},
	{unix.MS_NOEXEC, "MS_NOEXEC"},
	{unix.MS_SYNCHRONOUS, "MS_SYNCHRONOUS"},
	{unix.MS_REMOUNT, "MS_REMOUNT"},
	{unix.MS_MANDLOCK, "MS_MANDLOCK"},
	{unix.MS_DIRSYNC, "MS_DIRSYNC"},
	{unix.MS_NOSYMFOLLOW, "MS_NOSYMFOLLOW"},
	{unix.MS_NOATIME, "MS_NOATIME"},
	{unix.MS_NODIRATIME, "MS_NODIRATIME"},
	{unix.MS_BIND, "MS_BIND"},
	{unix.MS_MOVE, "MS_MOVE"},
	{unix.MS_REC, "MS_REC"},
	{unix.MS_SILENT, "MS_SILENT"},
	{unix.MS_POSIXACL, "MS_POSIXACL"},
	{unix.MS_UNBINDABLE, "MS_UNBINDABLE"},
	{unix.MS_PRIVATE, "MS_PRIVATE"},
	{unix.MS_SLAVE, "MS_SLAVE"},
	{unix.MS_SHARED, "MS_SHARED"},
	{unix.MS_RELATIME, "MS_RELATIME"},
	{unix.MS_I_VERSION, "MS_I_VERSION"},
	{unix.MS_STRICTATIME, "MS_STRICTATIME"},
	{unix.MS_LAZYTIME, "MS_LAZYTIME"},
}

// FlagNames writes the flags of mount(2) as a C program would: "MS_BIND|MS_REC".
func FlagNames(flags uintptr) string { return names(uint64(flags), mountFlags) }

func unmountFlagNames(flags int) string {
	return names(uint64(flags), []flag{
		{unix.MNT_FORCE, "MNT_FORCE"}, {unix.MNT_DETACH, "MNT_DETACH"}, {unix.MNT_EXPIRE, "MNT_EXPIRE"},
		{unix.UMOUNT_NOFOLLOW, "UMOUNT_NOFOLLOW"},
	})
}

// attrNames writes the attributes of mount_setattr(2). RELATIME is 0: the absence of the other choices.
func attrNames(attr uint64) string {
	return names(attr, []flag{
		{unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY"}, {unix.MOUNT_ATTR_NOSUID, "MOUNT_ATTR_NOSUID"},
		{unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_NODEV"}, {unix.MOUNT_ATTR_NOEXEC, "MOUNT_ATTR_NOEXEC"},
		{unix.MOUNT_ATTR__ATIME, "MOUNT_ATTR__ATIME"},
		{unix.MOUNT_ATTR_NOATIME, "MOUNT_ATTR_NOATIME"}, {unix.MOUNT_ATTR_STRICTATIME, "MOUNT_ATTR_STRICTATIME"},
		{unix.MOUNT_ATTR_NODIRATIME, "MOUNT_ATTR_NODIRATIME"}, {unix.MOUNT_ATTR_IDMAP, "MOUNT_ATTR_IDMAP"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "MOUNT_ATTR_NOSYMFOLLOW"},
	})
}

// names joins the names of the bits that are set, and writes what has no name as a number.
func names(bits uint64, known []flag) string {
	if bits == 0 {
		return "0"
	}
	var list []string
	for _, f := range known {
		if bits&f.bit == f.bit {
			list = append(list, f.name)
			bits &^= f.bit
		}
	}
	if bits != 0 {
		list = append(list, fmt.Sprintf("%#x", bits))
	}
	return strings.Join(list, "|")
}

// attributes translates flags of mount(2) to those of mount_setattr(2). The access time is a field of its own there: to
// change the choice, the whole field has to be cleared in the same call.
func attributes(flags uintptr) (set, clear uint64) {
	for _, f := range []struct {
		ms   uintptr
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV}, {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW}, {unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME}, {unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
		{unix.MS_RELATIME, unix.MOUNT_ATTR_RELATIME},
	} {
		if flags&f.ms != 0 {
			set |= f.attr
		}
	}
	if flags&atime != 0 {
		clear |= unix.MOUNT_ATTR__ATIME
	}
	return set, clear
}

// clearing are the attributes to clear where flags are to be taken away. The access time is cleared as a whole; what
// is left then is relatime.
func clearing(flags uintptr) uint64 {
	off, field := attributes(flags)
	return off | field
}

// quoteOrNull writes an argument that x/sys passes as NULL where it is empty.
func quoteOrNull(s string) string {
	if s == "" {
		return "NULL"
	}
	return fmt.Sprintf("%q", s)
}
