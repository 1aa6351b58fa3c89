package unionfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"

	"github.com/nslab/nslab/course/coursetest"
)

var times = regexp.MustCompile(`20\d\d-.* UTC`)

// untimed leaves the times out: a tar has whole seconds.
func untimed(description string) string { return times.ReplaceAllString(description, "") }

// meaningful leaves out whiteouts below opaque folders, which hide nothing.
func meaningful(marks []Mark) []Mark {
	return slices.DeleteFunc(slices.Clone(marks), func(m Mark) bool {
		return !m.Opaque && slices.ContainsFunc(marks, func(o Mark) bool { return o.Opaque && strings.HasPrefix(m.Path, o.Path+"/") })
	})
}

// TestMarker: a layer of any form, packed and unpacked into any other, takes away the same.
func TestMarker(t *testing.T) {
	coursetest.NeedRoot(t)
	for seed := range uint64(10) {
		for _, from := range forms {
			for _, to := range forms {
				r := rand.New(rand.NewPCG(seed, 7))
				src, dst := t.TempDir(), t.TempDir()
				want := meaningful(randomLayer(t, r, src, from))
				var packed bytes.Buffer
				must(t, WriteTar(t.Context(), &packed, src, from))
				tree, err := rootfs.OpenTree(t.Context(), dst)
				must(t, err)
				u, err := rootfs.UnpackLayer(t.Context(), tree, &packed, to.Marker(), rootfs.TheLimits())
				must(t, err)
				must(t, tree.Close())
				got, err := Marks(dst, to)
				must(t, err)
				byPath := func(a, b Mark) int { return strings.Compare(a.Path, b.Path) }
				slices.SortFunc(want, byPath)
				slices.SortFunc(got, byPath)
				if fmt.Sprint(got) != fmt.Sprint(want) || u.Marks != len(want) {
					t.Errorf("seed %d, %s to %s: %d marks %v; want %v", seed, from, to, u.Marks, got, want)
				}
				if a, b := untimed(described(t, src, from)), untimed(described(t, dst, to)); a != b {
					t.Errorf("seed %d, %s to %s: content\n%s\nwant\n%s", seed, from, to, b, a)
				}
			}
		}
	}
}
