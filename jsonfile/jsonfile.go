// Package jsonfile reads and writes the small JSON files in which nslab keeps what it knows.
//
// It is encoding/json for a process that lives for milliseconds. That package takes a type apart, with all the types in it,
// before it writes or reads the first byte of one, since a server does it once for millions of values: a millisecond for
// what a container's record consists of. A command that reads four files and writes five pays for that, and never earns
// anything. So here the value is walked along, and a field is looked at when it is there.
//
// The text is the same to the byte, and what is read is the same, too. Whatever is not plain (options of tags, methods of types,
// a syntax error) is left to encoding/json, so there is one set of rules, and one of messages. A test holds both together.
package jsonfile

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// errOther is what this package leaves to encoding/json.
var errOther = errors.New("not plain")

// Marshal is json.Marshal.
func Marshal(v any) ([]byte, error) {
	b, err := appendValue(make([]byte, 0, 4096), reflect.ValueOf(v))
	if err != nil {
		return json.Marshal(v)
	}
	return b, nil
}

// MarshalIndent is json.MarshalIndent with one tab for each level.
func MarshalIndent(v any) ([]byte, error) {
	b, err := Marshal(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Grow(2 * len(b))
	err = json.Indent(&out, b, "", "\t")
	return out.Bytes(), err
}

// field is what a struct's field is called in JSON, and when it is left out.
type field struct {
	name                string
	skip, inline        bool
	omitEmpty, omitZero bool
}

func fieldOf(f *reflect.StructField) (field, error) {
	tag, tagged := f.Tag.Lookup("json")
	if tag == "-" {
		return field{skip: true}, nil
	}
	name, options, _ := strings.Cut(tag, ",")
	if f.Anonymous && name == "" {
		if f.Type.Kind() != reflect.Struct { // a pointer to one need not be there
			return field{}, errOther
		}
		return field{inline: true}, nil
	}
	if !f.IsExported() {
		return field{skip: true}, nil
	}
	d := field{name: name}
	if name == "" {
		d.name = f.Name
	}
	if tagged && options != "" {
		for o := range strings.SplitSeq(options, ",") {
			switch o {
			case "omitempty":
				d.omitEmpty = true
			case "omitzero":
				d.omitZero = true
			default:
				return field{}, errOther
			}
		}
	}
	return d, nil
}

// own tells whether a type has a text of its own, made by one of its methods.
func own(t reflect.Type) bool {
	if t.PkgPath() == "" { // it has no name, or is one of Go's own
		return false
	}
	p := reflect.PointerTo(t)
	if p.NumMethod() == 0 {
		return false
	}
	for _, i := range []reflect.Type{
		reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler](),
		reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	} {
		if p.Implements(i) {
			return true
		}
	}
	return false
}

func appendValue(b []byte, v reflect.Value) ([]byte, error) {
	if !v.IsValid() {
		return append(b, "null"...), nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return appendValue(b, v.Elem())
	case reflect.Interface:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return appendValue(b, v.Elem())
	}
	if own(v.Type()) {
		if t, ok := v.Interface().(time.Time); ok {
			text, err := t.MarshalJSON()
			return append(b, text...), err
		}
		return nil, errOther
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Slice:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b = append(b, '"')
			b = base64.StdEncoding.AppendEncode(b, v.Bytes())
			return append(b, '"'), nil
		}
		return appendList(b, v)
	case reflect.Array:
		return appendList(b, v)
	case reflect.Map:
		return appendMap(b, v)
	case reflect.Struct:
		b, _, err := appendFields(append(b, '{'), v, true)
		return append(b, '}'), err
	}
	return nil, errOther
}

func appendString(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			text, err := json.Marshal(s)
			return append(b, text...), err
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), nil
}

func appendList(b []byte, v reflect.Value) (_ []byte, err error) {
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendValue(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendMap(b []byte, v reflect.Value) (_ []byte, err error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	if k := v.Type().Key(); k.Kind() != reflect.String || own(k) {
		return nil, errOther
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendString(b, k.String()); err != nil {
			return nil, err
		}
		if b, err = appendValue(append(b, ':'), v.MapIndex(k)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendFields writes a struct's fields; first tells that none was written before.
func appendFields(b []byte, v reflect.Value, first bool) (_ []byte, _ bool, err error) {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		f, err := fieldOf(&sf)
		if err != nil {
			return nil, false, err
		}
		at := v.Field(i)
		if f.inline {
			if ambiguous(t) {
				return nil, false, errOther
			}
			if b, first, err = appendFields(b, at, first); err != nil {
				return nil, false, err
			}
			continue
		}
		if f.skip || f.omitEmpty && empty(at) || f.omitZero && at.IsZero() {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		if b, err = appendString(b, f.name); err != nil {
			return nil, false, err
		}
		if b, err = appendValue(append(b, ':'), at); err != nil {
			return nil, false, err
		}
	}
	return b, first, nil
}

// ambiguous tells whether two fields of a struct have one name, since one is that of a struct inside: there are rules for that.
func ambiguous(t reflect.Type) bool {
	names := namesOf(t, nil)
	slices.Sort(names)
	return len(slices.Compact(names)) < len(names)
}

func namesOf(t reflect.Type, list []string) []string {
	for i := range t.NumField() {
		sf := t.Field(i)
		switch f, err := fieldOf(&sf); {
		case err != nil || f.skip:
		case f.inline:
			list = namesOf(sf.Type, list)
		default:
			list = append(list, f.name)
		}
	}
	return list
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}
