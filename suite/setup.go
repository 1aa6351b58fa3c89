package suite

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// Params are how the scenarios are run, each in a folder of its own below work. After each of them the machine is looked
// at, and what the scenario has left there fails it: fail marks a script as failed, without stopping it. The nslab that
// they run is the one in the folder bin, or, without one, what testscript.Main has put into the PATH. When ctx is done, nothing is
// waited for any more.
func Params(ctx context.Context, work, bin string, fail func(testscript.T)) testscript.Params {
	return testscript.Params{
		WorkdirRoot:         work, // which makes testscript keep the folders: removing them is the caller's, see [RemoveWork]
		Condition:           condition,
		Cmds:                commands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[runKey{}] = ctx
			if err := ownMachine(); err != nil {
				return err
			}
			if bin != "" {
				env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			}
			runRoot, err := setup(env)
			if err != nil {
				return err
			}
			env.Defer(func() {
				for _, leak := range Leaks(env.WorkDir, runRoot) {
					env.T().Log("left behind: " + leak)
					fail(env.T())
				}
			})
			return nil
		},
	}
}

// runKey is the key by which commands find the context of the run.
type runKey struct{}

// setup gives a script its own state.
func setup(env *testscript.Env) (runRoot string, err error) {
	// Scripts run nslab as another user too, who must be able to reach it and the script's folder.
	bin := strings.Split(env.Getenv("PATH"), string(os.PathListSeparator))[0]
	for _, dir := range []string{filepath.Dir(bin), bin, env.WorkDir} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return "", err
		}
	}
	runRoot = filepath.Join(env.WorkDir, ".run")
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
	return runRoot, nil
}
