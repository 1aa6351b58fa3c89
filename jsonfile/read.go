package jsonfile

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Unmarshal is json.Unmarshal. Where it fails, what v points to is as encoding/json leaves it.
func Unmarshal(data []byte, v any) error {
	to := reflect.ValueOf(v)
	if to.Kind() == reflect.Pointer && !to.IsNil() && utf8.Valid(data) {
		r := &reader{b: data}
		read := reflect.New(to.Type().Elem()).Elem()
		read.Set(to.Elem())
		if r.value(read) == nil && r.next() == 0 {
			to.Elem().Set(read)
			return nil
		}
	}
	return json.Unmarshal(data, v)
}

// reader is what is left of the text.
type reader struct{ b []byte }

// next returns what stands next behind white space, 0 at the end, and leaves it there.
func (r *reader) next() byte {
	for i, c := range r.b {
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			r.b = r.b[i:]
			return c
		}
	}
	r.b = nil
	return 0
}

// take takes one character if it is the next.
func (r *reader) take(c byte) bool {
	if r.next() != c {
		return false
	}
	r.b = r.b[1:]
	return true
}

// word takes a word without quotes: a number, true, false or null.
func (r *reader) word() string {
	r.next()
	n := 0
	for n < len(r.b) && strings.IndexByte(",]} \n\t\r:", r.b[n]) < 0 {
		n++
	}
	w := string(r.b[:n])
	r.b = r.b[n:]
	return w
}

// text takes a string.
func (r *reader) text() (string, error) {
	if !r.take('"') {
		return "", errOther
	}
	for i, c := range r.b {
		switch {
		case c == '"':
			s := string(r.b[:i])
			r.b = r.b[i+1:]
			return s, nil
		case c < ' ', c == '\\':
			return r.escaped()
		}
	}
	return "", errOther
}

// escaped takes a string with a backslash in it, whose first quote is taken already.
func (r *reader) escaped() (s string, err error) {
	for i := 0; i < len(r.b); i++ {
		switch r.b[i] {
		case '\\':
			i++
		case '"':
			err = json.Unmarshal([]byte(`"`+string(r.b[:i+1])), &s)
			r.b = r.b[i+1:]
			return s, err
		}
	}
	return "", errOther
}

// raw takes a whole value, whatever it is, and returns its text.
func (r *reader) raw() ([]byte, error) {
	r.next()
	start := r.b
	for depth := 0; ; {
		switch r.next() {
		case 0:
			return nil, errOther
		case '"':
			if _, err := r.text(); err != nil {
				return nil, err
			}
		case '{', '[':
			depth++
			r.b = r.b[1:]
			continue
		case '}', ']':
			depth--
			r.b = r.b[1:]
		case ',', ':':
			if depth == 0 {
				return nil, errOther
			}
			r.b = r.b[1:]
			continue
		default:
			if r.word() == "" {
				return nil, errOther
			}
		}
		if depth <= 0 {
			text := start[:len(start)-len(r.b)]
			if !json.Valid(text) {
				return nil, errOther
			}
			return text, nil
		}
	}
}

func (r *reader) value(v reflect.Value) error {
	if v.Kind() == reflect.Interface || v.Kind() != reflect.Pointer && own(v.Type()) {
		text, err := r.raw()
		if err != nil {
			return err
		}
		return json.Unmarshal(text, v.Addr().Interface())
	}
	if r.next() == 'n' {
		if r.word() != "null" {
			return errOther
		}
		switch v.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice:
			v.SetZero()
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return r.value(v.Elem())
	case reflect.Bool:
		w := r.word()
		v.SetBool(w == "true")
		if w != "true" && w != "false" {
			return errOther
		}
		return nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		w := r.word()
		n, err := strconv.ParseInt(w, 10, 64)
		if err != nil || v.OverflowInt(n) || !canonical(strings.TrimPrefix(w, "-")) {
			return errOther
		}
		v.SetInt(n)
		return nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		w := r.word()
		n, err := strconv.ParseUint(w, 10, 64)
		if err != nil || v.OverflowUint(n) || !canonical(w) {
			return errOther
		}
		v.SetUint(n)
		return nil
	case reflect.String:
		s, err := r.text()
		v.SetString(s)
		return err
	case reflect.Slice:
		return r.list(v)
	case reflect.Array:
		return r.array(v)
	case reflect.Map:
		return r.table(v)
	case reflect.Struct:
		return r.object(v)
	}
	return errOther
}

