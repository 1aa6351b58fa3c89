package doctor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
)

// From answers to results: what the evidence means, and what to do about it.

// roomProbes are those that a room as labs have it can answer.
var roomProbes = []string{
	"ns.mnt", "ns.pid", "ns.uts", "ns.ipc", "ns.net", "ns.user", "ns.time", "ns.cgroup",
	"mount.tmpfs", overlayRoom, "mount.fuse", "net.veth", "net.bridge", "net.nftables",
}

// overlayRoom is overlay as labs can always have it: on a tmpfs of their own.
const overlayRoom = string(course.NeedOverlay)

// overlayUser is asked of an ordinary user's room.
const overlayUser = "mount.overlay-user"

// privilege: whether nslab can make the room that each lab runs in, as root or by a user namespace.
func (m *machine) privilege(room answer) Result {
	r := Result{ID: "privilege", State: StateOK}
	switch {
	case !room.ok() && m.privileged():
		r.State, r.Found = StateMissing, say("CAP_SYS_ADMIN, and yet %s", room.says())
		r.Remedy = m.unconfine()
	case !room.ok():
		r.State, r.Found = StateMissing, say("uid %d without CAP_SYS_ADMIN, and no user namespace: %s", m.uid, room.says())
		r.Remedy = m.getPrivilege(room)
	case m.privileged():
		r.Found = say("uid %d with CAP_SYS_ADMIN", m.uid)
		if !m.unchanged {
			r.Found = say("uid %d with CAP_SYS_ADMIN, of a user namespace: uid_map %s", m.uid,
				strings.Join(strings.Fields(read("/proc/self/uid_map")), " "))
		}
	default:
		r.Found = say("uid %d, root inside a user namespace: %s, uid_map %s", m.uid, room.Facts[0], room.Facts[1])
	}
	return r
}

// capabilities lists what is missing of a container engine's usual rights. It blocks nothing: what needs them says so.
func (m *machine) capabilities() Result {
	var without []string
	for _, r := range requiredCaps {
		if !slices.Contains(m.caps, r.name) {
			without = append(without, r.name)
		}
	}
	r := Result{ID: "privilege.caps", State: StateNote}
	switch {
	case len(without) == 0:
		r.State, r.Found = StateOK, say("all %d that making containers takes", len(requiredCaps))
	case len(m.caps) == 0:
		r.Found = say("none; inside a user namespace all, over what belongs to it")
	default:
		r.Found = say("without %s: no lab needs it, some limits cannot be raised", strings.Join(without, ", "))
		if len(without) > 1 || without[0] != "CAP_SYS_RESOURCE" {
			r.Found = say("without %s", strings.Join(without, ", "))
			r.Remedy = m.unconfine()
		}
	}
	return r
}

// ordinaryUser: whether the labs run without root, too.
func (m *machine) ordinaryUser(room answer) Result {
	r := Result{ID: "privilege.userns", State: StateOK}
	switch {
	case room.Wrong == wrongUser:
		r.State, r.Found = StateNote, say(wrongUser)
	case !room.ok():
		r.State, r.Found = StateMissing, say("an ordinary user gets none: %s", room.says())
		r.Remedy = m.allowUserns(room)
	default:
		r.Found = say("made as uid %d: %s, uid_map %s", m.ordinaryUID(), room.Facts[0], room.Facts[1])
	}
	return r
}

func (m *machine) ordinaryUID() int {
	if m.uid == 0 {
		return nobody
	}
	return m.uid
}

// fromRoom makes a result of what a room answered.
func (m *machine) fromRoom(id string, answers map[string]answer) Result {
	r := Result{ID: id, State: StateOK}
	a, asked := answers[id]
	switch {
	case !asked && answers["room"].Wrong == wrongUser:
		r.State, r.Found = StateNote, say(wrongUser)
	case !asked:
		r.State, r.Found = StateMissing, say("not tried: %s is missing", m.roomID(id))
	case !a.ok():
		r.State, r.Found, r.Remedy = StateMissing, a.says(), m.remedy(id, a)
	default:
		r.Found = found(id, a)
	}
	return r
}

// roomID is the result that tells why there was no room for a probe.
func (m *machine) roomID(id string) string {
	if id == overlayUser {
		return "privilege.userns"
	}
	return "privilege"
}

