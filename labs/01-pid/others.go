package pid

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
)

// The steps of the other namespaces: one visible effect of each.

// uts: a host name of its own.
func uts(t *course.T) error {
	before, err := os.Hostname()
	if err != nil {
		return err
	}
	name := "box"
	if before == name {
		name = "another-box" // or the effect could not be seen
	}
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWUTS})
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "01-sethostname", name); err != nil {
		return err
	}
	inside, err := box.Call(t.Untraced(), "01-hostname")
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	t.See("uname() in the box: %s; on the host: %s", inside, host)
	t.Equal(name, inside, "the box has its new name")
	t.Equal(before, host, "the host keeps its own")
	return twoSides(t, box, "uts")
}

// ipc: shared memory that the host cannot see.
func ipc(t *course.T) error {
	before, err := segments("/proc/sysvipc/shm")
	if err != nil {
		return err
	}
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWIPC})
	if err != nil {
		return err
	}
	other, err := NewBox(t.Untraced(), t, Config{Namespaces: unix.CLONE_NEWIPC})
	if err != nil {
		return err
	}
	t.Enter(box.Actor)
	if _, err := box.Call(t.Context(), "01-shmget"); err != nil {
		return err
	}
	var inside [2]int
	for i, b := range []*Box{box, other} {
		out, err := b.Call(t.Untraced(), "01-segments")
		if err != nil {
			return err
		}
		if inside[i], err = strconv.Atoi(out); err != nil {
			return err
		}
	}
	host, err := segments("/proc/sysvipc/shm")
	if err != nil {
		return err
	}
	t.See("/proc/sysvipc/shm lists %s segment in the box, %s in a second box, %s on the host",
		strconv.Itoa(inside[0]), strconv.Itoa(inside[1]), strconv.Itoa(host))
	t.Equal(1, inside[0], "the box has its segment")
	t.Equal(0, inside[1], "another IPC namespace has none")
	t.Equal(before, host, "the host has as many as before")
	return twoSides(t, box, "ipc")
}

// segments counts the lines of /proc/sysvipc/shm below its head.
func segments(file string) (int, error) {
	data, err := os.ReadFile(file)
	return max(0, strings.Count(string(data), "\n")-1), err
}

// network: nothing but a loopback that is down.
func network(t *course.T) error {
	box, err := NewBox(t.Context(), t, Config{Namespaces: unix.CLONE_NEWNET})
	if err != nil {
		return err
	}
	inside, err := devices(box.Pid())
	if err != nil {
		return err
	}
	host, err := devices(os.Getpid())
	if err != nil {
		return err
	}
	routes, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/route", box.Pid()))
	if err != nil {
		return err
	}
	up, err := box.Call(t.Untraced(), "01-link-up", "lo")
	if err != nil {
		return err
	}
	t.See("/proc/%s/net/dev: %s; the host's: %s", strconv.Itoa(box.Pid()), strings.Join(inside, " "), strings.Join(host, " "))
	t.See("lo is %s, and the routing table has %s entries", up, strconv.Itoa(max(0, strings.Count(string(routes), "\n")-1)))
	t.Equal("lo", strings.Join(inside, " "), "its only device is lo")
	t.Equal("down", up, "which is down: not even 127.0.0.1 answers")
	return twoSides(t, box, "net")
}

// devices lists the network devices in the network namespace of a process.
func devices(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	var names []string
	for line := range strings.Lines(string(data)) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return names, err
}

// user: root inside, nobody in particular outside.
func user(t *course.T) error {
	host := uint32(100000) // an id that no account has, as container engines use them
	if t.InUserNamespace() {
		host = 0 // an ordinary user can map only itself, and is mapped to 0 here already
	}
	box, err := NewBox(t.Context(), t, Config{
		Namespaces:  unix.CLONE_NEWUSER,
		UIDMappings: mapping(host), GIDMappings: mapping(host),
	})
	if err != nil {
		return err
	}
	idMap, err := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", box.Pid()))
	if err != nil {
		return err
	}
	uids, err := evidence.Status(box.Pid(), "Uid")
	if err != nil {
		return err
	}
	caps, err := evidence.Status(box.Pid(), "CapEff")
	if err != nil {
		return err
	}
	inside, err := box.Call(t.Untraced(), "01-getuid")
	if err != nil {
		return err
	}
	outside := strings.Fields(uids)[0]
	t.See("getuid() in the box: %s; /proc/%s/status out here: Uid %s", inside, strconv.Itoa(box.Pid()), outside)
	t.See("/proc/%s/uid_map: %s (inside, outside, how many)", strconv.Itoa(box.Pid()), strings.Join(strings.Fields(string(idMap)), " "))
	if t.InUserNamespace() {
		own, err := os.ReadFile("/proc/self/uid_map")
		if err != nil {
			return err
		}
		t.See("you are an ordinary user, so nslab itself sits in a user namespace already: its uid_map is %s",
			strings.Join(strings.Fields(string(own)), " "))
	}
	t.Equal("0", inside, "it is root inside")
	t.Equal(fmt.Sprint(host), outside, "and the user we mapped outside")

	_, refusal := box.Call(t.Context(), "01-sethostname", "mine")
	t.See("its effective capabilities are %s, yet the host's name is not its to set: %s", caps, errorText(refusal))
	t.Check(strings.Trim(caps, "0") != "", "not 0", caps, "it holds capabilities inside")
	t.Equal(unix.EPERM, rootCause(refusal), "they count for nothing in the host's UTS namespace")
	return twoSides(t, box, "user")
}

// timeNamespace: another time since boot, the same wall clock.
func timeNamespace(t *course.T) error {
	const day = 24 * 60 * 60
	box, err := NewBox(t.Context(), t, Config{
		Namespaces:  unix.CLONE_NEWTIME,
		TimeOffsets: map[string]specs.LinuxTimeOffset{"boottime": {Secs: day}, "monotonic": {Secs: day}},
	})
	if err != nil {
		return err
	}
	out, err := box.Call(t.Context(), "01-uptime")
	if err != nil {
		return err
	}
	var boot, wall int64
	if _, err := fmt.Sscan(out, &boot, &wall); err != nil {
		return err
	}
	var hostBoot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &hostBoot); err != nil {
		return err
	}
	hostWall := time.Now().Unix()
	offsets, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", box.Pid()))
	if err != nil {
		return err
	}
	t.See("/proc/%s/timens_offsets: %s", strconv.Itoa(box.Pid()), strings.Join(strings.Fields(string(offsets)), " "))
	t.See("up for %s in the box, for %s on the host", seconds(boot), seconds(int64(hostBoot.Sec)))
	t.See("the date: %s in the box, %s on the host", clock(wall), clock(hostWall))
	ahead := boot - int64(hostBoot.Sec)
	t.Check(ahead > day-60 && ahead <= day, "about "+seconds(day), seconds(ahead), "the box has been up a day longer")
	apart := hostWall - wall
	t.Check(apart >= 0 && apart < 60, "less than a minute", seconds(apart), "the wall clock is the same: it has no namespace")
	return twoSides(t, box, "time")
}

func seconds(n int64) string { return (time.Duration(n) * time.Second).String() }

func clock(unixTime int64) string { return time.Unix(unixTime, 0).UTC().Format("2006-01-02 15:04:05Z") }
