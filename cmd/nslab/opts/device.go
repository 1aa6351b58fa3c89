package opts

import (
	"fmt"
	"path"
	"strings"

	"github.com/nslab/nslab/engine"
)

// Devices are --device: HOST[:CONTAINER[:PERMISSIONS]] or HOST:PERMISSIONS, where permissions are of r, w and m (mknod).
type Devices struct{ values []engine.Device }

// Set reads one device. Whether it exists is looked at when the container is made.
func (d *Devices) Set(value string) error {
	if err := plain("device", value); err != nil {
		return err
	}
	parts := strings.Split(value, ":")
	if len(parts) > 3 || parts[0] == "" {
		return fmt.Errorf("bad format for path: %s", value)
	}
	device := engine.Device{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	switch {
	case len(parts) == 3:
		if !permissions(parts[2]) {
			return fmt.Errorf("bad mode specified: %s", parts[2])
		}
		device.PathInContainer, device.CgroupPermissions = parts[1], parts[2]
	case len(parts) == 2 && permissions(parts[1]):
		device.CgroupPermissions = parts[1]
	case len(parts) == 2:
		device.PathInContainer = parts[1]
	}
	for _, p := range []*string{&device.PathInContainer, &device.PathOnHost} {
		if !path.IsAbs(*p) {
			return fmt.Errorf("%s is not an absolute path", *p)
		}
		*p = path.Clean(*p)
	}
	d.values = append(d.values, device)
	return nil
}

// Values are the devices, in order.
func (d *Devices) Values() []engine.Device { return append([]engine.Device{}, d.values...) }

func (d *Devices) String() string {
	var list []string
	for _, v := range d.values {
		list = append(list, v.PathOnHost+":"+v.PathInContainer+":"+v.CgroupPermissions)
	}
	return strings.Join(list, " ")
}

// Type is the word for the value in the help.
func (*Devices) Type() string { return "list" }

// permissions says whether s is made of r, w and m, each at most once.
func permissions(s string) bool {
	for i, c := range s {
		if !strings.ContainsRune("rwm", c) || strings.ContainsRune(s[:i], c) {
			return false
		}
	}
	return s != ""
}

// DeviceRule checks --device-cgroup-rule: "c 1:3 rwm", with * for all.
func DeviceRule(value string) (string, error) {
	bad := fmt.Errorf("invalid device cgroup format %s", quoted(value))
	parts := strings.Split(value, " ")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("acb", parts[0]) {
		return "", bad
	}
	major, minor, ok := strings.Cut(parts[1], ":")
	for _, number := range []string{major, minor} {
		if !ok || number != "*" && (number == "" || len(number) > 10 || strings.Trim(number, "0123456789") != "") {
			return "", bad
		}
	}
	if !permissions(parts[2]) {
		return "", bad
	}
	return value, nil
}
