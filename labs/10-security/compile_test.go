//go:build amd64 || arm64

package security

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	cbpf "golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// machine runs a filter as the kernel does, but for the loads, which x/net's machine makes in network order.
type machine struct{ vm *cbpf.VM }

func newMachine(t testing.TB, f *Filter) machine {
	t.Helper()
	var code []cbpf.Instruction
	for p := f.Program; len(p) > 0; p = p[size:] {
		code = append(code, cbpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(p), Jt: p[2], Jf: p[3], K: binary.NativeEndian.Uint32(p[4:]),
		}.Disassemble())
	}
	vm, err := cbpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

// run returns the answer to a call. x/net's machine returns an int, and cuts it to the packet's length in no case.
func (m machine) run(t testing.TB, audit, number uint32, args [6]uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.BigEndian.PutUint32(data[numberAt:], number)
	binary.BigEndian.PutUint32(data[archAt:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[argumentsAt+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[argumentsAt+8*i+4:], uint32(a>>32))
	}
	ret, err := m.vm.Run(data[:])
	if err != nil {
		t.Fatal(err)
	}
	return uint32(ret)
}

// reading is a profile in the words of which every call can be looked up, for one ABI.
type reading struct {
	s       *specs.LinuxSeccomp
	entries map[uint32][]specs.LinuxSyscall // by number, in the order of the profile
	newest  int64
	narrow  bool
}

func readProfile(s *specs.LinuxSeccomp, a abi) *reading {
	r := &reading{s: s, entries: map[uint32][]specs.LinuxSyscall{}, newest: -1, narrow: a.narrow}
	for _, e := range s.Syscalls {
		for _, name := range e.Names {
			if number, condition, ok := parcel(name, e); ok && a.muxed {
				p := e
				p.Args = []specs.LinuxSeccompArg{condition}
				r.entries[number] = append(r.entries[number], p)
			}
			for _, c := range calls {
				if n := c.numbers[a.column]; c.name == name && n >= 0 {
					number := uint32(n) | a.bit
					r.entries[number] = append(r.entries[number], e)
					r.newest = max(r.newest, int64(number))
				}
			}
		}
	}
	return r
}

// wanted is the answer by the words of the profile, without any cleverness.
func (r *reading) wanted(number uint32, args [6]uint64) uint32 {
	fallback, _ := answer(r.s.DefaultAction, r.s.DefaultErrnoRet)
	first, decided := fallback, false
	for _, e := range r.entries[number] {
		ret, _ := answer(e.Action, e.ErrnoRet)
		switch {
		case ret == fallback:
		case len(e.Args) == 0:
			return ret // wins whatever came before
		case !decided && holdsAll(e.Args, args, r.narrow):
			first, decided = ret, true
		}
	}
	open := slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, r.s.DefaultAction)
	if !decided && r.newest >= 0 && int64(number) > r.newest && !open {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return first
}

func holdsAll(conditions []specs.LinuxSeccompArg, args [6]uint64, narrow bool) bool {
	var seen [6]int
	for _, c := range conditions {
		seen[c.Index]++
	}
	either := slices.Max(seen[:]) > 1
	for _, c := range conditions {
		a := args[c.Index]
		if narrow {
			a, c.Value, c.ValueTwo = a&0xffffffff, c.Value&0xffffffff, c.ValueTwo&0xffffffff
		}
		ok := map[specs.LinuxSeccompOperator]bool{
			specs.OpEqualTo: a == c.Value, specs.OpNotEqual: a != c.Value, specs.OpLessThan: a < c.Value,
			specs.OpLessEqual: a <= c.Value, specs.OpGreaterThan: a > c.Value, specs.OpGreaterEqual: a >= c.Value,
			specs.OpMaskedEqual: a&c.Value == c.ValueTwo&c.Value,
		}[c.Op]
		if ok == either {
			return either
		}
	}
	return !either
}

// interesting are values for arguments that lie on both sides of every comparison, in both halves.
func interesting(entries []specs.LinuxSyscall) []uint64 {
	list := []uint64{0, 1, ^uint64(0), 1 << 32, 0xffffffff}
	for _, e := range entries {
		for _, a := range e.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				list = append(list, v, v-1, v+1, v+1<<32, v-1<<32, v|1<<63, ^v)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// compareAll holds a filter against the words of its profile, for every number of every ABI.
func compareAll(t *testing.T, s *specs.LinuxSeccomp) {
	t.Helper()
	f, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, f)
	for i, a := range abis {
		r := readProfile(s, a)
		check := func(number uint32, args [6]uint64) {
			want := uint32(unix.SECCOMP_RET_KILL_PROCESS)
			if i == 0 || slices.Contains(s.Architectures, a.arch) {
				want = r.wanted(number, args)
			}
			if got := m.run(t, a.audit, number, args); got != want {
				t.Errorf("%s call %d with %#x: %#x; want %#x", a.arch, number, args, got, want)
			}
		}
		for n := range uint32(1100) {
			number := n | a.bit
			check(number, [6]uint64{})
			for _, v := range interesting(r.entries[number]) {
				check(number, [6]uint64{v, v, v, v, v, v})
				check(number, [6]uint64{v, 0, 0, 0, 0, 0})
				check(number, [6]uint64{0, v, 0, 0, 0, 0})
				check(number, [6]uint64{0, 0, v, 0, 0, 0})
			}
		}
	}
	if got := m.run(t, unix.AUDIT_ARCH_S390X, 1, [6]uint64{}); got != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("a call of another machine: %#x; want that it is killed", got)
	}
}

func TestDefaultProfile(t *testing.T) {
	for _, caps := range [][]string{nil, DefaultCapabilities(), KnownCapabilities(), {"CAP_SYS_ADMIN"}} {
		s, err := DefaultProfile(caps)
		if err != nil {
			t.Fatal(err)
		}
		compareAll(t, s)
	}
}

// TestDefaultFilter holds what is on the shelf against a fresh compilation, for every capability that may be there or not.
func TestDefaultFilter(t *testing.T) {
	sets := [][]string{nil, DefaultCapabilities(), KnownCapabilities(), {"CAP_SYS_CHROOT"}}
	for _, c := range KnownCapabilities() {
		with := DefaultCapabilities()
		if i := slices.Index(with, c); i >= 0 {
			with = slices.Delete(with, i, i+1)
		} else {
			with = append(with, c)
		}
		sets = append(sets, with)
	}
	for _, caps := range sets {
		s, err := DefaultProfile(caps)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		if *update && runtime.GOARCH == "amd64" && slices.Equal(caps, DefaultCapabilities()) {
			if err := os.WriteFile("default_amd64.bpf", want.Program, 0o644); err != nil {
				t.Fatal(err)
			}
			t.Skip("written; it is in the next build")
		}
		got, err := DefaultFilter(caps)
		if err != nil {
			t.Fatal(err)
		}
		if got.Flags != want.Flags || !bytes.Equal(got.Program, want.Program) {
			t.Errorf("DefaultFilter(%v) is not what compiling gives", caps)
		}
	}
}

// TestRandomProfiles compiles what nobody would write.
func TestRandomProfiles(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	actions := []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActTrap, specs.ActTrace, specs.ActLog,
	}
	for range 40 {
		s := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions))]}
		for _, a := range abis {
			if r.IntN(2) == 0 {
				s.Architectures = append(s.Architectures, a.arch)
			}
		}
		for range r.IntN(25) {
			e := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))]}
			if r.IntN(3) == 0 {
				n := uint(r.IntN(100))
				e.ErrnoRet = &n
			}
			for range 1 + r.IntN(12) {
				e.Names = append(e.Names, calls[r.IntN(len(calls))].name)
			}
			if r.IntN(2) == 0 {
				for range 1 + r.IntN(3) {
					e.Args = append(e.Args, specs.LinuxSeccompArg{
						Index: uint(r.IntN(3)), Value: r.Uint64() >> r.IntN(64), ValueTwo: r.Uint64() >> r.IntN(64),
						Op: operators[r.IntN(len(operators))],
					})
				}
			}
			s.Syscalls = append(s.Syscalls, e)
		}
		compareAll(t, s)
		if t.Failed() {
			t.Fatalf("%+v", s)
		}
	}
}

