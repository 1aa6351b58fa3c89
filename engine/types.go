package engine

import (
	"time"

	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// What the user asked for, in two parts as Docker has them: Config goes with the image and would be the same on any
// machine, HostConfig is about this one. The field names are those of Docker's API, so that `inspect` shows what people
// and scripts know. Flags are translated into these once, in cmd; [Engine.Create] checks them against the image and the
// machine, and translates them into a runtime-spec.

// Config is what a container is, on whatever machine. What is empty comes from the image.
type Config struct {
	Hostname     string // the first 12 digits of the id if empty
	Domainname   string
	User         string // user[:group], names of the image's /etc/passwd or numbers
	AttachStdin  bool
	AttachStdout bool
	AttachStderr bool
	Tty          bool // -t
	OpenStdin    bool // -i
	StdinOnce    bool // close the container's standard input when the client that attached it is gone
	Env          []string
	Cmd          []string
	Entrypoint   []string            // an empty list is taken from the image; [""] removes the image's
	Image        string              // as the user wrote it
	Volumes      map[string]struct{} `json:",omitempty"` // -v /path: places for anonymous volumes
	WorkingDir   string
	Labels       map[string]string
	StopSignal   string              `json:",omitempty"`
	StopTimeout  *int                `json:",omitempty"` // seconds
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Healthcheck  any                 `json:",omitempty"`
}

// HostConfig is how this machine is to run it.
type HostConfig struct {
	Binds           []string          // -v, as they were written
	Mounts          []volumes.Mount   `json:",omitempty"` // -v and --mount, parsed; relative sources made absolute by cmd
	VolumesFrom     []string          `json:",omitempty"` // NAME[:ro|rw]: containers whose volumes this one gets as well
	Tmpfs           map[string]string `json:",omitempty"`
	ContainerIDFile string
	LogConfig       LogConfig
	NetworkMode     string // a network's name, or none, host, container:ID; "default" if nothing is said
	RestartPolicy   RestartPolicy
	AutoRemove      bool // --rm
	ConsoleSize     [2]uint

	CapAdd, CapDrop []string
	ExtraHosts      []string
	DNS             []string `json:"Dns"`
	DNSOptions      []string `json:"DnsOptions"`
	DNSSearch       []string `json:"DnsSearch"`
	GroupAdd        []string
	IpcMode         string // private, host, shareable, none, container:ID
	PidMode         string // "", host, container:ID
	UTSMode         string // "", host
	UsernsMode      string // "" or host
	CgroupnsMode    string // private, host
	Privileged      bool
	PublishAllPorts bool
	PortBindings    map[string][]PortBinding // by "80/tcp"
	ReadonlyRootfs  bool
	SecurityOpt     []string
	SeccompProfile  []byte            `json:",omitempty"` // the file that --security-opt seccomp=FILE named, as cmd has read it
	ShmSize         int64             // bytes, 0 for 64 MiB
	Sysctls         map[string]string `json:",omitempty"`
	Init            bool
	OomScoreAdj     int

	Resources

	Driver   string // overlay, aufs, aufs-fuse; empty: the first that works
	Platform string // os/arch[/variant]
	Pull     string // missing, never, always

	MaskedPaths   []string
	ReadonlyPaths []string
}

// Resources are the limits of a container, and what `update` changes.
type Resources struct {
	CPUShares          int64  `json:"CpuShares"`
	Memory             int64  // bytes
	NanoCPUs           int64  `json:"NanoCpus"` // --cpus, in thousand millionths of a CPU
	CgroupParent       string // folder below which the container's group is made
	BlkioWeight        uint16
	BlkioWeightDevice  []WeightDevice
	BlkioReadBps       []ThrottleDevice `json:"BlkioDeviceReadBps"`
	BlkioWriteBps      []ThrottleDevice `json:"BlkioDeviceWriteBps"`
	BlkioReadIOps      []ThrottleDevice `json:"BlkioDeviceReadIOps"`
	BlkioWriteIOps     []ThrottleDevice `json:"BlkioDeviceWriteIOps"`
	CPUPeriod          int64            `json:"CpuPeriod"` // microseconds
	CPUQuota           int64            `json:"CpuQuota"`  // microseconds in each period
	CPURealtimePeriod  int64            `json:"CpuRealtimePeriod"`
	CPURealtimeRuntime int64            `json:"CpuRealtimeRuntime"`
	CpusetCpus         string
	CpusetMems         string
	Devices            []Device
	DeviceCgroupRules  []string
	KernelMemory       int64
	MemoryReservation  int64
	MemorySwap         int64 // memory and swap together, -1 unlimited
	MemorySwappiness   *int64
	OomKillDisable     *bool
	PidsLimit          *int64
	Ulimits            []Ulimit
}

// WeightDevice is --blkio-weight-device.
type WeightDevice struct {
	Path   string
	Weight uint16
}

// ThrottleDevice is --device-read-bps and its like; Rate is bytes or operations in a second.
type ThrottleDevice struct {
	Path string
	Rate uint64
}

// Device is --device: a device file of the host, or a folder of such.
type Device struct {
	PathOnHost        string
	PathInContainer   string
	CgroupPermissions string // of r, w and m
}

// Ulimit is --ulimit.
type Ulimit struct {
	Name string // "nofile"
	Hard int64  // -1: unlimited
	Soft int64
}

// LogConfig is --log-driver and --log-opt.
type LogConfig struct {
	Type   string // json-file, none
	Config map[string]string
}

// RestartPolicy is --restart. Without a daemon there is nobody to restart anything: only "no" is taken.
type RestartPolicy struct {
	Name              string
	MaximumRetryCount int
}

// Status is what a container does, in Docker's words.
type Status string

// The states of a container.
const (
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Exited   Status = "exited"
	Removing Status = "removing"
	Dead     Status = "dead" // could not be removed whole
)

// State is how a container is, or how its last run ended.
type State struct {
	Status     Status
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int // on the host, 0 where it does not run
	ExitCode   int
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
}
