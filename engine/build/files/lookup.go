package files

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// still follows nothing: no link, and no "..". A path that came out of walkTo has neither, so that if the kernel meets one
// all the same, somebody has put it there since.
const still = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS

// at is the name by which a path below a root is opened.
func at(name string) string {
	if name == "" {
		return "."
	}
	return name
}

// openStill opens a path below a folder without following anything. A link at its end is opened itself, with O_PATH.
func openStill(top *os.File, name string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: still}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(top.Fd()), at(name), &how)
		// EAGAIN: something was renamed on the way, so the kernel could not be sure that the path stays inside.
		if (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)) && try < 100 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// place is where a name leads to when all links have been followed.
type place struct {
	path string   // below the root, without links in it; empty: the root itself
	file *os.File // opened with O_PATH; nil: there is nothing
	st   unix.Stat_t
}

func (p *place) isDir() bool { return p.file != nil && kind(&p.st) == unix.S_IFDIR }

func (p *place) close() {
	if p.file != nil {
		p.file.Close()
	}
}

func kind(st *unix.Stat_t) uint32 { return st.Mode & unix.S_IFMT }

// maxLinks is how many links a name may lead over: the kernel's own limit, path_resolution(7).
const maxLinks = 40

// walkTo follows a name below a folder as a process would whose root it is: an absolute link begins at the folder, and ".."
// goes no higher. It does so one part at a time, and not by RESOLVE_IN_ROOT, for two reasons: a link that .dockerignore
// hides leads nowhere, and where the last parts are missing, the place where they are to be made must be known.
// hidden may be nil.
func walkTo(top *os.File, name string, hidden func(path string) bool) (place, error) {
	if here, ok := walkStraight(top, name); ok {
		return here, nil
	}
	rest := strings.Split(name, "/")
	var parts []string
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			parts = parts[:max(0, len(parts)-1)]
			continue
		}
		p := path.Join(append(slices.Clone(parts), part)...)
		f, err := openStill(top, p, unix.O_PATH)
		if errors.Is(err, unix.ENOENT) {
			return place{path: strings.TrimPrefix(path.Clean("/"+p+"/"+strings.Join(rest, "/")), "/")}, nil
		}
		if err != nil {
			return place{}, err
		}
		target, err := linkTarget(f)
		if err == nil && target == "" {
			f.Close()
			parts = append(parts, part)
			continue
		}
		f.Close()
		if links++; err == nil && links > maxLinks {
			err = unix.ELOOP
		}
		if err != nil {
			return place{}, err
		}
		if hidden != nil && hidden(p) {
			return place{path: p}, nil
		}
		if strings.HasPrefix(target, "/") {
			parts = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return placeAt(top, strings.Join(parts, "/"))
}

// walkStraight is walkTo for most names: those that have no link in them.
func walkStraight(top *os.File, name string) (place, bool) {
	if slices.Contains(strings.Split(name, "/"), "..") {
		return place{}, false
	}
	here, err := placeAt(top, strings.TrimPrefix(path.Clean("/"+name), "/"))
	if err != nil {
		return place{}, false
	}
	if kind(&here.st) == unix.S_IFLNK {
		here.close()
		return place{}, false
	}
	return here, true
}

// placeAt opens what is at a path, and follows nothing.
func placeAt(top *os.File, name string) (place, error) {
	f, err := openStill(top, name, unix.O_PATH)
	if err != nil {
		return place{}, err
	}
	here := place{path: name, file: f}
	if err := unix.Fstat(int(f.Fd()), &here.st); err != nil {
		f.Close()
		return place{}, err
	}
	return here, nil
}

// linkTarget reads where a link leads that was opened with O_PATH. It is empty for anything else.
func linkTarget(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not a link
		return "", nil
	}
	return string(buf[:max(n, 0)]), err
}

// through is the name by which an open file can be given to a call that takes names.
func through(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// openRead opens a regular file that is held by O_PATH. It is the same file, whatever has its name by now.
func openRead(p *place) (*os.File, error) {
	fd, err := unix.Open(through(p.file), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p.path), nil
}
