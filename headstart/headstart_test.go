package headstart

import (
	"os/exec"
	"slices"
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
		{"nslab container run IMAGE", "/run/..", 0, ""},
		{"nslab container run IMAGE", "/run/..other/x..", 0, "/run/..other/x.."},
		{"nslab container exec box true", "", 0, ""},
		{"nslab image run it", "", 0, ""},
		{"nslab-monitor", "", 0, ""},
	} {
		if got := wanted(strings.Fields(c.args), c.env, c.euid); got != c.want {
			t.Errorf("wanted(%q, %q, %d) = %q; want %q", c.args, c.env, c.euid, got, c.want)
		}
	}
}

// What is imported here delays the monitor, and all of these wait for hundreds of others: see the package's comment.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "os") {
		t.Errorf("there is no os in %q", deps)
	}
	for _, late := range []string{"context", "fmt", "os/signal", "path/filepath", "reflect", "strings", "unicode"} {
		if slices.Contains(deps, late) {
			t.Errorf("%s is imported", late)
		}
	}
}
