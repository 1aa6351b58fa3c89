package pid

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

// Error is a clone(2) or unshare(2) that the kernel refused.
type Error struct {
	Op    string  // "clone", "unshare"
	Flags uintptr // CLONE_NEW*
	Err   error   // the errno
}

func (e *Error) Error() string {
	flags := strings.TrimSuffix(CloneFlags(e.Flags), "|SIGCHLD")
	return fmt.Sprintf("01-pid: %s %s: %v", e.Op, flags, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Conditions probes what clone(2) requires for new namespaces.
func (e *Error) Conditions() []diagnosis.Condition {
	switch {
	case errors.Is(e.Err, unix.EPERM), errors.Is(e.Err, unix.EACCES):
		return []diagnosis.Condition{
			{
				What: "nslab has CAP_SYS_ADMIN, or makes a user namespace first", Detail: fmt.Sprintf("uid %d", os.Geteuid()),
				OK:     os.Geteuid() == 0 || e.Flags&unix.CLONE_NEWUSER != 0,
				Remedy: "run nslab as root",
			},
			sysctl("kernel/unprivileged_userns_clone", "0", diagnosis.Condition{
				What:   "unprivileged user namespaces are allowed",
				Remedy: "as root: sysctl -w kernel.unprivileged_userns_clone=1",
			}),
			sysctl("kernel/apparmor_restrict_unprivileged_userns", "1", diagnosis.Condition{
				What:   "AppArmor does not restrict user namespaces",
				Remedy: "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
			}),
		}
	case errors.Is(e.Err, unix.ENOSPC), errors.Is(e.Err, unix.EUSERS):
		var all []diagnosis.Condition
		for _, f := range namespaceFlags {
			if file, ok := maxFiles()[f.flag]; ok && e.Flags&f.flag != 0 {
				all = append(all, sysctl("user/"+file, "0", diagnosis.Condition{
					What:   "the limit on namespaces of this kind is above 0",
					Remedy: "sysctl -w user." + file + "=10000",
				}))
			}
		}
		return all
	case errors.Is(e.Err, unix.EINVAL):
		var all []diagnosis.Condition
		for _, f := range namespaceFlags {
			if e.Flags&f.flag != 0 {
				_, err := os.Stat("/proc/self/ns/" + nsFiles()[f.flag])
				all = append(all, diagnosis.Condition{
					What: "the kernel was built with this namespace", Detail: f.name, OK: err == nil,
					Remedy: "boot a kernel that has it",
				})
			}
		}
		return all
	}
	return nil
}

// sysctl answers the condition that a kernel setting does not have the value that forbids. A setting that this kernel
// does not know forbids nothing.
func sysctl(name, forbids string, c diagnosis.Condition) diagnosis.Condition {
	data, err := os.ReadFile("/proc/sys/" + name)
	value := strings.TrimSpace(string(data))
	c.OK = err != nil || value != forbids
	if err == nil {
		c.Detail = strings.ReplaceAll(name, "/", ".") + " = " + value
	}
	return c
}

func maxFiles() map[uintptr]string {
	return map[uintptr]string{
		unix.CLONE_NEWCGROUP: "max_cgroup_namespaces", unix.CLONE_NEWIPC: "max_ipc_namespaces",
		unix.CLONE_NEWNET: "max_net_namespaces", unix.CLONE_NEWNS: "max_mnt_namespaces",
		unix.CLONE_NEWPID: "max_pid_namespaces", unix.CLONE_NEWTIME: "max_time_namespaces",
		unix.CLONE_NEWUSER: "max_user_namespaces", unix.CLONE_NEWUTS: "max_uts_namespaces",
	}
}

func nsFiles() map[uintptr]string {
	return map[uintptr]string{
		unix.CLONE_NEWCGROUP: "cgroup", unix.CLONE_NEWIPC: "ipc", unix.CLONE_NEWNET: "net", unix.CLONE_NEWNS: "mnt",
		unix.CLONE_NEWPID: "pid", unix.CLONE_NEWTIME: "time", unix.CLONE_NEWUSER: "user", unix.CLONE_NEWUTS: "uts",
	}
}