// found tells the evidence of a probe that went well.
func found(id string, a answer) Message {
	switch {
	case strings.HasPrefix(id, "ns."):
		return say("%s here, %s in a child", a.Facts[0], a.Facts[1])
	case id == "net.veth":
		return say("a pair was made in a new network namespace: %s", strings.Join(a.Facts, " "))
	case id == "net.bridge":
		return say("a bridge was made in a new network namespace: %s", strings.Join(a.Facts, " "))
	case id == "net.nftables":
		return say("a table that rewrites addresses was made in a new network namespace: inet %s", tableName)
	case id == overlayRoom:
		return say("changes and whiteouts land in an upper layer on a tmpfs")
	case id == overlayUser:
		return say("changes and whiteouts land in an upper layer, in a user namespace too")
	}
	if len(a.Facts) < 3 {
		return say("it works") // who asks knows more
	}
	return say("%s on %s in a private mount namespace, as mount %s of its table", a.Facts[0], a.Facts[1], a.Facts[2])
}

// overlay tries the file system that will hold the layers.
func (m *machine) overlay(ctx context.Context, stateRoot string) Result {
	return bounded(ctx, "mount.overlay", func(ctx context.Context) Result { return m.tryOverlay(ctx, stateRoot) })
}

func (m *machine) tryOverlay(ctx context.Context, stateRoot string) Result {
	base := nearest(stateRoot)
	fsType, target := fileSystem(base)
	r := Result{ID: "mount.overlay", State: StateOK, Found: say("changes and whiteouts land in an upper layer on %s (%s, mounted on %s)", base, fsType, target)}
	if _, err := sweepAbove(stateRoot); err != nil {
		r.State, r.Found = StateMissing, plain(err)
		return r
	}
	dir, release, err := scratch(base)
	if err != nil {
		r.State, r.Found = StateMissing, (&recorder{}).answer(r.ID, err).says()
		r.Remedy = []Message{say("choose a folder that you may write to: %s", command("NSLAB_ROOT=$HOME/nslab"))}
		return r
	}
	answers := m.room().ask(ctx, request{Probes: []string{r.ID}, Scratch: dir})
	// The room is gone, and with it whatever was mounted in there.
	if err := release(); err != nil {
		r.State, r.Found = StateMissing, plain(err)
		return r
	}
	if missing := m.fromRoom(r.ID, answers); missing.State == StateMissing {
		missing.Found = say("%s, on %s (%s)", missing.Found, base, fsType)
		return missing
	}
	return r
}

// remedy is what to do about a refusal inside a room.
func (m *machine) remedy(id string, a answer) []Message {
	if a.Wrong == wrongHang {
		return []Message{say("look for what the kernel waits for: %s", command(m.root("dmesg | tail")))}
	}
	kind, isNamespace := strings.CutPrefix(id, "ns.")
	denied := a.Errno == unix.EPERM || a.Errno == unix.EACCES
	switch {
	case isNamespace && (a.Errno == unix.ENOSPC || a.Errno == unix.EUSERS):
		return []Message{command(m.root("sysctl -w user.max_" + kind + "_namespaces=10000"))}
	case id == "ns.user" && denied:
		return m.allowUserns(a)
	case denied && id == "mount.fuse" && m.nest.kind == "" && strings.HasPrefix(a.Call, "open"):
		return []Message{command(m.root("chmod 666 /dev/fuse"))}
	case denied:
		return m.unconfine()
	case isNamespace:
		return []Message{say("boot a kernel that was built with it (%s): those of the distributions are",
			command(kernelOption()[kind]))}
	case id == "mount.fuse" && a.Errno == unix.ENOENT && (m.nest.kind == "docker" || m.nest.kind == "podman"):
		return []Message{command(m.nest.kind + " run --device /dev/fuse --cap-add SYS_ADMIN …")}
	case id == "net.nftables" && strings.Contains(a.Call, "NEWRULE"):
		return m.load("-a nft_nat nft_masq nft_fib_inet nft_ct")
	case kernelModule()[id] != "" && !strings.HasPrefix(id, "mount.overlay") || a.Errno == unix.ENODEV:
		return m.load(kernelModule()[id])
	case id == "mount.overlay":
		return []Message{say("keep nslab's state on ext4, xfs, btrfs or tmpfs: %s", command("NSLAB_ROOT=/path/there"))}
	case id == overlayUser, id == overlayRoom:
		return []Message{say("overlay in user namespaces needs kernel 5.11; as root it works without")}
	}
	return nil
}

func kernelOption() map[string]string {
	return map[string]string{
		"pid": "CONFIG_PID_NS", "uts": "CONFIG_UTS_NS", "ipc": "CONFIG_IPC_NS", "net": "CONFIG_NET_NS",
		"user": "CONFIG_USER_NS", "time": "CONFIG_TIME_NS", "cgroup": "CONFIG_CGROUPS", "mnt": "CONFIG_NAMESPACES",
	}
}

