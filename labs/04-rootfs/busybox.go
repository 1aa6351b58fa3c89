package rootfs

import (
	"bytes"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// busybox is many programs in one file: it does what the name it was called by says. So it needs a link for each name.
//
// `busybox --list` would tell the names, but nothing is run here. They stand in the file: busybox keeps its applets'
// names in one array, each ended by a zero byte, sorted for a binary search (applet_names in its libbb/appletlib.c). The
// array has no marks around it; but a run of that many sorted names is found nowhere else.

// maxBusybox bounds what is read; real ones have one or two megabytes.
const maxBusybox = 32 << 20

// isBusybox goes by the name: Debian's is "busybox", also where the package is busybox-static, Alpine has "busybox.static".
func isBusybox(o *object) bool {
	return strings.HasPrefix(path.Base(o.real), "busybox") || strings.HasPrefix(path.Base(o.path), "busybox")
}

// applets adds a link beside a busybox for each of its names, where no other file has that name: it comes last.
//
// Which of its four folders busybox itself would install a name to is not written down in a form that could be found.
// Beside busybox is where the search path finds them; /usr/bin/env, which scripts call by its path, is made, too.
func (p *planner) applets(o *object) error {
	f, err := openRegular(p.host.on(o.real))
	if err != nil {
		return &Error{Op: "read", Path: o.path, Err: err}
	}
	defer f.Close()
	image, err := io.ReadAll(io.LimitReader(f, maxBusybox))
	if err != nil {
		return &Error{Op: "read", Path: o.path, Err: err}
	}
	dir := path.Dir(o.real)
	link := func(name, target string) {
		p.plan.put(Entry{Path: name, Mode: fs.ModeSymlink | 0o777, Target: target, Why: Reason{Applet, o.path}})
	}
	names := appletNames(image)
	for _, name := range names {
		link(path.Join(dir, name), path.Base(o.real))
	}
	if _, err := p.host.resolve("/usr/bin"); err == nil && slices.Contains(names, "env") {
		if real, err := p.add("/usr/bin", Reason{OnTheWay, "/usr/bin/env"}); err == nil {
			link(path.Join(real, "env"), o.real)
		}
	}
	return nil
}

// appletNames finds the array in the bytes of a busybox; nil if there is none.
func appletNames(image []byte) []string {
	var best []string
	const anchor = "\x00cat\x00" // in every configuration, and in the middle of the alphabet
	for from := 0; ; {
		i := bytes.Index(image[from:], []byte(anchor))
		if i < 0 {
			return best
		}
		at := from + i + 1
		if names := sortedAround(image, at); len(names) > len(best) && len(names) > 3 {
			best = names
		}
		from = at
	}
}

// sortedAround collects the names before and after the one at an offset, as long as they are sorted.
func sortedAround(image []byte, at int) []string {
	name := cString(image[at:])
	names := []string{name}
	for start, first := at, name; start > 1; {
		end := start - 1 // the zero byte that ends the name before
		previous := bytes.LastIndexByte(image[:end], 0) + 1
		name := string(image[previous:end])
		if !appletName(name) || name >= first {
			break
		}
		names = append([]string{name}, names...)
		start, first = previous, name
	}
	for next, last := at+len(name)+1, name; next < len(image); {
		name := cString(image[next:])
		if !appletName(name) || name <= last {
			break
		}
		names = append(names, name)
		next, last = next+len(name)+1, name
	}
	return names
}

// appletName says whether this may be the name of an applet: "[", "[[", "ls", "fsck.minix", "run-parts", "mkfs.ext2".
func appletName(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	if s == "[" || s == "[[" {
		return true
	}
	for i, r := range s {
		switch {
		case r >= 'a' && r <= 'z':
		case i > 0 && (r >= '0' && r <= '9' || strings.ContainsRune("._-+", r)):
		default:
			return false
		}
	}
	return true
}
