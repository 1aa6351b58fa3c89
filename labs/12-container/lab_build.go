package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/walker"
)

// milestones are the calls that are shown of the many: the first of each kind, in the order in which they must come.
var milestones = []struct {
	name string
	ways []way // one of these
}{
	{"clone", []way{{"labs/01-", "clone("}}},
	{"group", []way{{"labs/03-", "mkdir("}}}, // in v2 this comes first: the process is born in it
	{"private", []way{{"labs/02-", `mount("", "/", "", MS_REC|MS_PRIVATE`}}},
	{"union", []way{{"labs/05-", ""}}},
	{"proc", []way{{"labs/01-", `mount("proc"`}, {"labs/04-rootfs/container.go", "move_mount("}}}, // made by itself, or for it
	{"volume", []way{{"labs/07-", "openat2("}}},
	{"hostname", []way{{"labs/12-", "sethostname("}}},
	{"mask", []way{{"labs/10-", "move_mount("}}},
	{"root", []way{{"labs/04-", "pivot_root("}}},
	{"capabilities", []way{{"labs/10-", "capset("}}},
	{"filter", []way{{"labs/10-", "seccomp("}}},
}

// way is a call, and where it stands.
type way struct{ at, call string }

// stage sums up the calls that stand in one lab.
type stage struct {
	lab   string
	calls int
	took  time.Duration
	names []string // the calls, each once, in the order of their first
}

// story listens to the calls that a container takes, wherever they are made.
type story struct {
	stages []*stage
	passed []string // milestones, in the order in which they came
	show   func(trace.Record)
}

func (s *story) hear(r trace.Record) {
	for _, m := range milestones {
		is := func(w way) bool { return strings.HasPrefix(r.At, w.at) && strings.HasPrefix(r.Text, w.call) }
		if slices.ContainsFunc(m.ways, is) && !slices.Contains(s.passed, m.name) {
			s.passed = append(s.passed, m.name)
			s.show(r)
		}
	}
	lab, _, _ := strings.Cut(strings.TrimPrefix(r.At, "labs/"), "/") // "labs/02-mount/newapi.go:151"
	i := slices.IndexFunc(s.stages, func(x *stage) bool { return x.lab == lab })
	if i < 0 {
		i = len(s.stages)
		s.stages = append(s.stages, &stage{lab: lab})
	}
	x := s.stages[i]
	x.calls++
	x.took += r.Took
	name, _, _ := strings.Cut(r.Text, "(")
	name, _, _ = strings.Cut(name, " ")
	if !slices.Contains(x.names, name) {
		x.names = append(x.names, name)
	}
}

// stages: one container, and what of it comes from which lab.
func stages(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	spec, err := specFor(t, p, "sh", "-c", `echo $$; exec sleep 1000`)
	if err != nil {
		return err
	}
	data := filepath.Join(p.disk, "data")
	if err := makeFolders(data, filepath.Join(p.init, "data")); err != nil {
		return err
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Type: "bind", Source: data, Destination: "/data", Options: []string{"rbind"}})
	shown := t.Context()
	s := &story{show: func(r trace.Record) { trace.Replay(shown, r) }}
	begin := time.Now()
	c, out, err := run(trace.With(t.Untraced(), s.hear), t, configFor(t, p, spec))
	took := time.Since(begin)
	if err != nil {
		return err
	}
	calls, inside := 0, time.Duration(0)
	for _, x := range s.stages {
		t.See("lab %s · calls: %s · %s: %s", x.lab, str(x.calls), span(x.took), strings.Join(x.names, " "))
		calls, inside = calls+x.calls, inside+x.took
	}
	t.See("together %s calls, %s in the kernel; from the first to the running program %s", str(calls), span(inside), span(took))
	want := []string{}
	for _, m := range milestones {
		if m.name == "group" && spec.Linux.CgroupsPath == "" {
			continue
		}
		want = append(want, m.name)
	}
	if len(s.passed) > 1 {
		slices.Sort(s.passed[:2])
	}
	t.Equal(strings.Join(want, " "), strings.Join(s.passed, " "), "each stage has come, and in its order")
	t.Equal(fileID(data), fileID(in(c.Pid, "/data")), "the folder of the host is there as a volume")
	return madeWhole(t, c, out)
}

