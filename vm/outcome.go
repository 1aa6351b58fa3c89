package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is what `nslab test --format json` says of a scenario.
type result struct {
	Script string   `json:"script"`
	Result string   `json:"result"`
	MS     int64    `json:"ms"`
	Needs  []string `json:"needs"`
	Output string   `json:"output"`
}

// sum is its last line.
type sum struct {
	Result string `json:"result"`
	Passed *int   `json:"passed"` // there in a sum, and in nothing else
}

// event is what the guest's init says of itself. Lines that have "vm" are events.
type event struct {
	VM     string `json:"vm"`
	Text   string `json:"text,omitempty"`
	Exit   int    `json:"exit"`
	Free   int64  `json:"free,omitempty"` // bytes, of the guest's root
	Kernel string `json:"kernel,omitempty"`
}

// The events.
const (
	eventBoot      = "boot"      // the kernel has started init
	eventNote      = "note"      // worth a line in the report, no failure
	eventTrouble   = "trouble"   // the guest cannot do what it must: a failure
	eventInitramfs = "initramfs" // lab 04 was run before the root was changed
	eventSuite     = "suite"     // the suite has ended
	eventDisk      = "disk"      // the root is full
	eventEnd       = "end"       // about to power off
)

// Outcome is what became of one machine, gathered line by line.
type Outcome struct {
	Mode, Kernel, Log string
	Expected          []string // the scenarios that the host counts
	Results           []result
	Sum               *sum
	Booted, Ended     bool
	Initramfs, Suite  *event
	Notes, Trouble    []string
	Panic             string // the kernel's words
	Int3              bool   // it tripped over a breakpoint of its own, see emulatorsFault
	Disk              *event
	DiskAfter         string // the last scenario before the disk was full
	Garbled           []string
	Killed            string // why the host ended it
	Qemu              string // what qemu itself complained of
	Took              time.Duration
}

// Line takes a line of the port for results.
func (o *Outcome) Line(line string) {
	var e event
	var r result
	var s sum
	bytes := []byte(line)
	switch {
	case json.Unmarshal(bytes, &e) == nil && e.VM != "":
		o.event(e)
	case json.Unmarshal(bytes, &r) == nil && r.Script != "" && r.Result != "":
		o.Results = append(o.Results, r)
	case json.Unmarshal(bytes, &s) == nil && s.Result != "" && s.Passed != nil:
		o.Sum = &s
	default:
		o.Garbled = append(o.Garbled, line)
	}
}

func (o *Outcome) event(e event) {
	switch e.VM {
	case eventBoot:
		o.Booted = true
		if e.Kernel != "" {
			o.Kernel = e.Kernel // what runs, not what was meant to run
		}
	case eventNote:
		o.Notes = append(o.Notes, e.Text)
	case eventTrouble:
		o.Trouble = append(o.Trouble, e.Text)
	case eventInitramfs:
		o.Initramfs = &e
	case eventSuite:
		o.Suite = &e
	case eventDisk:
		o.Disk = &e
		if len(o.Results) > 0 {
			o.DiskAfter = o.Results[len(o.Results)-1].Script
		}
	case eventEnd:
		o.Ended = true
	default:
		o.Garbled = append(o.Garbled, "event "+e.VM)
	}
}

