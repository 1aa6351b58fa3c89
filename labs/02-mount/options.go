package mount

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options is what a list of mount options means to the kernel: see [ParseOptions].
type Options struct {
	Flags       uintptr   // MS_* to set; MS_BIND, MS_REC and MS_REMOUNT say which kind of mount it is
	Clear       uintptr   // MS_* that were taken away by name ("rw", "dev"): it matters for binds, which inherit flags
	Propagation []uintptr // MS_PRIVATE, MS_SLAVE …, each with or without MS_REC: one call each
	AttrSet     uint64    // MOUNT_ATTR_* to set on the mount and all below it ("rro")
	AttrClear   uint64    // MOUNT_ATTR_* to clear there ("rrw")
	Data        string    // what is left, for the file system itself: "size=1m,mode=755"
}

// option is what one word does.
type option struct {
	set, clear uintptr
}

// The words of fstab(5) and of the OCI runtime-spec that stand for flags.
var options = sync.OnceValue(func() map[string]option {
	return map[string]option{
		"defaults":      {},
		"bind":          {set: unix.MS_BIND},
		"rbind":         {set: unix.MS_BIND | unix.MS_REC},
		"remount":       {set: unix.MS_REMOUNT},
		"ro":            {set: unix.MS_RDONLY},
		"rw":            {clear: unix.MS_RDONLY},
		"nosuid":        {set: unix.MS_NOSUID},
		"suid":          {clear: unix.MS_NOSUID},
		"nodev":         {set: unix.MS_NODEV},
		"dev":           {clear: unix.MS_NODEV},
		"noexec":        {set: unix.MS_NOEXEC},
		"exec":          {clear: unix.MS_NOEXEC},
		"nosymfollow":   {set: unix.MS_NOSYMFOLLOW},
		"symfollow":     {clear: unix.MS_NOSYMFOLLOW},
		"noatime":       {set: unix.MS_NOATIME},
		"atime":         {clear: unix.MS_NOATIME},
		"nodiratime":    {set: unix.MS_NODIRATIME},
		"diratime":      {clear: unix.MS_NODIRATIME},
		"relatime":      {set: unix.MS_RELATIME},
		"norelatime":    {clear: unix.MS_RELATIME},
		"strictatime":   {set: unix.MS_STRICTATIME},
		"nostrictatime": {clear: unix.MS_STRICTATIME},
		"sync":          {set: unix.MS_SYNCHRONOUS},
		"async":         {clear: unix.MS_SYNCHRONOUS},
		"dirsync":       {set: unix.MS_DIRSYNC},
		"mand":          {set: unix.MS_MANDLOCK},
		"nomand":        {clear: unix.MS_MANDLOCK},
		"lazytime":      {set: unix.MS_LAZYTIME},
		"nolazytime":    {clear: unix.MS_LAZYTIME},
		"iversion":      {set: unix.MS_I_VERSION},
		"noiversion":    {clear: unix.MS_I_VERSION},
		"silent":        {set: unix.MS_SILENT},
		"loud":          {clear: unix.MS_SILENT},
	}
})

var propagationOptions = sync.OnceValue(func() map[string]uintptr {
	return map[string]uintptr{
		"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC,
		"slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
		"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC,
		"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
	}
})

// recursive names the flags that may have an "r" in front, for the mount and all below it. mount(2) cannot do that.
var recursive = []string{
	"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "nosymfollow", "symfollow", "noatime", "atime",
	"nodiratime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime",
}

// Words of fstab(5) for other programs: when to mount, and whether to wait for the network. The kernel knows none.
var forOthers = []string{"auto", "noauto", "nofail", "_netdev"}

// Words of the runtime-spec that mean work which this package does not do. Passing them on to the file system would end
// in EINVAL at best.
var notHere = []string{"tmpcopyup", "idmap", "ridmap"}

// ParseOptions translates options of fstab(5) and of the OCI runtime-spec ("rbind", "ro", "rslave", "size=1m"). It asks
// the kernel nothing. Of two options that contradict each other the later one holds, as with mount(8).
func ParseOptions(list []string) (Options, error) {
	var o Options
	var data []string
	for _, word := range list {
		if known, ok := options()[word]; ok {
			o.add(known)
		} else if flags, ok := propagationOptions()[word]; ok {
			o.Propagation = append(o.Propagation, flags)
		} else if name, ok := strings.CutPrefix(word, "r"); ok && slices.Contains(recursive, name) {
			o.addRecursive(options()[name])
		} else if slices.Contains(forOthers, word) || strings.HasPrefix(word, "x-") {
			continue
		} else if slices.Contains(notHere, word) {
			return Options{}, fmt.Errorf("02-mount: option %s: %w", word, errors.ErrUnsupported)
		} else if word == "" || strings.ContainsRune(word, 0) {
			return Options{}, fmt.Errorf("02-mount: option %q: %w", word, unix.EINVAL)
		} else {
			data = append(data, word) // only the file system can tell whether it knows this
		}
	}
	o.Data = strings.Join(data, ",")
	return o, nil
}

