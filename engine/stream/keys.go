package stream

import (
	"fmt"
	"strings"
)

// DefaultKeys are the keys that detach from a container with a terminal, as in Docker.
const DefaultKeys = "ctrl-p,ctrl-q"

// ParseKeys reads a list of keys in Docker's form: a character, or ctrl- with a letter or one of @ [ \ ] ^ _, or DEL,
// separated by commas. An empty list is the default, also as in Docker.
func ParseKeys(s string) ([]byte, error) {
	if s == "" {
		s = DefaultKeys
	}
	var keys []byte
	for _, name := range strings.Split(s, ",") {
		key, ok := parseKey(name)
		if !ok {
			return nil, fmt.Errorf("detach keys %q: %q is no key; keys are single characters or ctrl- with one of a-z @ [ \\ ] ^ _", s, name)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parseKey(name string) (byte, bool) {
	if len(name) == 1 {
		return name[0], true
	}
	if name == "DEL" {
		return 127, true
	}
	c, ok := strings.CutPrefix(name, "ctrl-")
	if !ok || len(c) != 1 {
		return 0, false
	}
	// A control character is a capital, or one of its neighbours, less 64.
	switch k := c[0]; {
	case k >= 'a' && k <= 'z':
		return k - 'a' + 1, true
	case k == '@' || k >= '[' && k <= '_':
		return k - '@', true
	}
	return 0, false
}

// keyFilter looks for the keys that detach in what is typed. The start of the sequence is held back until it is clear
// whether it is one, over any number of reads.
type keyFilter struct {
	keys []byte
	held int // this many of the keys have been typed
	out  []byte
}

// feed returns what to pass on, good until the next call, and whether the keys were typed.
func (k *keyFilter) feed(in []byte) (out []byte, detach bool) {
	if len(k.keys) == 0 {
		return in, false
	}
	k.out = k.out[:0]
	for _, c := range in {
		// What is held back is the longest end of the input that is a start of the keys.
		for k.held > 0 && k.keys[k.held] != c {
			n := k.shorter()
			k.out = append(k.out, k.keys[:k.held-n]...)
			k.held = n
		}
		if k.keys[k.held] != c {
			k.out = append(k.out, c)
			continue
		}
		if k.held++; k.held == len(k.keys) {
			k.held = 0
			return k.out, true
		}
	}
	return k.out, false
}

// shorter returns how many of the keys the held ones end with, without being all of them.
func (k *keyFilter) shorter() int {
	held := k.keys[:k.held]
	for n := k.held - 1; n > 0; n-- {
		if string(held[k.held-n:]) == string(k.keys[:n]) {
			return n
		}
	}
	return 0
}

// rest is what was held back when nothing more comes.
func (k *keyFilter) rest() []byte {
	out := k.keys[:k.held]
	k.held = 0
	return out
}
