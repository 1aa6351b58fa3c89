package walker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// walk1 starts a walker, gives it lists, and returns its reports and how it ended.
func walk1(t *testing.T, a Attr, lists ...*List) (reports []Report, status syscall.WaitStatus) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w, err := Start(a)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, l := range lists {
		if err := w.Tell(l); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := w.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
	for {
		more, _, err := w.Hear(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, more...)
	}
	if _, err := syscall.Wait4(w.Pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	return reports, status
}

func short(reports []Report) string {
	var words []string
	for _, r := range reports {
		words = append(words, fmt.Sprintf("%d:%d/%d/%v", r.Step, r.Value, r.Errno, r.Stop))
	}
	return strings.Join(words, " ")
}

// execs adds the execve of a program to a list.
func (l *List) execs(t *testing.T, kind uintptr, argv ...string) {
	t.Helper()
	name, err := l.Text(argv[0])
	if err != nil {
		t.Fatal(err)
	}
	args, err := l.Texts(argv)
	if err != nil {
		t.Fatal(err)
	}
	env, err := l.Texts(nil)
	if err != nil {
		t.Fatal(err)
	}
	l.Add(kind, unix.SYS_EXECVE, name, args, env)
}

// cloexec lets go of the socket with execve.
func (l *List) cloexec() { l.Add(Must, unix.SYS_FCNTL, Socket, unix.F_SETFD, unix.FD_CLOEXEC) }

func TestWalk(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := &List{}
	l.cloexec()
	l.Add(Optional, unix.SYS_CLOSE, 99)
	l.execs(t, Attempts, "/nslab-no-such")
	l.execs(t, Attempts, "/bin/sh", "-c", "echo $0 $#; exit 3")
	reports, status := walk1(t, Attr{Streams: []*os.File{w, w, w}}, l)
	w.Close()
	if got, want := short(reports), "0:0/0/false 1:-1/9/false 2:-1/2/false"; got != want {
		t.Errorf("reports %s; want %s", got, want)
	}
	out, _ := io.ReadAll(r)
	if string(out) != "/bin/sh 0\n" || status.ExitStatus() != 3 {
		t.Errorf("%q, %v; want /bin/sh 0, 3", out, status)
	}
}

// TestLists: a walker asks for a second list when the first is done; with the end of its socket, it ends.
func TestLists(t *testing.T) {
	one, two := &List{}, &List{}
	one.Add(Must, unix.SYS_GETPPID)
	two.Add(Must, unix.SYS_UMASK, 0o17)
	two.Add(Must, unix.SYS_UMASK, 0o22)
	for range 100 { // more than are sent at once
		two.Add(Must, unix.SYS_GETPPID)
	}
	reports, status := walk1(t, Attr{}, one, two)
	if len(reports) != 103 || reports[0].Value != int64(os.Getpid()) || reports[2].Value != 0o17 || reports[102].Step != 101 || status.ExitStatus() != 127 {
		t.Errorf("%s, %v; want 103 of them, and 127", short(reports), status)
	}
}

func TestStops(t *testing.T) {
	for name, test := range map[string]struct {
		add  func(*List)
		want string
	}{
		"refused":  {func(l *List) { l.Add(Must, unix.SYS_CLOSE, 99); l.Add(Must, unix.SYS_GETPPID) }, "0:-1/9/true"},
		"no cwd":   {func(l *List) { l.Add(Locates, unix.SYS_GETPPID) }, fmt.Sprintf("0:%d/%d/true", os.Getpid(), Outside)},
		"no such":  {func(l *List) { l.execs(t, Attempts, "/nslab-no-such"); l.execs(t, Attempts, "/dev/null/x") }, "0:-1/2/false 1:-1/20/true"},
		"denied":   {func(l *List) { l.execs(t, Attempts, "/dev/null"); l.execs(t, Attempts, "/dev/null/x") }, "0:-1/13/false 1:-1/13/true"},
		"no clone": {func(l *List) { l.Add(Forks, unix.SYS_CLOSE, 99) }, "0:-1/9/true"},
	} {
		l := &List{}
		test.add(l)
		reports, status := walk1(t, Attr{}, l)
		if got := short(reports); got != test.want || status.ExitStatus() != 127 {
			t.Errorf("%s: %s, %v; want %s, 127", name, got, status, test.want)
		}
	}
}

// TestCwd: getcwd's answer is looked at.
func TestCwd(t *testing.T) {
	l := &List{}
	at, size := Cwd()
	l.Add(Locates, unix.SYS_GETCWD, at, size)
	reports, _ := walk1(t, Attr{}, l)
	if len(reports) != 1 || reports[0].Errno != 0 || reports[0].Value < 2 {
		t.Errorf("%s; want the length of a path", short(reports))
	}
}

// TestForks: the one reports the other's number and ends, the other goes on.
func TestForks(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("clone's arguments are in another order")
	}
	l := &List{}
	l.Add(Forks, unix.SYS_CLONE, uintptr(unix.SIGCHLD))
	l.Add(Must, unix.SYS_GETPID)
	reports, status := walk1(t, Attr{}, l)
	var child, self int64
	for _, r := range reports {
		switch {
		case r.Step == 0 && r.Value > 0:
			child = r.Value
		case r.Step == 1:
			self = r.Value
		}
	}
	if len(reports) != 3 || child == 0 || child != self || status.ExitStatus() != 0 {
		t.Errorf("%s, %v; want the child's number twice, and 0", short(reports), status)
	}
}

