package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/fatih/color"

	"github.com/nslab/nslab/course"
)

// groups are the headings of the report, and the ids that belong below each.
var groups = []struct{ title, prefix string }{
	{"Privilege", "privilege"},
	{"Namespaces", "ns."},
	{"Control groups", "cgroup."},
	{"File systems", "mount."},
	{"Network", "net."},
	{"Machine", "machine."},
}

// The columns of the report: a mark, the id, the text.
const (
	markColumn = 2
	idColumn   = 4
	textColumn = 24
)

// mark is the sign that stands before a result, and its colour.
func mark(s State) (sign string, paint func(...any) string) {
	switch s {
	case StateOK:
		return "✓", color.New(color.FgGreen).SprintFunc()
	case StateMissing:
		return "✗", color.New(color.FgRed).SprintFunc()
	}
	return "·", color.New(color.FgCyan).SprintFunc()
}

func bold(a ...any) string   { return color.New(color.Bold).Sprint(a...) }
func yellow(a ...any) string { return color.New(color.FgYellow).Sprint(a...) }

// Report prints all results for people, and which lab can run.
func Report(w io.Writer, results []Result, labs []*course.Lab, lang string) error {
	p := &printer{w: w, lang: lang, width: course.TerminalWidth()}
	for _, g := range groups {
		p.line(bold(say(g.title).In(lang)))
		p.hinted = map[string]bool{}
		for _, r := range results {
			if strings.HasPrefix(r.ID, g.prefix) {
				p.result(r)
			}
		}
		p.line("")
	}
	p.labs(results, labs)
	return p.err
}

// printer remembers the first error, so that the layout reads without them.
type printer struct {
	w     io.Writer
	lang  string
	width int
	err   error

	hinted map[string]bool // hints given in this group: one cause is often behind several findings
}

func (p *printer) line(s string) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, s)
	}
}

func (p *printer) result(r Result) {
	sign, paint := mark(r.State)
	head := strings.Repeat(" ", markColumn) + paint(sign) + " " + course.Pad(r.ID, textColumn-idColumn)
	for _, line := range course.Wrap(r.Found.In(p.lang), p.width-textColumn) {
		p.line(head + line)
		head = strings.Repeat(" ", textColumn)
	}
	if len(r.Blocks) > 0 {
		p.under(say("blocks %s", strings.Join(r.Blocks, ", ")), paint)
	}
	for _, m := range r.Remedy {
		if hint := m.In(p.lang); !p.hinted[hint] {
			p.hinted[hint] = true
			p.under(say("hint: %s", m), yellow)
		}
	}
}

// under prints below a result. A line that is too long goes on further right, so that the next hint is told from it.
func (p *printer) under(m Message, paint func(...any) string) {
	const hang = 2
	room := p.width - textColumn
	text := m.In(p.lang)
	first := course.Wrap(text, room)[0]
	p.line(strings.Repeat(" ", textColumn) + paint(first))
	if rest := strings.TrimSpace(strings.TrimPrefix(text, first)); rest != "" {
		for _, line := range course.Wrap(rest, room-hang) {
			p.line(strings.Repeat(" ", textColumn+hang) + paint(line))
		}
	}
}

func (p *printer) labs(results []Result, labs []*course.Lab) {
	rows := [][]string{{say("LAB").In(p.lang), say("CAN IT RUN HERE").In(p.lang)}}
	for _, l := range labs {
		text := say("ready")
		if by := blockers(results, l); len(by) > 0 {
			text = say("blocked by %s", strings.Join(by, ", "))
		}
		rows = append(rows, []string{l.Name(), text.In(p.lang)})
	}
	column := 0
	for _, row := range rows {
		column = max(column, course.Width(row[0])+3)
	}
	for _, row := range rows {
		head := course.Pad(row[0], column)
		for _, line := range course.Wrap(row[1], p.width-column) {
			p.line(head + line)
			head = strings.Repeat(" ", column)
		}
	}
}

// asJSON is a result as --format json prints it.
type asJSON struct {
	ID     string   `json:"id"`
	State  State    `json:"state"`
	OK     bool     `json:"ok"` // false only where something is missing
	Found  string   `json:"found"`
	Blocks []string `json:"blocks"`
	Remedy []string `json:"remedy"`
}

func toJSON(r Result, lang string) asJSON {
	j := asJSON{
		ID: r.ID, State: r.State, OK: r.State != StateMissing, Found: r.Found.In(lang),
		Blocks: r.Blocks, Remedy: []string{},
	}
	if j.Blocks == nil {
		j.Blocks = []string{} // and not null: a reader can count on the shape
	}
	for _, m := range r.Remedy {
		j.Remedy = append(j.Remedy, m.In(lang))
	}
	return j
}

// labJSON is a lab in the last line.
type labJSON struct {
	Lab       string   `json:"lab"`
	Ready     bool     `json:"ready"`
	BlockedBy []string `json:"blocked_by"`
}

// ReportJSON prints a line for each result, and a last one about the labs.
func ReportJSON(w io.Writer, results []Result, labs []*course.Lab, lang string) error {
	for _, r := range results {
		if err := writeLine(w, toJSON(r, lang)); err != nil {
			return err
		}
	}
	last := struct {
		Result string    `json:"result"` // ready, or blocked if one lab is
		Labs   []labJSON `json:"labs"`
	}{"ready", []labJSON{}}
	for _, l := range labs {
		by := blockers(results, l)
		if len(by) > 0 {
			last.Result = "blocked"
		}
		last.Labs = append(last.Labs, labJSON{l.Name(), len(by) == 0, by})
	}
	return writeLine(w, last)
}

// ReportBlocked says, before anything is changed, that a lab cannot run here and why: on stderr for people, with a hint
// where there is a remedy, and as one line on stdout in format json.
func ReportBlocked(stdout, stderr io.Writer, l *course.Lab, missing []Result, lang, format string) {
	if format == "json" {
		line := struct {
			Lab     string   `json:"lab"`
			Result  string   `json:"result"`
			Missing []asJSON `json:"missing"`
		}{l.Name(), "blocked", []asJSON{}}
		for _, r := range missing {
			line.Missing = append(line.Missing, toJSON(r, lang))
		}
		writeLine(stdout, line) // nobody reads it: the exit status still tells
		return
	}
	hinted := map[string]bool{}
	for _, r := range missing {
		fmt.Fprintln(stderr, "nslab:", say("%s cannot run here: %s: %s", l.Name(), r.ID, r.Found).In(lang))
		for _, m := range r.Remedy {
			if hint := say("hint: %s", m).In(lang); !hinted[hint] {
				hinted[hint] = true
				fmt.Fprintln(stderr, hint)
			}
		}
	}
}

// CannotRun names the labs that are blocked.
func CannotRun(labs []string, lang string) string {
	return say("this machine cannot run %s", strings.Join(labs, ", ")).In(lang)
}

// writeLine prints v as one line of JSON. HTML is not what this is for: "<" stays "<".
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
