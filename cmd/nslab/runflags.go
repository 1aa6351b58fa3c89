package main

import (
	"github.com/spf13/pflag"

	"github.com/nslab/nslab/cmd/nslab/opts"
)

// runFlags are the flags of `container run` and `container create`: Docker's, with its letters, words and defaults. What
// they come to is a [request].
type runFlags struct {
	// The command's own.
	detach, sigProxy, quiet, explain bool
	detachKeys                       string
	name, pull, platform, driver     *opts.Word

	// The program, and what it sees.
	attach, env, envFile, groupAdd, label, labelFile *opts.List
	entrypoint, cidfile                              string
	hostname, domainname, user, workdir, restart     *opts.Word
	interactive, tty, rm, init, readOnly             bool
	stopTimeout                                      int
	stopSignal                                       *opts.Word

	// Namespaces, network and rights.
	pid, ipc, uts, userns, cgroupns    *opts.Word
	network                            opts.Networks
	ip, ip6, macAddress                *opts.Word
	networkAlias, publish, expose      *opts.List
	publishAll                         bool
	addHost, dns, dnsOption, dnsSearch *opts.List
	capAdd, capDrop, securityOpt       *opts.List
	privileged                         bool
	sysctl                             *opts.Map

	// Files.
	volume, volumesFrom, mount, logOpt *opts.List
	tmpfs                              *opts.Map
	logDriver                          *opts.Word
	shmSize                            opts.Bytes

	// Limits.
	blkioWeight                               uint16
	blkioWeightDevice                         opts.Weights
	readBps, writeBps, readIOps, writeIOps    opts.Throttles
	cgroupParent                              *opts.Word
	cpuPeriod, cpuQuota, cpuShares, pidsLimit int64
	cpuRtPeriod, cpuRtRuntime, swappiness     int64
	cpus                                      opts.CPUs
	cpusetCpus, cpusetMems                    string
	device                                    opts.Devices
	deviceRule                                *opts.List
	memory, memoryReservation, memorySwap     opts.Bytes
	oomKillDisable                            bool
	oomScoreAdj                               int
	ulimit                                    opts.Ulimits
}

// addRunFlags registers the flags. What follows the image belongs to the program, flags or not. run adds those that make
// sense only where the container is started, too.
func addRunFlags(flags *pflag.FlagSet, run bool) *runFlags {
	flags.SetInterspersed(false)
	f := &runFlags{}
	// -h is the host name, so the help has no letter here.
	flags.Bool("help", false, "Print usage")
	f.addOwn(flags, run)
	f.addProgram(flags)
	f.addSurroundings(flags)
	f.addFiles(flags)
	f.addLimits(flags)
	addUnsupported(flags)
	return f
}

// adder registers flags of the types that opts has.
type adder struct{ *pflag.FlagSet }

func (a adder) list(name, letter, usage string, check func(string) (string, error)) *opts.List {
	l := opts.NewList(check)
	a.VarP(l, name, letter, usage)
	return l
}

func (a adder) word(name, letter, value, usage string, check func(string) (string, error)) *opts.Word {
	w := opts.NewWord(value, check)
	a.VarP(w, name, letter, usage)
	return w
}

func (a adder) pairs(name, usage string, check func(string) (string, error)) *opts.Map {
	m := opts.NewMap(check)
	a.Var(m, name, usage)
	return m
}

// hidden is a second name for a flag, which Docker knows from earlier days.
func (a adder) hidden(name string, value pflag.Value) {
	a.Var(value, name, "")
	a.MarkHidden(name)
}

func (f *runFlags) addOwn(flags *pflag.FlagSet, run bool) {
	a := adder{flags}
	if run {
		a.BoolVarP(&f.detach, "detach", "d", false, "Run container in background and print container ID")
		a.BoolVar(&f.sigProxy, "sig-proxy", true, "Proxy received signals to the process")
		a.StringVar(&f.detachKeys, "detach-keys", "", "Override the key sequence for detaching a container")
	}
	f.name = a.word("name", "", "", "Assign a name to the container", opts.Name)
	f.pull = a.word("pull", "", "missing", `Pull image before running ("always", "missing", "never")`, opts.Pull)
	f.platform = a.word("platform", "", "", "Set platform if the image has several", opts.Platform)
	a.BoolVarP(&f.quiet, "quiet", "q", false, "Suppress the pull output")
	a.StringVar(&f.cidfile, "cidfile", "", "Write the container ID to the file")
	a.BoolVar(&f.rm, "rm", false, "Automatically remove the container and its associated anonymous volumes when it exits")
	f.restart = a.word("restart", "", "no", "Restart policy to apply when a container exits", opts.Restart)
	f.driver = a.word("driver", "", "", "Union file system: overlay, aufs or aufs-fuse (default: the first that works)", opts.Driver)
	a.BoolVar(&f.explain, "explain", false, "Show what each stage does, with the system calls and the time they take")
}

