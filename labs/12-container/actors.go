package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/actor"
)

// What this lab's boxes can do: be a runtime of their own, which can be killed.
func init() {
	actor.Register("12-run", func(ctx context.Context, args []string) (string, error) {
		var cfg Config
		if err := json.Unmarshal([]byte(args[0]), &cfg); err != nil {
			return "", err
		}
		c, err := Create(ctx, cfg)
		if err != nil {
			return "", err
		}
		return strconv.Itoa(c.Pid), c.Start(ctx)
	})
	reexec.Register(workEntry, work)
}

// workEntry is nslab as the program whose system calls are counted: on the host, in a container, and as the only program of
// a virtual machine. There the kernel starts it by this path.
const workEntry = "/nslab-work"

// inMachine is its argument where it is PID 1 of a virtual machine.
const inMachine = "machine"

const (
	saysHello = "nslab-work runs"
	saysCost  = "nslab-work ns/call:"
)

// work makes a simple system call many times, and says what one costs. It counts its own CPU time, so that it does not
// matter who else is busy, and the best of several rounds counts.
func work() {
	fmt.Println(saysHello)
	best := time.Hour
	for range 10 {
		best = min(best, callCost(10*time.Millisecond))
	}
	fmt.Println(saysCost, best.Nanoseconds())
	if os.Getpid() == 1 && len(os.Args) > 1 && os.Args[1] == inMachine {
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

// callCost measures one system call in a loop of some length.
func callCost(round time.Duration) time.Duration {
	const batch = 1000
	calls, used := 0, time.Duration(0)
	for start := cpuTime(); used < round; used = cpuTime() - start {
		for range batch {
			unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		}
		calls += batch
	}
	return used / time.Duration(calls)
}

func cpuTime() time.Duration {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now) != nil {
		return time.Hour // ends the loop
	}
	return time.Duration(now.Nano())
}
