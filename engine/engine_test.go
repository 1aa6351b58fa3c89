package engine

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/sys/reexec"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

func testEngine(t *testing.T) *Engine {
	root := t.TempDir()
	dir := filepath.Join(root, "busybox")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "xf", "/tmp/h/busybox.tar", "-C", dir).CombinedOutput(); err != nil {
		t.Fatal(string(out), err)
	}
	e, err := Open(root, filepath.Join(root, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestLife(t *testing.T) {
	e := testEngine(t)
	ctx := context.Background()
	start := time.Now()
	c, err := e.Create(ctx, CreateOptions{Name: "one", Config: Config{Image: "busybox", Cmd: []string{"sh", "-c", "echo hello; sleep 1; exit 3"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("created", time.Since(start))
	if _, err := c.Start(ctx, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("started", time.Since(start))
	c.Close()
	got, err := e.Get(ctx, "one")
	t.Logf("%+v %v", got.State, err)
	code, err := e.Wait(ctx, "one")
	t.Log(code, err, time.Since(start))
	got, err = e.Get(ctx, "one")
	t.Logf("%+v %v", got.State, err)
	if err := e.Remove(ctx, "one", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log("removed", time.Since(start))
	out, _ := exec.Command("sh", "-c", "find "+e.Root+" | grep -v /busybox").CombinedOutput()
	t.Log(string(out))
}
