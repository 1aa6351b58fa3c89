package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/nslab/nslab/trace"
)

// explaining collects the system calls that the stages make, here and in the container's own init, and shows them on standard
// error when the returned function is called: in order, each under the lab whose stage it is.
func explaining(ctx context.Context, wanted bool) (context.Context, func()) {
	if !wanted {
		return ctx, func() {}
	}
	var mu sync.Mutex
	var records []trace.Record
	ctx = trace.With(ctx, func(r trace.Record) {
		mu.Lock()
		defer mu.Unlock()
		records = append(records, r)
	})
	return ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		showRecords(records)
		records = nil
	}
}

// stageTitles says what each stage is for.
var stageTitles = []struct{ prefix, title string }{
	{"labs/01-pid", "01 a process in namespaces of its own"},
	{"labs/02-mount", "02 mounts that only the container sees"},
	{"labs/03-cgroups", "03 a control group, with its limits"},
	{"labs/04-rootfs", "04 a root file system, and the switch to it"},
	{"labs/05-unionfs", "05 layers as one"},
	{"labs/06-setns", "06 entering namespaces that exist"},
	{"labs/07-volumes", "07 volumes"},
	{"labs/10-security", "10 rights given up"},
	{"labs/12-container", "12 the last step"},
	{"engine", "engine"},
}

func showRecords(records []trace.Record) {
	last := ""
	var total time.Duration
	for _, r := range records {
		title := "other"
		for _, s := range stageTitles {
			if len(r.At) > len(s.prefix) && r.At[:len(s.prefix)] == s.prefix {
				title = s.title
				break
			}
		}
		if title != last {
			fmt.Fprintf(os.Stderr, "\n%s\n", title)
			last = title
		}
		total += r.Took
		fmt.Fprintf(os.Stderr, "  %8s  %s\n%12s%s\n", took(r.Took), r.String(), "", r.At)
	}
	fmt.Fprintf(os.Stderr, "\n%d system calls, %s in the kernel\n", len(records), took(total))
}

func took(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%d µs", d.Microseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
