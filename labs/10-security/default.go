package security

import (
	"slices"

	"golang.org/x/sys/unix"
)

// DefaultFilter is what [Compile] makes of [DefaultProfile], from the shelf for a container with Docker's capabilities,
// give or take those that the profile does not ask for. To make the profile and to compile it takes a tenth of a
// millisecond once the memory for it is there; a process that has just begun needs three times that.
func DefaultFilter(capabilities []string) (*Filter, error) {
	if defaultProgram != "" && usual(capabilities) {
		return &Filter{Program: []byte(defaultProgram), Flags: unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW}, nil
	}
	p, err := DefaultProfile(capabilities)
	if err != nil {
		return nil, err
	}
	return Compile(p)
}

// usual tells whether the profile for these capabilities is that for Docker's: of those that it asks for, Docker gives
// one. A test holds the list against the profile.
func usual(capabilities []string) bool {
	for _, c := range capabilities {
		switch c {
		case "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE",
			"CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_BPF", "CAP_PERFMON":
			return false
		}
	}
	return slices.Contains(capabilities, "CAP_SYS_CHROOT")
}
