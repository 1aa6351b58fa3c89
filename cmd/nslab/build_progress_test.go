package main

import (
	"strings"
	"testing"

	"github.com/rivo/uniseg"
)

// TestBuildLayerLine: a layer that comes to a build is one line, whatever room there is and whatever a registry says of its size.
func TestBuildLayerLine(t *testing.T) {
	l := &buildLayer{id: "5eee4c748c83"}
	for _, width := range []int{20, 40, 60, 80, 200} {
		for _, s := range []layerState{
			{text: "Waiting"}, {text: "Pulling fs layer", moving: true, total: 9_000_000}, {text: "Pulling fs layer", moving: true, current: 4_500_000, total: 9_000_000},
			{text: "Pulling fs layer", moving: true, current: 999_900_000_000, total: 999_900_000_000}, {text: "Pulling fs layer", moving: true, current: 5, total: 1},
			{text: "Pulling fs layer", moving: true, current: 5},
		} {
			l.state = s
			p := &liveLines{width: width}
			if line := p.fit(" => => "+layerLine(l.id, l.state, width-7), ""); uniseg.StringWidth(line) > width-1 || strings.Contains(line, "\n") {
				t.Errorf("%d columns: %q", width, line)
			}
		}
	}
	l.state = layerState{text: "Pulling fs layer", moving: true, current: 4_500_000, total: 9_000_000}
	if got, want := layerLine(l.id, l.state, 73), "5eee4c748c83: Downloading [=============>            ] 4.5MB/9MB"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
}
