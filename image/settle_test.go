package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// crash makes a layer look like one that was written before the machine was booted, and that the disk has the half of.
func crash(t *testing.T, s *Store, i *Image) {
	t.Helper()
	for _, chain := range i.Chain() {
		name := s.layerPath(chain, layerFile)
		text, err := os.ReadFile(name)
		must(t, err)
		must(t, os.WriteFile(name, []byte(strings.Replace(string(text), bootID(), "of another day", 1)), 0o600))
		must(t, os.Truncate(s.layerPath(chain, "diff", "a"), 0))
	}
}

func readLayer(t *testing.T, s *Store, i *Image) string {
	t.Helper()
	dirs, err := s.Layers(t.Context(), i, unionfs.Overlay)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(dirs[0], "a"))
	must(t, err)
	return string(text)
}

// TestCrash: what a crash of the machine may have left half on the disk is unpacked again.
func TestCrash(t *testing.T) {
	s := newStore(t)
	data := tarOf(t, file{"a", "some text"})
	i := importTar(t, s, data, "x")
	crash(t, s, i)
	if got := readLayer(t, s, i); got != "some text" {
		t.Errorf("a = %q; want it unpacked again", got)
	}
	if info, err := s.layerInfo(i.Chain()[0]); err != nil || info.Boot != "" {
		t.Errorf("layer: %+v, %v; want it settled", info, err)
	}
	// Settled, it is whole whatever the machine does.
	must(t, os.Truncate(s.layerPath(i.Chain()[0], "diff", "a"), 4))
	if got := readLayer(t, s, i); got != "some" {
		t.Errorf("a = %q; want what lies there", got)
	}

	for name, damage := range map[string]func(*Store, *Image){
		"imported again": func(s *Store, i *Image) { importTar(t, s, data, "y") },
		"no text": func(s *Store, i *Image) {
			must(t, os.WriteFile(s.layerPath(i.Chain()[0], layerFile), nil, 0o600))
		},
		"zeros": func(s *Store, i *Image) {
			must(t, os.WriteFile(s.layerPath(i.Chain()[0], layerFile), make([]byte, 200), 0o600))
		},
	} {
		s := newStore(t)
		i := importTar(t, s, data, "x")
		crash(t, s, i)
		damage(s, i)
		if got := readLayer(t, s, i); got != "some text" {
			t.Errorf("%s: a = %q; want it unpacked again", name, got)
		}
	}
}

// TestSettle: a layer that was made a while ago is taken for written down, after it was.
func TestSettle(t *testing.T) {
	s := newStore(t)
	old := importTar(t, s, tarOf(t, file{"a", "old"}), "old")
	mark := func(i *Image) string { return s.unsettledPath(i.Chain()[0]) }
	past := time.Now().Add(-2 * settleAfter)
	must(t, os.Chtimes(mark(old), past, past))
	must(t, os.WriteFile(s.images(unsettled, strings.Repeat("0", 64)), nil, 0o600))
	must(t, os.Chtimes(s.images(unsettled, strings.Repeat("0", 64)), past, past))
	young := importTar(t, s, tarOf(t, file{"a", "young"}), "young")
	for i, want := range map[*Image]string{old: "", young: bootID()} {
		if info, err := s.layerInfo(i.Chain()[0]); err != nil || info.Boot != want || want == "" == exists(mark(i)) {
			t.Errorf("%s: %+v, %v, mark %v; want boot %q", i.Names, info, err, exists(mark(i)), want)
		}
	}
	if left, _ := filepath.Glob(s.images(unsettled, "*")); len(left) != 1 {
		t.Errorf("marks: %v; want one", left)
	}
	// A mark does not make a layer of an earlier boot whole.
	crash(t, s, young)
	must(t, os.Chtimes(mark(young), past, past))
	s.settle()
	if got := readLayer(t, s, young); got != "young" {
		t.Errorf("a = %q; want it unpacked again", got)
	}
	// With the image, all of it goes.
	must(t, os.WriteFile(mark(young), nil, 0o600))
	_, err := s.Remove("young", RemoveOptions{})
	must(t, err)
	if exists(mark(young)) {
		t.Error("the mark of a removed layer is left")
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
