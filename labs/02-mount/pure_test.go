package mount

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	const (
		bind  = unix.MS_BIND
		rec   = unix.MS_REC
		ro    = unix.MS_RDONLY
		aMask = unix.MOUNT_ATTR__ATIME
	)
	for _, c := range []struct {
		in   string
		want Options
	}{
		{"defaults", Options{}},
		{"ro,nosuid,nodev", Options{Flags: ro | unix.MS_NOSUID | unix.MS_NODEV}},
		{"ro,rw", Options{Clear: ro}},
		{"rw,ro", Options{Flags: ro}},
		{"rbind,ro", Options{Flags: bind | rec | ro}},
		{"bind,rprivate", Options{Flags: bind, Propagation: []uintptr{unix.MS_PRIVATE | rec}}},
		{"rslave,shared", Options{Propagation: []uintptr{unix.MS_SLAVE | rec, unix.MS_SHARED}}},
		{"noatime,relatime", Options{Flags: unix.MS_RELATIME}},
		{"noatime,nodiratime", Options{Flags: unix.MS_NOATIME | unix.MS_NODIRATIME}},
		{"strictatime,atime", Options{Flags: unix.MS_STRICTATIME, Clear: unix.MS_NOATIME}},
		{"nosuid,suid", Options{Clear: unix.MS_NOSUID}},
		{"size=1m,nosuid,mode=755", Options{Flags: unix.MS_NOSUID, Data: "size=1m,mode=755"}},
		{"rro", Options{AttrSet: unix.MOUNT_ATTR_RDONLY}},
		{"rro,rrw", Options{AttrClear: unix.MOUNT_ATTR_RDONLY}},
		{"rrw,rro", Options{AttrSet: unix.MOUNT_ATTR_RDONLY}},
		{"rnoatime", Options{AttrSet: unix.MOUNT_ATTR_NOATIME, AttrClear: aMask}},
		{"rnoatime,rrelatime", Options{AttrClear: aMask}},
		{"rnoatime,rro", Options{AttrSet: unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR_RDONLY, AttrClear: aMask}},
		{"remount,bind,ro", Options{Flags: unix.MS_REMOUNT | bind | ro}},
		{"auto,nofail,_netdev,x-systemd.automount", Options{}},
		{"lowerdir=/a:/b", Options{Data: "lowerdir=/a:/b"}},
		{"runknown", Options{Data: "runknown"}},
	} {
		got, err := ParseOptions(strings.Split(c.in, ","))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("ParseOptions(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"tmpcopyup", "idmap", ""} {
		if got, err := ParseOptions([]string{in}); err == nil {
			t.Errorf("ParseOptions(%q) = %+v; want an error", in, got)
		}
	}
}

func TestKeep(t *testing.T) {
	const present = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RELATIME
	for _, c := range []struct {
		name                     string
		present, set, clear, out uintptr
	}{
		{"adds", present, unix.MS_RDONLY, 0, present | unix.MS_RDONLY},
		{"clears", present, 0, unix.MS_NOSUID, unix.MS_NODEV | unix.MS_RELATIME},
		{"changes the access time", present, unix.MS_NOATIME, 0, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOATIME},
		{"falls back to relatime", unix.MS_NOATIME, 0, unix.MS_NOATIME, unix.MS_RELATIME},
		{"keeps strictatime", unix.MS_STRICTATIME, unix.MS_RDONLY, 0, unix.MS_STRICTATIME | unix.MS_RDONLY},
		{"nodiratime beside relatime", unix.MS_RELATIME, unix.MS_NODIRATIME, 0, unix.MS_RELATIME | unix.MS_NODIRATIME},
	} {
		if got := keep(c.present, c.set, c.clear); got != c.out {
			t.Errorf("%s: keep = %s; want %s", c.name, FlagNames(got), FlagNames(c.out))
		}
	}
}

func TestFromStatfs(t *testing.T) {
	const validBit = 0x20 // ST_VALID, always set by the kernel
	for _, c := range []struct {
		st   int64
		want uintptr
	}{
		{validBit, unix.MS_STRICTATIME},
		{validBit | stRelatime, unix.MS_RELATIME},
		{validBit | stRdonly | stNosuid | stNoatime, unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOATIME},
		{stNodev | stNoexec | stRelatime | stNodiratime | stNosymfollow,
			unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME | unix.MS_NODIRATIME | unix.MS_NOSYMFOLLOW},
	} {
		if got := fromStatfs(c.st); got != c.want {
			t.Errorf("fromStatfs(%#x) = %s; want %s", c.st, FlagNames(got), FlagNames(c.want))
		}
	}
}

