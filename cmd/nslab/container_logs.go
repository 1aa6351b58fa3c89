package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/nslab/nslab/engine"
	"github.com/nslab/nslab/engine/logs"
)

func newContainerLogsCmd(g *globals) *cobra.Command {
	var since, until, tail string
	o := logs.ReadOptions{Stdout: true, Stderr: true}
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] CONTAINER",
		Short: "Fetch the logs of a container",
		Long: `Print what a container has printed: to standard output what went there, and to
standard error what went there.`,
		Example: `  nslab container logs web 2>errors
  nslab container logs -f --tail 10 web
  nslab container logs --since 5m -t web`,
		Args:              needArgs(1, 1),
		ValidArgsFunction: completeNames(g.containerNames, 1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			now := time.Now()
			if o.Since, err = logTime("since", since, now); err != nil {
				return err
			}
			if o.Until, err = logTime("until", until, now); err != nil {
				return err
			}
			if o.Tail, err = logTail(tail); err != nil {
				return err
			}
			return withEngine(g, func(ctx context.Context, e *engine.Engine) error {
				return e.Logs(ctx, args[0], o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.Details, "details", false, "Show extra details provided to logs")
	flags.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	flags.StringVar(&since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.StringVarP(&tail, "tail", "n", "all", "Number of lines to show from the end of the logs")
	flags.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	flags.StringVar(&until, "until", "", `Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	return cmd
}

// logTime reads --since and --until; nothing is no limit.
func logTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := logs.ParseTime(text, now)
	if err != nil {
		return t, fmt.Errorf("--%s: %w", flag, err)
	}
	return t, nil
}

// logTail reads --tail: a number, where less than 0 is all, or "all". Docker takes all else for "all", too.
func logTail(text string) (int, error) {
	if text == "all" {
		return -1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, &statusError{exitFailed, fmt.Errorf("--tail: %q is no number of lines", text), `a number, or "all"`}
	}
	return n, nil
}
