// Package doctor finds out what this machine can do, by doing it.
//
// The idea: a list of conditions (is it Linux 5.x, is this sysctl 1, is that module loaded) is always incomplete, since
// seccomp filters, security modules and container engines forbid things that every list says are possible. So each probe
// makes the thing itself, a namespace, a mount, a control group, looks at it from outside, and lets it go. Sysctls and
// modules are only looked at afterwards, to name the remedy.
//
// The interface: [Examine] runs every probe, for `nslab doctor`; [Missing] those one lab needs, for `nslab run`. Both
// return [Result]s, which [Report] and [ReportBlocked] print.
//
// Where a probe runs: in a *room*, a child in a mount namespace of its own (without root also in a user namespace) like
// the one labs run in. The room makes its mounts private before anything else and dies with nslab, so a probe cannot
// leave a trace, whatever happens to it. It answers line by line through a pipe: one that hangs, or takes the room down
// with it, is itself a finding, and the others go on in a new room.
//
// The limits: two probes need a place outside. Overlay is tried on the file system that will hold nslab's state, in a
// folder with a fixed name which the next doctor removes if this one is killed (see scratch). And control groups are not
// namespaced at all: lab 03 says how that probe cleans up.
package doctor

import (
	"context"
	"slices"

	"github.com/nslab/nslab/course"
)

// State is the outcome of a probe.
type State string

// A probe's outcomes. A note is worth knowing and blocks nothing.
const (
	StateOK      State = "ok"
	StateMissing State = "missing"
	StateNote    State = "note"
)

// Result is what one probe found.
type Result struct {
	ID     string // stable: "ns.pid"; labs name their needs by it, see course.Need
	State  State
	Found  Message   // the evidence: inode numbers, versions, the refused call
	Blocks []string  // labs that cannot run because of it
	Remedy []Message // what to do about it, each a command or a sentence
}

// Options says what to examine.
type Options struct {
	Labs      []*course.Lab // whose needs decide what blocks what
	RunRoot   string        // where runs keep their state: leftovers are looked for there
	StateRoot string        // where layers will be kept; "" for the default, see StateRoot
}

// vital are probes that no lab needs to name: without what they find, none can run.
var vital = []string{"privilege", "machine.wsl"}

// Examine runs every probe and returns the results in the order in which they are shown. What ctx cancels is reported as
// missing; the caller should look at ctx.Err before believing it.
func Examine(ctx context.Context, o Options) []Result {
	m := look()
	answers := m.room().ask(ctx, m.request(roomProbes))
	user := m.userRoom().ask(ctx, request{Probes: []string{overlayUser}})

	all := []Result{m.privilege(answers["room"]), m.capabilities(), m.ordinaryUser(user["room"])}
	for _, kind := range namespaceKinds {
		all = append(all, m.fromRoom("ns."+kind, answers))
	}
	all = append(all, m.controlGroups(ctx, runRootOf(o.RunRoot))...)
	all = append(all, m.fromRoom("mount.tmpfs", answers), m.fromRoom(overlayRoom, answers), m.overlay(ctx, StateRoot(o.StateRoot)))
	all = append(all, m.fromRoom(overlayUser, user), m.fromRoom("mount.fuse", answers), m.propagation())
	all = append(all, m.fromRoom("net.veth", answers), m.fromRoom("net.bridge", answers), m.fromRoom("net.nftables", answers))
	all = append(all, m.kernel(), m.architecture(), m.nesting(), m.wsl())
	all = append(all, bounded(ctx, "machine.leftovers", func(context.Context) Result { return leftovers(runRootOf(o.RunRoot)) }))
	for i := range all {
		all[i].Blocks = blocks(all[i], o.Labs)
	}
	return all
}

// Missing probes what the lab needs, and nothing else, and returns what this machine lacks. What it makes is journalled
// below runRoot.
func Missing(l *course.Lab, runRoot string) []Result {
	ctx := context.Background()
	m := look()
	var lacking []Result
	add := func(r Result) {
		if r.State == StateMissing {
			r.Blocks = []string{l.Name()}
			lacking = append(lacking, r)
		}
	}
	add(m.wsl())

	var inRoom []string // asked together: each room costs the start of a process
	for _, need := range l.Needs {
		if id := string(need); slices.Contains(roomProbes, id) {
			inRoom = append(inRoom, id)
		}
	}
	answers := m.room().ask(ctx, m.request(inRoom))
	if r := m.privilege(answers["room"]); r.State == StateMissing {
		add(r) // the rest could not be tried, and would only hide the cause
		return lacking
	}
	for _, need := range l.Needs {
		id := string(need)
		switch {
		case slices.Contains(vital, id):
		case slices.Contains(inRoom, id):
			add(m.fromRoom(id, answers))
		case slices.Contains(controllerIDs(), id):
			add(m.controller(ctx, runRootOf(runRoot), id))
		case id == "mount.overlay":
			add(m.overlay(ctx, StateRoot("")))
		default:
			add(Result{ID: id, State: StateMissing, Found: say("this nslab has no probe for it")})
		}
	}
	return lacking
}

// blocks names the labs that need what a result says is missing.
func blocks(r Result, labs []*course.Lab) []string {
	names := []string{}
	if r.State != StateMissing {
		return names
	}
	for _, l := range labs {
		if slices.Contains(vital, r.ID) || slices.Contains(l.Needs, course.Need(r.ID)) {
			names = append(names, l.Name())
		}
	}
	return names
}

// Blocked lists the labs that some result blocks, in the order of labs.
func Blocked(results []Result, labs []*course.Lab) []string {
	var names []string
	for _, l := range labs {
		if len(blockers(results, l)) > 0 {
			names = append(names, l.Name())
		}
	}
	return names
}

// blockers lists the ids of the results that block a lab.
func blockers(results []Result, l *course.Lab) []string {
	ids := []string{}
	for _, r := range results {
		if slices.Contains(r.Blocks, l.Name()) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}
