package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// `import -c` and `commit -c` take lines of a Dockerfile that change the config alone. They are read here, and not by
// buildkit's parser, since that brings gRPC into every start of the program.

// InstructionError is a line that changes nothing, or not like this.
type InstructionError struct{ Line, Why string }

func (e *InstructionError) Error() string { return fmt.Sprintf("change %q: %s", e.Line, e.Why) }

// Is makes it [ErrInstruction].
func (e *InstructionError) Is(target error) bool { return target == ErrInstruction }

// instructions are those that change a config, by name. Each gets what follows its name.
func instructions() map[string]func(*configChange, string) error {
	return map[string]func(*configChange, string) error{
		"CMD": (*configChange).cmd, "ENTRYPOINT": (*configChange).entrypoint, "ENV": (*configChange).env,
		"EXPOSE": (*configChange).expose, "LABEL": (*configChange).label, "USER": (*configChange).user,
		"VOLUME": (*configChange).volume, "WORKDIR": (*configChange).workdir, "STOPSIGNAL": (*configChange).stopSignal,
		"ONBUILD": (*configChange).onBuild, "HEALTHCHECK": (*configChange).healthcheck,
	}
}

// configChange is a config while it is changed.
type configChange struct {
	*ocispec.ImageConfig
	extra  *Extra
	cmdSet bool // CMD came before ENTRYPOINT, which otherwise makes the base's CMD meaningless
}

// applyChanges carries out lines in their order.
func applyChanges(c *ocispec.ImageConfig, e *Extra, lines []string) error {
	// The config may be another image's: what is changed is made anew.
	c.Env, e.OnBuild = slices.Clone(c.Env), slices.Clone(e.OnBuild)
	c.ExposedPorts, c.Volumes, c.Labels = maps.Clone(c.ExposedPorts), maps.Clone(c.Volumes), maps.Clone(c.Labels)
	change := &configChange{ImageConfig: c, extra: e}
	for _, text := range lines {
		for _, line := range logicalLines(text) {
			if err := change.line(line); err != nil {
				return err
			}
		}
	}
	return nil
}

