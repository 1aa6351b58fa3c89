// Command runtime measures what nslab's containers cost, side by side with crun, runc, podman and docker on the same root
// file system, and prints the ratios that the project's design asks for. bench/runtime.sh builds and starts it.
//
// Beside the peers stands a floor: namespaces, another root and the program, in C, and nsenter for exec. The difference
// between it and a side is what that side does on top, and pays for. A peer that is missing, or refuses this machine, is
// named with its reason and left out.
//
// Everything lies below one folder, has roots and daemons of its own, and is taken away at the end.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	nslab := flag.String("nslab", "bin/nslab", "the nslab to measure")
	floor := flag.String("floor", "", "the program built from floor/floor.c; unshare and chroot without it")
	only := flag.String("only", "", "only works whose name has this in it")
	flag.Parse()
	rounds := 3
	if flag.NArg() > 0 {
		if rounds, err = strconv.Atoi(flag.Arg(0)); err != nil || rounds < 1 {
			return fmt.Errorf("%q is no number of rounds", flag.Arg(0))
		}
	}

	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove()) }()

	var sides []*side
	for _, s := range []*side{floorSide(*floor), crunSide(true), crunSide(false), runcSide(), podmanSide(), dockerSide(), nslabSide(*nslab)} {
		if err := s.setup(ctx, b); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Printf("left out: %s: %v\n", s.name, err)
			continue
		}
		sides = append(sides, s)
	}
	fmt.Println()
	return measure(ctx, b, sides, rounds, *only)
}
