package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/image"
	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// imageKills is how many random moments the sweep tries for each command; NSLAB_KILLS says another number.
const imageKills = 12

// TestImageKills kills commands that change the store with SIGKILL at random moments. Whatever is in the store afterwards is
// whole: each blob is what its digest says, each layer has the files of its tar, each name leads to an image; and the next
// commands remove what was left. The seed is printed, and NSLAB_SEED sets it.
func TestImageKills(t *testing.T) {
	coursetest.NeedRoot(t)
	n, seed := setting(t, "NSLAB_KILLS", imageKills), uint64(setting(t, "NSLAB_SEED", int(time.Now().UnixNano()&0xffffffff)))
	t.Logf("NSLAB_SEED=%d NSLAB_KILLS=%d", seed, n)
	dir := t.TempDir()
	layer, archive := filepath.Join(dir, "layer.tar"), filepath.Join(dir, "images.tar")
	writeLayer(t, layer, 300)
	first := &killedStore{t: t, root: filepath.Join(dir, "first")}
	first.must("import", layer, "a:v1")
	first.must("import", "-c", "ENV A=b", layer, "a:v2")
	writeLayer(t, layer, 200)
	first.must("import", layer, "b")
	first.must("save", "-o", archive, "a", "b")
	for i, c := range []struct {
		name    string
		before  [][]string
		command []string
		stdin   string
	}{
		{"import", nil, []string{"import", layer, "x"}, ""},
		{"import-again", [][]string{{"import", layer, "x"}}, []string{"import", "-c", "ENV A=b", layer, "x"}, ""},
		{"load", nil, []string{"load", "-i", archive}, ""},
		{"load-pipe", nil, []string{"load"}, archive},
		{"load-again", [][]string{{"load", "-i", archive}, {"rm", "a:v2"}}, []string{"load", "-i", archive}, ""},
		{"tag", [][]string{{"load", "-i", archive}}, []string{"tag", "a:v1", "b"}, ""},
		{"rm", [][]string{{"load", "-i", archive}}, []string{"rm", "a:v1", "b"}, ""},
		{"prune", [][]string{{"load", "-i", archive}}, []string{"prune", "-a", "-f"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &killedStore{t: t, root: filepath.Join(t.TempDir(), "root")}
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			whole := time.Duration(0) // how long the command takes, measured the first time
			for k := -1; k < n; k++ {
				for _, b := range c.before {
					s.must(b...)
				}
				cmd := s.nslab(c.command...)
				if c.stdin != "" {
					in, err := os.Open(c.stdin)
					if err != nil {
						t.Fatal(err)
					}
					defer in.Close()
					cmd.Stdin = in
				}
				start := time.Now()
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				moment := time.Duration(0)
				if k >= 0 {
					moment = time.Duration(random.Int64N(int64(whole)))
					time.Sleep(moment)
					cmd.Process.Kill()
				}
				if err := cmd.Wait(); err != nil && k < 0 {
					t.Fatalf("%s undisturbed: %v", c.name, err)
				}
				whole = max(whole, time.Since(start))
				s.check()
				if k%3 == 0 {
					s.empty()
				}
				if t.Failed() {
					t.Fatalf("after a kill at %v", moment)
				}
			}
		})
	}
}

// writeLayer writes a tar whose files say in their names what they hold.
func writeLayer(t *testing.T, name string, files int) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range files {
		content := bytes.Repeat([]byte{byte(i)}, i*97)
		h := &tar.Header{Name: fmt.Sprintf("d%d/%s", i%13, digest.FromBytes(content).Encoded()), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write(content)
	}
	w.Close()
	if err := os.WriteFile(name, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

type killedStore struct {
	t    *testing.T
	root string
}

func (s *killedStore) nslab(args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{"nslab", "--root", s.root, "--run-root", s.root + ".run", "image"}, args...)
	return cmd
}

func (s *killedStore) must(args ...string) {
	s.t.Helper()
	if out, err := s.nslab(args...).CombinedOutput(); err != nil {
		s.t.Fatalf("image %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// check looks at everything that a name leads to.
func (s *killedStore) check() {
	s.t.Helper()
	store, err := image.Open(s.root)
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := store.List()
	if err != nil {
		s.t.Errorf("list: %v", err)
	}
	for _, i := range list {
		sv, err := store.Save([]string{i.ID}, image.OCIArchive)
		if err == nil {
			err = sv.Write(s.t.Context(), io.Discard) // which hashes every blob
			sv.Close()
		}
		if err != nil {
			s.t.Errorf("image %v: %v", i.Names, err)
		}
		dirs, err := store.Layers(s.t.Context(), i, unionfs.Overlay)
		if err != nil {
			s.t.Errorf("layers of %v: %v", i.Names, err)
		}
		for _, dir := range dirs {
			s.checkLayer(dir)
		}
	}
}

func (s *killedStore) checkLayer(dir string) {
	files := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		data, err := os.ReadFile(name)
		if got := digest.FromBytes(data).Encoded(); err == nil && got != e.Name() {
			err = fmt.Errorf("%s holds %s", name, got)
		}
		return err
	})
	if err != nil || files != 300 && files != 200 {
		s.t.Errorf("layer %s: %d files, %v", dir, files, err)
	}
}

// empty removes all images, and looks whether anything else is left.
func (s *killedStore) empty() {
	s.t.Helper()
	s.must("prune", "-a", "-f")
	for _, dir := range []string{"layers", "images/blobs/sha256"} {
		left, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil || len(left) > 0 {
			s.t.Errorf("%s: %v, %v; want nothing", dir, left, err)
		}
	}
}
