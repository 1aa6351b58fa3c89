package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// These tests boot machines, which takes minutes where the processor is emulated. NSLAB_VM=1 asks for them: `make
// test-vm-some` does, with all that they need installed, and continuous integration. `make test-vm-full` runs everything.

// subset is run in every mode: walkthroughs, and of the engine what touches control groups, devices or kinds of mounts, which
// differ between the modes and from kernel to kernel. It is to take less than three minutes, emulated.
var subset = strings.Fields(`
	cgroups_steps pid_steps rootfs_steps unionfs_steps volumes_steps security_steps
	container_limits container_pause container_run container_stats container_stop container_update
	container_userns doctor_report image_build_layers network_publish system_info volume_store`)

// builds are the programs, built for these tests.
type builds struct{ vm, nslab string }

// build builds them. The tests that ask for them run beside each other: a machine has work for one processor while it boots, and
// for none while it hangs.
func build(t *testing.T, flags ...string) builds {
	t.Helper()
	if os.Getenv("NSLAB_VM") != "1" {
		t.Skip("boots machines only with NSLAB_VM=1")
	}
	t.Parallel()
	dir := t.TempDir()
	b := builds{filepath.Join(dir, "vm"), filepath.Join(dir, "nslab")}
	for file, pkg := range map[string]string{b.vm: ".", b.nslab: "../cmd/nslab"} {
		args := slices.Concat([]string{"build", "-trimpath", "-o", file}, flags, []string{pkg})
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return b
}

// run runs vm, shows what it says, and returns that with the exit status.
func (b builds) run(t *testing.T, args ...string) (said string, status int) {
	t.Helper()
	// The kernel that was fetched once is used again; the logs are where docs/vm.md says, each test's in a folder of its own.
	logs := filepath.Join("../.cache/vm/log", t.Name())
	cmd := exec.Command(b.vm, append([]string{"--nslab", b.nslab, "--cache", "../.cache/vm", "--log", logs}, args...)...)
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = cmd.Stdout
	end, err := start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	<-end
	return out.String(), cmd.ProcessState.ExitCode()
}

// hostCount is how many scenarios this very nslab has for the patterns.
func (b builds) hostCount(t *testing.T, patterns []string) (n int) {
	t.Helper()
	out, err := exec.Command(b.nslab, append([]string{"test", "--list", "--format", "json"}, patterns...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var s result
		if err := json.Unmarshal(line, &s); err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func TestMachines(t *testing.T) {
	b := build(t)
	count := strconv.Itoa(b.hostCount(t, subset))
	closing := regexp.MustCompile(`(?m)^vm (\S+) · Linux \S+ · (\d+) of (\d+) passed, 0 failed, 0 skipped · \d+ s$`)
	// One run for all: whether KVM works is tried once.
	said, status := b.run(t, append([]string{"--mode", strings.Join(modes, ",")}, subset...)...)
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	var got, all []string
	for _, m := range closing.FindAllStringSubmatch(said, -1) {
		got = append(got, strings.Join(m[1:], " "))
	}
	for _, mode := range modes {
		all = append(all, strings.Join([]string{mode, count, count}, " "))
	}
	if !slices.Equal(got, all) {
		t.Errorf("modes, passed, of: %q; want %q", got, all)
	}
}

// What goes wrong in a machine ends it soon, is named, and never passes.
func TestMachineMisbehaves(t *testing.T) {
	b := build(t)
	for breakage, want := range map[string]string{
		"panic": "✗ the kernel panicked, .*sysrq",
		"hang":  "✗ it was ended, .*: it said nothing for 1m0s",
		"disk":  "✗ its disk was full, .*: [0-9]+ KiB free",
		"end":   "✗ it ended by itself, .*, without a word",
	} {
		t.Run(breakage, func(t *testing.T) {
			t.Parallel()
			said, status := b.run(t, "--accel", "tcg", "--mode", "v2", "--break", breakage, "--silence", "1m", "rootfs_steps")
			if status != 1 || !regexp.MustCompile(want).MatchString(said) || !strings.Contains(said, "FAILED, see ") {
				t.Errorf("exit status %d; want 1, and a line %s", status, want)
			}
		})
	}
}

// A stage that does nothing and reports success fails its scenario in the machine, and so the machine.
func TestMachineBrokenStage(t *testing.T) {
	const file = "../labs/01-pid/actors.go"
	stage, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(stage)
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(text), "return unix.Sethostname([]byte(args[0]))", "return nil", 1)
	if broken == string(text) {
		t.Fatalf("%s does not call sethostname as it did", file)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "broken.go"), broken)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{stage: filepath.Join(dir, "broken.go")}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "overlay.json"), string(overlay))
	said, status := build(t, "-overlay", filepath.Join(dir, "overlay.json")).run(t, "--accel", "tcg", "--mode", "v2", "pid_steps")
	if status != 1 || !strings.Contains(said, "✗ pid_steps") || !strings.Contains(said, "0 of 1 passed, 1 failed") {
		t.Errorf("exit status %d; want 1, and that pid_steps failed", status)
	}
}
