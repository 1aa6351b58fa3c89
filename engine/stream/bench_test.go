package stream

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nslab/nslab/engine/logs"
)

// hubProcess is a monitor in a process of its own: descriptor 3 is what the container prints, 4 the first client.
func hubProcess(log string) int {
	cfg := Config{Stdout: os.NewFile(3, "stdout")}
	if log != "" {
		w, err := logs.Create(log, logs.Options{MaxSize: 64 << 20})
		if err != nil {
			panic(err)
		}
		defer w.Close()
		cfg.Log = w
	}
	h, err := NewHub(cfg)
	if err != nil {
		panic(err)
	}
	if err := h.Add(os.NewFile(4, "conn"), Client{Stdout: true}); err != nil {
		panic(err)
	}
	h.Start()
	h.outs.Wait() // until the end of the pipe
	h.Close(0)
	return 0
}

// plainClient attaches stdout only.
func plainClient() int {
	out, err := Attach(context.Background(), os.NewFile(3, "conn"), Options{Stdout: os.Stdout})
	if err != nil {
		panic(err)
	}
	return out.ExitStatus
}

// BenchmarkThroughput sends a gigabyte through a hub and a client, which are processes of their own, and through cat | cat,
// and prints the ratio of the times.
func BenchmarkThroughput(b *testing.B) {
	const size = 1 << 30
	for _, bb := range []struct{ name, text, log string }{
		{"zeros", "", ""},
		{"lines", strings.Repeat("x", 79), ""},
		{"yes", "y", ""},
		{"lines-logged", strings.Repeat("x", 79), "log.json"},
	} {
		producer := "head -c " + strconv.Itoa(size) + " /dev/zero"
		if bb.text != "" {
			producer = fmt.Sprintf("yes %s | head -c %d", bb.text, size)
		}
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(size)
			var cats, ours time.Duration
			for b.Loop() {
				start := time.Now()
				if out, err := exec.Command("sh", "-c", producer+" | cat | cat >/dev/null").CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				cats += time.Since(start)
				log := ""
				if bb.log != "" {
					log = filepath.Join(b.TempDir(), bb.log)
				}
				start = time.Now()
				through(b, producer, log)
				ours += time.Since(start)
			}
			b.ReportMetric(size*float64(b.N)/cats.Seconds()/1e6, "cat-MB/s")
			b.ReportMetric(size*float64(b.N)/ours.Seconds()/1e6, "hub-MB/s")
			b.ReportMetric(ours.Seconds()/cats.Seconds(), "time/cat|cat")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func through(b *testing.B, producer, log string) {
	b.Helper()
	r, w := pipe(b)
	hub, client, err := Pair()
	if err != nil {
		b.Fatal(err)
	}
	start := func(cmd *exec.Cmd, mode string) *exec.Cmd {
		cmd.Stderr = os.Stderr
		cmd.Env = append(os.Environ(), clientEnv+"="+mode)
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		return cmd
	}
	monitor := exec.Command("/proc/self/exe")
	monitor.ExtraFiles = []*os.File{r, hub}
	c := exec.Command("/proc/self/exe")
	c.ExtraFiles = []*os.File{client}
	p := exec.Command("sh", "-c", producer)
	p.Stdout = w
	all := []*exec.Cmd{start(monitor, "hub "+log), start(c, "plain"), start(p, "")}
	for _, f := range []io.Closer{r, w, hub, client} {
		f.Close()
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			b.Fatalf("%v: %v", cmd.Args, err)
		}
	}
}
