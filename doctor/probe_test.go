package doctor

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/labs"
	pid "github.com/nslab/nslab/labs/01-pid"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
)

// TestBroken breaks one thing for real and wants to hear of it, with the call that was refused and what to do. A patient
// in a user namespace lacks some things to begin with (the host's control groups), which are compared with.
func TestBroken(t *testing.T) {
	t.Parallel()
	healthy := patient(t)
	for _, tt := range []struct {
		ailing []string
		id     string
		found  string // part of the evidence
		remedy string // part of a remedy
	}{
		{[]string{"no-pid-ns"}, "ns.pid", "→ ENOSPC", "sysctl -w user.max_pid_namespaces=10000"},
		{[]string{"no-user-ns"}, "ns.user", "→ ENOSPC", "sysctl -w user.max_user_namespaces=10000"},
		{[]string{"no-user-ns", "no-sys-admin"}, "privilege", "→ ENOSPC", "sysctl -w user.max_user_namespaces=10000"},
		{[]string{"no-net-admin"}, "net.veth", "RTM_NEWLINK(nslab0, veth, peer nslab1) → EPERM", "capabilities"},
		{[]string{"no-net-admin"}, "net.bridge", "ip link add \"nslab2\" type \"bridge\") → EPERM", "capabilities"},
		{[]string{"no-net-admin"}, "net.nftables", "NFT_MSG_NEWTABLE(inet nslab-doctor) → EPERM", "capabilities"},
		{[]string{"bare-dev"}, "mount.fuse", `open("/dev/fuse", O_RDWR) → ENOENT`, "modprobe fuse"},
		{[]string{"state-ro"}, "mount.overlay", "→ EROFS", "NSLAB_ROOT="},
		{[]string{"state-hangs"}, "mount.overlay", "did not come back", ""},
		{[]string{"cgroups-hidden"}, "cgroup.memory", "no mounted hierarchy has the controller", "mount -t cgroup2"},
	} {
		t.Run(strings.Join(tt.ailing, "+")+"/"+tt.id, func(t *testing.T) {
			t.Parallel()
			if _, before := healthy[tt.id]; before && !strings.HasPrefix(tt.id, "cgroup.") {
				t.Fatalf("%s is missing in a healthy patient: %+v", tt.id, healthy[tt.id])
			}
			r, ok := patient(t, tt.ailing...)[tt.id]
			if !ok {
				t.Fatalf("%s is not reported", tt.id)
			}
			if r.OK || !strings.Contains(r.Found, tt.found) {
				t.Errorf("%s: found %q; want %q in it", tt.id, r.Found, tt.found)
			}
			if tt.remedy != "" && !slices.ContainsFunc(r.Remedy, func(s string) bool { return strings.Contains(s, tt.remedy) }) {
				t.Errorf("%s: remedies %q; want one with %q", tt.id, r.Remedy, tt.remedy)
			}
			if !slices.Equal(r.Blocks, []string{"99-everything"}) {
				t.Errorf("%s: blocks %q", tt.id, r.Blocks)
			}
		})
	}
}

// TestHang: a probe that hangs is a finding, and the others are done all the same.
func TestHang(t *testing.T) {
	coursetest.NeedRoot(t)
	t.Parallel()
	cmd := pid.Command(pid.Config{
		Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWUSER, UIDMappings: mapping(0), GIDMappings: mapping(0),
	}, hangEntry, t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers map[string]answer
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatal(err)
	}
	if a := answers["mount.overlay"]; a.Wrong != wrongHang {
		t.Errorf("overlay on a file system that never answers: %+v", a)
	}
	if a, ok := answers["net.veth"]; !ok || !a.ok() {
		t.Errorf("the probe after it: %+v", a)
	}
}

// TestUnwritableCgroups does as container engines do, without a user namespace in between.
func TestUnwritableCgroups(t *testing.T) {
	coursetest.NeedRoot(t)
	missing := rootPatient(t, "cgroups-ro")
	for _, id := range controllerIDs() {
		r, ok := missing[id]
		if !ok || !strings.Contains(r.Found, "EROFS") || len(r.Remedy) == 0 || !strings.Contains(r.Remedy[0], "remount,rw") {
			t.Errorf("%s with read-only control groups: %+v", id, r)
		}
	}
}

// TestHealthy: on a machine on which the suite runs as root, the needs of every lab are there, and those of later ones.
func TestHealthy(t *testing.T) {
	coursetest.NeedRoot(t)
	t.Setenv("NSLAB_RUN_ROOT", t.TempDir())
	t.Setenv("NSLAB_ROOT", t.TempDir())
	for _, l := range append(labs.All(), everything()) {
		for _, r := range Missing(l, course.RunRoot("")) {
			t.Errorf("lab %s: %s is missing: %s", l.Name(), r.ID, r.Found.In("en"))
		}
	}
}

// TestStepDown: as root, user namespaces are tried as somebody who may not do more than anybody.
func TestStepDown(t *testing.T) {
	coursetest.NeedRoot(t)
	answers := room{stepDown: true}.ask(context.Background(), request{Probes: []string{overlayUser}})
	r := answers["room"]
	if !r.ok() || len(r.Facts) != 2 || r.Facts[1] != "0 65534 1" {
		t.Errorf("room of an ordinary user: %+v; want its root mapped to 65534", r)
	}
	if a, ok := answers[overlayUser]; !ok || !a.ok() {
		t.Errorf("%s: %+v", overlayUser, a)
	}
}

