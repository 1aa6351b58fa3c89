package format

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nslab/nslab/engine"
)

// row stands for a container. Its methods are its fields.
type row struct {
	id, command string
	labels      map[string]string
	sized       int // how often the size was computed
}

func (r *row) ID() string               { return ShortID(r.id) }
func (r *row) Command() string          { return Command(r.command, nil, true) }
func (r *row) Names() string            { return "web" }
func (r *row) Ports() string            { return "" }
func (r *row) Label(name string) string { return r.labels[name] }
func (r *row) List() []string           { return []string{"a", "b"} }
func (r *row) Size() (string, error) {
	r.sized++
	if r.id == "" {
		return "", errors.New("no id")
	}
	return "0B", nil
}

func sheet() Sheet {
	return Sheet{
		Heads: map[string]string{"ID": "CONTAINER ID", "Command": "COMMAND", "Names": "NAMES", "Ports": "PORTS", "Size": "SIZE"},
		Table: `{{.ID}}\t{{.Command}}\t{{.Ports}}\t{{.Names}}`,
		Quiet: "{{.ID}}", Raw: "id: {{.ID}}\nnames: {{.Names}}\n", RawQuiet: "id: {{.ID}}", QuietFirst: true,
	}
}

func rows() []*row {
	return []*row{
		{id: "sha256:0123456789abcdef", command: "sleep 100", labels: map[string]string{"com.example.site": "<main>"}},
		{id: "fedcba9876543210", command: "sh -c 'echo 一二三四五六七八九'"},
	}
}

func TestWrite(t *testing.T) {
	for _, c := range []struct {
		name, format string
		quiet        bool
		want         string
	}{
		{"default", "", false, "" +
			"CONTAINER ID   COMMAND                 PORTS     NAMES\n" +
			"0123456789ab   \"sleep 100\"                       web\n" +
			"fedcba987654   \"sh -c 'echo 一二三…\"             web\n"},
		{"quiet", "", true, "0123456789ab\nfedcba987654\n"},
		{"quiet wins", "{{.Names}}", true, "0123456789ab\nfedcba987654\n"},
		{"table", "table {{.Names}}\\t{{.ID}}", false, "NAMES     CONTAINER ID\nweb       0123456789ab\nweb       fedcba987654\n"},
		{"functions", `{{upper .Names}} {{join .List "+"}} {{pad .ID 1 2}}{{truncate .ID 3}} {{title .Names}}`, false,
			"WEB a+b  0123456789ab  012 Web\nWEB a+b  fedcba987654  fed Web\n"},
		{"headings of functions", `table {{lower .Names}}\t{{json .ID}}`, false,
			"NAMES     CONTAINER ID\nweb       \"0123456789ab\"\nweb       \"fedcba987654\"\n"},
		{"label", `table {{.Label "com.example.site"}}`, false, "site\n<main>\n\n"},
		{"raw", "raw", false, "id: 0123456789ab\nnames: web\n\nid: fedcba987654\nnames: web\n\n"},
		{"raw quiet", "raw", true, "id: 0123456789ab\nid: fedcba987654\n"},
		{"json function", "{{json .List}}", false, "[\"a\",\"b\"]\n[\"a\",\"b\"]\n"},
		{"escapes", `{{.Names}}\n{{.Names}}`, false, "web\nweb\nweb\nweb\n"},
		{"range", `{{range .List}}{{.}}{{$.Names}}{{end}}`, false, "awebbweb\nawebbweb\n"},
	} {
		tmpl, err := Parse[*row](sheet(), c.format, c.quiet)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var out strings.Builder
		if err := tmpl.Write(&out, rows()); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if out.String() != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, out.String(), c.want)
		}
	}
}

func TestJSON(t *testing.T) {
	const want = `{"Command":"\"sleep 100\"","ID":"0123456789ab","List":["a","b"],"Names":"web","Ports":"","Size":"0B"}` + "\n"
	for _, format := range []string{"json", "{{json .}}"} {
		tmpl, err := Parse[*row](sheet(), format, false)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		if err := tmpl.Write(&out, rows()[:1]); err != nil || out.String() != want {
			t.Errorf("%s: %v, got %s; want %s", format, err, out.String(), want)
		}
	}
}

