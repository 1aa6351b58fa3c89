package image

import (
	"bytes"
	"fmt"
	"testing"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
)

// BenchmarkResolve is what a container's start asks of the store: the image is there and unpacked.
func BenchmarkResolve(b *testing.B) {
	for _, layers := range []int{1, 10} {
		b.Run(fmt.Sprint(layers, " layers"), func(b *testing.B) {
			root := b.TempDir()
			s, err := Open(root)
			if err != nil {
				b.Fatal(err)
			}
			var i *Image
			for n := range layers {
				layer := tarOf(b, file{fmt.Sprint("f", n), "text"})
				if i, err = s.Commit(b.Context(), i, writer(layer), CommitOptions{Names: []string{fmt.Sprint("i", n)}}); err != nil {
					b.Fatal(err)
				}
			}
			ref := fmt.Sprint("i", layers-1)
			for b.Loop() {
				s, err := Open(root)
				if err != nil {
					b.Fatal(err)
				}
				i, err := s.Resolve(ref)
				if err != nil {
					b.Fatal(err)
				}
				if dirs, err := s.Layers(b.Context(), i, unionfs.Overlay); err != nil || len(dirs) != layers {
					b.Fatal(dirs, err)
				}
			}
		})
	}
}

// BenchmarkUse is noting that a container has an image, and forgetting it.
func BenchmarkUse(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	i, err := s.Import(b.Context(), bytes.NewReader(tarOf(b, file{"a", "b"})), ImportOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := s.Use(i.ID, "abc"); err != nil {
			b.Fatal(err)
		}
		if err := s.Release(i.ID, "abc"); err != nil {
			b.Fatal(err)
		}
	}
}