func (o *Options) add(x option) {
	if x.set&atime != 0 {
		o.Flags &^= atime // a choice of one
	}
	o.Flags = o.Flags&^x.clear | x.set
	o.Clear = o.Clear&^x.set | x.clear
}

func (o *Options) addRecursive(x option) {
	set, clear := attributes(x.set)
	clear |= clearing(x.clear)
	o.AttrSet = o.AttrSet&^clear | set
	o.AttrClear |= clear
	if clear&unix.MOUNT_ATTR__ATIME == 0 {
		o.AttrClear &^= set // the later word wins; the access time is cleared and set in one call
	}
}

// kind are the flags that say what to do; the others say how.
const kind = unix.MS_BIND | unix.MS_REC | unix.MS_REMOUNT

// Mount does what m asks for: a bind, a remount or a file system, with its flags, data and propagation, on m.Destination
// exactly as it is written. It takes as many calls as mount(2) needs; if one is refused, the mount that the earlier ones
// made is taken away again.
//
// The order is given by the kernel. A bind ignores flags, so they come with a remount; a propagation type may stand
// beside no other flag but MS_REC, so it comes last; and recursive attributes need all mounts to be there.
func Mount(ctx context.Context, m specs.Mount) error {
	o, err := ParseOptions(m.Options)
	if err != nil {
		return err
	}
	if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		return fmt.Errorf("02-mount: mount %s: id mappings: %w", m.Destination, errors.ErrUnsupported)
	}
	if m.Type == "bind" { // engines write either, or both
		o.Flags |= unix.MS_BIND
	}
	if throughDescriptor(m.Destination) {
		return fmt.Errorf("02-mount: mount %s: %w", m.Destination, errBeneath)
	}
	if o.Flags&unix.MS_REMOUNT != 0 {
		if err := remount(ctx, m, o); err != nil {
			return err
		}
		return propagate(ctx, m.Destination, o.Propagation)
	}
	return allOrNothing(ctx, m, o)
}

func allOrNothing(ctx context.Context, m specs.Mount, o Options) error {
	if err := first(ctx, m, o); err != nil {
		return err
	}
	if err := rest(ctx, m, o); err != nil {
		return errors.Join(err, Detach(ctx, m.Destination))
	}
	return nil
}

// first makes the mount.
func first(ctx context.Context, m specs.Mount, o Options) error {
	if o.Flags&unix.MS_BIND != 0 {
		flags := o.Flags & (unix.MS_BIND | unix.MS_REC)
		return call(ctx, 0, Error{Op: "bind", Source: m.Source, Target: m.Destination, Flags: flags})
	}
	return call(ctx, 0, Error{
		Op: "mount", Source: m.Source, Target: m.Destination, FSType: m.Type, Flags: o.Flags &^ kind, Data: o.Data,
	})
}

// rest brings a new mount to what was asked for.
func rest(ctx context.Context, m specs.Mount, o Options) error {
	if o.Flags&unix.MS_BIND != 0 && (o.Flags|o.Clear)&perMount != 0 {
		if err := Remount(ctx, m.Destination, o.Flags&perMount, o.Clear&perMount); err != nil {
			return err
		}
	}
	if o.AttrSet|o.AttrClear != 0 {
		if err := SetAttrAt(ctx, m.Destination, true, o.AttrSet, o.AttrClear); err != nil {
			return err
		}
	}
	return propagate(ctx, m.Destination, o.Propagation)
}

// remount changes a mount that is there. With "bind" it is the mount's own flags that change, without it those of the
// file system, and its data ("remount,size=2m").
func remount(ctx context.Context, m specs.Mount, o Options) error {
	if o.Flags&unix.MS_BIND != 0 {
		return Remount(ctx, m.Destination, o.Flags&perMount, o.Clear&perMount)
	}
	present, err := flagsOf(ctx, m.Destination)
	if err != nil {
		return err
	}
	flags := unix.MS_REMOUNT | o.Flags&^kind&^perMount | keep(present, o.Flags&perMount, o.Clear&perMount)
	return call(ctx, 0, Error{Op: "remount", Target: m.Destination, Flags: flags, Data: o.Data})
}
