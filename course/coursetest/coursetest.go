// Package coursetest is for the tests of stages: what they need, and that nothing which is missing is skipped in silence.
package coursetest

import (
	"os"
	"testing"

	"github.com/moby/sys/reexec"
)

// Main runs a package's tests. A stage starts its own program again, which in a test is the test binary: the entry points
// come first, or the child would run the tests once more.
func Main(m *testing.M) {
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

// NeedRoot skips a test that needs root, or fails it where NSLAB_STRICT=1 says that nothing may be skipped.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root")
	}
}

// Missing skips a test for want of something, or fails it where NSLAB_STRICT=1 says that nothing may be skipped.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("NSLAB_STRICT") == "1" {
		t.Fatalf("needs %s, and NSLAB_STRICT=1 does not let it be skipped", what)
	}
	t.Skipf("needs %s", what)
}
