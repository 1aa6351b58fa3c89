package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
)

func newContainerTopCmd(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top CONTAINER [ps OPTIONS]",
		Short: "Display the running processes of a container",
		Long: `Display the processes of a container as the host sees them, with the host's
numbers. With options, the host's ps(1) is asked.`,
		Example: `  nslab container top web
  nslab container top web -o pid,comm
  nslab container top web aux`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containersThat(runningContainer), 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				if len(args) > 1 {
					return topOf(ctx, cmd.OutOrStdout(), e, args[0], args[1:])
				}
				list, err := e.Processes(ctx, args[0])
				if err != nil {
					return err
				}
				return printProcesses(cmd.OutOrStdout(), list, time.Now())
			})
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows is for ps
	return cmd
}

// topTable are columns of the width that Docker's have.
func topTable(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 20, 1, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// printProcesses shows what `ps -ef` does, without ps: a small machine need not have it.
func printProcesses(w io.Writer, list []engine.Process, now time.Time) error {
	names := map[int]string{}
	rows := [][]string{{"UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"}}
	for _, p := range list {
		if names[p.User] == "" {
			names[p.User] = strconv.Itoa(p.User)
			if u, err := user.LookupId(names[p.User]); err == nil {
				names[p.User] = u.Username
			}
		}
		rows = append(rows, []string{
			names[p.User], strconv.Itoa(p.Pid), strconv.Itoa(p.Parent), strconv.Itoa(cpuShare(p, now)), startWord(p.Started, now), p.TTY,
			clock(p.CPU), p.Command,
		})
	}
	return topTable(w, rows)
}

// cpuShare is how many percent of a CPU a process has used in all its life; two digits, as in ps.
func cpuShare(p engine.Process, now time.Time) int {
	life := now.Sub(p.Started)
	if life <= 0 {
		return 0
	}
	return min(99, int(100*p.CPU/life))
}

// startWord is a time of today, a day of this year, or a year.
func startWord(t, now time.Time) string {
	t = t.Local()
	switch {
	case t.Year() != now.Year():
		return t.Format("2006")
	case t.YearDay() != now.YearDay():
		return t.Format("Jan02")
	}
	return t.Format("15:04")
}

// clock is a duration as [days-]hours:minutes:seconds.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	text := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400; days > 0 {
		return fmt.Sprintf("%d-%s", days, text)
	}
	return text
}

// topOf asks ps with the user's options, and shows of its answer what is about the container.
func topOf(ctx context.Context, w io.Writer, e *engine.Engine, ref string, args []string) error {
	pids, err := e.Pids(ctx, ref)
	if err != nil {
		return err
	}
	ps, err := exec.LookPath("ps")
	if err != nil {
		return &statusError{exitFailed, errors.New("ps is not installed here"), "without options, nslab needs none"}
	}
	answer, err := askPs(ctx, ps, args, pids)
	if err != nil {
		return err
	}
	rows, err := pickProcesses(answer, pids)
	if err != nil {
		return err
	}
	return topTable(w, rows)
}

// askPs asks for these processes only; some options do not go with that, and then for all.
func askPs(ctx context.Context, ps string, args []string, pids []int) (string, error) {
	list := make([]string, len(pids))
	for i, pid := range pids {
		list[i] = strconv.Itoa(pid)
	}
	answer, err := runPs(ctx, ps, append(slices.Clone(args), "-q"+strings.Join(list, ",")))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		answer, err = runPs(ctx, ps, args)
	}
	if errors.As(err, &exit) {
		first, _, _ := bytes.Cut(bytes.TrimSpace(exit.Stderr), []byte("\n"))
		return "", fmt.Errorf("ps: %s", first)
	}
	if err != nil {
		return "", fmt.Errorf("run ps: %w", err)
	}
	return answer, nil
}

func runPs(ctx context.Context, ps string, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, ps, args...)
	cmd.Env = append(os.Environ(), "COLUMNS=") // lines as long as they are
	out, err := cmd.Output()
	return string(out), err
}

// pickProcesses takes the table of ps apart, and leaves of it the processes with these numbers.
func pickProcesses(table string, pids []int) (rows [][]string, err error) {
	lines := strings.Split(strings.TrimRight(table, "\n"), "\n")
	heads := strings.Fields(lines[0])
	column := slices.Index(heads, "PID")
	if column < 0 {
		return nil, &statusError{exitFailed, errors.New("couldn't find PID field in ps output"), "add pid to what is asked of ps"}
	}
	rows = append(rows, heads)
	kept := false
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if len(fields) < len(heads) {
			continue
		}
		if fields[column] != "-" { // that is a thread of the process above
			pid, err := strconv.Atoi(fields[column])
			if err != nil {
				return nil, fmt.Errorf("ps: %q is no process number", fields[column])
			}
			kept = slices.Contains(pids, pid)
		}
		if kept {
			last := len(heads) - 1
			rows = append(rows, append(fields[:last:last], strings.Join(fields[last:], " ")))
		}
	}
	return rows, nil
}
