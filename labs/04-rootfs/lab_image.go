package rootfs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/evidence"
	pid "github.com/nslab/nslab/labs/01-pid"
	mount "github.com/nslab/nslab/labs/02-mount"
)

// furnished: what a root made of files still lacks.
func furnished(t *course.T) error {
	root, plan, err := rootWith(t, "sh", "ls", "cat")
	if err != nil {
		return err
	}
	box, err := pid.NewBox(t.Untraced(), t, pid.Config{
		Namespaces: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
	})
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "04-mount-point", root); err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "04-furnish", root, "box"); err != nil {
		return err
	}
	if err := enter(t.Untraced(), t, box, root); err != nil {
		return err
	}
	table, err := mount.TableOf(box.Pid())
	if err != nil {
		return err
	}
	for _, m := range table {
		t.See("mounted inside: %s", m.String())
	}
	if err := checkDevices(t, box); err != nil {
		return err
	}
	pids, err := evidence.Pids(evidence.Inside(box.Pid(), "/proc"))
	if err != nil {
		return err
	}
	t.Equal("[1]", fmt.Sprint(pids), "its /proc shows its own PID namespace")
	err = os.WriteFile(evidence.Inside(box.Pid(), "/sys/kernel/uevent_helper"), nil, 0)
	t.Equal("EROFS", evidence.Answer(err), "its /sys cannot be written")
	said, err := box.Call(t.Context(), "04-run", plan.program("sh"), "-c", "echo gone > /dev/null && cat /etc/hostname")
	if err != nil {
		return err
	}
	t.See("a shell inside writes to /dev/null and reads /etc/hostname: %s", said)
	t.Equal("box", said, "its devices work, and its /etc is its own")
	return nil
}

// harmless are the device numbers of Documentation/admin-guide/devices.txt.
const harmless = "null 1:3, zero 1:5, full 1:7, random 1:8, urandom 1:9, tty 5:0"

// checkDevices looks at the device files in a box, from outside.
func checkDevices(t *course.T, box *pid.Box) error {
	var numbers []string
	for _, d := range Devices() {
		var st unix.Stat_t // stays empty, and wrong, where there is no such file
		unix.Lstat(evidence.Inside(box.Pid(), d.Path), &st)
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			numbers = append(numbers, fmt.Sprintf("%s %d:%d", filepath.Base(d.Path), unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		}
	}
	there, err := list(box, "/dev")
	if err != nil {
		return err
	}
	t.See("in its /dev: %s", there)
	t.Equal(harmless, strings.Join(numbers, ", "), "its devices are the harmless ones, with the right numbers")
	host, inside := device("/dev/pts"), device(evidence.Inside(box.Pid(), "/dev/pts"))
	t.See("device of the file system on /dev/pts: %s outside, %s inside", host, inside)
	t.Check(inside != "ENOENT" && inside != host, "another than "+host, inside, "its terminals are its own, not the host's")
	return nil
}

// device is the number of the file system that a path lies on, or why there is none.
func device(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return evidence.Answer(err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
}

// links: an image decides what its paths mean.
func links(t *course.T) error {
	place, root, err := bench(t)
	if err != nil {
		return err
	}
	const original = "the host's own\n"
	outside := filepath.Join(place, "precious")
	if err := os.WriteFile(outside, []byte(original), 0o644); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		return err
	}
	for name, target := range map[string]string{"proc": "/", "etc/hostname": outside} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	t.See("the image has: %s, %s", "/proc → /", "/etc/hostname → "+outside)
	naive := filepath.Join(root, "etc/hostname")
	if err := os.WriteFile(naive, []byte("box\n"), 0o644); err != nil {
		return err
	}
	text, err := os.ReadFile(outside)
	if err != nil {
		return err
	}
	t.See("a careless program writes \"box\" to %s; %s now says: %s", naive, outside, strings.TrimSpace(string(text)))
	t.Equal("box\n", string(text), "the careless program has overwritten a file outside of the image")
	if err := os.WriteFile(outside, []byte(original), 0o644); err != nil {
		return err
	}
	return carefully(t, root, outside, original)
}

// carefully does to the same image what the runtime does.
func carefully(t *course.T, root, outside, original string) error {
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	before, err := mount.TableOf(box.Pid())
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "04-etc", root, "box"); err != nil {
		return err
	}
	text, err := os.ReadFile(outside)
	if err != nil {
		return err
	}
	st, err := os.Lstat(filepath.Join(root, "etc/hostname"))
	if err != nil {
		return err
	}
	t.See("the runtime writes it; %s now says: %s", outside, strings.TrimSpace(string(text)))
	t.Equal(original, string(text), "the runtime has left it alone")
	t.Check(st.Mode().IsRegular(), "-", st.Mode().Type(), "and replaced the link in the image by a file")
	_, err = box.Call(t.Context(), "04-proc", root, "")
	t.Diagnose(err)
	after, errTable := mount.TableOf(box.Pid())
	if errTable != nil {
		return errTable
	}
	t.Equal("ELOOP", evidence.Answer(err), "a /proc that is a link is refused")
	t.Equal(len(before), len(after), "and nothing was mounted anywhere")
	return nil
}

