package main

import (
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// screenText plays what was written to a terminal of some lines: what is on it in the end, and what has scrolled up.
func screenText(t *testing.T, written string, height int) []string {
	move := regexp.MustCompile(`^\x1b\[(\d+)A\x1b\[J`)
	var lines []string // those above the cursor, which is at the beginning of a line
	for written != "" {
		if m := move.FindStringSubmatch(written); m != nil {
			n, _ := strconv.Atoi(m[1])
			if n > min(len(lines), height-1) {
				t.Fatalf("the cursor goes up %d lines; there are %d on the screen", n, min(len(lines), height-1))
			}
			lines, written = lines[:len(lines)-n], written[len(m[0]):]
			continue
		}
		line, rest, ended := strings.Cut(written, "\n")
		if !ended || strings.ContainsRune(line, '\x1b') {
			t.Fatalf("%q is no whole line", line)
		}
		lines, written = append(lines, line), rest
	}
	return lines
}

func TestLayerView(t *testing.T) {
	const height = 8
	for _, layers := range []int{1, 5, 6, 7, 30} {
		var out strings.Builder
		width := 60
		live := &liveLines{out: &out, size: func() (int, int, error) { return width, height, nil }}
		live.every(func() {})
		v := &layerView{w: io.Discard, live: live, known: map[int]*viewedLayer{}}
		id := func(n int) string { return fmt.Sprintf("layer%02d", n) }
		for n := range layers {
			v.set(n, id(n), layerState{text: "Waiting"})
		}
		v.draw()
		for n := range layers {
			v.set(n, id(n), layerState{text: "Pulling fs layer", moving: true, current: 1, total: 2})
			v.draw()
			want := id(n) + ": Downloading "
			if n == 0 {
				want += "[========>        ] 1B/2B"
			}
			if last := strings.Join(screenText(t, out.String(), height), "\n"); n < live.room() && !strings.Contains(last, want) {
				t.Errorf("layer %d of %d is not seen to come:\n%s", n, layers, last)
			}
			width = 40 + n // as if somebody pulled at the window
			if n%4 != 3 {  // those never end
				v.set(n, id(n), layerState{text: "Pull complete", final: true})
			}
			v.draw()
		}
		v.close()
		last := screenText(t, out.String(), height)
		if len(last) != layers {
			t.Fatalf("%d layers are %d lines:\n%s", layers, len(last), strings.Join(last, "\n"))
		}
		for n := range layers {
			complete := strings.Contains(strings.Join(last, "\n")+"\n", id(n)+": Pull complete\n")
			if complete != (n%4 != 3) {
				t.Errorf("layer %d is said to be complete: %v:\n%s", n, complete, strings.Join(last, "\n"))
			}
			if layers <= live.room() && !strings.HasPrefix(last[n], id(n)) {
				t.Errorf("line %d is %q; want layer %d", n, last[n], n)
			}
		}
	}
}
