// Command idle is as much of a monitor as a hub needs: to see what memory one takes that holds an idle container. It prints
// what it takes, and takes it until its stdin ends. Its arguments name the ways to take less that it uses.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/engine/stream"
	"golang.org/x/sys/unix"
)

func main() {
	has := func(s string) bool { return slices.Contains(os.Args[1:], s) }
	if has("gc") {
		debug.SetGCPercent(10)
	}
	if has("nogc") {
		debug.SetGCPercent(-1)
	}
	if has("procs") {
		runtime.GOMAXPROCS(1)
	}
	dir, err := os.MkdirTemp("", "idle")
	check(err)
	defer os.RemoveAll(dir)
	if !has("nohub") {
		hold(dir, has("use"))
	}
	if has("free") {
		debug.FreeOSMemory()
	}
	b, err := os.ReadFile("/proc/self/smaps_rollup")
	check(err)
	if has("later") {
		unix.Nanosleep(&unix.Timespec{Sec: 130}, nil)
		b, err = os.ReadFile("/proc/self/smaps_rollup")
		check(err)
	}
	var m runtime.MemStats
	if has("stats") {
		runtime.ReadMemStats(&m)
		fmt.Printf("heap %d sys %d stacks %d other %d\n", m.HeapAlloc, m.Sys, m.StackSys, m.OtherSys+m.MSpanSys+m.MCacheSys+m.BuckHashSys+m.GCSys)
	}
	for _, l := range strings.Split(string(b), "\n") {
		for _, k := range []string{"Rss", "Pss:", "Pss_Anon", "Pss_File"} {
			if strings.HasPrefix(l, k) {
				fmt.Println(l)
			}
		}
	}
	if has("free2") {
		debug.FreeOSMemory()
	}
	if has("text") {
		dropText()
	}
	io.Copy(io.Discard, os.Stdin)
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// hold holds a container with two pipes, a log and a socket, which has printed a megabyte.
func hold(dir string, use bool) {
	in, inW, err := os.Pipe()
	check(err)
	out, outW, err := os.Pipe()
	check(err)
	errs, errsW, err := os.Pipe()
	check(err)
	log, err := logs.Create(filepath.Join(dir, "log.json"), logs.Options{})
	check(err)
	h, err := stream.NewHub(stream.Config{Stdin: inW, Stdout: out, Stderr: errs, Log: log})
	check(err)
	check(h.Listen(filepath.Join(dir, "attach.sock")))
	h.Start()
	if use {
		line, y := []byte(strings.Repeat("x", 999)+"\n"), []byte("y\n")
		for range 1000 {
			_, err := outW.Write(line)
			check(err)
			_, err = errsW.Write(y)
			check(err)
		}
		unix.Nanosleep(&unix.Timespec{Sec: 3}, nil)
	}
	_ = in
}

// dropText forgets the pages of the program's own text. They are in the page cache; those that are needed come back by a
// minor fault each.
func dropText() {
	b, err := os.ReadFile("/proc/self/maps")
	check(err)
	var ranges [8][2]uintptr
	k := 0
	for _, l := range strings.Split(string(b), "\n") {
		var lo, hi uintptr
		var perm string
		if n, _ := fmt.Sscanf(l, "%x-%x %s", &lo, &hi, &perm); n == 3 && strings.HasSuffix(l, "/idle") && perm[1] == '-' {
			ranges[k] = [2]uintptr{lo, hi - lo}
			k++
		}
	}
	for _, r := range ranges[:k] {
		unix.RawSyscall(unix.SYS_MADVISE, r[0], r[1], unix.MADV_DONTNEED)
	}
}
