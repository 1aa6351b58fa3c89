package doctor

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nslab/nslab/course"
)

func TestWSLVersion(t *testing.T) {
	for text, want := range map[string]int{
		"Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com) (gcc version 5.4.0 (GCC) ) #2311-Microsoft Tue Nov 08 17:09:00 PST 2022":                                                 1,
		"Linux version 5.15.90.1-microsoft-standard-WSL2 (oe-user@oe-host) (x86_64-msft-linux-gcc (GCC) 9.3.0, GNU ld (GNU Binutils) 2.34.0.20200220) #1 SMP Fri Jan 27 02:56:13 UTC 2023":      2,
		"Linux version 4.19.128-microsoft-standard (oe-user@oe-host) (gcc version 8.2.0 (GCC)) #1 SMP Tue Jun 23 12:58:10 UTC 2020":                                                             2,
		"Linux version 6.1.0-18-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1 (2024)": 0,
		"": 0,
	} {
		if got := wslVersion(text); got != want {
			t.Errorf("wslVersion(%q) = %d; want %d", text, got, want)
		}
	}
	m := &machine{version: "Linux version 4.4.0-19041-Microsoft (Microsoft@Microsoft.com)"}
	r := m.wsl()
	if r.State != StateMissing || !strings.Contains(r.Remedy[0].In("en"), "wsl --set-version") {
		t.Errorf("WSL 1 gives %+v; want it missing, with a remedy", r)
	}
	if got := blocks(r, []*course.Lab{{Number: 1, Slug: "pid"}}); !slices.Equal(got, []string{"01-pid"}) {
		t.Errorf("WSL 1 blocks %q; want every lab, whatever it needs", got)
	}
}

func TestKernelVersion(t *testing.T) {
	for _, tt := range []struct {
		release string
		want    [2]int
		ok      bool
		state   State
		lacks   string
	}{
		{"6.18.44-fc-v669", [2]int{6, 18}, true, StateOK, ""},
		{"5.15.0-1-amd64", [2]int{5, 15}, true, StateOK, ""},
		{"5.14.0-427.el9.x86_64", [2]int{5, 14}, true, StateNote, ""},
		{"5.10.0-28-amd64", [2]int{5, 10}, true, StateNote, "overlay in user namespaces, mount_setattr(2), cgroup.kill"},
		{"5.4.0-150-generic", [2]int{5, 4}, true, StateNote, "time namespaces"},
		{"4.18.0-513.el8", [2]int{4, 18}, true, StateNote, "fsopen(2)"},
		{"6.9-rc1", [2]int{6, 0}, false, StateOK, ""},
		{"7.0+", [2]int{7, 0}, true, StateOK, ""},
		{"odd", [2]int{}, false, StateOK, ""},
	} {
		got, ok := kernelVersion(tt.release)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("kernelVersion(%q) = %v, %v; want %v, %v", tt.release, got, ok, tt.want, tt.ok)
		}
		r := (&machine{release: tt.release}).kernel()
		if r.State != tt.state || !strings.Contains(r.Found.In("en"), tt.lacks) {
			t.Errorf("kernel %s: %s, %q; want %s, with %q", tt.release, r.State, r.Found.In("en"), tt.state, tt.lacks)
		}
	}
}

func TestDetectNesting(t *testing.T) {
	for _, tt := range []struct {
		name string
		e    evidenceOfNesting
		want string
	}{
		{"nothing", evidenceOfNesting{rootType: "ext4"}, ""},
		{"docker", evidenceOfNesting{files: []string{"/.dockerenv"}, cgroup: "0::/", rootType: "overlay"}, "docker"},
		{"docker, v1", evidenceOfNesting{cgroup: "4:memory:/docker/1f2e3d4c\n0::/system.slice/containerd.service"}, "docker"},
		{"podman", evidenceOfNesting{files: []string{"/run/.containerenv"}, environ: "container=podman\x00HOME=/root"}, "podman"},
		{"lxc", evidenceOfNesting{environ: "TERM=linux\x00container=lxc\x00"}, "lxc"},
		{"nspawn", evidenceOfNesting{environ: "container=systemd-nspawn\x00", manager: "systemd-nspawn"}, "systemd-nspawn"},
		{"nspawn seen by a user", evidenceOfNesting{manager: "systemd-nspawn"}, "systemd-nspawn"},
		{"pod", evidenceOfNesting{kubelet: true, files: []string{"/.dockerenv"}}, "kubernetes"},
		{"kubepods", evidenceOfNesting{cgroup: "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-1.scope"}, "kubernetes"},
		{"live CD or gVisor", evidenceOfNesting{rootType: "overlay"}, "?"},
		{"a similar word", evidenceOfNesting{environ: "xcontainer=lxc\x00container=\x00"}, ""},
		{"VM made of an image", evidenceOfNesting{files: []string{"/.dockerenv"}, rootType: "ext4", first: true}, ""},
		{"live CD", evidenceOfNesting{rootType: "overlay", first: true}, ""},
	} {
		if got := detectNesting(tt.e); got.kind != tt.want {
			t.Errorf("%s: detectNesting = %+v; want %q", tt.name, got, tt.want)
		}
	}
}

