package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/suite"
)

// containerKills is how many random moments the sweep tries for each command; NSLAB_KILLS says another number.
const containerKills = 6

// TestContainerKills sends SIGKILL to the client, the monitor, the container's init, or all of them, at random moments of
// each command. Whatever was killed, the next command has to say what the kernel says, and after `container rm -f` and
// `container prune` nothing may be left: control groups, processes, mounts, files. The seed is printed, and NSLAB_SEED sets
// it.
func TestContainerKills(t *testing.T) {
	coursetest.NeedRoot(t)
	n, seed := setting(t, "NSLAB_KILLS", containerKills), uint64(setting(t, "NSLAB_SEED", int(time.Now().UnixNano()&0xffffffff)))
	t.Logf("NSLAB_SEED=%d NSLAB_KILLS=%d", seed, n)
	for i, c := range []struct {
		name    string
		before  [][]string // what there has to be
		command []string
	}{
		{"run", nil, []string{"run", "--name", "box", "bootstrap", "true"}},
		{"run-rm", nil, []string{"run", "--rm", "--name", "box", "-v", "data:/data", "-v", "/anonymous", "bootstrap", "true"}},
		{"run-detached", nil, []string{"run", "-d", "--name", "box", "bootstrap", "sleep", "1000"}},
		{"create", nil, []string{"create", "--name", "box", "-v", "/anonymous", "bootstrap", "true"}},
		{"start", [][]string{{"create", "--name", "box", "bootstrap", "sleep", "1000"}}, []string{"start", "box"}},
		{"exec", [][]string{{"run", "-d", "--name", "box", "bootstrap", "sleep", "1000"}}, []string{"exec", "box", "sh", "-c", "true; true"}},
		{"stop", [][]string{{"run", "-d", "--name", "box", "bootstrap", "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"}}, []string{"stop", "-t", "1", "box"}},
		{"rm", [][]string{{"run", "-d", "--name", "box", "bootstrap", "sleep", "1000"}}, []string{"rm", "-f", "box"}},
		{"restart", [][]string{{"run", "-d", "--name", "box", "bootstrap", "sleep", "1000"}}, []string{"restart", "-t", "0", "box"}},
		{"pause", [][]string{{"run", "-d", "--name", "box", "bootstrap", "sleep", "1000"}}, []string{"pause", "box"}},
		{"commit", [][]string{{"run", "-d", "--name", "box", "bootstrap", "sleep", "1000"}}, []string{"commit", "box"}},
		{"cp", [][]string{{"run", "-d", "--name", "box", "bootstrap", "sleep", "1000"}}, []string{"cp", "/etc/services", "box:/tmp"}},
		{"run-fuse", nil, []string{"run", "-d", "--name", "box", "--driver", "aufs-fuse", "bootstrap", "sleep", "1000"}},
		{"run-published", nil, []string{"run", "-d", "--name", "box", "-p", "8080-8090:80", "-p", "53/udp", "bootstrap", "sleep", "1000"}},
		{"run-published-rm", nil, []string{"run", "--rm", "--name", "box", "-p", "80", "bootstrap", "true"}},
		{"stop-published", [][]string{{"run", "-d", "--name", "box", "-p", "80", "bootstrap", "sleep", "1000"}}, []string{"stop", "-t", "0", "box"}},
		{"rename", [][]string{{"create", "--name", "box", "bootstrap", "true"}}, []string{"rename", "box", "other"}},
		{"run-rm-alone", nil, []string{"run", "--rm", "--network", "none", "--name", "box", "bootstrap", "true"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for k := -1; k < n; k++ {
				for _, b := range c.before {
					m.must(t, b...)
				}
				if k < 0 { // undisturbed, to know how long it takes
					start := time.Now()
					m.must(t, c.command...)
					m.whole = time.Since(start)
				} else {
					m.disturb(t, random, c.command)
				}
				m.truth(t)
				m.clear(t)
				if t.Failed() {
					t.Fatalf("NSLAB_SEED=%d, kill %d: %s", seed, k, m.what)
				}
			}
		})
	}
}

// machine is a root of its own, and a copy of nslab of its own: the file by which its processes are known.
type machine struct {
	dir, root, run, binary string
	file                   unix.Stat_t   // of binary
	whole                  time.Duration // how long the command takes
	what                   string        // the last kill
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := &machine{dir: dir, root: filepath.Join(dir, ".root"), run: filepath.Join(dir, "run"), binary: filepath.Join(dir, "nslab")}
	// Not by ourselves: a child that is forked meanwhile would have the file open for writing, and nobody could execute it.
	if out, err := exec.Command("cp", self, m.binary).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	if err := unix.Stat(m.binary, &m.file); err != nil {
		t.Fatal(err)
	}
	if out, err := m.nslab("image", "bootstrap").CombinedOutput(); err != nil {
		t.Fatalf("image bootstrap: %v: %s", err, out)
	}
	t.Cleanup(func() {
		for _, pid := range append(m.processes(""), m.programs()...) {
			unix.Kill(pid, unix.SIGKILL) // it executes a file that is this test's own, or is in a group of this run root
		}
		suite.Leaks(m.dir, m.run)
	})
	return m
}

func (m *machine) nslab(args ...string) *exec.Cmd {
	cmd := exec.Command(m.binary)
	cmd.Args = append([]string{"nslab"}, args...)
	cmd.Env = append(os.Environ(), "NSLAB_ROOT="+m.root, "NSLAB_RUN_ROOT="+m.run, "XDG_STATE_HOME="+m.run+".state")
	return cmd
}

