package pid

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	"github.com/nslab/nslab/trace"
)

// How the walkthrough looks at its boxes.

// twoSides shows and checks that the box is in a namespace of its own of this kind.
func twoSides(t *course.T, box *Box, kind string) error {
	inside, err := evidence.Namespace(box.Pid(), kind)
	if err != nil {
		return err
	}
	host, err := evidence.Namespace(os.Getpid(), kind)
	if err != nil {
		return err
	}
	t.See("inode of /proc/%s/ns/%s: %s; the host's: %s", strconv.Itoa(box.Pid()), kind, fmt.Sprint(inside), fmt.Sprint(host))
	t.Check(inside != host, "another inode than "+fmt.Sprint(host), inside, "its %s namespace is not the host's", kind)
	return nil
}

// seenBy asks the box what its /proc says: the number behind /proc/self, and how many processes there are.
func seenBy(t *course.T, box *Box) (self string, count int, err error) {
	out, err := box.Call(t.Untraced(), "01-proc")
	if err != nil {
		return "", 0, err
	}
	_, err = fmt.Sscan(out, &self, &count)
	return self, count, err
}

// soon is how long the kernel may take for what it does in its own time: no machine is so slow.
const soon = 30 * time.Second

// awaitOrphan finds the process in the box that is neither PID 1 nor its program: the shorter sleep, once the subshell that
// started it has ended.
func awaitOrphan(t *course.T, box *Box) (orphan int, err error) {
	inode, err := evidence.Namespace(box.Pid(), "pid")
	if err != nil {
		return 0, err
	}
	found := t.Await(soon, func() bool {
		members, _ := evidence.Members("pid", inode)
		members = slices.DeleteFunc(members, func(pid int) bool {
			command, _ := evidence.Command(pid)
			parent, _ := evidence.Status(pid, "PPid")
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			return pid == box.Pid() || command != "sleep" || parent != strconv.Itoa(box.Pid()) || !strings.HasSuffix(string(line), "\x00100\x00")
		})
		if len(members) == 1 {
			orphan = members[0]
		}
		return len(members) == 1
	})
	if !found {
		return 0, errors.New("no orphan was seen in the box")
	}
	return orphan, nil
}

// become turns the box into another program, by execve, under the same number. The box cannot tell of it any more, so
// it is recorded here, once the kernel shows it.
func become(t *course.T, box *Box, argv ...string) error {
	return trace.Call(t.Context(), 1,
		func() string { return fmt.Sprintf("execve(%q), by process %d", strings.Join(argv, " "), box.Pid()) },
		func() error {
			if err := box.Send("01-exec", argv...); err != nil {
				return err
			}
			if !t.Await(soon, func() bool { c, _ := evidence.Command(box.Pid()); return c == argv[0] || c == "sleep" }) {
				return fmt.Errorf("process %d has not become %s", box.Pid(), argv[0])
			}
			return nil
		})
}

// programOf finds the program that the init in the box runs, and tells its number inside.
func programOf(box *Box, orphan int) (number string, err error) {
	inode, err := evidence.Namespace(box.Pid(), "pid")
	if err != nil {
		return "", err
	}
	members, err := evidence.Members("pid", inode)
	if err != nil {
		return "", err
	}
	for _, pid := range members {
		if pid != box.Pid() && pid != orphan {
			numbers, err := evidence.Status(pid, "NSpid")
			return numbers[strings.LastIndexByte(numbers, ' ')+1:], err
		}
	}
	return "", errors.New("the init in the box runs no program")
}

func aliveText(pid int) string {
	if evidence.Alive(pid) {
		return "alive"
	}
	return "gone"
}

func existsText(pid int) string {
	if state, err := evidence.Status(pid, "State"); err == nil {
		return state
	}
	return "no entry"
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return rootCause(err).Error()
}

// rootCause is the errno below err, or err.
func rootCause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// lastTwo cuts a list of numbers to its last two: nslab itself may run in a PID namespace, and then there are more.
func lastTwo(numbers string) string {
	f := strings.Fields(numbers)
	return strings.Join(f[max(0, len(f)-2):], " ")
}
