package security

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// program is a filter while it is written, from its end to its beginning.
//
// Why backwards: the machine only jumps forward, and a conditional jump at most 255 instructions far. Written from the
// end, every place that is jumped to exists already, so its distance is known, and one that is too far gets a longer jump
// in between. A position is the number of instructions from there to the end of the program.
//
// The form is a binary search. Libraries write one comparison after the other, up to 350 of them for the last call; here
// it takes nine. Since Linux 5.11 it matters less: for each call that is allowed whatever its arguments are, the kernel
// finds that out once, when the filter is loaded, and does not run the program for it again.
type program struct {
	*rulebook
	rules    []rule // of the ABI that is written
	code     []unix.SockFilter
	fallback uint32
	beyond   uint32         // the answer to calls newer than the profile
	returns  map[uint32]int // the last return of each answer
	narrow   bool           // the arguments have 32 bits
}

// Where the parts of struct seccomp_data are, and the longest program that the kernel takes.
const (
	numberAt    = 0
	archAt      = 4
	argumentsAt = 16
	longest     = 4096 // BPF_MAXINSNS
)

// write writes the whole program. The first ABI is the machine's own.
func (p *program) write(chosen []abi) ([]byte, error) {
	p.returns = map[uint32]int{}
	p.code = make([]unix.SockFilter, 0, 1024)
	entries := make([]int, len(chosen))
	for i := len(chosen) - 1; i >= 0; i-- {
		p.narrow, p.rules = chosen[i].narrow, p.rulebook.rules[i]
		entries[i] = p.search(p.ranges(chosen[i].bit, p.newest[i]))
	}
	// A call by another ABI is an attack, or a program that can't work here.
	next := p.answer(unix.SECCOMP_RET_KILL_PROCESS)
	foreign := next
	for i := len(chosen) - 1; i >= 0; i-- {
		a := chosen[i]
		if a.bit != 0 {
			continue // is found by the ABI that it shares the audit value with
		}
		next = p.branch(unix.BPF_JEQ, a.audit, p.start(a, chosen, entries, foreign), next)
	}
	p.load(archAt)
	if len(p.code) > longest {
		return nil, &ProfileError{Part: "compile", Err: fmt.Errorf("%d instructions, the kernel takes %d", len(p.code), longest)}
	}
	slices.Reverse(p.code)
	return raw(p.code), nil
}

// start writes where the calls of one ABI begin: the number is loaded, and looked at. entries are the searches of all.
func (p *program) start(a abi, chosen []abi, entries []int, foreign int) int {
	entry := entries[slices.IndexFunc(chosen, func(c abi) bool { return c.arch == a.arch })]
	sibling := slices.IndexFunc(abis[:], func(c abi) bool { return c.audit == a.audit && c.bit != 0 })
	if sibling < 0 {
		p.add(unix.BPF_JMP|unix.BPF_JA, uint32(len(p.code)-entry))
		return p.load(numberAt)
	}
	// x32 shares the audit value: bit 30 of the number tells it apart.
	other := foreign
	if i := slices.IndexFunc(chosen, func(c abi) bool { return c.arch == abis[sibling].arch }); i >= 0 {
		other = entries[i]
	}
	p.branch(unix.BPF_JGE, abis[sibling].bit, other, entry)
	return p.load(numberAt)
}

// span is a range of numbers that are answered alike: from first up to the next span.
type span struct {
	first    uint32
	fixed    uint32 // the answer, if there are no rules
	from, to uint32 // which rules
}

// ranges cuts all numbers from the first one on into spans.
func (p *program) ranges(first uint32, newest int64) []span {
	spans := make([]span, 1, 400)
	spans[0] = span{first: first, fixed: p.fallback}
	add := func(s span) {
		if last := len(spans) - 1; spans[last].first == s.first {
			spans = spans[:last] // was empty
		}
		if n := len(spans); n > 0 && s.from == s.to && spans[n-1].from == spans[n-1].to && s.fixed == spans[n-1].fixed {
			return // goes on
		}
		spans = append(spans, s)
	}
	for from := 0; from < len(p.rules); {
		s := span{first: p.rules[from].number, from: uint32(from)}
		to, always := from, false
		for ; to < len(p.rules) && p.rules[to].number == s.first; to++ {
			if r := p.rules[to]; r.given == 0 && !always {
				s.fixed, always = r.answer, true
			}
		}
		s.to = uint32(to)
		if always {
			s.from = s.to
		}
		add(s)
		add(span{first: s.first + 1, fixed: p.fallback})
		from = to
	}
	if newest >= 0 {
		add(span{first: uint32(newest) + 1, fixed: p.beyond})
	}
	return spans
}

