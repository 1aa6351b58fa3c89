package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/reexec"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/course/coursetest"
	pid "github.com/nslab/nslab/labs/01-pid"
)

func TestMain(m *testing.M) { coursetest.Main(m) }

// everything needs all that there is a probe for.
func everything() *course.Lab {
	l := &course.Lab{Number: 99, Slug: "everything"}
	for _, id := range slices.Concat(vital[:1], roomProbes, controllerIDs(), []string{"mount.overlay"}) {
		l.Needs = append(l.Needs, course.Need(id))
	}
	return l
}

// A patient is a process in namespaces of its own in which something is broken for real. There it examines itself.
const patientEntry = "nslab-doctor-test-patient"

// ailments are what can be broken. Each runs in the patient, before the examination.
var ailments = map[string]func() error{
	"private":        func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
	"no-pid-ns":      func() error { return write("/proc/sys/user/max_pid_namespaces", "0") },
	"no-user-ns":     func() error { return write("/proc/sys/user/max_user_namespaces", "0") },
	"bare-dev":       bareDev,
	"cgroups-ro":     cgroupsReadOnly,
	"cgroups-hidden": func() error { return unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "") },
	"state-hangs":    func() error { _, err := deadFuse(os.Getenv("NSLAB_ROOT")); return err },
	"state-ro": func() error {
		return unix.Mount("tmpfs", os.Getenv("NSLAB_ROOT"), "tmpfs", unix.MS_RDONLY, "")
	},
}

// drops are capabilities that the patient is without.
var drops = map[string]uintptr{"no-sys-admin": unix.CAP_SYS_ADMIN, "no-net-admin": unix.CAP_NET_ADMIN}

func init() {
	reexec.Register(patientEntry, func() {
		if err := fallIll(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		out := []asJSON{}
		for _, r := range Missing(everything(), course.RunRoot("")) {
			out = append(out, toJSON(r, "en"))
		}
		json.NewEncoder(os.Stdout).Encode(out)
	})
}

// deadFuse mounts a file system whose server never answers: whoever looks at it waits.
func deadFuse(dir string) (fd int, err error) {
	// Not os.Open: nobody may close it before the process ends.
	if fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return fd, err
	}
	return fd, unix.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
}

// hangEntry asks a room for a probe that hangs and one that does not.
const hangEntry = "nslab-doctor-test-hang"

func init() {
	reexec.Register(hangEntry, func() {
		if _, err := deadFuse(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		answers := look().room().ask(context.Background(), request{
			Probes: []string{"mount.overlay", "net.veth"}, Scratch: os.Args[1],
		})
		json.NewEncoder(os.Stdout).Encode(answers)
	})
}

func fallIll(ailing []string) error {
	runtime.LockOSThread()
	for i, name := range ailing {
		if cap, ok := drops[name]; ok {
			// The bounding set is what an exec by root gets back at most; and the exec makes the thread the process.
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, cap, 0, 0, 0); err != nil {
				return err
			}
			return syscall.Exec("/proc/self/exe", append([]string{patientEntry}, ailing[i+1:]...), os.Environ())
		}
		if err := ailments[name](); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// cgroupsReadOnly is how container engines show the control groups to a container without privileges.
func cgroupsReadOnly() error {
	infos, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	for _, m := range infos {
		err = errors.Join(err, unix.Mount("", m.Mountpoint, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	}
	return err
}

// bareDev leaves nothing in /dev but null, without which Go starts no process.
func bareDev() error {
	null, err := os.OpenFile("/dev/null", unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := write("/dev/null", ""); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", null.Fd()), "/dev/null", "", unix.MS_BIND, "")
}

// patient examines itself with some ailments, and returns what is missing, by id. In a user namespace of its own it has
// all capabilities over what it makes there, so that sysctls can be set and count for nobody else.
func patient(t *testing.T, ailing ...string) map[string]asJSON {
	t.Helper()
	coursetest.NeedRoot(t)
	return examined(t, pid.Config{
		Namespaces:  unix.CLONE_NEWNS | unix.CLONE_NEWUSER,
		UIDMappings: []specs.LinuxIDMapping{{Size: 200000}}, GIDMappings: []specs.LinuxIDMapping{{Size: 200000}},
	}, ailing)
}

// rootPatient is one that is root like the host's, and has only its mounts to itself.
func rootPatient(t *testing.T, ailing ...string) map[string]asJSON {
	t.Helper()
	coursetest.NeedRoot(t)
	return examined(t, pid.Config{Namespaces: unix.CLONE_NEWNS}, append([]string{"private"}, ailing...))
}

func examined(t *testing.T, cfg pid.Config, ailing []string) map[string]asJSON {
	t.Helper()
	cmd := pid.Command(cfg, patientEntry, ailing...)
	cmd.Env = append(os.Environ(), "NSLAB_RUN_ROOT="+t.TempDir(), "NSLAB_ROOT="+t.TempDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("patient with %v: %v: %s", ailing, err, stderr.String())
	}
	var list []asJSON
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("patient with %v says %q: %v", ailing, out, err)
	}
	missing := map[string]asJSON{}
	for _, r := range list {
		missing[r.ID] = r
	}
	return missing
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
