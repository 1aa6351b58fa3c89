package nslab_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nslab/nslab/course/coursetest"
)

// What only other people's machines execute is checked here as far as it can be without them.

func TestWorkflows(t *testing.T) {
	files, err := filepath.Glob(".github/workflows/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatal("no workflows", err)
	}
	cmd := exec.Command("go", append([]string{"tool", "actionlint", "-shellcheck=", "-pyflakes="}, files...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("actionlint: %v\n%s", err, out)
	}
}

func TestVagrantfile(t *testing.T) {
	if _, err := exec.LookPath("ruby"); err != nil {
		coursetest.Missing(t, "ruby")
	}
	if out, err := exec.Command("ruby", "-wc", "Vagrantfile").CombinedOutput(); err != nil || strings.Contains(string(out), "warn") {
		t.Errorf("ruby -wc Vagrantfile: %v\n%s", err, out)
	}
}

// The machines that set themselves up ask for what go.mod and the README ask for.
func TestSameGo(t *testing.T) {
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if version == nil {
		t.Fatal("go.mod names no version")
	}
	var dev struct{ Image string }
	text := regexp.MustCompile(`(?m)^//.*$`).ReplaceAllString(read(t, ".devcontainer/devcontainer.json"), "")
	if err := json.Unmarshal([]byte(text), &dev); err != nil {
		t.Fatal("devcontainer.json: ", err)
	}
	if want := "mcr.microsoft.com/devcontainers/go:" + version[1] + "-bookworm"; dev.Image != want {
		t.Errorf("the development container is %s; want %s", dev.Image, want)
	}
	for _, file := range []string{"README.md", "CONTRIBUTING.md", "Makefile"} {
		if !strings.Contains(read(t, file), "Go "+version[1]) {
			t.Errorf("%s does not ask for Go %s", file, version[1])
		}
	}
}

// The suite is run on the same distributions by Vagrant and by GitHub.
func TestSameDistributions(t *testing.T) {
	vagrant, actions := read(t, "Vagrantfile"), read(t, ".github/workflows/test.yml")
	for box, name := range map[string]string{"ubuntu-22.04": "Ubuntu 22.04", "ubuntu-24.04": "Ubuntu 24.04", "debian-12": "Debian 12"} {
		if !strings.Contains(vagrant, "/"+box+`"`) {
			t.Errorf("Vagrantfile has no %s", box)
		}
		if !strings.Contains(actions, "{name: "+name+",") {
			t.Errorf("test.yml has no %s", name)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
