package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
)

// attackProgram builds suite/attack, static, since it runs in images that hold nothing else.
func attackProgram(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		coursetest.Missing(t, "Go, to build suite/attack")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // in the image it lies in the same folders, and is everybody's
		t.Fatal(err)
	}
	name := filepath.Join(dir, "attack")
	cmd := exec.Command("go", "build", "-o", name, "../../suite/attack")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build suite/attack: %v: %s", err, out)
	}
	return name
}

// newVictim is a machine with the image "hostile", and a note of what must not change outside.
func newVictim(t *testing.T) *machine {
	t.Helper()
	coursetest.NeedRoot(t)
	m := newMachine(t)
	if out, err := m.nslab("image", "bootstrap", "-t", "hostile", "sh", "sleep", "touch", "chmod", attackProgram(t)).CombinedOutput(); err != nil {
		t.Fatalf("image bootstrap: %v: %s", err, out)
	}
	before := m.outside(t)
	t.Cleanup(func() {
		if after := m.outside(t); after != before {
			t.Errorf("something outside has changed:\n%s\nwas:\n%s", after, before)
		}
		for _, l := range m.leftovers() {
			t.Errorf("left behind: %s", l)
		}
	})
	return m
}

// outside describes the parts of the machine that attacks are after.
func (m *machine) outside(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"/dev/null", "/dev/zero", "/etc", "/etc/passwd", "/etc/hosts", "/", m.binary} {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: mode %o, owner %d:%d, links %d\n", name, st.Mode, st.Uid, st.Gid, st.Nlink)
	}
	for _, name := range []string{
		"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern",
		"/proc/sys/kernel/modprobe", "/proc/sys/vm/panic_on_oom", "/sys/kernel/uevent_helper", m.binary,
	} {
		data, err := os.ReadFile(name)
		fmt.Fprintf(&b, "%s: %x, %v\n", name, sha256.Sum256(data), err)
	}
	return b.String()
}

// attack runs the attack program in a container, and fails the test if something was broken, or nothing attempted.
func attack(t *testing.T, cmd *exec.Cmd, wantHeld int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	held := bytes.Count(out, []byte("held "))
	if err != nil || held < wantHeld {
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "held ") {
				t.Log(strings.TrimRight(line, "\n"))
			}
		}
		t.Errorf("%s: %v; %d attempts held; want all, and at least %d", strings.Join(cmd.Args, " "), err, held, wantHeld)
	}
}

// insideAttacks are made in every way in which a program comes into a container. held is how many attempts there are at least.
var insideAttacks = []struct {
	name string
	args []string
	held int
}{
	{"calls", []string{"calls"}, 45},
	{"compat", []string{"compat"}, 1},
	{"devices", []string{"devices"}, 20},
	{"descriptors", []string{"descriptors"}, 3},
	{"cwd", []string{"cwd"}, 2},
	{"handles", []string{"handles"}, 5},
	{"terminal", []string{"terminal"}, 4},
	{"open", []string{
		"open", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug",
		"/proc/sys/kernel/panic", "/proc/sys/kernel/hostname", "/proc/sys/kernel/sysrq", "/proc/sys/vm/panic_on_oom",
		"/proc/sys/vm/overcommit_memory", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward", "/proc/mtrr",
		"/proc/kcore", "/proc/kmsg", "/proc/timer_list", "/proc/interrupts", "/proc/keys", "/proc/acpi/wakeup", "/proc/irq/default_smp_affinity",
		"/proc/bus/pci/00/00.0", "/proc/fs/jbd2", "/dev/mem", "/dev/kmem", "/dev/kmsg", "/dev/port", "/dev/sda", "/dev/vda",
		"/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/ksm/run", "/sys/kernel/mm/transparent_hugepage/enabled",
		"/sys/kernel/debug/sched_features", "/sys/kernel/security/apparmor/.replace", "/sys/firmware/efi/efivars", "/sys/module/kernel/parameters/panic",
		"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/memory/release_agent",
		"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/pids/pids.max",
		"/sys/fs/cgroup/unified/cgroup.procs", "/sys/fs/cgroup/cgroup.subtree_control", "/sys/fs/cgroup/memory.max",
	}, 44},
}

