package rootfs

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// An ELF program says in its headers what it needs. PT_INTERP names the loader, which the kernel maps and starts instead
// of the program. The loader reads the dynamic section: DT_NEEDED has the names of libraries, without folders, and
// DT_RUNPATH (formerly DT_RPATH) folders to look for them in first. A static program has neither. See elf(5).

// object is an ELF file, as far as finding its libraries goes.
type object struct {
	path    string // by which the loader opens it
	real    string // with all links resolved
	by      *object
	class   elf.Class
	machine elf.Machine
	data    elf.Data
	dynamicInfo
	interp string
}

// dynamicInfo is what the dynamic section says.
type dynamicInfo struct {
	needed       []string
	soname       string
	rpath        []string // searched for everything loaded on behalf of this object
	runpath      []string // searched for this object's own libraries only; switches rpath off
	noDefaultLib bool     // linked with -z nodefaultlib: neither the cache nor the standard folders
}

// maxDynamic bounds what is read of a file's dynamic section and its strings: a hostile file may claim gigabytes.
const maxDynamic = 8 << 20

// fits says whether lib can be loaded into a process of o: 32- and 64-bit code do not mix, nor do machines.
func (o *object) fits(lib *object) bool {
	return o.class == lib.class && o.machine == lib.machine && o.data == lib.data
}

// openRegular opens a file for reading, and nothing that would block or act when it is opened.
func openRegular(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, unix.EACCES // execve(2)'s answer to what is no regular file
	}
	return f, nil
}

// readObject reads the headers of an ELF file of the host.
func (h Host) readObject(name, real string) (*object, error) {
	f, err := openRegular(h.on(real))
	if err != nil {
		return nil, &Error{Op: "read", Path: name, Err: err}
	}
	defer f.Close()
	file, err := elf.NewFile(f)
	if err != nil {
		return nil, fmt.Errorf("04-rootfs: read %s: %w", name, err)
	}
	o := &object{path: name, real: real, class: file.Class, machine: file.Machine, data: file.Data}
	for _, prog := range file.Progs {
		switch prog.Type {
		case elf.PT_INTERP:
			if prog.Filesz > unix.PathMax {
				return nil, fmt.Errorf("04-rootfs: read %s: the loader's name has %d bytes: %w", name, prog.Filesz, unix.ENOEXEC)
			}
			text, err := io.ReadAll(prog.Open())
			if err != nil {
				return nil, fmt.Errorf("04-rootfs: read %s: %w", name, err)
			}
			o.interp = cString(text)
		case elf.PT_DYNAMIC:
			if o.dynamicInfo, err = readDynamic(file, prog); err != nil {
				return nil, fmt.Errorf("04-rootfs: read %s: %w", name, err)
			}
		}
	}
	return o, nil
}

// readDynamic reads the dynamic section by the program headers, as the loader does. The section headers, which debug/elf
// goes by, are for linkers and debuggers; sstrip(1) removes them from programs that run all the same.
func readDynamic(file *elf.File, prog *elf.Prog) (d dynamicInfo, err error) {
	if prog.Filesz > maxDynamic {
		return d, fmt.Errorf("dynamic section of %d bytes: %w", prog.Filesz, unix.ENOEXEC)
	}
	raw, err := io.ReadAll(prog.Open())
	if err != nil {
		return d, err
	}
	var tags [][2]uint64
	var strtab, strsz uint64
	for size := int(wordSize(file.Class)); len(raw) >= 2*size; raw = raw[2*size:] {
		tag, value := word(file, raw), word(file, raw[size:])
		if elf.DynTag(tag) == elf.DT_NULL {
			break
		}
		switch elf.DynTag(tag) {
		case elf.DT_STRTAB:
			strtab = value
		case elf.DT_STRSZ:
			strsz = value
		}
		tags = append(tags, [2]uint64{tag, value})
	}
	table, err := atAddress(file, strtab, strsz)
	if err != nil {
		return d, err
	}
	text := func(offset uint64) string {
		if offset >= uint64(len(table)) {
			return ""
		}
		return cString(table[offset:])
	}
	for _, t := range tags {
		switch value := t[1]; elf.DynTag(t[0]) {
		case elf.DT_NEEDED:
			d.needed = append(d.needed, text(value))
		case elf.DT_SONAME:
			d.soname = text(value)
		case elf.DT_RPATH:
			d.rpath = strings.Split(text(value), ":")
		case elf.DT_RUNPATH:
			d.runpath = strings.Split(text(value), ":")
		case elf.DT_FLAGS_1:
			d.noDefaultLib = value&uint64(elf.DF_1_NODEFLIB) != 0
		}
	}
	if d.runpath != nil {
		d.rpath = nil // ld.so(8): DT_RPATH is ignored where there is a DT_RUNPATH
	}
	return d, nil
}

func wordSize(c elf.Class) uint {
	if c == elf.ELFCLASS64 {
		return 8
	}
	return 4
}

func word(file *elf.File, b []byte) uint64 {
	if file.Class == elf.ELFCLASS64 {
		return file.ByteOrder.Uint64(b)
	}
	return uint64(file.ByteOrder.Uint32(b))
}

// atAddress reads size bytes that will be at an address once the program is loaded.
func atAddress(file *elf.File, address, size uint64) ([]byte, error) {
	if size == 0 {
		return nil, nil // a static program that relocates itself has a dynamic section without names
	}
	if size > maxDynamic {
		return nil, fmt.Errorf("string table of %d bytes: %w", size, unix.ENOEXEC)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_LOAD && address >= p.Vaddr && address-p.Vaddr < p.Filesz {
			table := make([]byte, min(size, p.Filesz-(address-p.Vaddr)))
			_, err := p.ReadAt(table, int64(address-p.Vaddr))
			return table, err
		}
	}
	return nil, fmt.Errorf("string table lies outside of the file: %w", unix.ENOEXEC)
}

func cString(b []byte) string {
	text, _, _ := bytes.Cut(b, []byte{0})
	return string(text)
}

// origin is what $ORIGIN means in an object's search paths: the folder it lies in. For the program that is the real one,
// since the loader asks the kernel; for a library the one by which it was found.
func (o *object) origin() string {
	if o.by == nil {
		return path.Dir(o.real)
	}
	return path.Dir(o.path)
}
