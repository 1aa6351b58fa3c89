package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nslab/nslab/course/coursetest"
)

// hostileImage is an image of one program, and of whatever else somebody has put beside it.
type hostileImage struct {
	name    string
	entries []tar.Header
	content string     // of entries that are files
	change  []string   // Dockerfile instructions
	ways    [][]string // flags that it is run with, one time for each; without any if there are none
	status  []int      // which of them; 0 if empty
}

func link(name, target string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}
}

func special(name string, kind byte, major, minor int64) tar.Header {
	return tar.Header{Name: name, Typeflag: kind, Devmajor: major, Devminor: minor, Mode: 0o666}
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755} }

// hostileImages: a start that is refused has the status 125, or 126 and 127 where it is about the program. Whether it is or
// not, the victim's folder stays as it is.
func hostileImages(victim string) (list []hostileImage) {
	up := strings.Repeat("../", 12)
	add := func(i hostileImage) { list = append(list, i) }
	// Links where the runtime mounts or writes.
	for _, at := range []string{"etc", "dev", "proc", "sys", "tmp", "run", "root", "var"} {
		for _, target := range []string{"/", up, victim} {
			add(hostileImage{name: at + "→" + target, entries: []tar.Header{link(at, target)}, ways: [][]string{nil, {"-w", "/" + at + "/made"}, {"--read-only"}},
				status: []int{0, 125}})
		}
	}
	for _, at := range []string{
		"etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "dev/pts", "dev/shm", "dev/mqueue", "dev/null", "dev/console", "dev/ptmx",
		"dev/fd", "dev/stdin", "proc/self", "proc/sys", "proc/sysrq-trigger", "sys/fs", "sys/fs/cgroup", "sys/firmware",
	} {
		for _, target := range []string{victim + "/precious", up + victim} {
			add(hostileImage{name: at + "→" + target, entries: []tar.Header{link(at, target)}})
		}
	}
	// What is read as /etc/passwd and /etc/group.
	users := [][]string{nil, {"-u", "root"}, {"-u", "1000:1000"}}
	for _, at := range []string{"etc/passwd", "etc/group"} {
		for _, what := range []tar.Header{
			special(at, tar.TypeFifo, 0, 0), special(at, tar.TypeChar, 1, 5), special(at, tar.TypeBlock, 254, 0),
			{Name: at, Typeflag: tar.TypeDir, Mode: 0o755}, link(at, "/dev/zero"), link(at, victim+"/precious"), link(at, "/proc/self/environ"),
		} {
			add(hostileImage{name: at + " is " + string(what.Typeflag) + " " + what.Linkname, entries: []tar.Header{what}, ways: users, status: []int{0, 125}})
		}
		for name, content := range map[string]string{
			"an endless line": strings.Repeat("x", 20<<20), "many lines": strings.Repeat("x:x:1:1::/:\n", 1<<20), "zeros": strings.Repeat("\x00", 1<<20),
			"nonsense": "root\n:::\nroot:x:-1:-1::/:\nroot:x:99999999999:0::/:\nroot:x:0:0::/evil\x00:/bin/sh\n",
		} {
			add(hostileImage{name: at + " has " + name, entries: []tar.Header{file(at)}, content: content, ways: users, status: []int{0, 125}})
		}
	}
	// Volumes that are to go through links, and onto what is not theirs.
	for at, target := range map[string]string{
		"out": victim, "up": up + victim, "loop": "loop", "magic": "/proc/self/root", "magic2": "/proc/1/root", "cwd": "/proc/self/cwd",
		"toproc": "/proc", "tosys": "/sys", "todev": "/dev", "toroot": "/", "tofd": "/proc/self/fd",
	} {
		i := hostileImage{name: "volume through " + at, entries: []tar.Header{link(at, target)}, status: []int{0, 125}}
		for _, below := range []string{"", "/below"} {
			i.ways = append(i.ways, []string{"-v", victim + "/other:/" + at + below}, []string{"--tmpfs", "/" + at + below}, []string{"-v", "/etc/hostname:/" + at + below})
		}
		add(i)
	}
	i := hostileImage{name: "volume", status: []int{0, 125}}
	for _, at := range []string{
		"/proc", "/proc/self", "/proc/1", "/proc/1/root", "/proc/self/fd/0", "/proc/sys", "/proc/kcore", "/proc/sysrq-trigger", "/sys", "/sys/x",
		"/dev/null", "/dev/fd", "/dev/stdin", "/dev/pts", "/dev/console", "/..", "/../..", "/.", "/a/../..", "/../proc", "//proc//self",
	} {
		i.ways = append(i.ways, []string{"-v", victim + "/other:" + at}, []string{"--tmpfs", at})
	}
	add(i)
	// What an image asks for.
	for _, c := range []struct {
		change string
		status []int
	}{
		{"WORKDIR /proc/self/fd/7", []int{125}}, {"WORKDIR /w", []int{125}}, {"WORKDIR /proc/1/cwd", []int{125}}, {"WORKDIR ../../..", []int{0, 125}},
		{"USER ../../x", []int{125}}, {"USER -1", []int{125}}, {"USER 4294967295", []int{125}}, {`VOLUME ["/"]`, []int{125}},
		{`VOLUME ["/proc"]`, []int{125}}, {`VOLUME ["/../../x"]`, nil}, {`VOLUME ["relative"]`, []int{0, 125}}, {`VOLUME ["/w/x"]`, []int{125}},
		{`ENTRYPOINT ["/proc/self/exe"]`, []int{0, 1, 2, 125, 126, 127}}, {`ENTRYPOINT ["/self"]`, []int{0, 1, 2, 125, 126, 127}}, {`ENTRYPOINT ["/etc"]`, []int{126}},
		{`ENTRYPOINT ["/script"]`, []int{0, 1, 2, 126, 127}}, {"ENV LD_PRELOAD=/bin/attack", nil},
		{"ENV GODEBUG=inittrace=1", nil}, {"ENV NSLAB_ROOT=/ NSLAB_RUN_ROOT=/", nil},
	} {
		add(hostileImage{name: c.change, change: []string{c.change}, status: c.status, content: "#!/proc/self/exe\n", ways: [][]string{nil, {"--init"}},
			entries: []tar.Header{link("w", "/proc/self/fd/7"), link("self", "/proc/self/exe"), file("script")}})
	}
	return list
}

