package engine

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestUnpacked reads what `cp -` may be given, packed in each way that is known, and in one that is not.
func TestUnpacked(t *testing.T) {
	const content = "some content, long enough to have a beginning"
	packers := map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	}
	archives := map[string]string{"plain": content}
	for name, pack := range packers {
		var packed bytes.Buffer
		w, err := pack(&packed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		archives[name] = packed.String()
	}
	for name, archive := range archives {
		r, err := unpacked(strings.NewReader(archive))
		if err != nil {
			t.Errorf("unpacked(%s): %v", name, err)
			continue
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != content {
			t.Errorf("unpacked(%s) = %q, %v; want %q", name, got, err, content)
		}
	}
	if _, err := unpacked(strings.NewReader("\xfd7zXZ\x00 and so on")); err == nil || !strings.Contains(err.Error(), "xz") {
		t.Errorf("unpacked(xz): %v; want an error that names xz", err)
	}
}
