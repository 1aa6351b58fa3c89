package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The tests of terminals have two of them. The user's has a client on it, which is this test binary once more, in a session
// of its own; the test types, and reads the screen, at its master. The container's has a shell on it.

const clientEnv = "NSLAB_STREAM_TEST_CLIENT"

func TestMain(m *testing.M) {
	if mode := os.Getenv(clientEnv); mode != "" {
		os.Exit(client(mode))
	}
	// Whoever runs the tests in the background of a script has some signals ignored, and programs inherit that.
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGHUP} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
	os.Exit(m.Run())
}

// client attaches its standard files to the connection that is descriptor 3, and tells how it went on descriptor 4.
func client(mode string) int {
	if log, ok := strings.CutPrefix(mode, "hub "); ok {
		return hubProcess(log)
	}
	if mode == "plain" {
		return plainClient()
	}
	keys, _ := ParseKeys("")
	o := Options{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Keys: keys}
	switch mode {
	case "panic":
		o.Stdout = panicker{}
	case "redraw":
		o.Redraw = true
	}
	out, err := Attach(context.Background(), os.NewFile(3, "conn"), o)
	fmt.Fprintf(os.NewFile(4, "tell"), "detached=%v status=%d error=%v", out.Detached, out.ExitStatus, err)
	var sig *SignalError
	if errors.As(err, &sig) {
		return 128 + int(sig.Signal.(syscall.Signal))
	}
	if errors.Is(err, unix.EPIPE) {
		return 128 + int(unix.SIGPIPE)
	}
	return out.ExitStatus
}

type panicker struct{}

func (panicker) Write([]byte) (int, error) { panic("a bug") }

// openTerminal makes a pair of pseudoterminals: pty(7).
func openTerminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal("open /dev/ptmx:", err)
	}
	master = os.NewFile(uintptr(fd), "master")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal("unlock terminal:", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal("get number of terminal:", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// mode is a terminal's mode, to be compared.
func mode(t testing.TB, f *os.File) (m unix.Termios) {
	t.Helper()
	err := control(f, func(fd int) error {
		p, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			m = *p
		}
		return err
	})
	if err != nil {
		t.Fatal("get mode of terminal:", err)
	}
	return m
}

// user is somebody at a terminal with a client.
type user struct {
	keyboard *os.File // the master
	slave    *os.File
	before   unix.Termios
	screen   *buffer
	cmd      *exec.Cmd
	told     chan string
}

// sit starts a client on a terminal of its own, connected to conn.
func sit(t testing.TB, conn *os.File, mod string, change func(*exec.Cmd)) *user {
	t.Helper()
	u := &user{screen: newBuffer(), told: make(chan string, 1)}
	u.keyboard, u.slave = openTerminal(t)
	u.before = mode(t, u.slave)
	if err := SetSize(u.slave, Size{Rows: 31, Cols: 97}); err != nil {
		t.Fatal(err)
	}
	r, w := pipe(t)
	fd, err := dup(conn) // os/exec would make conn itself blocking
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "conn")
	defer file.Close()
	u.cmd = exec.Command("/proc/self/exe")
	u.cmd.Env = append(os.Environ(), clientEnv+"="+mod)
	u.cmd.Stdin, u.cmd.Stdout, u.cmd.Stderr = u.slave, u.slave, u.slave
	u.cmd.ExtraFiles = []*os.File{file, w}
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if change != nil {
		change(u.cmd)
	}
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	w.Close()
	t.Cleanup(func() {
		u.cmd.Process.Kill()
		u.cmd.Wait()
	})
	go io.Copy(u.screen, u.keyboard)
	go func() {
		b, _ := io.ReadAll(r)
		u.told <- string(b)
	}()
	return u
}

// raw waits until the user's terminal is raw.
func (u *user) raw(t testing.TB) {
	for mode(t, u.slave).Lflag&unix.ICANON != 0 {
		time.Sleep(time.Millisecond)
	}
}

// left checks how the client ended, and that it restored the terminal.
func (u *user) left(t testing.TB, told string, status int) {
	t.Helper()
	if got := <-u.told; got != told {
		t.Errorf("the client told %q, want %q; its screen: %q", got, told, u.screen)
	}
	u.cmd.Wait()
	if got := u.cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("the client's exit status is %d, want %d; its screen: %q", got, status, u.screen)
	}
	if got := mode(t, u.slave); got != u.before {
		t.Errorf("the terminal's mode is %+v after the client, was %+v", got, u.before)
	}
}

// shell is a container with a terminal, and a shell on it.
type shell struct {
	*container
	cmd  *exec.Cmd
	once sync.Once
}

