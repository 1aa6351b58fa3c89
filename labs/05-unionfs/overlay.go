package unionfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// The kernel takes layers in two ways. mount(2) gets all options in one page of memory, 4096 bytes; with the paths of an
// image store that is some forty layers. Since Linux 6.7 there is an option "lowerdir+" for fsconfig(2), one call a
// layer. Where a kernel has only the old way and the names do not fit, the folders are opened, and a child that stands in
// /proc/self/fd calls them 3:4:5. Nothing else about the mount differs.

// maxOverlayLayers is the kernel's limit, OVL_MAX_STACK.
const maxOverlayLayers = 500

// maxValue is the longest value that fsconfig(2) takes for an option.
const maxValue = 255

func mountOverlay(ctx context.Context, l Layers, target string) (*Union, error) {
	fail := func(err error) (*Union, error) {
		return nil, &Error{Op: "mount", Driver: Overlay, Layers: l, Target: target, Err: err}
	}
	if l.Upper == "" && len(l.Lower) == 1 {
		// The kernel wants two folders at least. A read-only bind of the one shows the same.
		if err := mount.BindReadOnly(ctx, l.Lower[0], target); err != nil {
			return fail(err)
		}
		return &Union{Driver: Overlay, Target: target}, nil
	}
	if err := unused(l); err != nil {
		return fail(err)
	}
	way := overlayOldWay
	// The upper folders keep their names, by which the mount table shows who uses them.
	if appendsLayers() && len(escape.Replace(l.Upper)) <= maxValue && len(escape.Replace(l.Work)) <= maxValue {
		way = overlayNewWay
	}
	if err := way(ctx, l, target); err != nil {
		return fail(err)
	}
	return &Union{Driver: Overlay, Target: target}, nil
}

// overlayNewWay adds one layer a call, topmost first.
func overlayNewWay(ctx context.Context, l Layers, target string) (err error) {
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			err = errors.Join(err, f.Close())
		}
	}()
	var options []string
	for _, path := range l.Lower {
		// A lower name is taken as it is; one that is too long goes by the name of a descriptor.
		if len(path) > maxValue {
			f, err := openPath(path)
			if err != nil {
				return err
			}
			opened = append(opened, f)
			path = mount.Through(f)
		}
		options = append(options, "lowerdir+="+path)
	}
	if l.Upper != "" {
		options = append(options, upperOptions(l)...)
	}
	tree, err := mount.NewFS(ctx, "overlay", "overlay", append(options, overlayFlags()...), 0)
	if err != nil {
		return err
	}
	return errors.Join(mount.Attach(ctx, tree, target), tree.Close())
}

// overlayOldWay gives all options to one mount(2).
func overlayOldWay(ctx context.Context, l Layers, target string) error {
	if data := overlayData(l.Lower, l); len(data) < os.Getpagesize() {
		return mount.Syscall(ctx, "overlay", target, "overlay", 0, data)
	}
	return overlayByNumber(ctx, l, target)
}

// overlayData is the option string. lower are the names by which the lower folders go, which need not be l.Lower's.
func overlayData(lower []string, l Layers) string {
	escaped := make([]string, len(lower))
	for i, path := range lower {
		escaped[i] = escape.Replace(path)
	}
	options := []string{"lowerdir=" + strings.Join(escaped, ":")}
	if l.Upper != "" {
		options = append(options, upperOptions(l)...)
	}
	return strings.Join(append(options, overlayFlags()...), ",")
}

func upperOptions(l Layers) []string {
	options := []string{"upperdir=" + escape.Replace(l.Upper), "workdir=" + escape.Replace(l.Work)}
	if l.Volatile {
		options = append(options, "volatile")
	}
	return options
}

// Forgive takes away the mark that a volatile mount leaves in its work folder. As long as that is there, overlay refuses to mount
// the layers again: after a crash they may have holes. In the same boot, the caller knows that they have none. See "Volatile
// mount" in Documentation/filesystems/overlayfs.rst.
func Forgive(work string) error {
	mark := filepath.Join(work, "work", "incompat")
	_, err := os.Lstat(mark)
	if errors.Is(err, fs.ErrPermission) { // the kernel lets nobody in but root, while nothing is mounted, either
		os.Chmod(filepath.Dir(mark), 0o700)
		_, err = os.Lstat(mark)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // which RemoveAll does not know where the file system is read-only
	}
	if err := os.RemoveAll(mark); err != nil {
		return fmt.Errorf("05-unionfs: forgive that %s was mounted volatile: %w", work, err)
	}
	return nil
}

// escape hides from the kernel's parser what separates options and layers there.
var escape = strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)

// overlayFlags: in a user namespace the attributes with which overlay marks folders must be called user.overlay.*, since
// trusted.* is for root of the first one. Without the option overlay mounts, and fails later, at the first folder that is
// to be opaque. It is known since Linux 5.11, as overlay in user namespaces is.
//
// Otherwise two things are ruled out that a distribution may have made the default: an upper folder in which a renamed
// folder only points to where it was, and a file with changed rights only to its content. Such a layer means nothing alone, and a layer
// is to be taken away and put onto others.
func overlayFlags() []string {
	if mount.InUserNamespace() {
		return []string{"userxattr"} // which rules both out
	}
	return []string{"redirect_dir=off", "metacopy=off"}
}

