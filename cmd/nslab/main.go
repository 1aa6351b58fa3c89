// Command nslab shows how containers work, by doing each kernel trick for real.
//
// This package is wiring: flags become an options struct, which goes to one call. Only main exits, and only main prints
// errors.
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/moby/sys/reexec"
	"github.com/spf13/cobra"
)

// The exit statuses of nslab's own commands.
const (
	exitFailed  = 1 // a check failed, or something could not be done
	exitUsage   = 2 // the command line is wrong
	exitBlocked = 3 // this machine lacks what is needed
	exitSignal  = 128
)

// statusError carries an exit status to main. An empty text prints nothing: everything has been said.
type statusError struct {
	status int
	err    error
	hint   string
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// usageError is a command line that nslab cannot make sense of.
func usageError(hint, format string, args ...any) error {
	return &statusError{status: exitUsage, err: fmt.Errorf(format, args...), hint: hint}
}

func main() {
	// Before anything else: the process may be one that nslab started to sit in new namespaces.
	if reexec.Init() {
		return
	}
	os.Exit(run())
}

// run executes the command line and returns the exit status.
func run() int {
	root := newRootCmd(os.Args)
	err := root.Execute()
	if err == nil {
		return 0
	}
	status, hint := exitFailed, ""
	var s *statusError
	if errors.As(err, &s) {
		if s.err == nil {
			return s.status
		}
		status, hint = s.status, s.hint
	}
	for _, line := range errorLines(err) {
		fmt.Fprintln(os.Stderr, "nslab:", line)
	}
	if hint == "" {
		hint = hintOf(err)
	}
	if hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", hint)
	}
	return status
}

// maker makes a command, whose name can be seen without that.
type maker struct {
	name string
	make func(*globals) *cobra.Command
}

// commands lists the nouns and verbs of the command line; each has its file.
var commands = []maker{
	{"list", newListCmd},
	{"run", newRunCmd},
	{"doctor", newDoctorCmd},
	{"container", newContainerCmd},
	{"image", newImageCmd},
	{"volume", newVolumeCmd},
	{"network", newNetworkCmd},
	{"system", newSystemCmd},
	{"login", newLoginCmd},
	{"logout", newLogoutCmd},
	{"setns", newSetnsCmd},
	{"test", newTestCmd},
	{"clean", newCleanCmd},
	{"version", newVersionCmd},
}

// chosen is the one that the command line names, else all: the name may be another one's alias, or nobody's, and help and
// completion tell of all. Most processes need one, and to make a hundred takes a tenth of a start.
func chosen(all []maker, name string) []maker {
	if i := slices.IndexFunc(all, func(m maker) bool { return m.name == name }); i >= 0 {
		return all[i : i+1]
	}
	return all
}
