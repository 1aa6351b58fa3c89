package suite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rivo/uniseg"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// condition answers the [conditions] of scripts, by attempting what they name. An unknown one fails the script.
func condition(name string) (bool, error) {
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "userns":
		return userNamespaces()
	case "cgroup1":
		return controllers("cgroup"), nil
	case "cgroup2":
		return controllers("cgroup2"), nil
	case "overlay", "fuse":
		data, err := os.ReadFile("/proc/filesystems")
		return strings.Contains(string(data), "\t"+name+"\n"), err
	case "lowerdir+":
		return overlayAppends(), nil
	}
	return false, fmt.Errorf("no condition is called %q", name)
}

// userNamespaces says whether an ordinary user may make a user namespace. A refusal is an answer, whatever forbids it.
func userNamespaces() (bool, error) {
	cmd := exec.Command("unshare", "--user", "--map-root-user", "true")
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return false, nil
	}
	return err == nil, err
}

// overlayAppends says whether overlay takes its layers one by one, since Linux 6.7; before, mount(2) takes them all. A
// kernel before 6.5 accepts any option here and complains later, so it must refuse one that does not exist.
func overlayAppends() bool {
	takes := func(option string) bool {
		fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		return unix.FsconfigSetString(fd, option, "/") == nil
	}
	return takes("lowerdir+") && !takes("no-such-option")
}

// controllers says whether the memory controller is in a hierarchy of this kind: limits are tested there.
func controllers(fsType string) bool {
	data, err := os.ReadFile("/proc/self/cgroup")
	v1 := err == nil && strings.Contains(string(data), ":memory")
	return v1 == (fsType == "cgroup")
}

// commands are the commands of scripts besides testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"interrupt":  interrupt,
	"width":      checkWidth,
	"eventually": eventually,
	"registry":   startRegistry,
}

// interrupt SIGNAL MOMENT COMMAND… starts a command, waits for the moment, sends the signal and waits for the end. The
// moment is a duration, or a text that the command prints. Output and exit status go to the files "out", "err" and
// "status"; the status of a command that died of a signal is 128 plus its number, as in a shell.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: interrupt SIGNAL MOMENT COMMAND...")
	}
	signal := unix.SignalNum("SIG" + args[0])
	if signal == 0 {
		ts.Fatalf("interrupt: no signal is called %s", args[0])
	}
	program, err := exec.LookPath(args[2])
	if path := ts.Getenv("PATH"); path != "" { // the script's PATH, where nslab is
		for dir := range strings.SplitSeq(path, string(os.PathListSeparator)) {
			if _, e := os.Stat(dir + "/" + args[2]); e == nil {
				program, err = dir+"/"+args[2], nil
				break
			}
		}
	}
	ts.Check(err)
	cmd := exec.Command(program, args[3:]...)
	cmd.Args[0] = args[2]
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = scriptEnv(ts)
	outName, errName := ts.MkAbs("out"), ts.MkAbs("err")
	out, err := os.Create(outName)
	ts.Check(err)
	defer out.Close()
	errOut, err := os.Create(errName)
	ts.Check(err)
	defer errOut.Close()
	cmd.Stdout, cmd.Stderr = out, errOut
	ts.Check(cmd.Start())
	end := make(chan struct{})
	go func() {
		defer close(end)
		cmd.Wait()
	}()
	waitFor(ts, args[1], outName, end)
	cmd.Process.Signal(signal) // a command that has ended already is none to interrupt: the script sees its status
	<-end
	status := cmd.ProcessState.ExitCode()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		status = 128 + int(ws.Signal())
	}
	ts.Check(os.WriteFile(ts.MkAbs("status"), fmt.Appendln(nil, status), 0o644))
}

// scriptEnv is the environment that testscript gives to commands, as far as scripts here set it.
func scriptEnv(ts *testscript.TestScript) (env []string) {
	for _, name := range []string{
		"PATH", "HOME", "WORK", "TMPDIR", "NSLAB_ROOT", "NSLAB_RUN_ROOT", "XDG_STATE_HOME", "LANG", "NO_COLOR", "COLUMNS",
	} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// patience is how long something is waited for that a machine does in its own time. It only ends what would hang: an
// emulated processor that others use, too, has been seen to take minutes for what else is done in a second.
const patience = 10 * time.Minute

// waitFor waits for a duration, or until the file holds the text, or for the end of what writes it.
func waitFor(ts *testscript.TestScript, moment, file string, end <-chan struct{}) {
	if d, err := time.ParseDuration(moment); err == nil {
		time.Sleep(d)
		return
	}
	ctx := ts.Value(runKey{}).(context.Context)
	for ended, start := false, time.Now(); !ended && ctx.Err() == nil && time.Since(start) < patience; time.Sleep(5 * time.Millisecond) {
		select {
		case <-end:
			ended = true
		default:
		}
		data, err := os.ReadFile(file) // once more after the end
		ts.Check(err)
		if bytes.Contains(data, []byte(moment)) {
			return
		}
	}
	ts.Fatalf("%s was never printed", moment)
}

// checkWidth COLUMNS FILE fails if a line of the file is wider than that on a terminal.
func checkWidth(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: width COLUMNS FILE")
	}
	limit, err := strconv.Atoi(args[0])
	ts.Check(err)
	for i, line := range strings.Split(ts.ReadFile(args[1]), "\n") {
		if w := uniseg.StringWidth(line); w > limit {
			ts.Fatalf("%s:%d is %d columns wide: %s", args[1], i+1, w, line)
		}
	}
}

// eventually COMMAND… repeats a command until it succeeds, for what the kernel or another process does in its own time.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually COMMAND...")
	}
	ctx := ts.Value(runKey{}).(context.Context)
	var err error
	for start := time.Now(); time.Since(start) < patience/10 && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); err == nil {
			return
		}
	}
	ts.Fatalf("%s: %v", strings.Join(args, " "), err)
}
