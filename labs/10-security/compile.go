package security

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// abi is one way to call the kernel. A 64-bit kernel answers to several, each with numbers of its own: number 59 is
// execve for x86_64 and oldolduname for i386. A filter that looked at the number alone would be no filter.
type abi struct {
	arch   specs.Arch
	audit  uint32 // what struct seccomp_data says in "arch"
	column int    // of the table of calls
	narrow bool   // its arguments have 32 bits
	muxed  bool   // some calls are numbers of another, see parcel
	bit    uint32 // what is added to the numbers: x32 is x86_64 with bit 30, under the same audit value
}

// call is a line of the table of calls: its number in each ABI of this architecture, -1 where there is none.
type call struct {
	name    string
	numbers [len(abis)]int32
}

// native tells whether the machine's own ABI has the call.
func (c call) native() bool {
	n := c.numbers[:]
	return len(n) > 0 && n[0] >= 0
}

// rule is what the profile says of a call: under these conditions, all of them, this is the answer.
type rule struct {
	number uint32
	answer uint32 // SECCOMP_RET_*, with its data
	given  uint32 // which of the conditions in a rulebook; 0 for none
}

// rulebook is a profile in numbers. It is made at every start of a container, so it is kept small: what takes the time
// is not to compute it, but to touch fresh memory.
type rulebook struct {
	conditions [][]specs.LinuxSeccompArg // the first is empty
	rules      [][]rule                  // for each ABI; sorted by number, those for one call in the order of the profile
	newest     []int64                   // for each ABI the greatest number that the profile names at all, -1 for none
}

// Compile makes the kernel's program of a profile.
//
// It does what runc and libseccomp do, whose habits users know: names that this architecture does not have are skipped;
// of several rules for a call one without conditions wins, else the first whose conditions hold; a rule that says what
// happens anyhow does not count. Calls of an architecture that the profile does not list kill the process. And calls
// that are newer than everything the profile names are answered with ENOSYS whatever the default is, unless that allows
// them: a C library that tries a new call falls back to an old one on ENOSYS, and gives up on EPERM.
func Compile(s *specs.LinuxSeccomp) (*Filter, error) {
	if len(abis) == 0 {
		return nil, &ProfileError{Part: "compile", Err: fmt.Errorf("%w architecture", ErrUnknown)}
	}
	if s.ListenerPath != "" {
		return nil, &ProfileError{Part: "listenerPath", Name: s.ListenerPath, Err: errNotify}
	}
	flags, err := compileFlags(s.Flags)
	if err != nil {
		return nil, err
	}
	chosen, err := chooseABIs(s.Architectures)
	if err != nil {
		return nil, err
	}
	fallback, err := answer(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	book, err := readRules(s.Syscalls, fallback, chosen)
	if err != nil {
		return nil, err
	}
	beyond := uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	switch s.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace: // a tracer knows better what a new call is
		beyond = fallback
	}
	p := &program{rulebook: book, fallback: fallback, beyond: beyond}
	code, err := p.write(chosen)
	if err != nil {
		return nil, err
	}
	return &Filter{Program: code, Flags: flags}, nil
}

// compileFlags turns the flags of the runtime-spec into those of seccomp(2). Without any, speculation is left on, as runc
// does: from 4.17 to 5.15 a filter switched it off for the process, which cost more than the filter.
func compileFlags(list []specs.LinuxSeccompFlag) (uint32, error) {
	if list == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	var flags uint32
	for _, name := range list {
		i := slices.IndexFunc(filterFlags[:], func(f filterFlag) bool { return f.name == string(name) })
		if i < 0 {
			return 0, &ProfileError{Part: "flag", Name: string(name), Err: ErrUnknown}
		}
		flags |= filterFlags[i].flag
	}
	return flags, nil
}

// chooseABIs are the ABIs that the profile is for: those it lists, and always our own. One that is unknown is an error;
// one of another machine is skipped, since profiles list them all.
func chooseABIs(list []specs.Arch) ([]abi, error) {
	for _, a := range list {
		if !strings.HasPrefix(string(a), "SCMP_ARCH_") {
			return nil, &ProfileError{Part: "architecture", Name: string(a), Err: ErrUnknown}
		}
	}
	var chosen []abi
	for i, a := range abis {
		if i == 0 || slices.Contains(list, a.arch) {
			chosen = append(chosen, a)
		}
	}
	return chosen, nil
}

// errNotify is why a filter is refused that hands calls to another process.
var errNotify = fmt.Errorf("handing calls to another process is not supported")

