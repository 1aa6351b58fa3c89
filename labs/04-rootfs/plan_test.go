package rootfs

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// elfSpec describes an ELF file to make. It has program headers only: no section tells anything, as after sstrip(1).
type elfSpec struct {
	class          elf.Class
	machine        elf.Machine
	interp, soname string
	rpath, runpath string
	needed         []string
	flags1         uint64
}

func (s elfSpec) bytes() []byte {
	if s.class == 0 {
		s.class, s.machine = elf.ELFCLASS64, elf.EM_X86_64
	}
	text := []byte{0}
	str := func(v string) uint64 {
		at := len(text)
		text = append(append(text, v...), 0)
		return uint64(at)
	}
	var tags [][2]uint64
	for _, n := range s.needed {
		tags = append(tags, [2]uint64{uint64(elf.DT_NEEDED), str(n)})
	}
	for tag, v := range map[elf.DynTag]string{elf.DT_SONAME: s.soname, elf.DT_RPATH: s.rpath, elf.DT_RUNPATH: s.runpath} {
		if v != "" {
			tags = append(tags, [2]uint64{uint64(tag), str(v)})
		}
	}
	if s.flags1 != 0 {
		tags = append(tags, [2]uint64{uint64(elf.DT_FLAGS_1), s.flags1})
	}
	const start = 512 // everything behind the headers; addresses are offsets plus this
	const base = 0x10000
	interpAt := start
	interp := append([]byte(s.interp), 0)
	textAt := interpAt + len(interp)
	dynAt := (textAt + len(text) + 7) &^ 7
	tags = append(tags, [2]uint64{uint64(elf.DT_STRTAB), uint64(base + textAt)}, [2]uint64{uint64(elf.DT_STRSZ), uint64(len(text))},
		[2]uint64{uint64(elf.DT_NULL), 0})
	var dyn bytes.Buffer
	for _, t := range tags {
		for _, v := range t {
			if s.class == elf.ELFCLASS64 {
				binary.Write(&dyn, binary.LittleEndian, v)
			} else {
				binary.Write(&dyn, binary.LittleEndian, uint32(v))
			}
		}
	}
	end := dynAt + dyn.Len()
	type segment struct {
		kind    elf.ProgType
		at, len int
	}
	segments := []segment{{elf.PT_LOAD, 0, end}, {elf.PT_DYNAMIC, dynAt, dyn.Len()}}
	if s.interp != "" {
		segments = append(segments, segment{elf.PT_INTERP, interpAt, len(interp)})
	}
	var out bytes.Buffer
	ident := [16]byte{0x7f, 'E', 'L', 'F', byte(s.class), byte(elf.ELFDATA2LSB), 1}
	if s.class == elf.ELFCLASS64 {
		binary.Write(&out, binary.LittleEndian, elf.Header64{Ident: ident, Type: uint16(elf.ET_DYN), Machine: uint16(s.machine),
			Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: uint16(len(segments))})
		for _, g := range segments {
			binary.Write(&out, binary.LittleEndian, elf.Prog64{Type: uint32(g.kind), Off: uint64(g.at),
				Vaddr: uint64(base + g.at), Filesz: uint64(g.len), Memsz: uint64(g.len)})
		}
	} else {
		binary.Write(&out, binary.LittleEndian, elf.Header32{Ident: ident, Type: uint16(elf.ET_DYN), Machine: uint16(s.machine),
			Version: 1, Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: uint16(len(segments))})
		for _, g := range segments {
			binary.Write(&out, binary.LittleEndian, elf.Prog32{Type: uint32(g.kind), Off: uint32(g.at),
				Vaddr: uint32(base + g.at), Filesz: uint32(g.len), Memsz: uint32(g.len)})
		}
	}
	file := make([]byte, end)
	copy(file, out.Bytes())
	copy(file[interpAt:], interp)
	copy(file[textAt:], text)
	copy(file[dynAt:], dyn.Bytes())
	return file
}

const (
	gnuLoader  = "/lib64/ld-linux-x86-64.so.2"
	muslLoader = "/lib/ld-musl-x86_64.so.1"
)

