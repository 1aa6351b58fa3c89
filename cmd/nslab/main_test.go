package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/reexec"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// inPrivateMounts marks the test process that already is in a mount namespace of its own.
const inPrivateMounts = "NSLAB_TEST_PRIVATE_MOUNTS"

// TestMain makes the test binary be nslab for the scripts. The order matters: nslab starts itself again through
// /proc/self/exe, which here is the test binary, so its entry points come before testscript looks at the arguments; and
// the mount namespace comes before any test, since a script that leaks a mount must not leak it to the machine.
func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	if os.Geteuid() == 0 && os.Getenv(inPrivateMounts) == "" && filepath.Base(os.Args[0]) != "nslab" {
		if err := privateMounts(); err != nil {
			fmt.Fprintln(os.Stderr, "a mount namespace for the tests:", err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){"nslab": main})
}

// privateMounts executes the test binary again in a mount namespace of its own.
func privateMounts() error {
	runtime.LockOSThread() // unshare is for the thread, and exec makes this thread the process
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), inPrivateMounts+"=1"))
}

// strict says whether what a test needs is required. Where it is not, a test that cannot run is skipped, and says so.
func strict() bool { return os.Getenv("NSLAB_STRICT") == "1" }

// TestScripts runs the scenarios of testdata/script against the real program.
func TestScripts(t *testing.T) {
	work, err := os.MkdirTemp("", "nslab-script-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // WorkdirRoot makes testscript keep the folders
		if left := mountsMentioning(strictT{t}, work); len(left) > 0 {
			t.Fatalf("not removed, since mounted: %s", left) // deleting through a mount deletes what it shows
		}
		if err := os.RemoveAll(work); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(work, 0o755); err != nil {
		t.Fatal(err)
	}
	testscript.RunT(strictT{t}, testscript.Params{
		Dir:                 filepath.Join("..", "..", "testdata", "script"),
		WorkdirRoot:         work,
		Setup:               setup,
		Condition:           condition,
		Cmds:                scriptCommands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
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

// setup gives a script its own state, and looks for leaks when it is over.
func setup(env *testscript.Env) error {
	// Scripts run nslab as another user too, who must be able to reach it and the script's folder.
	bin := strings.Split(env.Getenv("PATH"), string(os.PathListSeparator))[0]
	for _, dir := range []string{filepath.Dir(bin), bin, env.WorkDir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	runRoot := filepath.Join(env.WorkDir, ".run")
	for name, value := range map[string]string{
		"NSLAB_ROOT":     filepath.Join(env.WorkDir, ".root"),
		"NSLAB_RUN_ROOT": runRoot,
		"XDG_STATE_HOME": filepath.Join(env.WorkDir, ".state"),
		"LANG":           "C.UTF-8",
		"LC_ALL":         "",
		"NO_COLOR":       "1",
		"COLUMNS":        "80",
	} {
		env.Setenv(name, value)
	}
	t := env.T().(strictT)
	env.Defer(func() { checkLeaks(t, env.WorkDir, runRoot) })
	return nil
}
