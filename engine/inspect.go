package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	unionfs "github.com/nslab/nslab/labs/05-unionfs"
	volumes "github.com/nslab/nslab/labs/07-volumes"
)

// Details is a container as `inspect` shows it: Docker's form, with Docker's names, so that what reads the one reads the
// other. Parts that nslab has nothing for are there all the same, empty.
type Details struct {
	ID      string `json:"Id"`
	Created string // RFC 3339, to the nanosecond
	Path    string
	Args    []string
	State   StateDetails
	Image   string

	ResolvConfPath, HostnamePath, HostsPath, LogPath string

	Name         string // with a "/" before it: Docker once had names below names
	RestartCount int
	Driver       string
	Platform     string

	MountLabel, ProcessLabel, AppArmorProfile string

	ExecIDs     []string
	HostConfig  HostDetails
	GraphDriver GraphDriver

	SizeRw, SizeRootFs *int64 `json:",omitempty"`

	Mounts          []MountPoint
	Config          ConfigDetails
	NetworkSettings NetworkSettings
}

// StateDetails is a [State] with times in words.
type StateDetails struct {
	State
	StartedAt, FinishedAt string // RFC 3339; of the year 1 where there is none yet
}

// HostDetails is a [HostConfig] with what only Docker has.
type HostDetails struct {
	HostConfig
	// These take the place of fields of HostConfig that are called the same, since Docker has them elsewhere, or in another
	// form.
	Driver, Platform, Pull, SeccompProfile *string        `json:",omitempty"`
	Mounts                                 []MountDetails `json:",omitempty"`
	Init                                   *bool          `json:",omitempty"`

	VolumeDriver       string
	VolumesFrom        []string
	Cgroup             string
	Links              []string
	Runtime            string
	Isolation          string
	DeviceRequests     []any
	KernelMemoryTCP    int64
	CPUCount           int64 `json:"CpuCount"`
	CPUPercent         int64 `json:"CpuPercent"`
	IOMaximumIOps      uint64
	IOMaximumBandwidth uint64
}

// MountDetails is one of --mount. Those of -v are in Binds.
type MountDetails struct {
	Type          string
	Source        string `json:",omitempty"`
	Target        string
	ReadOnly      bool           `json:",omitempty"`
	BindOptions   *BindOptions   `json:",omitempty"`
	VolumeOptions *VolumeOptions `json:",omitempty"`
	TmpfsOptions  *TmpfsOptions  `json:",omitempty"`
}

// BindOptions are those of a bind.
type BindOptions struct {
	Propagation          string `json:",omitempty"`
	NonRecursive         bool   `json:",omitempty"`
	CreateMountpoint     bool   `json:",omitempty"`
	ReadOnlyNonRecursive bool   `json:",omitempty"`
}

// VolumeOptions are those of a volume.
type VolumeOptions struct {
	NoCopy bool              `json:",omitempty"`
	Labels map[string]string `json:",omitempty"`
}

// TmpfsOptions are those of a tmpfs.
type TmpfsOptions struct {
	SizeBytes int64  `json:",omitempty"`
	Mode      uint32 `json:",omitempty"`
}

// ConfigDetails is a [Config] with what only Docker has.
type ConfigDetails struct {
	Config
	Volumes map[string]struct{} // shown also where there are none
	OnBuild []string
}

// GraphDriver tells of which folders the container's root is made.
type GraphDriver struct {
	Data map[string]string
	Name string
}

// NetworkSettings is how the container is connected. Its fields of an [Endpoint] are those in the default bridge.
type NetworkSettings struct {
	Bridge                 string
	SandboxID              string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	Ports                  map[string][]PortBinding
	SandboxKey             string // the network namespace
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	Endpoint
	Networks map[string]NetworkEndpoint
}

// Endpoint is one end of a network.
type Endpoint struct {
	EndpointID          string
	Gateway             string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	MacAddress          string
}

// NetworkEndpoint is an [Endpoint] with its network.
type NetworkEndpoint struct {
	IPAMConfig map[string]string
	Links      []string
	Aliases    []string
	NetworkID  string
	Endpoint
	DriverOpts map[string]string
	DNSNames   []string
}

