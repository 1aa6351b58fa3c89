package cgroups

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// recorded is what a machine's files said: /proc/self/mountinfo (its cgroup lines), /proc/self/cgroup, and the
// cgroup.controllers at the root of its v2 mount.
type recorded struct{ mountinfo, cgroup, controllers string }

// CentOS 7, in a login session: v1 alone, cpu and cpuacct in one tree, net_cls and net_prio too.
var v1Only = recorded{
	mountinfo: `24 17 0:20 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:8 - tmpfs tmpfs ro,mode=755
25 24 0:21 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:9 - cgroup cgroup rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd
27 24 0:23 / /sys/fs/cgroup/freezer rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,freezer
28 24 0:24 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:12 - cgroup cgroup rw,cpuacct,cpu
29 24 0:25 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:13 - cgroup cgroup rw,memory
30 24 0:26 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:14 - cgroup cgroup rw,pids
31 24 0:27 / /sys/fs/cgroup/cpuset rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpuset
33 24 0:29 / /sys/fs/cgroup/blkio rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,blkio
`,
	cgroup: `11:blkio:/user.slice
9:cpuset:/
8:pids:/user.slice/user-0.slice/session-3.scope
7:memory:/user.slice
5:cpu,cpuacct:/user.slice
4:freezer:/
1:name=systemd:/user.slice/user-0.slice/session-3.scope
`,
}

// Debian 10: systemd's hybrid. All controllers in v1, v2 mounted beside for systemd itself.
var debian10 = recorded{
	mountinfo: `26 25 0:22 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
27 25 0:23 / /sys/fs/cgroup/systemd rw,nosuid,nodev,noexec,relatime shared:11 - cgroup cgroup rw,xattr,name=systemd
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 / /sys/fs/cgroup/pids rw,nosuid,nodev,noexec,relatime shared:16 - cgroup cgroup rw,pids
33 25 0:29 / /sys/fs/cgroup/blkio rw,nosuid,nodev,noexec,relatime shared:17 - cgroup cgroup rw,blkio
34 25 0:30 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:18 - cgroup cgroup rw,memory
37 25 0:33 / /sys/fs/cgroup/freezer rw,nosuid,nodev,noexec,relatime shared:21 - cgroup cgroup rw,freezer
`,
	cgroup: `9:blkio:/user.slice
8:memory:/user.slice/user-1000.slice/session-1.scope
6:pids:/user.slice/user-1000.slice/session-1.scope
5:cpu,cpuacct:/user.slice
4:freezer:/
1:name=systemd:/user.slice/user-1000.slice/session-1.scope
0::/user.slice/user-1000.slice/session-1.scope
`,
}

// Ubuntu 24.04, in a scope made by systemd-run: v2 alone.
var ubuntu2404 = recorded{
	mountinfo: `24 31 0:6 / /dev rw,nosuid,relatime shared:2 - devtmpfs udev rw,size=1953668k,nr_inodes=488417,mode=755,inode64
35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
`,
	cgroup:      "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-u9.scope\n",
	controllers: "cpuset cpu io memory hugetlb pids rdma misc dmem",
}

// The machine on which nslab was written: each v1 controller in a tree of its own, hugetlb left to v2, and a memory group
// around us.
var firecracker = recorded{
	mountinfo: `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`,
	cgroup: `9:name=systemd:/
8:pids:/
7:blkio:/
6:freezer:/
4:memory:/process_api/72fc
3:cpuset:/
2:cpuacct:/
1:cpu:/
0::/
`,
	controllers: "hugetlb",
}

// A container of Docker on v1, without a cgroup namespace: each mount shows the container's group, and the path of that
// group is told in full.
var dockerV1 = recorded{
	mountinfo: `720 719 0:28 /docker/4f2a /sys/fs/cgroup/cpu,cpuacct rw,nosuid,nodev,noexec,relatime master:15 - cgroup cgroup rw,cpu,cpuacct
721 719 0:29 /docker/4f2a /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime master:18 - cgroup cgroup rw,memory
`,
	cgroup: "5:cpu,cpuacct:/docker/4f2a\n4:memory:/docker/4f2a/inner\n",
}

