package main

import (
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestStart looks at what packages do before main is called, which every start of nslab pays for, and there are two of them in
// a container's. Time cannot be tested, memory can: whoever allocates much, works much. A package of ours has no excuse.
// What libraries do is only lost by doing without them, so another one that does much should be a choice: those here have been one.
func TestStart(t *testing.T) {
	known := []string{
		"github.com/google/go-containerregistry/pkg/name",                // regular expressions
		"github.com/google/go-containerregistry/pkg/v1/remote/transport", // a table of errors
		"github.com/hanwen/go-fuse/v2/fuse",                              // names of flags
		"github.com/klauspost/compress/flate",                            // tables
		"github.com/opencontainers/go-digest",                            // regular expressions
		"github.com/rogpeppe/go-internal/testscript",                     // tables and regular expressions
		"github.com/therootcompany/xz",                                   // a table for its check sum
		"encoding/xml",
	}
	cmd := exec.Command("nslab", "version")
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	line := regexp.MustCompile(`(?m)^init (\S+) @.*, (\d+) bytes, (\d+) allocs$`)
	ours := 0
	for _, m := range line.FindAllStringSubmatch(string(out), -1) {
		bytes, _ := strconv.Atoi(m[2])
		allocs, _ := strconv.Atoi(m[3])
		switch {
		case m[1] == "github.com/nslab/nslab/cmd/nslab": // with its tests
		case strings.HasPrefix(m[1], "github.com/nslab/"):
			ours++
			if bytes > 2048 || allocs > 25 {
				t.Errorf("%s is initialized with %d bytes in %d pieces: make them when they are needed", m[1], bytes, allocs)
			}
		case (bytes > 16<<10 || allocs > 100) && !slices.Contains(known, m[1]):
			t.Errorf("%s is initialized with %d bytes in %d pieces, at every start: is there a lighter package?", m[1], bytes, allocs)
		}
	}
	if ours < 10 {
		t.Errorf("there are %d packages of nslab; want more:\n%s", ours, out)
	}
}