func TestNoRows(t *testing.T) {
	tmpl, err := Parse[*row](sheet(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := tmpl.Write(&out, nil); err != nil || out.String() != "CONTAINER ID   COMMAND   PORTS     NAMES\n" {
		t.Errorf("without rows: %v, %q", err, out.String())
	}
}

func TestUses(t *testing.T) {
	for format, want := range map[string]bool{
		"": false, "json": false, "{{json .}}": true, "table {{.Size}}": true, "{{if .Size}}x{{end}}": true,
		"{{if .ID}}{{else}}{{.Size}}{{end}}": true, "{{range .List}}{{$.Size}}{{end}}": true, "{{with .ID}}{{.}}{{end}}": false,
		`{{println (lower .Size)}}`: true,
	} {
		tmpl, err := Parse[*row](sheet(), format, false)
		if err != nil {
			t.Errorf("%q: %v", format, err)
		} else if got := tmpl.Uses("Size"); got != want {
			t.Errorf("Uses(Size) of %q = %v; want %v", format, got, want)
		}
	}
	r := rows()[0]
	tmpl, _ := Parse[*row](sheet(), "{{.ID}}", false)
	if err := tmpl.Write(&strings.Builder{}, []*row{r}); err != nil || r.sized != 0 {
		t.Errorf("a template without .Size computed it %d times (%v)", r.sized, err)
	}
}

func TestWrong(t *testing.T) {
	for format, want := range map[string]string{
		"{{":                   "template parsing error: template: :1: unclosed action",
		"{{.Foo}}":             `template parsing error: no field is called "Foo"`,
		"{{if .Foo}}x{{end}}":  `template parsing error: no field is called "Foo"`,
		"table {{.ID.Foo}}":    "can't evaluate field Foo in type string",
		"{{nope .ID}}":         `function "nope" not defined`,
		"{{.ID\n\n|\n\nfoo}}":  `function "foo" not defined`,
		"{{truncate .ID -1}}":  "out of range",
		"{{.Label}}":           "wrong number of args",
		"{{template \"x\" .}}": "",
	} {
		tmpl, err := Parse[*row](sheet(), format, false)
		if err == nil {
			err = tmpl.Write(&strings.Builder{}, rows())
		}
		var wrong *Error
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v; want one line with %q", format, err, want)
		}
	}
	_, err := Parse[*row](sheet(), "{{.Foo}}", false)
	var wrong *Error
	if !errors.As(err, &wrong) || strings.Join(wrong.Fields, " ") != "Command ID Label List Names Ports Size" {
		t.Errorf("the fields there are: %+v", wrong)
	}
	tmpl, _ := Parse[*row](sheet(), "{{.ID}} {{.Size}}", false)
	var out strings.Builder
	if err := tmpl.Write(&out, []*row{rows()[0], {}}); err == nil || out.Len() > 0 {
		t.Errorf("a row without a size: %v, and printed %q", err, out.String())
	}
}

func TestInspect(t *testing.T) {
	type nested struct {
		NanoCPUs int64 `json:"NanoCpus"`
		Labels   map[string]string
	}
	type object struct {
		ID     string `json:"Id"`
		Config nested
	}
	one := object{ID: "<1>", Config: nested{NanoCPUs: 1 << 60, Labels: map[string]string{"a": "b"}}}
	for _, c := range []struct{ format, want, err string }{
		{"{{.ID}}", "<1>\n<1>\n", ""},
		{"{{.Id}}", "<1>\n<1>\n", ""},
		{"{{.Config.NanoCPUs}} {{.ID}}", "1152921504606846976 <1>\n1152921504606846976 <1>\n", ""},
		{"{{.Config.NanoCpus}}", "1152921504606846976\n1152921504606846976\n", ""},
		{"{{.Config.Labels.a}} {{.Config.Labels.c}}", "b <no value>\nb <no value>\n", ""},
		{"{{json .Config.Labels}}", "{\"a\":\"b\"}\n{\"a\":\"b\"}\n", ""},
		{"{{index .Config.Labels \"c\"}}", "\n\n", ""},
		{"json", `[{"Id":"<1>","Config":{"NanoCpus":1152921504606846976,"Labels":{"a":"b"}}},` +
			`{"Id":"<1>","Config":{"NanoCpus":1152921504606846976,"Labels":{"a":"b"}}}]` + "\n", ""},
		{"{{.Nope}}", "", `map has no entry for key "Nope"`},
		{"{{", "", "unclosed action"},
	} {
		i, err := NewInspector(c.format)
		var out strings.Builder
		for range 2 {
			if err == nil {
				err = i.Add(one)
			}
		}
		if err == nil {
			err = i.Flush(&out)
		}
		if c.err != "" {
			var wrong *Error
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: %v; want %q", c.format, err, c.err)
			}
		} else if err != nil || out.String() != c.want {
			t.Errorf("%q: %v\n%s\nwant\n%s", c.format, err, out.String(), c.want)
		}
	}
	for format, want := range map[string]string{"": "[]\n", "json": "[]\n", "{{.ID}}": "\n"} {
		i, _ := NewInspector(format)
		var out strings.Builder
		if err := i.Flush(&out); err != nil || out.String() != want {
			t.Errorf("%q of nothing: %v, %q; want %q", format, err, out.String(), want)
		}
	}
	i, _ := NewInspector("")
	i.Add(map[string]int{"a": 1})
	var out strings.Builder
	if i.Flush(&out); out.String() != "[\n    {\n        \"a\": 1\n    }\n]\n" {
		t.Errorf("indented: %s", out.String())
	}
}

