// Package dockerfile reads Dockerfiles: from a text to a list of instructions, with the lines on which each stands.
//
// The idea: a Dockerfile has one instruction a line, a line that ends in a backslash goes on in the next one, and what an
// instruction's arguments mean is its own affair. So reading is done in two steps: lines.go finds the instructions and the
// heredocs that belong to them, words.go takes the arguments apart as that instruction has them. Variables are not known yet:
// they are expanded when an instruction is carried out, by [Expander].
//
// The interface: [Parse] gives a [File] with its stages, or an [Error] that can show the lines it is about. All that can be
// said about an instruction without carrying it out has been checked then.
//
// The limits: what buildkit calls "checks" is not here, and a "# syntax=" line is read and not obeyed: there is one syntax.
//
// See https://docs.docker.com/reference/dockerfile/. Our reading is held against buildkit's own by a test.
package dockerfile

import (
	"fmt"
	"strings"
)

// File is a Dockerfile.
type File struct {
	Name   string // for messages
	Lines  []string
	Escape rune
	Args   []*Instruction // the ARGs before the first FROM
	Stages []*Stage

	Warnings []string
}

// Stage is a FROM, and what follows it.
type Stage struct {
	From         *Instruction
	Base         string // not expanded yet
	Name         string // AS; lower case, empty without
	Platform     string // not expanded yet
	Instructions []*Instruction
}

// Instruction is one, as it is written: nothing is expanded.
type Instruction struct {
	Name        string // in capitals
	First, Last int    // its lines, counted from 1, with those of its heredocs
	Original    string // on one line, without heredocs
	Flags       []Flag
	Args        []string // words, or a single one where the rest of the line is taken as it is
	JSON        bool     // the arguments are a JSON list
	Pairs       []Pair   // of ENV, LABEL and ARG
	Heredocs    []Heredoc
	Mounts      []string // --mount of RUN
	OnBuild     bool     // it comes from the base image's triggers: First and Last are FROM's
}

// Flag is --name or --name=value.
type Flag struct {
	Name, Value string
}

// Pair is NAME=VALUE; Set is false for an ARG without a value, and Spaced true for the old form "ENV NAME VALUE".
type Pair struct {
	Name, Value string
	Set, Spaced bool
}

// Heredoc is a file in the Dockerfile.
type Heredoc struct {
	Name    string // the word that ends it
	Content string // with "<<-" the leading tabs of each line are gone
	Raw     string // with them
	Expand  bool   // variables are expanded, since no part of the word is quoted
}

// Flag returns the value of a flag.
func (i *Instruction) Flag(name string) (string, bool) {
	for _, f := range i.Flags {
		if f.Name == name {
			return f.Value, true
		}
	}
	return "", false
}

// FlagAll returns all values of a flag that can be repeated.
func (i *Instruction) FlagAll(name string) (values []string) {
	for _, f := range i.Flags {
		if f.Name == name {
			values = append(values, f.Value)
		}
	}
	return values
}

// Is says whether a flag without a value is set.
func (i *Instruction) Is(name string) bool {
	v, ok := i.Flag(name)
	return ok && !strings.EqualFold(v, "false")
}

// Find returns the stage of a name or number, among the first n; -1 is none.
func (f *File) Find(ref string, n int) int {
	for k := n - 1; k >= 0; k-- {
		if f.Stages[k].Name != "" && strings.EqualFold(f.Stages[k].Name, ref) {
			return k
		}
	}
	for k := range n {
		if fmt.Sprint(k) == ref {
			return k
		}
	}
	return -1
}

// Parse reads a Dockerfile. name is how messages call it.
func Parse(name string, text []byte) (*File, error) {
	r := newReader(name, text)
	if err := r.read(); err != nil {
		return nil, err
	}
	f := r.file
	for _, i := range r.list {
		switch {
		case i.Name == "FROM":
			s, err := newStage(i)
			if err != nil {
				return nil, f.Errorf(i, "%w", err)
			}
			f.Stages = append(f.Stages, s)
		case len(f.Stages) > 0:
			s := f.Stages[len(f.Stages)-1]
			s.Instructions = append(s.Instructions, i)
		case i.Name == "ARG":
			f.Args = append(f.Args, i)
		default:
			return nil, f.Errorf(i, "no build stage in current context: the first instruction must be FROM, or ARG")
		}
	}
	if len(f.Stages) == 0 {
		return nil, &Error{File: f, Err: fmt.Errorf("there is no FROM, so there is no stage to build")}
	}
	return f, nil
}

// ParseTrigger reads an instruction that a base image has for those who build on it. at is the FROM.
func (f *File) ParseTrigger(text string, at *Instruction) ([]*Instruction, error) {
	r := newReader(f.Name, []byte(text))
	r.noDirectives = true
	if err := r.read(); err != nil {
		return nil, f.Errorf(at, "trigger %q of the base image: %w", oneLine(text), unwrapped(err))
	}
	for _, i := range r.list {
		if i.Name == "FROM" || i.Name == "ONBUILD" || i.Name == "MAINTAINER" {
			return nil, f.Errorf(at, "trigger %q of the base image: %s isn't allowed as an ONBUILD trigger", oneLine(text), i.Name)
		}
		i.First, i.Last, i.OnBuild = at.First, at.Last, true
	}
	return r.list, nil
}

func newStage(i *Instruction) (*Stage, error) {
	s := &Stage{From: i, Base: i.Args[0]}
	s.Platform, _ = i.Flag("platform")
	switch {
	case len(i.Args) == 3 && strings.EqualFold(i.Args[1], "as"):
		s.Name = strings.ToLower(i.Args[2])
		if !stageName(s.Name) {
			return nil, fmt.Errorf("invalid name for build stage: %q, name can't start with a number or contain symbols", i.Args[2])
		}
	case len(i.Args) != 1:
		return nil, fmt.Errorf("FROM requires either one or three arguments")
	}
	return s, nil
}

// stageName accepts [a-z][a-z0-9-_.]*.
func stageName(s string) bool {
	for n, c := range s {
		letter := c >= 'a' && c <= 'z'
		if !letter && (n == 0 || !(c >= '0' && c <= '9' || strings.ContainsRune("-_.", c))) {
			return false
		}
	}
	return s != ""
}
