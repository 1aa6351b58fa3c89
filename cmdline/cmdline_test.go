package cmdline

import (
	"reflect"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	for line, want := range map[string]Line{
		"nslab container run IMAGE ls --root x":       {Noun: "container", Verb: "run", Args: []string{"IMAGE", "ls", "--root", "x"}},
		"nslab --root /r --run-root=/x container run": {Noun: "container", Verb: "run", RunRoot: "/x"},
		"nslab --run-root /x container --root /r ls":  {Noun: "container", Verb: "ls", RunRoot: "/x"},
		"nslab --verbose container ls":                {},
		"nslab container --run-root":                  {},
		"nslab container":                             {Noun: "container"},
		"nslab --lang zh version":                     {Noun: "version"},
		"nslab version --help":                        {},
		"nslab container ls --help":                   {Noun: "container", Verb: "ls", Args: []string{"--help"}},
		"nslab":                                       {},
		"nslab-monitor":                               {},
	} {
		got := Read(strings.Fields(line))
		if len(got.Args) == 0 {
			got.Args = nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("Read(%q) = %+v; want %+v", line, got, want)
		}
	}
}
