package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nslab/nslab/cmd/nslab/opts"
	"github.com/nslab/nslab/engine"
)

// updateFlags are the limits that can be changed.
type updateFlags struct {
	blkioWeight                               uint16
	cpuPeriod, cpuQuota, cpuShares, pidsLimit int64
	cpuRtPeriod, cpuRtRuntime                 int64
	cpus                                      opts.CPUs
	cpusetCpus, cpusetMems                    string
	memory, memoryReservation, memorySwap     opts.Bytes
}

func newContainerUpdateCmd(g *globals) *cobra.Command {
	f := &updateFlags{}
	cmd := &cobra.Command{
		Use:   "update [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Update configuration of one or more containers",
		Long: `Change the limits of containers, at once where they run, and for when they run
again. Either all of a container's limits are changed, or none.`,
		Example: `  nslab container update -m 256m web
  nslab container update --cpus 0.5 --pids-limit 100 web db`,
		Args:              needArgs(1, -1),
		ValidArgsFunction: completeNames(g.containerNames, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !anyFlag(cmd) {
				return &statusError{exitFailed, errors.New("you must provide one or more flags when using this command"), "'nslab container update --help' shows them"}
			}
			return eachNamed(cmd, g, args, func(ctx context.Context, e *engine.Engine, ref string) error {
				return e.Update(ctx, ref, func(r *engine.Resources) error { return f.apply(cmd.Flags(), r) })
			})
		},
	}
	f.add(cmd.Flags())
	return explainable(cmd)
}

// anyFlag says whether a flag of the command's own was given.
func anyFlag(cmd *cobra.Command) (given bool) {
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { given = given || f.Changed && f.Name != "explain" })
	return given
}

func (f *updateFlags) add(flags *pflag.FlagSet) {
	a := adder{flags}
	a.Uint16Var(&f.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	a.Int64Var(&f.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	a.Int64Var(&f.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	a.Int64Var(&f.cpuRtPeriod, "cpu-rt-period", 0, "Limit the CPU real-time period in microseconds")
	a.Int64Var(&f.cpuRtRuntime, "cpu-rt-runtime", 0, "Limit the CPU real-time runtime in microseconds")
	a.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	a.Var(&f.cpus, "cpus", "Number of CPUs")
	a.StringVar(&f.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	a.StringVar(&f.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	f.memory.NotZero = true
	a.VarP(&f.memory, "memory", "m", "Memory limit")
	a.Var(&f.memoryReservation, "memory-reservation", "Memory soft limit")
	f.memorySwap.Infinite = true
	a.Var(&f.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: -1 to enable unlimited swap")
	a.Int64Var(&f.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	a.word("restart", "", "", "Restart policy to apply when a container exits", opts.Restart) // there is only "no"
}

// apply changes the limits of a container to what was asked for, and looks at the whole.
func (f *updateFlags) apply(flags *pflag.FlagSet, r *engine.Resources) error {
	for flag, change := range map[string]func(){
		"blkio-weight":       func() { r.BlkioWeight = f.blkioWeight },
		"cpu-period":         func() { r.CPUPeriod = f.cpuPeriod },
		"cpu-quota":          func() { r.CPUQuota = f.cpuQuota },
		"cpu-rt-period":      func() { r.CPURealtimePeriod = f.cpuRtPeriod },
		"cpu-rt-runtime":     func() { r.CPURealtimeRuntime = f.cpuRtRuntime },
		"cpu-shares":         func() { r.CPUShares = f.cpuShares },
		"cpus":               func() { r.NanoCPUs = int64(f.cpus) },
		"cpuset-cpus":        func() { r.CpusetCpus = f.cpusetCpus },
		"cpuset-mems":        func() { r.CpusetMems = f.cpusetMems },
		"memory":             func() { r.Memory = f.memory.N },
		"memory-reservation": func() { r.MemoryReservation = f.memoryReservation.N },
		"memory-swap":        func() { r.MemorySwap = f.memorySwap.N },
		"pids-limit":         func() { r.PidsLimit = &f.pidsLimit },
	} {
		if flags.Changed(flag) {
			change()
		}
	}
	if flags.Changed("pids-limit") && f.pidsLimit == 0 {
		r.PidsLimit = new(int64(-1)) // no limit: 0 would be to leave it as it is
	}
	if flags.Changed("memory") && !flags.Changed("memory-swap") && r.MemorySwap > 0 && r.Memory > r.MemorySwap {
		return &opts.Error{
			Flag: "--memory", Err: errors.New("memory limit should be smaller than already set memoryswap limit"), Hint: "give --memory-swap, too",
		}
	}
	return withStatus(exitFailed, opts.CheckResources(r, opts.ThisMachine(), true))
}
