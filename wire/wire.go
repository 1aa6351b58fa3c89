// Package wire hands a Go value from one process of nslab to another.
//
// Both ends are the same program, so a type is its own description: nothing on the way needs names, versions or a schema.
// A struct is its fields that are not zero, each behind the distance to the one before; a number is as long as it has to be.
//
// Why not encoding/json? A process that sees a type for the first time must take it apart, with all the types in it, before it
// can write a single byte: 0.8 ms for a runtime-spec, most of which is about Windows and never used. A server does that
// once. Each start of a container has two processes that are in a hurry, and the same again in each of them was a
// fifth of all that a start cost. So here nothing is prepared and nothing kept: the value is walked along, and what is not
// there costs nothing.
//
// What is on disk stays JSON: people read it, and so does the nslab of next year.
//
// The limits: a pointer twice in a value is two values at the other end, and a cycle never ends. Fields that are not exported,
// or that JSON is told to leave out (`json:"-"`), are left out. Interfaces, functions and channels that are not nil are an error.
package wire

import (
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
)

// ErrFormat is what another program has sent, or half of something.
var ErrFormat = errors.New("not a value that nslab has sent")

// maxLen is the longest message that is read: what is longer comes from somebody who wants our memory.
const maxLen = 64 << 20

// headLen is the length of what stands before a message: its own, in bytes.
const headLen = 4

// Marshal returns v, or what v points to, as a message: its length, and what it is.
func Marshal(v any) ([]byte, error) {
	b := make([]byte, headLen, 4096)
	b, err := appendValue(b, reflect.Indirect(reflect.ValueOf(v)))
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-headLen))
	return b, nil
}