// TestEscapes attacks from inside a container with the default settings, and looks at the machine afterwards. It gives nslab
// open files of the host, as a careless caller does.
func TestEscapes(t *testing.T) {
	m := newVictim(t)
	shadow, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer shadow.Close()
	leaky := func(args ...string) *exec.Cmd {
		cmd := m.container(args...)
		cmd.ExtraFiles = []*os.File{shadow, shadow, nil, shadow} // 3, 4 and 6
		return cmd
	}
	m.must(t, "run", "-d", "--name", "box", "hostile", "sleep", "1000")
	defer m.must(t, "rm", "-f", "box")
	for _, way := range [][]string{
		{"run", "--rm", "hostile"}, {"run", "--rm", "-i", "--init", "hostile"}, {"run", "--rm", "-u", "65534", "hostile"},
		{"run", "--rm", "--network", "host", "--ipc", "host", "--uts", "host", "hostile"},
		{"exec", "box"}, {"exec", "-i", "-u", "65534", "box"},
	} {
		for _, a := range insideAttacks {
			t.Run(strings.Trim(strings.Join(way, " ")+"_"+a.name, "-"), func(t *testing.T) {
				attack(t, leaky(append(way, append([]string{"attack"}, a.args...)...)...), a.held)
			})
		}
	}
	// CVE-2024-21626: the descriptors that are there on the way in, and links to them.
	for n := range 16 {
		dir := "/proc/self/fd/" + strconv.Itoa(n)
		for _, way := range [][]string{{"run", "--rm", "-w", dir, "hostile"}, {"exec", "-w", dir, "box"}} {
			out, err := leaky(append(way, "attack", "cwd")...).CombinedOutput()
			if bytes.Contains(out, []byte("BROKEN")) || err == nil {
				t.Errorf("%q: %v: %s", way, err, out)
			}
		}
	}
	// What of the host's can be reached only by its file: the one behind descriptor 0 and behind the masks. A privileged container
	// has no masks; files of /proc have one mode for the whole machine, and are left alone there.
	null, masked := []string{"/proc/self/fd/0", "/dev/null"}, []string{"/proc/interrupts", "/proc/keys", "/proc/timer_list"}
	for _, way := range [][]string{{"run", "--rm", "hostile"}, {"exec", "box"}, {"exec", "--privileged", "box"}} {
		m.container(slices.Concat(way, []string{"chmod", "601"}, null, masked)...).Run()
	}
	m.container(slices.Concat([]string{"run", "--rm", "--privileged", "hostile", "chmod", "601"}, null)...).Run()
}

// TestHostNamespaces attacks the host's processes from a container that sees them.
func TestHostNamespaces(t *testing.T) {
	m := newVictim(t)
	m.must(t, "run", "-d", "--name", "box", "--pid", "host", "hostile", "sleep", "1000")
	defer m.must(t, "rm", "-f", "box")
	pids := []string{strconv.Itoa(os.Getpid())}
	for _, pid := range m.processes("nslab-monitor") {
		pids = append(pids, strconv.Itoa(pid))
	}
	attack(t, m.container(append([]string{"exec", "box", "attack", "process"}, pids...)...), 20)
	attack(t, m.container(append([]string{"run", "--rm", "--pid", "host", "hostile", "attack", "process"}, pids...)...), 20)
}

