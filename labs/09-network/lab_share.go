package network

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/diagnosis"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// awhile is how long a step waits for what the kernel does in the background.
const awhile = 30 * time.Second

// joined: `--net container:ID`.
func joined(t *course.T) error {
	s, box, _, err := town(t)
	if err != nil {
		return err
	}
	second, err := bornIn(t.Context(), t, box, unix.CLONE_NEWUTS|unix.CLONE_NEWPID)
	if err != nil {
		return err
	}
	t.See("the first: %s · the second: %s · the host: %s", inode(box), inode(second), inode(s.host))
	t.Equal(inode(box), inode(second), "one inode: it is one network namespace")
	its, err := devices(t, box.Pid())
	if err != nil {
		return err
	}
	seconds, err := devices(t, second.Pid())
	if err != nil {
		return err
	}
	t.See("devices of the second: %s", seconds)
	t.Equal(its, seconds, "with the same devices and addresses")
	if _, err := box.Call(t.Untraced(), "09-serve", "tcp", "127.0.0.1:80"); err != nil {
		return err
	}
	said, err := call(t, second, "tcp", "127.0.0.1:80", "")
	if err != nil {
		return err
	}
	t.See("the first listens at 127.0.0.1:80; the second calls that: %s", said)
	t.Equal("127.0.0.1", said, "127.0.0.1 is one place for both")
	_, err = second.Call(t.Untraced(), "09-serve", "tcp", ":80")
	taken := "–"
	if err != nil {
		taken = lastPart(err)
	}
	t.See("the second wants to listen at port 80 as well: %s", taken)
	t.Equal("address already in use", taken, "and so are the ports")
	return nil
}

func lastPart(err error) string {
	parts := strings.Split(err.Error(), ": ")
	return parts[len(parts)-1]
}

// hostNetwork: `--net host`, and what that gives away.
func hostNetwork(t *course.T) error {
	s, box, _, err := town(t)
	if err != nil {
		return err
	}
	const name = "nslab-lab-service"
	if err := s.do(t.Context(), "09-abstract", "listen", name); err != nil {
		return err
	}
	if _, err := s.host.Call(t.Untraced(), "09-serve", "tcp", "127.0.0.1:631"); err != nil {
		return err
	}
	guest, err := bornIn(only(t, "clone"), t, s.host, unix.CLONE_NEWPID|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC)
	if err != nil {
		return err
	}
	t.See("the host: %s · with --net host: %s · with a network of its own: %s", inode(s.host), inode(guest), inode(box))
	t.Equal(inode(s.host), inode(guest), "it is in the host's own network namespace")
	list, err := devices(t, guest.Pid())
	if err != nil {
		return err
	}
	t.See("its devices: %s", list)
	t.Check(strings.Contains(list, blue.Name) && strings.Contains(list, "nvworld"), "bridge and uplink", list, "it has all the host's devices")
	const socket, local = "@" + name, "127.0.0.1:631"
	for _, c := range []struct {
		box      *pid.Box
		to, want string
		check    string
	}{
		{guest, socket, "at your service", "it reaches the host's abstract sockets"},
		{guest, local, "127.0.0.1", "and services that listen on 127.0.0.1 for the host alone"},
		{box, socket, "ECONNREFUSED", "a container with a network of its own does not"},
		{box, local, "ECONNREFUSED", "nor those"},
	} {
		ask := func() (string, error) { return call(t, c.box, "tcp", c.to, "") }
		if c.to == socket {
			ask = func() (string, error) { return c.box.Call(t.Untraced(), "09-abstract", "call", name) }
		}
		said, err := ask()
		if err != nil {
			return err
		}
		t.See("from %s to %s: %s", inode(c.box), c.to, said)
		t.Check(strings.HasPrefix(said, c.want), c.want, said, c.check)
	}
	return nil
}

// policy: another firewall on the host.
func policy(t *course.T) error {
	s, box, out, err := town(t)
	if err != nil {
		return err
	}
	if err := s.allow(t.Untraced(), blue, blueNet); err != nil {
		return err
	}
	if _, err := out.Call(t.Untraced(), "09-serve", "udp", ":7"); err != nil {
		return err
	}
	before, err := call(t, box, "udp", world+":7", "")
	if err != nil {
		return err
	}
	if err := s.do(t.Context(), "09-drop"); err != nil {
		return err
	}
	// Another server: to this one there is a connection, which has been let through already.
	if _, err := out.Call(t.Untraced(), "09-serve", "udp", ":9"); err != nil {
		return err
	}
	after, err := call(t, box, "udp", world+":9", "silence")
	if err != nil {
		return err
	}
	t.See("the world answers: %s; with another table whose policy is drop: %s", before, after)
	t.Equal(router, before, "at first the container reaches the world")
	t.Equal("silence", after, "what one table drops, no other can let pass")
	text, err := s.host.Call(t.Context(), "09-look")
	if err != nil {
		return err
	}
	unmet := t.Diagnose(&blocked{decoded[[]diagnosis.Condition](text)})
	t.Check(slices.Contains(unmet, "no other firewall drops what the host forwards"), "the policy", fmt.Sprint(unmet),
		"the stage finds who it is, and says what to do")
	return nil
}

// gone: what is left of a container, and of a network.
func gone(t *course.T) error {
	s, box, _, err := town(t)
	if err != nil {
		return err
	}
	if err := s.allow(t.Untraced(), blue, blueNet); err != nil {
		return err
	}
	count := func() (n int, err error) {
		err = inNetwork(t, s.host.Pid(), func(h *netlink.Handle) error {
			links, err := h.LinkList()
			n = 0
			for _, l := range links {
				if strings.HasPrefix(l.Attrs().Name, "nvbox") && l.Attrs().Flags&net.FlagUp != 0 {
					n++
				}
			}
			return err
		})
		return n, err
	}
	before, err := count()
	if err != nil {
		return err
	}
	if err := box.Kill(t.Context()); err != nil {
		return err
	}
	after := before
	t.Await(awhile, func() bool {
		after, err = count()
		return after == 0 || err != nil
	})
	if err != nil {
		return err
	}
	t.See("the container's end of the wire on the host: %s; after its last process: %s", str(before), str(after))
	t.Equal(1, before, "while it lives, the wire is there")
	t.Equal(0, after, "nobody has removed it: it went with the namespace, and the other end with it")
	if err := s.do(t.Context(), "09-network", "remove"); err != nil {
		return err
	}
	if err := s.do(t.Context(), "09-forward", "off"); err != nil {
		return err
	}
	tables := -1
	err = inNetworkTables(t, s.host.Pid(), func(names []string) { tables = len(names) })
	if err != nil {
		return err
	}
	t.See("nslab's tables in the host's packet filter, after the network is removed: %s", str(tables))
	t.Equal(0, tables, "the rules of all containers are gone with one request")
	return nil
}
