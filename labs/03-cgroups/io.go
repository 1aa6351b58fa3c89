package cgroups

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// io writes the limits on block devices: v1's blkio, v2's io controller.
//
// Throttles count what reaches the device. v1 sees only who submits the request: data that is written to the page cache
// and flushed later by the kernel is nobody's, so v1 throttles O_DIRECT and reads only. v2 remembers whose page it was,
// given a file system that tells it (ext4, xfs, btrfs).
func (s *setter) io(b *specs.LinuxBlockIO) {
	if b.LeafWeight != nil {
		s.unsupported("blockIO.leafWeight", s.group.Version("io")) // CFQ, which had it, left the kernel in 5.0
		return
	}
	if b.Weight != nil && *b.Weight != 0 {
		s.ioWeight("", *b.Weight)
	}
	for _, d := range b.WeightDevice {
		if d.LeafWeight != nil {
			s.unsupported("blockIO.weightDevice.leafWeight", s.group.Version("io"))
			return
		}
		if d.Weight != nil {
			s.ioWeight(fmt.Sprintf("%d:%d ", d.Major, d.Minor), *d.Weight)
		}
	}
	s.throttle(b.ThrottleReadBpsDevice, "blkio.throttle.read_bps_device", "rbps")
	s.throttle(b.ThrottleWriteBpsDevice, "blkio.throttle.write_bps_device", "wbps")
	s.throttle(b.ThrottleReadIOPSDevice, "blkio.throttle.read_iops_device", "riops")
	s.throttle(b.ThrottleWriteIOPSDevice, "blkio.throttle.write_iops_device", "wiops")
}

func (s *setter) throttle(devices []specs.LinuxThrottleDevice, v1, v2 string) {
	for _, d := range devices {
		switch {
		case !s.v2("io"):
			s.put("io", v1, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)) // 0 lifts it
		case d.Rate == 0:
			s.put("io", "io.max", fmt.Sprintf("%d:%d %s=max", d.Major, d.Minor, v2))
		default:
			s.put("io", "io.max", fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, v2, d.Rate))
		}
	}
}

// ioWeight needs the scheduler bfq on the device, or v2's io.cost, which has a range of its own.
func (s *setter) ioWeight(device string, weight uint16) {
	switch {
	case !s.v2("io") && device != "":
		s.put("io", "blkio.bfq.weight_device", fmt.Sprintf("%s%d", device, weight))
	case !s.v2("io"):
		s.put("io", "blkio.bfq.weight", weight)
	case s.has("io", "io.bfq.weight"):
		s.put("io", "io.bfq.weight", fmt.Sprintf("%s%d", device, weight))
	case device != "":
		s.put("io", "io.weight", fmt.Sprintf("%s%d", device, ioWeightV2(weight)))
	default:
		s.put("io", "io.weight", fmt.Sprintf("default %d", ioWeightV2(weight)))
	}
}

// ioWeightV2 maps the runtime-spec's 10 to 1000 onto io.weight's 1 to 10000 in a straight line, as runc and crun do.
func ioWeightV2(weight uint16) uint64 {
	w := max(uint64(weight), 10)
	return 1 + (w-10)*9999/990
}