// Write sends v as one message.
func Write(w io.Writer, v any) error {
	b, err := Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Read waits for a message, and puts it where v points to: that must be zero, since what is not sent is not touched. It reads
// not one byte more than the message has. The error is io.EOF where there is none.
func Read(r io.Reader, v any) error {
	var head [headLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxLen {
		return ErrFormat
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return Unmarshal(b, v)
}

// Unmarshal reads what Marshal has written behind its length.
func Unmarshal(b []byte, v any) error {
	d := &decoder{b}
	if err := d.value(reflect.ValueOf(v).Elem()); err != nil {
		return err
	}
	if len(d.b) > 0 {
		return ErrFormat
	}
	return nil
}

// self is a type that is written by its own method, such as time.Time, whose fields nobody else can see.
func self(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Struct, reflect.Array:
		return v.NumMethod() > 0 && v.Type().Implements(reflect.TypeFor[encoding.BinaryMarshaler]())
	}
	return false
}

func left(f *reflect.StructField) bool { return !f.IsExported() || f.Tag.Get("json") == "-" }

func appendValue(b []byte, v reflect.Value) (_ []byte, err error) {
	if self(v) {
		text, err := v.Interface().(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return nil, err
		}
		return append(binary.AppendUvarint(b, uint64(len(text))), text...), nil
	}
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return append(b, 1), nil
		}
		return append(b, 0), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return binary.AppendVarint(b, v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return binary.AppendUvarint(b, v.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return binary.AppendUvarint(b, math.Float64bits(v.Float())), nil
	case reflect.String:
		return append(binary.AppendUvarint(b, uint64(v.Len())), v.String()...), nil
	case reflect.Pointer:
		if v.IsNil() {
			return append(b, 0), nil
		}
		return appendValue(append(b, 1), v.Elem())
	case reflect.Slice:
		if v.IsNil() {
			return append(b, 0), nil
		}
		b = binary.AppendUvarint(b, uint64(v.Len())+1) // an empty one is not nil
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return append(b, v.Bytes()...), nil
		}
		return appendElems(b, v)
	case reflect.Array:
		return appendElems(b, v)
	case reflect.Map:
		return appendMap(b, v)
	case reflect.Struct:
		return appendStruct(b, v)
	case reflect.Interface, reflect.Func, reflect.Chan:
		if v.IsNil() {
			return b, nil
		}
	}
	return nil, fmt.Errorf("send a %s: %w", v.Type(), errors.ErrUnsupported)
}

func appendElems(b []byte, v reflect.Value) (_ []byte, err error) {
	for i := range v.Len() {
		if b, err = appendValue(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendMap(b []byte, v reflect.Value) (_ []byte, err error) {
	if v.IsNil() {
		return append(b, 0), nil
	}
	b = binary.AppendUvarint(b, uint64(v.Len())+1)
	for it := v.MapRange(); it.Next(); {
		if b, err = appendValue(b, it.Key()); err != nil {
			return nil, err
		}
		if b, err = appendValue(b, it.Value()); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendStruct(b []byte, v reflect.Value) (_ []byte, err error) {
	t, last := v.Type(), -1
	for i := range v.NumField() {
		if v.Field(i).IsZero() { // asked first: most are, and a field's description has to be made
			continue
		}
		if f := t.Field(i); left(&f) {
			continue
		}
		b = binary.AppendUvarint(b, uint64(i-last))
		if b, err = appendValue(b, v.Field(i)); err != nil {
			return nil, err
		}
		last = i
	}
	return append(b, 0), nil
}

// decoder is what is left to be read. A message may come from somebody hostile, so no length in it is believed before so many
// bytes are there.
type decoder struct{ b []byte }

func (d *decoder) uvarint() (uint64, error) {
	x, n := binary.Uvarint(d.b)
	if n <= 0 {
		return 0, ErrFormat
	}
	d.b = d.b[n:]
	return x, nil
}

// length reads how many elements come, each of which has at least one byte.
func (d *decoder) length() (int, error) {
	n, err := d.uvarint()
	if err == nil && n > uint64(len(d.b)) {
		err = ErrFormat
	}
	return int(n), err
}

// bytes reads so many; the result is part of the message.
func (d *decoder) bytes(n int) ([]byte, error) {
	if n < 0 || n > len(d.b) {
		return nil, ErrFormat
	}
	part := d.b[:n:n]
	d.b = d.b[n:]
	return part, nil
}

func (d *decoder) value(v reflect.Value) error {
	if self(v) {
		n, err := d.length()
		if err != nil {
			return err
		}
		text, err := d.bytes(n)
		if err != nil {
			return err
		}
		u, ok := v.Addr().Interface().(encoding.BinaryUnmarshaler)
		if !ok {
			return fmt.Errorf("receive a %s: %w", v.Type(), errors.ErrUnsupported)
		}
		return u.UnmarshalBinary(text)
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		x, n := binary.Varint(d.b)
		if n <= 0 || v.OverflowInt(x) {
			return ErrFormat
		}
		d.b = d.b[n:]
		v.SetInt(x)
		return nil
	case reflect.String:
		n, err := d.length()
		if err != nil {
			return err
		}
		text, err := d.bytes(n)
		v.SetString(string(text))
		return err
	case reflect.Array:
		return d.elems(v)
	case reflect.Struct:
		return d.structure(v)
	case reflect.Interface, reflect.Func, reflect.Chan:
		return nil
	}
	x, err := d.uvarint()
	if err != nil {
		return err
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(x == 1)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if v.OverflowUint(x) {
			return ErrFormat
		}
		v.SetUint(x)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(math.Float64frombits(x))
	case reflect.Pointer:
		if x == 0 {
			return nil
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return d.value(v.Elem())
	case reflect.Slice:
		return d.slice(v, x)
	case reflect.Map:
		return d.table(v, x)
	default:
		return fmt.Errorf("receive a %s: %w", v.Type(), errors.ErrUnsupported)
	}
	return nil
}

// slice reads one of n-1 elements; 0 is nil.
func (d *decoder) slice(v reflect.Value, n uint64) error {
	if n == 0 {
		return nil
	}
	if n--; n > uint64(len(d.b)) {
		return ErrFormat
	}
	if v.Type().Elem().Kind() == reflect.Uint8 {
		part, err := d.bytes(int(n))
		v.SetBytes(part)
		return err
	}
	v.Set(reflect.MakeSlice(v.Type(), int(n), int(n)))
	return d.elems(v)
}

func (d *decoder) elems(v reflect.Value) error {
	for i := range v.Len() {
		if err := d.value(v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) table(v reflect.Value, n uint64) error {
	if n == 0 {
		return nil
	}
	if n--; n > uint64(len(d.b)) {
		return ErrFormat
	}
	t := v.Type()
	v.Set(reflect.MakeMapWithSize(t, int(n)))
	for range n {
		key, value := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		if err := d.value(key); err != nil {
			return err
		}
		if err := d.value(value); err != nil {
			return err
		}
		v.SetMapIndex(key, value)
	}
	return nil
}

func (d *decoder) structure(v reflect.Value) error {
	for i := -1; ; {
		step, err := d.uvarint()
		if err != nil || step == 0 {
			return err
		}
		if step > uint64(v.NumField()-1-i) {
			return ErrFormat
		}
		i += int(step)
		if f := v.Type().Field(i); left(&f) {
			return ErrFormat
		}
		if err := d.value(v.Field(i)); err != nil {
			return err
		}
	}
}
