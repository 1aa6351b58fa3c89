package headstart

import (
	"strings"
	"testing"
)

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		args, env string
		euid      int
		want      string
	}{
		{"nslab container run IMAGE", "", 0, "/run/nslab"},
		{"nslab container run --rm IMAGE true", "/run/other", 0, "/run/other"},
		{"nslab container start -a box", "", 0, "/run/nslab"},
		{"nslab container run IMAGE", "", 1000, ""}, // whose mounts cannot be cloned
		{"nslab container run", "", 0, ""},
		{"nslab container run --explain IMAGE", "", 0, ""},
		{"nslab container run --explain=true IMAGE", "", 0, ""},
		{"nslab container run --help", "", 0, ""},
		{"nslab container run --run-root /elsewhere IMAGE", "", 0, ""},
		{"nslab --run-root /elsewhere container run IMAGE", "/run/other", 0, "/elsewhere"},
		{"nslab container run IMAGE", "relative", 0, ""},
		{"nslab container run IMAGE", "/run/../other", 0, ""},
		{"nslab container exec box true", "", 0, ""},
		{"nslab image run it", "", 0, ""},
		{"nslab-monitor", "", 0, ""},
	} {
		if got := wanted(strings.Fields(c.args), c.env, c.euid); got != c.want {
			t.Errorf("wanted(%q, %q, %d) = %q; want %q", c.args, c.env, c.euid, got, c.want)
		}
	}
}