// madeWhole looks at what has come of all those calls.
func madeWhole(t *course.T, c *Container, out *listener) error {
	said := out.line()
	only := "[1 sleep]"
	t.Await(soon, func() bool { return fmt.Sprint(relatives(c.Pid)) == only }) // it has said its number as a shell
	number := status(c.Pid, "NSpid")
	name, err := nodeName(t.Untraced(), c.Pid)
	if err != nil {
		return err
	}
	t.See("the last call is in no list, for nobody is left to tell of it: /proc/%s/exe → %s", str(c.Pid), program(c.Pid))
	t.See("NSpid %s; its own /proc lists: %s; its host's name: %s; namespaces of its own: %s",
		number, fmt.Sprint(relatives(c.Pid)), name, differing(os.Getpid(), c.Pid))
	t.Check(strings.HasSuffix(number, " 1") && said == "1", "1 and 1", lastOf(number)+" and "+said, "inside it is number 1, as the kernel and the program say")
	t.Equal(only, fmt.Sprint(relatives(c.Pid)), "it sees no process but itself")
	t.Equal(hostname, name, "it has a host name of its own")
	t.Equal("cgroup ipc mnt net pid uts", differing(os.Getpid(), c.Pid), "and the six namespaces that were asked for")
	if c.Group != nil {
		t.See("/proc/%s/cgroup: %s", str(c.Pid), groupLine(c.Pid, "pids"))
		t.Check(strings.Contains(groupLine(c.Pid, "pids"), t.Name()), t.Name(), groupLine(c.Pid, "pids"), "it is in its own control group")
	} else {
		t.See("it has no control group: an ordinary user may make none here (%s)", noGroup(t).Error())
	}
	return visit(t, c)
}

func lastOf(words string) string { return words[strings.LastIndexByte(words, ' ')+1:] }

// groupLine is the line of /proc/PID/cgroup for a controller: that of v1's hierarchy, or v2's.
func groupLine(pid int, controller string) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return evidence.Answer(err)
	}
	unified := ""
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && slices.Contains(strings.Split(f[1], ","), controller) {
			return strings.TrimSpace(line)
		}
		if len(f) == 3 && f[0] == "0" {
			unified = strings.TrimSpace(line)
		}
	}
	return unified
}

// initBecomes: the same process, before and after execve.
func initBecomes(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	spec, err := specFor(t, p, "sleep", "1000")
	if err != nil {
		return err
	}
	c, err := create(t.Untraced(), t, configFor(t, p, spec))
	if err != nil {
		return err
	}
	fields := []string{"CapEff", "Seccomp", "NoNewPrivs", "Threads", "CapBnd"}
	see := func() (ours bool, values []string, born uint64) {
		comm, _ := evidence.Command(c.Pid)
		_, born, _ = readStat(c.Pid)
		var list []string
		for _, f := range fields {
			values = append(values, status(c.Pid, f))
			list = append(list, f+" "+status(c.Pid, f))
		}
		t.See("process %s: exe → %s, file %s, comm %s, %s", str(c.Pid), program(c.Pid), fileID(fmt.Sprintf("/proc/%d/exe", c.Pid)), comm, strings.Join(list, ", "))
		return isNslab(c.Pid) || strings.HasPrefix(program(c.Pid), "/memfd:"+walker.Name), values, born
	}
	t.See("nslab's own file: %s", fileID("/proc/self/exe"))
	t.See("all is arranged; the program is not there yet:")
	before, rights, born := see()
	if err := c.Start(only(t, "chdir", "setgroups", "setresgid", "setresuid", "capset", "prctl(PR_SET_NO_NEW_PRIVS", "seccomp")); err != nil {
		return err
	}
	t.See("execve, and then:")
	after, left, still := see()
	t.Check(before, "nslab", program(c.Pid), "before, the file that it executes is nslab's")
	image := in(c.Pid, program(c.Pid))
	t.Check(!after && fileID(fmt.Sprintf("/proc/%d/exe", c.Pid)) == fileID(image), fileID(image),
		fileID(fmt.Sprintf("/proc/%d/exe", c.Pid)), "after, it is the program of the image")
	t.Equal(born, still, "it is the same process: it was started at the same tick")
	t.Check(lastOf(status(c.Pid, "NSpid")) == "1", "1", lastOf(status(c.Pid, "NSpid")), "and number 1 inside")
	t.Check(rights[0] != left[0], "another than "+rights[0], left[0], "the capabilities are fewer")
	t.Equal(left[0], left[4], "and so is the bounding set, beyond which nobody gets")
	t.Equal("0 2", rights[1]+" "+left[1], "from no seccomp filter to one")
	t.Equal("0 1", rights[2]+" "+left[2], "and no program can bring rights back")
	t.Equal("1", left[3], "it has one thread, and that is the program's")
	return visit(t, c)
}

