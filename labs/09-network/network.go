// Package network connects a container that has a network namespace of its own.
//
// The idea: a new network namespace has one device, lo, and that is down. To talk to anybody it needs a wire, and the
// kernel's wire is a pair of virtual Ethernet devices (veth): what goes into one end comes out of the other. One end goes
// into the container and is called eth0 there, the other stays on the host and is plugged into a bridge, which is a switch
// made of software. Now containers reach each other. The world does not know their addresses, so what leaves is given the
// host's (masquerading), and what is to come in gets in by a port of the host, whose packets are given the container's
// address (a published port). Both are a few rules in the kernel's packet filter.
//
// The interface: [Bridge.Make], [Endpoint.Attach], and [LoopbackUp] inside. A [Firewall] is one table of nslab's own, so that
// the host's rules are never touched; its rules are fixed, and a network or a published port is an element of a set or a
// map in it: [Firewall.AddNetwork], [Firewall.Publish]. [Hold] takes a port on the host, [Held.Relay] serves it where the
// kernel cannot rewrite addresses. [Obstacles] tells what of the host is in the way.
//
// The limits: everything acts in the network namespace of the calling thread, which stands for the host, and needs
// CAP_NET_ADMIN in the user namespace that owns it. An ordinary user has that only in a network namespace of his own: he
// can build all of this in there, but no wire leads from there to the host's. Names and addresses are given by the caller.
// Nothing is kept on disk: what exists is asked of the kernel, where each thing bears its owner's name.
//
// See veth(4), bridge(8), rtnetlink(7), network_namespaces(7), nft(8), Documentation/networking/ip-sysctl.rst.
package network

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// patience is how often a request is repeated that the kernel could not serve at that moment, with pauses from 1 ms that
// double: about a second in all.
const patience = 10

// again repeats what the kernel refused for want of memory or because somebody else is at it. Everything else is an answer.
func again(ctx context.Context, f func() error) (err error) {
	pause := time.Millisecond
	for range patience {
		if err = f(); err == nil || !transient(err) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
		pause *= 2
	}
	return err
}

func transient(err error) bool {
	for _, errno := range []error{unix.EBUSY, unix.ENOMEM, unix.ENOBUFS, unix.EAGAIN, unix.EINTR} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// message sends one netlink message and waits for the kernel's answer. text is written as ip(8) or nft(8) would be told to
// do it, behind the message's real name.
func message(ctx context.Context, text func() string, f func() error) error {
	return trace.Call(ctx, 1, text, func() error { return again(ctx, f) })
}
