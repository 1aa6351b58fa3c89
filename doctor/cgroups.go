package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cgroups "github.com/nslab/nslab/labs/03-cgroups"
)

// controllers that nslab uses, by v2's names.
var controllers = []string{"cpu", "cpuset", "memory", "pids", "io", "freezer"}

func controllerIDs() []string {
	ids := make([]string, len(controllers))
	for i, c := range controllers {
		ids[i] = "cgroup." + c
	}
	return ids
}

// controlGroups is how control groups are mounted, and each controller.
func (m *machine) controlGroups(ctx context.Context, runRoot string) []Result {
	all := []Result{m.cgroupMode()}
	for _, id := range controllerIDs() {
		all = append(all, m.controller(ctx, runRoot, id))
	}
	return all
}

func (m *machine) cgroupMode() Result {
	r := Result{ID: "cgroup.mode", State: StateOK}
	s, err := cgroups.Discover()
	if err != nil {
		r.State, r.Found = StateMissing, plain(err)
		return r
	}
	r.Found = say("%s · %s", s.Mode(), strings.Join(hierarchies(s), " · "))
	if s.Mode() == "none" {
		r.State, r.Found = StateMissing, say("no control groups are mounted")
		r.Remedy = m.mountCgroups()
	}
	return r
}

// hierarchies are the trees in short: v1 has one for each controller or two, v2 a single one.
func hierarchies(s *cgroups.System) (list []string) {
	var v1 []string
	for _, h := range s.Hierarchies {
		if h.Version == 1 {
			v1 = append(v1, strings.Join(h.Controllers, ","))
			continue
		}
		names := strings.Join(h.Controllers, " ")
		if names == "" {
			names = "–"
		}
		list = append(list, fmt.Sprintf("v2 (%s): %s", h.Mount, names))
	}
	if len(v1) > 0 {
		slices.Sort(v1)
		list = append([]string{"v1: " + strings.Join(v1, " ")}, list...)
	}
	return list
}

// controller makes a group with the controller, below our own, and removes it. Control groups are the one thing here that
// no namespace hides, so what is made is journalled.
func (m *machine) controller(ctx context.Context, runRoot, id string) Result {
	return bounded(ctx, id, func(ctx context.Context) Result { return m.tryController(ctx, runRoot, id) })
}

func (m *machine) tryController(ctx context.Context, runRoot, id string) Result {
	name := strings.TrimPrefix(id, "cgroup.")
	r := Result{ID: id, State: StateOK, Found: say("a group was made")}
	rec := &recorder{}
	if err := probeController(rec.under(ctx), runRoot, name); err != nil {
		r.State, r.Found, r.Remedy = StateMissing, cgroupRefusal(rec, err), m.cgroupRemedy(name, err)
		return r
	}
	if s, err := cgroups.Discover(); err == nil {
		if g, err := s.Plan("nslab-doctor", name); err == nil {
			r.Found = say("v%d: a group was made in %s", g.Version(name), filepath.Dir(g.Dir(name)))
		}
	}
	return r
}

func probeController(ctx context.Context, runRoot, controller string) (err error) {
	j, err := openJournal(runRoot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.close()) }()
	return cgroups.Probe(ctx, j.groupName(), controller, j.begin)
}

// cgroupRefusal says which call was refused or, where none was made, what lab 03 found out by looking.
func cgroupRefusal(rec *recorder, err error) Message {
	var missing *cgroups.MissingError
	var delegation *cgroups.DelegationError
	var refused *cgroups.Error
	switch {
	case errors.As(err, &missing):
		return say("no mounted hierarchy has the controller")
	case errors.As(err, &delegation):
		return say("no group below %s with it: not delegated to us", delegation.Own)
	case errors.As(err, &refused) && rec.refused == "" && errnoOf(err) != 0:
		return say("%s → %s", refused.Op+" "+refused.File, errnoText(errnoOf(err)))
	}
	return rec.answer("", err).says()
}