func (m *machine) container(args ...string) *exec.Cmd {
	return m.nslab(append([]string{"container"}, args...)...)
}

// must runs a command that nothing disturbs. A container may be gone in the meantime: with --rm its monitor removes it.
func (m *machine) must(t *testing.T, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := m.container(args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	gone := args[0] == "rm" || args[0] == "inspect"
	if said := errOut.String(); (err != nil || said != "") && !(gone && strings.HasPrefix(said, "nslab: no such container: ")) {
		t.Errorf("container %s: %v: %s", strings.Join(args, " "), err, said)
	}
	return strings.TrimSpace(out.String())
}

// disturb runs a command, and at some moment kills something.
func (m *machine) disturb(t *testing.T, random *rand.Rand, args []string) {
	t.Helper()
	moment := time.Duration(random.Int64N(int64(m.whole + m.whole/4)))
	victims := []string{"client", "nslab-monitor", "nslab-init", "program", "all"}
	victim := victims[random.IntN(len(victims))]
	m.what = fmt.Sprintf("%s at %v of %v", victim, moment, m.whole)
	cmd := m.container(args...)
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- cmd.Wait() }()
	time.Sleep(moment)
	switch victim {
	case "client":
		cmd.Process.Kill()
	case "program":
		for _, pid := range m.programs() {
			unix.Kill(pid, unix.SIGKILL)
		}
	case "all":
		victim = ""
		fallthrough
	default:
		for _, pid := range m.processes(victim) {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	select {
	case <-done:
	case <-time.After(time.Minute): // not a limit on speed: it hangs
		cmd.Process.Kill()
		<-done
		t.Errorf("%s: the command did not end", m.what)
	}
}

// processes lists those that execute this machine's nslab, under a name or under any. The test itself does not: it executes
// the original.
func (m *machine) processes(name string) (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat("/proc/"+e.Name()+"/exe", &st) != nil || st.Ino != m.file.Ino || st.Dev != m.file.Dev {
			continue
		}
		argv, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		first, _, _ := bytes.Cut(argv, []byte{0})
		if name == "" || string(first) == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

// programs lists the processes in the control groups of this machine's containers.
func (m *machine) programs() (pids []int) {
	for _, group := range m.groups() {
		data, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		for _, word := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(word); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// groups lists the control groups that bear the name of this machine's containers.
func (m *machine) groups() []string {
	groups, _ := course.Cgroups(course.IDPrefix(m.run))
	return groups
}

// truth compares what nslab says of its containers with what the kernel says.
func (m *machine) truth(t *testing.T) {
	t.Helper()
	for _, id := range strings.Fields(m.must(t, "ls", "-aq", "--no-trunc")) {
		var state string
		ok := false
		for until := time.Now().Add(10 * time.Second); !ok && time.Now().Before(until); { // it may be about to end
			state = m.must(t, "inspect", "--format", "{{.State.Status}} {{.State.Pid}}", id)
			status, number, _ := strings.Cut(state, " ")
			pid, err := strconv.Atoi(number)
			ok = state == "" || err == nil && (status == "running" || status == "paused") == (pid > 0 && unix.Kill(pid, 0) == nil)
		}
		if !ok {
			t.Errorf("container %.12s is said to be %s, which it is not", id, state)
		}
	}
}

// clear removes all containers, and looks for what is left. What a monitor is still undoing is locked, so the last step is
// repeated until there is none.
func (m *machine) clear(t *testing.T) {
	t.Helper()
	if ids := strings.Fields(m.must(t, "ls", "-aq")); len(ids) > 0 {
		m.must(t, append([]string{"rm", "-f", "-v"}, ids...)...)
	}
	var left []string
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		m.must(t, "prune", "-f")
		if left = m.leftovers(); len(left) == 0 {
			break
		}
	}
	left = append(left, suite.Leaks(m.dir, m.run)...) // rules and bridges, too
	for _, l := range left {
		t.Errorf("left behind: %s", l)
	}
}

// leftovers lists what is there that belongs to no container.
func (m *machine) leftovers() (left []string) {
	leak := func(format string, args ...any) { left = append(left, fmt.Sprintf(format, args...)) }
	for _, pid := range m.processes("") {
		argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		leak("process %d %q", pid, argv)
	}
	for _, group := range m.groups() {
		leak("control group %s", group)
	}
	for _, pattern := range []string{
		".root/containers/*", ".root/names/*", "run/containers/*", "run/networks/*/leases/*", "run/networks/*/names/*", ".root/volumes/" + strings.Repeat("?", 64),
		".root/images/.users/*/" + strings.Repeat("?", 64),
	} {
		files, err := filepath.Glob(filepath.Join(m.dir, pattern))
		if err != nil {
			leak("%v", err)
		}
		for _, f := range files {
			inside, _ := filepath.Glob(filepath.Join(f, "*"))
			leak("%s %q", f, inside)
		}
	}
	dev, err := os.ReadFile("/proc/self/net/dev")
	if err != nil || bytes.Contains(dev, []byte("nv"+strings.TrimSuffix(course.IDPrefix(m.run), "-"))) {
		leak("a link of a container: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(m.dir)) {
		leak("a mount: %v", err)
	}
	return left
}