// tarVariable names a tar of a real distribution's root file system, if somebody has one.
const tarVariable = "NSLAB_TAR"

// distribution: somebody else's files, the host's kernel.
func distribution(t *course.T) error {
	place, root, err := bench(t)
	if err != nil {
		return err
	}
	archive, cat, uname, err := archiveFor(t, place)
	if err != nil {
		return err
	}
	u, err := unpackFile(t, archive, root)
	if err != nil {
		return err
	}
	t.See("%s: %s files, %s folders, %s links", filepath.Base(archive), str(u.Files), str(u.Folders), str(u.Links))
	packed, err := releaseIn(t, root)
	if err != nil {
		return err
	}
	box, err := newBox(t.Untraced(), t)
	if err != nil {
		return err
	}
	if _, err := box.Call(t.Context(), "04-mount-point", root); err != nil {
		return err
	}
	if err := enter(t.Context(), t, box, root); err != nil {
		return err
	}
	release, err := box.Call(t.Context(), "04-run", cat, "/etc/os-release")
	if err != nil {
		return err
	}
	kernel, err := box.Call(t.Context(), "04-run", uname, "-r")
	if err != nil {
		return err
	}
	hostRelease, err := os.ReadFile("/etc/os-release")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return err
	}
	hostKernel := unix.ByteSliceToString(host.Release[:])
	t.See("PRETTY_NAME in /etc/os-release: %s outside, %s inside", pretty(string(hostRelease)), pretty(release))
	t.See("uname -r: %s outside, %s inside", hostKernel, kernel)
	t.Check(pretty(release) != "–" && pretty(release) == packed, packed, pretty(release), "inside it is the distribution of the tar")
	t.Equal(hostKernel, kernel, "and the same kernel: an image has none")
	return nil
}

// releaseIn reads, from outside and without leaving it, what distribution a root calls itself.
func releaseIn(t *course.T, root string) (name string, err error) {
	tree, err := OpenTree(t.Untraced(), root)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	f, err := tree.Open(t.Untraced(), "/etc/os-release", unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return pretty(string(text)), errors.Join(err, f.Close())
}

// pretty is the name by which a distribution calls itself, see os-release(5).
func pretty(release string) string {
	for line := range strings.Lines(release) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "–"
}

// archiveFor is the tar to unpack: the learner's, or one that is made now of a few programs of this machine, so that the
// lab needs no network. It also says where the two programs are in it.
func archiveFor(t *course.T, dir string) (archive, cat, uname string, err error) {
	if name := os.Getenv(tarVariable); name != "" {
		return name, "/bin/cat", "/bin/uname", nil
	}
	const release = "NAME=\"Paper\"\nID=paper\nVERSION_ID=1\nPRETTY_NAME=\"Paper Linux 1 (made by nslab)\"\n"
	plan, err := ThisHost().Plan(t.Untraced(), Wanted{Programs: []string{"sh", "ls", "cat", "uname"}})
	if err != nil {
		return "", "", "", err
	}
	plan.put(Entry{Path: "/etc", Mode: fs.ModeDir | 0o755})
	plan.put(Entry{Path: "/etc/os-release", Mode: 0o644, Made: []byte(release), Size: int64(len(release))})
	archive = filepath.Join(dir, "paper.tar")
	f, err := os.Create(archive)
	if err != nil {
		return "", "", "", err
	}
	err = errors.Join(plan.Pack(t.Untraced(), f), f.Close())
	return archive, plan.program("cat"), plan.program("uname"), err
}

func unpackFile(t *course.T, archive, root string) (u Unpacked, err error) {
	f, err := os.Open(archive)
	if err != nil {
		return u, err
	}
	defer f.Close()
	r, err := decompressed(f)
	if err != nil {
		return u, err
	}
	tree, err := OpenTree(t.Context(), root)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	return Unpack(t.Untraced(), tree, r)
}

// decompressed reads a tar that may be compressed with gzip.
func decompressed(r io.Reader) (io.Reader, error) {
	in := bufio.NewReader(r)
	head, err := in.Peek(2)
	if err == nil && bytes.Equal(head, []byte{0x1f, 0x8b}) {
		return gzip.NewReader(in)
	}
	return in, nil
}