// The same on v2, with a cgroup namespace (Docker's default there): both paths are "/".
var dockerV2 = recorded{
	mountinfo:   "720 719 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n",
	cgroup:      "0::/\n",
	controllers: "cpuset cpu io memory pids",
}

// The host's tree mounted into a container with a cgroup namespace: the mount shows folders outside of it.
var foreignMount = recorded{
	mountinfo:   "720 719 0:30 /../.. /host/cgroup rw,relatime - cgroup2 cgroup rw\n",
	cgroup:      "0::/\n",
	controllers: "cpu",
}

func (r recorded) system(t *testing.T) *System {
	t.Helper()
	s, err := parse(strings.NewReader(r.mountinfo), r.cgroup, func(string) []string { return strings.Fields(r.controllers) })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tree is a v2 tree in a test: the content of its files. Every folder in rw is writable.
type tree struct {
	files map[string]string
	rw    []string
	ours  []string // processes that run nslab
}

func (tr tree) facts() facts {
	return facts{
		read: func(file string) (string, error) {
			content, ok := tr.files[file]
			if !ok {
				return "", errors.New("no such file")
			}
			return content, nil
		},
		writable: func(path string) bool {
			return slices.ContainsFunc(tr.rw, func(dir string) bool {
				name, ok := strings.CutPrefix(path, dir)
				return ok && (name == "" || strings.HasPrefix(name, "/cgroup.") && strings.Count(name, "/") == 1)
			})
		},
		ours: func(pid string) bool { return slices.Contains(tr.ours, pid) },
	}
}

const (
	scope = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/run-u9.scope"
	app   = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice"
)

// systemdTree is Ubuntu's tree around the scope, with processes in the scope.
func systemdTree(procs string) map[string]string {
	return map[string]string{
		"/sys/fs/cgroup/cgroup.controllers":     "cpuset cpu io memory pids",
		"/sys/fs/cgroup/cgroup.subtree_control": "cpu memory pids",
		"/sys/fs/cgroup/cgroup.procs":           "1\n2\n",
		app + "/cgroup.type":                    "domain", app + "/cgroup.controllers": "cpu memory pids",
		app + "/cgroup.subtree_control": "memory pids", app + "/cgroup.procs": "",
		scope + "/cgroup.type": "domain", scope + "/cgroup.controllers": "memory pids",
		scope + "/cgroup.subtree_control": "", scope + "/cgroup.procs": procs,
	}
}

func TestPlan(t *testing.T) {
	root := tree{files: systemdTree("10\n11\n"), rw: []string{"/sys/fs/cgroup", app, scope}}
	marked := systemdTree("10\n")
	marked["/sys/fs/cgroup/nslab-on-cpu/cgroup.procs"] = ""
	leaf := systemdTree("")
	leaf[scope+"/cgroup.subtree_control"] = "memory pids"
	leaf[scope+"/nslab-on-memory/cgroup.procs"] = ""
	inLeaf := ubuntu2404
	inLeaf.cgroup = strings.TrimSpace(ubuntu2404.cgroup) + "/nslab-leaf\n"
	container := map[string]string{
		"/sys/fs/cgroup/cgroup.type": "domain", "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids",
		"/sys/fs/cgroup/cgroup.subtree_control": "", "/sys/fs/cgroup/cgroup.procs": "1\n7\n",
	}

	for _, c := range []struct {
		name        string
		machine     recorded
		tree        tree
		path        string
		controllers []string
		mode        string
		want        []Thing
		err         string
	}{
		{
			name: "v1, joined trees", machine: v1Only, path: "nslab-x", controllers: []string{"cpu", "memory", "io", "pids"},
			mode: "v1",
			want: []Thing{
				{KindGroup, "/sys/fs/cgroup/cpu,cpuacct/user.slice/nslab-x"},
				{KindGroup, "/sys/fs/cgroup/memory/user.slice/nslab-x"},
				{KindGroup, "/sys/fs/cgroup/blkio/user.slice/nslab-x"},
				{KindGroup, "/sys/fs/cgroup/pids/user.slice/user-0.slice/session-3.scope/nslab-x"},
			},
		},
		{
			name: "v1, absolute", machine: v1Only, path: "/nslab/c1", controllers: []string{"memory"}, mode: "v1",
			want: []Thing{{KindParent, "/sys/fs/cgroup/memory/nslab"}, {KindGroup, "/sys/fs/cgroup/memory/nslab/c1"}},
		},
		{
			name: "v1 has no core", machine: v1Only, path: "nslab-x", controllers: []string{Core}, mode: "v1",
			err: "core: it is in no mounted hierarchy",
		},
		{
			name: "Debian 10, nested", machine: debian10, path: "nslab-x", controllers: []string{"memory", "freezer"}, mode: "hybrid",
			want: []Thing{
				{KindGroup, "/sys/fs/cgroup/memory/user.slice/user-1000.slice/session-1.scope/nslab-x"},
				{KindGroup, "/sys/fs/cgroup/freezer/nslab-x"},
			},
		},
		{
			name: "hybrid, cpu apart from cpuacct, memory nested, core in v2", machine: firecracker, path: "nslab-x",
			controllers: []string{"cpu", "memory", Core}, mode: "hybrid",
			tree: tree{
				files: map[string]string{"/sys/fs/cgroup/unified/cgroup.controllers": "hugetlb"},
				rw:    []string{"/sys/fs/cgroup/unified"},
			},
			want: []Thing{
				{KindGroup, "/sys/fs/cgroup/cpu/nslab-x"}, {KindGroup, "/sys/fs/cgroup/cpuacct/nslab-x"},
				{KindGroup, "/sys/fs/cgroup/memory/process_api/72fc/nslab-x"}, {KindGroup, "/sys/fs/cgroup/unified/nslab-x"},
			},
		},
		{
			name: "hybrid, a controller in v2 that is off", machine: firecracker, path: "nslab-x", controllers: []string{"hugetlb"},
			mode: "hybrid",
			tree: tree{
				files: map[string]string{"/sys/fs/cgroup/unified/cgroup.controllers": "hugetlb"},
				rw:    []string{"/sys/fs/cgroup/unified"},
			},
			want: []Thing{
				{KindSubtree, "/sys/fs/cgroup/unified/cgroup.subtree_control +hugetlb nslab-x"},
				{KindGroup, "/sys/fs/cgroup/unified/nslab-x"},
			},
		},
		{
			name: "Docker on v1 without cgroup namespace", machine: dockerV1, path: "nslab-x", controllers: []string{"cpu", "memory"},
			mode: "v1",
			want: []Thing{
				{KindGroup, "/sys/fs/cgroup/cpu,cpuacct/nslab-x"}, {KindGroup, "/sys/fs/cgroup/memory/inner/nslab-x"},
			},
		},
		{
			name: "v2 as root: at the root of the tree, which may have processes", machine: ubuntu2404, tree: root, path: "nslab-x",
			controllers: []string{"cpu", "memory", "freezer"}, mode: "v2",
			want: []Thing{{KindGroup, "/sys/fs/cgroup/nslab-x"}},
		},
		{
			name: "v2 as root, io off", machine: ubuntu2404, tree: root, path: "nslab-x", controllers: []string{"io", "cpu"}, mode: "v2",
			want: []Thing{
				{KindSubtree, "/sys/fs/cgroup/cgroup.subtree_control +io nslab-x"}, {KindGroup, "/sys/fs/cgroup/nslab-x"},
			},
		},
		{
			name: "v2 as root, cpu switched on by another nslab", machine: ubuntu2404, path: "nslab-x", controllers: []string{"cpu"},
			tree: tree{files: marked, rw: []string{"/sys/fs/cgroup"}}, mode: "v2",
			want: []Thing{
				{KindSubtree, "/sys/fs/cgroup/cgroup.subtree_control +cpu nslab-x"}, {KindGroup, "/sys/fs/cgroup/nslab-x"},
			},
		},
		{
			name: "v2 as a user, alone in a scope", machine: ubuntu2404, path: "nslab-x", controllers: []string{"memory", "pids"},
			tree: tree{files: systemdTree("10\n11\n"), rw: []string{app, scope}, ours: []string{"10", "11"}}, mode: "v2",
			want: []Thing{
				{KindLeaf, scope + "/nslab-leaf"},
				{KindSubtree, scope + "/cgroup.subtree_control +memory nslab-x"}, {KindSubtree, scope + "/cgroup.subtree_control +pids nslab-x"},
				{KindGroup, scope + "/nslab-x"},
			},
		},
		{
			name: "v2 as a user, already in the leaf", machine: inLeaf, path: "nslab-y", controllers: []string{"memory"},
			tree: tree{files: leaf, rw: []string{app, scope}}, mode: "v2",
			want: []Thing{{KindSubtree, scope + "/cgroup.subtree_control +memory nslab-y"}, {KindGroup, scope + "/nslab-y"}},
		},
		{
			name: "v2 as a user, with a shell beside: up to the slice", machine: ubuntu2404, path: "nslab-x",
			controllers: []string{"memory", "cpu"},
			tree:        tree{files: systemdTree("9\n10\n"), rw: []string{app, scope}, ours: []string{"10"}}, mode: "v2",
			want: []Thing{{KindSubtree, app + "/cgroup.subtree_control +cpu nslab-x"}, {KindGroup, app + "/nslab-x"}},
		},
		{
			name: "v2 as a user, nothing delegated", machine: ubuntu2404, path: "nslab-x", controllers: []string{"memory"},
			tree: tree{files: systemdTree("9\n")}, mode: "v2", err: "below " + scope + ": not delegated to us",
		},
		{
			name: "Docker on v2, beside a shell", machine: dockerV2, path: "nslab-x", controllers: []string{"cpu"},
			tree: tree{files: container, rw: []string{"/sys/fs/cgroup"}, ours: []string{"7"}}, mode: "v2", err: "not delegated to us",
		},
		{
			name: "Docker on v2, beside a shell, absolute", machine: dockerV2, path: "/nslab-x", controllers: []string{"cpu"},
			tree: tree{files: container, rw: []string{"/sys/fs/cgroup"}, ours: []string{"7"}}, mode: "v2", err: "not delegated to us",
		},
		{
			name: "Docker on v2, beside a shell, what was handed down before, absolute", machine: dockerV2, path: "/nslab-x", controllers: []string{Core},
			tree: tree{files: container, rw: []string{"/sys/fs/cgroup"}}, mode: "v2", want: []Thing{{KindGroup, "/sys/fs/cgroup/nslab-x"}},
		},
		{
			name: "v2 as root, absolute", machine: ubuntu2404, tree: root, path: "/nslab-x", controllers: []string{"cpu"}, mode: "v2",
			want: []Thing{{KindGroup, "/sys/fs/cgroup/nslab-x"}},
		},
		{
			name: "Docker on v2, alone", machine: dockerV2, path: "nslab-x", controllers: []string{"cpu"},
			tree: tree{files: container, rw: []string{"/sys/fs/cgroup"}, ours: []string{"1", "7"}}, mode: "v2",
			want: []Thing{
				{KindLeaf, "/sys/fs/cgroup/nslab-leaf"}, {KindSubtree, "/sys/fs/cgroup/cgroup.subtree_control +cpu nslab-x"},
				{KindGroup, "/sys/fs/cgroup/nslab-x"},
			},
		},
		{
			name: "a mount that does not show our group", machine: foreignMount, path: "nslab-x", controllers: []string{"cpu"},
			tree: tree{files: map[string]string{"/host/cgroup/cgroup.type": "domain"}}, mode: "v2", err: "does not show the group",
		},
		{name: "dots", machine: v1Only, path: "../x", controllers: []string{"cpu"}, mode: "v1", err: `has an element ".."`},
		{name: "dots inside", machine: v1Only, path: "/a/../../x", controllers: []string{"cpu"}, mode: "v1", err: `has an element ".."`},
		{name: "newline", machine: v1Only, path: "a\nb", controllers: []string{"cpu"}, mode: "v1", err: "control character"},
		{name: "empty", machine: v1Only, path: "/", controllers: []string{"cpu"}, mode: "v1", err: "is empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := c.machine.system(t)
			if got := s.Mode(); got != c.mode {
				t.Errorf("Mode() = %q; want %q", got, c.mode)
			}
			g, err := s.plan(c.path, c.controllers, c.tree.facts())
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("plan(%q) = %v, %v; want error %q", c.path, g, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := g.Things(); !slices.Equal(got, c.want) {
				t.Errorf("plan(%q).Things() = %v; want %v", c.path, got, c.want)
			}
		})
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		machine    recorded
		controller string
		version    int
		own        string
	}{
		{v1Only, "io", 1, "/sys/fs/cgroup/blkio/user.slice"},
		{v1Only, "cpuacct", 1, "/sys/fs/cgroup/cpu,cpuacct/user.slice"},
		{v1Only, "hugetlb", 0, ""},
		{debian10, "freezer", 1, "/sys/fs/cgroup/freezer"},
		{debian10, Core, 2, "/sys/fs/cgroup/unified/user.slice/user-1000.slice/session-1.scope"},
		{ubuntu2404, "io", 2, scope},
		{ubuntu2404, "freezer", 2, scope},
		{firecracker, "hugetlb", 2, "/sys/fs/cgroup/unified"},
		{firecracker, "memory", 1, "/sys/fs/cgroup/memory/process_api/72fc"},
		{dockerV2, "pids", 2, "/sys/fs/cgroup"},
	} {
		h, ok := c.machine.system(t).Find(c.controller)
		if ok != (c.version != 0) || h.Version != c.version || h.Own != c.own {
			t.Errorf("Find(%q) = v%d %q, %v; want v%d %q", c.controller, h.Version, h.Own, ok, c.version, c.own)
		}
	}
}

// A hierarchy that is mounted twice is used where our own group shows.
func TestFindPrefersOwn(t *testing.T) {
	r := recorded{
		mountinfo: `1 0 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup rw
2 0 0:30 /other /mnt/part rw - cgroup2 cgroup rw
`,
		cgroup: "0::/a b:c\n",
	}
	if h := r.system(t).Hierarchies[0]; h.Mount != "/sys/fs/cgroup" || h.Own != "/sys/fs/cgroup/a b:c" {
		t.Errorf("parse() = %+v; want the mount that shows our group", h)
	}
}

func TestParseEnabling(t *testing.T) {
	e, err := parseEnabling("/sys/fs/cgroup/cgroup.subtree_control +cpu nslab-x")
	if err != nil || e != (enabling{"/sys/fs/cgroup", "cpu", "nslab-x"}) {
		t.Errorf("parseEnabling = %v, %v", e, err)
	}
	const file = "/sys/fs/cgroup/cgroup.subtree_control"
	for _, bad := range []string{
		"", "/etc/passwd +cpu x", "cgroup.subtree_control +cpu x", "/a/../cgroup.subtree_control +cpu x", file, file + " +cpu",
		file + " +cpu ", file + " + x", file + " +../x y", file + " +cpu ../x", file + " +cpu ..",
	} {
		if e, err := parseEnabling(bad); err == nil {
			t.Errorf("parseEnabling(%q) = %v; want an error", bad, e)
		}
	}
}

func TestSameProgram(t *testing.T) {
	if self := strconv.Itoa(os.Getpid()); !sameProgram(self) {
		t.Errorf("sameProgram(%s) = false for ourselves", self)
	}
	for _, pid := range []string{"1", strconv.Itoa(os.Getppid()), "0", "none"} { // go test is not this program either
		if sameProgram(pid) {
			t.Errorf("sameProgram(%s) = true", pid)
		}
	}
}
