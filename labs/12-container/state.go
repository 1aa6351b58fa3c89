package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/jsonfile"
	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	"github.com/nslab/nslab/trace"
)

// Phase is how far the making of a container has come. How it is *now* only the kernel knows: see [State.Status].
type Phase string

// The phases, in their order.
const (
	PhaseCreating Phase = "creating"
	PhaseCreated  Phase = "created"
	PhaseRunning  Phase = "running"
)

// State is what is on disk about a container. It is written before anything is made, and whenever there is more to say, so
// that another process, or a later one, can find and undo all of it.
type State struct {
	ID        string
	Dir       string `json:"-"`
	Phase     Phase
	Pid       int               // of the init, in the PID namespace of whoever made it
	StartTime uint64            // of that process, in clock ticks since boot: a number is given away again, with another time
	BootID    string            // a process of another boot is not ours, whatever its number
	Root      string            // the root file system, where the container sees it
	Group     *cgroups.Group    `json:",omitempty"`
	Things    []cgroups.Thing   `json:",omitempty"` // what was made on the host for the group
	Notes     map[string]string `json:",omitempty"` // annotations of the spec

	Warnings []string `json:"-"` // what is not as asked for, in words
}

func newState(cfg *Config) State {
	return State{
		ID: cfg.ID, Dir: cfg.Dir, Phase: PhaseCreating, BootID: bootID(), Root: cfg.Spec.Root.Path, Notes: cfg.Spec.Annotations,
	}
}

const stateFile = "state.json"

// save writes the state aside and renames it, so that nobody ever reads half of it. It is not synced: the folder is one of
// the run root, and what it says means nothing after the machine has crashed.
func (s *State) save() error {
	if s.Group != nil && s.Things == nil {
		s.Things = s.Group.Things()
	}
	data, err := jsonfile.Marshal(s)
	if err != nil {
		return fmt.Errorf("12-container: save state: %w", err)
	}
	if err := jsonfile.Write(filepath.Join(s.Dir, stateFile), data, false); err != nil {
		return fmt.Errorf("12-container: save state: %w", err)
	}
	return nil
}

// Load reads the state in a folder. The error is os.ErrNotExist where there is none.
func Load(dir string) (*State, error) {
	data, err := jsonfile.Read(filepath.Join(dir, stateFile))
	if err != nil {
		return nil, fmt.Errorf("12-container: load state: %w", err)
	}
	s := &State{Dir: dir}
	if err := jsonfile.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("12-container: load state %s: %w", filepath.Join(dir, stateFile), err)
	}
	return s, nil
}

