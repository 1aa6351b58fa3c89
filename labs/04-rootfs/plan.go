package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a machine, or a folder that holds the files of one, from which programs are taken.
type Host struct {
	Root string   // the folder that is its "/"
	Path []string // where programs without a slash in their name are looked for, in this order
}

// ThisHost is the machine nslab runs on, with the search path of its environment.
func ThisHost() Host {
	h := Host{Root: "/", Path: filepath.SplitList(os.Getenv("PATH"))}
	// What an administrator's shell has and a user's may lack; ip and mount live there.
	h.Path = append(h.Path, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	return h
}

// on is where a path of the host lies in our own file system. All folders in it must be resolved already.
func (h Host) on(name string) string { return filepath.Join(h.Root, name) }

// Wanted is what a root file system is to offer.
type Wanted struct {
	Programs []string // by name or by path; with everything they need to start
	Files    []string // taken as they are, folders with all that is in them
}

// What says what an [Entry] is there for.
type What string

// The reasons for an entry. Of says for whom; for Asked nobody.
const (
	Asked       What = "asked for"
	Interpreter What = "interpreter of"
	Loader      What = "loader of"
	Library     What = "library of"
	OnTheWay    What = "on the way to"
	Applet      What = "applet of"
	Settings    What = "settings of"
	Content     What = "content of"
	Layout      What = "layout of"
)

// Reason is why an entry is in the plan: the first reason, where there are several.
type Reason struct {
	What What
	Of   string
}

func (r Reason) String() string { return strings.TrimSpace(string(r.What) + " " + r.Of) }

// Entry is a file, folder or link to be in the new root.
type Entry struct {
	Path   string      // in the new root, and on the host
	Mode   fs.FileMode // kind and permissions
	Target string      // of a link
	Source string      // where a file's content lies; empty where Made has it
	Made   []byte      // content that no file of the host has
	Size   int64
	Why    Reason
	stat   unix.Stat_t
}

// Plan is a list of entries, each folder before what it holds.
type Plan struct {
	Entries []Entry
	Time    time.Time // of what no file of the host has; zero: when it is packed
	at      map[string]int
}

// Add adds an entry that no file of the host has: a folder, a link, or a file with content. Where the plan has something
// at its path already, that stays.
func (p *Plan) Add(e Entry) {
	e.Path, e.Size, e.stat = path.Clean("/"+e.Path), int64(len(e.Made)), unix.Stat_t{}
	if dir := path.Dir(e.Path); dir != "/" {
		p.Add(Entry{Path: dir, Mode: fs.ModeDir | 0o755, Why: Reason{OnTheWay, e.Path}})
	}
	if e.Mode.IsRegular() && e.Made == nil {
		e.Made = []byte{} // no file of the host is to be read for it
	}
	p.put(e)
}

// At finds the entry with exactly this path.
func (p *Plan) At(name string) (Entry, bool) {
	i, ok := p.at[path.Clean("/"+name)]
	if !ok {
		return Entry{}, false
	}
	return p.Entries[i], true
}

// Files lists the entries that are files.
func (p *Plan) Files() []Entry {
	var files []Entry
	for _, e := range p.Entries {
		if e.Mode.IsRegular() {
			files = append(files, e)
		}
	}
	return files
}

// has tells whether a path leads to a file of the plan, through its links, as it will in the new root.
func (p *Plan) has(name string) bool {
	rest := components(name)
	for at, links := "/", 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		e, ok := p.At(next)
		if !ok {
			return false
		}
		rest = rest[1:]
		if e.Mode.Type() != fs.ModeSymlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return false
		}
		if path.IsAbs(e.Target) {
			at = "/"
		}
		rest = append(components(path.Join(at, e.Target)), rest...)
		at = "/"
	}
	return true
}

// put adds an entry, or replaces nothing: the first reason stays.
func (p *Plan) put(e Entry) {
	if _, ok := p.at[e.Path]; ok {
		return
	}
	if p.at == nil {
		p.at = map[string]int{}
	}
	p.at[e.Path] = len(p.Entries)
	p.Entries = append(p.Entries, e)
}

// Plan finds everything that the programs need to start, with the reason for each file. It reads files and runs nothing:
// ldd(1) starts the program's own loader on it, and a loader is a path that the program's author chose.
func (h Host) Plan(ctx context.Context, w Wanted) (*Plan, error) {
	p := &planner{ctx: ctx, host: h, plan: &Plan{at: map[string]int{}}, done: map[string]bool{}}
	for _, name := range w.Programs {
		file, err := h.lookPath(name)
		if err != nil {
			return nil, err
		}
		if err := p.program(file, Reason{What: Asked}, 0); err != nil {
			return nil, err
		}
	}
	for _, name := range w.Files {
		real, err := p.add(name, Reason{What: Asked})
		if err != nil {
			return nil, err
		}
		if err := p.tree(real); err != nil {
			return nil, err
		}
	}
	if err := p.layout(); err != nil {
		return nil, err
	}
	for _, o := range p.busyboxes {
		if err := p.applets(o); err != nil {
			return nil, err
		}
	}
	if err := p.settings(); err != nil {
		return nil, err
	}
	return p.plan, nil
}

// LookPath finds a program of the host by its name, on its search path.
func (h Host) LookPath(name string) (string, error) { return h.lookPath(name) }

// lookPath finds a program as execvp(3) does: a name without a slash in the folders of the search path.
func (h Host) lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return path.Clean("/" + name), nil
	}
	for _, dir := range h.Path {
		file := path.Join("/", dir, name)
		real, err := h.resolve(file)
		if err != nil || name == "" {
			continue
		}
		if st, err := os.Stat(h.on(real)); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &NotFound{Kind: "program", Name: name, Searched: h.Path}
}

