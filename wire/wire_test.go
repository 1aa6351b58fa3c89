package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

type inner struct {
	A int8
	B *string
}

type everything struct {
	Bool           bool
	Int            int64
	Uint           uint32
	Float          float64
	Text           string
	Bytes          []byte
	List           []inner
	Empty, None    []string
	Table          map[string]struct{}
	Pairs          map[string]int
	Pointer        *inner
	Array          [2]uint
	Time           time.Time
	Any            any
	inner                   // not exported, but for its fields
	Left           *os.File `json:"-"`
	After          string
	AtTheVeryEnd   uintptr
	MapOfNil       map[string]*int
	NestedSlices   [][]string
	PointerToEmpty *struct{}
}

func text(s string) *string { return &s }

func TestRoundTrip(t *testing.T) {
	full := everything{
		Bool: true, Int: math.MinInt64, Uint: math.MaxUint32, Float: -1.5, Text: "a\x00b\n", Bytes: []byte{0, 255},
		List: []inner{{}, {A: -128, B: text("")}, {A: 127}}, Empty: []string{}, Table: map[string]struct{}{"x": {}, "": {}},
		Pairs: map[string]int{"one": 1, "many": -70000}, Pointer: &inner{B: text("b")}, Array: [2]uint{0, 1 << 40},
		Time: time.Date(2024, 2, 29, 1, 2, 3, 4, time.UTC), After: "x", AtTheVeryEnd: math.MaxUint, MapOfNil: map[string]*int{"nil": nil},
		NestedSlices: [][]string{nil, {}, {"a", ""}}, PointerToEmpty: &struct{}{},
	}
	for name, want := range map[string]everything{"full": full, "zero": {}} {
		var b bytes.Buffer
		for _, v := range []any{want, &want} {
			if err := Write(&b, v); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			var got everything
			if err := Read(&b, &got); err != nil {
				t.Fatalf("%s: Read: %v", name, err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: what arrives is\n%+v; want\n%+v", name, got, want)
			}
		}
		if err := Read(&b, new(everything)); err != io.EOF {
			t.Errorf("%s: Read of nothing = %v; want io.EOF", name, err)
		}
	}
}

// TestLeftOut: descriptors do not travel in here, whatever their number.
func TestLeftOut(t *testing.T) {
	b, err := Marshal(&everything{Left: os.Stdin, After: "here"})
	if err != nil {
		t.Fatal(err)
	}
	var got everything
	if err := Unmarshal(b[headLen:], &got); err != nil || got.Left != nil || got.After != "here" {
		t.Errorf("what arrives is %+v, %v; want it without the file", got, err)
	}
	if _, err := Marshal(&everything{Any: 1}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Marshal of an interface = %v; want ErrUnsupported", err)
	}
}

// TestSpec: what a runtime-spec says is the same at the other end.
func TestSpec(t *testing.T) {
	const config = `{"ociVersion":"1.2.0","process":{"terminal":true,"user":{"uid":1,"gid":2,"umask":18,"additionalGids":[3]},
		"args":["sh","-c",""],"env":[],"cwd":"/","capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_CORE","hard":18446744073709551615,"soft":0}],
		"oomScoreAdj":-7},"root":{"path":"/r","readonly":true},"mounts":[{"destination":"/proc","type":"proc","options":["ro"]}],
		"annotations":{"a":"b"},"linux":{"resources":{"memory":{"limit":-1},"devices":[{"allow":false,"access":"rwm"}],"unified":{"x.y":"1\n2"}},
		"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}],"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}]}}}`
	var want, got specs.Spec
	if err := json.Unmarshal([]byte(config), &want); err != nil {
		t.Fatal(err)
	}
	b, err := Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmarshal(b[headLen:], &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("what arrives is\n%+v, %v; want\n%+v", got, err, want)
	}
}

// FuzzUnmarshal: whatever is sent, the answer is a value or an error, and no more memory than the message has.
func FuzzUnmarshal(f *testing.F) {
	whole, _ := Marshal(&everything{List: []inner{{A: 1}}, Table: map[string]struct{}{"x": {}}, Time: time.Unix(1, 2), Text: "abc"})
	f.Add(whole[headLen:])
	f.Add([]byte{5, 3, 'a', 0})
	f.Add([]byte(strings.Repeat("\xff", 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v, again everything
		if Unmarshal(b, &v) != nil {
			return
		}
		b, err := Marshal(&v)
		if err != nil {
			t.Fatal(err)
		}
		if err := Unmarshal(b[headLen:], &again); err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
	})
}

// TestHostile: lengths that are not there.
func TestHostile(t *testing.T) {
	for _, b := range []string{"\xff\xff\xff\xff", "\x05\x00\x00\x00\x01", "\x03\x00\x00\x00\x05\xff\x01", "\x01\x00\x00\x00\x63"} {
		if err := Read(strings.NewReader(b), new(everything)); err == nil {
			t.Errorf("Read(%q) = nil; want an error", b)
		}
	}
}
