package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/course"
	"github.com/nslab/nslab/labs"
)

// listed is a lab in `nslab list --format json`.
type listed struct {
	Lab     string   `json:"lab"`
	Title   string   `json:"title"`
	Needs   []string `json:"needs"`
	Minutes int      `json:"minutes"`
	Steps   []string `json:"steps"`
	Passed  int      `json:"passed"`
	Done    bool     `json:"done"`
}

func newListCmd(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the labs, what each needs, and how far you are",
		Example: `  nslab list
  nslab list --format json | jq -r 'select(.done|not).lab'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			progress, err := course.LoadProgress()
			if err != nil { // the labs can be listed all the same
				fmt.Fprintln(os.Stderr, "nslab:", err)
			}
			if format == "json" {
				return listJSON(cmd.OutOrStdout(), progress, g.language())
			}
			return listText(cmd.OutOrStdout(), progress, g.language())
		},
	}
	formatFlag(cmd, &format)
	return cmd
}

func listJSON(w io.Writer, progress course.Progress, lang string) error {
	e := json.NewEncoder(w)
	for _, l := range labs.All() {
		row := listed{Lab: l.Name(), Title: l.Title.In(lang), Minutes: l.Minutes, Passed: progress.Passed(l)}
		for _, n := range l.Needs {
			row.Needs = append(row.Needs, string(n))
		}
		for _, s := range l.Steps {
			row.Steps = append(row.Steps, s.ID)
		}
		row.Done = row.Passed == len(l.Steps)
		if err := e.Encode(row); err != nil {
			return err
		}
	}
	return nil
}

func listText(w io.Writer, progress course.Progress, lang string) error {
	say := course.Say(lang)
	rows := [][]string{{say("LAB"), say("TITLE"), say("NEEDS"), say("TIME"), say("DONE")}}
	for _, l := range labs.All() {
		passed := progress.Passed(l)
		done := fmt.Sprintf("%d/%d", passed, len(l.Steps))
		if passed == len(l.Steps) {
			done = "✓"
		} else if passed == 0 {
			done = "–"
		}
		rows = append(rows, []string{l.Name(), l.Title.In(lang), needs(l, say), say("%d min", l.Minutes), done})
	}
	return course.Table(w, rows)
}

// needs tells a lab's needs in a word or two; `nslab doctor` has the details.
func needs(l *course.Lab, say func(string, ...any) string) string {
	var words []string
	for _, n := range l.Needs {
		switch {
		case n == course.NeedRootOrUserns:
			words = append(words, say("root or user namespace"))
		case strings.HasPrefix(string(n), "cgroup."):
			words = append(words, say("control groups"))
		}
	}
	return strings.Join(slices.Compact(words), ", ")
}