func TestFlagNames(t *testing.T) {
	for flags, want := range map[uintptr]string{
		0:                             "0",
		unix.MS_BIND | unix.MS_REC:    "MS_BIND|MS_REC",
		unix.MS_REC | unix.MS_PRIVATE: "MS_REC|MS_PRIVATE",
		unix.MS_RDONLY | 1<<30:        "MS_RDONLY|0x40000000",
	} {
		if got := FlagNames(flags); got != want {
			t.Errorf("FlagNames(%#x) = %q; want %q", flags, got, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  Error
		want string
	}{
		{Error{Op: "mount", Source: "tmpfs", Target: "/tmp", FSType: "tmpfs", Err: unix.EPERM},
			"02-mount: mount tmpfs on /tmp: operation not permitted"},
		{Error{Op: "bind", Source: "/a", Target: "/b", Flags: unix.MS_BIND | unix.MS_REC, Err: unix.EINVAL},
			"02-mount: bind /a on /b (MS_BIND|MS_REC): invalid argument"},
		{Error{Op: "unmount", Target: "/b", Flags: unix.UMOUNT_NOFOLLOW, Err: unix.EBUSY},
			"02-mount: unmount /b (UMOUNT_NOFOLLOW): device or resource busy"},
		{Error{Op: "make private", Target: "/", Flags: unix.MS_PRIVATE, Err: unix.EINVAL},
			"02-mount: make private / (MS_PRIVATE): invalid argument"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("Error() = %q; want %q", got, c.want)
		}
		if !errors.Is(&c.err, c.err.Err) {
			t.Errorf("%q does not unwrap to its errno", c.want)
		}
	}
}

func TestTmpfsData(t *testing.T) {
	for _, c := range []struct {
		o    TmpfsOptions
		want string
	}{
		{TmpfsOptions{}, ""},
		{TmpfsOptions{Size: 1 << 20, Mode: 0o1777}, "size=1m,mode=1777"},
		{TmpfsOptions{Size: 1 << 50}, "size=1048576g"},
		{TmpfsOptions{Size: 65536 + 1024}, "size=65k"},
		{TmpfsOptions{Size: 1000}, "size=1000"},
		{TmpfsOptions{Inodes: 100}, "nr_inodes=100"},
	} {
		if got := c.o.data(); got != c.want {
			t.Errorf("%+v.data() = %q; want %q", c.o, got, c.want)
		}
	}
}

const sample = `27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 27 0:30 / /mnt rw,nosuid shared:7 master:3 - tmpfs tmpfs rw,size=4k
41 40 0:31 / /mnt ro,relatime - tmpfs upper rw
42 41 254:0 /home/a\040b /mnt/sub rw,relatime unbindable - ext4 /dev/vda rw
43 27 0:9 / /mnt2 rw - proc proc rw
`

func TestReadTable(t *testing.T) {
	table, err := ReadTable(strings.NewReader(sample))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"shared:1", "shared:7 master:3", "private", "unbindable", "private"} {
		if got := table[i].Propagation(); got != want {
			t.Errorf("entry %d: Propagation() = %q; want %q", i, got, want)
		}
	}
	if m, ok := table.At("/mnt"); !ok || m.ID != 41 {
		t.Errorf("At(/mnt) = %v, %v; want the upper mount, 41", m, ok)
	}
	if m, ok := table.At("/"); !ok || m.ID != 27 {
		t.Errorf("At(/) = %v, %v; want 27", m, ok)
	}
	if below := table.Below("/mnt"); len(below) != 1 || below[0].Root != "/home/a b" {
		t.Errorf("Below(/mnt) = %v; want the one on /mnt/sub, not /mnt2", below)
	}
	if !table[2].Has("ro") || table[1].Has("ro") {
		t.Error("Has(ro) is wrong")
	}
	if added := table.Added(table[:4]); len(added) != 1 || added[0].ID != 43 {
		t.Errorf("Added = %v; want 43", added)
	}
}