func TestWords(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct{ got, want string }{
		{Size(21_500_000), "21.5MB"},
		{SizePair(2, 21_500_000), "2B (virtual 21.5MB)"},
		{SizePair(2, 0), "2B"},
		{Bytes(1536 << 20), "1.5GiB"},
		{Ago(now, before(2*time.Minute)), "2 minutes ago"},
		{Ago(now, time.Time{}), "N/A"},
		{Ago(now, now.Add(time.Hour)), "Less than a second ago"},
		{Status(now, engine.State{Status: engine.Running, StartedAt: before(3 * time.Second)}), "Up 3 seconds"},
		{Status(now, engine.State{Status: engine.Paused, StartedAt: before(time.Minute)}), "Up About a minute (Paused)"},
		{Status(now, engine.State{Status: engine.Exited, ExitCode: 137, FinishedAt: before(5 * time.Minute)}), "Exited (137) 5 minutes ago"},
		{Status(now, engine.State{Status: engine.Created}), "Created"},
		{Status(now, engine.State{Status: engine.Removing}), "Removal In Progress"},
		{Status(now, engine.State{Status: engine.Dead}), "Dead"},
		{ShortID("sha256:0123456789abcdef"), "0123456789ab"},
		{ShortID("abc"), "abc"},
		{Ellipsis("abcdef", 6), "abcdef"},
		{Ellipsis("abcdefg", 6), "abcde…"},
		{Ellipsis("一二三", 6), "一二三"},
		{Ellipsis("一二三四", 6), "一二…"},
		{Ellipsis("abc", 1), "…"},
		{Ellipsis("abc", 0), ""},
		{Ellipsis("a\xffb\xffcdef", 4), "a\xffb…"},
		{Command("sh", []string{"-c", "sleep 1\x1b[2J"}, false), `"sh -c 'sleep 1\x1b[2J'"`},
		{Command("sleep", []string{"10000000000000000"}, true), `"sleep 1000000000000…"`},
		{Labels(map[string]string{"b": "2", "a": ""}), "a=,b=2"},
	} {
		if c.got != c.want {
			t.Errorf("got %q; want %q", c.got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "table {{.ID}}\\t{{.Names}}", "{{json .}}", "{{range .List}}{{.}}{{end}}", "{{pad .ID 1 1}}", "raw"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, format string) {
		if len(format) > 200 { // {{pad}} can ask for any amount of memory; long templates find nothing more
			return
		}
		tmpl, err := Parse[*row](sheet(), format, false)
		if err == nil && !strings.Contains(format, "pad") && !strings.Contains(format, "printf") {
			err = tmpl.Write(&strings.Builder{}, rows())
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: an error of more than one line: %v", format, err)
		}
	})
}

func FuzzEllipsis(f *testing.F) {
	f.Add("一二三", 3)
	f.Add("a\xff", 1)
	f.Fuzz(func(t *testing.T, s string, width int) {
		if got := Ellipsis(s, width); width >= 0 && len([]rune(got)) > len([]rune(s)) {
			t.Errorf("Ellipsis(%q, %d) = %q", s, width, got)
		}
	})
}
