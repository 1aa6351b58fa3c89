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

// rule is what the profile says of a call: under these conditions, all of them, this is the answer.
type rule struct {
	number     uint32
	conditions []specs.LinuxSeccompArg
	answer     uint32 // SECCOMP_RET_*, with its data
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
		return nil, &ProfileError{What: "compile", Err: fmt.Errorf("%w architecture", ErrUnknown)}
	}
	if s.ListenerPath != "" {
		return nil, &ProfileError{What: "listenerPath", Name: s.ListenerPath, Err: errNotify}
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
	rules, newest, err := sortRules(s.Syscalls, fallback, chosen)
	if err != nil {
		return nil, err
	}
	beyond := uint32(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS))
	switch s.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace: // a tracer knows better what a new call is
		beyond = fallback
	}
	p := &program{fallback: fallback, beyond: beyond}
	code, err := p.write(chosen, rules, newest)
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
			return 0, &ProfileError{What: "flag", Name: string(name), Err: ErrUnknown}
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
			return nil, &ProfileError{What: "architecture", Name: string(a), Err: ErrUnknown}
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
			return 0, &ProfileError{What: "errnoRet", Name: fmt.Sprint(*errno), Err: unix.ERANGE}
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
		return 0, &ProfileError{What: "action", Name: string(action), Err: errNotify}
	}
	return 0, &ProfileError{What: "action", Name: string(action), Err: ErrUnknown}
}

// sortRules turns names into numbers: for each ABI the rules by number, those for one call in the order of the profile.
// newest is the greatest number that the profile names at all, -1 for none.
func sortRules(list []specs.LinuxSyscall, fallback uint32, chosen []abi) (rules [][]rule, newest []int64, err error) {
	rules, newest = make([][]rule, len(chosen)), slices.Repeat([]int64{-1}, len(chosen))
	for i := range rules {
		rules[i] = make([]rule, 0, len(calls))
	}
	for _, entry := range list {
		ret, err := answer(entry.Action, entry.ErrnoRet)
		if err != nil {
			return nil, nil, err
		}
		sets, err := conditionSets(entry.Args)
		if err != nil {
			return nil, nil, err
		}
		if ret == fallback {
			sets = nil // happens anyhow; but the names are known
		}
		for _, name := range entry.Names {
			at, ok := slices.BinarySearchFunc(calls[:], name, func(c call, n string) int { return strings.Compare(c.name, n) })
			for i, a := range chosen {
				if ok && calls[at].numbers[a.column] >= 0 {
					number := uint32(calls[at].numbers[a.column]) | a.bit
					newest[i] = max(newest[i], int64(number))
					for _, conditions := range sets {
						rules[i] = append(rules[i], rule{number, conditions, ret})
					}
				}
				if number, conditions, ok := parcel(name, entry); ok && a.muxed && ret != fallback {
					rules[i] = append(rules[i], rule{number, conditions, ret})
				}
			}
		}
	}
	for i := range rules {
		rules[i] = sorted(rules[i])
	}
	return rules, newest, nil
}

// sorted sorts rules by number, those for one call as they came. To sort plain numbers takes a tenth of the time that a
// comparing function does, and this is on the way of every start.
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
			return nil, &ProfileError{What: "argument", Name: fmt.Sprint(a.Index), Err: unix.ERANGE}
		}
		if !slices.Contains(operators, a.Op) {
			return nil, &ProfileError{What: "operator", Name: string(a.Op), Err: ErrUnknown}
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
