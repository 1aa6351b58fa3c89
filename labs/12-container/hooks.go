package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Hooks are programs of the host that take part in a container's life; the runtime-spec says when each list runs, and in
// whose namespaces. Each gets the container's state on its standard input.

// hasHooks tells whether the init must stop for some before it changes its root.
func hasHooks(h *specs.Hooks) bool {
	return h != nil && len(runtimeHooks(h))+len(h.CreateContainer) > 0
}

// runtimeHooks are those that run in the namespaces of the runtime when the container's are made.
func runtimeHooks(h *specs.Hooks) []specs.Hook {
	//lint:ignore SA1019 the older list is deprecated, and the specification wants it run all the same, first
	return slices.Concat(h.Prestart, h.CreateRuntime)
}

// runHooks runs one list, in order. The first that fails ends it.
func runHooks(ctx context.Context, hooks []specs.Hook, state specs.State) error {
	for _, h := range hooks {
		if err := runHook(ctx, h, state); err != nil {
			return fmt.Errorf("12-container: hook %s: %w", h.Path, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, state specs.State) error {
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...)
	cmd.Stdin = bytes.NewReader(input)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // a grandchild may hold the pipe
	err = cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	if err != nil && said.Len() > 0 {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return err
}
