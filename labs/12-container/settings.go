package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	rootfs "github.com/nslab/nslab/labs/04-rootfs"
	network "github.com/nslab/nslab/labs/09-network"
	security "github.com/nslab/nslab/labs/10-security"
	"github.com/nslab/nslab/trace"
)

// furnish puts the devices into /dev.
func (i *initProcess) furnish(ctx context.Context) (err error) {
	if !i.ownDev() {
		return nil
	}
	dev, err := i.dev(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	_, err = rootfs.FillDev(ctx, dev, devicesOf(i.Config.Spec))
	return err
}

// replaceNull takes the container's own null device for the program's standard streams, where they are not somebody's.
func (i *initProcess) replaceNull(ctx context.Context) (err error) {
	if !i.ownDev() {
		return security.ReplaceNull(ctx, nil)
	}
	dev, err := i.dev(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	return security.ReplaceNull(ctx, dev)
}

// devicesOf are those that every container has, and those of the spec, which come later and therefore win.
func devicesOf(spec *specs.Spec) []specs.LinuxDevice {
	list := rootfs.Devices()
	for _, d := range spec.Linux.Devices {
		list = slices.DeleteFunc(list, func(have specs.LinuxDevice) bool { return have.Path == d.Path })
		list = append(list, d)
	}
	return list
}

// settings makes the kernel parameters and names. Those of the network, IPC and UTS namespaces are the container's own; what is the
// machine's the kernel does not let us write from here.
func (i *initProcess) settings(ctx context.Context) error {
	spec := i.Config.Spec
	for _, key := range slices.Sorted(maps.Keys(spec.Linux.Sysctl)) {
		name := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
		if err := i.write(ctx, name, spec.Linux.Sysctl[key]); err != nil {
			return err
		}
	}
	if spec.Hostname != "" {
		if err := setName(ctx, "sethostname", spec.Hostname, unix.Sethostname); err != nil {
			return err
		}
	}
	if spec.Domainname != "" {
		if err := setName(ctx, "setdomainname", spec.Domainname, unix.Setdomainname); err != nil {
			return err
		}
	}
	return nil
}

// itself sets what is this process's, and will be the program's.
func (i *initProcess) itself(ctx context.Context) error {
	process := i.Config.Spec.Process
	if process.OOMScoreAdj != nil {
		err := i.write(ctx, "/proc/self/oom_score_adj", strconv.Itoa(*process.OOMScoreAdj))
		if errors.Is(err, unix.EACCES) {
			i.warn(oomWarning)
		} else if err != nil {
			return err
		}
	}
	for _, r := range process.Rlimits {
		if err := i.limit(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

const oomWarning = "the OOM score stays as it is: to lower it takes CAP_SYS_RESOURCE"

// write writes to a file of the container's procfs, and to nothing else: what lies under that name was made by the image's
// author or by another container that shares a volume, until proved otherwise (CVE-2025-52881).
func (i *initProcess) write(ctx context.Context, name, value string) error {
	f, err := i.at(trace.Off(ctx), name, unix.O_WRONLY|unix.O_NOFOLLOW, unix.PROC_SUPER_MAGIC)
	if err != nil {
		return err
	}
	err = trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("write %s → %s", value, name) },
		func() error { _, err := unix.Write(int(f.Fd()), []byte(value)); return err })
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("12-container: write %q to %s: %w", value, name, err)
	}
	return nil
}

func setName(ctx context.Context, call, name string, set func([]byte) error) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("%s(%q)", call, name) },
		func() error { return set([]byte(name)) })
	if err != nil {
		return fmt.Errorf("12-container: %s %q: %w", call, name, err)
	}
	return nil
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// limit sets a resource limit. To raise a hard limit takes CAP_SYS_RESOURCE, which even root need not have, inside another
// container for example: then it is as high as it can be, and that is said.
func (i *initProcess) limit(ctx context.Context, r specs.POSIXRlimit) error {
	resource, ok := rlimits[r.Type]
	if !ok {
		return fmt.Errorf("12-container: resource limit %q: %w", r.Type, errors.ErrUnsupported)
	}
	want := unix.Rlimit{Cur: r.Soft, Max: r.Hard}
	set := func() error {
		return trace.Call(ctx, 1,
			func() string { return fmt.Sprintf("prlimit(0, %s, {%d, %d})", r.Type, want.Cur, want.Max) },
			func() error { return unix.Prlimit(0, resource, &want, nil) })
	}
	err := set()
	if errors.Is(err, unix.EPERM) {
		var have unix.Rlimit
		if err := unix.Prlimit(0, resource, nil, &have); err != nil {
			return fmt.Errorf("12-container: read limit %s: %w", r.Type, err)
		}
		want = unix.Rlimit{Cur: min(want.Cur, have.Max), Max: min(want.Max, have.Max)}
		i.warn("%s", limitWarning(r, want))
		err = set()
	}
	if err != nil {
		return fmt.Errorf("12-container: set limit %s to %d:%d: %w", r.Type, r.Soft, r.Hard, err)
	}
	return nil
}

func limitWarning(r specs.POSIXRlimit, have unix.Rlimit) string {
	return fmt.Sprintf("%s is %s instead of %s: to raise it takes CAP_SYS_RESOURCE", r.Type, limitText(have.Max), limitText(r.Hard))
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// network brings lo up in a network namespace of its own. Everything else that is to be in there comes from outside.
func (i *initProcess) network(ctx context.Context) error {
	if i.Clone&unix.CLONE_NEWNET == 0 {
		return nil
	}
	return network.LoopbackUp(ctx)
}
