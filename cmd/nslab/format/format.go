// Package format shows rows and objects as Docker's commands do: a table, a Go template of the user's, or JSON.
//
// The idea: a row is a struct, and its methods are its fields. A template calls them by name, {{.ID}}, and so does JSON;
// what nobody asks for is never computed. A [Sheet] tells which fields one kind of row shows by default, and the heading
// of each. [Parse] turns that and the argument of --format into a [Template] before anything else is done, so that a
// mistake in it is answered at once; [Template.Write] prints the rows. [Inspector] is for whole objects, as `inspect`
// shows them. The rest are the words that people read: sizes, ages, states.
//
// The limits: the functions that templates can use are Docker's (json, join, split, pad, truncate …) and those of
// text/template, no more. Nothing is coloured, and nothing is translated: programs read this.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"text/template"

	"github.com/docker/cli/templates"
)

// Sheet is how rows of one kind look.
type Sheet struct {
	Heads    map[string]string // headings of the columns, by what templates call them
	Table    string            // the fields that are shown when nothing is said: `{{.ID}}\t{{.Names}}`
	Quiet    string            // -q: `{{.ID}}`
	Raw      string            // --format raw; empty where Docker has none
	RawQuiet string            // --format raw -q

	// QuietFirst says that -q wins over a template, as for containers. Of images and volumes the template wins.
	QuietFirst bool
}

// Template is a --format that has been understood, for rows of type R, a pointer to a struct.
type Template[R any] struct {
	text  string
	table bool
	heads Heads
	tmpl  *template.Template
	uses  map[string]bool
}

// Error is a template that is wrong, in Docker's words.
type Error struct {
	Err    error
	Fields []string // what there is, where a field was asked for that is not
}

func (e *Error) Error() string {
	// A template can have lines, an error has one.
	return "template parsing error: " + strings.Join(strings.Fields(e.Err.Error()), " ")
}

func (e *Error) Unwrap() error { return e.Err }

// Parse understands the argument of --format: nothing or "table" for the sheet's table, "table TEMPLATE", "json", "raw",
// or a template, which is done for each row. quiet is -q.
func Parse[R any](s Sheet, format string, quiet bool) (*Template[R], error) {
	t := &Template[R]{heads: s.Heads, text: format}
	switch {
	case format == "" || format == "table":
		t.text, t.table = s.Table, true
	case format == "json":
		t.text = "{{json .}}"
	case format == "raw" && s.Raw != "":
		t.text = s.Raw
		if quiet {
			t.text = s.RawQuiet
		}
	case strings.HasPrefix(format, "table"):
		t.text, t.table = strings.TrimPrefix(format, "table"), true
	}
	if quiet && (format == "" || format == "table" || s.QuietFirst && format != "raw") {
		t.text, t.table = s.Quiet, false
	}
	t.text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(strings.Trim(t.text, " "))

	var err error
	if t.tmpl, err = templates.Parse(t.text); err != nil {
		return nil, &Error{Err: err}
	}
	t.tmpl.Funcs(template.FuncMap{"json": t.json})
	t.uses = fieldsOf(t.tmpl)
	known := methods(reflect.TypeFor[R]())
	for _, name := range slices.Sorted(maps.Keys(t.uses)) {
		if name != "." && !slices.Contains(known, name) {
			return nil, &Error{Err: fmt.Errorf("no field is called %q", name), Fields: known}
		}
	}
	if format == "json" {
		t.uses = nil // as Docker has it: "json" is given what there is, {{json .}} all that can be found out
	}
	return t, nil
}

// Uses says whether the template has a field, so that what is dear to find out (the size of a container) need not be.
func (t *Template[R]) Uses(field string) bool { return t.uses[field] || t.uses["."] }

// Write prints the rows. Nothing is printed if one of them cannot be shown.
func (t *Template[R]) Write(w io.Writer, rows []R) error {
	var out bytes.Buffer
	if t.table {
		if err := t.head(&out); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if err := t.tmpl.Execute(&out, row); err != nil {
			return &Error{Err: err}
		}
		out.WriteByte('\n')
	}
	text := out.String()
	if t.table {
		text = align(text)
	}
	_, err := io.WriteString(w, text)
	return err
}

// head prints the headings: the same template, done with headings for fields.
func (t *Template[R]) head(out *bytes.Buffer) error {
	heading, err := t.tmpl.Clone()
	if err != nil {
		return err
	}
	start := out.Len()
	if err := heading.Funcs(templates.HeaderFunctions).Execute(out, t.heads); err != nil {
		out.Truncate(start) // a template that does more with a field than to show it has no headings: Docker's does the same
	}
	out.WriteByte('\n')
	return nil
}

// Heads are the headings, for a template that was written for rows.
type Heads map[string]string

// Label is the heading of one label, {{.Label "com.example.some-thing"}}: SOME THING without the capitals, as in Docker.
func (Heads) Label(name string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndexByte(name, '.')+1:])
}

// json is the function of that name: of a row it shows the fields, by their names.
func (t *Template[R]) json(v any) (string, error) {
	if row, ok := v.(R); ok {
		data, err := marshalRow(row)
		return string(data), err
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSpace(out.String()), err
}

// List is rows as a field of another one.
type List[R any] []R

// MarshalJSON shows each row by its fields.
func (l List[R]) MarshalJSON() ([]byte, error) {
	list := make([]json.RawMessage, len(l))
	for i, row := range l {
		data, err := marshalRow(row)
		if err != nil {
			return nil, err
		}
		list[i] = data
	}
	return json.Marshal(list)
}

// methods are the names of the exported methods.
func methods(t reflect.Type) (names []string) {
	for i := range t.NumMethod() {
		names = append(names, t.Method(i).Name)
	}
	return names
}

// marshalRow calls all methods that take nothing and return a value, or a value and an error.
func marshalRow(row any) ([]byte, error) {
	v := reflect.ValueOf(row)
	fields := map[string]any{}
	for i := range v.NumMethod() {
		m := v.Method(i)
		if m.Type().NumIn() > 0 || m.Type().NumOut() == 0 {
			continue
		}
		results := m.Call(nil)
		if err, failed := results[len(results)-1].Interface().(error); failed && len(results) > 1 {
			return nil, err
		}
		fields[v.Type().Method(i).Name] = results[0].Interface()
	}
	return json.Marshal(fields)
}