// logicalLines splits a text, joining lines that end in a backslash and leaving out comments.
func logicalLines(text string) (lines []string) {
	joined := ""
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimRight(line, " \t\r")
		if before, more := strings.CutSuffix(line, `\`); more {
			joined += before
			continue
		}
		if joined += line; strings.TrimSpace(joined) != "" && !strings.HasPrefix(strings.TrimSpace(joined), "#") {
			lines = append(lines, strings.TrimSpace(joined))
		}
		joined = ""
	}
	if strings.TrimSpace(joined) != "" {
		lines = append(lines, strings.TrimSpace(joined))
	}
	return lines
}

func (c *configChange) line(line string) error {
	word, rest := line, ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		word, rest = line[:i], strings.TrimSpace(line[i:])
	}
	word = strings.ToUpper(word)
	f, ok := instructions()[word]
	if !ok {
		why := "unknown instruction: " + word
		if slices.Contains([]string{"ADD", "ARG", "COPY", "FROM", "MAINTAINER", "RUN", "SHELL"}, word) {
			why = word + " is not a valid change command"
		}
		return &InstructionError{line, why}
	}
	if rest == "" && word != "CMD" && word != "ENTRYPOINT" {
		return &InstructionError{line, word + " requires at least one argument"}
	}
	if err := f(c, rest); err != nil {
		return &InstructionError{line, err.Error()}
	}
	return nil
}

// command reads a command: a JSON list as it is, anything else for a shell.
func (c *configChange) command(rest string) []string {
	if list, ok := jsonList(rest); ok {
		return list
	}
	if rest == "" {
		return []string{}
	}
	shell := c.extra.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), rest)
}

func jsonList(text string) (list []string, ok bool) {
	if !strings.HasPrefix(text, "[") {
		return nil, false
	}
	return list, json.Unmarshal([]byte(text), &list) == nil
}

func (c *configChange) cmd(rest string) error {
	c.Cmd, c.cmdSet = c.command(rest), true
	return nil
}

func (c *configChange) entrypoint(rest string) error {
	c.Entrypoint = c.command(rest)
	if !c.cmdSet {
		c.Cmd = nil
	}
	return nil
}

func (c *configChange) env(rest string) error {
	pairs, err := pairsOf(rest, c.Env)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		set := p[0] + "=" + p[1]
		if i := slices.IndexFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, p[0]+"=") }); i >= 0 {
			c.Env[i] = set
		} else {
			c.Env = append(c.Env, set)
		}
	}
	return nil
}

func (c *configChange) label(rest string) error {
	pairs, err := pairsOf(rest, c.Env)
	if err != nil {
		return err
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for _, p := range pairs {
		c.Labels[p[0]] = p[1]
	}
	return nil
}

// pairsOf reads NAME=VALUE words, or NAME VALUE with a value up to the end of the line.
func pairsOf(rest string, env []string) (pairs [][2]string, err error) {
	words, err := splitWords(rest)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(words[0], "=") {
		name, value, ok := strings.Cut(rest, " ")
		if !ok {
			return nil, fmt.Errorf("%s must be followed by a value", name)
		}
		words = []string{name + "=" + strings.TrimSpace(value)}
	}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return nil, fmt.Errorf("can't find = in %q: it must be NAME=VALUE", w)
		}
		if name, err = expand(name, env); err != nil {
			return nil, err
		}
		if value, err = expand(value, env); err != nil {
			return nil, err
		}
		if name == "" {
			return nil, fmt.Errorf("a name must not be empty")
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}

func (c *configChange) expose(rest string) error {
	words, err := expandedWords(rest, c.Env)
	if err != nil {
		return err
	}
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	for _, w := range words {
		ports, protocol, _ := strings.Cut(strings.ToLower(w), "/")
		if protocol == "" {
			protocol = "tcp"
		}
		first, last, isRange := strings.Cut(ports, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from > to || from == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
			return fmt.Errorf("invalid port %q: it is written PORT, PORT/udp or FROM-TO", w)
		}
		for p := from; p <= to; p++ {
			c.ExposedPorts[fmt.Sprintf("%d/%s", p, protocol)] = struct{}{}
		}
	}
	return nil
}

func (c *configChange) user(rest string) (err error) {
	c.User, err = expand(rest, c.Env)
	if strings.ContainsAny(c.User, " \t") {
		return fmt.Errorf("USER requires exactly one argument")
	}
	return err
}

func (c *configChange) volume(rest string) error {
	words, ok := jsonList(rest)
	if !ok {
		var err error
		if words, err = expandedWords(rest, c.Env); err != nil {
			return err
		}
	}
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	for _, w := range words {
		if w = strings.TrimSpace(w); w == "" {
			return fmt.Errorf("VOLUME specified can not be an empty string")
		}
		c.Volumes[w] = struct{}{}
	}
	return nil
}

func (c *configChange) workdir(rest string) error {
	dir, err := expand(rest, c.Env)
	if err != nil {
		return err
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", c.WorkingDir, dir)
	}
	c.WorkingDir = path.Clean(dir)
	return nil
}

func (c *configChange) stopSignal(rest string) error {
	name, err := expand(rest, c.Env)
	if err != nil {
		return err
	}
	number, notNumber := strconv.Atoi(name)
	known := unix.SignalNum("SIG"+strings.TrimPrefix(strings.ToUpper(name), "SIG")) != 0
	if notNumber == nil && (number < 1 || number > 64) || notNumber != nil && !known && !strings.HasPrefix(strings.ToUpper(name), "SIGRTM") {
		return fmt.Errorf("invalid signal: %s", name)
	}
	c.StopSignal = name
	return nil
}

func (c *configChange) onBuild(rest string) error {
	switch word := strings.ToUpper(strings.Fields(rest)[0]); word {
	case "ONBUILD":
		return fmt.Errorf("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "MAINTAINER", "FROM":
		return fmt.Errorf("%s isn't allowed as an ONBUILD trigger", word)
	}
	c.extra.OnBuild = append(c.extra.OnBuild, rest)
	return nil
}

// healthcheck reads NONE, or options and a command.
func (c *configChange) healthcheck(rest string) error {
	h := &Healthcheck{}
	for strings.HasPrefix(rest, "--") {
		option, after, _ := strings.Cut(rest, " ")
		name, value, _ := strings.Cut(strings.TrimPrefix(option, "--"), "=")
		rest = strings.TrimSpace(after)
		if name == "retries" {
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				return fmt.Errorf("--retries must be at least 1 (not %s)", value)
			}
			h.Retries = n
			continue
		}
		field, ok := map[string]*time.Duration{"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod}[name]
		d, err := time.ParseDuration(value)
		if !ok || err != nil || d < time.Millisecond && d != 0 {
			return fmt.Errorf("HEALTHCHECK knows no option %s", option)
		}
		*field = d
	}
	word, command, _ := strings.Cut(rest, " ")
	command = strings.TrimSpace(command)
	switch strings.ToUpper(word) {
	case "NONE":
		h = &Healthcheck{Test: []string{"NONE"}}
	case "CMD":
		if command == "" {
			return fmt.Errorf("missing command after HEALTHCHECK CMD")
		}
		if list, ok := jsonList(command); ok {
			h.Test = append([]string{"CMD"}, list...)
		} else {
			h.Test = []string{"CMD-SHELL", command}
		}
	default:
		return fmt.Errorf("HEALTHCHECK takes NONE or CMD, not %q", word)
	}
	c.extra.Healthcheck = h
	return nil
}
