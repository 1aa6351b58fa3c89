package network

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/diagnosis"
)

var (
	// ErrNotOurs is a link or a rule of that name that somebody else has made.
	ErrNotOurs = errors.New("it exists and belongs to somebody else")

	// ErrTaken is a port of the host that is in use; see [TakenError].
	ErrTaken = errors.New("port is already in use")

	// ErrNoNamespace is a file that is no handle to a network namespace.
	ErrNoNamespace = errors.New("not a network namespace")

	// ErrFamily is a published port whose two addresses are not of one family, which no rewriting can join.
	ErrFamily = errors.New("an IPv4 address cannot be rewritten to an IPv6 one, nor the other way")
)

// Error is something of the network that could not be had.
type Error struct {
	Op   string // what was being done: "create bridge"
	What string // to what: "nb3f9c02k3j5q7a"
	Err  error  // the errno, or a sentinel of this package
}

func (e *Error) Error() string {
	if e.What == "" {
		return "09-network: " + e.Op + ": " + e.Err.Error()
	}
	return "09-network: " + e.Op + " " + e.What + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Conditions are what the kernel requires for a request over netlink.
func (e *Error) Conditions() []diagnosis.Condition {
	switch {
	case errors.Is(e.Err, unix.EPERM), errors.Is(e.Err, unix.EACCES):
		return []diagnosis.Condition{{
			What:   "nslab has CAP_NET_ADMIN where the network namespace belongs",
			Detail: fmt.Sprintf("uid %d", os.Geteuid()), OK: os.Geteuid() == 0,
			Remedy: "run nslab as root: an ordinary user's network namespace has no way out",
		}}
	case errors.Is(e.Err, unix.EROFS):
		return []diagnosis.Condition{{
			What: "/proc/sys can be written", Detail: "/proc/sys is read-only",
			Remedy: "start the container in which nslab runs with --privileged",
		}}
	case errors.Is(e.Err, unix.EOPNOTSUPP), errors.Is(e.Err, unix.EPROTONOSUPPORT), errors.Is(e.Err, unix.EAFNOSUPPORT):
		return diagnosis.Those(e.module("veth", "veth pair"), e.module("bridge", "bridge"), e.module("nf_tables", "firewall"))
	case errors.Is(e.Err, unix.ENOENT) && strings.HasSuffix(e.Op, "firewall table"):
		// nf_tables answers ENOENT to an expression whose module is not there.
		return []diagnosis.Condition{{
			What: "the kernel can rewrite addresses", Detail: "nft_nat, nft_masq, nft_fib_inet, nft_ct",
			Remedy: "modprobe -a nft_nat nft_masq nft_fib_inet nft_ct",
		}}
	}
	return nil
}

// module is the condition that a module is there, if it is what the refused operation needs.
func (e *Error) module(name, op string) *diagnosis.Condition {
	if !strings.Contains(e.Op, op) {
		return nil
	}
	_, err := os.Stat("/sys/module/" + name)
	return &diagnosis.Condition{
		What: "the kernel has this module", Detail: name, OK: err == nil, Remedy: "modprobe " + name,
	}
}
