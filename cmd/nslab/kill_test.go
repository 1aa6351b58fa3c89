package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/doctor"
	"github.com/nslab/nslab/labs"
	"github.com/nslab/nslab/suite"
)

// kills is how many random moments the sweep tries for each lab; NSLAB_KILLS says another number.
const kills = 8

// TestKillSweep kills each lab with SIGKILL at random moments, the first within its start-up, and looks after
// `nslab clean` whether anything is left: control groups, processes, mounts, links, files. The seed is printed, and
// NSLAB_SEED sets it.
func TestKillSweep(t *testing.T) {
	n, seed := setting(t, "NSLAB_KILLS", kills), uint64(setting(t, "NSLAB_SEED", int(time.Now().UnixNano()&0xffffffff)))
	t.Logf("NSLAB_SEED=%d NSLAB_KILLS=%d", seed, n)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range labs.All() {
		t.Run(l.Name(), func(t *testing.T) {
			t.Parallel()
			runRoot := filepath.Join(t.TempDir(), "run")
			if missing := doctor.Missing(l, runRoot); len(missing) > 0 {
				coursetest.Missing(t, fmt.Sprint(missing))
			}
			nslab := func(args ...string) *exec.Cmd {
				cmd := exec.Command(self)
				cmd.Args = append([]string{"nslab"}, args...)
				cmd.Env = append(os.Environ(), "NSLAB_RUN_ROOT="+runRoot, "XDG_STATE_HOME="+runRoot+".state")
				cmd.Stdout = io.Discard
				return cmd
			}
			start := time.Now()
			undisturbed := nslab("run", l.Name(), "--auto")
			undisturbed.Stdout = nil
			if out, err := undisturbed.Output(); err != nil {
				t.Fatalf("run %s undisturbed: %v\n%s", l.Name(), err, out)
			}
			whole := time.Since(start)
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for k := range n {
				moment := time.Duration(random.Int64N(int64(whole)))
				if k == 0 {
					moment = time.Duration(random.Int64N(int64(50 * time.Millisecond)))
				}
				cmd := nslab("run", l.Name(), "--auto")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(moment)
				cmd.Process.Kill()
				cmd.Wait()
				if out, err := nslabOutput(nslab("clean")); err != nil {
					t.Errorf("clean after a kill at %v: %v: %s", moment, err, out)
				}
				for _, leak := range suite.Leaks(runRoot, runRoot) {
					t.Errorf("left behind: %s", leak)
				}
				if t.Failed() {
					t.Fatalf("after a kill at %v", moment)
				}
			}
		})
	}
}

func nslabOutput(cmd *exec.Cmd) (string, error) {
	cmd.Stdout = nil
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%q: not a number", name, text)
	}
	return n
}
