package security

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	cgroups "github.com/nslab/nslab/labs/03-cgroups"
	"github.com/nslab/nslab/trace"
)

// A device file is a name for a pair of numbers; whoever may open it talks to the driver. Root in a container has
// CAP_MKNOD and could make one for the host's disk. So it may be made, but the control group says whether it opens.

// DefaultDeviceRules are Docker's: every device file may be made; the harmless ones, terminals included, may be opened.
func DefaultDeviceRules() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
	}
	for _, d := range [][2]int64{
		{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
		{5, 0}, {5, 1}, {5, 2}, // tty, console, ptmx
		{136, -1}, // the terminals that ptmx makes
		{10, 200}, // tun: what it makes belongs to the container's own network
	} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &d[0], Access: "rwm"}
		if d[1] >= 0 {
			rule.Minor = &d[1]
		}
		rules = append(rules, rule)
	}
	return rules
}

// LimitDevices says which devices the processes of a group may read, write and make. Rules are read in their order, later
// ones count more; what none of them mentions is refused.
//
// In v1 the controller "devices" has two files for it. v2 has no files but a hook: a small program that the kernel runs
// at each open(2) and mknod(2) of a device. Either way it ends with the group. The group is one with the "devices"
// controller, or any group of v2.
func LimitDevices(ctx context.Context, g *cgroups.Group, rules []specs.LinuxDeviceCgroup) error {
	list, err := parseRules(rules)
	if err != nil {
		return err
	}
	if g.Version("devices") == 1 {
		return writeDevices(ctx, g.Dir("devices"), list)
	}
	for _, d := range g.Dirs {
		if d.Version == 2 {
			return attachDevices(ctx, d.Path, list)
		}
	}
	return &Error{Op: "limit devices of", What: "group " + g.Path, Err: &cgroups.MissingError{Controller: "devices"}}
}

// deviceRule is a rule that was checked.
type deviceRule struct {
	allow        bool
	kind         byte  // 'c', 'b', or 'a' for both
	major, minor int64 // -1 for any
	access       uint32
}

// What a device can be accessed for: BPF_DEVCG_ACC_*.
const (
	accessMake  = 1
	accessRead  = 2
	accessWrite = 4
)

// everything tells whether the rule is about all devices and all access.
func (r deviceRule) everything() bool {
	return r.kind == 'a' && r.major < 0 && r.minor < 0 && r.access == accessMake|accessRead|accessWrite
}

func parseRules(rules []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	list := []deviceRule{{kind: 'a', major: -1, minor: -1, access: accessMake | accessRead | accessWrite}}
	for _, r := range rules {
		p, err := parseRule(r)
		if err != nil {
			return nil, err
		}
		if p.everything() {
			list = list[:0] // whatever was said before
		}
		list = append(list, p)
	}
	return list, nil
}

func parseRule(r specs.LinuxDeviceCgroup) (deviceRule, error) {
	bad := func(what string) (deviceRule, error) {
		return deviceRule{}, &Error{Op: "read device rule,", What: what, Err: unix.EINVAL}
	}
	p := deviceRule{allow: r.Allow, kind: 'a', major: -1, minor: -1}
	switch r.Type {
	case "", "a":
	case "c", "b":
		p.kind = r.Type[0]
	case "u":
		p.kind = 'c'
	default:
		return bad("type " + strconv.Quote(r.Type))
	}
	for _, n := range []struct {
		from *int64
		to   *int64
	}{{r.Major, &p.major}, {r.Minor, &p.minor}} {
		if n.from != nil && *n.from >= 0 {
			if *n.from > 1<<32-1 {
				return bad("number " + fmt.Sprint(*n.from))
			}
			*n.to = *n.from
		}
	}
	access := r.Access
	if access == "" {
		access = "rwm"
	}
	for _, c := range access {
		i := strings.IndexRune("mrw", c)
		if i < 0 {
			return bad("access " + strconv.Quote(r.Access))
		}
		p.access |= 1 << i
	}
	return p, nil
}

// String is the rule as v1's files take it: "c 1:3 rwm". The kernel takes "a" for everything, whatever follows.
func (r deviceRule) String() string {
	number := func(n int64) string {
		if n < 0 {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	if r.everything() {
		return "a"
	}
	access := ""
	for i, c := range "mrw" {
		if r.access>>i&1 != 0 {
			access += string(c)
		}
	}
	return fmt.Sprintf("%c %s:%s %s", r.kind, number(r.major), number(r.minor), access)
}

// writeDevices writes v1's files. The kernel lets a group allow only what the group above it may, and lets it take away
// whatever it likes.
func writeDevices(ctx context.Context, dir string, rules []deviceRule) error {
	for _, r := range rules {
		file := "devices.deny"
		if r.allow {
			file = "devices.allow"
		}
		lines := []deviceRule{r}
		if r.kind == 'a' && !r.everything() { // which the kernel would take for everything
			lines = []deviceRule{r, r}
			lines[0].kind, lines[1].kind = 'c', 'b'
		}
		for _, line := range lines {
			if err := write(ctx, filepath.Join(dir, file), line.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

// write hands one line to a file of a group, which is there or it is no group.
func write(ctx context.Context, file, value string) error {
	err := trace.Call(ctx, 1,
		func() string { return fmt.Sprintf("write %s → %s", value, file) },
		func() error {
			fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, []byte(value))
			return err
		})
	if err != nil {
		return &Error{Op: "write " + value + " to", What: file, Err: err}
	}
	return nil
}
