package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/doctor"
	"github.com/nslab/nslab/labs"
)

func newDoctorCmd(g *globals) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out which labs this machine can run, and what the others lack",
		Long: `Find out what this machine can do, by doing it: every kind of namespace, control
groups with each controller, mounts, network devices, firewall tables, in
throw-away processes. Nothing is left behind.

Each probe has a mark: ✓ it works, ✗ it does not (with the labs that it blocks,
and a hint what to do), · worth knowing.

With --format json each probe is one line,
  {"id","state":"ok"|"missing"|"note","ok","found","blocks":[LAB],"remedy":[…]}
and the last line is about the labs,
  {"result":"ready"|"blocked","labs":[{"lab","ready","blocked_by":[ID]}]}

Exit status: 0 every lab can run, 3 some lab cannot, 2 wrong usage.`,
		Example: `  nslab doctor
  nslab doctor --lang zh
  nslab doctor --format json | jq -r 'select(.ok == false) | .id, .remedy[]'
  nslab doctor --format json | jq -r '.labs[]? | select(.ready).lab'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			return examine(cmd, g, format)
		},
	}
	formatFlag(cmd, &format)
	return cmd
}

// examine runs the probes and reports them.
func examine(cmd *cobra.Command, g *globals, format string) error {
	// A probe in the middle of something is let undo it first.
	ctx, stop := interruptible()
	defer stop()
	course, lang := labs.All(), g.language()
	results := doctor.Examine(ctx, doctor.Options{Labs: course, RunRoot: g.runRoot})
	if ctx.Err() != nil {
		return interrupted(context.Cause(ctx))
	}
	report := doctor.Report
	if format == "json" {
		report = doctor.ReportJSON
	}
	if err := report(cmd.OutOrStdout(), results, course, lang); err != nil {
		return interrupted(err)
	}
	if blocked := doctor.Blocked(results, course); len(blocked) > 0 {
		return &statusError{status: exitBlocked, err: errors.New(doctor.CannotRun(blocked, lang))}
	}
	return nil
}
