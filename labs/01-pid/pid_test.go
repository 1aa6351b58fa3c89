package pid

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/reexec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/course/evidence"
	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

func TestCommand(t *testing.T) {
	one := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}}
	for name, test := range map[string]struct {
		cfg   Config
		flags uintptr
		uids  int
	}{
		"none":              {Config{}, 0, 0},
		"pid and mount":     {Config{Namespaces: unix.CLONE_NEWPID | unix.CLONE_NEWNS}, unix.CLONE_NEWPID | unix.CLONE_NEWNS, 0},
		"time is not clone": {Config{Namespaces: unix.CLONE_NEWTIME | unix.CLONE_NEWUTS}, unix.CLONE_NEWUTS, 0},
		"user": {
			Config{Namespaces: unix.CLONE_NEWUSER, UIDMappings: one, GIDMappings: one}, unix.CLONE_NEWUSER, 1,
		},
		"maps without user namespace": {Config{UIDMappings: one}, 0, 0},
	} {
		attr := Command(test.cfg, "entry", "arg").SysProcAttr
		if attr.Cloneflags != test.flags || len(attr.UidMappings) != test.uids {
			t.Errorf("%s: Cloneflags = %#x, %d uid maps; want %#x, %d", name, attr.Cloneflags, len(attr.UidMappings), test.flags, test.uids)
		}
		if attr.Pdeathsig != syscall.SIGKILL {
			t.Errorf("%s: Pdeathsig = %v; want SIGKILL", name, attr.Pdeathsig)
		}
		if (attr.Credential != nil) != (test.uids > 0) {
			t.Errorf("%s: Credential = %v; want one with a user namespace only", name, attr.Credential)
		}
	}
	if cmd := Command(Config{}, "entry", "a", "b"); strings.Join(cmd.Args, " ") != "entry a b" {
		t.Errorf("Args = %q; want entry a b", cmd.Args)
	}
}

func TestCloneFlags(t *testing.T) {
	for flags, want := range map[uintptr]string{
		0:                                     "SIGCHLD",
		unix.CLONE_NEWPID:                     "CLONE_NEWPID|SIGCHLD",
		unix.CLONE_NEWUTS | unix.CLONE_NEWIPC: "CLONE_NEWIPC|CLONE_NEWUTS|SIGCHLD",
		unix.CLONE_NEWUSER | unix.CLONE_NEWNS: "CLONE_NEWNS|CLONE_NEWUSER|SIGCHLD",
		unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME | unix.CLONE_NEWNET: "CLONE_NEWCGROUP|CLONE_NEWNET|CLONE_NEWTIME|SIGCHLD",
	} {
		if got := CloneFlags(flags); got != want {
			t.Errorf("CloneFlags(%#x) = %q; want %q", flags, got, want)
		}
	}
}

// Sleeper is an entry point that does nothing for long.
func init() {
	reexec.Register("test-sleep", func() { time.Sleep(time.Hour) })
	reexec.Register("test-supervise", func() {
		status, err := Supervise(context.Background(), os.Args[1], os.Args[1:], nil)
		if err != nil {
			os.Exit(99)
		}
		os.Exit(status)
	})
}

