// Vm boots a real kernel in qemu and runs nslab's own suite in it, once for each way in which a machine can have its
// control groups: v2 alone, v1 alone, or both side by side ("hybrid").
//
//	go run ./vm [flags] [LAB|TOPIC|PATTERN]...
//
// A container shares the kernel of its host, so no container can show how nslab fares on another kernel. A virtual machine
// can. What happens, in order:
//
//  1. The kernel and its modules are taken out of a Debian package, which apt fetches and verifies, and which is not
//     installed (kernel.go), or out of a folder.
//  2. A root file system is collected on this machine with lab 04's builder, which finds the libraries of a program without
//     running it, and packed as an initramfs together with nslab and the kernel's modules (initramfs.go, modules.go).
//  3. qemu boots it: with KVM if that really works, which is tried, or else with the processor emulated (qemu.go). The
//     guest's init is this very program (guest.go). It first runs lab 04 on the bare initramfs, where pivot_root(2) is
//     impossible, then moves to a real root on ext4 and runs `nslab test`.
//  4. Results come over a serial port of their own, the kernel's messages over another; both are kept in a file. What they
//     say is judged apart from qemu, by functions that tests can call (outcome.go).
//
// A guest that panics, that says nothing for too long, that fills its disk or that ends before its suite does is reported
// as such, and never passes. qemu ends with this program, however that ends, and leaves no file: the initramfs and the disk
// have no name, and the log has one that is printed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// options are what the command line says.
type options struct {
	modes, kernels []string
	cache, logs    string
	nslab, accel   string
	memory, cpus   int
	silence, total time.Duration
	breakage       string
	junit          string
	patterns       []string
}

// hinted is an error with a remedy.
type hinted struct {
	error
	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func main() {
	if os.Getpid() == 1 {
		guest() // does not return
	}
	err := run(os.Args[1:])
	var h *hinted
	switch {
	case err == nil:
		return
	case errors.Is(err, pflag.ErrHelp):
		os.Exit(0)
	case errors.Is(err, errFailed): // said already
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "vm:", err)
	if errors.As(err, &h) {
		fmt.Fprintln(os.Stderr, "hint:", h.hint)
	}
	os.Exit(1)
}

// errFailed: a machine did not pass.
var errFailed = errors.New("a virtual machine did not pass")

func parse(args []string) (*options, error) {
	o := &options{}
	f := pflag.NewFlagSet("vm", pflag.ContinueOnError)
	f.SortFlags = false
	f.StringSliceVar(&o.modes, "mode", modes, "control groups: v2, v1, hybrid")
	f.StringSliceVar(&o.kernels, "kernel", []string{debianKernel}, "debian (its own), a version (6.12), a package, a folder with boot and lib/modules, or all")
	f.StringVar(&o.nslab, "nslab", "bin/nslab", "the program under test, a static one")
	f.StringVar(&o.cache, "cache", ".cache/vm", "folder for kernels")
	f.StringVar(&o.logs, "log", ".cache/vm/log", "folder for logs")
	f.StringVar(&o.accel, "accel", "auto", "kvm, tcg (emulation), or auto: kvm if it works")
	f.IntVar(&o.memory, "memory", 2048, "of the machine, in MiB")
	f.IntVar(&o.cpus, "cpus", 2, "of the machine")
	f.DurationVar(&o.silence, "silence", 5*time.Minute, "a guest that says nothing for so long hangs")
	f.DurationVar(&o.total, "total", 2*time.Hour, "a guest may take so long in all")
	f.StringVar(&o.junit, "junit", "", "write the results to this file, too, as JUnit has them")
	f.StringVar(&o.breakage, "break", "", "make the guest misbehave: panic, hang, disk or end")
	f.MarkHidden("break")
	f.Usage = func() {
		fmt.Fprintf(os.Stderr, "Usage: vm [flags] [LAB|TOPIC|PATTERN]...\n\nRun nslab's suite in virtual machines.\n\n%s", f.FlagUsages())
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o.patterns = f.Args()
	if len(o.modes) == 0 || len(o.kernels) == 0 { // --mode "": a run of nothing must not pass
		return nil, errors.New("no mode or no kernel is named")
	}
	for _, m := range o.modes {
		if !slices.Contains(modes, m) {
			return nil, &hinted{fmt.Errorf("no mode is called %q", m), strings.Join(modes, ", ")}
		}
	}
	if !slices.Contains([]string{"auto", "kvm", "tcg"}, o.accel) {
		return nil, &hinted{fmt.Errorf("qemu has no accelerator %q here", o.accel), "auto, kvm, tcg"}
	}
	if !slices.Contains(breakages, o.breakage) {
		return nil, &hinted{fmt.Errorf("no way to misbehave is called %q", o.breakage), strings.Join(breakages[1:], ", ")}
	}
	if o.cpus > 255 || o.memory < 512 || o.cpus < 1 || o.silence <= 0 || o.total <= 0 {
		return nil, errors.New("a machine needs 512 MiB or more, 1 to 255 processors, and some time")
	}
	return o, nil
}

func run(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	expected, err := scenarios(ctx, o)
	if err != nil {
		return err
	}
	kernels, err := kernelNames(ctx, o.kernels)
	if err != nil {
		return err
	}
	var all []*Outcome
	for _, name := range kernels {
		k, err := findKernel(ctx, o.cache, name)
		if err != nil {
			return err
		}
		if o.accel, err = accelerator(ctx, o.accel, k); err != nil {
			return err
		}
		outcomes, err := eachMode(ctx, o, k, expected)
		if err != nil {
			return err
		}
		all = append(all, outcomes...)
	}
	if o.junit != "" {
		if err := writeJUnit(o.junit, all); err != nil {
			return err
		}
	}
	if len(all) == 0 {
		return errors.New("no machine was run")
	}
	if slices.ContainsFunc(all, func(out *Outcome) bool { return !out.Passed() }) {
		return errFailed
	}
	return nil
}

// eachMode boots a kernel with each kind of control groups.
func eachMode(ctx context.Context, o *options, k *kernel, expected []string) (all []*Outcome, err error) {
	root, err := collect(ctx, o, k)
	if err != nil {
		return nil, err
	}
	for _, mode := range o.modes {
		if mode != "v2" && k.noV1 {
			fmt.Printf("vm %s · Linux %s · not run: this kernel has no memory controller for control groups v1\n", mode, k.release)
			continue
		}
		out, err := boot(ctx, o, k, mode, root)
		if err == nil && o.accel == "tcg" && out.emulatorsFault() {
			out, err = again(ctx, o, k, mode, root, out)
		}
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, errors.New("interrupted; the machine is ended")
		}
		out.Expected = expected
		fmt.Print(out.Report())
		all = append(all, out)
	}
	return all, nil
}

// again boots a machine that the emulator has tripped up, on one thread. The first one's log is kept beside the other.
func again(ctx context.Context, o *options, k *kernel, mode string, root *content, first *Outcome) (*Outcome, error) {
	kept := first.Log + ".first"
	if err := os.Rename(first.Log, kept); err != nil {
		return nil, err
	}
	fmt.Printf("vm %s · Linux %s · qemu executed a breakpoint that the kernel had removed (%s): once more, on one thread\n", mode, first.Kernel, kept)
	slow := *o
	slow.accel = "tcg,thread=single"
	return boot(ctx, &slow, k, mode, root)
}

// logFile makes the file that keeps all that a machine says.
func logFile(o *options, k *kernel, mode string) (*os.File, error) {
	if err := os.MkdirAll(o.logs, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(o.logs, k.release+"-"+mode+".log"))
}
