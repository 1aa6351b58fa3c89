package jsonfile

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReplace: a file is replaced as a whole, and where it cannot be, the old one stays and nothing lies beside it.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	for _, durable := range []bool{true, true, false, false} {
		if err := Replace(name, map[string]int{"a": 1}, durable); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(name); err != nil || string(text) != "{\n\t\"a\": 1\n}\n" {
			t.Errorf("Replace(durable %v) wrote %q, %v", durable, text, err)
		}
	}
	if err := Replace(name, make(chan int), true); err == nil {
		t.Error("a channel was written")
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, durable := range []bool{true, false} {
		if err := Replace(filepath.Join(dir, "d"), 1, durable); err == nil {
			t.Error("a folder was replaced")
		}
		if st, err := os.Stat(filepath.Join(dir, "d")); err != nil || !st.IsDir() {
			t.Errorf("the folder: %v, %v", st, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	if err != nil || len(left) > 0 {
		t.Errorf("left beside it: %q, %v", left, err)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != "{\n\t\"a\": 1\n}\n" {
		t.Errorf("the old file has become %q, %v", text, err)
	}
}
