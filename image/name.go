package image

import (
	"strings"

	"github.com/opencontainers/go-digest"
)

// Name is an image's name as Docker writes it: "busybox", "host:5000/a/b:v1", "busybox@sha256:…".
//
// The grammar is that of github.com/distribution/reference, and a test compares the two. That package compiles its
// regular expressions when a program starts, which costs as much as half a container: every command, and every process of
// a container, would pay for it.
type Name struct {
	Domain string // "docker.io", "host:5000"
	Path   string // "library/busybox", "a/b"
	Tag    string // "latest"; empty where there is a digest only
	Digest digest.Digest
}

const (
	defaultDomain = "docker.io"
	legacyDomain  = "index.docker.io"
	official      = "library/"
	defaultTag    = "latest"
)

// maxNameLength is that of a name without tag and digest.
const maxNameLength = 255

// ParseName reads a name. Without a tag or digest the tag is "latest".
func ParseName(s string) (Name, error) {
	n, why := parseName(s)
	if why != "" {
		return Name{}, &ReferenceError{Ref: s, Why: why}
	}
	if n.Tag == "" && n.Digest == "" {
		n.Tag = defaultTag
	}
	return n, nil
}

// parseName reads a name as it stands, and says what is wrong with it.
func parseName(s string) (n Name, why string) {
	const format = "invalid reference format"
	if isHex(s, 64) {
		return n, "a name of 64 hexadecimal digits is an image's id"
	}
	n.Domain, n.Path = splitDomain(s)
	rest := n.Path
	n.Path, rest = cutAtAny(rest, ":@")
	if strings.ToLower(n.Path) != n.Path {
		return n, format + ": repository name must be lowercase"
	}
	if tag, ok := strings.CutPrefix(rest, ":"); ok {
		n.Tag, rest = cutAtAny(tag, "@")
		if !isTag(n.Tag) {
			return n, format
		}
	}
	if d, ok := strings.CutPrefix(rest, "@"); ok {
		n.Digest, rest = digest.Digest(d), ""
		if !isDigest(n.Digest) {
			return n, format
		}
	}
	if rest != "" || !isDomain(n.Domain) || !isPath(n.Path) {
		return n, format
	}
	if len(n.Domain)+1+len(n.Path) > maxNameLength {
		return n, "repository name must not be more than 255 characters"
	}
	return n, ""
}

// splitDomain decides what stands before the first slash: a registry has a dot or a port in its name, or is localhost, or
// has capitals, which no repository has. Everything else is on Docker Hub.
func splitDomain(s string) (domain, rest string) {
	first, after, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		return defaultDomain, official + s
	case first == legacyDomain:
		domain, rest = defaultDomain, after
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain, rest = first, after
	default:
		domain, rest = defaultDomain, s
	}
	if domain == defaultDomain && !strings.Contains(rest, "/") {
		rest = official + rest
	}
	return domain, rest
}

// cutAtAny cuts before the first of some characters.
func cutAtAny(s, chars string) (before, rest string) {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// Repository is the name without tag and digest, short as people write it, without Docker Hub's domain; but so that it
// reads as the same name again, which "library/a/b" would not without its first part.
func (n Name) Repository() string {
	short := n.Path
	if name := strings.TrimPrefix(n.Path, official); !strings.Contains(name, "/") {
		short = name
	}
	if domain, path := splitDomain(short); domain == n.Domain && path == n.Path {
		return short
	}
	return n.Domain + "/" + n.Path
}

// Full is the name with everything that people leave out: "docker.io/library/busybox:latest".
func (n Name) Full() string {
	s := n.Domain + "/" + n.Path
	if n.Tag != "" {
		s += ":" + n.Tag
	}
	if n.Digest != "" {
		s += "@" + string(n.Digest)
	}
	return s
}

// String is the short name with what it has of tag and digest.
func (n Name) String() string {
	s := n.Repository()
	if n.Tag != "" {
		s += ":" + n.Tag
	}
	if n.Digest != "" {
		s += "@" + string(n.Digest)
	}
	return s
}

func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return all(s, func(c byte) bool { return isAlnum(c) || c == '_' || c == '.' || c == '-' })
}

// isDigest accepts the digests that the store knows how to compute.
func isDigest(d digest.Digest) bool {
	encoded, ok := strings.CutPrefix(string(d), "sha256:")
	return ok && isHex(encoded, 64)
}

// isHex says whether s is n lower case hexadecimal digits.
func isHex(s string, n int) bool {
	return len(s) == n && all(s, func(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' })
}

// isDomain accepts host names, addresses, and either with a port.
func isDomain(s string) bool {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		address, port, ok := strings.Cut(rest, "]")
		return ok && address != "" && (port == "" || port[0] == ':' && isPort(port[1:])) &&
			all(address, func(c byte) bool { return c == ':' || isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' })
	}
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort && !isPort(port) {
		return false
	}
	for part := range strings.SplitSeq(host, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || !all(part, func(c byte) bool { return isAlnum(c) || c == '-' }) {
			return false
		}
	}
	return true
}

func isPort(s string) bool { return s != "" && all(s, isDigit) }

// isPath accepts parts of lower case letters and digits, separated by slashes, and within by a dot, one or two underscores,
// or any number of dashes.
func isPath(s string) bool {
	for part := range strings.SplitSeq(s, "/") {
		if !isPathPart(part) {
			return false
		}
	}
	return true
}

func isPathPart(s string) bool {
	for {
		word := strings.TrimLeft(s, "abcdefghijklmnopqrstuvwxyz0123456789")
		if len(word) == len(s) {
			return false
		}
		if word == "" {
			return true
		}
		s = strings.TrimLeft(word, "._-")
		switch separator := word[:len(word)-len(s)]; {
		case separator == ".", separator == "_", separator == "__":
		case separator != "" && strings.Trim(separator, "-") == "":
		default:
			return false
		}
	}
}

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isAlnum(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