func newShell(t testing.TB, script string) *shell {
	t.Helper()
	master, slave := openTerminal(t)
	s := &shell{container: &container{path: t.TempDir() + "/attach.sock"}}
	var err error
	if s.hub, err = NewHub(Config{Terminal: master, OpenStdin: true, StdinOnce: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.hub.Listen(s.path); err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command("sh", "-c", script)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	t.Cleanup(s.kill)
	return s
}

// start starts the shell. The test has its terminal no longer open.
func (s *shell) start(t testing.TB) {
	t.Helper()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdin.(*os.File).Close()
	s.hub.Start()
}

// wait waits for the shell's end, and tells the clients.
func (s *shell) wait() {
	s.once.Do(func() { s.cmd.Wait(); s.hub.Close(s.cmd.ProcessState.ExitCode()) })
}

func (s *shell) kill() {
	if s.cmd.Process != nil {
		s.cmd.Process.Kill()
		s.wait()
	}
}

func TestTerminal(t *testing.T) {
	s := newShell(t, `
		stty size
		trap 'stty size' WINCH
		while :; do
			read x; r=$?
			[ $r = 0 ] && echo "got <$x>"
			[ $r = 1 ] && exit 12 # the end; a signal is more
		done`)
	u := sit(t, s.first(t, everything), "attach", nil)
	u.raw(t)
	s.start(t)
	u.screen.wait("31 97\r\n") // the size is there before the shell
	put(t, u.keyboard, "hello\r")
	u.screen.wait("hello\r\ngot <hello>\r\n")
	if err := SetSize(u.keyboard, Size{Rows: 32, Cols: 98}); err != nil {
		t.Fatal(err)
	}
	u.screen.wait("32 98\r\n")
	put(t, u.keyboard, "\x04") // the terminal in the container makes an end of file of it
	s.wait()
	u.left(t, "detached=false status=12 error=<nil>", 12)
}

func TestInterruptKey(t *testing.T) {
	s := newShell(t, `trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 1; done`)
	u := sit(t, s.first(t, everything), "attach", nil)
	u.raw(t)
	s.start(t)
	u.screen.wait("ready")
	put(t, u.keyboard, "\x03")
	u.screen.wait("interrupted")
	s.wait()
	u.left(t, "detached=false status=3 error=<nil>", 3)
}

// TestDetach: with the keys in pieces; the next client finds the shell as it was.
func TestDetach(t *testing.T) {
	s := newShell(t, `while read x; do echo "got <$x>"; done`)
	u := sit(t, s.first(t, everything), "attach", nil)
	u.raw(t)
	s.start(t)
	put(t, u.keyboard, "a\x10b\r")
	u.screen.wait("got <a\x10b>") // half of the keys is passed on
	put(t, u.keyboard, "\x10")
	put(t, u.keyboard, "\x11")
	u.left(t, "detached=true status=0 error=<nil>", 0)
	s.attached(0)
	u = sit(t, s.dial(t), "attach", nil)
	u.raw(t)
	put(t, u.keyboard, "c\r")
	u.screen.wait("got <c>")
	put(t, u.keyboard, "\x10\x11")
	u.left(t, "detached=true status=0 error=<nil>", 0)
}

// TestKilledClient: the container's terminal is the monitor's, and the next client has it.
func TestKilledClient(t *testing.T) {
	s := newShell(t, `while read x; do echo "got <$x>"; done`)
	u := sit(t, s.first(t, everything), "attach", nil)
	u.raw(t)
	s.start(t)
	u.cmd.Process.Kill()
	s.attached(0)
	u = sit(t, s.dial(t), "attach", nil)
	u.raw(t)
	put(t, u.keyboard, "still there\r")
	u.screen.wait("got <still there>")
}

// TestSignals: those that end a process restore the terminal first.
func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT} {
		s := newShell(t, `echo ready; while :; do sleep 1; done`)
		u := sit(t, s.first(t, everything), "attach", nil)
		u.raw(t)
		s.start(t)
		u.screen.wait("ready")
		u.cmd.Process.Signal(sig)
		u.left(t, fmt.Sprintf("detached=false status=0 error=ended by a signal: %v", sig), 128+int(sig))
		s.kill()
	}
}

// TestPanic: a bug in a goroutine restores the terminal, too.
func TestPanic(t *testing.T) {
	s := newShell(t, `read x; echo $x; read x`)
	u := sit(t, s.first(t, everything), "panic", nil)
	u.raw(t)
	s.start(t)
	put(t, u.keyboard, "x\r")
	u.screen.wait("a bug")
	u.left(t, "", 2)
}

// TestBrokenPipe: `run -it … | head -1` ends with the terminal restored, and the container goes on.
func TestBrokenPipe(t *testing.T) {
	r, w := pipe(t)
	s := newShell(t, `while read x; do echo "got <$x>"; done`)
	u := sit(t, s.first(t, everything), "attach", func(c *exec.Cmd) { c.Stdout = w })
	w.Close()
	u.raw(t)
	s.start(t)
	r.Close()
	put(t, u.keyboard, "x\r")
	u.left(t, "detached=false status=0 error=write stdout: broken pipe", 141)
	s.attached(0)
	u = sit(t, s.dial(t), "attach", nil)
	u.raw(t)
	put(t, u.keyboard, "still there\r")
	u.screen.wait("got <still there>")
}

