package suite

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/labs"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	network "github.com/nslab/nslab/labs/09-network"
)

// Leaks tells what a script, or anything else that had this folder and this run root for its own, has left on the machine,
// and removes it: the one that failed need not make the next one fail.
//
// Mounts come first: the folder is deleted next, and deleting through a live mount deletes what it shows.
func Leaks(workDir, runRoot string) (leaks []string) {
	leak := func(format string, args ...any) { leaks = append(leaks, fmt.Sprintf(format, args...)) }
	mounts, err := mountsMentioning(workDir)
	if err != nil {
		leak("%v", err)
	}
	for _, point := range mounts {
		leak("mount %s", point)
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			leak("detach %s: %v", point, err)
		}
	}
	for _, pid := range awaitNoProcesses(runRoot) {
		comm, _ := evidence.Command(pid)
		leak("process %d %s", pid, comm)
		unix.Kill(pid, unix.SIGKILL) // it bears this run root in its environment: nobody else's
	}
	// Namespaces live by a process or by a mount, so there are none where both are gone.
	groups, err := course.Cgroups(course.IDPrefix(runRoot))
	if err != nil {
		leak("%v", err)
	}
	for _, g := range groups {
		leak("control group %s", g)
		if err := cgroups.RemoveDir(context.Background(), g); err != nil {
			leak("%v", err)
		}
	}
	runs, _ := filepath.Glob(filepath.Join(runRoot, "labs", "*"))
	for _, r := range runs {
		leak("run folder %s", r)
	}
	if len(groups)+len(runs) > 0 {
		if _, err := course.Clean(labs.All(), runRoot, true); err != nil {
			leak("%v", err)
		}
	}
	for _, left := range networks(workDir, runRoot) {
		leak("%s", left)
	}
	names, err := linksAndTables()
	if err != nil {
		leak("%v", err)
	}
	for _, name := range names {
		if strings.Contains(name, strings.TrimSuffix(course.IDPrefix(runRoot), "-")) {
			leak("%s", name)
		}
	}
	return leaks
}

// mountsMentioning lists mount points, deepest first, whose line in the mount table names the folder or nslab. What lies in
// a folder beside it belongs to a script that runs at the same time and looks after itself.
func mountsMentioning(dir string) ([]string, error) {
	lines, err := evidence.Mounts(unix.Gettid()) // a script's namespaces are its thread's, see [ownMachine]
	if err != nil {
		return nil, err
	}
	var points []string
	for _, line := range lines {
		f := strings.Fields(line)
		others := strings.HasPrefix(f[4], filepath.Join(filepath.Dir(dir), "script-"))
		// The binaries under test lie in folders of other names, so a mount that says nslab is one of ours.
		if strings.Contains(line, dir) || !others && strings.HasPrefix(f[len(f)-2], "nslab") {
			points = append(points, f[4])
		}
	}
	slices.Reverse(points)
	return points, nil
}

// awaitNoProcesses returns the processes that this run root's nslab has started and that are still there after a moment:
// the kernel takes some time to end what it was told to end.
func awaitNoProcesses(runRoot string) (pids []int) {
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(10 * time.Millisecond) { // a leak stays longer
		if pids = processesOf(runRoot + "\x00"); len(pids) == 0 {
			return nil
		}
	}
	return pids
}

// processesOf lists the living processes in whose environment the run root begins like this.
func processesOf(runRoot string) (found []int) {
	pids, _ := evidence.Pids("/proc")
	for _, pid := range pids {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(env, []byte("NSLAB_RUN_ROOT="+runRoot)) && evidence.Alive(pid) {
			found = append(found, pid)
		}
	}
	return found
}

// networks takes away what containers have of networks. The default bridge stays until somebody prunes it, and is no leak; what dead
// containers have left is one.
func networks(workDir, runRoot string) []string {
	// The kernel takes the links of a container that has ended away in its own time.
	for range 200 {
		dev, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil || !bytes.Contains(dev, []byte("nv"+strings.TrimSuffix(course.IDPrefix(runRoot), "-"))) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	// The kernel takes a network namespace apart in its own time once its last process is gone, and removes the links to it last.
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(10 * time.Millisecond) {
		links, err := network.Links(context.Background(), "nslab "+strings.TrimSuffix(course.IDPrefix(runRoot), "-")+" ")
		if err != nil || !slices.ContainsFunc(links, func(l network.Link) bool { return l.Kind == "veth" }) {
			break
		}
	}
	e, err := engine.Open(filepath.Join(workDir, ".root"), runRoot)
	if err != nil {
		return []string{err.Error()}
	}
	left, err := e.ReapNetworks(context.Background(), false)
	if err == nil {
		_, err = e.ReapNetworks(context.Background(), true)
	}
	if err != nil {
		left = append(left, err.Error())
	}
	return left
}

// linksAndTables lists the network devices and nftables tables of the host's network namespace.
func linksAndTables() (names []string, err error) {
	dev, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(dev)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, "network device "+strings.TrimSpace(name))
		}
	}
	if os.Geteuid() != 0 {
		return names, nil
	}
	c, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := c.ListTables()
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		names = append(names, "firewall table "+table.Name)
	}
	return names, nil
}
