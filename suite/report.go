package suite

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fatih/color"
	"github.com/jstemmer/go-junit-report/v2/junit"

	xml "github.com/nslab/nslab/suite/junit"
)

// Summary is the sum of a run, in JSON its last line.
type Summary struct {
	Result  string   `json:"result"` // pass, fail or missing
	Passed  int      `json:"passed"`
	Failed  int      `json:"failed"`
	Missing int      `json:"missing"`
	Skipped int      `json:"skipped"`
	Needs   []string `json:"needs"` // what the machine lacks, each once
	MS      int64    `json:"ms"`
}

// Sum adds up results.
func Sum(results []Result, took time.Duration) Summary {
	s := Summary{Result: Pass, Needs: []string{}, MS: took.Milliseconds()}
	for _, r := range results {
		switch r.Result {
		case Pass:
			s.Passed++
		case Fail:
			s.Failed++
		case Missing:
			s.Missing++
		case Skip:
			s.Skipped++
		}
		s.Needs = append(s.Needs, r.Needs...)
	}
	slices.Sort(s.Needs)
	s.Needs = slices.Compact(s.Needs)
	switch {
	case s.Failed > 0:
		s.Result = Fail
	case s.Missing > 0:
		s.Result = Missing
	}
	return s
}

// Reporter writes results as they come, and the sum at the end.
type Reporter interface {
	Script(Result) error
	Sum([]Result, Summary) error
}

// NewReporter returns the reporter for a format: text, json or junit. verbose shows the logs of scripts that passed, too.
func NewReporter(w io.Writer, format string, verbose bool) Reporter {
	switch format {
	case "json":
		return jsonReporter{json.NewEncoder(w)}
	case "junit":
		return junitReporter{w}
	}
	return textReporter{w, verbose}
}

type textReporter struct {
	w       io.Writer
	verbose bool
}

func (t textReporter) Script(r Result) error {
	mark := map[string]string{
		Pass: color.GreenString("✓"), Fail: color.RedString("✗"), Missing: color.RedString("✗"), Skip: color.YellowString("·"),
	}[r.Result]
	line := fmt.Sprintf("%s %-28s %6.1f s", mark, r.Script, r.Took.Seconds())
	if len(r.Needs) > 0 {
		line = fmt.Sprintf("%s %-28s %s", mark, r.Script, "not run: needs "+strings.Join(r.Needs, ", "))
	}
	if _, err := fmt.Fprintln(t.w, line); err != nil {
		return err
	}
	if r.Result != Fail && !t.verbose {
		return nil
	}
	for l := range strings.Lines(strings.TrimRight(r.Output, "\n")) {
		if _, err := fmt.Fprintln(t.w, "    "+strings.TrimRight(l, "\n")); err != nil {
			return err
		}
	}
	return nil
}

func (t textReporter) Sum(_ []Result, s Summary) error {
	parts := []string{fmt.Sprintf("%d passed", s.Passed), fmt.Sprintf("%d failed", s.Failed)}
	if n := s.Missing + s.Skipped; n > 0 {
		parts = append(parts, fmt.Sprintf("%d not run, for want of: %s", n, strings.Join(s.Needs, "; ")))
	}
	_, err := fmt.Fprintf(t.w, "\n%s · %.1f s\n", strings.Join(parts, ", "), float64(s.MS)/1000)
	return err
}

type jsonReporter struct{ *json.Encoder }

func (j jsonReporter) Script(r Result) error           { return j.Encode(r) }
func (j jsonReporter) Sum(_ []Result, s Summary) error { return j.Encode(s) }

type junitReporter struct{ w io.Writer }

func (junitReporter) Script(Result) error { return nil } // the counts stand before the cases

func (j junitReporter) Sum(results []Result, s Summary) error {
	suite := junit.Testsuite{Name: "nslab", Time: seconds(s.MS)}
	for _, r := range results {
		c := junit.Testcase{Name: r.Script, Classname: "nslab", Time: seconds(r.MS)}
		switch r.Result {
		case Fail:
			c.Failure = xml.Failure("failed", r.Output)
		case Missing:
			c.Failure = xml.Failure("needs "+strings.Join(r.Needs, ", "), "")
		case Skip:
			c.Skipped = &junit.Result{Message: "needs " + strings.Join(r.Needs, ", ")}
		}
		suite.AddTestcase(c)
	}
	all := junit.Testsuites{}
	all.AddSuite(suite)
	return all.WriteXML(j.w)
}

func seconds(ms int64) string { return fmt.Sprintf("%.3f", float64(ms)/1000) }