// TestRedraw: attaching with the same size as before makes a program draw again.
func TestRedraw(t *testing.T) {
	s := newShell(t, `trap 'echo drawn $(stty size)' WINCH; echo ready; while :; do sleep 0.1; done`)
	u := sit(t, s.first(t, everything), "attach", nil)
	u.raw(t)
	s.start(t)
	u.screen.wait("ready")
	put(t, u.keyboard, "\x10\x11")
	u.left(t, "detached=true status=0 error=<nil>", 0)
	u = sit(t, s.dial(t), "redraw", nil)
	u.screen.wait("drawn 31 97")
}

// TestStopped: a client that was stopped and goes on makes the terminal raw again, after the shell had it.
func TestStopped(t *testing.T) {
	s := newShell(t, `echo ready; read x`)
	u := sit(t, s.first(t, everything), "attach", nil)
	u.raw(t)
	s.start(t)
	u.screen.wait("ready")
	u.cmd.Process.Signal(unix.SIGSTOP)
	err := control(u.slave, func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETS, &u.before) })
	if err != nil {
		t.Fatal(err)
	}
	u.cmd.Process.Signal(unix.SIGCONT)
	u.raw(t)
	put(t, u.keyboard, "\x10\x11")
	u.left(t, "detached=true status=0 error=<nil>", 0)
}

// TestTerminalToPipes: stdin is a terminal, the container has none: lines, and an end of file, as the user's terminal makes
// them.
func TestTerminalToPipes(t *testing.T) {
	c := newContainer(t, Config{StdinOnce: true})
	c.hub.Start()
	u := sit(t, c.first(t, everything), "attach", nil)
	put(t, u.keyboard, "ab\x7fc\r")
	if line := readLine(t, c.stdin); line != "ac" {
		t.Errorf("the container read %q", line)
	}
	put(t, u.keyboard, "\x04")
	if rest, err := io.ReadAll(c.stdin); len(rest) != 0 || err != nil {
		t.Errorf("the container read %q, %v, at its end", rest, err)
	}
	put(t, c.stdout, "out\n")
	u.screen.wait("out\r\n")
	if got := mode(t, u.slave); got != u.before {
		t.Errorf("the terminal's mode is %+v, was %+v", got, u.before)
	}
	c.exit(0)
	u.left(t, "detached=false status=0 error=<nil>", 0)
}

// TestTerminalReopened: a program may close its terminal, and open it again later. That is not its end.
func TestTerminalReopened(t *testing.T) {
	s := newShell(t, `tty=$(tty); echo one; exec </dev/null >/dev/null 2>&1; sleep 0.2; echo two >$tty; sleep 0.2; echo three >$tty`)
	u := sit(t, s.first(t, everything), "attach", nil)
	u.raw(t)
	s.start(t)
	s.wait()
	u.left(t, "detached=false status=0 error=<nil>", 0)
	u.screen.wait("one\r\ntwo\r\nthree\r\n")
}

// TestTerminalBig: what a program prints just before its end is not lost.
func TestTerminalBig(t *testing.T) {
	s := newShell(t, `i=0; while [ $i -lt 20000 ]; do echo "line $i"; i=$((i+1)); done`)
	out := newBuffer()
	got := attach(t.Context(), s.first(t, everything), Options{Stdout: out})
	s.start(t)
	s.wait()
	var want strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&want, "line %d\r\n", i)
	}
	if r := <-got; r.err != nil || out.String() != want.String() {
		t.Errorf("Attach: %+v, %d bytes; want %d", r, len(out.String()), want.Len())
	}
}

func TestNotTerminal(t *testing.T) {
	r, _ := pipe(t)
	if _, err := OpenTerminal(r); !errors.Is(err, ErrNotTerminal) {
		t.Errorf("OpenTerminal of a pipe: %v", err)
	}
}

// TestSizeFirst: a program finds the size of the window, if the client has told it before.
func TestSizeFirst(t *testing.T) {
	s := newShell(t, `stty size`)
	hub, client, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put(t, client, string(append(frame(frameHello, version, wantStdin|wantStdout), Size{Rows: 7, Cols: 9}.frame()...)))
	put(t, client, string(frame(frameStdin, []byte("typed")...)))
	if err := s.hub.Add(hub, everything); err != nil {
		t.Fatal(err)
	}
	out := newBuffer()
	got := attach(t.Context(), client, Options{Stdout: out})
	s.start(t)
	s.wait()
	if r := <-got; r.err != nil || !strings.Contains(out.String(), "7 9\r\n") {
		t.Errorf("Attach: %+v, %q", r, out)
	}
}

// TestHubKilled: the terminal is restored when the monitor is gone.
func TestHubKilled(t *testing.T) {
	hub, conn, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	u := sit(t, conn, "attach", nil)
	put(t, hub, string(frame(frameReady, version, hasTerminal|hasStdin)))
	put(t, hub, string(frame(frameStdout, []byte("half of a frame")...)[:12]))
	u.raw(t)
	u.screen.wait("half")
	hub.Close()
	u.left(t, "detached=false status=0 error="+ErrGone.Error(), 0)
}
