package rootfs

import (
	"debug/elf"
	"errors"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// program adds a program, and then whatever it takes to start it. scripts counts the interpreters on the way here.
func (p *planner) program(name string, why Reason, scripts int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	real, err := p.add(name, why)
	if err != nil {
		if why.What != Asked && errors.Is(err, unix.ENOENT) {
			return &NotFound{Kind: strings.TrimSuffix(string(why.What), " of"), Name: name, By: why.Of}
		}
		return err
	}
	if p.done[real] {
		return nil
	}
	head, err := p.head(name, real)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(head, "#!"):
		return p.script(name, head, scripts) // not done: a loop of scripts must come by here until it is too deep
	case strings.HasPrefix(head, elf.ELFMAG):
		p.done[real] = true
		o, err := p.host.readObject(name, real)
		if err != nil {
			return err
		}
		if err := p.closure(o); err != nil {
			return err
		}
		if isBusybox(o) {
			p.busyboxes = append(p.busyboxes, o)
		}
		return nil
	}
	return &Error{Op: "take", Path: name, Err: ErrNotProgram}
}

// head reads as much of a file as the kernel looks at to tell what kind of program it is.
func (p *planner) head(name, real string) (string, error) {
	f, err := openRegular(p.host.on(real))
	if err != nil {
		return "", &Error{Op: "read", Path: name, Err: err}
	}
	defer f.Close()
	buf := make([]byte, binprmSize)
	n, err := io.ReadFull(f, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", &Error{Op: "read", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// closure adds the loader of a program and the libraries that the loader will find for it, in the loader's order: first
// those of the program, then those of the libraries, each once.
func (p *planner) closure(o *object) error {
	s := &searcher{planner: p, program: o}
	if o.interp != "" {
		real, err := p.add(o.interp, Reason{Loader, o.path})
		if errors.Is(err, unix.ENOENT) {
			return &NotFound{Kind: "loader", Name: o.interp, By: o.path}
		}
		if err != nil {
			return err
		}
		loader, err := p.host.readObject(o.interp, real)
		if err != nil {
			return err
		}
		if !o.fits(loader) {
			return &Error{Op: "load " + o.path + " with", Path: o.interp, Err: unix.ELIBBAD} // the kernel's answer, too
		}
		s.musl = strings.HasPrefix(path.Base(o.interp), "ld-musl-")
		p.glibc = p.glibc || !s.musl
	}
	// A name that one object needs is not looked for again for another: the loader compares names, not files.
	loaded := map[string]bool{path.Base(o.interp): true}
	for queue := []*object{o}; len(queue) > 0; queue = queue[1:] {
		by := queue[0]
		for _, name := range by.needed {
			if loaded[name] || s.musl && muslBuiltin(name) {
				continue
			}
			lib, err := s.find(name, by)
			if err != nil {
				return err
			}
			loaded[name], loaded[lib.soname] = true, true
			if _, err := p.add(lib.path, Reason{Library, by.path}); err != nil {
				return err
			}
			queue = append(queue, lib)
		}
	}
	return nil
}

// searcher finds libraries as the loader of one program does. See ld.so(8), "If a shared object dependency does not
// contain a slash"; LD_LIBRARY_PATH is not of the program and left out.
type searcher struct {
	*planner
	program  *object
	musl     bool
	searched []string // for the error
}

func (s *searcher) find(name string, by *object) (*object, error) {
	s.searched = nil
	if name == "" {
		return nil, &NotFound{Kind: "library", Name: `""`, By: by.path}
	}
	if strings.Contains(name, "/") { // a path: no search
		for _, file := range s.expand(name, by) {
			if lib := s.try(file, by); lib != nil {
				return lib, nil
			}
		}
		return nil, &NotFound{Kind: "library", Name: name, By: by.path}
	}
	folders := s.own
	if s.musl {
		folders = s.ownMusl
	}
	if lib := s.in(folders(by), name, by); lib != nil {
		return lib, nil
	}
	if by.noDefaultLib && !s.musl {
		return nil, &NotFound{Kind: "library", Name: name, By: by.path, Searched: s.searched}
	}
	if s.musl {
		folders, err := s.muslPath()
		if err != nil {
			return nil, err
		}
		if lib := s.in(folders, name, by); lib != nil {
			return lib, nil
		}
		return nil, &NotFound{Kind: "library", Name: name, By: by.path, Searched: s.searched}
	}
	entries, err := s.cache()
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.name == name {
			if lib := s.try(e.path, by); lib != nil {
				return lib, nil
			}
		}
	}
	if lib := s.in(standardFolders(by), name, by); lib != nil {
		return lib, nil
	}
	s.searched = append([]string{"/etc/ld.so.cache"}, s.searched...)
	return nil, &NotFound{Kind: "library", Name: name, By: by.path, Searched: s.searched}
}

// own lists the folders that the objects themselves name: by's DT_RUNPATH or, where it has none, the DT_RPATH of by and of
// those on whose behalf by was loaded, up to the program. That the latter reaches so far is why it was given up.
func (s *searcher) own(by *object) []string {
	if by.runpath != nil {
		return s.expandAll(by.runpath, by)
	}
	var folders []string
	for o := by; o != nil; o = o.by {
		folders = append(folders, s.expandAll(o.rpath, o)...)
	}
	return folders
}

// ownMusl: musl makes no difference between the two, both reach down.
func (s *searcher) ownMusl(by *object) []string {
	var folders []string
	for o := by; o != nil; o = o.by {
		folders = append(folders, s.expandAll(append(o.rpath, o.runpath...), o)...)
	}
	return folders
}

// in looks for a library in folders.
func (s *searcher) in(folders []string, name string, by *object) *object {
	for _, dir := range folders {
		s.searched = append(s.searched, dir)
		if lib := s.try(path.Join(dir, name), by); lib != nil {
			return lib
		}
	}
	return nil
}

// try reads a file that may be the library. The loader, too, walks on past one for another machine.
func (s *searcher) try(file string, by *object) *object {
	if !path.IsAbs(file) {
		return nil // relative to wherever the program is started: nothing that a root could provide
	}
	real, err := s.host.resolve(file)
	if err != nil {
		return nil
	}
	lib, err := s.host.readObject(file, real)
	if err != nil || !s.program.fits(lib) {
		return nil
	}
	lib.by = by
	return lib
}

func (s *searcher) expandAll(list []string, o *object) []string {
	var all []string
	for _, entry := range list {
		if entry != "" {
			all = append(all, s.expand(entry, o)...)
		}
	}
	return all
}

// expand replaces $ORIGIN, $LIB and $PLATFORM. What $LIB is was compiled into the loader, so all that it can be are
// tried; only one of them exists on a machine.
func (s *searcher) expand(entry string, o *object) []string {
	a := archOf(o)
	var all []string
	for _, lib := range a.lib {
		expanded := entry
		for token, value := range map[string]string{"ORIGIN": o.origin(), "LIB": lib, "PLATFORM": a.platform} {
			expanded = strings.ReplaceAll(expanded, "${"+token+"}", value)
			expanded = strings.ReplaceAll(expanded, "$"+token, value)
		}
		all = append(all, expanded)
	}
	return unique(all)
}

// arch is what a loader for a machine was compiled with.
type arch struct {
	platform string   // $PLATFORM
	lib      []string // what $LIB may be; "/" and "/usr" before them are the standard folders
}

// archOf covers the layouts of Debian (lib/TRIPLET), Fedora (lib64) and Arch (lib).
func archOf(o *object) arch {
	known := map[elf.Machine]arch{
		elf.EM_X86_64:    {"x86_64", []string{"lib/x86_64-linux-gnu"}},
		elf.EM_386:       {"i686", []string{"lib/i386-linux-gnu", "lib32"}},
		elf.EM_AARCH64:   {"aarch64", []string{"lib/aarch64-linux-gnu"}},
		elf.EM_ARM:       {"v7l", []string{"lib/arm-linux-gnueabihf", "lib/arm-linux-gnueabi"}},
		elf.EM_RISCV:     {"", []string{"lib/riscv64-linux-gnu"}},
		elf.EM_PPC64:     {"power9", []string{"lib/powerpc64le-linux-gnu"}},
		elf.EM_S390:      {"z13", []string{"lib/s390x-linux-gnu"}},
		elf.EM_LOONGARCH: {"", []string{"lib/loongarch64-linux-gnu"}},
	}
	a := known[o.machine]
	if o.machine == elf.EM_X86_64 && o.class == elf.ELFCLASS32 {
		a.lib = []string{"lib/x86_64-linux-gnux32", "libx32"}
	}
	if o.class == elf.ELFCLASS64 {
		a.lib = append(a.lib, "lib64")
	}
	a.lib = append(a.lib, "lib")
	return a
}

// standardFolders is where the loader looks last.
func standardFolders(o *object) []string {
	var folders []string
	for _, lib := range archOf(o).lib {
		folders = append(folders, "/"+lib, "/usr/"+lib)
	}
	return folders
}

// muslBuiltin: musl is one file, the loader. These names are answered by it without a look at the disk.
func muslBuiltin(name string) bool {
	rest, ok := strings.CutPrefix(name, "lib")
	if !ok {
		return false
	}
	switch part, _, dot := strings.Cut(rest, "."); part {
	case "c", "pthread", "rt", "m", "dl", "util", "xnet":
		return dot
	}
	return false
}

// muslPath is musl's own search path: a file named after the machine, beside the loader's folder, or three folders.
func (s *searcher) muslPath() ([]string, error) {
	loader := s.program.interp
	prefix := path.Dir(path.Dir(loader))
	file := path.Join(prefix, "etc", strings.TrimSuffix(path.Base(loader), ".so.1")+".path")
	text, err := s.host.readSmall(file)
	if errors.Is(err, unix.ENOENT) {
		return []string{"/lib", "/usr/local/lib", "/usr/lib"}, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.add(file, Reason{Settings, loader}); err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == ':' || r == '\n' }), nil
}

// readSmall reads a settings file of the host, within reason.
func (h Host) readSmall(name string) ([]byte, error) {
	real, err := h.resolve(name)
	if err != nil {
		return nil, err
	}
	f, err := openRegular(h.on(real))
	if err != nil {
		return nil, &Error{Op: "read", Path: name, Err: err}
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxDynamic))
}
