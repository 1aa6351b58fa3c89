package security

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nslab/nslab/course/coursetest"
	setns "github.com/nslab/nslab/labs/06-setns"
)

// TestOtherABIs makes the calls of 32-bit programs and of x32 for real: programs of a few instructions that make one call
// with zeros as arguments, and end with its errno as status. What a filter knows only by its 64-bit number would slip
// through here.
func TestOtherABIs(t *testing.T) {
	coursetest.NeedRoot(t)
	s, err := DefaultProfile(DefaultCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	native := *s
	native.Architectures = []specs.Arch{specs.ArchX86_64}
	const (
		unshare386, clone3, unshareX32, future = 310, 435, 1<<30 | 272, 1000
		killed                                 = -1
	)
	dir := t.TempDir()
	for i, c := range []struct {
		what    string
		program []byte
		profile *specs.LinuxSeccomp // nil for none
		want    int
	}{
		{"i386 unshare, no filter", program386(unshare386), nil, 0},
		{"i386 unshare", program386(unshare386), s, int(unix.EPERM)},
		{"i386 clone3", program386(clone3), s, int(unix.ENOSYS)},
		{"i386 1000", program386(future), s, int(unix.ENOSYS)},
		{"i386 unshare, a profile without i386", program386(unshare386), &native, killed},
		{"x86_64 unshare", program64(272), s, int(unix.EPERM)},
		{"x32 unshare", program64(unshareX32), s, int(unix.EPERM)},
		{"x32 unshare, a profile without x32", program64(unshareX32), &native, killed},
	} {
		var f *Filter
		if c.profile != nil {
			if f, err = Compile(c.profile); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, c.program, 0o755); err != nil {
			t.Fatal(err)
		}
		_, ended, err := execute(t, setns.Config{Pdeathsig: unix.SIGKILL}, &specs.Process{NoNewPrivileges: true}, f, path)
		if errors.Is(err, unix.ENOEXEC) {
			t.Logf("%s: this kernel runs no such programs, so nothing can slip through", c.what)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if c.want == killed && ended.Signal() != syscall.SIGSYS || c.want != killed && ended.ExitStatus() != c.want {
			t.Errorf("%s: status %#x; want %d (-1: killed by SIGSYS)", c.what, int(ended), c.want)
		}
	}
}

// program386 is a 32-bit program, loaded at 0x8048000: it makes a call by int $0x80.
func program386(number uint32) []byte {
	var code bytes.Buffer
	code.WriteByte(0xb8) // mov eax, number
	binary.Write(&code, binary.LittleEndian, number)
	code.Write([]byte{
		0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2, // xor ebx, ebx; ecx; edx
		0xcd, 0x80, // int 0x80
		0xf7, 0xd8, 0x89, 0xc3, // neg eax; mov ebx, eax
		0xb8, 1, 0, 0, 0, 0xcd, 0x80, // exit
	})
	const base, header = 0x8048000, 52 + 32
	var b bytes.Buffer
	b.WriteString("\x7fELF\x01\x01\x01" + string(make([]byte, 9)))
	end := uint32(header + code.Len())
	binary.Write(&b, binary.LittleEndian, struct {
		Type, Machine                      uint16
		Version, Entry, Phoff, Shoff, Flag uint32
		Ehsize, Phentsize, Phnum           uint16
		Rest                               [3]uint16
		PType, Offset, Vaddr, Paddr        uint32
		Filesz, Memsz, Flags, Align        uint32
	}{2, 3, 1, base + header, 52, 0, 0, 52, 32, 1, [3]uint16{}, 1, 0, base, base, end, end, 5, 0x1000})
	b.Write(code.Bytes())
	return b.Bytes()
}

// program64 is a 64-bit program, which makes its call by syscall, with any number, and ends as x86_64 does.
func program64(number uint32) []byte {
	var code bytes.Buffer
	code.WriteByte(0xb8)
	binary.Write(&code, binary.LittleEndian, number)
	code.Write([]byte{
		0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2, // xor edi, edi; esi; edx
		0x0f, 0x05, // syscall
		0xf7, 0xd8, 0x89, 0xc7, // neg eax; mov edi, eax
		0xb8, 231, 0, 0, 0, 0x0f, 0x05, // exit_group
	})
	const base, header = 0x400000, 64 + 56
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + string(make([]byte, 9)))
	end := uint64(header + code.Len())
	binary.Write(&b, binary.LittleEndian, struct {
		Type, Machine                       uint16
		Version                             uint32
		Entry, Phoff, Shoff                 uint64
		Flag                                uint32
		Ehsize, Phentsize, Phnum            uint16
		Rest                                [3]uint16
		PType, PFlags                       uint32
		Offset, Vaddr, Paddr, Filesz, Memsz uint64
		Align                               uint64
	}{2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, [3]uint16{}, 1, 5, 0, base, base, end, end, 0x1000})
	b.Write(code.Bytes())
	return b.Bytes()
}
