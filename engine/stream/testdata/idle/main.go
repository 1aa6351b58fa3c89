// Command idle is as much of a monitor as a hub needs: it holds a container that has printed a megabyte and is idle. It is
// to see from outside what memory that takes; see BenchmarkIdle.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nslab/nslab/engine/logs"
	"github.com/nslab/nslab/engine/pages"
	"github.com/nslab/nslab/engine/stream"
)

func main() {
	var quiet func()
	if len(os.Args) > 1 && os.Args[1] == "settle" {
		quiet = pages.Settle
	}
	dir, err := os.MkdirTemp("", "idle")
	check(err)
	hold(dir, quiet)
	time.Sleep(3 * time.Second)
	os.RemoveAll(dir)
	os.Stdout.WriteString("idle\n")
	b := make([]byte, 1)
	os.Stdin.Read(b) // until the end
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hold holds a container with three pipes, a log, a socket and a client.
func hold(dir string, quiet func()) {
	_, stdin, err := os.Pipe()
	check(err)
	stdout, out, err := os.Pipe()
	check(err)
	stderr, _, err := os.Pipe()
	check(err)
	log, err := logs.Create(filepath.Join(dir, "log.json"), logs.Options{})
	check(err)
	h, err := stream.NewHub(stream.Config{Stdin: stdin, Stdout: stdout, Stderr: stderr, Log: log, Quiet: quiet})
	check(err)
	path := filepath.Join(dir, "attach.sock")
	check(h.Listen(path))
	conn, err := stream.Dial(path)
	check(err)
	go drop(conn)
	h.Start()
	line := []byte(strings.Repeat("x", 999) + "\n")
	for range 1000 {
		_, err = out.Write(line)
		check(err)
	}
}

// drop reads with little memory.
func drop(f *os.File) {
	b := make([]byte, 4096)
	for {
		if _, err := f.Read(b); err != nil {
			return
		}
	}
}
