package engine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/reexec"
)

// RemoveEntry is nslab as the one who removes an --rm container whose client is gone: the monitor executes it as its last
// deed, in its own place. So the monitor itself need not know how to take a container apart.
const RemoveEntry = "nslab-remove"

func init() { reexec.Register(RemoveEntry, removeMain) }

// removeMain has root, run root and id in its arguments.
func removeMain() {
	if len(os.Args) != 4 {
		os.Exit(2)
	}
	e, err := Open(os.Args[1], os.Args[2])
	if err == nil {
		err = e.Remove(context.Background(), os.Args[3], RemoveOptions{Volumes: true})
	}
	var missing *NotFoundError
	if err != nil && !errors.As(err, &missing) {
		fmt.Fprintln(os.Stderr, "nslab-remove:", err) // into the run folder's log, if that is there still
		os.Exit(1)
	}
}
