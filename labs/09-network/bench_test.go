package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	"github.com/nslab/nslab/trace"
)

// BenchmarkAttach is what one container more costs.
func BenchmarkAttach(b *testing.B) {
	coursetest.NeedRoot(b)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	in := func(name string, f func(b *testing.B)) { // each benchmark runs in a goroutine of its own, on any thread
		host, err := OpenNamespace(ctx, "/proc/thread-self/ns/net")
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			if err := host.Do(ctx, func(context.Context) error { f(b); return nil }); err != nil {
				b.Fatal(err)
			}
		})
	}
	bridge := Bridge{Name: "nbbench", Owner: "nslab bench", Addresses: prefixes("10.7.0.1/16")}
	if err := bridge.Make(ctx); err != nil {
		b.Fatal(err)
	}
	fw := Firewall{Table: "nslab-bench"}
	if err := fw.AddNetwork(ctx, Network{Owner: "nslab bench", Bridge: "nbbench", Subnets: prefixes("10.7.0.0/16"), Masquerade: true}); err != nil {
		b.Fatal(err)
	}
	took := map[string]time.Duration{}
	calls := 0
	if os.Getenv("NSLAB_BENCH_CALLS") != "" {
		ctx = trace.With(ctx, func(r trace.Record) {
			took[r.Text[:min(len(r.Text), 30)]] += r.Took
			calls++
		})
	}
	addr := netip.MustParseAddr("10.7.1.0")
	n := 0
	in("attach", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			ns := newNamespace(b)
			addr = addr.Next()
			n++
			e := Endpoint{
				Name: fmt.Sprintf("nvb%d", n), Owner: "nslab bench", Bridge: "nbbench", Inside: "eth0",
				Addresses: []netip.Prefix{netip.PrefixFrom(addr, 16)}, Gateways: []netip.Addr{netip.MustParseAddr("10.7.0.1")},
			}
			b.StartTimer()
			if err := e.Attach(ctx, ns); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			defer ns.Close() // later: the kernel would be busy clearing away the last one
			b.StartTimer()
		}
		for what, d := range took {
			fmt.Fprintf(os.Stderr, "%8.1f µs %s\n", float64(d.Nanoseconds())/1000/float64(b.N), what)
		}
	})
	in("make again", func(b *testing.B) {
		for b.Loop() {
			if err := bridge.Make(ctx); err != nil {
				b.Fatal(err)
			}
		}
	})
	port := uint16(1)
	target := netip.AddrPortFrom(addr, 80)
	in("publish and unpublish", func(b *testing.B) {
		for b.Loop() {
			port++
			p := Port{Proto: "tcp", Host: netip.AddrPortFrom(netip.Addr{}, max(port, 1)), Target: target}
			if err := fw.Publish(ctx, "nslab bench", p); err != nil {
				b.Fatal(err)
			}
			if err := fw.Unpublish(ctx, "nslab bench", p); err != nil {
				b.Fatal(err)
			}
		}
	})
	in("exists", func(b *testing.B) {
		for b.Loop() {
			if ok, err := fw.Exists(ctx); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
}
