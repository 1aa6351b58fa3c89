package main

import (
	"net/netip"
	"testing"
)

// TestPortWords: what Docker's client prints for the same ports.
func TestPortWords(t *testing.T) {
	at := func(host string, container uint16, proto string) shownPort {
		a, _ := netip.ParseAddrPort(host)
		return shownPort{a, container, proto}
	}
	for _, c := range []struct {
		ports []shownPort
		want  string
	}{
		{nil, ""},
		{[]shownPort{at("", 90, "udp"), at("", 91, "udp"), at("", 92, "udp"), at("", 80, "tcp")}, "80/tcp, 90-92/udp"},
		{[]shownPort{at("", 80, "tcp"), at("", 443, "tcp"), at("", 444, "tcp")}, "80/tcp, 443-444/tcp"},
		{[]shownPort{at("0.0.0.0:8001", 81, "tcp"), at("0.0.0.0:8000", 80, "tcp"), at("", 9, "tcp")}, "9/tcp, 0.0.0.0:8000->80/tcp, 0.0.0.0:8001->81/tcp"},
		{[]shownPort{
			at("0.0.0.0:8081", 80, "tcp"), at("[::]:8081", 80, "tcp"), at("127.0.0.1:8082", 81, "udp"), at("", 7000, "tcp"), at("", 7001, "tcp"), at("", 7002, "tcp"),
			at("0.0.0.0:9000", 9000, "tcp"), at("[::]:9000", 9000, "tcp"), at("0.0.0.0:9001", 9001, "tcp"), at("[::]:9001", 9001, "tcp"),
		}, "7000-7002/tcp, 0.0.0.0:9000-9001->9000-9001/tcp, [::]:9000-9001->9000-9001/tcp, " +
			"0.0.0.0:8081->80/tcp, [::]:8081->80/tcp, 127.0.0.1:8082->81/udp"},
	} {
		if got := portWords(c.ports); got != c.want {
			t.Errorf("%q; want %q", got, c.want)
		}
	}
}
