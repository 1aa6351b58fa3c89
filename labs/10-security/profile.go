package security

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultProfile is Docker's: a list of the system calls that programs need, about 350 of 480; all others are answered
// with EPERM. Some are on it only with the capability that they take (mount with CAP_SYS_ADMIN), some only with certain
// arguments (clone without new namespaces). capabilities is the bounding set of the container.
func DefaultProfile(capabilities []string) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(specFor(capabilities))
	if err != nil {
		return nil, &ProfileError{Part: "read Docker's default", Err: err}
	}
	return p, nil
}

// ParseProfile reads a profile in Docker's form (--security-opt seccomp=FILE): that of the runtime-spec, with "archMap",
// and with rules that are taken in or left out by capability, architecture or kernel.
func ParseProfile(data []byte, capabilities []string) (*specs.LinuxSeccomp, error) {
	// The library does not expect an empty rule, and takes a file that says nothing for the wish to have no filter.
	var whole seccomp.Seccomp
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, &ProfileError{Part: "parse", Err: err}
	}
	if slices.Contains(whole.Syscalls, nil) {
		return nil, &ProfileError{Part: "parse", Err: errors.New("a rule is null")}
	}
	p, err := seccomp.LoadProfile(string(data), specFor(capabilities))
	if err != nil {
		return nil, &ProfileError{Part: "parse", Err: err}
	}
	if p == nil || p.DefaultAction == "" {
		return nil, &ProfileError{Part: "parse", Err: errors.New("no defaultAction")}
	}
	if _, err := Compile(p); err != nil {
		return nil, err
	}
	return p, nil
}

// specFor is all that the library reads of a container.
func specFor(capabilities []string) *specs.Spec {
	return &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capabilities}}}
}
