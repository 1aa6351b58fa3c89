package security

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The ways to call an ARM kernel: its own, and that of 32-bit programs.
var abis = [...]abi{
	{arch: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, column: 0},
	{arch: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, column: 1, narrow: true},
}

// defaultProgram is not there: the default is compiled at each start.
const defaultProgram = ""
