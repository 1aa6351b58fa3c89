// Package monitor is the one process that stays with a container which nobody waits for.
//
// Somebody must be the parent of a container's init, or nobody learns its exit status; somebody must read its output, or it
// blocks; and somebody must hold the outer end of its terminal. That cannot be the command that the user typed, which may
// be gone at any time. Docker has a daemon and a shim for it, Podman conmon. Here it is nslab once more, started by the
// engine under the name nslab-monitor: it runs one container through labs/12-container, writes its log, lets clients attach,
// writes down how it ended, and ends itself. It does not live in the container's control group, so that neither the memory
// limit nor a fork bomb takes it along.
//
// It is told what to do by an [Outline] and a [Job], through a socket; what it says back are [Report]s. On disk it leaves [Run] while the
// container runs, and [Exit] when it is over. While it lives, it holds a lock: that is how others know.
package monitor

import (
	"net/netip"
	"time"

	container "github.com/nslab/nslab/labs/12-container"

	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/engine/stream"
	"github.com/nslab/nslab/headstart"
	"github.com/nslab/nslab/trace"
)

// Entry is the argv[0] of nslab as a monitor.
const Entry = headstart.Monitor

// The files of a container that are the monitor's, the first in the container's folder, the others in its run folder.
const (
	ExitFile   = "exit.json"
	RunFile    = "run.json"
	LockFile   = "monitor"
	SocketFile = "attach"
)

// Outline is the first that a monitor is told: enough to let the container's init start up.
type Outline struct {
	Container container.Config // as container.Begin needs it
	Traced    bool             // report the system calls

	Connected bool // say who the init is, so that its network namespace can be connected
	Resolver  bool // answer for names in there
	Attached  bool // the connection of a client comes beside this
}

// Job is the second: all the rest.
type Job struct {
	Container container.Config
	Dir       string // of the container, for ExitFile
	RunDir    string // for the others
	LogPath   string
	Log       logs.Options
	Tty       bool
	OpenStdin bool           // its standard input is a pipe that clients can write to
	StdinOnce bool           // which is closed when the first of them is gone
	First     *stream.Client // the client whose connection comes with the job: nil for none
	Durable   bool           // sync ExitFile
	Traced    bool           // report the system calls
	Networks  *Networks      // nil for none that would have to be given back

	// What to execute when it is over, in a container that is to be removed and whose client is gone.
	Remove []string
}

// Networks are those of the container, as far as the monitor has to do with them.
type Networks struct {
	Root, RunRoot string
	Relays        []Relay // one for each port that it holds
}

// Relay is where what arrives at a port of the host is to go, if the kernel's rules do not lead it there.
type Relay struct {
	Proto  string
	Target netip.AddrPort
}

// Report is what a monitor says to the one who started it.
type Report struct {
	Record  *trace.Record
	Warning string
	Born    int                  // the init, which has its namespaces
	Started *Started             // the program runs
	Error   *container.InitError // or does not, and nothing is left of it
	Ended   bool                 // the program has; what was the container's is still being put away
}

// Started says what runs.
type Started struct {
	Pid       int
	StartedAt time.Time
}

// Run is what is known of a container while it runs, beside what the runtime knows.
type Run struct {
	StartedAt time.Time
	Monitor   int // the monitor's process number
}

// Exit is how a run ended. While it goes on, the file has what is to be read there if nobody can write it: see [Lost].
type Exit struct {
	ExitCode   int
	OOMKilled  bool
	Error      string // why it could not be started
	StartedAt  time.Time
	FinishedAt time.Time
}

// Lost is the end of a run that nobody has seen: the monitor was killed, or the machine went down.
func Lost(started time.Time) Exit {
	return Exit{ExitCode: 255, Error: "its monitor was killed, or the machine went down: nobody knows how it ended", StartedAt: started}
}
