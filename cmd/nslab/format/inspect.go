package format

import (
	"bytes"
	"encoding/json"
	"io"
	"text/template"

	"github.com/docker/cli/templates"
)

// Inspector shows whole objects: as a JSON array, or each through a template.
type Inspector struct {
	tmpl    *template.Template
	compact bool
	out     bytes.Buffer
	objects []any
}

// NewInspector understands the --format of `inspect`: nothing for JSON that people can read, "json" for JSON on one line,
// or a template.
func NewInspector(format string) (*Inspector, error) {
	i := &Inspector{compact: format == "json"}
	if format == "" || i.compact {
		return i, nil
	}
	var err error
	if i.tmpl, err = templates.Parse(format); err != nil {
		return nil, &Error{Err: err}
	}
	return i, nil
}

// Add shows one more object. A template finds its parts by the names that they have in Go, or else all by those that they
// have in JSON: {{.HostConfig.NanoCPUs}}, {{.HostConfig.NanoCpus}}. That is Docker's rule, and scripts rely on both. What
// is missing in a map, a label, shows as <no value>.
func (i *Inspector) Add(object any) error {
	if i.tmpl == nil {
		i.objects = append(i.objects, object)
		return nil
	}
	var out bytes.Buffer
	if i.tmpl.Execute(&out, object) != nil {
		raw, err := decoded(object)
		if err != nil {
			return err
		}
		out.Reset()
		// A clone, so that the next object is looked at in the first way again.
		strict, err := i.tmpl.Clone()
		if err != nil {
			return err
		}
		if err := strict.Option("missingkey=error").Execute(&out, raw); err != nil {
			return &Error{Err: err}
		}
	}
	i.out.Write(out.Bytes())
	i.out.WriteByte('\n')
	return nil
}

// decoded is an object as its JSON has it: maps, lists, and numbers as they were written.
func decoded(object any) (raw any, err error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return raw, d.Decode(&raw)
}

// Flush prints what has been added. If that is nothing, a template gives an empty line and JSON an empty array, as with
// Docker.
func (i *Inspector) Flush(w io.Writer) error {
	if i.tmpl != nil {
		if i.out.Len() == 0 {
			i.out.WriteByte('\n')
		}
		_, err := w.Write(i.out.Bytes())
		return err
	}
	if len(i.objects) == 0 {
		_, err := io.WriteString(w, "[]\n")
		return err
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if !i.compact {
		e.SetIndent("", "    ")
	}
	return e.Encode(i.objects)
}