// TestSpies lets containers look at everything that comes in, while programs are executed in them: CVE-2016-9962, with
// CAP_SYS_PTRACE as well, which people give to debuggers; and CVE-2019-5736, with nslab executed from inside.
func TestSpies(t *testing.T) {
	m := newVictim(t)
	for _, c := range []struct {
		name  string
		flags []string
		args  []string
		lures [][]string // what is executed inside meanwhile
	}{
		{"spy", nil, []string{"spy", "/stop"}, [][]string{{"exec", "spy", "attack", "cwd"}}},
		{"debugger", []string{"--cap-add", "SYS_PTRACE"}, []string{"spy", "/stop"}, [][]string{{"exec", "debugger", "attack", "cwd"}}},
		{"neighbour", nil, []string{"spy", "/stop", "shared"}, [][]string{{"run", "--rm", "--pid", "container:neighbour", "hostile", "attack", "cwd"}}},
		{"overwriter", nil, []string{"overwrite", "/stop"}, [][]string{
			{"exec", "overwriter", "/proc/self/exe", "version"}, {"exec", "overwriter", "attack", "cwd"},
			{"run", "--rm", "--pid", "container:overwriter", "hostile", "/proc/self/exe", "version"},
			{"run", "--rm", "--init", "--pid", "container:overwriter", "hostile", "attack", "cwd"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.must(t, append(append([]string{"run", "-d", "--name", c.name}, c.flags...), append([]string{"hostile", "attack"}, c.args...)...)...)
			defer m.must(t, "rm", "-f", c.name)
			for range 12 {
				for _, l := range c.lures {
					m.container(l...).Run() // a /proc/self/exe that is executed inside may well be refused
				}
			}
			m.container("exec", c.name, "touch", "/stop").Run() // it may be killed, since the container ends
			if status := m.must(t, "wait", c.name); status != "0" {
				log := m.must(t, "logs", c.name)
				log = log[max(0, strings.Index(log, "BROKEN")):]
				t.Errorf("status %s: %s", status, log[:min(1000, len(log))])
			}
		})
	}
}

// TestSwappedLinks starts containers whose volumes go into a folder that another container exchanges for a link all the time:
// CVE-2021-30465.
func TestSwappedLinks(t *testing.T) {
	m := newVictim(t)
	shared, other, outside := filepath.Join(m.dir, "shared"), filepath.Join(m.dir, "other"), filepath.Join(m.dir, "outside")
	for _, d := range []string{shared, other, outside} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for i, target := range []string{"/", outside, "/proc", "/dev"} {
		name := "swap" + strconv.Itoa(i)
		names = append(names, name)
		m.must(t, "run", "-d", "--name", name, "-v", shared+":/v", "hostile", "attack", "swap", "/v/d"+strconv.Itoa(i), target)
	}
	defer func() { m.must(t, append([]string{"rm", "-f"}, names...)...) }()
	for i := range 40 {
		at := "/v/d" + strconv.Itoa(i%len(names))
		for _, flags := range [][]string{{"-v", other + ":" + at}, {"-v", other + ":" + at + "/below"}, {"--tmpfs", at + "/proc"}, {"-w", at + "/new" + strconv.Itoa(i)}} {
			// It may start, in a place inside, or be refused.
			m.container(append(append([]string{"run", "--rm", "-v", shared + ":/v"}, flags...), "hostile", "attack", "cwd")...).Run()
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside there is %v, %v; want nothing", entries, err)
	}
	if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(table, []byte(m.dir)) {
		t.Errorf("a mount came out, or %v", err)
	}
	for _, name := range []string{"/below", "/new0", "/new39"} {
		if _, err := os.Lstat(name); err == nil {
			t.Errorf("%s was made on the host", name)
		}
	}
}

// TestKeys: a container without a filter cannot use the keys of the session that nslab was started in.
func TestKeys(t *testing.T) {
	m := newVictim(t)
	runtime.LockOSThread() // keyrings belong to a thread, and to what it forks; it ends with the test
	if _, err := unix.KeyctlJoinSessionKeyring("nslab-test"); err != nil {
		coursetest.Missing(t, "keyrings: "+err.Error())
	}
	if _, err := unix.AddKey("user", "nslab-secret", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil {
		t.Fatal(err)
	}
	m.must(t, "run", "-d", "--name", "box", "--security-opt", "seccomp=unconfined", "hostile", "sleep", "1000")
	defer m.must(t, "rm", "-f", "box")
	for _, way := range [][]string{{"run", "--rm", "--security-opt", "seccomp=unconfined", "hostile"}, {"run", "--rm", "--privileged", "hostile"}, {"exec", "box"}} {
		attack(t, m.container(append(way, "attack", "keyring", "nslab-secret")...), 3)
	}
}

// TestTerminal: the terminal that nslab was started from is nothing to the container.
func TestTerminal(t *testing.T) {
	m := newVictim(t)
	if _, err := exec.LookPath("script"); err != nil {
		coursetest.Missing(t, "script")
	}
	for _, flags := range []string{"", "-i"} {
		cmd := exec.Command("script", "-qec", m.binary+" container run --rm "+flags+" hostile attack terminal", "/dev/null")
		cmd.Env = m.container().Env
		attack(t, cmd, 4)
	}
}
