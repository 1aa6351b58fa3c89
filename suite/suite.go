// Package suite runs nslab's scenarios: short scripts, each of which uses the real program as a user would, and checks from
// outside what it did to the machine.
//
// The scripts are testscript's (github.com/rogpeppe/go-internal/testscript); `go test` runs them through [Params], and
// `nslab test` through [Run], without a Go toolchain, on whatever machine the program was brought to. After each script
// the machine is looked at, and what the script has left there fails it: see [Leaks].
//
// What a machine lacks is never passed over in silence. A script that needs it is [Missing], with what it needs, and the
// run as a whole does not pass unless that was asked for.
package suite

import (
	"bufio"
	"bytes"
	"io/fs"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/nslab/nslab/course"
)

// Script is one scenario.
type Script struct {
	Name  string `json:"script"` // "pid_steps": what it is about, and what it shows
	About string `json:"about"`  // its first comment
	text  []byte
}

// List returns all scripts of a folder, by name.
func List(files fs.FS, dir string) ([]Script, error) {
	names, err := fs.Glob(files, path.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	var list []Script
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		s := Script{Name: strings.TrimSuffix(path.Base(name), ".txtar"), text: text}
		if first, _, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(first, "#") {
			s.About = strings.TrimSpace(strings.TrimLeft(first, "#"))
		}
		list = append(list, s)
	}
	return list, nil
}

// Select returns the scripts that a name stands for: a script's, a topic's ("doctor"), a lab's in any of its spellings
// ("01", "pid", "01-pid"), or a pattern as path.Match has it ("*_steps").
func Select(all []Script, labs []*course.Lab, name string) []Script {
	topic := name
	if l := course.Find(labs, name); l != nil {
		topic = l.Slug
	}
	return slices.DeleteFunc(slices.Clone(all), func(s Script) bool {
		match, err := path.Match(name, s.Name)
		return !(match && err == nil) && !strings.HasPrefix(s.Name, topic+"_")
	})
}

// command is a line of a script that executes a program.
var command = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(?:\[[^\]]*\] *)*[!?]? *(?:exec|eventually) +([a-zA-Z0-9_.-]+)`)
})

// missingPrograms lists the programs that a script executes and that are not installed. Programs that only a shell
// within the script calls are not seen; a script with a condition on a program looks after itself.
func (s Script) missingPrograms() (missing []string) {
	for lines := bufio.NewScanner(bytes.NewReader(s.text)); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "-- ") {
			break // the script's files
		}
		m := command().FindStringSubmatch(line)
		if m == nil || m[1] == "nslab" || strings.Contains(line, "[exec:") || slices.Contains(missing, m[1]) {
			continue
		}
		if _, err := exec.LookPath(m[1]); err != nil {
			missing = append(missing, m[1])
		}
	}
	return missing
}