// host makes a machine in a folder: values are ELF files, texts, "-> target" for links.
func host(t *testing.T, files map[string]any) Host {
	t.Helper()
	h := Host{Root: t.TempDir(), Path: []string{"/usr/bin", "/bin"}}
	for name, content := range files {
		file := filepath.Join(h.Root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch c := content.(type) {
		case elfSpec:
			err = os.WriteFile(file, c.bytes(), 0o755)
		case []byte:
			err = os.WriteFile(file, c, 0o755)
		case string:
			if target, ok := strings.CutPrefix(c, "-> "); ok {
				err = os.Symlink(target, file)
			} else {
				err = os.WriteFile(file, []byte(c), 0o755)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func filesOf(p *Plan) []string {
	var list []string
	for _, e := range p.Files() {
		list = append(list, e.Path)
	}
	slices.Sort(list)
	return list
}

var lib32 = elfSpec{class: elf.ELFCLASS32, machine: elf.EM_386}

func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]any
		want  string // files of the plan, or the error
	}{
		"static": {map[string]any{"/bin/p": elfSpec{}}, "/bin/p"},
		"loader and standard folder": {map[string]any{
			"/bin/p": elfSpec{interp: gnuLoader, needed: []string{"liba.so"}}, gnuLoader: elfSpec{}, "/usr/lib64/liba.so": elfSpec{},
		}, "/bin/p /lib64/ld-linux-x86-64.so.2 /usr/lib64/liba.so"},
		"library of a library": {map[string]any{
			"/bin/p": elfSpec{interp: gnuLoader, needed: []string{"liba.so"}}, gnuLoader: elfSpec{},
			"/lib64/liba.so": elfSpec{needed: []string{"libb.so"}}, "/lib/libb.so": elfSpec{needed: []string{"liba.so"}},
		}, "/bin/p /lib/libb.so /lib64/ld-linux-x86-64.so.2 /lib64/liba.so"},
		"runpath before cache and standard folders": {map[string]any{
			"/opt/p/bin/p": elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, runpath: "/nowhere:$ORIGIN/../lib"},
			gnuLoader:      elfSpec{}, "/opt/p/lib/liba.so": elfSpec{}, "/lib64/liba.so": elfSpec{}, "/bin/p": "-> /opt/p/bin/p",
		}, "/lib64/ld-linux-x86-64.so.2 /opt/p/bin/p /opt/p/lib/liba.so"},
		"$LIB": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, runpath: "/opt/${LIB}"},
			gnuLoader: elfSpec{}, "/opt/lib/x86_64-linux-gnu/liba.so": elfSpec{},
		}, "/bin/p /lib64/ld-linux-x86-64.so.2 /opt/lib/x86_64-linux-gnu/liba.so"},
		"runpath does not reach further down": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, runpath: "/opt"},
			gnuLoader: elfSpec{}, "/opt/liba.so": elfSpec{needed: []string{"libb.so"}}, "/opt/libb.so": elfSpec{},
		}, "library libb.so, needed by /opt/liba.so: not found"},
		"rpath does": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, rpath: "/opt"},
			gnuLoader: elfSpec{}, "/opt/liba.so": elfSpec{needed: []string{"libb.so"}}, "/opt/libb.so": elfSpec{},
		}, "/bin/p /lib64/ld-linux-x86-64.so.2 /opt/liba.so /opt/libb.so"},
		"rpath ends where an object has a runpath": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, rpath: "/opt"},
			gnuLoader: elfSpec{}, "/opt/liba.so": elfSpec{needed: []string{"libb.so"}, runpath: "/x"}, "/opt/libb.so": elfSpec{},
		}, "library libb.so, needed by /opt/liba.so: not found"},
		"rpath is ignored beside a runpath": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, rpath: "/opt", runpath: "/x"},
			gnuLoader: elfSpec{}, "/opt/liba.so": elfSpec{},
		}, "library liba.so, needed by /bin/p: not found"},
		"a library for another machine is passed over": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, runpath: "/opt"},
			gnuLoader: elfSpec{}, "/opt/liba.so": lib32, "/lib64/liba.so": elfSpec{},
		}, "/bin/p /lib64/ld-linux-x86-64.so.2 /lib64/liba.so"},
		"32 bit": {map[string]any{
			"/bin/p":             elfSpec{class: elf.ELFCLASS32, machine: elf.EM_386, interp: "/lib/ld-linux.so.2", needed: []string{"liba.so"}},
			"/lib/ld-linux.so.2": lib32,
			"/usr/lib32/liba.so": lib32,
			"/usr/lib64/liba.so": elfSpec{},
			"/lib/liba.so":       elfSpec{},
		}, "/bin/p /lib/ld-linux.so.2 /usr/lib32/liba.so"},
		"cache": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}},
			gnuLoader: elfSpec{}, "/opt/odd/liba.so": elfSpec{}, "/lib64/liba.so": elfSpec{}, "/opt/32/liba.so": lib32,
			"/opt/v3/liba.so": elfSpec{},
			cacheFile: formatCache([]cacheEntry{
				{"libz.so", "/opt/gone/libz.so", 0x303, 0}, {"liba.so", "/opt/v3/liba.so", 0x303, 1 << 62},
				{"liba.so", "/opt/32/liba.so", 3, 0}, {"liba.so", "/opt/odd/liba.so", 0x303, 0},
			}),
		}, "/bin/p /etc/ld.so.cache /lib64/ld-linux-x86-64.so.2 /opt/odd/liba.so"},
		"nodefaultlib": {map[string]any{
			"/bin/p":  elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, flags1: uint64(elf.DF_1_NODEFLIB)},
			gnuLoader: elfSpec{}, "/lib64/liba.so": elfSpec{},
		}, "library liba.so, needed by /bin/p: not found"},
		"library by path": {map[string]any{
			"/bin/p": elfSpec{interp: gnuLoader, needed: []string{"/opt/liba.so"}}, gnuLoader: elfSpec{}, "/opt/liba.so": elfSpec{},
		}, "/bin/p /lib64/ld-linux-x86-64.so.2 /opt/liba.so"},
		"musl": {map[string]any{
			"/bin/p":   elfSpec{interp: muslLoader, needed: []string{"libz.so.1", "libc.musl-x86_64.so.1"}},
			muslLoader: elfSpec{}, "/usr/lib/libz.so.1": elfSpec{needed: []string{"libc.so", "libpthread.so.0"}},
		}, "/bin/p /lib/ld-musl-x86_64.so.1 /usr/lib/libz.so.1"},
		"musl's path file": {map[string]any{
			"/bin/p":   elfSpec{interp: muslLoader, needed: []string{"libz.so.1"}},
			muslLoader: elfSpec{}, "/opt/l/libz.so.1": elfSpec{}, "/usr/lib/libz.so.1": elfSpec{}, "/etc/ld-musl-x86_64.path": "/x\n/opt/l:/usr/lib",
		}, "/bin/p /etc/ld-musl-x86_64.path /lib/ld-musl-x86_64.so.1 /opt/l/libz.so.1"},
		"missing loader":      {map[string]any{"/bin/p": elfSpec{interp: gnuLoader}}, "loader /lib64/ld-linux-x86-64.so.2, needed by /bin/p: not found"},
		"loader for another":  {map[string]any{"/bin/p": elfSpec{interp: gnuLoader}, gnuLoader: lib32}, "accessing a corrupted shared library"},
		"missing program":     {map[string]any{"/bin/q": elfSpec{}}, "program p: not found in /usr/bin, /bin"},
		"not executable text": {map[string]any{"/bin/p": "hello\n"}, "take /bin/p: neither an ELF program nor a #! script"},
		"empty":               {map[string]any{"/bin/p": ""}, "neither an ELF program"},
		"cut off":             {map[string]any{"/bin/p": elfSpec{interp: gnuLoader}.bytes()[:100]}, "read /bin/p: "},
		"script":              {map[string]any{"/bin/p": "#! /bin/q -x\n", "/bin/q": elfSpec{}}, "/bin/p /bin/q"},
		"script by env": {map[string]any{
			"/bin/p": "#!/usr/bin/env q\n", "/usr/bin/env": elfSpec{}, "/usr/bin/q": elfSpec{},
		}, "/bin/p /usr/bin/env /usr/bin/q"},
		"script by env -S": {map[string]any{
			"/bin/p": "#!/usr/bin/env -S A=b -u C q -x\n", "/usr/bin/env": elfSpec{}, "/usr/bin/q": elfSpec{},
		}, "/bin/p /usr/bin/env /usr/bin/q"},
		"script without interpreter": {map[string]any{"/bin/p": "#!\n"}, "neither an ELF program"},
		"missing interpreter":        {map[string]any{"/bin/p": "#!/bin/q\n"}, "interpreter /bin/q, needed by /bin/p: not found"},
		"missing interpreter of env": {map[string]any{"/bin/p": "#!/usr/bin/env q\n", "/usr/bin/env": elfSpec{}}, "interpreter q, needed by /bin/p: not found in /usr/bin, /bin"},
		"loop of scripts":            {map[string]any{"/bin/p": "#!/bin/q\n", "/bin/q": "#!/bin/p\n"}, "too many levels of symbolic links"},
		"loop of links":              {map[string]any{"/bin/p": "-> q", "/bin/q": "-> p"}, "program p: not found"},
		"a link that leaves the machine": {map[string]any{
			"/bin/p": "-> ../../../../usr/bin/q", "/usr/bin/q": elfSpec{},
		}, "/usr/bin/q"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := host(t, c.files).Plan(t.Context(), Wanted{Programs: []string{"p"}})
			if err != nil {
				if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "04-rootfs: ") {
					t.Errorf("error %q; want %q", err, c.want)
				}
				return
			}
			if got := strings.Join(filesOf(plan), " "); got != c.want {
				t.Errorf("files %s; want %s", got, c.want)
			}
		})
	}
}

