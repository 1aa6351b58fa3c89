package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// programs are what the scenarios call besides nslab, and mkfs.ext4 for the guest's own root. A test compares the list with
// the scenarios.
var programs = strings.Fields(`
	awk basename bash busybox cat chmod chown chroot cmp comm cp curl cut date dd df diff dirname du echo egrep env expr
	false find findmnt getfattr grep gzip head hostname id ip kill ln ls lsblk lsns mkdir mkfifo mkfs.ext4 mknod mktemp
	mount mountpoint mv nft nproc nsenter od pivot_root printf ps pwd readlink realpath rm rmdir script sed seq setpriv
	sh sha256sum sleep sort stat stdbuf strace stty sync tail tar tee test timeout touch tr true truncate umount uname
	uniq unshare wc xargs yes`)

// config is what the guest's init is told, in the file configFile.
type config struct {
	Mode     string   `json:"mode"`
	Break    string   `json:"break,omitempty"`
	Patterns []string `json:"patterns"`
	Modules  []string `json:"modules"` // in the order of loading
}

const (
	configFile = "/vm.json"
	moduleDir  = "/modules"
	nslabFile  = "/usr/local/bin/nslab"
)

// content is what goes into the initramfs, but for the configuration, which differs from machine to machine.
type content struct {
	records []cpio.Record
	has     map[string]bool // by name
	modules []string
}

// add adds a record, after the folders on the way to it. What is there stays.
func (c *content) add(r cpio.Record) {
	if dir := path.Dir(r.Name); dir != "." && !c.has[dir] {
		c.add(cpio.Directory(dir, 0o755))
	}
	if !c.has[r.Name] {
		c.has[r.Name] = true
		c.records = append(c.records, r)
	}
}

// collect finds everything that the guest needs on this machine.
func collect(ctx context.Context, o *options, k *kernel) (*content, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &content{has: map[string]bool{}}
	// First: where this machine has /lib as a link, the link must be there before anything is put into it.
	if err := c.programs(ctx); err != nil {
		return nil, err
	}
	for _, file := range []struct{ from, to string }{{self, "/init"}, {o.nslab, nslabFile}} {
		data, err := os.ReadFile(file.from)
		if err != nil {
			return nil, &hinted{err, "make build"}
		}
		c.file(file.to, string(data), 0o755)
	}
	order, absent, err := loadOrder(ctx, k.modules, wantedModules)
	if err != nil {
		return nil, err
	}
	if len(absent) > 0 {
		fmt.Printf("vm: Linux %s lacks %s\n", k.release, strings.Join(absent, " "))
	}
	for _, m := range order {
		c.modules = append(c.modules, m.name)
		c.file(path.Join(moduleDir, m.name+".ko"), string(m.code), 0o644)
	}
	return c, nil
}

// programs adds the programs with all they need to start, and the settings that some of them read.
func (c *content) programs(ctx context.Context) error {
	host := rootfs.ThisHost()
	var present []string
	for _, p := range programs {
		if _, err := host.Plan(ctx, rootfs.Wanted{Programs: []string{p}}); err != nil {
			fmt.Printf("vm: not here, so not in the guest: %s\n", p)
			continue
		}
		present = append(present, p)
	}
	wanted := rootfs.Wanted{Programs: present}
	// os-release, since every distribution has it: `nslab image bootstrap` puts it into its image, and scenarios remove it.
	for _, f := range []string{"/usr/lib/locale/C.utf8", "/etc/mke2fs.conf", "/etc/os-release"} {
		if _, err := os.Stat(f); err == nil {
			wanted.Files = append(wanted.Files, f)
		}
	}
	plan, err := host.Plan(ctx, wanted)
	if err != nil {
		return err
	}
	for _, e := range plan.Entries {
		if err := c.entry(e); err != nil {
			return err
		}
	}
	if _, ok := plan.At("/etc/passwd"); !ok {
		c.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n", 0o644)
		c.file("/etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
	}
	// What a container gets its own copy of. Nobody answers questions for names: the guest has no network but its own.
	c.file("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644)
	c.file("/etc/resolv.conf", "nameserver 192.0.2.53\n", 0o644)
	for _, dir := range []string{"proc", "sys", "dev", "run", "root", "newroot", "mnt", "var", "var/tmp"} {
		c.add(cpio.Directory(dir, 0o755))
	}
	c.add(cpio.Directory("tmp", 0o1777))
	// Before init has mounted /dev the kernel opens this for it.
	c.add(cpio.CharDev("dev/console", 0o600, 5, 1))
	return nil
}

func (c *content) file(name, text string, perm uint64) {
	c.add(cpio.StaticFile(strings.TrimPrefix(name, "/"), text, perm))
}

// entry translates an entry of lab 04's plan.
func (c *content) entry(e rootfs.Entry) error {
	name := strings.TrimPrefix(e.Path, "/")
	perm := uint64(e.Mode.Perm())
	for bit, mode := range map[uint64]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if e.Mode&mode != 0 {
			perm |= bit
		}
	}
	switch {
	case e.Mode.IsDir():
		c.add(cpio.Directory(name, perm))
	case e.Mode.Type() == fs.ModeSymlink:
		c.add(cpio.Symlink(name, e.Target))
	case e.Mode.IsRegular() && e.Made != nil:
		c.file(name, string(e.Made), perm)
	case e.Mode.IsRegular():
		data, err := os.ReadFile(e.Source)
		if err != nil {
			return err
		}
		c.file(name, string(data), perm)
	default:
		return fmt.Errorf("%s is neither file, folder nor link", e.Path)
	}
	return nil
}

// pack writes the initramfs to a file without a name. It is not compressed: the guest's processor would have to undo
// that. From qemu's start to init, emulated: 3.1 s as it is (44 MB), 3.7 s with zstd, 6.1 s with gzip.
func (c *content) pack(cfg config) (*os.File, error) {
	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	cfg.Modules = c.modules
	text, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	w := cpio.Newc.Writer(f)
	all := append([]cpio.Record{cpio.StaticFile(strings.TrimPrefix(configFile, "/"), string(text), 0o644)}, c.records...)
	if err := cpio.WriteRecords(w, all); err != nil {
		f.Close()
		return nil, fmt.Errorf("pack the initramfs: %w", err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		f.Close()
		return nil, fmt.Errorf("pack the initramfs: %w", err)
	}
	return f, nil
}

// disk makes the guest's disk: a sparse file without a name; in memory, where the folder's file system must have names.
func disk(dir string, size int64) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) { // EISDIR: a kernel that does not know the flag
		var fd int
		if fd, err = unix.MemfdCreate("disk", unix.MFD_CLOEXEC); err == nil {
			f = os.NewFile(uintptr(fd), "disk")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("a disk for the guest in %s: %w", dir, err)
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// scenarios asks the program under test which scenarios it has for the patterns.
func scenarios(ctx context.Context, o *options) ([]string, error) {
	args := append([]string{"test", "--list", "--format", "json"}, o.patterns...)
	program, err := filepath.Abs(o.nslab)
	if err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			return nil, fmt.Errorf("%s %s: %s", o.nslab, strings.Join(args, " "), strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, &hinted{err, "make build"}
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		var s result
		if err := json.Unmarshal([]byte(line), &s); err != nil || s.Script == "" {
			return nil, fmt.Errorf("%s test --list says %s", o.nslab, strconv.Quote(line))
		}
		names = append(names, s.Script)
	}
	return names, nil
}
