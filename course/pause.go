package course

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// key is what the learner chose at a pause.
type key string

const (
	keyNext   key = "n"
	keyRepeat key = "r"
	keyShell  key = "s"
	keySource key = "c"
	keyQuit   key = "q"
)

// keyOf says which key a word stands for.
func keyOf(word string) (k key, known bool) {
	switch word {
	case "", "n", "next":
		return keyNext, true
	case "r", "repeat":
		return keyRepeat, true
	case "s", "shell":
		return keyShell, true
	case "c", "code", "source":
		return keySource, true
	case "q", "quit", "exit":
		return keyQuit, true
	}
	return "", false
}

// keyboard reads lines, and only when asked: nothing typed for a shell may be swallowed.
type keyboard struct {
	in           *bufio.Reader
	shellRunning atomic.Bool
}

func newKeyboard(f *os.File) *keyboard { return &keyboard{in: bufio.NewReader(f)} }

// line returns the next line; ok is false at the end of the input and when ctx is done.
func (k *keyboard) line(ctx context.Context) (text string, ok bool) {
	type read struct {
		text string
		err  error
	}
	done := make(chan read, 1)
	go func() {
		text, err := k.in.ReadString('\n')
		done <- read{text, err}
	}()
	select {
	case r := <-done:
		return strings.TrimSpace(r.text), r.err == nil
	case <-ctx.Done():
		return "", false
	}
}

// predict asks for the learner's guess; 0 is none.
func (w *walker) predict(s section) int {
	w.screen.text("Guess", "", s.question, nil)
	for i, c := range s.choices {
		w.screen.text("Guess", fmt.Sprintf("%d)", i+1), c, cyan)
	}
	for {
		fmt.Fprint(w.out, strings.Repeat(" ", textColumn), w.screen.say("your guess (1-%d, Enter to skip): ", len(s.choices)))
		text, ok := w.keys.line(w.ctx)
		if !ok {
			w.screen.blank() // the prompt's line
			return 0
		}
		if text == "" {
			return 0
		}
		if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= len(s.choices) {
			return n
		}
		w.screen.text("Guess", "", w.screen.say("please type a number from 1 to %d", len(s.choices)), yellow)
	}
}

// judge shows the guess beside what happened.
func (w *walker) judge(s section, guess, answer int) {
	if !w.human() || answer > len(s.choices) {
		return
	}
	if guess == answer {
		w.screen.text("Guess", "✓", w.screen.say("you said %d) %s: right", guess, s.choices[guess-1]), green)
		return
	}
	w.screen.text("Guess", "→", w.screen.say("you said %d) %s; it is %d) %s",
		guess, s.choices[guess-1], answer, s.choices[answer-1]), yellow)
}

// pause waits for the learner, who may look around first. The end of the input leaves the lab.
func (w *walker) pause(t *T, last bool) key {
	prompt := "Enter next · r repeat · s shell · c source · q quit > "
	if last {
		prompt = "Enter finish · r repeat · s shell · c source · q quit > "
	}
	for {
		fmt.Fprint(w.out, strings.Repeat(" ", labelIndent), w.screen.say(prompt))
		text, ok := w.keys.line(w.ctx)
		if !ok {
			w.screen.blank()
			return keyQuit
		}
		switch k, known := keyOf(strings.ToLower(text)); {
		case !known:
			fmt.Fprintln(w.out, strings.Repeat(" ", labelIndent)+w.screen.say("type n, r, s, c or q, and Enter"))
		case k == keyShell:
			w.shell(t)
		case k == keySource:
			w.showSource()
		default:
			return k
		}
	}
}

// shell lets the learner look around in the namespaces of the step's process, or in the sacrifice.
func (w *walker) shell(t *T) {
	program := os.Getenv("SHELL")
	if _, err := exec.LookPath(program); err != nil {
		program = "/bin/sh"
	}
	fmt.Fprintln(w.out, strings.Repeat(" ", labelIndent)+
		faint(w.screen.say("a shell inside, in the namespaces as they are now; 'exit' comes back")))
	w.keys.shellRunning.Store(true)
	defer w.keys.shellRunning.Store(false)
	defer keepTerminal()()
	var err error
	if t.shell != nil {
		_, err = t.shell.Call(t.Untraced(), "shell", program)
	} else {
		cmd := exec.CommandContext(w.ctx, program)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err = cmd.Run(); cmd.ProcessState != nil {
			err = nil // the status of the last command typed is no failure
		}
	}
	if err != nil {
		w.screen.failure(err, w.translate)
	}
}

// keepTerminal returns a function that makes nslab's process group the terminal's foreground again. A shell with job
// control takes the terminal, and one inside a PID namespace cannot give it back: our group has no number in there.
func keepTerminal() func() {
	fd := int(os.Stdin.Fd())
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil {
		return func() {} // no terminal
	}
	return func() {
		signal.Ignore(syscall.SIGTTOU) // what the kernel sends to who sets this from the background
		defer signal.Reset(syscall.SIGTTOU)
		unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, group)
	}
}