var (
	panicLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`Kernel panic - not syncing: (.*)`) })
	int3Line  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\] (?:Oops: )?int3: 0000`) })
)

// Console takes a line of the kernel's port.
func (o *Outcome) Console(line string) {
	if m := panicLine().FindStringSubmatch(line); m != nil && o.Panic == "" {
		o.Panic = strings.TrimSpace(m[1])
	}
	o.Int3 = o.Int3 || int3Line().MatchString(line)
}

// emulatorsFault says whether the kernel panicked for what is not its fault. While it patches its own code it puts an int3
// there for the other processors, and takes it away again. qemu before 8.1, with a thread for each processor, may execute
// that when it is gone already, once in some tens of boots: lore.kernel.org, "qemu-x86_64 booting with 8.0.0 stil see int3",
// 2023. With one thread for all processors it cannot happen, but that takes twice as long.
func (o *Outcome) emulatorsFault() bool { return o.Int3 && o.Panic != "" }

// count counts results of a kind.
func (o *Outcome) count(kinds ...string) (n int) {
	for _, r := range o.Results {
		if slices.Contains(kinds, r.Result) {
			n++
		}
	}
	return n
}

// never lists the scenarios that the host counts and of which the guest said nothing.
func (o *Outcome) never() (names []string) {
	for _, name := range o.Expected {
		if !slices.ContainsFunc(o.Results, func(r result) bool { return r.Script == name }) {
			names = append(names, name)
		}
	}
	return names
}

// problems lists what speaks against the machine besides its scenarios, the cause before its effects.
func (o *Outcome) problems() (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	last := "before the first scenario"
	if n := len(o.Results); n > 0 {
		last = "after " + o.Results[n-1].Script
	}
	if o.Disk != nil {
		when := "before the first scenario"
		if o.DiskAfter != "" {
			when = "after " + o.DiskAfter
		}
		add("its disk was full, %s: %d KiB free", when, o.Disk.Free>>10)
	}
	for _, t := range o.Trouble {
		add("%s", t)
	}
	switch {
	case o.Panic != "":
		add("the kernel panicked, %s: %s", last, o.Panic)
	case o.Killed != "" && !o.Booted:
		add("it did not boot and was ended: %s", o.Killed)
	case o.Killed != "":
		add("it was ended, %s: %s", last, o.Killed)
	case !o.Booted:
		add("it ended before its init had started")
	case !o.Ended:
		add("it ended by itself, %s, without a word", last)
	}
	if o.Qemu != "" && !o.Ended {
		add("qemu: %s", o.Qemu)
	}
	if o.Ended {
		list = append(list, o.inconsistencies()...)
	}
	if len(o.Garbled) > 0 {
		add("%d lines of its results cannot be read, the first: %.200q", len(o.Garbled), o.Garbled[0])
	}
	return list
}

// inconsistencies are what a machine that came to its end should have said.
func (o *Outcome) inconsistencies() (list []string) {
	switch {
	case o.Initramfs == nil:
		list = append(list, "lab 04 was not run on the initramfs")
	case o.Initramfs.Exit != 0:
		list = append(list, fmt.Sprintf("lab 04 on the initramfs: exit status %d: %s", o.Initramfs.Exit, o.Initramfs.Text))
	}
	switch {
	case o.Suite == nil || o.Sum == nil:
		list = append(list, "the suite did not come to its end")
	case *o.Sum.Passed != o.count("pass"):
		list = append(list, fmt.Sprintf("the suite counts %d passed, of which %d arrived", *o.Sum.Passed, o.count("pass")))
	}
	return list
}

// Passed: every scenario that the host counts was run and passed, and nothing else speaks against it.
func (o *Outcome) Passed() bool {
	return len(o.problems()) == 0 && len(o.never()) == 0 && len(o.Expected) > 0 && o.count("pass") == len(o.Results)
}

// Report is the machine's lines: what is wrong, then the sum.
func (o *Outcome) Report() string {
	var b strings.Builder
	for _, p := range o.problems() {
		fmt.Fprintf(&b, "  ✗ %s\n", p)
	}
	for _, r := range o.Results {
		switch r.Result {
		case "pass":
		case "fail":
			fmt.Fprintf(&b, "  ✗ %s (%.1f s)\n%s", r.Script, float64(r.MS)/1000, indent(r.Output))
		default:
			fmt.Fprintf(&b, "  – %s did not run: needs %s\n", r.Script, strings.Join(r.Needs, ", "))
		}
	}
	if never := o.never(); len(never) > 0 {
		fmt.Fprintf(&b, "  ✗ never came to a result: %s\n", strings.Join(never, " "))
	}
	for _, n := range o.Notes {
		fmt.Fprintf(&b, "  · %s\n", n)
	}
	verdict := ""
	if !o.Passed() {
		verdict = " · FAILED, see " + o.Log
	}
	fmt.Fprintf(&b, "vm %s · Linux %s · %d of %d passed, %d failed, %d skipped · %.0f s%s\n", o.Mode, o.Kernel,
		o.count("pass"), len(o.Expected), o.count("fail"), o.count("missing", "skip"), o.Took.Seconds(), verdict)
	return b.String()
}

// indent sets a scenario's log off. Of a long one it shows the checks that failed, and the end, where the scenario stopped.
func indent(text string) string {
	const most = 12
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	var shown []string
	if cut := len(lines) - most; cut > 0 {
		for _, l := range lines[:cut] {
			if strings.Contains(l, "✗") {
				shown = append(shown, l)
			}
		}
		shown = append(shown, fmt.Sprintf("… of %d lines, the failed checks and the last %d; all are in the log", len(lines), most))
		lines = lines[cut:]
	}
	var b strings.Builder
	for _, l := range append(shown, lines...) {
		fmt.Fprintf(&b, "      %s\n", l)
	}
	return b.String()
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
