package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const qemu = "qemu-system-x86_64"

// diskSize is of the guest's root. The file is sparse: the host gives what is used.
const diskSize = 4 << 30

// Descriptors that qemu is started with, see exec.Cmd.ExtraFiles.
const (
	initrdFD = 3 + iota
	diskFD
	consoleFD
	resultsFD
)

// kernelLine is the kernel's command line. A panic, and an oops too, ends the machine at once (-no-reboot makes the
// restart an end). What protects a real processor from its own speculation only costs time on an emulated one. There the
// kernel distrusts the time stamp counter, too, and asks a timer on the bus instead, by a system call each time; qemu's is
// the same on all processors.
const kernelLine = "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off tsc=reliable rdinit=/init"

// emulatedCPU is all that qemu can emulate but for what promises speed and is slow there: with erms the kernel copies and
// clears memory a byte at a time, and la57 makes page tables a level deeper. With both the suite takes a quarter longer.
const emulatedCPU = "max,erms=off,la57=off"

// commandLine is how qemu is started, without what a probe can do without: see machineDevices.
func commandLine(o *options, k *kernel, line string) []string {
	cpu := emulatedCPU
	if o.accel == "kvm" {
		cpu = "host"
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", o.accel, "-cpu", cpu, "-smp", strconv.Itoa(o.cpus), "-m", strconv.Itoa(o.memory),
		"-kernel", k.image, "-append", line,
	}
}

// machineDevices are the initramfs, the disk and two serial ports, all of them by descriptor: nothing has a name that
// could be left behind.
func machineDevices() []string {
	fd := func(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }
	return []string{
		"-initrd", fd(initrdFD),
		"-drive", "if=virtio,format=raw,cache=unsafe,file=" + fd(diskFD),
		"-chardev", "file,id=console,path=" + fd(consoleFD), "-serial", "chardev:console",
		"-chardev", "file,id=results,path=" + fd(resultsFD), "-serial", "chardev:results",
	}
}

// accelerator chooses one. That /dev/kvm is there does not mean that it works: inside other virtual machines a guest may
// start and then stand still for ever. So the kernel is booted, without a root: a good sign is that it misses that.
func accelerator(ctx context.Context, wanted string, k *kernel) (string, error) {
	if runtime.GOARCH != "amd64" {
		return "", fmt.Errorf("this boots machines of amd64 only, and the programs here are for %s", runtime.GOARCH)
	}
	if _, err := exec.LookPath(qemu); err != nil {
		return "", &hinted{errors.New(qemu + " is not here"), "install qemu-system-x86 (Debian), qemu-kvm (Fedora), or: make test-vm, which does that"}
	}
	if wanted != "auto" {
		return wanted, nil
	}
	why := "there is no /dev/kvm"
	if _, err := os.Stat("/dev/kvm"); err == nil {
		works, err := kvmWorks(ctx, k)
		if err != nil {
			return "", err
		}
		if works {
			return "kvm", nil
		}
		why = "with /dev/kvm the kernel does not get as far as its root"
	}
	fmt.Printf("vm: the processor is emulated, which takes longer: %s\n", why)
	return "tcg", nil
}

// patience is how long a kernel may take to miss its root. With KVM it takes a second; emulated, two.
const patience = 8 * time.Second