// threeLayers: which branch holds which file, and who sees them as one.
func threeLayers(t *course.T) error {
	p, err := newPlace(t)
	if err != nil {
		return err
	}
	if err := makeFolders(filepath.Join(p.image, "etc")); err != nil {
		return err
	}
	for name, content := range map[string]string{"hosts": "the image's\n", "motd": "old\n", "gone": "old\n"} {
		if err := os.WriteFile(filepath.Join(p.image, "etc", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	spec, err := specFor(t, p, "sh", "-c", `cd /etc; echo mine > mine; echo new >> motd; rm gone; echo done; exec sleep 1000`)
	if err != nil {
		return err
	}
	shown := t.Context()
	ctx := trace.With(t.Untraced(), func(r trace.Record) {
		if strings.HasPrefix(r.At, "labs/05-") || strings.Contains(r.Text, "lowerdir") || strings.Contains(r.Text, "upperdir") {
			trace.Replay(shown, r)
		}
	})
	c, out, err := run(ctx, t, configFor(t, p, spec))
	if err != nil {
		return err
	}
	if said := out.line(); said != "done" {
		return fmt.Errorf("the program says %q", said)
	}
	etc := func(layer string) string { return filepath.Join(layer, "etc") }
	t.See("the image, read-only: etc has %s", names(etc(p.image)))
	t.See("the init layer, read-only: etc has %s", names(etc(p.init)))
	t.See("the read-write layer: etc has %s; at its top: %s", names(etc(p.upper)), names(p.upper))
	t.See("and the container: etc has %s", names(in(c.Pid, "/etc")))
	return seeLayers(t, p, c)
}

// seeLayers compares the branches with what the container sees, and the mount tables with each other.
func seeLayers(t *course.T, p place, c *Container) error {
	t.Equal(text(filepath.Join(p.init, "etc/hosts")), text(in(c.Pid, "/etc/hosts")), "hosts is that of the init layer, which hides the image's")
	t.Equal("the image's", text(filepath.Join(p.image, "etc/hosts")), "the image's own is as it was")
	t.Equal("old new, old", text(filepath.Join(p.upper, "etc/motd"))+", "+text(filepath.Join(p.image, "etc/motd")),
		"what was changed lies in the read-write layer, and the image still has the old")
	t.Equal("0:0", whiteout(filepath.Join(p.upper, "etc/gone")), "what was deleted is a whiteout there")
	t.Equal("etc", names(p.upper), "and what the runtime has made is not there: a commit does not take it")

	table, err := mount.TableOf(c.Pid)
	if err != nil {
		return err
	}
	root := mount.Entry{}
	for _, e := range table {
		if e.Target == "/" {
			root = e
		}
	}
	host, err := t.HostMounts()
	if err != nil {
		return err
	}
	lines := len(slices.DeleteFunc(host, func(line string) bool { return !strings.Contains(line, p.disk) }))
	t.See("on / in the container's mount table: %s; mounts on the same folder here: %s", root.FSType, str(mountsAt(os.Getpid(), p.root)))
	t.See("its branches there, the topmost first: %s", branches(root.SuperOptions))
	t.Equal("upper init image", branches(root.SuperOptions), "three kinds of branches, in this order, are what the container has for its root")
	t.Equal(0, mountsAt(os.Getpid(), p.root), "it is in the container's table only")
	t.Equal(0, lines, "and no line of the host's table is about it")
	t.Equal("–", names(p.root), "out here the folder is empty")
	return visit(t, c)
}

// branches are the names of an overlay's folders, as the mount table has them.
func branches(options string) string {
	var list []string
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch strings.TrimSuffix(key, "+") {
		case "lowerdir":
			for dir := range strings.SplitSeq(value, ":") {
				list = append(list, filepath.Base(dir))
			}
		case "upperdir":
			list = slices.Insert(list, 0, filepath.Base(value))
		}
	}
	return words(list)
}

// whiteout is the device number of a character device, which is how overlay marks a deleted file: 0:0.
func whiteout(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return evidence.Answer(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return "no device"
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}
