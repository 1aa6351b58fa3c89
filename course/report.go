package course

import (
	"encoding/json"
	"io"

	"github.com/nslab/nslab/diagnosis"
	"github.com/nslab/nslab/trace"
)

// stepReport is what `--format json` prints for a step, on one line.
type stepReport struct {
	Lab       string                `json:"lab"`
	Step      string                `json:"step"`
	Title     string                `json:"title"`
	Do        []string              `json:"do"`
	See       []string              `json:"see"`
	Checks    []Check               `json:"checks"`
	Error     string                `json:"error,omitempty"`
	Diagnosis []diagnosis.Condition `json:"diagnosis,omitempty"`
	Millis    int64                 `json:"ms"`
}

// result is how a lab went; its JSON is the last line of `--format json`.
type result struct {
	Lab    string `json:"lab"`
	Result string `json:"result"` // pass, fail, interrupted, quit
	Checks int    `json:"checks"`
	Failed int    `json:"failed"`
	Millis int64  `json:"ms"`

	Host *difference `json:"host,omitempty"` // measured by the guard, after the sacrifice has ended
	Kept *kept       `json:"kept,omitempty"`

	Passed []string `json:"-"` // the steps that passed, for the progress
}

// kept says what `--keep` left in place.
type kept struct {
	Run string `json:"run"`
	Pid int    `json:"pid,omitempty"` // a process inside, to enter with nsenter
}

// collector gathers a step's events for its JSON line.
type collector struct{ report stepReport }

func (c *collector) do(r trace.Record) {
	line := r.String()
	if r.At != "" {
		line += "  " + r.At
	}
	c.report.Do = append(c.report.Do, line)
}

func (c *collector) see(line string)   { c.report.See = append(c.report.See, line) }
func (c *collector) check(check Check) { c.report.Checks = append(c.report.Checks, check) }

func (c *collector) condition(probed diagnosis.Condition, translate func(string) string) {
	c.report.Diagnosis = append(c.report.Diagnosis, translated(probed, translate))
}

func translated(c diagnosis.Condition, translate func(string) string) diagnosis.Condition {
	c.What, c.Remedy = translate(c.What), translate(c.Remedy)
	return c
}

// writeLine prints v as one line of JSON. HTML is not what this is for: "<" stays "<".
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
