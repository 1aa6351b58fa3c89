package logs

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// record is a line of the log, taken apart. Text is still as it stands inside the JSON string if raw is set.
type record struct {
	text   []byte
	raw    bool
	stream []byte
	time   []byte
	attrs  []byte // a JSON object, which Docker writes for some options
}

// parse takes a line apart, without its newline. The form that Docker and we write is found by its parts, which is much
// faster than encoding/json; any other JSON object with the same members is taken, too. A line that is neither is no record.
func parse(line []byte) (record, bool) {
	if r, ok := parseOwn(line); ok {
		return r, true
	}
	var v struct {
		Log    *string         `json:"log"`
		Stream string          `json:"stream"`
		Time   string          `json:"time"`
		Attrs  json.RawMessage `json:"attrs"`
	}
	if json.Unmarshal(line, &v) != nil || v.Log == nil {
		return record{}, false
	}
	return record{text: []byte(*v.Log), stream: []byte(v.Stream), time: []byte(v.Time), attrs: v.Attrs}, true
}

func parseOwn(line []byte) (record, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(opening))
	if !ok {
		return record{}, false
	}
	r := record{raw: true}
	end := quote(rest)
	if end < 0 {
		return record{}, false
	}
	r.text, rest = rest[:end], rest[end:]
	if rest, ok = bytes.CutPrefix(rest, []byte(`","stream":"`)); !ok {
		return record{}, false
	}
	if r.stream, rest, ok = bytes.Cut(rest, []byte(`","time":"`)); !ok || bytes.IndexByte(r.stream, '"') >= 0 {
		return record{}, false
	}
	if r.time, ok = bytes.CutSuffix(rest, []byte(`"}`)); !ok || bytes.IndexByte(r.time, '"') >= 0 {
		return record{}, false
	}
	return r, true
}

// quote returns where the JSON string ends that begins before s.
func quote(s []byte) int {
	for i := 0; ; i++ {
		n := bytes.IndexByte(s[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for slashes < i && s[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}

// when is the record's time; the zero time if it has none that can be read.
func (r record) when() time.Time {
	t, err := time.Parse(time.RFC3339Nano, string(r.time))
	if err != nil {
		return time.Time{}
	}
	return t
}

// appendTo appends what the container printed.
func (r record) appendTo(dst []byte) []byte {
	if !r.raw {
		return append(dst, r.text...)
	}
	text := r.text
	for {
		i := bytes.IndexByte(text, '\\')
		if i < 0 || i+1 >= len(text) {
			return append(dst, text...)
		}
		dst = append(dst, text[:i]...)
		c, size := unescape(text[i:])
		dst = utf8.AppendRune(dst, c)
		text = text[i+size:]
	}
}

// unescape reads one escape, and how long it is. One that JSON does not have stands for itself.
func unescape(s []byte) (rune, int) {
	switch s[1] {
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'u':
		if c, ok := hex4(s); ok {
			// Beyond the first 65536 characters there are two, a surrogate pair; nobody writes them in a log.
			if next, ok := hex4(s[6:]); ok && c >= 0xd800 && c < 0xdc00 && next >= 0xdc00 && next < 0xe000 {
				return (c-0xd800)<<10 | (next - 0xdc00) + 0x10000, 12
			}
			return c, 6
		}
	}
	return rune(s[1]), 2
}

// hex4 reads \uXXXX at the start of s.
func hex4(s []byte) (rune, bool) {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return 0, false
	}
	var c rune
	for _, d := range s[2:6] {
		i := strings.IndexByte(hex, d|0x20)
		if d < 'A' {
			i = strings.IndexByte(hex, d)
		}
		if i < 0 {
			return 0, false
		}
		c = c<<4 | rune(i)
	}
	return c, true
}

// details are the attributes as `docker logs --details` shows them: "k=v,k=v ", and a space where there are none.
func (r record) details() string {
	var attrs map[string]string
	if len(r.attrs) == 0 || json.Unmarshal(r.attrs, &attrs) != nil {
		return " "
	}
	var list []string
	for k, v := range attrs {
		list = append(list, url.QueryEscape(k)+"="+url.QueryEscape(v))
	}
	slices.Sort(list)
	return strings.Join(list, ",") + " "
}