func TestEveryNeedHasAProbe(t *testing.T) {
	for _, l := range append(labs.All(), everything()) {
		for _, need := range l.Needs {
			id := string(need)
			if !slices.Contains(slices.Concat(vital, roomProbes, controllerIDs(), []string{"mount.overlay"}), id) {
				t.Errorf("lab %s needs %q, which has no probe", l.Name(), id)
			}
		}
	}
	l := &course.Lab{Number: 98, Slug: "wishful", Needs: []course.Need{"ns.dream"}}
	if missing := Missing(l, course.RunRoot("")); len(missing) != 1 || missing[0].ID != "ns.dream" {
		t.Errorf("Missing with an unknown need = %+v; want it to be missing", missing)
	}
}

// TestScratchOfTheKilled: what a killed doctor left in its folder is removed by the next one; what is not ours is not.
func TestScratchOfTheKilled(t *testing.T) {
	base := t.TempDir()
	top := filepath.Join(base, scratchName)
	left := filepath.Join(top, "left", "upper", "file")
	if err := os.MkdirAll(filepath.Dir(left), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, release, err := scratch(base)
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := sweep(base); err != nil || len(removed) > 0 {
		t.Errorf("sweep took %q from a doctor that lives, %v", removed, err)
	}
	if entries, err := os.ReadDir(top); err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(dir) {
		t.Errorf("%s holds %v, %v; want the new one only", top, entries, err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(top); !os.IsNotExist(err) {
		t.Errorf("after release: %v; want no folder", err)
	}
	if err := os.Symlink("/etc", top); err != nil {
		t.Fatal(err)
	}
	if _, _, err := scratch(base); err == nil {
		t.Error("scratch went through a link")
	}
}

// TestClean: what a killed doctor journalled is undone, what a living one has is not.
func TestClean(t *testing.T) {
	coursetest.NeedRoot(t)
	root, state := t.TempDir(), t.TempDir()
	t.Setenv("NSLAB_ROOT", filepath.Join(state, "not", "there"))
	s, err := cgroups.Discover()
	if err != nil {
		t.Fatal(err)
	}
	make := func() (*journal, string) {
		j, err := openJournal(root)
		if err != nil {
			t.Fatal(err)
		}
		g, err := s.Plan(j.groupName(), "pids")
		if err != nil {
			t.Fatal(err)
		}
		for _, thing := range g.Things() {
			if _, err := j.begin(thing); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Create(context.Background()); err != nil {
			t.Fatal(err)
		}
		return j, g.Dir("pids")
	}
	living, kept := make()
	killed, left := make()
	killed.file.Close() // as the kernel would, and with it the lock
	if err := os.MkdirAll(filepath.Join(state, scratchName, "left", "work"), 0o700); err != nil {
		t.Fatal(err)
	}
	undone, err := Clean(root)
	if want := []string{"cgroup " + left, "folder " + filepath.Join(state, scratchName, "left")}; err != nil || !slices.Equal(undone, want) {
		t.Errorf("Clean = %q, %v; want %q", undone, err, want)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the group of the killed one: %v; want it gone", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the group of the living one: %v", err)
	}
	if err := living.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("after close: %v; want the group gone", err)
	}
	if entries, _ := os.ReadDir(root); len(entries) > 0 {
		t.Errorf("the run root still holds %v", entries)
	}
}

// TestManyAtOnce: doctors that share a run root and a state folder do not take each other's things.
func TestManyAtOnce(t *testing.T) {
	coursetest.NeedRoot(t)
	t.Setenv("NSLAB_RUN_ROOT", t.TempDir())
	t.Setenv("NSLAB_ROOT", t.TempDir())
	l := &course.Lab{Number: 97, Slug: "shared", Needs: []course.Need{"cgroup.pids", "cgroup.memory", "mount.overlay"}}
	found := make(chan []Result)
	const doctors = 16
	for range doctors {
		go func() { found <- Missing(l, course.RunRoot("")) }()
	}
	for range doctors {
		for _, r := range <-found {
			t.Errorf("%s is missing: %s", r.ID, r.Found.In("en"))
		}
	}
}

func TestLeftovers(t *testing.T) {
	root := t.TempDir()
	if r := leftovers(root); r.State != StateOK {
		t.Errorf("nothing there: %s, %s", r.State, r.Found.In("en"))
	}
	run := filepath.Join(root, "labs", "3f9c-0001")
	if err := os.MkdirAll(run, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(run, ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if r := leftovers(root); r.State != StateNote || !strings.Contains(r.Found.In("en"), "3f9c-0001") ||
		!slices.Equal(texts(r.Remedy, "en"), []string{"nslab clean"}) {
		t.Errorf("a run that is over: %+v", r)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if r := leftovers(root); r.State != StateOK {
		t.Errorf("a run that goes on: %s, %s", r.State, r.Found.In("en"))
	}
	if err := os.WriteFile(filepath.Join(run, ".kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := leftovers(root); r.State != StateNote || !strings.Contains(r.Found.In("en"), "--keep") {
		t.Errorf("a run that was kept: %s, %s", r.State, r.Found.In("en"))
	}
}

// TestLeftGroup: a group without a run is found by its name.
func TestLeftGroup(t *testing.T) {
	coursetest.NeedRoot(t)
	root := t.TempDir()
	s, err := cgroups.Discover()
	if err != nil {
		t.Fatal(err)
	}
	g, err := s.Plan("nslab-03-"+course.IDPrefix(root)+"0001", "pids")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Create(context.Background()); err != nil {
		t.Fatal(err)
	}
	defer g.Delete(context.Background())
	r := leftovers(root)
	if want := "rmdir " + g.Dir("pids"); r.State != StateNote || !slices.Equal(texts(r.Remedy, "en"), []string{want}) {
		t.Errorf("a group that was left: %+v; want the remedy %q", r, want)
	}
}

func TestNearest(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, dir + "/a", dir + "/a/b/c"} {
		if got := nearest(path); got != dir {
			t.Errorf("nearest(%q) = %q; want %q", path, got, dir)
		}
	}
}
