package container

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course"
	pid "github.com/nslab/nslab/labs/01-pid"
)

// machineCost is what a virtual machine took to do what a container does: run one program.
type machineCost struct {
	accelerator string
	start       time.Duration // until its first program runs
	memory      int           // of qemu at that moment, in KiB
	call        int64         // one system call in there, in nanoseconds
}

const (
	qemu = "qemu-system-x86_64"

	// noSign is how long a kernel may say nothing. That /dev/kvm is there does not mean that it works: inside other virtual
	// machines a guest may start and then stand still for ever.
	noSign = 1500 * time.Millisecond

	// tooLong is when the comparison is given up.
	tooLong = 8 * time.Second
)

// errNoKernel is a machine without a kernel that could be booted in another.
var errNoKernel = errors.New("no kernel can be read")

// machine boots this program in a virtual machine as the only one there.
func machine(t *course.T, self string) (*machineCost, error) {
	program, err := exec.LookPath(qemu)
	if err != nil {
		return nil, err
	}
	kernel := findKernel()
	if kernel == "" || runtime.GOARCH != "amd64" {
		return nil, errNoKernel
	}
	initrd, err := initramfs(self)
	if err != nil {
		return nil, err
	}
	defer initrd.Close()
	if kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		kvm.Close()
		if m, err := boot(t, program, "kvm", kernel, initrd); err == nil {
			return m, nil
		}
	}
	return boot(t, program, "tcg", kernel, initrd)
}

// findKernel finds the newest kernel of this machine, or the one that ./vm has fetched for its tests.
func findKernel() string {
	for _, pattern := range []string{"/boot/vmlinuz-*", ".cache/vm/kernel/*/boot/vmlinuz-*"} {
		found, _ := filepath.Glob(pattern) // the only error is a bad pattern
		for _, file := range slices.Backward(found) {
			if unix.Access(file, unix.R_OK) == nil {
				return file
			}
		}
	}
	return ""
}

// initramfs packs a root file system of one program, in a file without a name. The format is cpio's "newc", see
// Documentation/driver-api/early-userspace/buffer-format.rst; four records do not need a library, which every start of a
// container would have to load.
func initramfs(self string) (*os.File, error) {
	code, err := os.ReadFile(self)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	record := func(name string, mode, major, minor int, content []byte) {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			0, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name + "\x00")
		b.Write(make([]byte, -b.Len()&3)) // every part begins at a multiple of four
		b.Write(content)
		b.Write(make([]byte, -b.Len()&3))
	}
	record("dev", unix.S_IFDIR|0o755, 0, 0, nil)
	record("dev/console", unix.S_IFCHR|0o600, 5, 1, nil) // the kernel opens it for the program
	record(strings.TrimPrefix(workEntry, "/"), unix.S_IFREG|0o755, 0, 0, code)
	record("TRAILER!!!", 0, 0, 0, nil)

	fd, err := unix.MemfdCreate("initramfs", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initramfs")
	if _, err := b.WriteTo(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// boot starts a machine, reads what it says, and ends it.
func boot(t *course.T, program, accelerator, kernel string, initrd *os.File) (_ *machineCost, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cpu := map[string]string{"kvm": "host", "tcg": "max"}[accelerator]
	cmd := exec.Command(program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-accel", accelerator, "-cpu", cpu, "-smp", "1", "-m", "256",
		"-kernel", kernel, "-initrd", "/proc/self/fd/3",
		"-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1 rdinit="+workEntry+" -- "+inMachine,
		"-chardev", "file,id=console,path=/proc/self/fd/4", "-serial", "chardev:console")
	cmd.ExtraFiles = []*os.File{initrd, w}
	complaint := &bytes.Buffer{}
	cmd.Stderr = complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	p, err := pid.Start(t.Untraced(), pid.Config{}, cmd)
	w.Close() // the machine has it: when it ends, we read the end
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, p.Kill(t.Untraced()))
		if first, _, _ := strings.Cut(complaint.String(), "\n"); err != nil && first != "" {
			err = errors.New(first)
		}
	}()

	m := &machineCost{accelerator: strings.ToUpper(accelerator)}
	r.SetReadDeadline(begin.Add(noSign))
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		switch {
		case strings.Contains(line, "Linux version"):
			r.SetReadDeadline(begin.Add(tooLong))
		case strings.Contains(line, saysHello):
			m.start = time.Since(begin)
			if m.memory, err = anonymous(p.Pid); err != nil {
				return nil, err
			}
		case strings.Contains(line, saysCost):
			if m.call, err = costSaid(line); err != nil || m.memory == 0 {
				return nil, errors.Join(errors.New("the machine speaks in riddles"), err)
			}
			return m, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the machine does not come as far as its first program: %w", err)
		}
		if t.Untraced().Err() != nil {
			return nil, t.Untraced().Err()
		}
	}
}
