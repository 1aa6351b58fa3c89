package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/image"
	stage "github.com/nslab/nslab/labs/09-network"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	if err := ownNetwork(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// ownNetwork executes the tests again in a network namespace of their own: the bridges of their containers are none of the
// machine's.
func ownNetwork() error {
	const done = "NSLAB_TEST_OWN_NETWORK"
	if os.Geteuid() != 0 || os.Getenv(done) != "" {
		return nil
	}
	runtime.LockOSThread() // unshare is for the thread, and exec makes this thread the process
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("a network namespace for the tests: %w", err)
	}
	if err := stage.LoopbackUp(context.Background()); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), done+"=1"))
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
