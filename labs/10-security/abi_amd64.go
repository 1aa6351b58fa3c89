package security

import (
	_ "embed"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The ways to call an x86 kernel: its own; that of 32-bit programs, which syscall(2) reaches by int $0x80 from any
// program; and x32, which most kernels are built without.
var abis = [...]abi{
	{arch: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, column: 0},
	{arch: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, column: 1, narrow: true, muxed: true},
	{arch: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, column: 2, bit: 1 << 30},
}

// defaultProgram is the compiled default, see [DefaultFilter]. It is written by go test -run TestDefaultFilter -update.
//
//go:embed default_amd64.bpf
var defaultProgram string
