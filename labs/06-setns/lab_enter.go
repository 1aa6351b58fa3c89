package setns

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// handles: the files in which the kernel shows the namespaces of a process.
func handles(t *course.T) error {
	box, _, err := newContainer(t.Context(), t)
	if err != nil {
		return err
	}
	var link string
	for _, k := range Kinds() {
		if link, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", box.Pid(), k.Name)); err != nil {
			continue // this kernel does not have the kind
		}
		ours := strings.TrimPrefix(inode(os.Getpid(), k.Name), k.Name+":")
		t.See("/proc/%s/ns/%s → %s · ours: %s", str(box.Pid()), fmt.Sprintf("%-6s", k.Name), link, ours)
	}
	t.Equal(inode(box.Pid(), "uts"), link, "the number in the link is the inode of the file behind it")
	same, different := shared(os.Getpid(), box.Pid())
	t.Equal("ipc net mnt pid uts", words(different), "five namespaces are the container's own")
	t.Check(strings.Contains(words(same), "user"), "user among them", words(same), "the others are ours as well")
	return nil
}

// onlyNetwork: enter one namespace, and see other interfaces but the same everything else.
func onlyNetwork(t *course.T) error {
	box, target, err := newContainer(t.Untraced(), t)
	if err != nil {
		return err
	}
	p, said, err := enter(essential(t), t, Config{Target: target, Namespaces: unix.CLONE_NEWNET},
		`while IFS=: read -r name rest; do case $rest in ?*) printf '%s ' $name;; esac; done < /proc/net/dev; echo`)
	if err != nil {
		return err
	}
	ours, err := devices(os.Getpid())
	if err != nil {
		return err
	}
	its, err := devices(box.Pid())
	if err != nil {
		return err
	}
	joined, err := devices(p.Pid)
	if err != nil {
		return err
	}
	t.See("interfaces out here, in /proc/net/dev: %s", ours)
	t.See("what the program in the container's network reads there: %s", said)
	t.See("/proc/%s/net/dev, the program's, read from outside: %s", str(p.Pid), joined)
	t.See("/proc/%s/ns/net → %s · the container's: %s · ours: %s",
		str(p.Pid), inode(p.Pid, "net"), inode(box.Pid(), "net"), inode(os.Getpid(), "net"))
	t.Equal(its, joined, "its interfaces are the container's")
	t.Equal(joined, strings.TrimSpace(said), "and that is what the program itself sees")
	if len(strings.Fields(ours)) > len(strings.Fields(its)) {
		t.Check(len(strings.Fields(joined)) < len(strings.Fields(ours)), "fewer than "+ours, joined, "they are fewer than out here")
	} else {
		t.See("out here there is nothing but %s either, so they are not fewer", ours)
	}
	t.Equal(inode(box.Pid(), "net"), inode(p.Pid, "net"), "the kernel has the same inode for both: it is one namespace")
	_, different := shared(os.Getpid(), p.Pid)
	t.Equal("net", words(different), "all its other namespaces are still ours")
	return nil
}

