package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/reexec"

	"github.com/nslab/nslab/image"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

func testEngine(t *testing.T) *Engine {
	root := t.TempDir()
	e, err := Open(root, filepath.Join(root, "run"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.Images().Bootstrap(t.Context(), image.BootstrapOptions{
		Names: []string{"box"}, Programs: []string{"sh", "sleep", "echo", "true"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestLife follows one container from its making to its removal, and looks at each turn.
func TestLife(t *testing.T) {
	e := testEngine(t)
	ctx := t.Context()
	c, err := e.Create(ctx, CreateOptions{Name: "one", Config: Config{Image: "box", Cmd: []string{"sh", "-c", "echo hello; exit 3"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Create(ctx, CreateOptions{Name: "one", Config: Config{Image: "box"}}); !errors.As(err, new(*NameError)) {
		t.Errorf("a second one of that name: %v; want a NameError", err)
	}
	if c.State.Status != Created {
		t.Errorf("status %s; want %s", c.State.Status, Created)
	}
	if _, err := c.Start(ctx, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if code, err := e.Wait(ctx, "one"); code != 3 || err != nil {
		t.Errorf("Wait = %d, %v; want 3", code, err)
	}
	c, err = e.Get(ctx, c.ID[:10])
	if err != nil {
		t.Fatal(err)
	}
	if c.State.Status != Exited || c.State.ExitCode != 3 || c.State.FinishedAt.Before(c.State.StartedAt) {
		t.Errorf("state %+v; want exited with 3", c.State)
	}
	if log, err := os.ReadFile(c.LogPath()); err != nil || !strings.Contains(string(log), `"hello\n"`) {
		t.Errorf("log %q, %v; want a line hello", log, err)
	}
	if err := e.Remove(ctx, "one", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{e.containersDir(), e.namesDir(), e.runDir()} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}
