package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nslab/nslab/cmd/nslab/filter"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

func TestSplitCopyArg(t *testing.T) {
	for arg, want := range map[string][2]string{
		"c:/x": {"c", "/x"}, "c:x": {"c", "x"}, "c:": {"c", ""}, "x": {"", "x"}, "./c:x": {"", "./c:x"}, "/c:x": {"", "/c:x"}, "-": {"", "-"},
		"c:a:b": {"c", "a:b"}, ":x": {"", "x"}, "../c:x": {"", "../c:x"},
	} {
		if container, path := splitCopyArg(arg); container != want[0] || path != want[1] {
			t.Errorf("splitCopyArg(%q) = %q, %q; want %q", arg, container, path, want)
		}
	}
}

func TestShownPath(t *testing.T) {
	for path, want := range map[string]string{"/a b": "/a b", "/ü": "/ü", "/a\nb": `"/a\nb"`, "/\x1b[2J": `"/\x1b[2J"`} {
		if got := shownPath(path); got != want {
			t.Errorf("shownPath(%q) = %s; want %s", path, got, want)
		}
	}
}

// A file that is written is the whole new one, or still the old one.
func TestWriteOutput(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "out")
	write := func(text string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			io.WriteString(w, text)
			return err
		}
	}
	if err := writeOutput(t.Context(), name, write("one", nil)); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := writeOutput(t.Context(), name, write("two", broken)); !errors.Is(err, broken) {
		t.Errorf("%v; want the writer's error", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := writeOutput(ended, name, write("three", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want it to have been interrupted", err)
	}
	if text, err := os.ReadFile(name); string(text) != "one" {
		t.Errorf("%q, %v; want what was there before", text, err)
	}
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Symlink("out", link), writeOutput(t.Context(), link, write("four", nil))); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(name); string(text) != "four" {
		t.Errorf("through a link: %q, %v", text, err)
	}
	entries, err := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("in the folder there are %v, %v; want out and link", entries, err)
	}
}

func TestPrunedVolumes(t *testing.T) {
	named, anonymous := &volumes.Volume{Name: "v", Labels: map[string]string{"a": "1"}}, &volumes.Volume{Name: "x", Anonymous: true}
	for _, c := range []struct {
		all              bool
		filters          string
		named, anonymous bool
	}{
		{false, "", false, true}, {true, "", true, true}, {false, "all=true", true, true}, {true, "label=a", true, false},
		{true, "label=a=2", false, false}, {true, "label!=a", false, true}, {true, "label!=a=2", true, true},
		{true, "label=com.docker.volume.anonymous", false, true},
	} {
		var f filter.Filters
		for _, one := range strings.Fields(c.filters) {
			if err := f.Set(one); err != nil {
				t.Fatal(err)
			}
		}
		match, err := prunedVolumes(f, c.all)
		if err != nil {
			t.Fatal(err)
		}
		if match(named) != c.named || match(anonymous) != c.anonymous {
			t.Errorf("all %t, %q: %t, %t; want %t, %t", c.all, c.filters, match(named), match(anonymous), c.named, c.anonymous)
		}
	}
}
