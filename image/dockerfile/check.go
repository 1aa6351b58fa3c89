package dockerfile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// kind is what a flag takes.
type kind int

const (
	noFlag kind = iota
	boolean
	text
	texts // it can be repeated
)

// flagKind says what flag an instruction has of this name.
func (i *Instruction) flagKind(name string) kind {
	switch i.Name + " " + name {
	case "FROM platform", "COPY from", "COPY chown", "COPY chmod", "ADD chown", "ADD chmod", "ADD checksum", "RUN network",
		"RUN security", "HEALTHCHECK interval", "HEALTHCHECK timeout", "HEALTHCHECK start-period", "HEALTHCHECK start-interval",
		"HEALTHCHECK retries":
		return text
	case "COPY link", "ADD link", "COPY parents", "ADD keep-git-dir", "ADD unpack":
		return boolean
	case "COPY exclude", "ADD exclude", "RUN mount":
		return texts
	}
	return noFlag
}

func (i *Instruction) addFlag(name, value string, has bool) error {
	k := i.flagKind(name)
	_, twice := i.Flag(name)
	switch {
	case k == noFlag && i.known():
		return fmt.Errorf("unknown flag: --%s", name)
	case twice && k != texts:
		return fmt.Errorf("duplicate flag specified: --%s", name)
	case k == boolean && has && value == "", k > boolean && !has:
		return fmt.Errorf("missing a value on flag: --%s", name)
	case k == boolean && !slices.Contains([]string{"", "true", "false"}, strings.ToLower(value)):
		return fmt.Errorf("expecting boolean value for flag --%s, not: %s", name, value)
	}
	i.Flags = append(i.Flags, Flag{name, value})
	return nil
}

var names = []string{
	"ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "RUN",
	"SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}

func (i *Instruction) known() bool { return slices.Contains(names, i.Name) }

// UnknownError is a word that no instruction begins with.
type UnknownError struct{ Word, Near string }

func (e *UnknownError) Error() string { return "unknown instruction: " + e.Word }

// check refuses what no builder could carry out.
func (i *Instruction) check() error {
	if !i.known() {
		return &UnknownError{i.Name, nearest(i.Name)}
	}
	switch i.Name {
	case "ENV", "LABEL", "ARG":
		if len(i.Pairs) == 0 {
			return fmt.Errorf("%s requires at least one argument", i.Name)
		}
		if slices.ContainsFunc(i.Pairs, func(p Pair) bool { return p.Name == "" }) {
			return fmt.Errorf("%s names can not be blank", i.Name)
		}
	case "EXPOSE", "HEALTHCHECK", "ONBUILD", "VOLUME":
		if len(i.Args) == 0 {
			return fmt.Errorf("%s requires at least one argument", i.Name)
		}
	case "MAINTAINER", "STOPSIGNAL", "USER", "WORKDIR":
		if len(i.Args) != 1 {
			return fmt.Errorf("%s requires exactly one argument", i.Name)
		}
	case "FROM":
		if len(i.Args) == 0 {
			return errors.New("FROM requires either one or three arguments")
		}
	}
	switch i.Name {
	case "RUN":
		return i.checkRun()
	case "ADD", "COPY":
		return i.checkCopy()
	case "SHELL":
		if !i.JSON {
			return errors.New("SHELL requires the arguments to be in JSON form")
		}
		if len(i.Args) == 0 {
			return errors.New("SHELL requires at least one argument")
		}
	case "VOLUME":
		if slices.ContainsFunc(i.Args, func(v string) bool { return strings.TrimSpace(v) == "" }) {
			return errors.New("VOLUME specified can not be an empty string")
		}
	case "HEALTHCHECK":
		return i.checkHealth()
	case "ONBUILD":
		return i.checkTrigger()
	}
	return nil
}

func (i *Instruction) checkRun() error {
	i.Mounts = i.FlagAll("mount")
	for _, m := range i.Mounts {
		if _, err := ParseMount(m, nil); err != nil {
			return err
		}
	}
	if n, ok := i.Flag("network"); ok && !slices.Contains([]string{"default", "none", "host"}, n) {
		return fmt.Errorf("unsupported network mode %q: it is default, none or host", n)
	}
	if s, ok := i.Flag("security"); ok && !slices.Contains([]string{"sandbox", "insecure"}, s) {
		return fmt.Errorf("security %q is not valid: it is sandbox or insecure", s)
	}
	if len(i.Args) == 0 {
		return errors.New("RUN requires at least one argument")
	}
	return nil
}

func (i *Instruction) checkCopy() error {
	if len(i.Args) < 2 {
		return fmt.Errorf("%s requires at least two arguments, but only one was provided. Destination could not be determined", i.Name)
	}
	if _, _, heredoc := heredocWord(i.Args[len(i.Args)-1]); heredoc && !i.JSON {
		return fmt.Errorf("%s cannot accept a heredoc as a destination", i.Name)
	}
	return nil
}

func (i *Instruction) checkHealth() error {
	switch strings.ToUpper(i.Args[0]) {
	case "NONE":
		if len(i.Args) > 1 {
			return errors.New("HEALTHCHECK NONE takes no arguments")
		}
	case "CMD":
		if len(i.Args) < 2 {
			return errors.New("missing command after HEALTHCHECK CMD")
		}
	default:
		return fmt.Errorf("unknown type %q in HEALTHCHECK (try CMD)", i.Args[0])
	}
	for _, f := range i.Flags {
		if f.Value == "" {
			continue
		}
		if f.Name == "retries" {
			var n int
			if _, err := fmt.Sscanf(f.Value+"\n", "%d\n", &n); err != nil || n < 0 {
				return fmt.Errorf("--retries must be a number that is not negative, not %q", f.Value)
			}
			continue
		}
		d, err := time.ParseDuration(f.Value)
		if err != nil {
			return fmt.Errorf("--%s: %w", f.Name, err)
		}
		if d != 0 && d < time.Millisecond {
			return fmt.Errorf("--%s cannot be less than %s", f.Name, time.Millisecond)
		}
	}
	return nil
}

// checkTrigger reads what ONBUILD keeps for others, so that its mistakes are found where they are made.
func (i *Instruction) checkTrigger() error {
	for _, h := range i.Heredocs {
		i.Args[0] += "\n" + h.Raw + h.Name
	}
	r := newReader("", []byte(i.Args[0]))
	r.noDirectives = true
	if err := r.read(); err != nil {
		return unwrapped(err)
	}
	switch t := r.list[0].Name; t {
	case "ONBUILD":
		return errors.New("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "MAINTAINER", "FROM":
		return fmt.Errorf("%s isn't allowed as an ONBUILD trigger", t)
	}
	return nil
}

// nearest is the instruction that somebody may have meant: with one letter too many, too few or wrong, or in another order.
func nearest(word string) string {
	sorted := func(s string) string {
		letters := []byte(s)
		slices.Sort(letters)
		return string(letters)
	}
	for _, name := range names {
		d := distance(word, name)
		if d <= 1 || d == 2 && len(word) > 4 || sorted(word) == sorted(name) {
			return name
		}
	}
	return ""
}

// distance counts the letters to insert, delete or replace (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost++
			}
			before = row[j+1]
			row[j+1] = min(cost, row[j]+1, before+1)
		}
	}
	return row[len(b)]
}
