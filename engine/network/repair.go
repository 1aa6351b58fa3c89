package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nslab/nslab/jsonfile"
	stage "github.com/nslab/nslab/labs/09-network"
)

// The kernel against the files: what is dead is removed, what is missing is made.

// Repair makes the kernel's rules exactly those that the files call for: those of the networks that are up, and those of the
// containers that live. One transaction, so that no packet finds anything in between.
func (s *Store) Repair(ctx context.Context) error {
	want, err := s.wanted()
	if err != nil {
		return err
	}
	_, err = s.kernel.firewall().Sync(ctx, want)
	return err
}

func (s *Store) wanted() (r stage.Rules, err error) {
	list, err := s.List()
	if err != nil {
		return r, err
	}
	r.Ports = map[string][]stage.Port{}
	ids := map[string]bool{}
	for _, n := range list {
		if !n.Bridged() || len(n.Pools) == 0 {
			continue
		}
		users, err := s.Users(n)
		if err != nil {
			return r, err
		}
		if len(users) == 0 && !deviceUp(n.Device) {
			continue
		}
		r.Networks = append(r.Networks, s.kernel.rules(n))
		for _, id := range users {
			ids[id] = true
		}
	}
	for id := range ids {
		b, err := LoadSandbox(s.containerDir(id))
		if err != nil {
			return r, err
		}
		if b == nil {
			continue
		}
		if ports := b.rules(); len(ports) > 0 {
			r.Ports[s.kernel.owner(id)] = ports
		}
	}
	return r, nil
}

// containerDir is a container's run folder.
func (s *Store) containerDir(id string) string {
	return filepath.Join(filepath.Dir(s.runDir), "containers", id)
}

// Used tells whether there ever was a network below this root, since the machine was started.
func (s *Store) Used() bool {
	for _, dir := range []string{s.dir, s.runDir} {
		if _, err := os.Lstat(dir); err == nil {
			return true
		}
	}
	return false
}

// Reap takes back what dead containers have: addresses, names, rules, and links whose namespace somebody else keeps alive. It
// returns what that was.
func (s *Store) Reap(ctx context.Context) (removed []string, err error) {
	var errs []error
	folders, err := os.ReadDir(s.runDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list networks: %w", jsonfile.Cause(err))
	}
	for _, d := range folders {
		if !d.IsDir() {
			continue
		}
		_, err := s.Sweep(ctx, d.Name())
		errs = append(errs, err)
	}
	links, err := s.reapLinks(ctx)
	removed, errs = append(removed, links...), append(errs, err)
	rules, err := s.kernel.firewall().Read(ctx)
	errs = append(errs, err)
	for owner := range rules.Ports {
		id, ours := s.kernel.ownedBy(owner)
		if !ours || s.Alive(id) {
			continue
		}
		if err := s.kernel.firewall().Unpublish(ctx, owner); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, "ports of container "+id[:min(12, len(id))])
	}
	return removed, errors.Join(errs...)
}

// reapLinks removes the links of dead containers, and bridges of networks that there are not.
func (s *Store) reapLinks(ctx context.Context) (removed []string, err error) {
	links, err := stage.Links(ctx, s.kernel.owner(""))
	if err != nil {
		return nil, err
	}
	networks, err := s.List()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, n := range networks {
		known[n.ID] = true
	}
	var errs []error
	for _, l := range links {
		id, ours := s.kernel.ownedBy(l.Owner)
		switch {
		case !ours:
			continue
		case l.Kind == "veth" && !s.Alive(id):
			// One that was given back goes by itself with its namespace, soon; there is nothing to tell of that.
			b, _ := LoadSandbox(s.containerDir(id))
			err = stage.Endpoint{Name: l.Name, Owner: l.Owner}.Detach(ctx)
			if b == nil && err == nil {
				continue
			}
		case l.Kind == "bridge" && !known[id]:
			err = stage.Bridge{Name: l.Name, Owner: l.Owner}.Remove(ctx)
		default:
			continue
		}
		if errs = append(errs, err); err == nil {
			removed = append(removed, "link "+l.Name)
		}
	}
	return removed, errors.Join(errs...)
}

// ownedBy is the id in an owner's name.
func (k kernel) ownedBy(owner string) (id string, ours bool) {
	return strings.CutPrefix(owner, k.owner(""))
}

// Retire removes everything that nobody needs any more: the default bridge; and, when no network is left, the table of rules,
// after which the host passes packets on only if it did before. It returns what that was.
func (s *Store) Retire(ctx context.Context) (removed []string, err error) {
	n, err := s.ByName(Bridge)
	if err != nil {
		return nil, err
	}
	gone, err := s.RemoveDefault(ctx)
	errs := []error{err}
	if gone {
		removed = append(removed, "bridge "+n.Device)
	}
	list, err := s.List()
	errs = append(errs, err)
	for _, n := range list {
		if len(n.Pools) > 0 {
			return removed, errors.Join(errs...)
		}
	}
	there, err := s.kernel.firewall().Exists(ctx)
	if errs = append(errs, err); there {
		if err := s.kernel.firewall().Remove(ctx); err != nil {
			return removed, errors.Join(append(errs, err)...)
		}
		removed = append(removed, "firewall table "+s.kernel.firewall().Table)
	}
	for _, v6 := range []bool{false, true} {
		put, err := s.putForwardingBack(ctx, v6)
		if errs = append(errs, err); put {
			removed = append(removed, map[bool]string{false: "ip_forward, which is off again", true: "ipv6 forwarding, which is off again"}[v6])
		}
	}
	os.Remove(s.runDir) // if nothing is in it
	return removed, errors.Join(errs...)
}

// putForwardingBack does so unless another root's containers need it, whose own prune may do it then.
func (s *Store) putForwardingBack(ctx context.Context, v6 bool) (bool, error) {
	name := s.forwarding(v6)
	if _, err := os.Lstat(name); err != nil {
		return false, nil
	}
	others, err := stage.Tables(ctx, stage.TableName(""))
	if err != nil || len(others) > 0 {
		return false, err
	}
	if err := stage.SetForwarding(ctx, v6, false); err != nil {
		return false, err
	}
	return true, os.Remove(name)
}

// Diagnose tells what of the host keeps packets from containers, with what to do about it. It makes no difference to what is
// done: the host's own rules are the host's.
func (s *Store) Diagnose(ctx context.Context, said func(string)) {
	list, err := stage.Obstacles(ctx)
	if err != nil || said == nil {
		return
	}
	for _, c := range list {
		if !c.OK {
			said(fmt.Sprintf("containers may not reach the world: not so: %s (%s); remedy: %s", c.What, c.Detail, c.Remedy))
		}
	}
}
