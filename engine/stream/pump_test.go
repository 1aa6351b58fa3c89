package stream

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

	"golang.org/x/sys/unix"
)

// program starts a shell script with pipes, as exec would.
func program(t testing.TB, script string) (l Local, cmd *exec.Cmd) {
	t.Helper()
	var in, out, errOut *os.File
	in, l.Stdin = pipe(t)
	l.Stdout, out = pipe(t)
	l.Stderr, errOut = pipe(t)
	cmd = exec.Command("sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errOut
	l.Done = begin(t, cmd)
	in.Close()
	out.Close()
	errOut.Close()
	return l, cmd
}

// begin starts a program in a group of its own, which ends with the test.
func begin(t testing.TB, cmd *exec.Cmd) <-chan struct{} {
	t.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		<-done
	})
	return done
}

func TestPump(t *testing.T) {
	l, cmd := program(t, `cat; echo complaint >&2; exit 4`)
	out, errOut := newBuffer(), newBuffer()
	text := strings.Repeat("some text\n", 100000)
	got, err := Pump(t.Context(), l, Options{Stdin: strings.NewReader(text), Stdout: out, Stderr: errOut})
	if err != nil || got != (Outcome{}) || cmd.ProcessState.ExitCode() != 4 {
		t.Errorf("Pump: %+v, %v; the program: %v", got, err, cmd.ProcessState)
	}
	if out.String() != text || errOut.String() != "complaint\n" {
		t.Errorf("got %d bytes, want %d; and %q", len(out.String()), len(text), errOut)
	}
}

// TestPumpNoStdin: a program that reads finds an end.
func TestPumpNoStdin(t *testing.T) {
	l, _ := program(t, `cat; echo end`)
	out := newBuffer()
	if _, err := Pump(t.Context(), l, Options{Stdout: out}); err != nil || out.String() != "end\n" {
		t.Errorf("Pump: %v, %q", err, out)
	}
}

// TestPumpClosedOutputs: a program that closes its outputs has not ended.
func TestPumpClosedOutputs(t *testing.T) {
	l, cmd := program(t, `exec >&- 2>&-; read x; exit 6`)
	in, typed := pipe(t)
	go func() {
		time.Sleep(50 * time.Millisecond)
		io.WriteString(typed, "go\n")
	}()
	if _, err := Pump(t.Context(), l, Options{Stdin: in}); err != nil || cmd.ProcessState.ExitCode() != 6 {
		t.Errorf("Pump: %v; the program: %v", err, cmd.ProcessState)
	}
}

// TestPumpBackground: somebody is left behind with the outputs open. All that the program printed is there, and the wait for
// more is bounded, even if more comes all the time.
func TestPumpBackground(t *testing.T) {
	for _, script := range []string{`sleep 1000 & echo program`, `yes >/dev/null & echo program`, `(sleep 0.1; yes) & echo program`} {
		l, _ := program(t, script)
		l.Grace = 300 * time.Millisecond
		out := newBuffer()
		_, err := Pump(t.Context(), l, Options{Stdout: out})
		if err != nil || !strings.HasPrefix(out.String(), "program\n") {
			t.Errorf("Pump of %s: %v, %.20q", script, err, out)
		}
	}
}

// slow takes what is written when it is told to.
type slow struct {
	*buffer
	gate chan struct{}
}

func (s slow) Write(p []byte) (int, error) {
	<-s.gate
	return s.buffer.Write(p)
}

// TestPumpSlow: the grace is for others. What the program printed is written, however long that takes.
func TestPumpSlow(t *testing.T) {
	l, _ := program(t, `sleep 1000 & head -c 60000 /dev/zero`)
	l.Grace = time.Millisecond
	out := slow{newBuffer(), make(chan struct{})}
	done := l.Done
	go func() {
		<-done
		time.Sleep(100 * time.Millisecond)
		close(out.gate)
	}()
	if _, err := Pump(t.Context(), l, Options{Stdout: out}); err != nil || len(out.String()) != 60000 {
		t.Errorf("Pump: %v, %d bytes; want 60000", err, len(out.String()))
	}
}

func TestPumpBrokenPipe(t *testing.T) {
	l, _ := program(t, `while :; do echo x; done`)
	r, w := pipe(t)
	r.Close()
	_, err := Pump(t.Context(), l, Options{Stdout: w})
	var o *OutputError
	if !errors.As(err, &o) || !errors.Is(err, unix.EPIPE) || o.Stream != "stdout" {
		t.Errorf("Pump: %v", err)
	}
}

func TestPumpCancelled(t *testing.T) {
	l, _ := program(t, `echo ready; sleep 1000`)
	out := newBuffer()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		out.wait("ready")
		cancel()
	}()
	in, _ := pipe(t)
	if _, err := Pump(ctx, l, Options{Stdin: in, Stdout: out}); !errors.Is(err, context.Canceled) {
		t.Errorf("Pump: %v", err)
	}
}

// TestPumpTerminal: as exec -it, with the user's terminal in between.
func TestPumpTerminal(t *testing.T) {
	master, slave := openTerminal(t)
	keyboard, user := openTerminal(t)
	if err := SetSize(user, Size{Rows: 12, Cols: 34}); err != nil {
		t.Fatal(err)
	}
	before := mode(t, user)
	screen := newBuffer()
	go io.Copy(screen, keyboard)
	cmd := exec.Command("sh", "-c", `read x; stty size; echo "got <$x>"; read x`)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	done := begin(t, cmd)
	slave.Close()
	keys, err := ParseKeys("ctrl-a,b")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for mode(t, user) == before {
			time.Sleep(time.Millisecond)
		}
		put(t, keyboard, "hello\r")
		screen.wait("got <hello>")
		put(t, keyboard, "\x01b")
	}()
	out, err := Pump(t.Context(), Local{Terminal: master, Done: done}, Options{Stdin: user, Stdout: user, Keys: keys})
	if err != nil || !out.Detached {
		t.Errorf("Pump: %+v, %v", out, err)
	}
	if want := "hello\r\n12 34\r\ngot <hello>\r\n"; screen.String() != want {
		t.Errorf("the screen: %q, want %q", screen, want)
	}
	if got := mode(t, user); got != before {
		t.Errorf("the terminal's mode is %+v, was %+v", got, before)
	}
}

// TestReaderStops: after the end nobody takes what is typed.
func TestReaderStops(t *testing.T) {
	l, _ := program(t, `echo end`)
	in, typed := pipe(t)
	if _, err := Pump(t.Context(), l, Options{Stdin: in}); err != nil {
		t.Fatal(err)
	}
	put(t, typed, "for the next program\n")
	if line := readLine(t, in); line != "for the next program" {
		t.Errorf("the next program reads %q", line)
	}
}
