package jsonfile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand"
	"reflect"
	"testing"
	"time"

	image "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/monitor"
	"github.com/nslab/nslab/jsonfile"
	container "github.com/nslab/nslab/labs/12-container"
)

type name string

func (n name) MarshalText() ([]byte, error)  { return []byte("<" + n + ">"), nil }
func (n *name) UnmarshalText(b []byte) error { *n = name(b[1 : len(b)-1]); return nil }

type list []string

func (l *list) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, (*[]string)(l)) }

type Embedded struct {
	Deep  int `json:"deep,omitempty"`
	Other string
}

type odd struct {
	Embedded
	Float    float64
	AsString int `json:",string"`
	Named    name
	List     list
	Raw      json.RawMessage `json:",omitempty"`
	Zero     time.Time       `json:",omitzero"`
	Any      any
	Keys     map[int]string
	Bytes    []byte
	//lint:ignore U1000 encoding/json sees it, too, and leaves it out
	hidden int
	Left   chan int `json:"-"`
}

// twice has a field that hides one of an embedded struct, as an image's config has.
type twice struct {
	Embedded
	Second
	Other string
	More  int
}

type Second struct {
	Only bool
}

var types = []reflect.Type{
	reflect.TypeFor[engine.Record](), reflect.TypeFor[specs.Spec](), reflect.TypeFor[container.State](), reflect.TypeFor[monitor.Exit](),
	reflect.TypeFor[monitor.Run](), reflect.TypeFor[image.Index](), reflect.TypeFor[image.Manifest](), reflect.TypeFor[image.Image](),
	reflect.TypeFor[odd](), reflect.TypeFor[twice](), reflect.TypeFor[map[string][]int](), reflect.TypeFor[[2]string](),
}

// TestSame: the same text as encoding/json's, and the same value from it, for whatever is in our files.
func TestSame(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewSource(seed))
	for _, typ := range types {
		for range 200 {
			v := reflect.New(typ)
			fill(r, v.Elem(), 0)
			want, err := json.Marshal(v.Interface())
			if err != nil {
				t.Fatal(err)
			}
			got, err := jsonfile.Marshal(v.Interface())
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("Marshal(%s) =\n%s, %v; want\n%s", typ, got, err, want)
			}
			same(t, typ, want)
			indented, err := jsonfile.MarshalIndent(v.Interface())
			if wanted, _ := json.MarshalIndent(v.Interface(), "", "\t"); err != nil || !bytes.Equal(indented, wanted) {
				t.Fatalf("MarshalIndent(%s) =\n%s, %v; want\n%s", typ, indented, err, wanted)
			}
			same(t, typ, indented)
			for range 5 { // half of a file, or one with something wrong in it
				same(t, typ, want[:r.Intn(len(want))])
				spoilt := bytes.Clone(indented)
				spoilt[r.Intn(len(spoilt))] = `{}[]",:\0n tx-`[r.Intn(14)]
				same(t, typ, spoilt)
			}
		}
	}
}

// same holds what is read against what encoding/json reads.
func same(t *testing.T, typ reflect.Type, text []byte) {
	t.Helper()
	want, got := reflect.New(typ), reflect.New(typ)
	wantErr := json.Unmarshal(text, want.Interface())
	err := jsonfile.Unmarshal(text, got.Interface())
	if fmt.Sprint(err) != fmt.Sprint(wantErr) {
		t.Fatalf("Unmarshal(%s) = %v; want %v:\n%s", typ, err, wantErr, text)
	}
	if err == nil && !reflect.DeepEqual(got.Interface(), want.Interface()) {
		t.Fatalf("Unmarshal(%s) reads\n%+v; want\n%+v\n%s", typ, got.Elem(), want.Elem(), text)
	}
}

func TestByHand(t *testing.T) {
	for _, text := range []string{
		`{"Deep":1}`, `{"DEEP":1,"other":"x"}`, `{"deep":1,"deep":2}`, `{"Bytes":"AA=="}`, `{"Bytes":"A"}`, `{"Bytes":null}`,
		`{"unknown":{"a":[1,{"b":null}]},"deep":3}`, `{"unknown":{"a":[1,{"b":nul}]},"deep":3}`, `{"unknown":],"deep":3}`,
		` { "deep" : 007 } `, `{"deep":+1}`, `{"deep":1e2}`, `{"deep":99999999999999999999}`, `{"deep":1} x`, `{}}`, ``, `null`, `[]`,
		`{"Other":"\u00e9\ud83d\ude00\""}`, `{"Other":"` + "\xff" + `"}`, "{\"Other\":\"a\nb\"}", `{"Keys":{"1":"x"},"AsString":"5","Float":1.5,"Named":"<n>"}`,
		`{"Keys":null,"Any":{"x":1},"Zero":"2024-01-02T03:04:05Z","Raw":[1, 2]}`, `{"List":["a"],"List":["b"]}`, `{"-":"dash","Left":1,"hidden":2}`,
	} {
		same(t, reflect.TypeFor[odd](), []byte(text))
	}
	for _, text := range []string{`{"Other":"outer","deep":1,"Only":true,"More":2}`, `{"only":true}`} {
		same(t, reflect.TypeFor[twice](), []byte(text))
	}
	// What is there already stays, unless the text says something else.
	got, want := odd{Float: 1, Keys: map[int]string{1: "a"}}, odd{Float: 1, Keys: map[int]string{1: "a"}}
	text := []byte(`{"Keys":{"2":"b"},"deep":4}`)
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if err := jsonfile.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Unmarshal reads %+v, %v; want %+v", got, err, want)
	}
}

// fill gives a value something in every second place.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	if r.Intn(2) == 0 && depth > 0 || depth > 12 || !v.CanSet() {
		return
	}
	texts := []string{"", "a", "<b>&", "quote\" \\ \n\x01", "é\u2028", "cgroup2", "null"}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Intn(256) - 128))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		v.SetUint(uint64(r.Intn(256)))
	case reflect.Float64:
		v.SetFloat(float64(r.Intn(1000)) / 8)
	case reflect.String:
		v.SetString(texts[r.Intn(len(texts))])
	case reflect.Interface:
		if v.NumMethod() == 0 {
			v.Set(reflect.ValueOf([]any{true, 1.5, "x", map[string]any{"k": nil}}[r.Intn(4)]))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), depth+1)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes([]byte(`{"raw":[1]}`))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), r.Intn(3), 3))
		for i := range v.Len() {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.Intn(3) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, key, 0)
			fill(r, value, depth+1)
			v.SetMapIndex(key, value)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(r.Int63n(1<<31), r.Int63n(1e9)).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(r, v.Field(i), depth+1)
		}
	}
}
