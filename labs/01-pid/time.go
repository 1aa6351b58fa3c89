package pid

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// unshareTime gives the calling thread a new time namespace for its *children*, and sets its clocks.
//
// The order matters: unshare never moves the caller itself into the namespace, and the offsets can be written only while
// nobody is in it yet, since a clock must not jump under a running process. The first child then finds them set.
// See time_namespaces(7).
func unshareTime(ctx context.Context, offsets map[string]specs.LinuxTimeOffset) error {
	err := trace.Call(ctx, 0,
		func() string { return "unshare(CLONE_NEWTIME)" },
		func() error { return unix.Unshare(unix.CLONE_NEWTIME) })
	if err != nil {
		return &Error{Op: "unshare", Flags: unix.CLONE_NEWTIME, Err: err}
	}
	// By thread id: /proc/self is the main thread, whose namespaces are not the ones that changed.
	file := fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid())
	for _, clock := range slices.Sorted(maps.Keys(offsets)) {
		o := offsets[clock]
		line := fmt.Sprintf("%s %d %d", clock, o.Secs, o.Nanosecs)
		err := trace.Call(ctx, 0,
			func() string { return fmt.Sprintf("write %q → %s", line, file) },
			func() error { return os.WriteFile(file, []byte(line), 0) })
		if err != nil {
			return fmt.Errorf("set time offset of %s: %w", clock, err)
		}
	}
	return nil
}
