package diagnosis

import (
	"fmt"
	"syscall"
	"testing"
)

type refused struct{ errno syscall.Errno }

func (e refused) Error() string { return e.errno.Error() }
func (e refused) Unwrap() error { return e.errno }
func (e refused) Conditions() []Condition {
	return []Condition{{What: "it holds", OK: true}, {What: "it does not", Remedy: "make it"}}
}

func TestRemedy(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{syscall.EINVAL: "make it", syscall.EMFILE: "", syscall.ENOMEM: ""} {
		if got := Remedy(fmt.Errorf("mount: %w", refused{errno})); got != want {
			t.Errorf("Remedy(%v) = %q; want %q", errno, got, want)
		}
	}
}
