package setns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	"github.com/nslab/nslab/trace"
	"github.com/nslab/nslab/walker"
)

func init() { reexec.Register("setns-test-sleep", func() { time.Sleep(time.Hour) }) }

func TestMain(m *testing.M) { coursetest.Main(m) }

func TestOrder(t *testing.T) {
	names := func(list []Kind) (s string) {
		for _, k := range list {
			s += k.Name + " "
		}
		return strings.TrimSpace(s)
	}
	for _, test := range []struct {
		flags      uintptr
		privileged bool
		want       string
	}{
		{All, true, "cgroup ipc uts net pid time mnt user"},
		{All, false, "user cgroup ipc uts net pid time mnt"},
		{unix.CLONE_NEWNS | unix.CLONE_NEWNET, true, "net mnt"},
		{unix.CLONE_NEWUSER, true, "user"},
		{0, true, ""},
	} {
		if got := names(order(test.flags, test.privileged)); got != test.want {
			t.Errorf("order(%s, %v) = %q; want %q", flagNames(test.flags), test.privileged, got, test.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	for _, test := range []struct {
		program string
		env     []string
		want    string
	}{
		{"/bin/sh", []string{"PATH=/x"}, "/bin/sh"},
		{"./sh", []string{"PATH=/x"}, "./sh"},
		{"sh", []string{"PATH=/x:/y"}, "/x/sh /y/sh"},
		{"sh", []string{"PATH=/x::/y"}, "/x/sh ./sh /y/sh"},
		{"sh", []string{"PATH=/x", "PATH=/y"}, "/y/sh"},
		{"sh", nil, "/usr/local/sbin/sh /usr/local/bin/sh /usr/sbin/sh /usr/bin/sh /sbin/sh /bin/sh"},
		{"", nil, ""},
	} {
		if got := strings.Join(places(test.program, test.env), " "); got != test.want {
			t.Errorf("places(%q, %q) = %q; want %q", test.program, test.env, got, test.want)
		}
	}
}

// TestPlan holds the order of the calls, which is what keeps the host safe.
func TestPlan(t *testing.T) {
	p := &plan{traced: true}
	defer p.close()
	err := p.write(t.Context(), Config{
		Dir: "/", Credential: &syscall.Credential{Uid: 1, Gid: 2, Groups: []uint32{3}}, Pdeathsig: unix.SIGKILL,
		Before: []Call{{Op: "before"}}, After: []Call{{Op: "after"}}, Last: []Call{{Op: "last"}}, Path: "x", Args: []string{"x"}, Env: []string{"PATH=/a:/b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range p.calls {
		got = append(got, c.op)
		if !strings.HasPrefix(c.at, "labs/06-setns/plan.go:") {
			t.Errorf("%s stands at %q; want a line of plan.go", c.op, c.at)
		}
	}
	want := "prctl chdir getcwd fcntl shutdown close_range before setgroups setresgid setresuid after prctl rt_sigprocmask last execve execve"
	if strings.Join(got, " ") != want {
		t.Errorf("calls: %s\nwant:  %s", strings.Join(got, " "), want)
	}
	if err := p.write(t.Context(), Config{Path: "a\x00b", Args: []string{"a"}}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a NUL in the path: %v; want EINVAL", err)
	}
}

// run starts a program and returns what it printed and how it ended.
func run(t *testing.T, cfg Config, argv ...string) (out string, status syscall.WaitStatus, err error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cfg.Path, cfg.Args = argv[0], argv
	if cfg.Env == nil {
		cfg.Env = os.Environ()
	}
	cfg.Streams, cfg.Pdeathsig = []*os.File{os.Stdin, w, os.Stderr}, unix.SIGKILL
	ctx := trace.With(t.Context(), func(r trace.Record) { t.Log(r.At, r, r.Took) })
	p, err := Start(ctx, cfg)
	w.Close()
	if err != nil {
		return "", 0, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	status, err = p.Wait(t.Context())
	return strings.TrimSpace(string(data)), status, errors.Join(err, p.Close())
}

func TestStart(t *testing.T) {
	out, status, err := run(t, Config{Dir: "/usr"}, "sh", "-c", "pwd; exit 3")
	if out != "/usr" || status.ExitStatus() != 3 || err != nil {
		t.Errorf("run = %q, %v, %v; want /usr, 3", out, status, err)
	}
	_, status, err = run(t, Config{}, "sh", "-c", "kill -TERM $$")
	if !status.Signaled() || status.Signal() != unix.SIGTERM || err != nil {
		t.Errorf("status = %v, %v; want SIGTERM", status, err)
	}
}

// TestClean: the program gets three descriptors, no signal handlers, no blocked signals; what was ignored stays so.
func TestClean(t *testing.T) {
	extra, err := unix.Dup(1) // without O_CLOEXEC, as one inherited from somebody careless
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(extra)
	signal.Ignore(unix.SIGWINCH)
	defer signal.Reset(unix.SIGWINCH)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGUSR1)
	defer signal.Stop(ch)
	out, _, err := run(t, Config{}, "sh", "-c", "ls /proc/$$/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/$$/status | tr '\\n\\t' '  '")
	if err != nil {
		t.Fatal(err)
	}
	winch := uint64(1) << (unix.SIGWINCH - 1)
	var blocked, ignored uint64
	fds, rest, _ := strings.Cut(out, "SigBlk:")
	if _, err := fmt.Sscanf(rest, " %x SigIgn: %x", &blocked, &ignored); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	// sh itself may have duplicated a descriptor to 10 or above for its own use.
	if f := strings.Fields(fds); len(f) < 3 || !slices.Equal(f[:3], []string{"0", "1", "2"}) || slices.Contains(f, fmt.Sprint(extra)) {
		t.Errorf("descriptors %q; want 0 1 2, and not %d", fds, extra)
	}
	if blocked != 0 || ignored&winch == 0 || ignored&(1<<(unix.SIGUSR1-1)) != 0 {
		t.Errorf("blocked %#x, ignored %#x; want none blocked, SIGWINCH ignored and SIGUSR1 not", blocked, ignored)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "prog"), []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cfg  Config
		path string
		op   string
		want error
	}{
		"no program":           {Config{}, "/dev/shm/nslab-no-such", "execve", unix.ENOENT},
		"no program in PATH":   {Config{Env: []string{"PATH=/dev/shm/nslab-no-such:/dev/null"}}, "prog", "execve", unix.ENOTDIR},
		"denied wins":          {Config{Env: []string{"PATH=" + dir + ":/dev/shm/nslab-no-such"}}, "prog", "execve", unix.EACCES},
		"a folder":             {Config{}, "/usr", "execve", unix.EACCES},
		"empty name":           {Config{}, "", "execve", unix.ENOENT},
		"no working folder":    {Config{Dir: "/dev/shm/nslab-no-such"}, "true", "chdir", unix.ENOENT},
		"no such group":        {Config{Groups: []string{"/dev/shm/nslab-no-such"}}, "true", "open", unix.ENOENT},
		"no place for a group": {Config{Groups: []string{dir}}, "true", "clone", unix.EBADF},
	} {
		_, _, err := run(t, test.cfg, test.path)
		var e *Error
		if !errors.Is(err, test.want) || !errors.As(err, &e) || e.Op != test.op {
			t.Errorf("%s: %v; want %s: %v", name, err, test.op, test.want)
		}
	}
	if children := childrenOf(t); len(children) > 0 {
		t.Errorf("left behind: processes %v", children)
	}
}

// childrenOf lists our children, zombies included.
func childrenOf(t *testing.T) (list []int) {
	pids, err := evidence.Pids("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if parent, err := evidence.Status(pid, "PPid"); err == nil && parent == fmt.Sprint(os.Getpid()) {
			list = append(list, pid)
		}
	}
	return list
}

// TestGivenUp: a child that never comes to its execve is ended with the context.
func TestGivenUp(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Start(ctx, Config{
		Path: "/bin/true", Args: []string{"true"}, Streams: []*os.File{r},
		Last: []Call{{Trap: unix.SYS_READ, Args: [6]uintptr{0, 0, 1}, Data: [6]*walker.Data{1: {Bytes: []byte{0}}}, Op: "read"}},
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start = %v; want the context's error", err)
	}
	for range 500 {
		if len(childrenOf(t)) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("left behind: processes %v", childrenOf(t))
}

// TestManyAtOnce starts children while other goroutines allocate and collect: what they must not notice.
func TestManyAtOnce(t *testing.T) {
	stop := make(chan struct{})
	var noise, starts sync.WaitGroup
	for range 4 {
		noise.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = make([]byte, rand.IntN(1<<16))
				}
			}
		})
	}
	for range 8 {
		starts.Go(func() {
			for range 40 {
				p, err := Start(t.Context(), Config{Path: "/bin/true", Args: []string{"true"}, Dir: "/"})
				if err != nil {
					t.Error(err)
					return
				}
				if status, err := p.Wait(t.Context()); err != nil || status != 0 {
					t.Errorf("Wait = %v, %v", status, err)
				}
				p.Close()
			}
		})
	}
	starts.Wait()
	close(stop)
	noise.Wait()
}

// sleeper starts a process in namespaces of its own.
func sleeper(t *testing.T, flags uintptr) *Target {
	t.Helper()
	cfg := pid.Config{Namespaces: flags}
	p, err := pid.Start(t.Context(), cfg, pid.Command(cfg, "setns-test-sleep"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Kill(context.Background()) })
	target, err := Open(t.Context(), p.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return target
}

// TestForeignOwner: root enters a user namespace together with a network that this user namespace does not own. With one
// call for all, or with the user namespace last, that works; with it first, it does not.
func TestForeignOwner(t *testing.T) {
	coursetest.NeedRoot(t)
	network := sleeper(t, unix.CLONE_NEWNET)
	p, err := Start(t.Context(), Config{
		Target: network, Namespaces: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL, Env: os.Environ(),
		Path: "unshare", Args: []string{"unshare", "--user", "--map-root-user", "--uts", "sleep", "1000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill(context.Background())
	for range 500 { // until unshare has become sleep
		if c, _ := evidence.Command(p.Pid); c == "sleep" {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	target, err := Open(t.Context(), p.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	const flags = unix.CLONE_NEWNET | unix.CLONE_NEWUSER | unix.CLONE_NEWUTS
	for _, oneByOne := range []bool{false, true} {
		out, _, err := run(t, Config{Target: target, Namespaces: flags, OneByOne: oneByOne}, "sh", "-c",
			"readlink /proc/self/ns/net /proc/self/ns/user /proc/self/ns/uts; id -u")
		want := ""
		for _, k := range []string{"net", "user", "uts"} {
			n, err := evidence.Namespace(p.Pid, k)
			if err != nil {
				t.Fatal(err)
			}
			want += fmt.Sprintf("%s:[%d]\n", k, n)
		}
		if err != nil || out != want+"0" {
			t.Errorf("OneByOne %v: %q, %v; want %q", oneByOne, out, err, want+"0")
		}
	}
	pl := &plan{}
	defer pl.close()
	for _, k := range order(flags, false) { // the order for who has no rights outside
		f, err := target.file(t.Context(), "ns/"+k.Name, unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		pl.open = append(pl.open, f)
		pl.setns(f, k.Flag, f.Name())
	}
	child, err := pl.launch(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	_, err = pl.listen(t.Context(), child)
	reap(child.Pid)
	var e *Error
	if !errors.As(err, &e) || e.Flags != unix.CLONE_NEWNET || !errors.Is(err, unix.EPERM) {
		t.Errorf("user namespace first: %v; want the network refused with EPERM", err)
	}
}

// TestTime: a time namespace is entered like the others; the clock shows it.
func TestTime(t *testing.T) {
	coursetest.NeedRoot(t)
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		t.Skip("this kernel has no time namespaces")
	}
	target := sleeper(t, unix.CLONE_NEWTIME|unix.CLONE_NEWPID)
	want, err := target.Namespace("time")
	if err != nil {
		t.Fatal(err)
	}
	for _, oneByOne := range []bool{false, true} {
		out, _, err := run(t, Config{Target: target, Namespaces: All, OneByOne: oneByOne}, "readlink", "/proc/self/ns/time")
		if wanted := fmt.Sprintf("time:[%d]", want.Ino); out != wanted || err != nil {
			t.Errorf("OneByOne %v: %q, %v; want %q", oneByOne, out, err, wanted)
		}
	}
}

// TestOpenGone: a number whose process has ended is refused, and a target whose process ends afterwards too.
func TestOpenGone(t *testing.T) {
	p, err := Start(t.Context(), Config{Path: "/bin/true", Args: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	target, openErr := Open(t.Context(), p.Pid)
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), p.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("Open = %v; want ESRCH", err)
	}
	if openErr == nil { // it had not ended yet
		if _, err := target.Namespace("net"); !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) {
			t.Errorf("Namespace = %v; want ESRCH or ENOENT", err)
		}
		target.Close()
	}
}

func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, "/dev/null", "/etc/passwd", "/proc/self/status", dir} {
		if f, _, err := OpenFile(t.Context(), path); !errors.Is(err, ErrNoNamespace) {
			t.Errorf("OpenFile(%s) = %v, %v; want ErrNoNamespace", path, f, err)
		}
	}
	f, k, err := OpenFile(t.Context(), "/proc/self/ns/net")
	if err != nil || k.Name != "net" {
		t.Fatalf("OpenFile(/proc/self/ns/net) = %v, %v", k, err)
	}
	f.Close()
}

// TestOnThread: what a function does to its thread's namespaces is not what the process shows of itself, whatever thread it gets.
func TestOnThread(t *testing.T) {
	coursetest.NeedRoot(t)
	before, err := evidence.Namespace(os.Getpid(), "mnt")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 50 {
		wait.Go(func() {
			if err := OnThread(func() error { return unix.Unshare(unix.CLONE_NEWNS) }); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if after, err := evidence.Namespace(os.Getpid(), "mnt"); after != before || err != nil {
		t.Errorf("the process is in mount namespace %d, %v; want %d", after, err, before)
	}
}