func TestPlanKeepsLinks(t *testing.T) {
	h := host(t, map[string]any{
		"/bin": "-> usr/bin", "/usr/bin/p": elfSpec{interp: gnuLoader, needed: []string{"liba.so.1"}}, "/lib64": "-> usr/lib64",
		"/usr/lib64/ld-2.so": elfSpec{}, "/usr/lib64/ld-linux-x86-64.so.2": "-> ld-2.so", "/usr/lib64/liba.so.1": "-> liba.so.1.2",
		"/usr/lib64/liba.so.1.2": elfSpec{soname: "liba.so.1"},
	})
	h.Path = []string{"/bin"}
	plan, err := h.Plan(t.Context(), Wanted{Programs: []string{"p"}})
	if err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"/bin": "usr/bin", "/lib64": "usr/lib64", "/usr/lib64/ld-linux-x86-64.so.2": "ld-2.so", "/usr/lib64/liba.so.1": "liba.so.1.2",
	} {
		if e, ok := plan.At(link); !ok || e.Target != target {
			t.Errorf("%s is %q, %v; want a link to %s", link, e.Target, ok, target)
		}
	}
	if e, _ := plan.At("/usr/lib64/liba.so.1.2"); e.Why != (Reason{Library, "/bin/p"}) {
		t.Errorf("reason for the library: %s", e.Why)
	}
	for i, e := range plan.Entries {
		if dir := filepath.Dir(e.Path); dir != "/" && !slices.ContainsFunc(plan.Entries[:i], func(b Entry) bool { return b.Path == dir }) {
			t.Errorf("%s comes before its folder", e.Path)
		}
	}
}

