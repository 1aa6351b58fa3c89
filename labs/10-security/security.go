// Package security takes rights away from root.
//
// The idea: namespaces decide what a process can *name*, control groups how much it may use. Neither decides what it may
// *do*: root in a container is number 0, and for the kernel that is root. Five walls are therefore built between the last
// line of the runtime and the first of the user's program, each by a call that needs no right to make and cannot be undone:
//
//   - capabilities(7) split the power of root into forty rights. A container keeps the fourteen that programs in
//     containers need ([DefaultCapabilities]); the bounding set ([DropBounding]) says that no program can ever bring
//     another one back.
//   - no_new_privs ([NoNewPrivileges]) makes execve(2) deaf to set-user-id bits and file capabilities.
//   - seccomp(2) hands each system call to a small program first ([DefaultProfile], [Compile], [Filter.Load]), which sees
//     its number and its arguments, and refuses what is not on the list: less kernel to attack.
//   - files of /proc and /sys that are about the machine are covered ([Mask]) or made read-only ([ReadOnly]).
//   - device files can be made, or be in an image; whether they open is decided by the control group ([LimitDevices]).
//
// The interface: the functions above act on the calling *thread*, as the kernel's calls do. [Before] and [After] are the
// same for a process that may not use Go's runtime (lab 06, `exec`): as a list of calls.
//
// The order matters, and this is it: bounding set, then the change of identity (with [KeepCapabilities], since that takes
// all capabilities away from everybody but root), then [SetCapabilities], then no_new_privs and the filter. Each step
// needs a right that a later one takes. Only a filter without no_new_privs comes before the change of identity: to load
// it takes CAP_SYS_ADMIN then, or any user could feed lies to a set-user-id program.
//
// The limits: kernels from 5.15, x86_64 and arm64. SELinux and AppArmor, which are further walls, are not used; a filter
// that hands calls to another process (SCMP_ACT_NOTIFY) is refused.
//
// See capabilities(7), prctl(2), seccomp(2), Documentation/userspace-api/seccomp_filter.rst and no_new_privs.rst.
package security
