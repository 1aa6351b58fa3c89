package files

import (
	"os"
	"testing"
)

// benchRoot is a tree that NSLAB_BENCH_TREE names, or the machine's own documentation.
func benchRoot(b *testing.B) *Root {
	b.Helper()
	dir := os.Getenv("NSLAB_BENCH_TREE")
	if dir == "" {
		dir = "/usr/share/doc"
	}
	top, err := os.Open(dir)
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { top.Close() })
	return &Root{top: top, context: true}
}

func BenchmarkDigest(b *testing.B) {
	root := benchRoot(b)
	for b.Loop() {
		root.sums.Clear()
		plan, err := Instruction{Sources: []string{"."}, Dest: "/"}.Resolve(b.Context(), root)
		must(b, err)
		_, err = plan.Digest(b.Context())
		must(b, err)
	}
}

func BenchmarkCopy(b *testing.B) {
	root := benchRoot(b)
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		b.StartTimer()
		plan, err := Instruction{Sources: []string{"."}, Dest: "/"}.Resolve(b.Context(), root)
		must(b, err)
		result, err := plan.Copy(b.Context(), openTree(b, dir))
		must(b, err)
		b.ReportMetric(float64(result.Files), "files")
		b.SetBytes(result.Bytes)
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}