// search writes the binary search over spans, and returns where it begins.
func (p *program) search(spans []span) int {
	if len(spans) == 1 {
		if s := spans[0]; s.from != s.to {
			return p.conditional(p.rules[s.from:s.to])
		}
		return p.answer(spans[0].fixed)
	}
	middle := len(spans) / 2
	right := p.search(spans[middle:])
	left := p.search(spans[:middle])
	return p.branch(unix.BPF_JGE, spans[middle].first, right, left)
}

// conditional writes the rules for one call: the answer of the first whose conditions all hold, else the default.
func (p *program) conditional(rules []rule) int {
	next := p.answer(p.fallback)
	for _, r := range slices.Backward(rules) {
		yes := p.answer(r.answer)
		for _, c := range slices.Backward(p.conditions[r.given]) {
			yes = p.condition(c, yes, next)
		}
		next = yes
	}
	return next
}

// condition writes one comparison of an argument. Arguments have 64 bits, the machine 32: the high half is compared
// first. Whoever compares only the low one lets through what differs in the other. A 32-bit program has no other, so for
// it a value like -1 is cut as well.
func (p *program) condition(c specs.LinuxSeccompArg, yes, no int) int {
	high, low := uint32(c.Value>>32), uint32(c.Value)
	switch c.Op {
	case specs.OpNotEqual:
		return p.compare(c.Index, unix.BPF_JEQ, high, low, no, yes, yes)
	case specs.OpGreaterThan:
		return p.compare(c.Index, unix.BPF_JGT, high, low, yes, no, no)
	case specs.OpGreaterEqual:
		return p.compare(c.Index, unix.BPF_JGE, high, low, yes, no, no)
	case specs.OpLessThan:
		return p.compare(c.Index, unix.BPF_JGE, high, low, no, yes, yes)
	case specs.OpLessEqual:
		return p.compare(c.Index, unix.BPF_JGT, high, low, no, yes, yes)
	case specs.OpMaskedEqual: // Value is the mask, ValueTwo what must be left
		want := c.ValueTwo & c.Value
		p.branch(unix.BPF_JEQ, uint32(want), yes, no)
		p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, low)
		lower := p.load(argumentAt(c.Index))
		if p.narrow {
			return lower
		}
		p.branch(unix.BPF_JEQ, uint32(want>>32), lower, no)
		p.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, high)
		return p.load(argumentAt(c.Index) + 4)
	}
	return p.compare(c.Index, unix.BPF_JEQ, high, low, yes, no, no)
}

// compare compares an argument with a number: op on the low half where the high halves are equal. Where they are not,
// greater is where to go if the argument's is the greater one, else less.
func (p *program) compare(index uint, op uint16, high, low uint32, yes, no, less int) int {
	greater := yes
	if op == unix.BPF_JEQ {
		greater = less
	}
	p.branch(op, low, yes, no)
	lower := p.load(argumentAt(index))
	switch {
	case p.narrow:
		return lower
	case greater == less:
		p.branch(unix.BPF_JEQ, high, lower, less)
	default:
		different := p.branch(unix.BPF_JGT, high, greater, less)
		p.branch(unix.BPF_JEQ, high, lower, different)
	}
	return p.load(argumentAt(index) + 4)
}

// argumentAt is where the low half of an argument is; both architectures are little-endian.
func argumentAt(index uint) uint32 { return uint32(argumentsAt + 8*index) }

// answer returns the place of a return with this answer: the last one, if it is near, or a new one.
func (p *program) answer(value uint32) int {
	if at, ok := p.returns[value]; ok && len(p.code)-at < 100 {
		return at
	}
	p.returns[value] = p.add(unix.BPF_RET|unix.BPF_K, value)
	return p.returns[value]
}

// load writes the loading of a word of struct seccomp_data.
func (p *program) load(offset uint32) int { return p.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset) }

// add writes an instruction in front of all others, and returns its place.
func (p *program) add(code uint16, k uint32) int {
	p.code = append(p.code, unix.SockFilter{Code: code, K: k})
	return len(p.code)
}

// branch writes a conditional jump to one of two places.
func (p *program) branch(op uint16, k uint32, yes, no int) int {
	yes = p.near(yes)
	no = p.near(no)
	at := p.add(unix.BPF_JMP|op|unix.BPF_K, k)
	p.code[at-1].Jt, p.code[at-1].Jf = uint8(at-1-yes), uint8(at-1-no)
	return at
}

// near returns a place that leads to this one, and that a conditional jump reaches even if another long jump is put in
// front of it.
func (p *program) near(place int) int {
	const reach = 254
	if distance := len(p.code) - place; distance > reach {
		return p.add(unix.BPF_JMP|unix.BPF_JA, uint32(distance))
	}
	return place
}