func removeState(dir string) error {
	var errs []error
	for _, name := range []string{stateFile, stateFile + ".new"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// bootID is a number that the kernel draws at each boot.
var bootID = sync.OnceValue(func() string {
	data, err := jsonfile.Read("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
})

// startTime reads when a process was started, the 22nd field of its stat. See proc_pid_stat(5).
func startTime(pid int) (uint64, error) {
	_, start, err := readStat(pid)
	return start, err
}

func readStat(pid int) (state byte, start uint64, err error) {
	data, err := jsonfile.Read(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("12-container: look at process %d: %w", pid, err)
	}
	// The name is in parentheses, and may hold anything, parentheses too.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("12-container: look at process %d: stat has %d fields", pid, len(fields)+2)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], start, err
}

// Alive tells whether the init is there, and is that one. A zombie is not.
func (s *State) Alive() bool {
	if s.Pid == 0 || s.BootID != bootID() {
		return false
	}
	state, start, err := readStat(s.Pid)
	return err == nil && start == s.StartTime && state != 'Z' && state != 'X'
}

// Status asks the kernel how the container is, in the runtime-spec's words; "paused" is one more.
func (s *State) Status() string {
	switch {
	case s.Alive() && s.Phase == PhaseCreating:
		return string(specs.StateCreating)
	case !s.Alive():
		return string(specs.StateStopped)
	case s.Frozen():
		return "paused"
	case s.Phase == PhaseCreated:
		return string(specs.StateCreated)
	}
	return string(specs.StateRunning)
}

// Frozen tells whether the group is frozen.
func (s *State) Frozen() bool {
	if s.Group == nil {
		return false
	}
	frozen, err := s.Group.Frozen()
	return err == nil && frozen
}

// OCI is the state in the form that hooks, and other engines, know.
func (s *State) OCI(status specs.ContainerState) specs.State {
	return specs.State{
		Version: specs.Version, ID: s.ID, Status: status, Pid: s.Pid, Bundle: s.Dir, Annotations: s.Notes,
	}
}

func (i *initProcess) state() specs.State {
	return specs.State{
		Version: specs.Version, ID: i.Config.ID, Status: specs.StateCreating, Pid: os.Getpid(), Bundle: i.Config.Dir,
		Annotations: i.Config.Spec.Annotations,
	}
}

// hold opens a pidfd of the init. The time is compared after that: the number is not given away while the process lives.
func (s *State) hold() (*os.File, error) {
	fd, err := -1, error(unix.ESRCH)
	if s.Pid != 0 { // 0: whoever made it was killed before there was a process
		fd, err = unix.PidfdOpen(s.Pid, 0)
	}
	if err == nil && !s.Alive() {
		err = errors.Join(unix.ESRCH, unix.Close(fd))
	}
	if err != nil {
		return nil, fmt.Errorf("12-container: hold process %d: %w", s.Pid, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", s.Pid)), nil
}

// Kill sends a signal to the init. One that is gone is [ErrState].
func (s *State) Kill(ctx context.Context, sig syscall.Signal) error {
	f, err := s.hold()
	if errors.Is(err, unix.ESRCH) {
		return ErrState
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = trace.Call(ctx, 0,
		func() string {
			return fmt.Sprintf("pidfd_send_signal(%d<%s>, %s)", f.Fd(), f.Name(), unix.SignalName(sig))
		},
		func() error { return unix.PidfdSendSignal(int(f.Fd()), sig, nil, 0) })
	if errors.Is(err, unix.ESRCH) {
		return ErrState
	}
	if err != nil {
		return fmt.Errorf("12-container: send %s to process %d: %w", unix.SignalName(sig), s.Pid, err)
	}
	return nil
}

// Pause stops all processes of the container where they are.
func (s *State) Pause(ctx context.Context) error {
	if s.Group == nil {
		return errNoGroup
	}
	return s.Group.Freeze(ctx)
}

// Resume lets them go on.
func (s *State) Resume(ctx context.Context) error {
	if s.Group == nil {
		return errNoGroup
	}
	return s.Group.Thaw(ctx)
}

var errNoGroup = errors.New("12-container: the container has no control group that could be frozen")

// Delete removes what Create has made. A container that still lives is [ErrState], unless force says to end it. It is
// idempotent; what could not be removed stays in the journal, for the next attempt.
func (s *State) Delete(ctx context.Context, force bool) error {
	if s.Alive() && !force {
		return ErrState
	}
	var err error
	if s.Alive() || !s.vacated(ctx) {
		err = s.killAll(ctx)
	}
	if err := errors.Join(err, s.removeGroup(ctx)); err != nil {
		return err
	}
	return removeState(s.Dir)
}

// vacated removes the group of a container that has left nobody behind.
func (s *State) vacated(ctx context.Context) bool {
	return s.BootID == bootID() && s.Group != nil && s.Group.RemoveEmpty(ctx)
}

// killAll ends every process of the container. Its init first, which takes all of its PID namespace with it; then those in
// the group that were not of that namespace.
func (s *State) killAll(ctx context.Context) error {
	if s.BootID != bootID() {
		return nil
	}
	if s.Group != nil {
		err := s.Group.Kill(ctx)
		if err == nil || !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	if err := s.Kill(ctx, unix.SIGKILL); err != nil && !errors.Is(err, ErrState) {
		return err
	}
	// A group is empty when its Kill returns. Without one, as ordinary users have it, the kernel takes a moment for this, too.
	for wait := time.Millisecond; s.Alive(); wait = min(2*wait, 50*time.Millisecond) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("12-container: wait for the end of process %d: %w", s.Pid, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
	return nil
}

// removeGroup undoes what was journalled, newest first. Each is checked to be nslab's, and may be gone already.
func (s *State) removeGroup(ctx context.Context) error {
	if s.BootID != bootID() {
		return nil // control groups do not outlive the kernel either
	}
	var errs []error
	for _, t := range slices.Backward(s.Things) {
		errs = append(errs, cgroups.Undo(ctx, t))
	}
	return errors.Join(errs...)
}

// OOMKilled tells whether the kernel has killed a process of the group for memory.
func (s *State) OOMKilled() bool {
	if s.Group == nil {
		return false
	}
	n, err := s.Group.OOMKills()
	return err == nil && n > 0
}