// TestHostileImages runs containers from images of which the runtime must believe nothing.
func TestHostileImages(t *testing.T) {
	m := newVictim(t)
	program, err := os.ReadFile(attackProgram(t))
	if err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(m.dir, "victim")
	if err := os.MkdirAll(filepath.Join(victim, "other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(victim, "precious"), []byte("root:x:0:0::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, i := range hostileImages(victim) {
		t.Run(i.name, func(t *testing.T) {
			name := "hostile:" + strings.Map(tagRune, i.name)
			m.importHostile(t, i, program, name)
			if len(i.ways) == 0 {
				i.ways = [][]string{nil}
			}
			for _, flags := range i.ways {
				if slices.Contains(flags, "--init") && !linkedStatically(t, m.binary) {
					coursetest.Missing(t, "a static nslab, as PID 1 of an image that has no loader: CGO_ENABLED=0")
				}
				m.runHostile(t, i, flags, name)
				m.checkVictim(t, victim)
			}
			if out, err := m.nslab("image", "rm", "-f", name).CombinedOutput(); err != nil {
				t.Errorf("image rm %s: %v: %s", name, err, out)
			}
		})
	}
}

// linkedStatically tells whether a program needs no loader.
func linkedStatically(t *testing.T, name string) bool {
	t.Helper()
	f, err := elf.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// runHostile runs one. What is refused is refused with one line, and a hint.
func (m *machine) runHostile(t *testing.T, i hostileImage, flags []string, name string) {
	t.Helper()
	args := append(append([]string{"run", "--rm"}, flags...), name)
	if !hasProgram(i.change) {
		args = append(args, "/bin/attack", "cwd")
	}
	cmd := m.container(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.Run()
	status := cmd.ProcessState.ExitCode()
	errors, lines := strings.Count("\n"+errOut.String(), "\nnslab: "), strings.Count(errOut.String(), "\n")
	switch {
	case len(i.status) == 0 && status != 0, len(i.status) > 0 && !slices.Contains(i.status, status), strings.Contains(out.String(), "BROKEN"):
		t.Errorf("%q: status %d; want one of %v: %.500s%.500s", flags, status, i.status, out.String(), errOut.String())
	case status >= 125 && (errors != 1 || lines > 2):
		t.Errorf("%q: %d errors on %d lines; want one: %.500s", flags, errors, lines, errOut.String())
	}
}

func hasProgram(change []string) bool {
	return len(change) > 0 && strings.HasPrefix(change[0], "ENTRYPOINT")
}

// tagRune makes a tag of whatever is written.
func tagRune(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '_'
}

func (m *machine) importHostile(t *testing.T, i hostileImage, program []byte, name string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	add(file("bin/attack"), program)
	for _, h := range i.entries {
		var content []byte
		if h.Typeflag == tar.TypeReg {
			content = []byte(i.content)
		}
		add(h, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	args := []string{"image", "import"}
	for _, c := range i.change {
		args = append(args, "-c", c)
	}
	cmd := m.nslab(append(args, "-", name)...)
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: import: %v: %s", i.name, err, out)
	}
}

// checkVictim tells whether the folder is what it was.
func (m *machine) checkVictim(t *testing.T, victim string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(victim, "precious"))
	inside, _ := filepath.Glob(filepath.Join(victim, "*"))
	below, _ := filepath.Glob(filepath.Join(victim, "other", "*"))
	if err != nil || string(content) != "root:x:0:0::/:\n" || len(inside) != 2 || len(below) != 0 {
		t.Errorf("outside is %q, %v, %q, %q", content, err, inside, below)
	}
}