func kvmWorks(ctx context.Context, k *kernel) (bool, error) {
	o := &options{accel: "kvm", cpus: 1, memory: 512}
	cmd := exec.Command(qemu, append(commandLine(o, k, kernelLine), "-serial", "stdio")...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	end, err := start(cmd)
	if err != nil {
		return false, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-end:
	case <-timer.C:
	case <-ctx.Done():
	}
	cmd.Process.Kill()
	<-end
	if ctx.Err() != nil {
		return false, errors.New("interrupted")
	}
	return bytes.Contains(said.Bytes(), []byte("Kernel panic - not syncing: VFS")), nil
}

// boot runs one machine to its end, which it sees to, and returns what became of it.
func boot(ctx context.Context, o *options, k *kernel, mode string, root *content) (_ *Outcome, err error) {
	initrd, err := root.pack(config{Mode: mode, Break: o.breakage, Patterns: o.patterns})
	if err != nil {
		return nil, err
	}
	defer initrd.Close()
	log, err := logFile(o, k, mode)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	drive, err := disk(o.cache, diskSize)
	if err != nil {
		return nil, err
	}
	defer drive.Close()
	line := kernelLine
	if mode == "v2" {
		line += " cgroup_no_v1=all"
	}
	m := &machine{out: &Outcome{Mode: mode, Kernel: k.release, Log: log.Name()}, log: log, life: make(chan struct{}, 1)}
	console, err := m.port("console", (*Outcome).Console)
	if err != nil {
		return nil, err
	}
	results, err := m.port("results", (*Outcome).Line)
	if err != nil {
		console.Close()
		return nil, err
	}
	cmd := exec.Command(qemu, append(commandLine(o, k, line), machineDevices()...)...)
	cmd.ExtraFiles = []*os.File{initrd, drive, console, results}
	said := &bytes.Buffer{}
	cmd.Stderr = said
	begin := time.Now()
	fmt.Printf("vm %s · Linux %s · starting, log in %s\n", mode, k.release, log.Name())
	end, err := start(cmd)
	console.Close() // qemu has them; when it ends, the readers see the end
	results.Close()
	if err != nil {
		return nil, err
	}
	m.watch(ctx, o, cmd, end)
	m.readers.Wait()
	m.out.Took = time.Since(begin)
	m.out.Qemu = firstLine(said.String())
	return m.out, nil
}

// start starts a command that dies with this program, even if that is killed. The kernel watches the thread that starts
// the child, not the process, so that thread waits for it. The child has a process group of its own: Ctrl-C is for us, and
// we end it.
func start(cmd *exec.Cmd) (end chan struct{}, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	end = make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
		close(end)
	}()
	return end, <-started
}

// machine is one that runs.
type machine struct {
	mu      sync.Mutex
	out     *Outcome
	log     io.Writer
	life    chan struct{} // something was said
	readers sync.WaitGroup
}

// port makes a pipe for a serial port, and reads it to its end.
func (m *machine) port(name string, take func(*Outcome, string)) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	m.readers.Go(func() {
		defer r.Close()
		lines := bufio.NewReaderSize(r, 1<<16)
		for {
			// A line without end is cut: a guest that has gone mad must not fill our memory.
			line, err := readLine(lines, 4<<20)
			if line != "" {
				m.mu.Lock()
				fmt.Fprintf(m.log, "%s %s\n", name, line)
				take(m.out, line)
				m.mu.Unlock()
				select {
				case m.life <- struct{}{}:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	})
	return w, nil
}

// readLine reads a line, or limit bytes, without the line's end.
func readLine(r *bufio.Reader, limit int) (string, error) {
	var line []byte
	for len(line) < limit {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return string(bytes.TrimRight(line, "\r\n")), err
		}
	}
	return string(line), nil
}

// watch waits for the end of the machine, and ends it where it does not end by itself.
func (m *machine) watch(ctx context.Context, o *options, cmd *exec.Cmd, end <-chan struct{}) {
	total := time.NewTimer(o.total)
	defer total.Stop()
	silence := time.NewTimer(o.silence)
	defer silence.Stop()
	for {
		why := ""
		select {
		case <-end:
			return
		case <-m.life:
			silence.Reset(o.silence)
			continue
		case <-ctx.Done():
			why = "interrupted"
		case <-silence.C:
			why = fmt.Sprintf("it said nothing for %s", o.silence)
		case <-total.C:
			why = fmt.Sprintf("it took longer than %s", o.total)
		}
		m.mu.Lock()
		m.out.Killed = why
		m.mu.Unlock()
		cmd.Process.Kill()
		<-end
		return
	}
}
