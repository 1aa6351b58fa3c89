package network

import (
	"crypto/sha256"
	"encoding/base32"
	"net"
	"net/netip"
)

// group marks the links that nslab makes: unlike the alias, a link's group is given to the kernel with the order to make it,
// so there is no moment at which a link of ours is nobody's. The number spells "nslb".
const group = 0x6e736c62

// LinkName is the name for a link: 'n', the kind ('b' a bridge, 'v' a wire), six digits that stand for the run root, and seven
// that are derived from the id. A name of a link has at most 15 characters (IFNAMSIZ), so an id cannot stand there itself;
// derived, it can be found again by whoever knows the id.
func LinkName(kind byte, root, id string) string {
	sum := sha256.Sum256([]byte(id))
	return "n" + string(kind) + root + digits().EncodeToString(sum[:5])[:7]
}

// Lower-case letters and digits: 35 bits in seven of them, so that two of a thousand containers meet once in 60 000 machines.
func digits() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

// TableName is the name of the firewall table of a run root.
func TableName(root string) string { return "nslab-" + root }

// MAC derives a hardware address from an IP address: 02:42, then its last four bytes. The 02 says that it is made up locally. Its use is
// not to be readable: when an address is given to another container, the neighbours' caches, which keep a pair of
// addresses for minutes, are still right. Docker does the same.
func MAC(addr netip.Addr) net.HardwareAddr {
	b := addr.AsSlice()
	return append(net.HardwareAddr{0x02, 0x42}, b[len(b)-4:]...)
}