// devices lists the network devices in the network namespace of a process.
func devices(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	var names []string
	for line := range strings.Lines(string(data)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return words(names), err
}

// everything: all namespaces in one call.
func everything(t *course.T) error {
	box, target, err := newContainer(t.Untraced(), t)
	if err != nil {
		return err
	}
	p, said, err := enter(essential(t), t, Config{Target: target, Namespaces: All}, "read -r name < /proc/sys/kernel/hostname; echo $$ $name")
	if err != nil {
		return err
	}
	same, different := shared(box.Pid(), p.Pid)
	numbers, err := evidence.Status(p.Pid, "NSpid")
	if err != nil {
		return err
	}
	parent, err := evidence.Status(p.Pid, "PPid")
	if err != nil {
		return err
	}
	inside, err := evidence.Pids(evidence.Inside(box.Pid(), "/proc"))
	if err != nil {
		return err
	}
	number, name, _ := strings.Cut(said, " ")
	t.See("in common with the container: %s; not in common: %s", words(same), words(different))
	t.See("the program says that its number is %s and its host's name %s", number, name)
	t.See("out here: NSpid %s, and its parent is process %s: nslab", numbers, parent)
	t.See("the container's own /proc, read through /proc/%s/root/proc, lists: %s", str(box.Pid()), fmt.Sprint(inside))
	t.Equal("–", words(different), "every namespace of the container is the program's")
	t.Equal("box", name, "so it finds the container's host name")
	t.Equal(fmt.Sprintf("%d %s", p.Pid, number), lastTwo(numbers), "it has a number in the container, and one out here")
	t.Check(strings.Contains(fmt.Sprint(inside), number) && number != "1", "it beside PID 1", fmt.Sprint(inside), "the container sees it come")
	t.Equal(os.Getpid(), parent, "yet it is nslab's child, not the container's")
	return nil
}

func lastTwo(numbers string) string {
	f := strings.Fields(numbers)
	return strings.Join(f[max(0, len(f)-2):], " ")
}

// oneThread: what a program with threads cannot enter, a child with one can.
func oneThread(t *course.T) error {
	host := uint32(100000) // an id that no account has, as container engines use them
	if t.InUserNamespace() {
		host = 0 // an ordinary user can map only itself, and is mapped to 0 here already
	}
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: 1}}
	box, err := pid.NewBox(t.Untraced(), t, pid.Config{
		Namespaces: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UIDMappings: mapping, GIDMappings: mapping,
	})
	if err != nil {
		return err
	}
	target, err := hold(t.Untraced(), t, box.Pid())
	if err != nil {
		return err
	}
	threads, err := evidence.Status(os.Getpid(), "Threads")
	if err != nil {
		return err
	}
	t.See("/proc/%s/status, which is nslab: Threads: %s", str(os.Getpid()), threads)
	for _, k := range order(unix.CLONE_NEWUSER|unix.CLONE_NEWNS, false) {
		err := onThisThread(t, target, k)
		t.See("nslab itself enters the %s namespace: %s", k.Name, evidence.Answer(err))
		if k.Name == "user" {
			t.Diagnose(err)
			t.Equal("EINVAL", evidence.Answer(err), "a thread of several may not have a user namespace of its own")
		} else {
			t.Equal("EINVAL", evidence.Answer(err), "nor a mount namespace, with a root that the others share")
		}
	}
	before, _ := shared(os.Getpid(), box.Pid())
	p, said, err := enter(essential(t), t, Config{Target: target, Namespaces: All, Root: true}, `read -r a b c < /proc/self/uid_map; echo $a $b $c`)
	if err != nil {
		return err
	}
	uids, err := evidence.Status(p.Pid, "Uid")
	if err != nil {
		return err
	}
	_, different := shared(box.Pid(), p.Pid)
	t.See("the child with one thread enters both: %s · the container's: %s", inode(p.Pid, "user"), inode(box.Pid(), "user"))
	t.See("its uid_map: %s; its user, seen from out here: %s", said, strings.Fields(uids)[0])
	t.Check(!strings.Contains(words(before), "user"), "not in common", words(before), "nslab itself is still in its own user namespace")
	t.Equal("–", words(different), "the child is in all namespaces of the container, user and mount too")
	t.Equal(fmt.Sprint(host), strings.Fields(uids)[0], "and is its root, which out here is the user it was mapped to")
	return nil
}

// onThisThread tries what does not work: setns by one of the threads of a Go program.
func onThisThread(t *course.T, target *Target, k Kind) error {
	f, err := target.file(t.Untraced(), "ns/"+k.Name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	runtime.LockOSThread()
	err = Setns(t.Context(), f, k.Flag)
	if err != nil {
		runtime.UnlockOSThread() // nothing has changed; else the thread must not be used again
	}
	return err
}

// onlyChildren: setns with a PID namespace moves the children, not the caller.
func onlyChildren(t *course.T) error {
	box, _, err := newContainer(t.Untraced(), t)
	if err != nil {
		return err
	}
	caller, err := pid.NewBox(t.Untraced(), t, pid.Config{})
	if err != nil {
		return err
	}
	if _, err := caller.Call(t.Context(), "06-setns", fmt.Sprintf("/proc/%d/ns/pid", box.Pid())); err != nil {
		return err
	}
	child, err := caller.Call(t.Context(), "06-spawn")
	if err != nil {
		return err
	}
	var born int
	if _, err := fmt.Sscan(child, &born); err != nil {
		return err
	}
	t.Cleanup(box.Kill) // before the caller, which has to wait for the child
	own, err := evidence.Status(caller.Pid(), "NSpid")
	if err != nil {
		return err
	}
	its, err := evidence.Status(born, "NSpid")
	if err != nil {
		return err
	}
	t.See("the caller, process %s: ns/pid → %s, NSpid %s", str(caller.Pid()), inode(caller.Pid(), "pid"), own)
	t.See("its ns/pid_for_children → %s; the container's ns/pid → %s",
		strings.TrimPrefix(inode(caller.Pid(), "pid_for_children"), "pid_for_children:"), strings.TrimPrefix(inode(box.Pid(), "pid"), "pid:"))
	t.See("its child, process %s: ns/pid → %s, NSpid %s", str(born), inode(born, "pid"), its)
	t.Equal(inode(os.Getpid(), "pid"), inode(caller.Pid(), "pid"), "the caller has stayed where it was, with its number")
	t.Equal(strings.TrimPrefix(inode(box.Pid(), "pid"), "pid:"),
		strings.TrimPrefix(inode(caller.Pid(), "pid_for_children"), "pid_for_children:"), "only its children are meant")
	t.Equal(inode(box.Pid(), "pid"), inode(born, "pid"), "the child is born in the container's PID namespace")
	t.Equal(len(strings.Fields(own))+1, len(strings.Fields(its)), "and has one number more than its parent")
	return nil
}