// answer is what the filter returns for an action. seccomp(2) lists them.
func answer(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if *errno > 4095 { // MAX_ERRNO: the kernel would cut it without a word
			return 0, &ProfileError{Part: "errnoRet", Name: fmt.Sprint(*errno), Err: unix.ERANGE}
		}
		data = uint32(*errno)
	}
	switch action {
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return 0, &ProfileError{Part: "action", Name: string(action), Err: errNotify}
	}
	return 0, &ProfileError{Part: "action", Name: string(action), Err: ErrUnknown}
}

// readRules turns names into numbers.
func readRules(list []specs.LinuxSyscall, fallback uint32, chosen []abi) (*rulebook, error) {
	r := &rulebook{
		conditions: make([][]specs.LinuxSeccompArg, 1), rules: make([][]rule, len(chosen)),
		newest: slices.Repeat([]int64{-1}, len(chosen)),
	}
	for i := range r.rules {
		r.rules[i] = make([]rule, 0, len(calls))
	}
	for _, entry := range list {
		if err := r.read(entry, fallback, chosen); err != nil {
			return nil, err
		}
	}
	for i := range r.rules {
		r.rules[i] = sorted(r.rules[i])
	}
	return r, nil
}

// read enters one entry of the profile.
func (r *rulebook) read(entry specs.LinuxSyscall, fallback uint32, chosen []abi) error {
	ret, err := answer(entry.Action, entry.ErrnoRet)
	if err != nil {
		return err
	}
	sets, err := conditionSets(entry.Args)
	if err != nil {
		return err
	}
	first := uint32(0)
	if len(entry.Args) > 0 {
		first = uint32(len(r.conditions))
		r.conditions = append(r.conditions, sets...)
	}
	counts := ret != fallback // else it happens anyhow; but the names are known
	at := 0
	for _, name := range entry.Names {
		var ok bool
		at, ok = find(name, at)
		for i, a := range chosen {
			if ok && calls[at].numbers[a.column] >= 0 {
				number := uint32(calls[at].numbers[a.column]) | a.bit
				r.newest[i] = max(r.newest[i], int64(number))
				for j := range uint32(len(sets)) {
					if counts {
						r.rules[i] = append(r.rules[i], rule{number, ret, first + j})
					}
				}
			}
			if a.muxed && counts {
				if number, condition, ok := parcel(name, entry); ok {
					r.rules[i] = append(r.rules[i], rule{number, ret, uint32(len(r.conditions))})
					r.conditions = append(r.conditions, []specs.LinuxSeccompArg{condition})
				}
			}
		}
	}
	return nil
}

// find looks a call up in the table, or says where it would be. Profiles are mostly sorted as the table is, so the next
// name is likely to be a few lines behind the last, which stood at this place.
func find(name string, last int) (at int, ok bool) {
	for i := last; i < min(last+8, len(calls)); i++ {
		if calls[i].name == name {
			return i, true
		}
	}
	return slices.BinarySearchFunc(calls[:], name, func(c call, n string) int { return strings.Compare(c.name, n) })
}

// sorted sorts rules by number, those for one call as they came. To sort plain numbers takes a tenth of the time that a
// comparing function does.
func sorted(rules []rule) []rule {
	keys := make([]uint64, len(rules))
	for i, r := range rules {
		keys[i] = uint64(r.number)<<32 | uint64(i)
	}
	slices.Sort(keys)
	out := make([]rule, len(rules))
	for i, k := range keys {
		out[i] = rules[uint32(k)]
	}
	return out
}

// conditionSets splits the conditions of a rule into alternatives. All must hold; but if two look at the same argument,
// each counts alone: so did the first runc, and profiles rely on it.
func conditionSets(args []specs.LinuxSeccompArg) ([][]specs.LinuxSeccompArg, error) {
	var seen [6]bool
	twice := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, &ProfileError{Part: "argument", Name: fmt.Sprint(a.Index), Err: unix.ERANGE}
		}
		if !slices.Contains(operators, a.Op) {
			return nil, &ProfileError{Part: "operator", Name: string(a.Op), Err: ErrUnknown}
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
	}
	if !twice {
		return [][]specs.LinuxSeccompArg{args}, nil
	}
	var sets [][]specs.LinuxSeccompArg
	for i := range args {
		sets = append(sets, args[i:i+1])
	}
	return sets, nil
}

var operators = []specs.LinuxSeccompOperator{
	specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
	specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
}

// raw turns instructions into the bytes of struct sock_filter.
func raw(code []unix.SockFilter) []byte {
	out := make([]byte, 0, len(code)*size)
	for _, c := range code {
		out = binary.NativeEndian.AppendUint16(out, c.Code)
		out = append(out, c.Jt, c.Jf)
		out = binary.NativeEndian.AppendUint32(out, c.K)
	}
	return out
}
