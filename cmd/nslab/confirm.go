package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// confirm asks before something is done that cannot be undone. Whoever says nothing says no.
func confirm(cmd *cobra.Command, warning string) (bool, error) {
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\nAre you sure you want to continue? [y/N] ", warning); err != nil {
		return false, err
	}
	answer, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), maxAnswer)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	return strings.EqualFold(strings.TrimSpace(answer), "y"), nil
}

// maxAnswer bounds what is read for a "y".
const maxAnswer = 1024