func (f *runFlags) addProgram(flags *pflag.FlagSet) {
	a := adder{flags}
	f.attach = a.list("attach", "a", "Attach to STDIN, STDOUT or STDERR", opts.Attach)
	f.env = a.list("env", "e", "Set environment variables", opts.Env)
	f.envFile = a.list("env-file", "", "Read in a file of environment variables", nil)
	a.StringVar(&f.entrypoint, "entrypoint", "", "Overwrite the default ENTRYPOINT of the image")
	f.groupAdd = a.list("group-add", "", "Add additional groups to join", opts.Group)
	f.hostname = a.word("hostname", "h", "", "Container host name", opts.Hostname)
	f.domainname = a.word("domainname", "", "", "Container NIS domain name", opts.Hostname)
	a.BoolVarP(&f.interactive, "interactive", "i", false, "Keep STDIN open even if not attached")
	a.BoolVarP(&f.tty, "tty", "t", false, "Allocate a pseudo-TTY")
	f.label = a.list("label", "l", "Set meta data on a container", opts.Label)
	f.labelFile = a.list("label-file", "", "Read in a line delimited file of labels", nil)
	f.stopSignal = a.word("stop-signal", "", "", "Signal to stop the container", opts.Signal)
	a.IntVar(&f.stopTimeout, "stop-timeout", 0, "Timeout (in seconds) to stop a container")
	f.user = a.word("user", "u", "", "Username or UID (format: <name|uid>[:<group|gid>])", opts.User)
	f.workdir = a.word("workdir", "w", "", "Working directory inside the container", opts.Workdir)
	a.BoolVar(&f.init, "init", false, "Run an init inside the container that forwards signals and reaps processes")
	a.BoolVar(&f.readOnly, "read-only", false, "Mount the container's root filesystem as read only")
}

func (f *runFlags) addSurroundings(flags *pflag.FlagSet) {
	a := adder{flags}
	f.pid = a.word("pid", "", "", "PID namespace to use: host, container:NAME", opts.PidMode)
	f.ipc = a.word("ipc", "", "", "IPC namespace to use: private, shareable, host, none, container:NAME", opts.IpcMode)
	f.uts = a.word("uts", "", "", "UTS namespace to use: host", opts.UTSMode)
	f.userns = a.word("userns", "", "", "User namespace to use (host)", opts.UsernsMode)
	f.cgroupns = a.word("cgroupns", "", "", "Cgroup namespace to use: private, host", opts.CgroupnsMode)
	a.Var(&f.network, "network", "Connect a container to a network: NAME, none, host, container:NAME")
	a.hidden("net", &f.network)
	f.ip = a.word("ip", "", "", "IPv4 address (e.g., 172.30.100.104)", opts.IPv4)
	f.ip6 = a.word("ip6", "", "", "IPv6 address (e.g., 2001:db8::33)", opts.IPv6)
	f.macAddress = a.word("mac-address", "", "", "Container MAC address (e.g., 92:d0:c6:0a:29:33)", opts.MAC)
	f.networkAlias = a.list("network-alias", "", "Add network-scoped alias for the container", opts.Alias)
	a.hidden("net-alias", f.networkAlias)
	f.publish = a.list("publish", "p", "Publish a container's port(s) to the host", opts.Publish)
	a.BoolVarP(&f.publishAll, "publish-all", "P", false, "Publish all exposed ports to random ports")
	f.expose = a.list("expose", "", "Expose a port or a range of ports", opts.Expose)
	f.addHost = a.list("add-host", "", "Add a custom host-to-IP mapping (host:ip)", opts.ExtraHost)
	f.dns = a.list("dns", "", "Set custom DNS servers", opts.IP)
	f.dnsOption = a.list("dns-option", "", "Set DNS options", opts.Line)
	a.hidden("dns-opt", f.dnsOption)
	f.dnsSearch = a.list("dns-search", "", "Set custom DNS search domains", opts.SearchDomain)
	f.capAdd = a.list("cap-add", "", "Add Linux capabilities", opts.Capability)
	f.capDrop = a.list("cap-drop", "", "Drop Linux capabilities", opts.Capability)
	a.BoolVar(&f.privileged, "privileged", false, "Give extended privileges to this container")
	f.securityOpt = a.list("security-opt", "", "Security options: no-new-privileges, seccomp=FILE, seccomp=unconfined, systempaths=unconfined", nil)
	f.sysctl = a.pairs("sysctl", "Sysctl options", opts.Sysctl)
}

func (f *runFlags) addFiles(flags *pflag.FlagSet) {
	a := adder{flags}
	f.volume = a.list("volume", "v", "Bind mount a volume", nil)
	f.volumesFrom = a.list("volumes-from", "", "Mount volumes from the specified container(s)", opts.VolumesFrom)
	f.mount = a.list("mount", "", "Attach a filesystem mount to the container", nil)
	f.tmpfs = a.pairs("tmpfs", "Mount a tmpfs directory", opts.Tmpfs)
	a.Var(&f.shmSize, "shm-size", "Size of /dev/shm")
	f.logDriver = a.word("log-driver", "", "", "Logging driver for the container: json-file, none", opts.LogDriver)
	f.logOpt = a.list("log-opt", "", "Log driver options: max-size, max-file", nil)
}

