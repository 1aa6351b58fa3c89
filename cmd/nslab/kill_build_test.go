package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/suite"
)

// TestBuildKills sends SIGKILL to a build at random moments. The next build has to come to its end, with the image that an undisturbed
// one gives, and everything in the store must be what its name says.
func TestBuildKills(t *testing.T) {
	coursetest.NeedRoot(t)
	n, seed := setting(t, "NSLAB_KILLS", containerKills), uint64(setting(t, "NSLAB_SEED", int(time.Now().UnixNano()&0xffffffff)))
	t.Logf("NSLAB_SEED=%d NSLAB_KILLS=%d", seed, n)
	m := newMachine(t)
	random := rand.New(rand.NewPCG(seed, 1))
	dockerfile := `FROM bootstrap AS one
RUN --mount=type=cache,target=/c echo one > /one; cat /c/* > /dev/null; echo > /c/x
WORKDIR /w
FROM bootstrap
COPY <<EOF /two
two
EOF
COPY --from=one /one /one
RUN cat /one /two > /three
`
	build := func(args ...string) *exec.Cmd {
		cmd := m.nslab(append([]string{"image", "build", "-q", "-t", "built"}, append(args, "-")...)...)
		cmd.Stdin, cmd.Env = strings.NewReader(dockerfile), append(cmd.Env, "SOURCE_DATE_EPOCH=1700000000")
		return cmd
	}
	must := func(cmd *exec.Cmd) string {
		t.Helper()
		out, err := nslabOutput(cmd)
		if err != nil {
			t.Fatalf("%v: %v: %s", cmd.Args, err, out)
		}
		return strings.TrimSpace(out)
	}
	start := time.Now()
	must(build())
	whole := time.Since(start)
	want := must(m.nslab("image", "inspect", "-f", "{{.RootFS.Layers}}", "built"))
	for k := range n {
		moment := time.Duration(random.Int64N(int64(whole)))
		cmd := build("--no-cache")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(moment)
		cmd.Process.Kill()
		cmd.Wait()
		must(build())
		if got := must(m.nslab("image", "inspect", "-f", "{{.RootFS.Layers}}", "built")); got != want {
			t.Errorf("after a kill at %v: layers %s; want %s", moment, got, want)
		}
		if got := must(m.nslab("container", "run", "--rm", "--network", "none", "built", "cat", "/three")); got != "one\ntwo" {
			t.Errorf("after a kill at %v: /three is %q; want one, two", moment, got)
		}
		checkBlobs(t, m.root)
		must(m.nslab("system", "prune", "-f"))
		if t.Failed() {
			t.Fatalf("NSLAB_SEED=%d, kill %d at %v", seed, k, moment)
		}
	}
	must(m.nslab("system", "prune", "-af"))
	for _, dir := range []string{"layers", "build", "containers", "images/blobs/sha256", "images/.cache"} {
		if left, _ := os.ReadDir(filepath.Join(m.root, dir)); len(left) > 0 {
			t.Errorf("%s is not empty after everything was removed: %v", dir, left)
		}
	}
	for _, leak := range suite.Leaks(m.dir, m.run) {
		t.Errorf("left behind: %s", leak)
	}
}

// checkBlobs compares the content of blobs with their names.
func checkBlobs(t *testing.T, root string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, "images/blobs/sha256/*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("blobs: %v, %v", names, err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if got := hex.EncodeToString(h.Sum(nil)); err != nil || got != filepath.Base(name) {
			t.Errorf("blob %s has the digest %s, %v", filepath.Base(name), got, err)
		}
	}
}