func TestStart(t *testing.T) {
	coursetest.NeedRoot(t)
	var calls []string
	ctx := trace.With(t.Context(), func(r trace.Record) { calls = append(calls, r.String()) })
	cfg := Config{
		Namespaces:  unix.CLONE_NEWPID | unix.CLONE_NEWTIME,
		TimeOffsets: map[string]specs.LinuxTimeOffset{"boottime": {Secs: 3600}},
	}
	p, err := Start(ctx, cfg, Command(cfg, "test-sleep"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"pid", "time"} {
		inside, err := evidence.Namespace(p.Pid, kind)
		if err != nil {
			t.Fatal(err)
		}
		if host, _ := evidence.Namespace(os.Getpid(), kind); inside == host {
			t.Errorf("%s namespace = %d; want another than the host's", kind, inside)
		}
	}
	// Ours must not have changed, nor those of the children we start next.
	plain, err := Start(ctx, Config{}, Command(Config{}, "test-sleep"))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := evidence.Namespace(plain.Pid, "time"); got == 0 {
		t.Error("no time namespace")
	} else if host, _ := evidence.Namespace(os.Getpid(), "time"); got != host {
		t.Errorf("the next child's time namespace = %d; want the host's, %d", got, host)
	}
	if !strings.HasPrefix(strings.Join(calls, "\n"), "unshare(CLONE_NEWTIME)\nwrite \"boottime 3600 0\" → /proc/") {
		t.Errorf("calls = %q; want unshare, write, clone", calls)
	}
	for _, x := range []*Process{p, plain} {
		if err := x.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		if x.State() == nil || evidence.Exists(x.Pid) {
			t.Errorf("process %d is still there", x.Pid)
		}
		if err := x.Kill(t.Context()); err != nil {
			t.Errorf("Kill() of a dead process = %v; want nil", err)
		}
	}
}

// A child must die with the process that started it, even if that is killed: nobody would remember it.
func TestPdeathsig(t *testing.T) {
	coursetest.NeedRoot(t)
	cmd := exec.Command("sh", "-c", "exec sleep 1000")
	cmd.SysProcAttr = Command(Config{Namespaces: unix.CLONE_NEWPID}, "x").SysProcAttr
	p, err := Start(t.Context(), Config{}, cmd)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := evidence.Status(p.Pid, "NSpid"); err != nil || !strings.HasSuffix(got, " 1") {
		t.Errorf("NSpid = %q, %v; want two numbers, the last 1", got, err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestForkStart holds the plain fork to what os/exec promises.
func TestForkStart(t *testing.T) {
	coursetest.NeedRoot(t)
	cfg := Config{Namespaces: unix.CLONE_NEWTIME | unix.CLONE_NEWPID}
	run := func(argv ...string) (string, int) {
		t.Helper()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.SysProcAttr = Command(cfg, "x").SysProcAttr
		cmd.Stdout, cmd.ExtraFiles, cmd.Env = w, []*os.File{w}, []string{"WORD=given"}
		p, err := Start(t.Context(), cfg, cmd)
		w.Close()
		if err != nil {
			return err.Error(), -1
		}
		out, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		p.Wait(t.Context())
		return string(out), p.State().ExitCode()
	}
	if out, status := run("sh", "-c", "echo $$ $WORD; echo three >&3; for i in 4 5 6 7 8; do test -e /proc/self/fd/$i && echo leak $i; done; exit 7"); out != "1 given\nthree\n" || status != 7 {
		t.Errorf("output = %q, status %d; want PID 1, the environment, descriptors 0 to 3 and no other, 7", out, status)
	}
	if out, _ := run("/etc/passwd"); out != "01-pid: clone CLONE_NEWPID: permission denied" {
		t.Errorf("executing a file that is none = %q; want permission denied", out)
	}
}

func TestStartRefused(t *testing.T) {
	coursetest.NeedRoot(t)
	// A user namespace whose maps are not allowed: nobody may map what is not there.
	cfg := Config{Namespaces: unix.CLONE_NEWUSER, UIDMappings: []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 0, HostID: 1, Size: 1},
	}}
	_, err := Start(t.Context(), cfg, Command(cfg, "test-sleep"))
	var e *Error
	if !errors.As(err, &e) || e.Op != "clone" || !errors.Is(err, unix.EINVAL) {
		t.Fatalf("Start() = %v; want an *Error of clone with EINVAL", err)
	}
	if want := "01-pid: clone CLONE_NEWUSER: invalid argument"; err.Error() != want {
		t.Errorf("error = %q; want %q", err, want)
	}
	if c := diagnosis.Of(err); len(c) != 1 || !c[0].OK {
		t.Errorf("conditions = %v; want the kernel's support for user namespaces, met", c)
	}
}

func TestSupervise(t *testing.T) {
	coursetest.NeedRoot(t)
	cfg := Config{Namespaces: unix.CLONE_NEWPID}
	for command, want := range map[string]int{
		"exit 0":                         0,
		"exit 7":                         7,
		"kill -KILL $$":                  137,
		"kill -TERM 1; sleep 100 & wait": 143, // PID 1 passes it back
		"sleep 100 & exit 3":             3,   // the orphan does not keep the init from ending
	} {
		p, err := Start(t.Context(), cfg, Command(cfg, "test-supervise", "sh", "-c", command))
		if err != nil {
			t.Fatal(err)
		}
		p.Wait(t.Context())
		if got := p.State().ExitCode(); got != want {
			t.Errorf("Supervise(%q) exits with %d; want %d", command, got, want)
		}
	}
}
