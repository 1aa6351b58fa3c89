package image

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
)

// TestBootstrapWithoutBusybox: on a machine that has no busybox, or no more than a shell.
func TestBootstrapWithoutBusybox(t *testing.T) {
	for _, programs := range []string{"bash ls cat", "sh", "cat"} {
		bin := t.TempDir()
		for _, p := range strings.Fields(programs) {
			path, err := exec.LookPath(p)
			must(t, err)
			must(t, os.Symlink(path, filepath.Join(bin, p)))
		}
		s := newStore(t)
		i, err := s.Bootstrap(t.Context(), BootstrapOptions{Host: rootfs.Host{Root: "/", Path: []string{bin}}})
		must(t, err)
		want := strings.Fields(programs)[0]
		if c := i.Config.Config; !slices.Equal(c.Cmd, []string{want}) || !strings.HasSuffix(c.Env[0], ":"+bin) {
			t.Errorf("%s: %q %q; want %s, and %s in the PATH", programs, c.Cmd, c.Env, want, bin)
		}
		tree, err := rootfs.OpenTree(t.Context(), s.Folders(i)[0])
		must(t, err)
		defer tree.Close()
		for _, name := range append(strings.Fields(programs), "/bin/sh") {
			if !strings.HasPrefix(name, "/") {
				name = filepath.Join(bin, name)
			}
			f, err := tree.Open(t.Context(), name, os.O_RDONLY, 0)
			if name == "/bin/sh" && programs == "cat" {
				if err == nil {
					t.Errorf("%s: there is a shell", programs)
				}
				continue
			}
			must(t, err)
			f.Close()
		}
	}
	var missing *rootfs.NotFound
	s := newStore(t)
	if _, err := s.Bootstrap(t.Context(), BootstrapOptions{Programs: []string{"nosuch"}}); !errors.As(err, &missing) {
		t.Errorf("bootstrap of nothing: %v", err)
	}
	if _, err := s.Bootstrap(t.Context(), BootstrapOptions{Host: rootfs.Host{Root: "/", Path: []string{t.TempDir()}}}); err == nil {
		t.Error("bootstrap on a machine without programs made an image")
	}
	if got := content(t, s); len(got) > 0 {
		t.Errorf("left: %q", got)
	}
}
