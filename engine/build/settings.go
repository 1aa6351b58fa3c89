package build

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/image"
	"github.com/nslab/nslab/image/dockerfile"
)

// run is an instruction that is being carried out.
type run struct {
	*dockerfile.Instruction
	s  *stage
	b  *builder
	st *state
	x  *dockerfile.Expander
}

// do carries out one instruction.
func (s *stage) do(ctx context.Context, i *dockerfile.Instruction) error {
	r := &run{Instruction: i, s: s, b: s.b, st: s.state, x: s.b.file.NewExpander(s.state.variables())}
	switch i.Name {
	case "RUN":
		return r.command(ctx)
	case "COPY", "ADD":
		return r.copy(ctx)
	case "WORKDIR":
		return r.workdir(ctx)
	}
	do, ok := settings()[i.Name]
	if !ok {
		return fmt.Errorf("%s cannot be here", i.Name)
	}
	if err := do(r); err != nil {
		return err
	}
	h := s.state.config.History
	s.state.key = digestOf(s.state.key, h[len(h)-1].CreatedBy)
	return nil
}

// settings are the instructions that change nothing but the image's config.
func settings() map[string]func(*run) error {
	return map[string]func(*run) error{
		"ARG": (*run).arg, "CMD": (*run).cmd, "ENTRYPOINT": (*run).entrypoint, "ENV": (*run).env, "EXPOSE": (*run).expose,
		"HEALTHCHECK": (*run).healthcheck, "LABEL": (*run).label, "MAINTAINER": (*run).maintainer, "ONBUILD": (*run).onBuild,
		"SHELL": (*run).shell, "STOPSIGNAL": (*run).stopSignal, "USER": (*run).user, "VOLUME": (*run).volume,
	}
}

// pairs expands NAME=VALUE words. All see the variables from before the instruction.
func (r *run) pairs() (pairs [][2]string, shown string, err error) {
	words := []string{r.Name}
	for _, p := range r.Pairs {
		name, err := r.x.Word(p.Name)
		if err != nil {
			return nil, "", err
		}
		value, err := r.x.Word(p.Value)
		if err != nil {
			return nil, "", err
		}
		if name == "" || strings.Contains(name, "=") {
			return nil, "", fmt.Errorf("%s: %q is no name", r.Name, name)
		}
		if strings.ContainsRune(name+value, 0) {
			return nil, "", fmt.Errorf("%s %s: a value cannot have a zero byte", r.Name, name)
		}
		sep := "="
		if p.Spaced {
			sep = " "
		}
		pairs, words = append(pairs, [2]string{name, value}), append(words, name+sep+value)
	}
	return pairs, strings.Join(words, " "), nil
}

func (r *run) env() error {
	pairs, shown, err := r.pairs()
	for _, p := range pairs {
		r.st.config.Config.Env = setEnv(r.st.config.Config.Env, p[0], p[1])
	}
	r.st.note(shown, nil)
	return err
}

func (r *run) label() error {
	pairs, shown, err := r.pairs()
	for _, p := range pairs {
		r.st.label(p[0], p[1])
	}
	r.st.note(shown, nil)
	return err
}

func (r *run) maintainer() (err error) {
	if r.st.config.Author, err = r.x.Word(r.Args[0]); err != nil {
		return err
	}
	r.st.note("MAINTAINER "+r.st.config.Author, nil)
	return nil
}

// argv is a command: a JSON list as it is, anything else for the shell.
func (r *run) argv() []string {
	if r.JSON {
		return append([]string{}, r.Args...)
	}
	if len(r.Args) == 0 {
		return []string{}
	}
	return append(slices.Clone(r.st.shell()), r.Args...)
}

func (r *run) cmd() error {
	r.st.config.Config.Cmd, r.st.cmdSet = r.argv(), true
	r.st.note(fmt.Sprintf("CMD %q", r.st.config.Config.Cmd), nil)
	return nil
}

func (r *run) entrypoint() error {
	c := &r.st.config.Config
	if c.Entrypoint = r.argv(); len(c.Entrypoint) == 0 {
		c.Entrypoint = nil
	}
	if !r.st.cmdSet {
		c.Cmd = nil
	}
	r.st.note(fmt.Sprintf("ENTRYPOINT %q", c.Entrypoint), nil)
	return nil
}

