package doctor

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Message is something to say, not yet in a language: a format and its arguments, some of which may be messages again.
type Message struct {
	format string
	args   []any
}

func say(format string, args ...any) Message { return Message{format, args} }

// In formats the message in lang, "en" or "zh". What has no translation (a command, a path) is the same in both.
func (m Message) In(lang string) string {
	format := m.format
	if lang == "zh" {
		if t, ok := zh()[format]; ok {
			format = t
		}
	}
	if len(m.args) == 0 {
		return format
	}
	args := make([]any, len(m.args))
	for i, a := range m.args {
		if inner, ok := a.(Message); ok {
			a = inner.In(lang)
		}
		args[i] = a
	}
	return fmt.Sprintf(format, args...)
}

// command is a message that no language changes.
func command(text string) Message { return say("%s", text) }

// plain is an error on one line; errors.Join puts each on its own.
func plain(err error) Message { return command(strings.ReplaceAll(err.Error(), "\n", "; ")) }

// errnoText is what the kernel answered: its name, which can be looked up, and what it means.
func errnoText(e syscall.Errno) Message {
	name := unix.ErrnoName(e)
	if name == "" {
		name = fmt.Sprintf("errno %d", int(e))
	}
	return say("%s (%s)", name, say(e.Error()))
}
