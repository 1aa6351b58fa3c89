package main

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stream is what a machine says: lines of the console after "!", others of the port for results.
func stream(text string) *Outcome {
	o := &Outcome{Mode: "v2", Kernel: "meant", Log: "the.log", Expected: []string{"pid_steps", "mount_steps"}, Took: 12 * time.Second}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if console, ok := strings.CutPrefix(line, "!"); ok {
			o.Console(console)
		} else if line != "" {
			o.Line(line)
		}
	}
	return o
}

const (
	booted = `{"vm":"boot","exit":0,"kernel":"6.1.0"}` + "\n" + `{"vm":"initramfs","exit":0}` + "\n"
	pid    = `{"script":"pid_steps","result":"pass","ms":9619,"output":"PASS"}` + "\n"
	mount  = `{"script":"mount_steps","result":"pass","ms":100,"output":"PASS"}` + "\n"
	ended  = `{"vm":"suite","exit":0}` + "\n" + `{"vm":"end","exit":0}` + "\n"
	both   = `{"result":"pass","passed":2,"failed":0,"missing":0,"skipped":0,"needs":[],"ms":1}` + "\n"
	one    = `{"result":"fail","passed":1,"failed":1,"missing":0,"skipped":0,"needs":[],"ms":1}` + "\n"
)

func TestPassed(t *testing.T) {
	o := stream(booted + pid + mount + both + ended + "!reboot: Power down")
	if !o.Passed() {
		t.Fatalf("did not pass:\n%s", o.Report())
	}
	if got, want := o.Report(), "vm v2 · Linux 6.1.0 · 2 of 2 passed, 0 failed, 0 skipped · 12 s\n"; got != want {
		t.Errorf("Report() = %q; want %q", got, want)
	}
}

// Each of these must fail the machine, and say why.
func TestNotPassed(t *testing.T) {
	cases := []struct {
		name, text, killed, qemu string
		want                     []string
	}{
		{"nothing at all", "", "", "qemu: no such machine\n", []string{"ended before its init", "qemu: no such machine", "pid_steps mount_steps"}},
		{"panic", booted + pid + "![ 3.1] Kernel panic - not syncing: sysrq triggered crash", "", "",
			[]string{"kernel panicked, after pid_steps: sysrq triggered crash", "never came to a result: mount_steps"}},
		{"panic while booting", "![ 3.1] Kernel panic - not syncing: VFS: Unable to mount root fs", "", "",
			[]string{"kernel panicked, before the first scenario: VFS"}},
		{"panic of init", booted + "!Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000200", "", "", []string{"Attempted to kill init"}},
		{"hang", booted + pid, "it said nothing for 20s", "", []string{"it was ended, after pid_steps: it said nothing for 20s"}},
		{"hang while booting", "!Linux version 6.1", "it said nothing for 20s", "", []string{"did not boot", "said nothing"}},
		{"cut off", booted + pid, "", "", []string{"ended by itself, after pid_steps"}},
		{"cut off in a line", booted + `{"script":"pid_steps","resu`, "", "", []string{"1 lines of its results cannot be read", "never came"}},
		{"full disk", booted + pid + `{"vm":"disk","exit":0,"free":4096}` + "\n" + `{"script":"mount_steps","result":"fail","ms":1,"output":"no space left on device"}` + "\n" + one + ended, "", "",
			[]string{"disk was full, after pid_steps: 4 KiB free", "✗ mount_steps", "no space left on device"}},
		{"failed scenario", booted + pid + `{"script":"mount_steps","result":"fail","ms":1,"output":"FAIL: line 3"}` + "\n" + one + ended, "", "",
			[]string{"✗ mount_steps", "FAIL: line 3", "1 failed"}},
		{"missing", booted + pid + `{"script":"mount_steps","result":"missing","ms":1,"needs":["strace"]}` + "\n" + one + ended, "", "",
			[]string{"mount_steps did not run: needs strace", "1 skipped"}},
		{"fewer than the host counts", booted + pid + `{"result":"pass","passed":1}` + "\n" + ended, "", "", []string{"never came to a result: mount_steps", "1 of 2"}},
		{"a result was lost", booted + pid + both + ended, "", "", []string{"the suite counts 2 passed, of which 1 arrived"}},
		{"no sum", booted + pid + mount + ended, "", "", []string{"the suite did not come to its end"}},
		{"initramfs not shown", `{"vm":"boot"}` + "\n" + pid + mount + both + ended, "", "", []string{"lab 04 was not run"}},
		{"initramfs failed", `{"vm":"boot"}` + "\n" + `{"vm":"initramfs","exit":1,"text":"pivot_root: EINVAL"}` + "\n" + pid + mount + both + ended, "", "", []string{"exit status 1: pivot_root: EINVAL"}},
		{"trouble", booted + `{"vm":"trouble","text":"mkfs.ext4: exit status 1"}` + "\n" + `{"vm":"end"}` + "\n", "", "", []string{"mkfs.ext4: exit status 1"}},
		{"a name that is no event", booted + pid + mount + both + `{"vm":"party"}` + "\n" + ended, "", "", []string{"cannot be read"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			o := stream(c.text)
			o.Killed, o.Qemu = c.killed, firstLine(c.qemu)
			report := o.Report()
			if o.Passed() {
				t.Errorf("passed:\n%s", report)
			}
			for _, want := range append(c.want, "FAILED, see the.log") {
				if !strings.Contains(report, want) {
					t.Errorf("%q is not in the report:\n%s", want, report)
				}
			}
		})
	}
}

