package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/tools/txtar"

	"github.com/nslab/nslab"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"--mode", "v1,hybrid", "*_steps", "01"})
	if err != nil || !slices.Equal(o.modes, []string{"v1", "hybrid"}) || !slices.Equal(o.patterns, []string{"*_steps", "01"}) {
		t.Errorf("parse() = %+v, %v", o, err)
	}
	for _, args := range []string{"--mode v3", "--mode=", "--kernel=", "--accel xen", "--break dance", "--memory 10", "--cpus 0", "--silence 0s", "--total -1s", "--nonsense"} {
		if _, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("parse(%s) accepts it", args)
		}
	}
}

func TestHierarchies(t *testing.T) {
	table := "#subsys_name\thierarchy\tnum_cgroups\tenabled\n" +
		"cpuset\t0\t1\t1\ncpu\t0\t1\t1\ncpuacct\t0\t1\t1\nmemory\t0\t1\t0\nnet_cls\t0\t1\t1\npids\t0\t1\t1\n"
	want := [][]string{{"cpuset"}, {"cpu", "cpuacct"}, {"net_cls"}, {"pids"}}
	if got := hierarchies(table); !reflect.DeepEqual(got, want) {
		t.Errorf("hierarchies() = %q; want %q", got, want)
	}
}

func TestPackages(t *testing.T) {
	for name, want := range map[string]string{
		"debian": "linux-image-cloud-" + runtime.GOARCH, "6.12": "linux-image-6.12-cloud-" + runtime.GOARCH,
		"linux-image-rt-amd64": "linux-image-rt-amd64",
	} {
		if got := packageFor(name); got != want {
			t.Errorf("packageFor(%q) = %q; want %q", name, got, want)
		}
	}
	meta := "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n"
	if got := dependedOn(meta, "linux-image-cloud-amd64"); got != "linux-image-6.1.0-56-cloud-amd64" {
		t.Errorf("dependedOn() = %q", got)
	}
	real := "linux-image-6.1.0-56-cloud-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n"
	if got := dependedOn(real, "itself"); got != "itself" {
		t.Errorf("dependedOn() = %q", got)
	}
}

func TestNewestPackages(t *testing.T) {
	arch := runtime.GOARCH
	list := "linux-image-6.12-cloud-" + arch + "\nlinux-image-6.12-" + arch + "\nlinux-image-6.1.0-56-cloud-" + arch +
		"\nlinux-image-cloud-" + arch + "\nlinux-image-cloud-" + arch + "-dbg\n"
	want := []string{"linux-image-cloud-" + arch, "linux-image-6.12-cloud-" + arch}
	if got := newestPackages(list); !slices.Equal(got, want) {
		t.Errorf("newestPackages() = %q; want %q", got, want)
	}
}