// TestScriptDepth compares with the kernel how many scripts may interpret each other.
func TestScriptDepth(t *testing.T) {
	real, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for n := 1; n <= 7; n++ {
		name := filepath.Join(dir, "s"+string(rune('0'+n)))
		if err := os.WriteFile(name, []byte("#!"+real+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		kernel := exec.Command(name).Run()
		_, err := ThisHost().Plan(t.Context(), Wanted{Programs: []string{name}})
		if (kernel == nil) != (err == nil) || err != nil && !errors.Is(err, unix.ELOOP) {
			t.Errorf("%d scripts: kernel %v, plan %v", n, kernel, err)
		}
		real = name
	}
}

func TestShebang(t *testing.T) {
	long := strings.Repeat("x", 300)
	for head, want := range map[string][2]string{
		"#!/bin/sh\n":                {"/bin/sh", ""},
		"#! \t/bin/sh  -e  x \nrest": {"/bin/sh", "-e  x"},
		"#!/bin/sh":                  {"/bin/sh", ""},
		"#!/bin/" + long[:249]:       {"", ""},
		"#!/bin/sh " + long[:246]:    {"/bin/sh", long[:246]},
		"#!/bin/sh\x00x\n":           {"/bin/sh", ""},
		"#!":                         {"", ""},
	} {
		if i, a := shebang(head); i != want[0] || a != want[1] {
			t.Errorf("shebang(%q) = %q, %q; want %q", head, i, a, want)
		}
	}
}

func TestCacheRoundTrip(t *testing.T) {
	want := []cacheEntry{{"libb.so", "/lib/libb.so", 0x303, 0}, {"liba.so", "/usr/lib/liba.so", 3, 1 << 62}}
	got, err := parseCache(formatCache(want))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("parseCache(formatCache(x)) = %v, %v; want %v", got, err, want)
	}
	old := append([]byte(oldCacheMagic), 1, 0, 0, 0)
	old = append(old, make([]byte, 12+4)...) // one old entry, filled up to 8 bytes
	if got, err := parseCache(append(old, formatCache(want)...)); err != nil || !slices.Equal(got, want) {
		t.Errorf("behind an old table: %v, %v; want %v", got, err, want)
	}
	for _, bad := range [][]byte{nil, []byte("hello"), formatCache(want)[:60], append([]byte(oldCacheMagic), 0xff, 0xff, 0xff, 0xff)} {
		if got, err := parseCache(bad); err == nil {
			t.Errorf("parseCache(%d bytes) = %v; want an error", len(bad), got)
		}
	}
}

// TestCacheOfThisHost compares with ldconfig what this machine's cache says, and lets ldconfig read one of ours.
func TestCacheOfThisHost(t *testing.T) {
	data, err := os.ReadFile(cacheFile)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("this machine has no cache: not glibc")
	}
	ldconfig, lookErr := exec.LookPath("/sbin/ldconfig")
	if err != nil || lookErr != nil {
		t.Fatal(err, lookErr)
	}
	entries, err := parseCache(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{cacheFile, filepath.Join(t.TempDir(), "cache")} {
		if file != cacheFile {
			if err := os.WriteFile(file, formatCache(entries), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command(ldconfig, "-p", "-C", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(out, []byte(" => ")); lines != len(entries) {
			t.Errorf("%s: %d entries; ldconfig has %d", file, len(entries), lines)
		}
		for _, e := range entries {
			if !bytes.Contains(out, []byte("\t"+e.name+" (")) || !bytes.Contains(out, []byte(" => "+e.path+"\n")) {
				t.Errorf("%s: ldconfig does not have %s => %s", file, e.name, e.path)
			}
		}
	}
}

func TestAppletNames(t *testing.T) {
	names := []string{"[", "[[", "ash", "cat", "fsck.minix", "ls", "run-parts", "sh", "xz"}
	image := []byte("\x7fELF junk\x00Usage: cat\x00dog\x00cat\x00ant\x00\x00" + strings.Join(names, "\x00") + "\x00\x00zz\x00")
	if got := appletNames(image); !slices.Equal(got, names) {
		t.Errorf("appletNames = %q; want %q", got, names)
	}
	for _, image := range []string{"", "\x00cat\x00", "no names", "\x00cat"} {
		if got := appletNames([]byte(image)); got != nil {
			t.Errorf("appletNames(%q) = %q; want none", image, got)
		}
	}
}

// TestBusyboxOfThisHost compares the names that were read with those that it tells when it is run.
func TestBusyboxOfThisHost(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("this machine has no busybox") // not a condition of the suite: the array has its own test above
	}
	out, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := ThisHost().Plan(t.Context(), Wanted{Programs: []string{"busybox", "ls"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(out)) {
		e, ok := plan.At("/usr/bin/" + name)
		if !ok {
			e, ok = plan.At("/bin/" + name)
		}
		if !ok {
			t.Errorf("no link for %s", name)
		} else if name == "ls" && !e.Mode.IsRegular() && e.Why.What == Applet {
			t.Errorf("ls was asked for by name, and is %s", e.Why)
		}
	}
	applets := 0
	for _, e := range plan.Entries {
		if e.Why.What == Applet {
			applets++
		}
	}
	if listed := len(strings.Fields(string(out))); applets < listed-2 || applets > listed+1 { // busybox itself, ls; /usr/bin/env
		t.Errorf("%d links; busybox lists %d applets", applets, listed)
	}
}

// FuzzELF: headers are somebody else's; whatever they say, it is an error at most.
func FuzzELF(f *testing.F) {
	f.Add(elfSpec{interp: gnuLoader, needed: []string{"liba.so"}, runpath: "$ORIGIN"}.bytes())
	f.Add(elfSpec{class: elf.ELFCLASS32, machine: elf.EM_386, interp: gnuLoader, rpath: "/x"}.bytes())
	f.Add([]byte("#!/bin/p"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h := Host{Root: t.TempDir(), Path: []string{"/"}}
		if err := os.WriteFile(filepath.Join(h.Root, "p"), data, 0o755); err != nil {
			t.Fatal(err)
		}
		h.Plan(context.Background(), Wanted{Programs: []string{"p"}})
		parseCache(data)
		appletNames(data)
	})
}

func TestEtcRefuses(t *testing.T) {
	for _, e := range []Etc{
		{Hostname: "a\n1.2.3.4 bank"}, {Search: []string{"a b"}}, {Options: []string{"x\x00"}},
		{Hosts: []HostEntry{{Names: []string{"a\tb"}}}}, {Hostname: "a#b"},
	} {
		if files, err := e.files(); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v, %v; want EINVAL", e, files, err)
		}
	}
}
