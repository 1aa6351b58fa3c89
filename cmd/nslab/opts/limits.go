package opts

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/nslab/nslab/engine"
)

// Ulimits are --ulimit: NAME=SOFT[:HARD], where -1 is without limit. The last of one name counts.
type Ulimits struct{ values map[string]engine.Ulimit }

// Set reads one limit.
func (u *Ulimits) Set(value string) error {
	limit, err := units.ParseUlimit(value)
	if syntax, ok := err.(*strconv.NumError); ok {
		return fmt.Errorf("invalid ulimit argument: %s: %q is no number", printable(value), syntax.Num)
	}
	if err != nil {
		return fmt.Errorf("%s", printable(err.Error()))
	}
	if limit.Soft < -1 || limit.Hard < -1 {
		return fmt.Errorf("invalid ulimit argument: %s: -1 is without limit, less is nothing", printable(value))
	}
	if u.values == nil {
		u.values = map[string]engine.Ulimit{}
	}
	u.values[limit.Name] = engine.Ulimit{Name: limit.Name, Hard: limit.Hard, Soft: limit.Soft}
	return nil
}

// Values are the limits, by name. Here and below, an empty list is not nil: that is what `inspect` shows.
func (u *Ulimits) Values() []engine.Ulimit {
	list := slices.AppendSeq([]engine.Ulimit{}, maps.Values(u.values))
	slices.SortFunc(list, func(a, b engine.Ulimit) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (u *Ulimits) String() string {
	var list []string
	for _, l := range u.Values() {
		list = append(list, fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard))
	}
	return strings.Join(list, " ")
}

// Type is the word for the value in the help.
func (*Ulimits) Type() string { return "ulimit" }

// Throttles are --device-read-bps and its like: PATH:RATE.
type Throttles struct {
	Ops    bool // rates are operations, not bytes
	values []engine.ThrottleDevice
}

// Set reads one limit.
func (t *Throttles) Set(value string) error {
	path, rate, err := deviceAnd(value)
	if err != nil {
		return err
	}
	d := engine.ThrottleDevice{Path: path}
	if t.Ops {
		if d.Rate, err = strconv.ParseUint(rate, 10, 64); err != nil {
			return fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>. "+
				"Number must be a positive integer", printable(value))
		}
	} else {
		n, err := size(rate)
		if err != nil {
			return fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. "+
				"Number must be a positive integer. Unit is optional and can be kb, mb, or gb", printable(value))
		}
		d.Rate = uint64(n)
	}
	t.values = append(t.values, d)
	return nil
}

// Values are the limits, in order.
func (t *Throttles) Values() []engine.ThrottleDevice {
	return append([]engine.ThrottleDevice{}, t.values...)
}

func (t *Throttles) String() string {
	var list []string
	for _, d := range t.values {
		list = append(list, fmt.Sprintf("%s:%d", d.Path, d.Rate))
	}
	return strings.Join(list, " ")
}

// Type is the word for the value in the help.
func (*Throttles) Type() string { return "list" }

// Weights are --blkio-weight-device: PATH:WEIGHT.
type Weights struct{ values []engine.WeightDevice }

// Set reads one weight.
func (w *Weights) Set(value string) error {
	path, number, err := deviceAnd(value)
	if err != nil {
		return err
	}
	weight, err := strconv.ParseUint(number, 10, 16)
	if err != nil || weight > 0 && (weight < minWeight || weight > maxWeight) {
		return fmt.Errorf("invalid weight for device: %s", printable(value))
	}
	w.values = append(w.values, engine.WeightDevice{Path: path, Weight: uint16(weight)})
	return nil
}

// Values are the weights, in order.
func (w *Weights) Values() []engine.WeightDevice { return append([]engine.WeightDevice{}, w.values...) }

func (w *Weights) String() string {
	var list []string
	for _, d := range w.values {
		list = append(list, fmt.Sprintf("%s:%d", d.Path, d.Weight))
	}
	return strings.Join(list, " ")
}

// Type is the word for the value in the help.
func (*Weights) Type() string { return "list" }

// deviceAnd splits PATH:SOMETHING, where PATH is a device.
func deviceAnd(value string) (path, rest string, err error) {
	path, rest, ok := strings.Cut(value, ":")
	switch {
	case !ok || path == "":
		return "", "", fmt.Errorf("bad format: %s", printable(value))
	case !strings.HasPrefix(path, "/dev/"):
		return "", "", fmt.Errorf("bad format for device path: %s", printable(value))
	}
	return path, rest, nil
}