// canonical is a number as JSON allows it: no sign, and no 0 before another digit.
func canonical(w string) bool { return w == "0" || w != "" && w[0] >= '1' && w[0] <= '9' }

func (r *reader) list(v reflect.Value) error {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		s, err := r.text()
		if err != nil {
			return err
		}
		data, err := base64.StdEncoding.DecodeString(s)
		v.SetBytes(data)
		return err
	}
	if !v.IsNil() { // a key that comes twice
		return errOther
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	return r.elements(func() error {
		element := reflect.New(v.Type().Elem()).Elem()
		err := r.value(element)
		v.Set(reflect.Append(v, element))
		return err
	})
}

func (r *reader) array(v reflect.Value) error {
	n := 0
	err := r.elements(func() error {
		if n++; n > v.Len() {
			return errOther
		}
		return r.value(v.Index(n - 1))
	})
	if n < v.Len() {
		return errOther
	}
	return err
}

// elements calls f for each element of a list; f takes it.
func (r *reader) elements(f func() error) error {
	if !r.take('[') {
		return errOther
	}
	if r.take(']') {
		return nil
	}
	for {
		if err := f(); err != nil {
			return err
		}
		if r.take(']') {
			return nil
		}
		if !r.take(',') {
			return errOther
		}
	}
}

func (r *reader) table(v reflect.Value) error {
	t := v.Type()
	if t.Key().Kind() != reflect.String || own(t.Key()) || !v.IsNil() {
		return errOther
	}
	v.Set(reflect.MakeMap(t))
	return r.pairs(func(key string) error {
		value := reflect.New(t.Elem()).Elem()
		err := r.value(value)
		v.SetMapIndex(reflect.ValueOf(key).Convert(t.Key()), value)
		return err
	})
}

func (r *reader) object(v reflect.Value) error {
	next := 0 // where the field is likely to be, since the order is that of the struct
	return r.pairs(func(key string) error {
		to, at, err := find(v, key, next)
		if err != nil {
			return err
		}
		if !to.IsValid() {
			_, err := r.raw()
			return err
		}
		next = at + 1
		return r.value(to)
	})
}

// pairs calls f with each key of an object; f takes what belongs to it.
func (r *reader) pairs(f func(key string) error) error {
	if !r.take('{') {
		return errOther
	}
	if r.take('}') {
		return nil
	}
	for {
		key, err := r.text()
		if err != nil || !r.take(':') {
			return errOther
		}
		if err := f(key); err != nil {
			return err
		}
		if r.take('}') {
			return nil
		}
		if !r.take(',') {
			return errOther
		}
	}
}

// find returns the field of that name, and its number; the search begins at one. A name that differs in case only is left to
// encoding/json, which has rules for it.
func find(v reflect.Value, key string, begin int) (to reflect.Value, at int, err error) {
	t := v.Type()
	var inner []int
	for n := range t.NumField() {
		i := (begin + n) % t.NumField()
		sf := t.Field(i)
		f, err := fieldOf(&sf)
		switch {
		case err != nil:
			return to, 0, err
		case f.skip:
		case f.inline:
			inner = append(inner, i)
		case f.name == key:
			return v.Field(i), i, nil
		case strings.EqualFold(f.name, key):
			return to, 0, errOther
		}
	}
	// The fields of a struct inside count where the outer one has none of that name. Those of two such structs hide each other.
	at = begin - 1
	for _, i := range inner {
		found, _, err := find(v.Field(i), key, 0)
		if err != nil || found.IsValid() && to.IsValid() {
			return to, 0, errOther
		}
		if found.IsValid() {
			to = found
		}
	}
	return to, at, nil
}