func (f *runFlags) addLimits(flags *pflag.FlagSet) {
	a := adder{flags}
	a.Uint16Var(&f.blkioWeight, "blkio-weight", 0, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)")
	a.Var(&f.blkioWeightDevice, "blkio-weight-device", "Block IO weight (relative device weight)")
	f.cgroupParent = a.word("cgroup-parent", "", "", "Optional parent cgroup for the container", opts.CgroupParent)
	a.Int64Var(&f.cpuPeriod, "cpu-period", 0, "Limit CPU CFS (Completely Fair Scheduler) period")
	a.Int64Var(&f.cpuQuota, "cpu-quota", 0, "Limit CPU CFS (Completely Fair Scheduler) quota")
	a.Int64Var(&f.cpuRtPeriod, "cpu-rt-period", 0, "Limit CPU real-time period in microseconds")
	a.Int64Var(&f.cpuRtRuntime, "cpu-rt-runtime", 0, "Limit CPU real-time runtime in microseconds")
	a.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "CPU shares (relative weight)")
	a.Var(&f.cpus, "cpus", "Number of CPUs")
	a.StringVar(&f.cpusetCpus, "cpuset-cpus", "", "CPUs in which to allow execution (0-3, 0,1)")
	a.StringVar(&f.cpusetMems, "cpuset-mems", "", "MEMs in which to allow execution (0-3, 0,1)")
	a.Var(&f.device, "device", "Add a host device to the container")
	f.deviceRule = a.list("device-cgroup-rule", "", "Add a rule to the cgroup allowed devices list", opts.DeviceRule)
	f.readIOps.Ops, f.writeIOps.Ops = true, true
	a.Var(&f.readBps, "device-read-bps", "Limit read rate (bytes per second) from a device")
	a.Var(&f.readIOps, "device-read-iops", "Limit read rate (IO per second) from a device")
	a.Var(&f.writeBps, "device-write-bps", "Limit write rate (bytes per second) to a device")
	a.Var(&f.writeIOps, "device-write-iops", "Limit write rate (IO per second) to a device")
	f.memory.NotZero = true
	a.VarP(&f.memory, "memory", "m", "Memory limit")
	a.Var(&f.memoryReservation, "memory-reservation", "Memory soft limit")
	f.memorySwap.Infinite = true
	a.Var(&f.memorySwap, "memory-swap", "Swap limit equal to memory plus swap: '-1' to enable unlimited swap")
	a.Int64Var(&f.swappiness, "memory-swappiness", -1, "Tune container memory swappiness (0 to 100)")
	a.BoolVar(&f.oomKillDisable, "oom-kill-disable", false, "Disable OOM Killer")
	a.IntVar(&f.oomScoreAdj, "oom-score-adj", 0, "Tune host's OOM preferences (-1000 to 1000)")
	a.Int64Var(&f.pidsLimit, "pids-limit", 0, "Tune container pids limit (set -1 for unlimited)")
	a.Var(&f.ulimit, "ulimit", "Ulimit options")
}

// addUnsupported registers those of Docker's flags that nslab lacks. They are not in the help; whoever types one learns
// why it does nothing here, and not that it is unknown.
func addUnsupported(flags *pflag.FlagSet) {
	const (
		network  = "containers on a network of their own ('nslab network create') find each other by name"
		health   = "nslab has no health checks: they need a daemon"
		windows  = "it is for Windows"
		later    = "nslab has not got it yet"
		external = "nslab has no plugins"
	)
	for _, u := range []struct{ name, letter, kind, why string }{
		{"annotation", "", "map", later}, {"gpus", "", "gpu-request", later},
		{"health-cmd", "", "string", health}, {"health-interval", "", "duration", health}, {"health-retries", "", "int", health},
		{"health-start-interval", "", "duration", health}, {"health-start-period", "", "duration", health}, {"health-timeout", "", "duration", health},
		{"link", "", "list", network}, {"link-local-ip", "", "list", later},
		{"kernel-memory", "", "bytes", "the kernel has no such limit since Linux 5.16: use --memory"},
		{"cpu-count", "", "int", windows}, {"cpu-percent", "", "int", windows}, {"io-maxbandwidth", "", "bytes", windows},
		{"io-maxiops", "", "uint", windows}, {"isolation", "", "string", windows},
		{"runtime", "", "string", "nslab is the runtime"}, {"storage-opt", "", "list", later}, {"use-api-socket", "", "bool", "there is no daemon, and no socket of it"},
		{"volume-driver", "", "string", external},
	} {
		flag := flags.VarPF(opts.Unsupported{Kind: u.kind, Why: u.why}, u.name, u.letter, "")
		flag.Hidden = true
		if u.kind == "bool" {
			flag.NoOptDefVal = "true"
		}
	}
	// These ask for what nslab does anyway.
	flags.Bool("no-healthcheck", false, "")
	flags.Bool("disable-content-trust", true, "")
	flags.MarkHidden("no-healthcheck")
	flags.MarkHidden("disable-content-trust")
}
