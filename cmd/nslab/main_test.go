package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/reexec"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nslab/nslab"
	"github.com/nslab/nslab/suite"
)

// TestMain makes the test binary be nslab for the scripts. The order matters: nslab starts itself again through
// /proc/self/exe, which here is the test binary, so its entry points come before testscript looks at the arguments; and
// the mount namespace comes before any test, since a script that leaks a mount must not leak it to the machine.
func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	if filepath.Base(os.Args[0]) != "nslab" {
		if err := suite.PrivateMounts(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){"nslab": main})
}

// strict says whether what a test needs is required. Where it is not, a test that cannot run is skipped, and says so.
func strict() bool { return os.Getenv("NSLAB_STRICT") == "1" }

// TestScripts runs the scenarios against the real program.
func TestScripts(t *testing.T) {
	work, err := os.MkdirTemp("", "nslab-script-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := suite.RemoveWork(work); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(work, 0o755); err != nil {
		t.Fatal(err)
	}
	params := suite.Params(t.Context(), work, "", func(t testscript.T) { t.(strictT).Fail() })
	params.Dir = filepath.Join("..", "..", nslab.ScriptsDir)
	testscript.RunT(strictT{t}, params)
}

// strictT makes a skipped script a failed one where everything is required.
type strictT struct{ *testing.T }

func (t strictT) Skip(args ...any) {
	t.Helper()
	if strict() {
		t.Fatal(append([]any{"required by NSLAB_STRICT=1, but skipped: "}, args...)...)
	}
	t.T.Skip(args...)
}

func (t strictT) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(strictT{t}) })
}

func (t strictT) Verbose() bool { return testing.Verbose() }