// Inspect tells everything about a container.
func (c *Container) Inspect(ctx context.Context) (*Details, error) {
	layers, err := c.Layers(ctx)
	if err != nil {
		return nil, err
	}
	etc := filepath.Join(c.path(initLayer), "etc")
	d := &Details{
		ID: c.ID, Created: inWords(c.Created), Path: c.Path, Args: orEmpty(c.Args),
		State: StateDetails{State: c.State, StartedAt: inWords(c.State.StartedAt), FinishedAt: inWords(c.State.FinishedAt)},
		Image: c.Image, Name: "/" + c.Name, Driver: string(c.Driver), Platform: c.Platform,
		ResolvConfPath: filepath.Join(etc, "resolv.conf"), HostnamePath: filepath.Join(etc, "hostname"),
		HostsPath: filepath.Join(etc, "hosts"), LogPath: c.LogPath(),
		HostConfig: c.hostDetails(), Config: ConfigDetails{Config: c.Config, Volumes: c.Config.Volumes},
		GraphDriver: GraphDriver{Name: string(c.Driver), Data: map[string]string{
			"LowerDir": strings.Join(layers.Lower, ":"), "UpperDir": layers.Upper, "WorkDir": layers.Work, "MergedDir": c.path(rootFolder),
		}},
		Mounts: orEmpty(c.Mounts), NetworkSettings: c.networkSettings(),
	}
	for _, file := range []*string{&d.ResolvConfPath, &d.HostnamePath, &d.HostsPath} {
		if _, err := os.Lstat(*file); err != nil {
			*file = "" // without a network there is no resolver
		}
	}
	if c.HostConfig.LogConfig.Type == "none" {
		d.LogPath = ""
	}
	if d.Config.Labels == nil {
		d.Config.Labels = map[string]string{}
	}
	return d, nil
}

func inWords(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// Layers are the folders that the container's root is made of.
func (c *Container) Layers(ctx context.Context) (unionfs.Layers, error) {
	img, err := c.engine.images.Held(c.Image, c.ID)
	if err != nil {
		return unionfs.Layers{}, err
	}
	lower, err := c.engine.images.Layers(ctx, img, c.Driver)
	if err != nil {
		return unionfs.Layers{}, err
	}
	return c.layers(lower), nil
}

// hostDetails shows lists that are empty as Docker does: some as [], the others as null.
func (c *Container) hostDetails() HostDetails {
	h := HostDetails{HostConfig: c.HostConfig, VolumesFrom: c.HostConfig.VolumesFrom, Runtime: "nslab"}
	if h.PortBindings == nil {
		h.PortBindings = map[string][]PortBinding{}
	}
	h.DNS, h.DNSOptions, h.DNSSearch = orEmpty(h.DNS), orEmpty(h.DNSOptions), orEmpty(h.DNSSearch)
	h.Devices, h.Ulimits = orEmpty(h.Devices), orEmpty(h.Ulimits)
	h.BlkioWeightDevice = orEmpty(h.BlkioWeightDevice)
	for _, list := range []*[]ThrottleDevice{&h.BlkioReadBps, &h.BlkioWriteBps, &h.BlkioReadIOps, &h.BlkioWriteIOps} {
		*list = orEmpty(*list)
	}
	if h.LogConfig.Config == nil {
		h.LogConfig.Config = map[string]string{}
	}
	if h.ShmSize == 0 {
		h.ShmSize = defaultShm
	}
	if m := h.memory(); m != nil && m.Swap != nil {
		h.MemorySwap = *m.Swap // what is said, or what that means where nothing is
	}
	if c.HostConfig.Init {
		h.Init = &c.HostConfig.Init
	}
	for _, m := range c.HostConfig.Mounts[min(len(h.Binds), len(c.HostConfig.Mounts)):] { // those of -v come first
		h.Mounts = append(h.Mounts, mountDetails(m))
	}
	return h
}

func mountDetails(m volumes.Mount) MountDetails {
	d := MountDetails{Type: m.Type, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	bind := BindOptions{m.Propagation, m.NonRecursive, m.Make, m.TopOnly}
	switch {
	case m.Type == volumes.TypeBind && bind != (BindOptions{}):
		d.BindOptions = &bind
	case m.Type == volumes.TypeVolume && (m.NoCopy || len(m.Labels) > 0):
		d.VolumeOptions = &VolumeOptions{m.NoCopy, m.Labels}
	case m.Type == volumes.TypeTmpfs && (m.Size != 0 || m.Mode != 0):
		d.TmpfsOptions = &TmpfsOptions{m.Size, m.Mode}
	}
	return d
}

// defaultShm is the size of /dev/shm where nothing is said.
const defaultShm = 64 << 20

// orEmpty makes of no list an empty one, which in JSON is [] and not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
