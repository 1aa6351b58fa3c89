package stream

import (
	"strings"
	"testing"
)

func TestParseKeys(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "\x10\x11"},
		{"ctrl-p,ctrl-q", "\x10\x11"},
		{"a", "a"},
		{"ctrl-a,b", "\x01b"},
		{"ctrl-z", "\x1a"},
		{"ctrl-@", "\x00"},
		{"ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", "\x1b\x1c\x1d\x1e\x1f"},
		{"DEL,-,A", "\x7f-A"},
	} {
		if got, err := ParseKeys(tt.in); string(got) != tt.want || err != nil {
			t.Errorf("ParseKeys(%q) = %q, %v; want %q", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{",", "ctrl-", "ctrl-A", "ctrl-pp", "ctrl-p,", "ab", "shift-a", "ctrl-1", "\u00e9"} {
		if got, err := ParseKeys(in); err == nil {
			t.Errorf("ParseKeys(%q) = %q; want an error", in, got)
		}
	}
}

func TestKeyFilter(t *testing.T) {
	for _, tt := range []struct {
		keys, in, want string
		detach         bool
	}{
		{"", "pq", "pq", false},
		{"pq", "abc", "abc", false},
		{"pq", "abpq", "ab", true},
		{"pq", "abpqcd", "ab", true},
		{"pq", "p", "p", false},
		{"pq", "ppq", "p", true},
		{"pq", "pppx", "pppx", false},
		{"pp", "pxpp", "px", true},
		{"aab", "aaab", "a", true},
		{"aabaac", "aabaabaac", "aab", true},
		{"abab", "abaabab", "aba", true},
		{"q", "q", "", true},
	} {
		for step := 1; step <= max(1, len(tt.in)); step++ {
			k := keyFilter{keys: []byte(tt.keys)}
			var got strings.Builder
			detach := false
			for i := 0; i < len(tt.in) && !detach; i += step {
				var out []byte
				out, detach = k.feed([]byte(tt.in[i:min(i+step, len(tt.in))]))
				got.Write(out)
			}
			if !detach {
				got.Write(k.rest())
			}
			if got.String() != tt.want || detach != tt.detach {
				t.Errorf("keys %q, typed %q in steps of %d: %q, %v; want %q, %v", tt.keys, tt.in, step, got.String(), detach, tt.want, tt.detach)
			}
		}
	}
}
