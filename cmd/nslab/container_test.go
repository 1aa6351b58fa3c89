package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/nslab/nslab/cmd/nslab/filter"
	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/image"
)

func TestEachContainer(t *testing.T) {
	var out strings.Builder
	failing := errors.New("no such container: c")
	turn := make(chan bool) // the first waits for the last
	err := eachContainer(&out, []string{"a", "b", "c", "d"}, func(ref string) (string, error) {
		switch ref {
		case "a":
			<-turn
		case "c":
			return "", failing
		case "d":
			close(turn)
		}
		return "did " + ref, nil
	})
	var s *statusError
	if out.String() != "did a\ndid b\ndid d\n" || !errors.Is(err, failing) || !errors.As(err, &s) || s.status != exitFailed {
		t.Errorf("eachContainer printed %q, and %v", out.String(), err)
	}
}

func TestForgive(t *testing.T) {
	missing := &engine.NotFoundError{Ref: "x"}
	for _, c := range []struct {
		err  error
		ok   bool
		want string
	}{
		{nil, true, ""},
		{&statusError{status: 1, err: manyErrors{missing, missing}}, true, "nslab: no such container: x\nnslab: no such container: x\n"},
		{&statusError{status: 1, err: manyErrors{missing, errors.New("other")}}, false, ""},
		{errors.New("other"), false, ""},
	} {
		var out strings.Builder
		if err := forgive(&out, c.err); (err == nil) != c.ok || out.String() != c.want {
			t.Errorf("forgive(%v) = %v, and printed %q; want %v, %q", c.err, err, out.String(), c.ok, c.want)
		}
	}
}

func TestBuiltOn(t *testing.T) {
	made := func(id string, layers, steps string) *image.Image {
		i := &image.Image{ID: id}
		for _, l := range strings.Fields(layers) {
			i.Config.RootFS.DiffIDs = append(i.Config.RootFS.DiffIDs, digest.Digest(l))
		}
		for _, s := range strings.Fields(steps) {
			i.Config.History = append(i.Config.History, ocispec.History{CreatedBy: s})
		}
		return i
	}
	base := made("base", "a", "FROM")
	for _, c := range []struct {
		i    *image.Image
		want bool
	}{
		{base, true},
		{made("more", "a b", "FROM RUN"), true},
		{made("env", "a", "FROM ENV"), true},
		{made("twin", "a", "FROM"), false},
		{made("other", "b a", "FROM RUN"), false},
		{made("step", "a b", "IMPORT RUN"), false},
		{made("none", "", ""), false},
	} {
		if got := builtOn(c.i, base); got != c.want {
			t.Errorf("builtOn(%s, base) = %v; want %v", c.i.ID, got, c.want)
		}
	}
}

func TestPorts(t *testing.T) {
	c := &engine.Container{}
	c.Config.ExposedPorts = map[string]struct{}{"80/tcp": {}, "5000-5010/udp": {}}
	for text, want := range map[string]bool{
		"80": true, "80/tcp": true, "80/udp": false, "79-81": true, "5005/udp": true, "5011/udp": false, "4000-6000/UDP": true,
	} {
		p, err := parsePorts(text)
		if err != nil || exposes(c, []portRange{p}) != want {
			t.Errorf("expose=%s: %v, %v; want %v", text, p, err, want)
		}
	}
	for _, text := range []string{"", "x", "80/", "80/x", "2-1", "70000", "-1", "1-"} {
		if p, err := parsePorts(text); err == nil {
			t.Errorf("parsePorts(%q) = %v; want an error", text, p)
		}
	}
}

func TestKeptContainers(t *testing.T) {
	now := time.Now()
	made := func(age time.Duration, labels map[string]string) *engine.Container {
		c := &engine.Container{}
		c.Created, c.Config.Labels = now.Add(-age), labels
		return c
	}
	labels := map[string]string{"a": "1", "b": "2"}
	for _, c := range []struct {
		filters string
		c       *engine.Container
		keep    bool
	}{
		{"", made(0, nil), false},
		{"until=1h", made(time.Minute, nil), true},
		{"until=1h", made(2*time.Hour, nil), false},
		{"label=a", made(0, labels), false},
		{"label=a=2", made(0, labels), true},
		{"label!=a", made(0, labels), true},
		{"label!=a=2", made(0, labels), false},
		{"label=a label!=b", made(0, labels), true},
		{"label=a until=1h", made(0, labels), true},
	} {
		var f filter.Filters
		for _, one := range strings.Fields(c.filters) {
			if err := f.Set(one); err != nil {
				t.Fatal(err)
			}
		}
		keep, err := keptContainers(f, now)
		if err != nil || keep(c.c) != c.keep {
			t.Errorf("prune --filter %s keeps one of %v ago with %v: %v, %v; want %v", c.filters, now.Sub(c.c.Created), c.c.Config.Labels, !c.keep, err, c.keep)
		}
	}
}

func TestPickProcesses(t *testing.T) {
	const table = "  PID  LWP COMMAND\n    1    1 init\n   20   20 sh -c  sleep\n    -   21 sh\n   30   30 other\n    -   31 other\n"
	rows, err := pickProcesses(table, []int{20, 40})
	if got := fmt.Sprintf("%q", rows); err != nil || got != `[["PID" "LWP" "COMMAND"] ["20" "20" "sh -c sleep"] ["-" "21" "sh"]]` {
		t.Errorf("pickProcesses: %s, %v", got, err)
	}
	for _, wrong := range []string{"", "USER\nroot\n", "PID X\nabc d\n"} {
		if rows, err := pickProcesses(wrong, nil); err == nil {
			t.Errorf("pickProcesses(%q) = %q; want an error", wrong, rows)
		}
	}
}

func TestProcessWords(t *testing.T) {
	now := time.Date(2026, 3, 5, 15, 4, 0, 0, time.Local)
	for want, start := range map[string]time.Time{
		"00:01": now.Add(-15*time.Hour - 3*time.Minute), "Mar04": now.Add(-16 * time.Hour), "2025": now.AddDate(-1, 0, 0),
	} {
		if got := startWord(start, now); got != want {
			t.Errorf("startWord(%v) = %s; want %s", start, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "00:00:00", 3*time.Hour + 25*time.Minute + 45*time.Second: "03:25:45", 49*time.Hour + time.Second: "2-01:00:01",
	} {
		if got := clock(d); got != want {
			t.Errorf("clock(%v) = %s; want %s", d, got, want)
		}
	}
	p := engine.Process{Started: now.Add(-10 * time.Second), CPU: 5 * time.Second}
	if got := cpuShare(p, now); got != 50 {
		t.Errorf("5 of 10 seconds are %d %%", got)
	}
	if p.CPU = time.Minute; cpuShare(p, now) != 99 {
		t.Errorf("more than there was are %d %%; want no third digit", cpuShare(p, now))
	}
}

func TestLogTail(t *testing.T) {
	for text, want := range map[string]int{"all": -1, "5": 5, "0": 0, "-1": -1} {
		if n, err := logTail(text); n != want || err != nil {
			t.Errorf("--tail %s: %d, %v; want %d", text, n, err, want)
		}
	}
	if _, err := logTail("x\ny"); err == nil || len(errorLines(err)) != 1 {
		t.Errorf("--tail with two lines: %v", err)
	}
}
