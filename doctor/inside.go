package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
	"github.com/nslab/nslab/trace"
)

// Everything in this file runs in the doctor's children.

// child is the main function of all of them.
func child() {
	syscall.CloseOnExec(replyFD)
	w := os.NewFile(replyFD, "reply")
	send := func(a answer) { json.NewEncoder(w).Encode(a) } // to nobody, if the parent is gone: then so are we
	switch os.Args[1] {
	case roleRoom:
		inRoom(send)
	case roleStepDown:
		stepDown(send, w)
	case roleStill:
		send(answer{})
		stay()
	case roleVeth:
		send(makeVeth())
		stay()
	case roleBridge:
		send(makeBridge())
		stay()
	case roleNftables:
		send(makeTable())
		stay()
	}
}

// stay waits until the parent has seen enough and closes the pipe.
func stay() { io.Copy(io.Discard, os.Stdin) }

// stepDown is an ordinary user: it starts a room as such, and hands its answers on.
func stepDown(send func(answer), reply *os.File) {
	cfg := room{}.config()
	cmd := pid.Command(cfg, entry, roleRoom, os.Args[2])
	cmd.ExtraFiles = []*os.File{reply}
	p, refused := start(context.Background(), cfg, cmd)
	if refused != nil {
		refused.Probe = "room"
		send(*refused)
		return
	}
	p.Wait(context.Background())
}

// inRoom runs the probes that were asked for, one after the other.
func inRoom(send func(answer)) {
	var job request
	if err := json.Unmarshal([]byte(os.Args[2]), &job); err != nil {
		send(answer{Probe: "room", Wrong: err.Error()})
		return
	}
	rec := &recorder{}
	ctx := rec.under(context.Background())
	// First of all: until then, what is mounted here may appear on the host.
	if err := mount.PrivateTree(ctx, "/"); err != nil {
		send(rec.answer("room", err))
		return
	}
	uid, _ := evidence.Namespace(os.Getpid(), "user") // 0 is shown as such
	idMap, _ := os.ReadFile("/proc/self/uid_map")
	send(answer{Probe: "room", Facts: []string{inode("user", uid), strings.Join(strings.Fields(string(idMap)), " ")}})

	var namespaces []string
	for _, id := range job.Probes {
		if strings.HasPrefix(id, "ns.") {
			namespaces = append(namespaces, id)
		}
	}
	tryNamespaces(namespaces, int(job.MapTo), send)
	for _, id := range job.Probes {
		probe, ok := map[string]func(context.Context, request) ([]string, error){
			"mount.tmpfs": tryTmpfs, "mount.fuse": tryFuse, "mount.overlay": tryOverlayAt,
			overlayUser: tryOverlayOnTmpfs, overlayRoom: tryOverlayOnTmpfs,
			"net.veth": tryVeth, "net.bridge": tryBridge, "net.nftables": tryNftables,
		}[id]
		if !ok {
			continue
		}
		rec := &recorder{}
		facts, err := probe(rec.under(context.Background()), job)
		a := answer{Probe: id}
		if err != nil {
			a = rec.answer(id, err)
		}
		a.Facts = facts
		send(a)
	}
}

// recorder remembers the last call that was refused, in the words of the stage that made it.
type recorder struct{ refused string }

func (r *recorder) under(ctx context.Context) context.Context {
	return trace.With(ctx, func(c trace.Record) {
		if c.Err != "" {
			r.refused = strings.TrimSuffix(c.Text, " = -1")
		}
	})
}

// answer makes an answer of an error.
func (r *recorder) answer(id string, err error) answer {
	a := answer{Probe: id}
	var w *wrong
	var ref *refusal
	switch {
	case errors.As(err, &w):
		a.Wrong = w.text
	case errors.As(err, &ref):
		a.Call, a.Errno = ref.call, errnoOf(ref.err)
		if a.Errno == 0 {
			a.Wrong = ref.err.Error()
		}
	case r.refused != "" && errnoOf(err) != 0:
		a.Call, a.Errno = r.refused, errnoOf(err)
	default:
		a.Wrong = err.Error()
	}
	return a
}

// wrong is evidence that is not as expected, though no call was refused. The text is fixed, so that it can be translated.
type wrong struct{ text string }

func (w *wrong) Error() string { return w.text }

// refusal is a call that was refused, where no stage makes it for us.
type refusal struct {
	call string
	err  error
}

