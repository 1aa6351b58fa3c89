package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// secondStage marks init after it has moved to the real root.
const secondStage = "VM_SECOND_STAGE"

// guestEnv is the environment of all that runs in the guest.
var guestEnv = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "USER=root",
}

// initProcess is PID 1 of the guest.
type initProcess struct {
	config
	port *os.File // for results
}

// guest is PID 1. Whatever happens, it powers the machine off: nobody is there to wait for it.
func guest() {
	g := &initProcess{}
	stage := g.first
	if os.Getenv(secondStage) != "" {
		stage = g.second
	}
	if err := stage(); err != nil {
		g.say(event{VM: eventTrouble, Text: err.Error()})
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	g.say(event{VM: eventEnd})
	powerOff(g.port)
}

func powerOff(port *os.File) {
	unix.Sync()
	if port != nil {
		unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1) // tcdrain: the last bytes are still on their way
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // -no-reboot makes that an end, too
	select {}
}

// first runs on the initramfs: it makes the machine usable, shows lab 04 there, and moves to a root on the disk.
func (g *initProcess) first() error {
	for _, m := range []mountPoint{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	if err := g.prepare(); err != nil {
		return err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	g.say(event{VM: eventBoot, Kernel: unix.ByteSliceToString(uts.Release[:])})
	if err := g.loadModules(); err != nil {
		return err
	}
	if err := mountCgroups(g.Mode, func(text string) { g.say(event{VM: eventNote, Text: text}) }); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	if err := g.initramfsLab(); err != nil {
		return err
	}
	return switchRoot()
}

// prepare opens the port, and reads what is to be done.
func (g *initProcess) prepare() (err error) {
	// Not as a controlling terminal: what is written to it must never raise a signal.
	if g.port, err = os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return err
	}
	if _, err := term.MakeRaw(int(g.port.Fd())); err != nil { // no "\r\n"
		return fmt.Errorf("set up the port for results: %w", err)
	}
	text, err := os.ReadFile(configFile)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, &g.config)
}

// loadModules loads them in their order. One that this machine has no use for is a note.
func (g *initProcess) loadModules() error {
	for _, name := range g.Modules {
		code, err := os.ReadFile(path.Join(moduleDir, name+".ko"))
		if err != nil {
			return err
		}
		if err := unix.InitModule(code, ""); err != nil && err != unix.EEXIST {
			g.say(event{VM: eventNote, Text: fmt.Sprintf("init_module(%s): %v", name, err)})
		}
	}
	return nil
}

// loopbackUp is what every distribution does before anything else in the network.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// initramfsLab runs lab 04 where pivot_root cannot be used, which it is to say, and to pass otherwise.
func (g *initProcess) initramfsLab() error {
	const out = "/run/initramfs-lab"
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	status, err := runReaping(f, f, nslabFile, "run", "04", "--auto")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	e := event{VM: eventInitramfs, Exit: status}
	if status != 0 {
		e.Text = string(text)
	} else if !strings.Contains(string(text), "initial ramfs") {
		e.Exit, e.Text = -1, "it does not say that pivot_root is impossible here"
	}
	g.say(e)
	return nil
}

// parallel is how many scenarios run at a time. Most of them wait for a process most of the time: with two, as many as the
// machine has processors, a third of the host's time is not used (18 of them take 92 s then, 65 s with four).
const parallel = "4"

// second runs on the real root: the suite.
func (g *initProcess) second() error {
	if err := g.prepare(); err != nil {
		return err
	}
	// As systemd has it: a mount that a scenario fails to keep private is everybody's, and found.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	go g.watchDisk()
	go g.misbehave()
	status, err := runReaping(g.port, os.Stderr, append([]string{nslabFile, "test", "--format", "json", "--parallel", parallel}, g.Patterns...)...)
	if err != nil {
		return err
	}
	g.say(event{VM: eventSuite, Exit: status})
	return nil
}

// full is how little space counts as none.
const full = 1 << 20

// watchDisk says so once when the root is full: what fails then fails for that reason.
func (g *initProcess) watchDisk() {
	for ; ; time.Sleep(300 * time.Millisecond) {
		var st unix.Statfs_t
		if err := unix.Statfs("/", &st); err != nil {
			continue
		}
		if free := int64(st.Bavail) * st.Bsize; free < full {
			g.say(event{VM: eventDisk, Free: free})
			return
		}
	}
}

// breakages are ways in which the guest can be told to misbehave, to see that the host notices.
var breakages = []string{"", "panic", "hang", "disk", "end"}

// misbehave does it for real, in the middle of the suite.
func (g *initProcess) misbehave() {
	if g.Break == "" {
		return
	}
	time.Sleep(3 * time.Second)
	switch g.Break {
	case "panic":
		os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case "hang": // everything stands still but init, which waits
		unix.Kill(-1, unix.SIGSTOP)
	case "disk":
		fill("/fill")
	case "end":
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

// fill writes a file until there is no room.
func fill(name string) {
	f, err := os.Create(name)
	if err != nil {
		return
	}
	defer f.Close()
	// Space that is allocated is as gone as space that is written.
	for size := int64(1 << 30); size >= 4096; {
		at, _ := f.Seek(0, 2)
		if unix.Fallocate(int(f.Fd()), 0, at, size) != nil {
			size /= 2
		}
	}
}

// runReaping runs a program. PID 1 is every orphan's parent: it waits for all of them, or their dead bodies would pile up.
func runReaping(stdout, stderr *os.File, argv ...string) (status int, err error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Dir: "/root", Env: guestEnv, Files: []*os.File{null, stdout, stderr}})
	if err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for %s: %w", argv[0], err)
		case pid == p.Pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == p.Pid && ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}

// say sends an event. One write a line, since the suite writes to the same port.
func (g *initProcess) say(e event) {
	if line, err := json.Marshal(e); err == nil && g.port != nil {
		g.port.Write(append(line, '\n'))
	}
}

// mountPoint is a mount to be made, with its folder.
type mountPoint struct {
	source, target, fsType string
	flags                  uintptr
	data                   string
}

func (m mountPoint) mount() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.source, m.target, m.fsType, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w", m.fsType, m.data, filepath.Clean(m.target), err)
	}
	return nil
}
