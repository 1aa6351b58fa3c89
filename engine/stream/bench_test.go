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

// BenchmarkIdle looks from outside at a process that holds a hub with three pipes, a log, a socket and a client, after it
// passed on a megabyte.
func BenchmarkIdle(b *testing.B) {
	exe := filepath.Join(b.TempDir(), "idle")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", exe, "./testdata/idle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for _, bb := range []struct {
		name string
		args []string
		env  []string
	}{
		{"plain", nil, nil},
		{"gogc-off", nil, []string{"GOGC=off", "GOMEMLIMIT=8MiB", "GOMAXPROCS=1"}},
		{"settled", []string{"settle"}, nil},
		{"settled-gogc-off", []string{"settle"}, []string{"GOGC=off", "GOMEMLIMIT=8MiB", "GOMAXPROCS=1"}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			total := map[string]float64{}
			for b.Loop() {
				cmd := exec.Command(exe, bb.args...)
				cmd.Env = append(os.Environ(), bb.env...)
				in, err := cmd.StdinPipe()
				if err != nil {
					b.Fatal(err)
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					b.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					b.Fatal(err)
				}
				if _, err := out.Read(make([]byte, 16)); err != nil {
					b.Fatal(err)
				}
				rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", cmd.Process.Pid))
				if err != nil {
					b.Fatal(err)
				}
				in.Close()
				if err := cmd.Wait(); err != nil {
					b.Fatal(err)
				}
				for line := range strings.Lines(string(rollup)) {
					if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], "Pss") {
						kb, _ := strconv.ParseFloat(f[1], 64)
						total[strings.TrimSuffix(f[0], ":")] += kb
					}
				}
			}
			for _, k := range []string{"Pss", "Pss_Anon", "Pss_File"} {
				b.ReportMetric(total[k]/float64(b.N), k+"-kB")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
