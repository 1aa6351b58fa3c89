package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/image"
)

// registryKills is how many random moments the sweep tries for each direction; NSLAB_KILLS says another number.
const registryKills = 10

// TestRegistryKills sends SIGKILL to a pull or a push at random moments. Whatever has been listed since is whole, in the store and
// in the registry; the same command once more comes to its end; and after all is removed, nothing is left.
func TestRegistryKills(t *testing.T) {
	coursetest.NeedRoot(t)
	n, seed := setting(t, "NSLAB_KILLS", registryKills), uint64(setting(t, "NSLAB_SEED", int(time.Now().UnixNano()&0xffffffff)))
	t.Logf("NSLAB_SEED=%d NSLAB_KILLS=%d", seed, n)
	for i, direction := range []string{"pull", "push"} {
		t.Run(direction, func(t *testing.T) {
			t.Parallel()
			m := newStoreMachine(t)
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			whole := time.Duration(0)
			for k := -1; k < n; k++ {
				m.before(t, direction)
				cmd := m.nslab("image", direction, m.host+"/x")
				start := time.Now()
				moment := "undisturbed"
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if k >= 0 {
					after := time.Duration(random.Int64N(int64(whole + whole/8)))
					moment = fmt.Sprintf("killed after %v of %v", after, whole)
					time.Sleep(after)
					cmd.Process.Kill()
				}
				cmd.Wait()
				if k < 0 {
					whole = time.Since(start)
				}
				m.whole(t)
				m.must(t, "image", direction, "-q", m.host+"/x")
				m.after(t)
				if t.Failed() {
					t.Fatalf("NSLAB_SEED=%d, kill %d: %s", seed, k, moment)
				}
			}
		})
	}
}

// storeMachine is a store, a registry, and an image of several layers.
type storeMachine struct {
	dir, host string
	server    *httptest.Server
	handler   http.Handler
}

func newStoreMachine(t *testing.T) *storeMachine {
	t.Helper()
	m := &storeMachine{dir: t.TempDir()}
	m.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.handler.ServeHTTP(w, r) }))
	m.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(m.server.Close)
	m.host = strings.TrimPrefix(m.server.URL, "http://")
	s, err := image.Open(filepath.Join(m.dir, "made"))
	if err != nil {
		t.Fatal(err)
	}
	var i *image.Image
	for layer := range 4 {
		tar := exec.Command("tar", "-C", m.tree(t, layer), "-c", ".")
		o := image.CommitOptions{Names: []string{m.host + "/x"}}
		i, err = s.Commit(context.Background(), i, func(w io.Writer) error { tar.Stdout = w; return tar.Run() }, o)
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// tree is what a layer has: files that have its number in them.
func (m *storeMachine) tree(t *testing.T, layer int) string {
	t.Helper()
	dir := filepath.Join(m.dir, fmt.Sprint("tree-", layer))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	for f := range 100 {
		name := filepath.Join(dir, fmt.Sprint(f%7), fmt.Sprint(layer, "-", f))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte(name), 300*layer+10), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// root is the store that nslab works in.
func (m *storeMachine) root() string { return filepath.Join(m.dir, "root") }

func (m *storeMachine) nslabAt(root string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"nslab"}, args...)
	cmd.Env = append(os.Environ(), "NSLAB_ROOT="+root, "NSLAB_RUN_ROOT="+filepath.Join(m.dir, "run"), "DOCKER_CONFIG="+m.dir)
	return cmd
}

func (m *storeMachine) nslab(args ...string) *exec.Cmd { return m.nslabAt(m.root(), args...) }

func (m *storeMachine) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.nslab(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// before gives each command an empty place to bring the image to.
func (m *storeMachine) before(t *testing.T, direction string) {
	t.Helper()
	m.handler = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	made := filepath.Join(m.dir, "made")
	if direction == "push" {
		if out, err := exec.Command("cp", "-a", made, m.root()).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
		return
	}
	if out, err := m.nslabAt(made, "image", "push", "-q", m.host+"/x").CombinedOutput(); err != nil {
		t.Fatalf("push: %v: %s", err, out)
	}
}

// whole looks at what there is: every blob is what it is called, and every image has all its layers, with all their files. And
// what the registry has a name for can be had.
func (m *storeMachine) whole(t *testing.T) {
	t.Helper()
	s, err := image.Open(m.root())
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.List()
	if err != nil {
		t.Error(err)
	}
	for _, i := range list {
		for n, dir := range s.Folders(i) {
			if out, err := exec.Command("diff", "-r", m.tree(t, n), dir).CombinedOutput(); err != nil {
				t.Errorf("layer %d: %s", n, out)
			}
		}
	}
	blobs, err := filepath.Glob(filepath.Join(m.root(), "images/blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range blobs {
		data, err := os.ReadFile(name)
		if err != nil || digest.FromBytes(data).Encoded() != filepath.Base(name) {
			t.Errorf("blob %s is another one: %v", name, err)
		}
	}
	resp, err := http.Get(m.server.URL + "/v2/x/manifests/latest")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		if out, err := m.nslabAt(filepath.Join(m.dir, "other"), "image", "pull", "-q", m.host+"/x").CombinedOutput(); err != nil {
			t.Errorf("what the registry has a name for: %v: %s", err, out)
		}
		os.RemoveAll(filepath.Join(m.dir, "other"))
	}
}

// after removes everything, and looks for what is left.
func (m *storeMachine) after(t *testing.T) {
	t.Helper()
	m.whole(t)
	m.must(t, "image", "rm", "-f", m.host+"/x")
	m.must(t, "image", "prune", "-f")
	for _, pattern := range []string{"layers/*", "layers/.[a-z]*", "images/blobs/sha256/*", "images/.partial/*", "images/.[a-z]*-*"} {
		if left, err := filepath.Glob(filepath.Join(m.root(), pattern)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	}
	if err := os.RemoveAll(m.root()); err != nil {
		t.Fatal(err)
	}
}
