package rootfs

import (
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// binprmSize is how much of a file the kernel reads to see what it is (BINPRM_BUF_SIZE): a longer #! line is cut off.
const binprmSize = 256

// maxScripts is how many scripts may interpret each other before the kernel says ELOOP.
const maxScripts = 5

// script adds the interpreter of a script. The interpreter may be a script itself.
func (p *planner) script(name, head string, depth int) error {
	if depth >= maxScripts {
		return &Error{Op: "take", Path: name, Err: unix.ELOOP}
	}
	interpreter, argument := shebang(head)
	if interpreter == "" {
		return &Error{Op: "take", Path: name, Err: ErrNotProgram}
	}
	if err := p.program(interpreter, Reason{Interpreter, name}, depth+1); err != nil {
		return err
	}
	wanted := envProgram(interpreter, argument)
	if wanted == "" {
		return nil
	}
	file, err := p.host.lookPath(wanted)
	if err != nil {
		return &NotFound{Kind: "interpreter", Name: wanted, By: name, Searched: p.host.Path}
	}
	return p.program(file, Reason{Interpreter, name}, depth+1)
}

// shebang splits the first line of a script as fs/binfmt_script.c does: the interpreter, and everything after it as one
// argument, blanks in the middle included.
func shebang(head string) (interpreter, argument string) {
	line, _, whole := strings.Cut(strings.TrimPrefix(head, "#!"), "\n")
	line, _, _ = strings.Cut(line, "\x00")
	line = strings.Trim(line, " \t")
	i := strings.IndexAny(line, " \t")
	if i < 0 {
		if !whole && len(head) >= binprmSize {
			return "", "" // the name may go on: the kernel refuses rather than run another program (since Linux 5.0)
		}
		return line, ""
	}
	return line[:i], strings.TrimLeft(line[i:], " \t")
}

// envProgram is the program that env(1) will look for in the search path: "#!/usr/bin/env python3". With -S env splits
// the argument that the kernel does not split.
func envProgram(interpreter, argument string) string {
	if path.Base(interpreter) != "env" || argument == "" {
		return ""
	}
	words := []string{argument}
	for _, option := range []string{"-S", "-vS", "--split-string=", "--split-string "} {
		if rest, ok := strings.CutPrefix(argument, option); ok {
			words = strings.Fields(rest)
			break
		}
	}
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case w == "-u" || w == "--unset" || w == "-C" || w == "--chdir":
			i++ // has a value
		case strings.HasPrefix(w, "-") || strings.Contains(w, "="):
		default:
			return w
		}
	}
	return ""
}