// resolve follows all links in a path of the host, within its root.
func (h Host) resolve(name string) (string, error) {
	p := &planner{host: h, plan: &Plan{at: map[string]int{}}}
	return p.add(name, Reason{})
}

// layout adds the links by which this host has /bin and the like inside /usr, where what they lead to is in the plan
// anyway: sh may have been found as /usr/bin/sh, but scripts ask for /bin/sh.
func (p *planner) layout() error {
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64"} {
		real, err := p.host.resolve(name)
		if err != nil || real == name {
			continue
		}
		if _, ok := p.plan.At(real); ok {
			if _, err := p.add(name, Reason{Layout, "the host"}); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxLinks is how many links path_resolution(7) follows before it says ELOOP.
const maxLinks = 40

func components(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
}

// planner makes a plan.
type planner struct {
	ctx    context.Context
	host   Host
	plan   *Plan
	done   map[string]bool // programs that were looked at, by their real path
	caches []cacheEntry    // the loader's cache, read when first needed
	cached bool
	glibc  bool // some program is loaded by glibc's loader

	busyboxes []*object
}

// add puts a path of the host into the plan, with every folder and link on the way to it, and returns where it really is.
// On many machines /bin is a link to usr/bin: whoever copied only the file would make another /bin than the host's, and
// a path that goes through the link would lead nowhere.
func (p *planner) add(name string, why Reason) (string, error) {
	rest := components(name)
	at, links := "/", 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		if part == "." {
			continue
		}
		if part == ".." {
			at = path.Dir(at) // at has no links any more, so this is what the kernel does, too
			continue
		}
		next := path.Join(at, part)
		var st unix.Stat_t
		if err := unix.Lstat(p.host.on(next), &st); err != nil {
			return "", &Error{Op: "find", Path: name, Err: err}
		}
		e := Entry{Path: next, Mode: modeOf(st), stat: st, Why: Reason{OnTheWay, name}}
		switch e.Mode.Type() {
		case fs.ModeSymlink:
			target, err := os.Readlink(p.host.on(next))
			if err != nil {
				return "", fmt.Errorf("04-rootfs: %w", err)
			}
			if links++; links > maxLinks {
				return "", &Error{Op: "find", Path: name, Err: unix.ELOOP}
			}
			e.Target = target
			if next == path.Clean(name) {
				e.Why = why
			}
			rest = append(components(target), rest...)
			if path.IsAbs(target) {
				at = "/"
			}
		case fs.ModeDir:
			at = next
			if len(rest) == 0 {
				e.Why = why
			}
		default:
			if len(rest) > 0 {
				return "", &Error{Op: "find", Path: name, Err: unix.ENOTDIR}
			}
			e.Source, e.Size, e.Why = p.host.on(next), st.Size, why
			at = next
		}
		p.plan.put(e)
	}
	return at, nil
}

// tree adds everything below a folder. Other file systems that are mounted there are left out, as with cp -x.
func (p *planner) tree(top string) error {
	first, _ := p.plan.At(top)
	if !first.Mode.IsDir() {
		return nil
	}
	return filepath.WalkDir(p.host.on(top), func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("04-rootfs: copy %s: %w", top, err)
		}
		if err := p.ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(p.host.on(top), name)
		if err != nil || rel == "." {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return &Error{Op: "find", Path: name, Err: err}
		}
		e := Entry{Path: path.Join(top, rel), Mode: modeOf(st), stat: st, Why: Reason{Content, top}}
		switch e.Mode.Type() {
		case fs.ModeDir:
			if st.Dev != first.stat.Dev {
				return filepath.SkipDir
			}
		case fs.ModeSymlink:
			if e.Target, err = os.Readlink(name); err != nil {
				return fmt.Errorf("04-rootfs: %w", err)
			}
		case 0:
			e.Source, e.Size = name, st.Size
		case fs.ModeSocket:
			return nil // means nothing without the process that listens
		}
		p.plan.put(e)
		return nil
	})
}

// modeOf translates st_mode.
func modeOf(st unix.Stat_t) fs.FileMode {
	mode := fs.FileMode(st.Mode & 0o777)
	for _, m := range []struct {
		bit  uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if st.Mode&m.bit != 0 {
			mode |= m.mode
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		mode |= fs.ModeDir
	case unix.S_IFLNK:
		mode |= fs.ModeSymlink
	case unix.S_IFCHR:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		mode |= fs.ModeDevice
	case unix.S_IFIFO:
		mode |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		mode |= fs.ModeSocket
	}
	return mode
}

// NotFound is a program, interpreter or library that is nowhere to be found.
type NotFound struct {
	Kind     string // "program", "interpreter", "loader", "library"
	Name     string
	By       string   // who wants it; empty for what was asked for
	Searched []string // where it was looked for
}

func (e *NotFound) Error() string {
	text := fmt.Sprintf("04-rootfs: %s %s", e.Kind, e.Name)
	if e.By != "" {
		text += ", needed by " + e.By
	}
	text += ": not found"
	if len(e.Searched) > 0 {
		text += " in " + strings.Join(unique(e.Searched), ", ")
	}
	return text
}

// Unwrap makes it ENOENT, which is what the kernel would say.
func (e *NotFound) Unwrap() error { return unix.ENOENT }

func unique(list []string) []string {
	seen := map[string]bool{}
	var once []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			once = append(once, s)
		}
	}
	return once
}

// ErrNotProgram is what a file is that execve(2) would answer with ENOEXEC.
var ErrNotProgram = errors.New("neither an ELF program nor a #! script")
