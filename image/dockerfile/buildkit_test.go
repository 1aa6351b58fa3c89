package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// TestAgainstBuildkit reads the Dockerfiles of testdata, and thousands that are like them but for a few changes, and compares
// what comes out with buildkit's own packages: they are in no binary, since they bring protobuf to every start of it.
func TestAgainstBuildkit(t *testing.T) {
	names, err := filepath.Glob("testdata/*.Dockerfile")
	if err != nil || len(names) < 8 {
		t.Fatalf("Dockerfiles in testdata: %v, %v; want at least 8", names, err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	accepted := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, name, text, true)
		for range changes {
			if compare(t, name+", changed", change(random, text), false) {
				accepted++
			}
		}
	}
	if accepted < len(names)*changes/15 {
		t.Errorf("only %d of the changed files were accepted: the changes are too wild to say much", accepted)
	}
}

// changes are made to each Dockerfile; NSLAB_CHANGES is for more than a moment's worth of them.
var changes = func() int {
	if n, err := strconv.Atoi(os.Getenv("NSLAB_CHANGES")); err == nil {
		return n
	}
	return 300
}()

// change makes up to three small changes.
func change(random *rand.Rand, text []byte) []byte {
	text = slices.Clone(text)
	for range 1 + random.IntN(3) {
		at := random.IntN(len(text))
		switch random.IntN(4) {
		case 0:
			text = slices.Delete(text, at, min(len(text), at+1+random.IntN(3)))
		case 1:
			pieces := []string{" ", "\n", "\\\n", "\\", "\"", "'", "$", "${", "}", "=", "#", "<<EOF", "--", "[", "]", ",", "\t", "RUN ", "\r\n"}
			text = slices.Insert(text, at, []byte(pieces[random.IntN(len(pieces))])...)
		case 2: // a line twice
			lines := bytes.SplitAfter(text, []byte("\n"))
			n := random.IntN(len(lines))
			text = bytes.Join(slices.Insert(lines, n, lines[n]), nil)
		case 3: // a line less
			lines := bytes.SplitAfter(text, []byte("\n"))
			n := random.IntN(len(lines))
			text = bytes.Join(slices.Delete(lines, n, n+1), nil)
		}
		if len(text) == 0 {
			return []byte("FROM scratch\n")
		}
	}
	return text
}

func compare(t *testing.T, name string, text []byte, valid bool) bool {
	t.Helper()
	ours, err := Parse("Dockerfile", text)
	stages, globals, theirErr := buildkit(text)
	if errors.Is(theirErr, errDoubtful) || err != nil && (strings.Contains(err.Error(), "unknown flag") || strings.Contains(err.Error(), "quote is not closed")) {
		return false // some flags and quotes buildkit never looks at
	}
	if (err == nil) != (theirErr == nil) {
		t.Fatalf("%s: ours: %v; buildkit: %v\n%s", name, err, theirErr, text)
	}
	if valid && err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err != nil {
		return false
	}
	got, want := describeOurs(ours), describeTheirs(stages, globals)
	if got != want {
		ours, theirs := strings.Split(got, "\n"), strings.Split(want, "\n")
		for n := 0; n < len(ours) && n < len(theirs) && ours[n] == theirs[n]; {
			ours, theirs = ours[1:], theirs[1:]
		}
		t.Fatalf("%s: read\n%s\nbuildkit reads\n%s\nof\n%s", name, ours[0], theirs[0], text)
	}
	return true
}

func buildkit(text []byte) ([]instructions.Stage, []instructions.ArgCommand, error) {
	r, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, nil, err
	}
	stages, globals, err := instructions.Parse(r.AST, linter.New(&linter.Config{SkipAll: true}))
	if err == nil && len(stages) == 0 {
		err = fmt.Errorf("no stage")
	}
	for _, s := range stages {
		for _, c := range s.Commands {
			if o, ok := c.(*instructions.OnbuildCommand); ok && err == nil { // what is checked later, there
				if r, triggerErr := parser.Parse(strings.NewReader(o.Expression)); triggerErr != nil {
					err = triggerErr
				} else if _, triggerErr := instructions.ParseInstruction(r.AST.Children[0]); triggerErr != nil {
					err = triggerErr
				}
			}
			if run, ok := c.(*instructions.RunCommand); ok && err == nil {
				err = theirRun(run)
			}
			if run, ok := c.(*instructions.RunCommand); ok && err == nil && len(run.Files) > 0 && (len(run.CmdLine) != 1 || !run.PrependShell) {
				err = fmt.Errorf("invalid run command")
			}
		}
	}
	return stages, globals, err
}

// theirRun checks what they check later, when variables are known.
func theirRun(run *instructions.RunCommand) error {
	if len(run.CmdLine) == 0 {
		return fmt.Errorf("nothing to run")
	}
	doubtful := strings.Contains(run.String(), "$")
	if err := run.Expand(func(word string) (string, error) { return word, nil }); err != nil && doubtful {
		return errDoubtful
	} else if err != nil {
		return err
	}
	for _, m := range instructions.GetMounts(run) {
		if m.Target == "" && m.Type != instructions.MountTypeSecret || m.Type == instructions.MountTypeSSH {
			if doubtful {
				return errDoubtful
			}
			return fmt.Errorf("a mount that cannot be made")
		}
	}
	return nil
}

// errDoubtful is a mount that may become right when its variables are known.
var errDoubtful = errors.New("it depends on variables")

