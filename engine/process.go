package engine

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/signal"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// defaultPath is the search path of an image that names none. It is Docker's.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// complete fills in from the image what the user has left open, with Docker's rules.
func (c *Config) complete(image ocispec.ImageConfig) error {
	// Who gives an entry point of his own does not want the arguments that were meant for the image's.
	if c.Entrypoint == nil {
		c.Entrypoint = image.Entrypoint
		if len(c.Cmd) == 0 {
			c.Cmd = image.Cmd
		}
	}
	if len(c.Entrypoint) == 1 && c.Entrypoint[0] == "" {
		c.Entrypoint = nil // --entrypoint "" takes the image's away
	}
	if len(c.Entrypoint)+len(c.Cmd) == 0 {
		return &InputError{What: "command", Err: errors.New("no command specified"), Hint: "the image has none either: give one after the image's name"}
	}
	if c.User == "" {
		c.User = image.User
	}
	if c.WorkingDir == "" {
		c.WorkingDir = image.WorkingDir
	}
	if c.WorkingDir == "" {
		c.WorkingDir = "/"
	}
	if !path.IsAbs(c.WorkingDir) {
		return &InputError{What: "working directory", Value: c.WorkingDir, Err: errors.New("it needs to be an absolute path")}
	}
	c.WorkingDir = path.Clean(c.WorkingDir)
	c.Env = mergeEnv(image.Env, c.Env)
	if len(image.Labels) > 0 {
		labels := maps.Clone(image.Labels)
		maps.Copy(labels, c.Labels)
		c.Labels = labels
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	if c.StopSignal == "" {
		c.StopSignal = image.StopSignal
	}
	c.ExposedPorts = union(c.ExposedPorts, image.ExposedPorts)
	c.Volumes = union(c.Volumes, image.Volumes)
	return nil
}

// union is the set of what is in either; nil for the empty one.
func union(a, b map[string]struct{}) map[string]struct{} {
	if len(a)+len(b) == 0 {
		return nil
	}
	all := map[string]struct{}{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// mergeEnv puts one environment over another. A name without "=" takes a variable away.
func mergeEnv(below, above []string) []string {
	env := slices.Clone(below)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append([]string{defaultPath}, env...)
	}
	for _, e := range above {
		name, _, has := strings.Cut(e, "=")
		i := slices.IndexFunc(env, func(x string) bool { return strings.HasPrefix(x, name+"=") })
		switch {
		case !has && i >= 0:
			env = slices.Delete(env, i, i+1)
		case !has:
		case i >= 0:
			env[i] = e
		default:
			env = append(env, e)
		}
	}
	return env
}

// environment is what the program finds: its own variables, and those that depend on the container.
func (r *Record) environment() []string {
	have := func(name string) bool {
		return slices.ContainsFunc(r.Config.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	}
	var env []string
	if i := slices.IndexFunc(r.Config.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }); i >= 0 {
		env = append(env, r.Config.Env[i])
	}
	if !have("HOSTNAME") {
		env = append(env, "HOSTNAME="+r.Config.Hostname)
	}
	if r.Config.Tty && !have("TERM") {
		env = append(env, "TERM=xterm")
	}
	for _, e := range r.Config.Env {
		if !strings.HasPrefix(e, "PATH=") {
			env = append(env, e)
		}
	}
	return env
}

// argv is the program with its arguments.
func (c *Config) argv() []string { return slices.Concat(c.Entrypoint, c.Cmd) }

// stopSignal is how the container is asked to end.
func (c *Config) stopSignal() (syscall.Signal, error) {
	if c.StopSignal == "" {
		return syscall.SIGTERM, nil
	}
	return ParseSignal(c.StopSignal)
}

// ParseSignal reads "SIGTERM", "TERM", "term" or "15".
func ParseSignal(s string) (syscall.Signal, error) {
	sig, err := signal.ParseSignal(s)
	if err != nil {
		return 0, &InputError{What: "signal", Value: s, Err: errors.New("no signal has this name or number")}
	}
	return sig, nil
}

// checkText refuses what would break out of the line that it is written to: a host name with a newline in it adds an entry
// to /etc/hosts.
func checkText(what, text string) error {
	if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		return &InputError{What: what, Value: text, Err: fmt.Errorf("it has a control character")}
	}
	return nil
}