func TestFamily(t *testing.T) {
	for text, want := range map[string]string{
		"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n": "debian",
		"ID=ubuntu\nID_LIKE=debian\n":                                 "debian",
		"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n":              "fedora",
		"NAME=\"Fedora Linux\"\nID=fedora\n":                          "fedora",
		"ID=alpine\n":                                                 "",
		"":                                                            "",
	} {
		if got := family(text); got != want {
			t.Errorf("family(%q) = %q; want %q", text, got, want)
		}
	}
}

// TestUsernsRemedy: what forbids user namespaces differs from one distribution to the next, and so does the remedy.
func TestUsernsRemedy(t *testing.T) {
	refused := answer{Call: "clone(CLONE_NEWNS|CLONE_NEWUSER|SIGCHLD)", Errno: syscall.EPERM}
	for _, tt := range []struct {
		name    string
		m       machine
		sysctls map[string]string
		want    string
	}{
		{"Debian's switch", machine{uid: 1000}, map[string]string{"kernel.unprivileged_userns_clone": "0"},
			"sudo sysctl -w kernel.unprivileged_userns_clone=1"},
		{"Ubuntu's AppArmor", machine{uid: 1000}, map[string]string{
			"kernel.unprivileged_userns_clone": "1", "kernel.apparmor_restrict_unprivileged_userns": "1",
		}, "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
		{"a hardened machine", machine{}, map[string]string{"user.max_user_namespaces": "0"},
			"sysctl -w user.max_user_namespaces=10000"},
		{"Docker's seccomp filter", machine{nest: nesting{"docker", ""}, filtered: true}, nil, "docker run --privileged"},
		{"a filter of somebody else", machine{uid: 1000, filtered: true}, nil, "sudo nslab"},
	} {
		tt.m.sysctl = func(name string) (string, bool) { v, ok := tt.sysctls[name]; return v, ok }
		got := tt.m.allowUserns(refused)
		if !slices.ContainsFunc(got, func(m Message) bool { return strings.Contains(m.In("en"), tt.want) }) {
			t.Errorf("%s: remedies %v; want %q", tt.name, texts(got, "en"), tt.want)
		}
	}
}

func texts(list []Message, lang string) (out []string) {
	for _, m := range list {
		out = append(out, m.In(lang))
	}
	return out
}

func TestBlocks(t *testing.T) {
	all := []*course.Lab{
		{Number: 1, Slug: "pid", Needs: []course.Need{course.NeedRootOrUserns, course.NeedPIDNS}},
		{Number: 3, Slug: "cgroups", Needs: []course.Need{course.NeedRootOrUserns, course.NeedCgroupCPU}},
	}
	for _, tt := range []struct {
		r    Result
		want []string
	}{
		{Result{ID: "ns.pid", State: StateMissing}, []string{"01-pid"}},
		{Result{ID: "ns.pid", State: StateOK}, []string{}},
		{Result{ID: "cgroup.cpu", State: StateMissing}, []string{"03-cgroups"}},
		{Result{ID: "privilege", State: StateMissing}, []string{"01-pid", "03-cgroups"}},
		{Result{ID: "mount.fuse", State: StateMissing}, []string{}},
		{Result{ID: "cgroup.cpu", State: StateNote}, []string{}},
	} {
		if got := blocks(tt.r, all); !slices.Equal(got, tt.want) {
			t.Errorf("blocks(%s, %s) = %q; want %q", tt.r.ID, tt.r.State, got, tt.want)
		}
	}
	results := []Result{{ID: "cgroup.cpu", Blocks: []string{"03-cgroups"}}, {ID: "ns.pid"}}
	if got := Blocked(results, all); !slices.Equal(got, []string{"03-cgroups"}) {
		t.Errorf("Blocked = %q; want 03-cgroups only", got)
	}
}
