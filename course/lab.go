// Package course is the walkthrough engine: it runs a lab step by step, shows what each step did, what the kernel says
// about it and whether that is what was expected, and leaves the machine as it found it.
//
// A lab is data: metadata, lessons and an ordered list of [Step]s. A step is one function over a [T], which works like
// testing.T: it makes things with [T.Make], shows evidence with [T.See], compares with [T.Check], and what it made is
// undone in reverse when the step ends. Every step stands on its own, so it can be repeated, or run alone.
//
// # Where a lab runs
//
// `nslab run` is two processes. The guard stays on the host: it keeps the journal and its lock, starts the other, undoes
// whatever that one left, and measures the difference to the host. The other is the sacrifice: it has a private mount
// namespace of its own (without root also a user namespace), runs the steps, and dies with the guard.
//
// The package imports no lab. Labs import it for their walkthrough; their stages do not.
package course

import (
	"context"
	"fmt"
	"io/fs"
)

// Lab is one lesson of the course with everything it needs to run.
type Lab struct {
	Number  int             // its place in the course: 3
	Slug    string          // its name: "cgroups"
	Title   Text            // one line, in both languages
	Needs   []Need          // what the machine must offer; probed before anything is changed
	Minutes int             // how long a learner takes, reading included
	Files   fs.FS           // lesson.md, lesson.zh.md and the sources of the stage
	Steps   []Step          // in the order they are taught
	Zh      func() Messages // what the steps say, in Chinese; made when it is needed, which it is not in most processes
	Undo    map[string]Undo // how to remove each kind of thing that [T.Make] journals
}

// Name is the lab's full name, "03-cgroups": its folder, and what `nslab run` prints.
func (l *Lab) Name() string { return fmt.Sprintf("%02d-%s", l.Number, l.Slug) }

// Step does one thing, gathers the evidence, and checks it.
//
// Run must not depend on another step having run. It returns an error only when it could not do what it set out to;
// evidence that is not as expected is a failed check.
type Step struct {
	ID     string // names the lesson's section: "limit-cpu"
	Answer int    // which of the lesson's predictions comes true, from 1; 0 where the lesson asks for none
	Run    func(t *T) error
}

// Text is one line in both languages.
type Text struct{ En, Zh string }

// In returns the text in lang, "en" or "zh".
func (t Text) In(lang string) string {
	if lang == "zh" && t.Zh != "" {
		return t.Zh
	}
	return t.En
}

// Messages maps an English format string to its Chinese. Verbs may be reordered with explicit indexes (%[2]s).
type Messages map[string]string

// Undo removes one thing that a lab made, named as it was journalled. It must be idempotent: something that is not there
// (any more) is no error. It must refuse a path that is not nslab's.
type Undo func(ctx context.Context, path string) error

// Need names something the machine must offer, by the id of the probe in package doctor that can tell.
type Need string

// The needs that labs state; `nslab doctor` probes each by doing.
const (
	NeedRootOrUserns Need = "privilege" // root, or a user namespace that makes one root inside
	NeedMountNS      Need = "ns.mnt"
	NeedPIDNS        Need = "ns.pid"
	NeedUTSNS        Need = "ns.uts"
	NeedIPCNS        Need = "ns.ipc"
	NeedNetNS        Need = "ns.net"
	NeedUserNS       Need = "ns.user"
	NeedTimeNS       Need = "ns.time"
	NeedCgroupNS     Need = "ns.cgroup"
	NeedTmpfs        Need = "mount.tmpfs"
	NeedOverlay      Need = "mount.overlay-tmpfs" // on any file system at all: labs can bring one of their own
	NeedCgroupCPU    Need = "cgroup.cpu"          // a group can be made below ours, with this controller
	NeedCgroupMemory Need = "cgroup.memory"
	NeedCgroupPids   Need = "cgroup.pids"
	NeedVeth         Need = "net.veth"
	NeedBridge       Need = "net.bridge"
	NeedFirewall     Need = "net.nftables" // a table that rewrites addresses
)