func (m *machine) cgroupRemedy(controller string, err error) []Message {
	var missing *cgroups.MissingError
	var delegation *cgroups.DelegationError
	switch {
	case errors.As(err, &missing):
		return m.bringController(controller)
	case m.nest.kind != "" && (isDenied(err) || errors.As(err, &delegation)):
		return m.unconfine()
	case errors.As(err, &delegation) && m.uid == 0:
		return []Message{command("systemd-run --scope -p Delegate=yes nslab run 03")}
	case m.uid != 0 && (isDenied(err) || errors.As(err, &delegation)):
		all := []Message{command("sudo nslab run 03")}
		if s, err := cgroups.Discover(); err == nil && s.Mode() == "v2" {
			all = append([]Message{command("systemd-run --user --scope -p Delegate=yes nslab run 03")}, all...)
		}
		return all
	case isDenied(err):
		return []Message{say("mount it writable: %s", command("mount -o remount,rw "+m.hierarchy(controller)))}
	}
	return nil
}

// hierarchy is where the controller's tree is mounted.
func (m *machine) hierarchy(controller string) string {
	if s, err := cgroups.Discover(); err == nil {
		if h, ok := s.Find(controller); ok {
			return h.Mount
		}
	}
	return "/sys/fs/cgroup"
}

// bringController: the way of a controller goes from the kernel's configuration over its command line to a mount, and on v2
// from group to group.
func (m *machine) bringController(controller string) []Message {
	v1 := map[string]string{"io": "blkio"}[controller]
	if v1 == "" {
		v1 = controller
	}
	table := read("/proc/cgroups")
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != v1 {
			continue
		}
		if f[3] == "0" {
			return []Message{m.bootWithout("cgroup_disable=" + v1)}
		}
		return m.handDown(controller)
	}
	if !slices.Contains(strings.Fields(table), "cpu") { // newer kernels list v1's controllers only if v1 is built in
		return m.handDown(controller)
	}
	return []Message{say("boot a kernel that was built with it (%s): those of the distributions are",
		command(controllerOption()[controller]))}
}

func controllerOption() map[string]string {
	return map[string]string{
		"cpu": "CONFIG_CFS_BANDWIDTH", "cpuset": "CONFIG_CPUSETS", "memory": "CONFIG_MEMCG", "pids": "CONFIG_CGROUP_PIDS",
		"io": "CONFIG_BLK_CGROUP", "freezer": "CONFIG_CGROUP_FREEZER",
	}
}

// bootWithout takes a word off the kernel's command line.
func (m *machine) bootWithout(word string) Message {
	how := "/etc/default/grub"
	switch m.like {
	case "debian":
		how = "/etc/default/grub, " + m.root("update-grub")
	case "fedora":
		how = m.root("grubby --update-kernel=ALL --remove-args=" + word)
	}
	return say("remove %s from the kernel's command line and reboot: %s", word, how)
}

// handDown: the kernel has the controller, and we are not given it.
func (m *machine) handDown(controller string) []Message {
	switch s, err := cgroups.Discover(); {
	case err == nil && s.Mode() == "v2" && m.nest.kind != "":
		return m.unconfine()
	case err == nil && s.Mode() == "v2" && m.uid != 0:
		return []Message{
			say("have systemd hand it down: %s", command(m.root("systemctl edit user@.service")+`  →  [Service] Delegate=`+controller)),
			command("sudo nslab run 03"),
		}
	case err == nil && s.Mode() == "v2":
		return []Message{command("systemd-run --scope -p Delegate=yes nslab run 03")}
	}
	return m.mountCgroups()
}

func (m *machine) mountCgroups() []Message {
	if m.nest.kind != "" {
		return m.unconfine()
	}
	if _, err := os.Stat("/sys/fs/cgroup"); err != nil {
		return []Message{command(m.root("mount -t sysfs sysfs /sys")), command(m.root("mount -t cgroup2 cgroup2 /sys/fs/cgroup"))}
	}
	return []Message{command(m.root("mount -t cgroup2 cgroup2 /sys/fs/cgroup"))}
}

// String is how a thing stands in the journal and in reports.
func thingText(t cgroups.Thing) string { return fmt.Sprintf("%s %s", t.Kind, t.Path) }
