package opts

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// Bytes is an amount of memory: 128m, 1.5g, 4096. Units are powers of two.
type Bytes struct {
	N        int64
	NotZero  bool // 0 is no limit, and whoever types a limit wants one
	Infinite bool // -1 means as much as there is
}

// Set reads an amount.
func (b *Bytes) Set(value string) error {
	if b.Infinite && value == "-1" {
		b.N = -1
		return nil
	}
	n, err := size(value)
	switch {
	case err != nil:
		return err
	case n == 0 && b.NotZero:
		return fmt.Errorf("invalid size: %s: must be more than 0", quoted(value))
	}
	b.N = n
	return nil
}

// size is units.RAMInBytes, but refuses what does not fit into 63 bits.
func size(value string) (int64, error) {
	n, err := units.RAMInBytes(value)
	if _, syntax := err.(*strconv.NumError); syntax || plain("size", value) != nil {
		return 0, fmt.Errorf("invalid size: %s", quoted(value))
	}
	if err != nil {
		return 0, err
	}
	if n < 0 || n == 1<<63-1 { // a float64 that is too large becomes the one or the other
		return 0, fmt.Errorf("invalid size: %s: more than any machine has", quoted(value))
	}
	return n, nil
}

func (b *Bytes) String() string {
	switch b.N {
	case 0:
		return "0"
	case -1:
		return "-1"
	}
	return units.BytesSize(float64(b.N))
}

// Type is the word for the value in the help.
func (*Bytes) Type() string { return "bytes" }

// CPUs is a number of CPUs, 1.5, in thousand millionths.
type CPUs int64

// maxCPUDigits bounds what is given to math/big, which would take 1e999999999 at its word.
const maxCPUDigits = 32

// Set reads a number of CPUs, as a decimal or a fraction.
func (c *CPUs) Set(value string) error {
	bad := fmt.Errorf("failed to parse %s as a rational number", printable(value))
	if len(value) > maxCPUDigits {
		return bad
	}
	if i := strings.IndexAny(value, "eEpP"); i >= 0 {
		if e, err := strconv.Atoi(value[i+1:]); err != nil || e > maxCPUDigits || e < -maxCPUDigits {
			return bad
		}
	}
	cpus, ok := new(big.Rat).SetString(value)
	if !ok {
		return bad
	}
	nano := cpus.Mul(cpus, big.NewRat(1e9, 1))
	switch {
	case !nano.IsInt():
		return fmt.Errorf("value is too precise")
	case nano.Sign() <= 0:
		return fmt.Errorf("must be more than 0")
	case !nano.Num().IsInt64():
		return fmt.Errorf("more than any machine has")
	}
	*c = CPUs(nano.Num().Int64())
	return nil
}

func (c *CPUs) String() string {
	if *c == 0 {
		return ""
	}
	return big.NewRat(int64(*c), 1e9).FloatString(3)
}

// Type is the word for the value in the help.
func (*CPUs) Type() string { return "decimal" }

// printable is what a user has typed, on one line.
func printable(s string) string { q := quoted(s); return q[1 : len(q)-1] }