func TestKernelIn(t *testing.T) {
	dir := t.TempDir()
	if _, err := kernelIn(dir); err == nil {
		t.Error("an empty folder has a kernel")
	}
	write(t, filepath.Join(dir, "boot", "vmlinuz-6.1.0"), "")
	if _, err := kernelIn(dir); err == nil {
		t.Error("a kernel without modules is accepted")
	}
	write(t, filepath.Join(dir, "usr", "lib", "modules", "6.1.0", "modules.builtin"), "")
	if k, err := kernelIn(dir); err != nil || k.release != "6.1.0" || k.noV1 {
		t.Errorf("kernelIn() = %+v, %v", k, err)
	}
	write(t, filepath.Join(dir, "boot", "config-6.1.0"), "CONFIG_MEMCG=y\n# CONFIG_MEMCG_V1 is not set\nCONFIG_X=y\n")
	if k, err := kernelIn(dir); err != nil || !k.noV1 {
		t.Errorf("kernelIn() = %+v, %v; want a kernel without v1", k, err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Dependencies and absences, from modules that have the one section that counts.
func TestLoadOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "modules.builtin"), "kernel/fs/fuse/fuse.ko\n")
	for name, needs := range map[string]string{"nft-nat": "nf_nat,nf_tables", "nf_nat": "nf_conntrack", "nf_conntrack": "", "nf_tables": ""} {
		write(t, filepath.Join(dir, "kernel", name+".ko"), string(fakeModule("license=GPL\x00depends="+needs+"\x00")))
	}
	order, absent, err := loadOrder(t.Context(), dir, []string{"nft_nat", "fuse", "nf_nat", "overlay"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range order {
		names = append(names, m.name)
	}
	if want := []string{"nf_conntrack", "nf_nat", "nf_tables", "nft_nat"}; !slices.Equal(names, want) {
		t.Errorf("order = %q; want %q", names, want)
	}
	if want := []string{"overlay"}; !slices.Equal(absent, want) {
		t.Errorf("absent = %q; want %q", absent, want)
	}
	write(t, filepath.Join(dir, "kernel", "bad.ko"), "no ELF")
	if _, _, err := loadOrder(t.Context(), dir, []string{"bad"}); err == nil {
		t.Error("a file that is no module is accepted")
	}
}

// fakeModule is an ELF file with a section .modinfo.
func fakeModule(info string) []byte {
	var b bytes.Buffer
	names := "\x00.modinfo\x00.shstrtab\x00"
	put := func(values ...any) {
		for _, v := range values {
			binary.Write(&b, binary.LittleEndian, v)
		}
	}
	infoAt, namesAt := 64, 64+len(info)
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	put(uint16(1), uint16(62), uint32(1), uint64(0), uint64(0), uint64(namesAt+len(names)), uint32(0),
		uint16(64), uint16(0), uint16(0), uint16(64), uint16(3), uint16(2))
	b.WriteString(info + names)
	section := func(name, kind, at, size int) {
		put(uint32(name), uint32(kind), uint64(0), uint64(0), uint64(at), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0))
	}
	section(0, 0, 0, 0)
	section(1, 1, infoAt, len(info))
	section(10, 3, namesAt, len(names))
	return b.Bytes()
}

// The scenarios call nothing that the guest would lack, themselves or in the shells that they start, unless they ask for it by
// [exec:…]. Words at the start of a shell's command are many things; those that are programs here, and no comment, count.
func TestProgramsOfScenarios(t *testing.T) {
	comment := regexp.MustCompile(`(?m)^ *#.*$|^\[exec:.*$|^\s*[a-z]+\)|^!? *std(?:out|err) .*$`) // and labels of a shell's case, and what is to match
	call := regexp.MustCompile(`(?m)^(?:\[[^\]]*\] *)*[!?]? *(?:exec|eventually) +([a-z][a-z0-9_.-]*)`)
	inShell := regexp.MustCompile(`(?m)(?:^|\$\(|[|;&{] *|-c ['"]|xargs |then |do |exec |-- )([a-z][a-z0-9_.-]*)(?:[\s;|&)"']|$)`)
	files, err := fs.Glob(nslab.Scripts, nslab.ScriptsDir+"/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		text, err := fs.ReadFile(nslab.Scripts, file)
		if err != nil {
			t.Fatal(err)
		}
		a := txtar.Parse(text)
		text = a.Comment
		for _, f := range a.Files {
			if strings.HasSuffix(f.Name, ".sh") {
				text = append(text, f.Data...)
			}
		}
		text = comment.ReplaceAll(text, nil)
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			if m[1] != "nslab" && !slices.Contains(programs, m[1]) {
				t.Errorf("%s calls %s, which is not in programs", file, m[1])
			}
		}
		for _, m := range inShell.FindAllStringSubmatch(string(text), -1) {
			if _, err := exec.LookPath(m[1]); err == nil && !slices.Contains(programs, m[1]) {
				t.Errorf("%s calls %s, which is not in programs", file, m[1])
			}
		}
	}
}

// What is packed can be unpacked: the links of the host before what lies behind them, and each name once.
func TestPack(t *testing.T) {
	c := &content{has: map[string]bool{}, modules: []string{"overlay"}}
	c.add(cpio.Symlink("lib", "usr/lib"))
	c.file("/usr/bin/sh", "program", 0o755)
	c.file("/usr/bin/sh", "another", 0o755)
	f, err := c.pack(config{Mode: "v1", Patterns: []string{"01"}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range records {
		names = append(names, r.Name)
	}
	if want := []string{"vm.json", "lib", "usr", "usr/bin", "usr/bin/sh"}; !slices.Equal(names, want) {
		t.Errorf("names = %q; want %q", names, want)
	}
}

// A guest that is told to be silent is ended, and so is one whose user loses patience; both by what the host knows alone.
func TestWatch(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name, want string
		ctx        context.Context
		silence    time.Duration
		total      time.Duration
	}{
		{"silence", "it said nothing for 50ms", t.Context(), 50 * time.Millisecond, time.Hour},
		{"total", "it took longer than 50ms", t.Context(), time.Hour, 50 * time.Millisecond},
		{"interrupted", "interrupted", interrupted, time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("sleep", "1000")
			end, err := start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			m := &machine{out: &Outcome{}, life: make(chan struct{}, 1)}
			m.watch(c.ctx, &options{silence: c.silence, total: c.total}, cmd, end)
			if m.out.Killed != c.want {
				t.Errorf("Killed = %q; want %q", m.out.Killed, c.want)
			}
			if cmd.ProcessState == nil {
				t.Error("it was not waited for")
			}
		})
	}
}