func (r *refusal) Error() string { return r.call + ": " + r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// refusedBy says which call err came from, if there is one.
func refusedBy(err error, call string, args ...any) error {
	if err == nil {
		return nil
	}
	return &refusal{fmt.Sprintf(call, args...), err}
}

// namespaceKinds in the order in which the labs meet them; the names are those of /proc/PID/ns.
var namespaceKinds = []string{"mnt", "pid", "uts", "ipc", "net", "user", "time", "cgroup"}

func namespaceFlags() map[string]uintptr {
	return map[string]uintptr{
		"mnt": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC,
		"net": unix.CLONE_NEWNET, "user": unix.CLONE_NEWUSER, "time": unix.CLONE_NEWTIME, "cgroup": unix.CLONE_NEWCGROUP,
	}
}

// tryNamespaces makes a child in new namespaces. One child has them all, since each costs the start of a process; only
// if that is refused is each tried alone, to see which. The user namespace always is: whoever gets one in the same clone
// holds every capability in it, and so gets the others even where he may not have them without (clone(2)).
func tryNamespaces(ids []string, mapTo int, send func(answer)) {
	together := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "ns.user" })
	if answers, ok := born(together, mapTo); ok {
		for _, a := range answers {
			send(a)
		}
	} else {
		for _, id := range together {
			answers, _ := born([]string{id}, mapTo)
			send(answers[0])
		}
	}
	if slices.Contains(ids, "ns.user") {
		answers, _ := born([]string{"ns.user"}, mapTo)
		send(answers[0])
	}
}

// born starts a child in new namespaces, and compares its inode numbers with ours: from outside, in /proc/PID/ns.
func born(ids []string, mapTo int) (answers []answer, ok bool) {
	if len(ids) == 0 {
		return nil, true
	}
	cfg := pid.Config{}
	for _, id := range ids {
		cfg.Namespaces |= namespaceFlags()[strings.TrimPrefix(id, "ns.")]
	}
	if cfg.Namespaces&unix.CLONE_NEWUSER != 0 {
		cfg.UIDMappings, cfg.GIDMappings = mapping(mapTo), mapping(mapTo)
	}
	p, _, done, refused := still(cfg, roleStill)
	if refused != nil {
		for _, id := range ids {
			a := *refused
			a.Probe = id
			answers = append(answers, a)
		}
		return answers, false
	}
	defer done()
	ok = true
	for _, id := range ids {
		a := compare(id, p.Pid)
		answers, ok = append(answers, a), ok && a.ok()
	}
	return answers, ok
}

func compare(id string, child int) answer {
	kind := strings.TrimPrefix(id, "ns.")
	ours, err := evidence.Namespace(os.Getpid(), kind)
	if err != nil {
		return answer{Probe: id, Call: "stat /proc/self/ns/" + kind, Errno: errnoOf(err)}
	}
	theirs, err := evidence.Namespace(child, kind)
	if err != nil {
		return answer{Probe: id, Call: fmt.Sprintf("stat /proc/%d/ns/%s", child, kind), Errno: errnoOf(err)}
	}
	a := answer{Probe: id, Facts: []string{inode(kind, ours), inode(kind, theirs)}}
	if ours == theirs {
		a.Wrong = "the child is in the same namespace as its parent"
	}
	return a
}

// still starts a child that does its part, answers, and sits there until done is called.
func still(cfg pid.Config, role string) (p *pid.Process, a answer, done func(), refused *answer) {
	stdin, release, err := os.Pipe()
	if err != nil {
		return nil, a, nil, &answer{Call: "pipe2", Errno: errnoOf(err)}
	}
	reply, theirs, err := os.Pipe()
	if err != nil {
		stdin.Close()
		release.Close()
		return nil, a, nil, &answer{Call: "pipe2", Errno: errnoOf(err)}
	}
	cmd := pid.Command(cfg, entry, role)
	cmd.Stdin, cmd.ExtraFiles = stdin, []*os.File{theirs}
	p, refused = start(context.Background(), cfg, cmd)
	stdin.Close()
	theirs.Close()
	done = func() {
		release.Close()
		reply.Close()
		if p != nil {
			end(p)
		}
	}
	if refused == nil {
		// The clone returns before the child has come as far as its own code, and a time namespace is entered only
		// with the exec.
		if err := json.NewDecoder(reply).Decode(&a); err != nil {
			refused = &answer{Wrong: wrongDied}
		}
	}
	if refused != nil {
		done()
		return nil, a, nil, refused
	}
	return p, a, done, nil
}