// TestSeals: a filter that forbids to read clocks and to write does not stop the walker; its refusal is reported.
func TestSeals(t *testing.T) {
	filter := func(forbidden ...uint32) *Data {
		var code []byte
		add := func(c uint16, jt, jf byte, k uint32) {
			code = append(code, byte(c), byte(c>>8), jt, jf, byte(k), byte(k>>8), byte(k>>16), byte(k>>24))
		}
		add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 0)
		for _, f := range forbidden {
			add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, f)
			add(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_KILL_PROCESS)
		}
		add(unix.BPF_RET|unix.BPF_K, 0, 0, unix.SECCOMP_RET_ALLOW)
		n := len(code) / 8
		return &Data{Bytes: append([]byte{byte(n), byte(n >> 8)}, make([]byte, 14)...), Points: map[int]*Data{8: {Bytes: code}}}
	}
	l := &List{}
	l.cloexec()
	l.Add(Must, unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
	l.Add(Seals, unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, l.Put(filter(unix.SYS_CLOCK_GETTIME, unix.SYS_WRITE)))
	l.execs(t, Must, "/bin/true")
	reports, status := walk1(t, Attr{}, l)
	if got, want := short(reports), "0:0/0/false 1:0/0/false 2:0/0/false"; got != want || status.Signaled() || status.ExitStatus() != 0 {
		t.Errorf("%s, %v; want %s", got, status, want)
	}
	l = &List{}
	l.Add(Seals, unix.SYS_SECCOMP, 77)
	reports, status = walk1(t, Attr{}, l)
	if got, want := short(reports), "0:0/0/false 0:-1/22/true"; got != want || status.ExitStatus() != 127 {
		t.Errorf("%s, %v; want %s, 127", got, status, want)
	}
}

// TestNothingElse: what a walker executes is sealed, and it has no descriptors but those that it was given.
func TestNothingElse(t *testing.T) {
	loose, err := unix.Dup(1) // without O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(loose)
	f, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || have&seals != seals {
		t.Errorf("seals %#x, %v; want %#x", have, err, seals)
	}
	if w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0); err == nil {
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("a walker's file was written to")
		}
		w.Close()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w, err := Start(Attr{Streams: []*os.File{os.Stdin}, Files: []*os.File{f}, Signals: 1 << (unix.SIGUSR1 - 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.Pid))
	if err != nil || !bytes.Contains(status, []byte("SigBlk:\t0000000000000200\n")) || !bytes.Contains(status, []byte("SigCgt:\t0000000000000000\n")) {
		t.Errorf("%s%v; want SIGUSR1 blocked, and none caught", status, err)
	}
	if _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", w.Pid)); err == nil {
		t.Error("descriptor 1 is open")
	}
	w.Close()
	var end syscall.WaitStatus
	if _, err := syscall.Wait4(w.Pid, &end, 0, nil); err != nil || end.ExitStatus() != 127 {
		t.Errorf("%v, %v; want 127", end, err)
	}
}

// TestFiles: files go over in both directions.
func TestFiles(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	w, err := Start(Attr{Streams: []*os.File{os.Stdin, os.Stdin, os.Stdin}})
	if err != nil {
		t.Fatal(err)
	}
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := &List{}
	l.Add(Must, unix.SYS_RECVMSG, Socket, l.Put(Take(1)), unix.MSG_CMSG_CLOEXEC)
	text, err := l.Text("hello")
	if err != nil {
		t.Fatal(err)
	}
	l.Add(Must, unix.SYS_WRITE, First, text, 5)
	l.Add(Must, unix.SYS_SENDMSG, Socket, l.Put(Send(First)))
	l.Add(Must, unix.SYS_CLOSE, First)
	if err := errors.Join(w.Tell(l), w.Give(p), p.Close()); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	var reports []Report
	for len(reports) < len(l.Steps) {
		rs, fs, err := w.Hear(t.Context())
		if err != nil {
			t.Fatal(short(reports), err)
		}
		reports, files = append(reports, rs...), append(files, fs...)
	}
	if got, want := short(reports), "0:1/0/false 1:5/0/false 2:32/0/false 3:0/0/false"; got != want || len(files) != 1 {
		t.Fatalf("%s and %d files; want %s and 1", got, len(files), want)
	}
	if _, err := files[0].WriteString(" there"); err != nil {
		t.Fatal(err)
	}
	files[0].Close()
	if got, err := io.ReadAll(r); string(got) != "hello there" || err != nil {
		t.Errorf("%q, %v; want what both have written", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w.Hear(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Hear = %v; want the context's error", err)
	}
	w.Close()
	var end syscall.WaitStatus
	if _, err := syscall.Wait4(w.Pid, &end, 0, nil); err != nil || end.ExitStatus() != 127 {
		t.Errorf("%v, %v; want 127", end, err)
	}
}

// TestAlone: who executes a walker by himself is told what that is.
func TestAlone(t *testing.T) {
	f, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(f.Name())
	out, _ := cmd.CombinedOutput()
	if string(out) != aloneText || cmd.ProcessState.ExitCode() != 127 {
		t.Errorf("%q, %v; want %q, 127", out, cmd.ProcessState, aloneText)
	}
}
