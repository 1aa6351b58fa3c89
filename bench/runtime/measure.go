package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// hyperfine runs a command a number of times and gives the time of each, in seconds. Before each comes prepare, which is
// not measured. No shell stands between: it would be a third of what a fast side takes.
func hyperfine(ctx context.Context, b *bench, wrap, prepare, args []string, runs, warmup int) ([]float64, error) {
	report := b.path("hyperfine.json")
	words := join(wrap, []string{"hyperfine", "--shell=none", "--style=none", "--export-json", report,
		"--runs", strconv.Itoa(runs), "--warmup", strconv.Itoa(warmup)})
	if prepare != nil {
		words = append(words, "--prepare", quote(prepare))
	}
	if err := command(ctx, append(words, quote(args))...); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// It does not show what the command said. Once more, to hear it.
		if prepare != nil {
			if err := command(ctx, join(wrap, prepare)...); err != nil {
				return nil, err
			}
		}
		if said := command(ctx, join(wrap, args)...); said != nil {
			return nil, said
		}
		return nil, err
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return nil, err
	}
	var found struct {
		Results []struct{ Times []float64 }
	}
	if err := json.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("read %s: %w", report, err)
	}
	if len(found.Results) != 1 || len(found.Results[0].Times) != runs {
		return nil, fmt.Errorf("%s does not have the %d times that were asked for", report, runs)
	}
	return found.Results[0].Times, nil
}

const (
	crowd  = 50
	atOnce = 8
)

// crowdFigures is what a crowd of containers shows.
type crowdFigures struct {
	start  float64 // seconds until all are started
	memory float64 // bytes that an engine holds for each of them, while it does nothing
	remove float64 // seconds until all are removed, with one command
}

// measureCrowd starts containers, so many at once, looks at what holds them, and removes them.
func measureCrowd(ctx context.Context, b *bench, e *engine) (f crowdFigures, err error) {
	names := make([]string, crowd)
	for i := range names {
		names[i] = "bench-crowd-" + strconv.Itoa(i)
	}
	begin := time.Now()
	turn := make(chan struct{}, atOnce)
	failures := make(chan error, crowd)
	for _, name := range names {
		turn <- struct{}{}
		go func() {
			failures <- command(ctx, e.start("--detach", "--name", name, smallImage, "sleep", "100000")...)
			<-turn
		}()
	}
	for range names {
		err = errors.Join(err, <-failures)
	}
	f.start = time.Since(begin).Seconds()
	if err != nil {
		return f, errors.Join(err, e.removeAll())
	}
	if !sleep(ctx, 2*time.Second) { // until what was only for the start has been given back
		return f, ctx.Err()
	}
	if f.memory, err = held(ctx, e, names); err != nil {
		return f, errors.Join(err, e.removeAll())
	}
	begin = time.Now()
	if err := command(ctx, e.remove(names...)...); err != nil {
		return f, errors.Join(err, e.removeAll())
	}
	f.remove = time.Since(begin).Seconds()
	return f, nil
}

// held adds up, for each container, the process that is the parent of its first process (conmon, containerd's shim,
// nslab's monitor), and what else that one has started outside of the container.
func held(ctx context.Context, e *engine, names []string) (float64, error) {
	var total int64
	for _, name := range names {
		pid, err := e.pid(ctx, name)
		if err != nil {
			return 0, err
		}
		holder, err := parent(pid)
		if err != nil {
			return 0, err
		}
		if holder <= 1 {
			return 0, fmt.Errorf("nothing holds container %s: the parent of its process %d is %d", name, pid, holder)
		}
		n, err := family(holder)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return float64(total) / float64(len(names)), nil
}

// family is the memory of a process and of its descendants that are in the same pid namespace.
func family(pid int) (int64, error) {
	total, err := pss(pid)
	if err != nil {
		return 0, err
	}
	for _, child := range children(pid) {
		if namespace(child) != namespace(pid) {
			continue
		}
		n, err := family(child)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// pss is a process's memory in bytes, a page that several processes share counted in parts (proc_pid_smaps(5)).
func pss(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no Pss in smaps_rollup of process %d", pid)
}

func parent(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// After the name, which may have spaces and parentheses itself (proc_pid_stat(5)).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("stat of process %d has no parent", pid)
	}
	return strconv.Atoi(fields[1])
}

func children(pid int) (pids []int) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func namespace(pid int) string {
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if err != nil {
		return ""
	}
	return link
}

// onlyChild waits for the child of unshare --fork to have become the program.
func onlyChild(ctx context.Context, pid int) (int, error) {
	for range 200 {
		for _, child := range children(pid) {
			if exe, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); err == nil && string(exe) == "sleep\n" {
				return child, nil
			}
		}
		if !sleep(ctx, 10*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
	return 0, errors.New("unshare has not started the program")
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func lastLine(path string) string {
	out, err := exec.Command("tail", "-n", "1", path).Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}
