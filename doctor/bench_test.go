package doctor

import (
	"testing"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/coursetest"

	"github.com/nslab/nslab/labs"
)

// BenchmarkMissing is what each `nslab run` pays before its first step.
func BenchmarkMissing(b *testing.B) {
	coursetest.NeedRoot(b)
	b.Setenv("NSLAB_RUN_ROOT", b.TempDir())
	for _, l := range labs.All() {
		b.Run(l.Name(), func(b *testing.B) {
			for b.Loop() {
				if missing := Missing(l, course.RunRoot("")); len(missing) > 0 {
					b.Fatal(missing[0].ID, " is missing")
				}
			}
		})
	}
}