// numberEntry is the re-exec entry point of the child that mounts by numbers.
const numberEntry = "nslab-overlay"

func init() { reexec.Register(numberEntry, mountNumbered) }

// overlayByNumber starts a child for the mount: its working folder is its own, while that of a thread of ours is all
// threads'. The child is born in the thread's mount namespace.
func overlayByNumber(ctx context.Context, l Layers, target string) (err error) {
	cmd := reexec.Command(numberEntry)
	defer func() {
		for _, f := range cmd.ExtraFiles {
			err = errors.Join(err, f.Close())
		}
	}()
	var lower []string
	for i, path := range l.Lower {
		f, err := openPath(path)
		if err != nil {
			return err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		lower = append(lower, strconv.Itoa(i+3))
	}
	// The others keep their names, by which the mount table then shows them.
	for _, path := range []*string{&l.Upper, &l.Work, &target} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	data := overlayData(lower, l)
	cmd.Args = append(cmd.Args, target, data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the child dies with the thread that made it
	defer runtime.UnlockOSThread()
	return trace.Call(ctx, 0,
		func() string {
			return fmt.Sprintf(`chdir("/proc/self/fd"), mount("overlay", %q, "overlay", 0, %q)`, target, data)
		},
		func() error {
			out, err := cmd.CombinedOutput()
			if errno, atoiErr := strconv.Atoi(string(out)); err != nil && atoiErr == nil {
				return &mount.Error{Op: "mount", Source: "overlay", Target: target, FSType: "overlay", Data: data, Err: unix.Errno(errno)}
			}
			return err
		})
}

// mountNumbered runs in the child. It prints the errno.
func mountNumbered() {
	err := unix.Chdir("/proc/self/fd")
	if err == nil {
		err = unix.Mount("overlay", os.Args[1], "overlay", 0, os.Args[2])
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		fmt.Print(int(errno))
		os.Exit(1)
	}
}

// appendsLayers tells whether overlay knows "lowerdir+". Before 6.5 the kernel takes any option here, and complains when
// the mount is made; so one that does not exist is tried as well.
var appendsLayers = sync.OnceValue(func() bool {
	takes := func(option string) bool {
		fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		return unix.FsconfigSetString(fd, option, "/") == nil
	}
	return takes("lowerdir+") && !takes("no-such-option")
})

func openPath(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// unused refuses an upper or work folder that another overlay of this mount namespace writes to. The kernel only writes a
// line to its log and lets it pass, unless "index=on" is given, and both unions then lose files.
func unused(l Layers) error {
	if l.Upper == "" {
		return nil
	}
	user, err := overlayUsing(l.Upper, l.Work)
	if err == nil && user != "" {
		err = &InUseError{Target: user}
	}
	return err
}

// overlayUsing finds the overlay mount whose upper or work folder is one of paths, and returns where it is mounted.
func overlayUsing(paths ...string) (string, error) {
	table, err := mount.Current()
	if err != nil {
		return "", err
	}
	for _, m := range table {
		if m.FSType != "overlay" {
			continue
		}
		for _, key := range []string{"upperdir", "workdir"} {
			its, ok := overlayOption(m.SuperOptions, key)
			if ok && slices.ContainsFunc(paths, func(path string) bool { return sameFolder(path, its) }) {
				return m.Target, nil
			}
		}
	}
	return "", nil
}

// overlayOption finds an option in a line of the mount table.
func overlayOption(options, key string) (string, bool) {
	for _, o := range splitEscaped(unquote(options), ',') {
		if value, ok := strings.CutPrefix(o, key+"="); ok {
			return unescape(value), true
		}
	}
	return "", false
}

// LayersOf reads from the mount table which layers the overlay on target has, by the names that it was given.
func LayersOf(target string) (Layers, error) {
	table, err := mount.Current()
	if err != nil {
		return Layers{}, err
	}
	m, _ := table.At(target)
	if m.FSType != "overlay" {
		return Layers{}, fmt.Errorf("05-unionfs: read the layers of %s: no overlay is mounted there", target)
	}
	var l Layers
	for _, o := range strings.Split(m.SuperOptions, ",") { // a comma in a name is a number here
		key, value, _ := strings.Cut(o, "=")
		switch value = unquote(value); key {
		case "lowerdir+":
			l.Lower = append(l.Lower, value)
		case "lowerdir":
			for _, path := range splitEscaped(value, ':') {
				l.Lower = append(l.Lower, unescape(path))
			}
		case "upperdir":
			l.Upper = unescape(value)
		case "workdir":
			l.Work = unescape(value)
		}
	}
	return l, nil
}

var octal = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\\[0-7]{3}`) })

// unquote replaces the octal numbers that the mount table has for special characters. What is left is as it was given to
// the kernel, with a backslash before a comma, a colon and a backslash.
func unquote(s string) string {
	return octal().ReplaceAllStringFunc(s, func(s string) string {
		n, _ := strconv.ParseUint(s[1:], 8, 8) // a number above 255 is none that the kernel writes
		return string([]byte{byte(n)})
	})
}

// splitEscaped splits at each separator that has no backslash before it. The backslashes stay.
func splitEscaped(s string, separator byte) []string {
	var list []string
	start := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case separator:
			list = append(list, s[start:i])
			start = i + 1
		}
	}
	return append(list, s[start:])
}

// unescape is the way back from escape.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func sameFolder(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}
