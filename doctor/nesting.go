package doctor

import (
	"bytes"
	"os"
	"slices"
	"strings"

	"github.com/nslab/nslab/course/evidence"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// nesting is the container that we are in.
type nesting struct {
	kind string // "docker", "podman", "lxc", "systemd-nspawn", "kubernetes" …; "" if none
	sign string // what tells; with no kind, a mark that a container engine left and that means nothing
}

// evidenceOfNesting are the marks that container engines leave, as read.
type evidenceOfNesting struct {
	files    []string // of those in nestingFiles, the ones that exist
	environ  string   // /proc/1/environ
	manager  string   // /run/systemd/container, or /run/host/container-manager
	cgroup   string   // /proc/1/cgroup
	rootType string   // the file system of /
	kubelet  bool     // Kubernetes tells each container where its API is
	first    bool     // our PID, UTS and IPC namespaces are those that the kernel booted with
}

var nestingFiles = []string{"/run/.containerenv", "/.dockerenv"}

func nestingEvidence() (e evidenceOfNesting) {
	for _, f := range nestingFiles {
		if _, err := os.Lstat(f); err == nil {
			e.files = append(e.files, f)
		}
	}
	e.environ, e.cgroup = read("/proc/1/environ"), read("/proc/1/cgroup")
	if e.manager = read("/run/systemd/container"); e.manager == "" {
		e.manager = read("/run/host/container-manager")
	}
	if table, err := mount.Current(); err == nil {
		if root, ok := table.At("/"); ok {
			e.rootType = root.FSType
		}
	}
	e.kubelet = os.Getenv("KUBERNETES_SERVICE_HOST") != ""
	e.first = true
	for kind, first := range firstInodes() {
		ino, err := evidence.Namespace(os.Getpid(), kind)
		e.first = e.first && err == nil && ino == first
	}
	return e
}

// firstInodes are the numbers of the namespaces that the kernel makes at boot. They are part of what it promises to user
// space: include/uapi/linux/nsfs.h, before that include/linux/proc_ns.h.
func firstInodes() map[string]uint64 {
	return map[string]uint64{"pid": 0xEFFFFFFC, "uts": 0xEFFFFFFE, "ipc": 0xEFFFFFFF}
}

// detectNesting believes the marks only where some namespace is not the machine's own: a virtual machine whose disk was
// made from a Docker image still has /.dockerenv.
func detectNesting(e evidenceOfNesting) nesting {
	n := markedNesting(e)
	if e.first {
		n.kind = ""
	}
	return n
}

// markedNesting goes from the marks that were left on purpose to those that are a guess. There is no certain one: a
// container that does not want to be known is not (that is the point of namespaces).
func markedNesting(e evidenceOfNesting) nesting {
	if e.kubelet {
		return nesting{"kubernetes", "KUBERNETES_SERVICE_HOST"}
	}
	if slices.Contains(e.files, "/run/.containerenv") {
		return nesting{"podman", "/run/.containerenv"}
	}
	if slices.Contains(e.files, "/.dockerenv") {
		return nesting{"docker", "/.dockerenv"}
	}
	for entry := range bytes.SplitSeq([]byte(e.environ), []byte{0}) {
		if kind, ok := strings.CutPrefix(string(entry), "container="); ok && kind != "" {
			return nesting{kind, "container=" + kind + " (/proc/1/environ)"}
		}
	}
	if e.manager != "" {
		return nesting{e.manager, "/run/systemd/container"}
	}
	for _, g := range []struct{ part, kind string }{
		{"/kubepods", "kubernetes"}, {"/libpod", "podman"}, {"/docker", "docker"}, {"/lxc", "lxc"}, {"/machine.slice/", "systemd-nspawn"},
	} {
		if strings.Contains(e.cgroup, g.part) {
			return nesting{g.kind, "/proc/1/cgroup"}
		}
	}
	if e.rootType == "overlay" {
		return nesting{"?", "/: overlay"}
	}
	return nesting{}
}

func (m *machine) nesting() Result {
	r := Result{ID: "machine.container", State: StateOK, Found: say("not in a container")}
	switch m.nest.kind {
	case "":
		if m.nest.sign != "" {
			r.Found = say("not in a container: the namespaces are the machine's own, whatever %s says", m.nest.sign)
		}
	case "?":
		r.State, r.Found = StateNote, say("the root is an overlay: a container, or a live system")
	default:
		r.State, r.Found = StateNote, say("inside a container: %s, known by %s", m.nest.kind, m.nest.sign)
	}
	return r
}