func kernelModule() map[string]string {
	return map[string]string{
		"mount.fuse": "fuse", "mount.overlay": "overlay", overlayUser: "overlay", overlayRoom: "overlay", "net.veth": "veth", "net.bridge": "bridge", "net.nftables": "nf_tables",
	}
}

// load gets a module: it may be on the disk, or in a package that small installations leave out.
func (m *machine) load(module string) []Message {
	if m.nest.kind != "" {
		return []Message{say("on the host, not in the container: %s", command("modprobe "+module))}
	}
	all := []Message{command(m.root("modprobe " + module))}
	switch m.like {
	case "debian":
		all = append(all, say("if there is no such module: %s", command(m.root("apt install linux-modules-extra-$(uname -r)"))))
	case "fedora":
		all = append(all, say("if there is no such module: %s", command(m.root("dnf install kernel-modules-extra"))))
	}
	return all
}

// root is a command that only root may give.
func (m *machine) root(text string) string {
	if m.uid == 0 {
		return text
	}
	return "sudo " + text
}

// newerKernel is how to get one.
func (m *machine) newerKernel() []Message {
	switch {
	case m.nest.kind != "":
		return []Message{say("install a newer kernel on the host")}
	case m.like == "debian":
		return []Message{command(m.root("apt update && apt full-upgrade"))}
	case m.like == "fedora":
		return []Message{command(m.root("dnf upgrade kernel"))}
	}
	return []Message{say("install a newer kernel")}
}

// unconfine: something that is not the kernel forbids it to root. It is the container engine, nearly always.
func (m *machine) unconfine() []Message {
	switch kind := m.nest.kind; kind {
	case "docker", "podman":
		return []Message{say("start the container with %s", command(kind+" run --privileged …"))}
	case "lxc":
		return []Message{
			say("on the host: %s", command("lxc config set <container> security.nesting true && lxc restart <container>")),
		}
	case "systemd-nspawn":
		return []Message{say("start the container with %s", command("systemd-nspawn --capability=all --system-call-filter=@mount …"))}
	case "kubernetes":
		return []Message{say("in the pod's container: %s", command("securityContext: {privileged: true}"))}
	case "":
	default:
		return []Message{say("start the container with all capabilities, without a seccomp filter and AppArmor profile")}
	}
	var all []Message
	if m.uid != 0 {
		all = append(all, say("run it as root: %s", command("sudo nslab …")))
	}
	if m.confined != "" {
		all = append(all, say("leave the AppArmor profile %s", m.confined))
	}
	if m.filtered {
		all = append(all, say("start the shell without a seccomp filter"))
	}
	if len(all) == 0 {
		all = append(all, say("start the shell with all capabilities; these are left: %s", command("grep Cap /proc/self/status")))
	}
	return all
}

// getPrivilege is for those who are neither root nor can become it inside a user namespace.
func (m *machine) getPrivilege(room answer) []Message {
	if m.uid == 0 {
		return append(m.unconfine(), m.switches(room)...)
	}
	return append([]Message{say("run it as root: %s", command("sudo nslab …"))}, m.switches(room)...)
}

// allowUserns is for an ordinary user who does not get a user namespace.
func (m *machine) allowUserns(room answer) []Message {
	if all := m.switches(room); len(all) > 0 {
		return all
	}
	if m.nest.kind != "" || m.filtered || m.confined != "" {
		return m.unconfine()
	}
	return nil
}

// switches looks for what forbids user namespaces to an ordinary user. There is more than one, and each distribution has
// chosen another.
func (m *machine) switches(room answer) []Message {
	var all []Message
	for _, s := range []struct{ name, forbids, allows string }{
		{"kernel.unprivileged_userns_clone", "0", "1"},             // Debian's and Arch's own patch
		{"user.max_user_namespaces", "0", "10000"},                 // Red Hat's, and hardening guides'
		{"kernel.apparmor_restrict_unprivileged_userns", "1", "0"}, // Ubuntu's, since 23.10
	} {
		if value, ok := m.sysctl(s.name); ok && value == s.forbids {
			all = append(all, command(m.root("sysctl -w "+s.name+"="+s.allows)))
		}
	}
	switch {
	case len(all) > 0:
	case room.Errno == unix.EINVAL || room.Errno == unix.ENOSYS:
		all = append(all, say("boot a kernel that was built with it (%s): those of the distributions are", command("CONFIG_USER_NS")))
	case room.Errno == unix.ENOSPC || room.Errno == unix.EUSERS:
		all = append(all, command(m.root("sysctl -w user.max_user_namespaces=10000")))
	}
	return all
}

// isDenied says whether the kernel refused for lack of rights.
func isDenied(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EROFS)
}
