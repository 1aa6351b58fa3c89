package course

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// host is what a lab could have changed on the machine, as the guard sees it from outside the sacrifice.
type host struct {
	mounts []string // lines of /proc/self/mountinfo
	links  []string // network devices of the host's network namespace
}

// difference is what a run has left on the host, or taken from it. It is measured, not derived from the journal.
type difference struct {
	Mounts, Cgroups, Links, Processes []string
}

func observeHost() (host, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return host{}, fmt.Errorf("read the host's mounts: %w", err)
	}
	dev, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return host{}, fmt.Errorf("read the host's network devices: %w", err)
	}
	h := host{mounts: strings.Split(strings.TrimSpace(string(mounts)), "\n")}
	for line := range strings.Lines(string(dev)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			h.links = append(h.links, strings.TrimSpace(name))
		}
	}
	return h, nil
}

// compare measures the difference to before. Control groups and processes are counted by their owner, the run id and
// our own children: others come and go on any machine. For mounts and links the whole tables are compared.
func (before host) compare(id string) (*difference, error) {
	now, err := observeHost()
	if err != nil {
		return nil, err
	}
	d := &difference{Mounts: changes(before.mounts, now.mounts), Links: changes(before.links, now.links)}
	d.Links = slices.DeleteFunc(d.Links, func(line string) bool { return ofContainers(line[2:], id) })
	if d.Cgroups, err = Cgroups(id); err != nil {
		return nil, err
	}
	d.Processes = children()
	return d, nil
}

// ofContainers tells whether a link belongs to a container, or a network of containers: n, the kind, six digits that stand for the run
// root. They come and go while a lab runs, as other processes do. Those of the lab's own run root are its own.
func ofContainers(link, id string) bool {
	if len(link) != 15 || link[:2] != "nb" && link[:2] != "nv" {
		return false
	}
	_, err := hex.DecodeString(link[2:8])
	return err == nil && !strings.HasPrefix(id, link[2:8])
}

// changes lists what is in one list only: "+ added", "- gone".
func changes(before, now []string) []string {
	list := []string{}
	for _, line := range now {
		if !slices.Contains(before, line) {
			list = append(list, "+ "+line)
		}
	}
	for _, line := range before {
		if !slices.Contains(now, line) {
			list = append(list, "- "+line)
		}
	}
	return list
}

// Cgroups finds the control groups, in all hierarchies, that bear nslab's name and the given run id (or the start of
// one, see [IDPrefix]).
func Cgroups(id string) ([]string, error) {
	hierarchies, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	found := []string{}
	for _, h := range hierarchies {
		err := filepath.WalkDir(h.Mountpoint, func(path string, e fs.DirEntry, err error) error {
			if err != nil { // removed while we look, or not ours to read
				return fs.SkipDir
			}
			if e.IsDir() && strings.HasPrefix(e.Name(), "nslab-") && strings.Contains(e.Name(), "-"+id) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look through %s: %w", h.Mountpoint, err)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// children lists the guard's living children and theirs. It is the subreaper of all that the run started, so whatever
// outlived its own parent is among them.
func children() []string {
	list := []string{}
	for _, pid := range childPids() {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		list = append(list, fmt.Sprintf("%d %s", pid, bytes.TrimSpace(comm)))
	}
	return list
}

// childPids lists all living processes below our own, parents first.
func childPids() (pids []int) {
	below := map[int][]int{} // parent → children
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		pid, numErr := strconv.Atoi(e.Name())
		if err != nil || numErr != nil {
			continue // not a process, or gone meanwhile
		}
		// The name is in parentheses and may hold anything, so what follows the last one counts. See proc(5).
		var state string
		var parent int
		rest := string(stat[bytes.LastIndexByte(stat, ')')+1:])
		if _, err := fmt.Sscan(rest, &state, &parent); err == nil && state != "Z" {
			below[parent] = append(below[parent], pid)
		}
	}
	for next := below[os.Getpid()]; len(next) > 0; {
		pid := next[0]
		pids, next = append(pids, pid), append(next[1:], below[pid]...)
	}
	return pids
}

// reap collects orphans of the run that have ended.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid == 0 {
			return
		}
	}
}

func (d *difference) all() []string {
	return slices.Concat(d.Mounts, d.Cgroups, d.Links, d.Processes)
}

// ours says whether nslab is to blame: its control groups and children always, a mount or a link if it bears the name.
func (d *difference) ours() bool {
	return len(d.Cgroups)+len(d.Processes) > 0 || slices.ContainsFunc(slices.Concat(d.Mounts, d.Links),
		func(line string) bool { return strings.Contains(line, "nslab") })
}

// MarshalJSON writes the counts, and what they count where there is anything.
func (d *difference) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Mounts    int      `json:"mounts"`
		Cgroups   int      `json:"cgroups"`
		Links     int      `json:"links"`
		Processes int      `json:"processes"`
		Left      []string `json:"left,omitempty"`
	}{len(d.Mounts), len(d.Cgroups), len(d.Links), len(d.Processes), d.all()})
}