func describeOurs(f *File) string {
	var b strings.Builder
	for _, i := range f.Args {
		fmt.Fprintf(&b, "ARG%s\n", pairsText(i.Pairs))
	}
	for _, s := range f.Stages {
		fmt.Fprintf(&b, "FROM %q %q %q\n", s.Base, s.Name, s.Platform)
		for _, i := range s.Instructions {
			fmt.Fprintf(&b, "%d %s", i.First, i.Name)
			switch i.Name {
			case "ENV", "LABEL", "ARG":
				b.WriteString(pairsText(i.Pairs))
			case "RUN", "CMD", "ENTRYPOINT":
				fmt.Fprintf(&b, " %q json=%v", i.Args, i.JSON)
				for _, h := range i.Heredocs {
					fmt.Fprintf(&b, " %s=%q", h.Name, h.Raw)
				}
			case "COPY", "ADD":
				var sources, contents []string
				for _, a := range i.Args[:len(i.Args)-1] {
					if h, ok := i.HeredocIn(a); ok {
						contents = append(contents, fmt.Sprintf("%s=%q expand=%v", h.Name, h.Content, h.Expand))
					} else {
						sources = append(sources, a)
					}
				}
				from, _ := i.Flag("from")
				chown, _ := i.Flag("chown")
				fmt.Fprintf(&b, " %q %q %q from=%s chown=%s", sources, contents, i.Args[len(i.Args)-1], from, chown)
			case "EXPOSE":
				args := slices.Clone(i.Args)
				slices.Sort(args)
				fmt.Fprintf(&b, " %q", args)
			case "HEALTHCHECK":
				fmt.Fprintf(&b, " %q json=%v", i.Args[1:], i.JSON)
			case "VOLUME":
				var args []string
				for _, a := range i.Args {
					args = append(args, strings.TrimSpace(a))
				}
				fmt.Fprintf(&b, " %q", args)
			default:
				fmt.Fprintf(&b, " %q", i.Args)
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func pairsText(pairs []Pair) string {
	var b strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&b, " %q=%q %v", p.Name, p.Value, p.Set)
	}
	return b.String()
}

func describeTheirs(stages []instructions.Stage, globals []instructions.ArgCommand) string {
	var b strings.Builder
	argPairs := func(a *instructions.ArgCommand) (list []Pair) {
		for _, p := range a.Args {
			list = append(list, Pair{Name: p.Key, Value: p.ValueString(), Set: p.Value != nil})
		}
		return list
	}
	keyPairs := func(kv instructions.KeyValuePairs) (list []Pair) {
		for _, p := range kv {
			list = append(list, Pair{Name: p.Key, Value: p.Value, Set: true})
		}
		return list
	}
	command := func(c instructions.ShellDependantCmdLine) {
		fmt.Fprintf(&b, " %q json=%v", []string(c.CmdLine), !c.PrependShell)
		for _, f := range c.Files {
			fmt.Fprintf(&b, " %s=%q", f.Name, f.Data)
		}
	}
	for _, g := range globals {
		fmt.Fprintf(&b, "ARG%s\n", pairsText(argPairs(&g)))
	}
	for _, s := range stages {
		fmt.Fprintf(&b, "FROM %q %q %q\n", s.BaseName, s.Name, s.Platform)
		for _, c := range s.Commands {
			fmt.Fprintf(&b, "%d %s", c.Location()[0].Start.Line, strings.ToUpper(c.Name()))
			switch c := c.(type) {
			case *instructions.EnvCommand:
				b.WriteString(pairsText(keyPairs(c.Env)))
			case *instructions.LabelCommand:
				b.WriteString(pairsText(keyPairs(c.Labels)))
			case *instructions.ArgCommand:
				b.WriteString(pairsText(argPairs(c)))
			case *instructions.RunCommand:
				command(c.ShellDependantCmdLine)
			case *instructions.CmdCommand:
				command(c.ShellDependantCmdLine)
			case *instructions.EntrypointCommand:
				command(c.ShellDependantCmdLine)
			case *instructions.CopyCommand:
				filesText(&b, c.SourcesAndDest, c.From, c.Chown)
			case *instructions.AddCommand:
				filesText(&b, c.SourcesAndDest, "", c.Chown)
			case *instructions.ExposeCommand:
				fmt.Fprintf(&b, " %q", c.Ports)
			case *instructions.HealthCheckCommand:
				fmt.Fprintf(&b, " %q json=%v", c.Health.Test[1:], c.Health.Test[0] == "CMD")
			case *instructions.VolumeCommand:
				fmt.Fprintf(&b, " %q", c.Volumes)
			case *instructions.WorkdirCommand:
				fmt.Fprintf(&b, " %q", []string{c.Path})
			case *instructions.UserCommand:
				fmt.Fprintf(&b, " %q", []string{c.User})
			case *instructions.StopSignalCommand:
				fmt.Fprintf(&b, " %q", []string{c.Signal})
			case *instructions.ShellCommand:
				fmt.Fprintf(&b, " %q", []string(c.Shell))
			case *instructions.MaintainerCommand:
				fmt.Fprintf(&b, " %q", []string{c.Maintainer})
			case *instructions.OnbuildCommand:
				first, rest, more := strings.Cut(c.Expression, "\n") // blanks at the end of the line mean nothing
				if first = strings.TrimSpace(first); more {
					first += "\n" + rest
				}
				fmt.Fprintf(&b, " %q", []string{first})
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func filesText(b *strings.Builder, s instructions.SourcesAndDest, from, chown string) {
	var contents []string
	for _, c := range s.SourceContents {
		contents = append(contents, fmt.Sprintf("%s=%q expand=%v", c.Path, c.Data, c.Expand))
	}
	fmt.Fprintf(b, " %q %q %q from=%s chown=%s", s.SourcePaths, contents, s.DestPath, from, chown)
}
