package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/trace"
)

// ping sends one ICMP echo request from the caller's namespace and waits for its answer, as ping(8) does: "answered", "silence", or
// the errno's name. It is for the walkthrough; the runtime does not need it. See RFC 792, icmp(7), raw(7).
func ping(ctx context.Context, to netip.Addr, patience time.Duration) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return "", &Error{"open a raw socket", "", err}
	}
	defer unix.Close(fd)
	const echoRequest, echoReply, identity = 8, 0, 0x6e73
	request := []byte{echoRequest, 0, 0, 0, identity >> 8, identity & 0xff, 0, 1}
	binary.BigEndian.PutUint16(request[2:], checksum(request))
	err = trace.Call(ctx, 0,
		func() string { return fmt.Sprintf("sendto(%d, ICMP echo request, %s)", fd, to) },
		func() error { return unix.Sendto(fd, request, 0, sockaddr(netip.AddrPortFrom(to, 0))) })
	if err != nil {
		if errno, ok := err.(unix.Errno); ok {
			return unix.ErrnoName(errno), nil
		}
		return "", err
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		left := unix.NsecToTimeval(max(time.Until(end), time.Millisecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return "", err
		}
		buf := make([]byte, 1500)
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			continue // the time is up, or a signal came
		}
		// A raw socket gets the IP header, too, and everybody's packets.
		header := int(buf[0]&0x0f) * 4
		sender, ok := from.(*unix.SockaddrInet4)
		if ok && n >= header+8 && buf[header] == echoReply && netip.AddrFrom4(sender.Addr) == to &&
			binary.BigEndian.Uint16(buf[header+4:]) == identity {
			return "answered", nil
		}
	}
	return "silence", nil
}

// checksum is the Internet checksum, RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
