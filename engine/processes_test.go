package engine

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestReadProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	cmd.Args[0] = "my (name)"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	boot := bootTime(t)
	// Start returns when execve(2) closes the descriptors that are to be closed, which is before the new arguments can be read.
	for {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", cmd.Process.Pid)); err != nil || len(text) > 0 {
			break
		}
	}
	p, err := readProcess(cmd.Process.Pid, boot)
	if err != nil {
		t.Fatal(err)
	}
	if p.Pid != cmd.Process.Pid || p.Parent != os.Getpid() || p.User != os.Geteuid() || p.Command != "my (name) 1000" {
		t.Errorf("readProcess: %+v", p)
	}
	if age := time.Since(p.Started); age < -5*time.Second || age > time.Minute {
		t.Errorf("a process that was just started is %v old", age)
	}
	if _, err := readProcess(1<<22+1, boot); err == nil {
		t.Error("a process that there cannot be was read")
	}
}

func bootTime(t *testing.T) time.Time {
	t.Helper()
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		t.Fatal(err)
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[2J\n\tß\u202e一\xff"); got != "a?[2J??ß?一\ufffd" {
		t.Errorf("printable = %q", got)
	}
}

func TestTerminal(t *testing.T) {
	for want, device := range map[string]uint64{
		"?": 0, "pts/3": unix.Mkdev(136, 3), "pts/258": unix.Mkdev(137, 2), "tty1": unix.Mkdev(4, 1), "ttyS0": unix.Mkdev(4, 64),
		"204:64": unix.Mkdev(204, 64),
	} {
		if got := terminal(device); got != want {
			t.Errorf("terminal(%#x) = %s; want %s", device, got, want)
		}
	}
}

func TestTreeSize(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one", "12345")
	if err := os.Mkdir(dir+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	write("sub/two", strings.Repeat("x", 100))
	if err := os.Link(dir+"/one", dir+"/sub/again"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("1234567", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if n, err := treeSize(dir); n != 112 || err != nil {
		t.Errorf("treeSize = %d, %v; want 5 once, 100 and 7", n, err)
	}
	if n, err := treeSize(dir + "/gone"); n != 0 || err != nil {
		t.Errorf("of a tree that is gone: %d, %v", n, err)
	}
}

func TestStats(t *testing.T) {
	now := time.Now()
	before := Stats{Time: now.Add(-2 * time.Second), CPU: time.Second}
	for _, c := range []struct {
		s    Stats
		want string
	}{
		{Stats{Time: now, CPU: 4 * time.Second, Memory: 1, Limit: 4}, "150 25"},
		{Stats{Time: now, CPU: 0}, "0 0"}, // it was started anew
		{Stats{Time: before.Time, CPU: 2 * time.Second, Memory: 1}, "0 0"},
	} {
		if got := fmt.Sprintf("%.0f %.0f", c.s.CPUPercent(before), c.s.MemoryPercent()); got != c.want {
			t.Errorf("%+v: CPU and memory are %s %%; want %s", c.s, got, c.want)
		}
	}
	if got := before.CPUPercent(Stats{}); got != 0 {
		t.Errorf("the first look says %.0f %%", got)
	}
	if _, _, err := traffic(os.Getpid()); err != nil {
		t.Error(err)
	}
}
