package doctor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/moby/sys/reexec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	pid "github.com/nslab/nslab/labs/01-pid"
)

// entry is the re-exec entry point of all the doctor's children; argv[1] says which.
const entry = "nslab-doctor"

// What a child is.
const (
	roleRoom     = "room"     // makes its mounts private and runs probes
	roleStepDown = "user"     // nobody in particular, who starts a room as an ordinary user would
	roleStill    = "still"    // sits in its namespaces to be looked at
	roleVeth     = "veth"     // makes a pair of network devices in its network namespace
	roleBridge   = "bridge"   // makes a switch of software there
	roleNftables = "nftables" // makes a firewall table there
)

func init() { reexec.Register(entry, child) }

// patience is how long a probe may be silent until it counts as hung. All of them together take a small part of a
// second; an emulated one under strace may be a hundred times slower.
const patience = 15 * time.Second

// replyFD is the child's end of the pipe for its answers, the first descriptor after stderr.
const replyFD = 3

// nobody is the user without rights that the kernel itself falls back to (Documentation/admin-guide/sysctl/fs.rst,
// overflowuid).
const nobody = 65534

// request is what a room is asked to do, handed over in its argv.
type request struct {
	Probes  []string `json:"probes"`
	Scratch string   `json:"scratch,omitempty"` // where to try overlay
	MapTo   uint32   `json:"map_to"`            // the id to which a new user namespace maps its root
}

// answer is what a probe found in a room: facts, and no prose, which the parent makes of it.
type answer struct {
	Probe string        `json:"probe"`
	Call  string        `json:"call,omitempty"`  // the system call that was refused
	Errno syscall.Errno `json:"errno,omitempty"` // the kernel's answer to it
	Wrong string        `json:"wrong,omitempty"` // or what else is not as it should be: fixed text
	Facts []string      `json:"facts,omitempty"`
}

func (a answer) ok() bool { return a.Call == "" && a.Wrong == "" }

// says is the message of an answer that is not ok.
func (a answer) says() Message {
	switch {
	case a.Call == "":
		return say(a.Wrong)
	case a.Errno == 0:
		return say("%s: %s", a.Call, say(a.Wrong))
	}
	return say("%s → %s", a.Call, errnoText(a.Errno))
}

// The answers that the parent gives in the name of a room that cannot.
const (
	wrongHang   = "it did not come back within 15 seconds"
	wrongDied   = "the process that tried it died"
	wrongSilent = "not tried"
	wrongUser   = "not tried: nslab cannot run as uid 65534 here"
)

// room is how to get one: as labs do, or as an ordinary user would.
type room struct {
	privileged bool // in the present user namespace: we may mount
	stepDown   bool // we are root, and want to know what others may
}

// config is the namespaces of a room. They are those of course.Run's sacrifice.
func (r room) config() pid.Config {
	if r.privileged {
		return pid.Config{Namespaces: unix.CLONE_NEWNS}
	}
	return pid.Config{
		Namespaces:  unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
		UIDMappings: mapping(os.Geteuid()), GIDMappings: mapping(os.Getegid()),
	}
}

// mapping makes an outside id root inside.
func mapping(outside int) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(outside), Size: 1}}
}

// ask has probes done in a room, and in further ones if a probe hangs or kills its room. The answer "room" is about the
// room itself; if that is not ok, there are no others.
func (r room) ask(ctx context.Context, job request) map[string]answer {
	answers := map[string]answer{}
	for first := true; first || len(job.Probes) > 0; first = false {
		why := r.visit(ctx, job, answers)
		if !answers["room"].ok() {
			return answers
		}
		job.Probes = slices.DeleteFunc(slices.Clone(job.Probes), func(id string) bool {
			_, done := answers[id]
			return done
		})
		if len(job.Probes) > 0 { // the one it was at is to blame
			answers[job.Probes[0]] = answer{Probe: job.Probes[0], Wrong: why}
			job.Probes = job.Probes[1:]
		}
	}
	return answers
}

// visit opens one room, collects its answers, and says why it was left.
func (r room) visit(ctx context.Context, job request, answers map[string]answer) (why string) {
	fail := func(a answer) string {
		if _, known := answers["room"]; !known {
			a.Probe = "room"
			answers["room"] = a
		}
		return a.Wrong
	}
	text, err := json.Marshal(job)
	if err != nil {
		return fail(answer{Wrong: err.Error()})
	}
	cfg, role := r.config(), roleRoom
	if r.stepDown {
		cfg, role = pid.Config{}, roleStepDown
	}
	cmd := pid.Command(cfg, entry, role, string(text))
	if r.stepDown {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	reply, theirs, err := os.Pipe()
	if err != nil {
		return fail(answer{Wrong: err.Error()})
	}
	defer reply.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	p, refused := start(ctx, cfg, cmd)
	theirs.Close()
	if refused != nil && r.stepDown {
		return fail(answer{Wrong: wrongUser})
	}
	if refused != nil {
		return fail(*refused)
	}
	defer end(p)

	lines := make(chan answer)
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(reply); s.Scan(); {
			var a answer
			if json.Unmarshal(s.Bytes(), &a) != nil {
				return
			}
			select {
			case lines <- a:
			case <-gone:
				return
			}
		}
	}()
	for {
		select {
		case a, more := <-lines:
			if !more {
				return fail(answer{Wrong: wrongDied})
			}
			answers[a.Probe] = a
		case <-time.After(patience):
			return fail(answer{Wrong: wrongHang})
		case <-ctx.Done():
			return fail(answer{Wrong: wrongSilent})
		}
	}
}

// start starts a child through lab 01. A refusal comes back as an answer.
func start(ctx context.Context, cfg pid.Config, cmd *exec.Cmd) (*pid.Process, *answer) {
	rec := &recorder{}
	p, err := pid.Start(rec.under(ctx), cfg, cmd)
	if err != nil {
		a := rec.answer("", err)
		return nil, &a
	}
	return p, nil
}

// bounded runs a probe that cannot be done in a child. One that does not come back keeps its goroutine, and nothing else.
// One whose ctx is cancelled is waited for all the same: it undoes what it has begun.
func bounded(ctx context.Context, id string, probe func(ctx context.Context) Result) Result {
	done := make(chan Result, 1)
	go func() { done <- probe(ctx) }()
	select {
	case r := <-done:
		return r
	case <-time.After(patience + 2*time.Second): // a room that hangs is given up first
		return Result{ID: id, State: StateMissing, Found: say(wrongHang)}
	}
}

// end kills a child and waits for it, but not for ever: one that hangs in the kernel ends when that lets it.
func end(p *pid.Process) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	p.Kill(ctx)
}

// errnoOf finds the errno in an error's tree.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	errors.As(err, &errno)
	return errno
}

// inode prints a namespace as /proc/PID/ns shows it: "pid:[4026531836]".
func inode(kind string, ino uint64) string { return kind + ":[" + strconv.FormatUint(ino, 10) + "]" }
