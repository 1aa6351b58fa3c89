package course

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	var ids []int
	for _, p := range []string{"/a", "/b", "/c"} {
		id, err := j.begin("01-pid", "cgroup", p)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := errors.Join(j.end(ids[1]), j.Close()); err != nil {
		t.Fatal(err)
	}
	// A kill in the middle of a write leaves half a line.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"id":9,"kind":"cgr`)
	f.Close()

	j, err = openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := j.end(ids[2]); err != nil { // goes on a line of its own
		t.Fatal(err)
	}
	pending, err := j.pending()
	if err != nil || len(pending) != 1 || pending[0].Path != "/a" {
		t.Errorf("pending() = %+v, %v; want /a", pending, err)
	}
}