// A machine that was to run nothing shows nothing.
func TestNothingExpected(t *testing.T) {
	o := stream(booted + `{"result":"pass","passed":0}` + "\n" + ended)
	o.Expected = nil
	if o.Passed() {
		t.Error("a suite without a scenario passed")
	}
}

func TestReadLine(t *testing.T) {
	r := bufio.NewReaderSize(strings.NewReader("one\r\n"+strings.Repeat("x", 100)+"\nlast"), 16)
	var got []string
	for {
		line, err := readLine(r, 48)
		got = append(got, line)
		if err == io.EOF {
			break
		}
	}
	want := []string{"one", strings.Repeat("x", 48), strings.Repeat("x", 48), "xxxx", "last"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("readLine() = %q; want %q", got, want)
	}
}

func TestIndentShowsWhatFailed(t *testing.T) {
	long := "line\nCheck ✗ the hostname\n" + strings.Repeat("line\n", 60) + "FAIL: line 4\n"
	got := indent(long)
	for _, want := range []string{"✗ the hostname", "FAIL: line 4", "of 63 lines"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if n := strings.Count(got, "\n"); n != 14 {
		t.Errorf("%d lines; want 14", n)
	}
}

// In JUnit's form, too, a machine that did not pass shows a failure, whatever its scenarios say.
func TestJUnit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "junit.xml")
	good := stream(booted + pid + mount + both + ended)
	panicked := stream(booted + pid + "!Kernel panic - not syncing: sysrq triggered crash")
	if err := writeJUnit(file, []*Outcome{good, panicked}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<testsuite name="vm v2, Linux 6.1.0" tests="3" failures="0"`, `<testsuite name="vm v2, Linux 6.1.0" tests="3" failures="2"`,
		`<failure message="never came to a result"`, "the kernel panicked, after pid_steps: sysrq triggered crash",
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%s is not in\n%s", want, data)
		}
	}
}

// A panic is the emulator's fault only where it began with a breakpoint; any other is reported, and not tried again.
func TestEmulatorsFault(t *testing.T) {
	for text, want := range map[string]bool{
		"!console [    8.979902] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n!Kernel panic - not syncing: Fatal exception in interrupt": true,
		"![    3.093098] int3: 0000 [#1] PREEMPT SMP NOPTI\n!Kernel panic - not syncing: Fatal exception":                            true,
		"![    3.093098] int3: 0000 [#1] PREEMPT SMP NOPTI":                                                                          false,
		"!Oops: 0002 [#1] PREEMPT SMP NOPTI\n!Kernel panic - not syncing: Fatal exception":                                           false,
		"!Kernel panic - not syncing: sysrq triggered crash":                                                                         false,
	} {
		if got := stream(booted + text).emulatorsFault(); got != want {
			t.Errorf("emulatorsFault() = %v; want %v for %s", got, want, text)
		}
	}
}
