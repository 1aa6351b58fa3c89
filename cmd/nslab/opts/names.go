package opts

import (
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The lengths that names can have: of a container's, what fits into a file's with room to spare; of a host's, what
// sethostname(2) takes, of its parts and of others' names, what RFC 1123 allows.
const (
	maxName     = 128
	maxHostname = 64
	maxLabel    = 63
	maxDomain   = 253
)

func letterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// VolumesFrom is a container whose volumes another one gets, and how: NAME[:ro|rw]. The labels of SELinux, which nslab does not
// give, are taken as Docker takes them.
func VolumesFrom(value string) (string, error) {
	name, mode, has := strings.Cut(value, ":")
	if err := plain("container", name); err != nil {
		return "", err
	}
	switch {
	case name == "":
		return "", errors.New("invalid volumes-from specification: it names no container")
	case has && !slices.Contains([]string{"ro", "rw", "z", "Z"}, mode):
		return "", fmt.Errorf("invalid mode: %s", printable(mode))
	}
	return value, nil
}

// Name checks the name of a container: two or more of [a-zA-Z0-9_.-], of which the first is a letter or a digit. A slash
// before it goes away, since Docker's API shows names with one. No name at all is for nslab to invent one.
func Name(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	name := strings.TrimPrefix(value, "/")
	ok := len(name) >= 2 && len(name) <= maxName && letterOrDigit(name[0])
	for i := range len(name) {
		ok = ok && (letterOrDigit(name[i]) || strings.IndexByte("_.-", name[i]) >= 0)
	}
	if !ok {
		return "", fmt.Errorf("invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", printable(value))
	}
	return name, nil
}

// hostname says whether s is words of letters, digits, - and _ with dots between them: RFC 1123, but for the underscore,
// which Docker takes.
func hostname(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if !letterOrDigit(label[i]) && label[i] != '-' && label[i] != '_' {
				return false
			}
		}
	}
	return true
}

// Hostname checks --hostname and --domainname.
func Hostname(value string) (string, error) {
	switch {
	case len(value) > maxHostname:
		return "", fmt.Errorf("invalid hostname: %s has more than %d characters", quoted(value), maxHostname)
	case value != "" && !hostname(value):
		return "", fmt.Errorf("invalid hostname: %s", quoted(value))
	}
	return value, nil
}

// hostGateway stands for the host's own address in --add-host.
const hostGateway = "host-gateway"

// ExtraHost checks --add-host, NAME:ADDRESS or NAME=ADDRESS, and gives it the form with the colon.
func ExtraHost(value string) (string, error) {
	name, address, ok := strings.Cut(value, "=")
	if !ok {
		name, address, ok = strings.Cut(value, ":") // an IPv6 address has more of them
	}
	if !ok || name == "" || strings.Contains(name, ":") {
		return "", fmt.Errorf("bad format for add-host: %q", value)
	}
	if len(name) > maxDomain || !hostname(name) {
		return "", fmt.Errorf("bad format for add-host: %q: %s is no name of a host", value, quoted(name))
	}
	if len(address) > 2 && address[0] == '[' && address[len(address)-1] == ']' {
		address = address[1 : len(address)-1]
	}
	if address != hostGateway && net.ParseIP(address) == nil {
		return "", fmt.Errorf("invalid IP address in add-host: %q", address)
	}
	return name + ":" + address, nil
}

// IP checks --dns.
func IP(value string) (string, error) {
	ip := net.ParseIP(strings.TrimSpace(value))
	if ip == nil {
		return "", fmt.Errorf("IP address is not correctly formatted: %s", printable(value))
	}
	return ip.String(), nil
}

// SearchDomain checks --dns-search: a domain, or a dot for none.
func SearchDomain(value string) (string, error) {
	domain := strings.Trim(value, " ")
	if domain == "." {
		return domain, nil
	}
	domain = strings.TrimSuffix(domain, ".")
	if len(domain) > maxDomain || !hostname(domain) || strings.Trim(domain, "0123456789.-_") == "" {
		return "", fmt.Errorf("%s is not a valid domain", printable(value))
	}
	return domain, nil
}

// Line checks what becomes part of a line in a file: --dns-option.
func Line(value string) (string, error) {
	if strings.ContainsAny(value, " \t") || value == "" {
		return "", fmt.Errorf("%s is not one word", quoted(value))
	}
	return value, plain("option", value)
}

// maxUserID is the largest number of a user or a group that Docker takes.
const maxUserID = 1<<31 - 1

// User checks --user: NAME or NUMBER, and the same for the group behind a colon. Whether the names are known is the
// image's affair.
func User(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	if strings.Count(value, ":") > 1 {
		return "", fmt.Errorf("invalid user: %s: the form is <name|uid>[:<group|gid>]", quoted(value))
	}
	if err := plain("user", value); err != nil {
		return "", err
	}
	for part := range strings.SplitSeq(value, ":") {
		if err := userID(part); err != nil {
			return "", fmt.Errorf("invalid user: %s: %w", quoted(value), err)
		}
	}
	return value, nil
}

// userID refuses numbers that are out of range. What is no number is a name.
func userID(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && (n < 0 || n > maxUserID) {
		return fmt.Errorf("uids and gids must be in range 0-%d", maxUserID)
	}
	return nil
}

// Group checks --group-add: a name or a number.
func Group(value string) (string, error) {
	if value == "" || strings.Contains(value, ":") {
		return "", fmt.Errorf("invalid group: %s", quoted(value))
	}
	if err := userID(value); err != nil {
		return "", fmt.Errorf("invalid group: %s: %w", quoted(value), err)
	}
	return value, plain("group", value)
}

// Workdir checks --workdir: an absolute path.
func Workdir(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	if !path.IsAbs(value) {
		return "", fmt.Errorf("the working directory %s is invalid, it needs to be an absolute path", quoted(value))
	}
	return path.Clean(value), plain("working directory", value)
}

// CgroupParent checks --cgroup-parent: a path, which must not lead out of nslab's part of the control groups.
func CgroupParent(value string) (string, error) {
	for part := range strings.SplitSeq(value, "/") {
		if part == ".." {
			return "", fmt.Errorf("invalid cgroup parent: %s leads upwards", quoted(value))
		}
	}
	return value, plain("cgroup parent", value)
}