func TestDefaultProfileSays(t *testing.T) {
	s, err := DefaultProfile(DefaultCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, f)
	const (
		allow = uint32(unix.SECCOMP_RET_ALLOW)
		eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		nosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	for _, c := range []struct {
		name string
		args [6]uint64
		want uint32
	}{
		{"read", [6]uint64{}, allow},
		{"execve", [6]uint64{}, allow},
		{"mount", [6]uint64{}, eperm},
		{"keyctl", [6]uint64{}, eperm},
		{"unshare", [6]uint64{unix.CLONE_NEWUSER}, eperm},
		{"clone", [6]uint64{unix.CLONE_VM}, allow},
		{"clone", [6]uint64{unix.CLONE_NEWUSER}, eperm},
		{"clone3", [6]uint64{}, nosys},
		{"personality", [6]uint64{0}, allow},
		{"personality", [6]uint64{0xbad}, eperm},
		{"socket", [6]uint64{unix.AF_INET}, allow},
		{"socket", [6]uint64{unix.AF_ALG}, eperm},
		{"socket", [6]uint64{unix.AF_INET | 1<<32}, eperm},
		{"chroot", [6]uint64{}, allow}, // CAP_SYS_CHROOT is among the defaults
		{"settimeofday", [6]uint64{}, eperm},
	} {
		i := slices.IndexFunc(calls[:], func(k call) bool { return k.name == c.name })
		if got := m.run(t, abis[0].audit, uint32(calls[i].numbers[0]), c.args); got != c.want {
			t.Errorf("%s%#x: %#x; want %#x", c.name, c.args, got, c.want)
		}
	}
	if got := m.run(t, abis[0].audit, 1000, [6]uint64{}); got != nosys {
		t.Errorf("a call of the future: %#x; want ENOSYS", got)
	}
}

// TestMultiplexed: what a profile says of connect is true of socketcall(SYS_CONNECT), too, whose arguments nobody sees.
// TestAllows compares with x/net's machine.
func TestAllows(t *testing.T) {
	s, err := DefaultProfile(DefaultCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	f, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	m, allowed := newMachine(t, f), 0
	for number := range uint32(600) {
		for _, arg := range []uint64{0, 1, unix.CLONE_NEWUSER, 0xffffffff, 8} {
			answer := m.run(t, abis[0].audit, number, [6]uint64{arg}) & unix.SECCOMP_RET_ACTION_FULL
			want := answer == unix.SECCOMP_RET_ALLOW || answer == unix.SECCOMP_RET_LOG
			if got := f.Allows(number, arg); got != want {
				t.Errorf("Allows(%d, %#x) = %v; want %v", number, arg, got, want)
			}
			if want {
				allowed++
			}
		}
	}
	if allowed < 1000 || allowed > 2900 {
		t.Errorf("%d of 3000 are allowed: that is no filter", allowed)
	}
	if (&Filter{Program: f.Program[:size]}).Allows(0) {
		t.Error("a program without an end allows")
	}
}

func TestMultiplexed(t *testing.T) {
	if !slices.ContainsFunc(abis[:], func(a abi) bool { return a.muxed }) {
		t.Skip("this architecture has no such calls")
	}
	const allow, refuse = `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [%s]}`,
		`{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [%s]}`
	const on = `, "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]`
	eperm := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	for _, c := range []struct {
		profile, rule string
		number        uint32
		which         uint64
		want          uint32
	}{
		{allow, `{"names": ["connect"], "action": "SCMP_ACT_ERRNO"}`, i386Socketcall, 3, eperm},
		{allow, `{"names": ["connect"], "action": "SCMP_ACT_ERRNO"}`, i386Socketcall, 2, unix.SECCOMP_RET_ALLOW},
		{allow, `{"names": ["semop"], "action": "SCMP_ACT_ERRNO"}`, i386IPC, 1, eperm},
		{allow, `{"names": ["semop"], "action": "SCMP_ACT_ERRNO"}`, i386IPC, 0x10001, eperm},
		{allow, `{"names": ["socket"], "action": "SCMP_ACT_ERRNO"` + on + `}`, i386Socketcall, 1, eperm},
		{refuse, `{"names": ["socket"], "action": "SCMP_ACT_ALLOW"` + on + `}`, i386Socketcall, 1, eperm},
		{refuse, `{"names": ["socket"], "action": "SCMP_ACT_ALLOW"}`, i386Socketcall, 1, unix.SECCOMP_RET_ALLOW},
		{refuse, `{"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"}`, i386Socketcall, 7, unix.SECCOMP_RET_ALLOW},
	} {
		m := newMachine(t, compiled(t, fmt.Sprintf(c.profile, c.rule)))
		if got := m.run(t, unix.AUDIT_ARCH_I386, c.number, [6]uint64{c.which}); got != c.want {
			t.Errorf("%s: call %d(%d): %#x; want %#x", c.rule, c.number, c.which, got, c.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	big := uint(5000)
	for _, c := range []struct {
		profile specs.LinuxSeccomp
		want    error
	}{
		{specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_SHRUG"}, ErrUnknown},
		{specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &big}, unix.ERANGE},
		{specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, errNotify},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"amd64"}}, ErrUnknown},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"FAST"}}, ErrUnknown},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_ALMOST"}}},
		}}, ErrUnknown},
		{specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}},
		}}, unix.ERANGE},
	} {
		_, err := Compile(&c.profile)
		var typed *ProfileError
		if !errors.Is(err, c.want) || !errors.As(err, &typed) {
			t.Errorf("Compile(%+v) = %v; want %v", c.profile, err, c.want)
		}
	}
}

