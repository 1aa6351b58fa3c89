package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/course/evidence"
	"github.com/nslab/nslab/labs"
)

// checkLeaks fails the script that left something behind, and removes the worst of it.
//
// Mounts come first: the script's folder is deleted next, and deleting through a live mount deletes what it shows.
func checkLeaks(t strictT, workDir, runRoot string) {
	t.Helper()
	for _, leak := range mountsMentioning(t, workDir) {
		t.Errorf("left behind: mount %s", leak)
		if err := unix.Unmount(leak, unix.MNT_DETACH); err != nil {
			t.Fatalf("detach %s: %v", leak, err)
		}
	}
	for _, pid := range awaitNoProcesses(runRoot) {
		comm, _ := evidence.Command(pid)
		t.Errorf("left behind: process %d %s", pid, comm)
		unix.Kill(pid, unix.SIGKILL) // it bears this script's run root in its environment: nobody else's
	}
	// Namespaces live by a process or by a mount, so there are none where both are gone.
	groups, err := course.Cgroups(course.IDPrefix(runRoot))
	if err != nil {
		t.Error(err)
	}
	for _, g := range groups {
		t.Errorf("left behind: control group %s", g)
	}
	runs, _ := filepath.Glob(filepath.Join(runRoot, "labs", "*"))
	for _, r := range runs {
		t.Errorf("left behind: run folder %s", r)
	}
	if len(groups)+len(runs) > 0 { // the script has failed; the machine need not suffer
		if _, err := course.Clean(labs.All(), runRoot, true); err != nil {
			t.Error(err)
		}
	}
	for _, name := range linksAndTables(t) {
		if strings.Contains(name, strings.TrimSuffix(course.IDPrefix(runRoot), "-")) {
			t.Errorf("left behind: %s", name)
		}
	}
}

// mountsMentioning lists mount points, deepest first, whose line in the mount table names the script's folder or nslab.
func mountsMentioning(t strictT, workDir string) []string {
	lines, err := evidence.Mounts(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, line := range lines {
		// The binaries under test lie in folders of other names, so a mount that says nslab is one of ours.
		if f := strings.Fields(line); strings.Contains(line, workDir) || strings.HasPrefix(f[len(f)-2], "nslab") {
			points = append(points, f[4])
		}
	}
	slices.Reverse(points)
	return points
}

// awaitNoProcesses returns the processes that this script's nslab has started and that are still there after a moment:
// the kernel takes some time to end what it was told to end.
func awaitNoProcesses(runRoot string) (pids []int) {
	for range 200 {
		if pids = processesOf(runRoot); len(pids) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return pids
}

func processesOf(runRoot string) (found []int) {
	pids, _ := evidence.Pids("/proc")
	for _, pid := range pids {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(env, []byte("NSLAB_RUN_ROOT="+runRoot+"\x00")) && evidence.Alive(pid) {
			found = append(found, pid)
		}
	}
	return found
}

// linksAndTables lists the network devices and nftables tables of the host's network namespace.
func linksAndTables(t strictT) (names []string) {
	dev, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(dev)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, "network device "+strings.TrimSpace(name))
		}
	}
	if os.Geteuid() != 0 {
		return names
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		names = append(names, "firewall table "+table.Name)
	}
	return names
}

// TestLeakCheck proves that the harness sees a leak: a check that cannot fail is none.
func TestLeakCheck(t *testing.T) {
	coursetest.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("nslab-leak", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if got := mountsMentioning(strictT{t}, "/nowhere"); !slices.Equal(got, []string{dir}) {
		t.Errorf("mountsMentioning() = %q; want %q", got, dir)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}

	id := course.IDPrefix(dir) + "test"
	group := "/sys/fs/cgroup/nslab-00-" + id
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil {
		group = "/sys/fs/cgroup/unified/nslab-00-" + id // hybrid
		if _, err := os.Stat(filepath.Dir(group)); err != nil {
			group = "/sys/fs/cgroup/pids/nslab-00-" + id // v1
		}
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(group)
	if got, err := course.Cgroups(course.IDPrefix(dir)); err != nil || !slices.Equal(got, []string{group}) {
		t.Errorf("Cgroups() = %q, %v; want %q", got, err, group)
	}
}