func (r *run) shell() error {
	r.st.extra.Shell = slices.Clone(r.Args)
	r.st.note(fmt.Sprintf("SHELL %v", r.Args), nil)
	return nil
}

func (r *run) expose() error {
	var words []string
	for _, a := range r.Args {
		more, err := r.x.Words(a)
		if err != nil {
			return err
		}
		words = append(words, more...)
	}
	slices.Sort(words)
	c := &r.st.config.Config
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	var shown []string
	for _, w := range words {
		ports, err := portsOf(w)
		if err != nil {
			return err
		}
		for _, p := range ports {
			c.ExposedPorts[p] = struct{}{}
		}
		shown = append(shown, ports...)
	}
	r.st.note(fmt.Sprintf("EXPOSE %v", shown), nil)
	return nil
}

// portsOf reads PORT, PORT/udp or FROM-TO.
func portsOf(word string) (ports []string, err error) {
	numbers, protocol, ok := strings.Cut(strings.ToLower(word), "/")
	if !ok {
		protocol = "tcp"
	}
	first, last, isRange := strings.Cut(numbers, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || from > to || from == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return nil, fmt.Errorf("invalid port %q: it is written PORT, PORT/udp or FROM-TO", word)
	}
	for p := from; p <= to; p++ {
		ports = append(ports, fmt.Sprintf("%d/%s", p, protocol))
	}
	return ports, nil
}

func (r *run) user() error {
	user, err := r.x.Word(r.Args[0])
	if err != nil {
		return err
	}
	if user == "" || strings.ContainsAny(user, " \t\r\n") {
		return fmt.Errorf("USER %q: it is written USER[:GROUP]", user)
	}
	r.st.config.Config.User = user
	r.st.note("USER "+user, nil)
	return nil
}

func (r *run) volume() error {
	c := &r.st.config.Config
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	var shown []string
	for _, a := range r.Args {
		v, err := r.x.Word(strings.TrimSpace(a))
		if err != nil {
			return err
		}
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		c.Volumes[v] = struct{}{}
		shown = append(shown, v)
	}
	r.st.note(fmt.Sprintf("VOLUME %v", shown), nil)
	return nil
}

func (r *run) stopSignal() error {
	sig, err := r.x.Word(r.Args[0])
	if err != nil {
		return err
	}
	if _, err := engine.ParseSignal(sig); err != nil {
		return fmt.Errorf("STOPSIGNAL %s: no signal has this name or number", sig)
	}
	r.st.config.Config.StopSignal = sig
	r.st.note("STOPSIGNAL "+sig, nil)
	return nil
}

func (r *run) onBuild() error {
	r.st.extra.OnBuild = append(r.st.extra.OnBuild, r.Args[0])
	r.st.note("ONBUILD "+r.Args[0], nil)
	return nil
}

func (r *run) healthcheck() error {
	h := &image.Healthcheck{}
	switch kind := strings.ToUpper(r.Args[0]); {
	case kind == "NONE":
		h.Test = []string{kind}
	case r.JSON:
		h.Test = append([]string{kind}, r.Args[1:]...)
	default:
		h.Test = append([]string{"CMD-SHELL"}, r.Args[1:]...)
	}
	for _, f := range r.Flags { // they were checked when they were read
		d, _ := time.ParseDuration(f.Value)
		switch f.Name {
		case "interval":
			h.Interval = d
		case "timeout":
			h.Timeout = d
		case "start-period":
			h.StartPeriod = d
		case "start-interval":
			h.StartInterval = d
		case "retries":
			h.Retries, _ = strconv.Atoi(f.Value)
		}
	}
	r.st.extra.Healthcheck = h
	r.st.note("HEALTHCHECK "+strings.TrimSpace(strings.TrimPrefix(r.Original[min(len(r.Original), len("HEALTHCHECK")):], " ")), nil)
	return nil
}

// absolute is where a path of the Dockerfile leads in the image.
func (r *run) absolute(name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", r.st.config.Config.WorkingDir, name)
}