func TestParseProfile(t *testing.T) {
	s, err := ParseProfile([]byte(`{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [
		{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
		{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
		"syscalls": [
		{"name": "mkdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
		{"names": ["sync"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_BOOT"]}},
		{"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "excludes": {"minKernel": "4.8"}}]}`), []string{"CAP_CHOWN"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Syscalls) != 1 || s.Syscalls[0].Names[0] != "mkdir" || *s.Syscalls[0].ErrnoRet != 28 {
		t.Errorf("rules %+v; want only mkdir", s.Syscalls)
	}
	if len(s.Architectures) != len(abis) {
		t.Errorf("architectures %v; want %d", s.Architectures, len(abis))
	}
	compareAll(t, s)
	for _, bad := range []string{
		"", "{", "null", "[]", "{}", `{"defaultAction": 7}`, `{"defaultAction": "SCMP_ACT_ALLOW"} {}`, `{"syscalls": [{"names": ["a"]}]}`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [null]}`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NO"}]}`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "includes": {"minKernel": "new"}}]}`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86"}]}`,
	} {
		s, err := ParseProfile([]byte(bad), nil)
		var typed *ProfileError
		if !errors.As(err, &typed) {
			t.Errorf("ParseProfile(%s) = %v, %v; want a *ProfileError", bad, s, err)
		} else if testing.Verbose() {
			fmt.Println(err)
		}
	}
}

// TestProfileNames holds Docker's names against the tables: one that no architecture has would silently not be allowed.
func TestProfileNames(t *testing.T) {
	s, err := DefaultProfile(KnownCapabilities())
	if err != nil {
		t.Fatal(err)
	}
	var unknown []string
	for _, e := range s.Syscalls {
		for _, n := range e.Names {
			if !slices.ContainsFunc(calls[:], func(c call) bool { return c.name == n }) {
				unknown = append(unknown, n)
			}
		}
	}
	slices.Sort(unknown)
	t.Logf("%d names are unknown here: %v", len(unknown), unknown)
	if len(unknown) > 20 {
		t.Errorf("%d names of Docker's profile are unknown; want few: those of other architectures", len(unknown))
	}
}

func BenchmarkDefaultFilter(b *testing.B) {
	caps := DefaultCapabilities()
	for b.Loop() {
		if _, err := DefaultFilter(caps); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	caps := DefaultCapabilities()
	for b.Loop() {
		s, err := DefaultProfile(caps)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProfileOnly(b *testing.B) {
	caps := DefaultCapabilities()
	for b.Loop() {
		if _, err := DefaultProfile(caps); err != nil {
			b.Fatal(err)
		}
	}
}
