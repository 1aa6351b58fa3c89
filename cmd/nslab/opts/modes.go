package opts

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/signal"
)

// ofContainer says whether a mode is container:NAME.
func ofContainer(mode string) bool {
	name, ok := strings.CutPrefix(mode, "container:")
	return ok && name != "" && plain("name", name) == nil
}

// oneOf makes a check that takes these words, and container:NAME if container is set.
func oneOf(kind string, container bool, words ...string) func(string) (string, error) {
	return func(value string) (string, error) {
		if value == "" || slices.Contains(words, value) || container && ofContainer(value) {
			return value, nil
		}
		all := strings.Join(words, ", ")
		if container {
			all += ", container:NAME"
		}
		return "", fmt.Errorf("invalid %s mode: %s: there are %s", kind, printable(value), all)
	}
}

// PidMode checks --pid.
func PidMode(value string) (string, error) { return oneOf("PID", true, "host")(value) }

// IpcMode checks --ipc.
func IpcMode(value string) (string, error) {
	return oneOf("IPC", true, "private", "shareable", "host", "none")(value)
}

// UTSMode checks --uts.
func UTSMode(value string) (string, error) { return oneOf("UTS", false, "host")(value) }

// CgroupnsMode checks --cgroupns.
func CgroupnsMode(value string) (string, error) {
	return oneOf("CGROUP", false, "private", "host")(value)
}

// UsernsMode checks --userns. Root's containers are in the host's user namespace anyway, and an ordinary user's cannot be.
func UsernsMode(value string) (string, error) { return oneOf("USER", false, "host")(value) }

// Pull checks --pull.
func Pull(value string) (string, error) {
	switch value {
	case "":
		return "missing", nil
	case "always", "missing", "never":
		return value, nil
	}
	return "", fmt.Errorf(`invalid pull option: %s: must be one of "always", "missing" or "never"`, quoted(value))
}

// Platform checks --platform: OS[/ARCH[/VARIANT]]. Whether the image has it is known later.
func Platform(value string) (string, error) {
	parts := strings.Split(value, "/")
	ok := len(parts) <= 3
	for _, part := range parts {
		ok = ok && part != "" && letterOrDigit(part[0]) && !strings.ContainsFunc(part, func(r rune) bool {
			return r >= 128 || !letterOrDigit(byte(r)) && !strings.ContainsRune("_.-", r)
		})
	}
	if !ok && value != "" {
		return "", fmt.Errorf("%s is no platform: it is os[/arch[/variant]], for example linux/amd64", quoted(value))
	}
	return strings.ToLower(value), nil
}

// Driver checks --driver.
func Driver(value string) (string, error) {
	if value != "" && !slices.Contains([]string{"overlay", "aufs", "aufs-fuse"}, value) {
		return "", fmt.Errorf("no driver is called %s: there are overlay, aufs and aufs-fuse", quoted(value))
	}
	return value, nil
}

// Attach checks --attach.
func Attach(value string) (string, error) {
	if stream := strings.ToLower(value); slices.Contains([]string{"stdin", "stdout", "stderr"}, stream) {
		return stream, nil
	}
	return "", fmt.Errorf("valid streams are STDIN, STDOUT and STDERR")
}

// Restart checks --restart. There is no daemon that could start a container again, so only "no" is taken.
func Restart(value string) (string, error) {
	policy, retries, counted := strings.Cut(value, ":")
	n, err := strconv.Atoi(retries)
	switch {
	case counted && policy == "":
		return "", fmt.Errorf("invalid restart policy format: no policy provided before colon")
	case retries != "" && err != nil:
		return "", fmt.Errorf("invalid restart policy format: maximum retry count must be an integer")
	case !slices.Contains([]string{"", "no", "always", "unless-stopped", "on-failure"}, policy):
		return "", fmt.Errorf("invalid restart policy: unknown policy %s; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
			quoted(policy))
	case n != 0 && policy != "on-failure":
		return "", fmt.Errorf("invalid restart policy: maximum retry count can only be used with 'on-failure'")
	case n < 0:
		return "", fmt.Errorf("invalid restart policy: maximum retry count cannot be negative")
	case policy != "" && policy != "no":
		return "", fmt.Errorf("restart policy %s needs a daemon, which nslab has not: only 'no' is possible", quoted(policy))
	}
	return "no", nil
}

// maxSignal is the last of the real-time signals, signal(7).
const maxSignal = 64

// Signal checks --stop-signal and the signal of `kill`: TERM, SIGTERM or 15.
func Signal(value string) (string, error) {
	if n, err := signal.ParseSignal(value); value != "" && (err != nil || n < 1 || n > maxSignal) {
		return "", fmt.Errorf("invalid signal: %s", printable(value))
	}
	return value, nil
}

// DetachKeys reads --detach-keys: keys with commas between them, each a character, ctrl-X or DEL. Nil means that nothing
// was given.
func DetachKeys(value string) (keys []byte, err error) {
	if value == "" {
		return nil, nil
	}
	for key := range strings.SplitSeq(value, ",") {
		letter, control := strings.CutPrefix(key, "ctrl-")
		switch {
		case len(key) == 1:
			keys = append(keys, key[0])
		case key == "DEL":
			keys = append(keys, 127)
		case control && len(letter) == 1 && (letter[0] >= 'a' && letter[0] <= 'z' || strings.Contains(`@[\]^_`, letter)):
			keys = append(keys, letter[0]&0x1f) // as the terminal does
		default:
			return nil, fmt.Errorf("invalid detach keys (%s): unknown character: %s", printable(value), quoted(key))
		}
	}
	return keys, nil
}
